/* The devices that CUDA counts: every visible GPU, or its first MIG device where MIG is on. */
#ifndef GPU_SIM_DEVICES_H
#define GPU_SIM_DEVICES_H

#include "inventory.h"

struct device {
    const struct gpu_config *gpu;
    const struct nvmlComputeInstance_st *compute; /* NULL: the whole GPU */
};

/* The devices among these that CUDA_VISIBLE_DEVICES asks for, in its order; all of them if visible is NULL. */
unsigned int devices_select(const struct device *devices, unsigned int count, const char *visible,
                            unsigned int chosen[CONFIG_MAX_GPUS]);

/* Lists them as CUDA_VISIBLE_DEVICES asks. Returns how many there are. */
unsigned int devices_list(struct inventory *inventory, const char *visible, struct device found[CONFIG_MAX_GPUS]);

/* The device that text names, by its place in the list or by the beginning of its UUID that no other device shares. */
bool devices_find(const struct device *devices, unsigned int count, const char *text, unsigned int *index);

const char *device_uuid(const struct device *device);
void device_name(const struct device *device, char *name, size_t size);
unsigned int device_multiprocessors(const struct device *device);
/* What CUDA offers of the device's memory, in bytes. */
uint64_t device_memory(const struct device *device);

#endif
