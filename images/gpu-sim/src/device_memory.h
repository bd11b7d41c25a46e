/* Who holds how much of a device's memory. An MPS server keeps these accounts for its clients; every process keeps one
   for itself, which is all there is without MPS. */
#ifndef GPU_SIM_DEVICE_MEMORY_H
#define GPU_SIM_DEVICE_MEMORY_H

#include <stdbool.h>
#include <stdint.h>

struct device_memory {
    uint64_t total;
    uint64_t used;
    unsigned int contexts;
};

/* One process's part of one device. */
struct client_memory {
    uint64_t limit;   /* 0: none */
    uint64_t counted; /* against the limit */
    uint64_t held;    /* on the device */
    uint64_t allocated;
};

/* An MPS server takes its part before any client. */
void device_memory_start(struct device_memory *device, uint64_t total, bool mps_server);

/* A context of that many multiprocessors; false if the device has no room for it. A limit does not refuse it. */
bool device_memory_add_context(struct device_memory *device, struct client_memory *client, unsigned int granted);
void device_memory_end_context(struct device_memory *device, struct client_memory *client, unsigned int granted);

/* False if the bytes exceed the client's limit or the device's room. */
bool device_memory_allocate(struct device_memory *device, struct client_memory *client, uint64_t bytes);
/* False if the client has not allocated as much. */
bool device_memory_free(struct device_memory *device, struct client_memory *client, uint64_t bytes);

/* What cuMemGetInfo calls free. */
uint64_t device_memory_available(const struct device_memory *device, const struct client_memory *client);

#endif
