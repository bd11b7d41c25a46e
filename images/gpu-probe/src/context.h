/* One device's context: what makes a process a user of the GPU, and of its MPS daemon. */
#ifndef GPU_PROBE_CONTEXT_H
#define GPU_PROBE_CONTEXT_H

#include "cuda.h"

struct context {
    int ordinal;
    int sms; /* granted to this process: less than the GPU has under MPS or MIG */
};

struct memory {
    size_t free, total; /* bytes */
};

/* Opens the device's primary context and makes it current. It lasts until the process ends. */
bool context_open(struct context *context, int ordinal, struct failure *failure);

/* False once the context is broken, e.g. since its MPS daemon has gone. */
bool context_check(struct failure *failure);

bool context_memory(struct memory *memory, struct failure *failure);

/* Parts of a JSON object, without braces. */
void context_print(const struct context *context);
void memory_print(const struct memory *memory);

#endif
