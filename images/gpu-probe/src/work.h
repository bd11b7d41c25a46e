/* One launch of a kernel that a command repeats: multiply-adds on registers, or a copy of memory. */
#ifndef GPU_PROBE_WORK_H
#define GPU_PROBE_WORK_H

#include "arguments.h"
#include "context.h"

struct work {
    CUfunction function;
    CUdeviceptr target; /* of multiply-adds: one word for the result */
    CUdeviceptr source; /* 0: multiply-adds */
    unsigned int count; /* iterations of each thread, or words to copy */
    unsigned int blocks;
};

/* Of multiply-adds: so many iterations in so many blocks; 0 blocks: `waves` times what fits at once on the SMs granted. */
struct shape {
    unsigned int iterations;
    unsigned int blocks;
    unsigned int waves;
};

/* Makes the context and loads the kernel, that of a copy where the arguments have a size for it. */
bool work_open(struct work *work, struct context *context, const struct arguments *arguments, const struct shape *shape,
               struct failure *failure);
bool work_launch(struct work *work, struct failure *failure);

/* Of one launch: floating-point operations, two an FMA, and bytes read and written; one of both is 0. */
double work_operations(const struct work *work);
double work_bytes(const struct work *work);

/* Reports why a command ends that needs kernels: a simulation runs none, and a number from one would mean nothing. */
enum exit_code work_report(struct failure *failure);

#endif
