/* The devices that CUDA counts: every visible GPU without MIG, and one MIG device of each GPU instance of the others.

   NVIDIA's MIG User Guide says so for drivers from R570 on ("CUDA Device Enumeration"), and 64 at most. Documented, not
   measured: a public report (NVIDIA's DRA driver, no. 1364) saw one of two MIG devices of one GPU with R580. This file
   alone decides it. */
#ifndef GPU_SIM_DEVICES_H
#define GPU_SIM_DEVICES_H

#include "inventory.h"

enum { DEVICES_MAX = 64, DEVICE_KEY_SIZE = 16, DEVICE_MPS_CONTEXTS = 48 };

struct device {
    const struct gpu_config *gpu;
    const struct nvmlComputeInstance_st *compute; /* NULL: the whole GPU */
    bool by_uuid_only; /* a further compute instance of a GPU instance: it has no number */
};

/* The devices among these that CUDA_VISIBLE_DEVICES asks for, in its order; all of them if visible is NULL. */
unsigned int devices_select(const struct device *devices, unsigned int count, const char *visible,
                            unsigned int chosen[DEVICES_MAX]);

/* All there are, those without a number last. Returns how many. */
unsigned int devices_all(struct inventory *inventory, struct device all[DEVICES_MAX]);

/* Lists them as CUDA_VISIBLE_DEVICES asks. Returns how many there are. */
unsigned int devices_list(struct inventory *inventory, const char *visible, struct device found[DEVICES_MAX]);

/* The device that text names, by its place in the list or by the beginning of its UUID that no other device shares. */
bool devices_find(const struct device *devices, unsigned int count, const char *text, unsigned int *index);

const char *device_uuid(const struct device *device);
/* The UUID as a number; false if it does not read like one. */
bool device_key(const struct device *device, unsigned char key[DEVICE_KEY_SIZE]);
void device_name(const struct device *device, char *name, size_t size);
unsigned int device_multiprocessors(const struct device *device);
/* Client contexts that MPS allows at once: 48 on a GPU, by NVIDIA's documentation, and on a MIG device in proportion to
   its compute slices. How the latter is rounded is not measured; down here. */
unsigned int device_mps_contexts(const struct device *device);
/* What CUDA offers of the device's memory, in bytes. */
uint64_t device_memory(const struct device *device);

#endif
