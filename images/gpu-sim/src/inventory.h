/* The GPUs and MIG devices that this process sees. Callers serialise access; see nvml_session.h. */
#ifndef GPU_SIM_INVENTORY_H
#define GPU_SIM_INVENTORY_H

#include "config.h"

#include <limits.h>
#include <stdbool.h>

enum { MIG_UUID_SIZE = 48, MIG_NAME_SIZE = 2 * CONFIG_TEXT + 8 };

/* NVML names its handles' targets; the simulation gives those names a body. */
struct nvmlDevice_st {
    struct gpu *gpu;
    struct nvmlComputeInstance_st *compute; /* NULL: the whole GPU */
};

struct nvmlComputeInstance_st {
    bool exists;
    unsigned int id;
    unsigned int profile_index; /* NVML_COMPUTE_INSTANCE_PROFILE_* */
    unsigned int slices;
    unsigned int start;
    unsigned int generation; /* 0: there from the start */
    struct nvmlGpuInstance_st *parent;
    struct nvmlDevice_st device;
    char uuid[MIG_UUID_SIZE];
};

struct nvmlGpuInstance_st {
    bool exists;
    unsigned int id; /* see config_instance */
    unsigned int start;
    const struct mig_profile *profile;
    struct gpu *gpu;
    struct nvmlComputeInstance_st compute[CONFIG_MAX_COMPUTE_INSTANCES];
};

/* Which of a file's contents was read; all 0 before. */
struct file_version {
    unsigned long long inode;
    long long seconds, nanoseconds, size;
};

struct gpu {
    const struct gpu_config *config;
    unsigned int index; /* among the visible GPUs */
    bool mig_enabled;
    bool mig_pending; /* the mode after the next reset */
    unsigned int last_generation; /* of the MIG device made last */
    struct file_version mig_version; /* of what is remembered of its instances */
    struct nvmlDevice_st device;
    struct nvmlGpuInstance_st instances[CONFIG_INSTANCE_IDS];
};

struct inventory {
    struct config config;
    char root[PATH_MAX]; /* directory that holds dev, etc and run; empty for / */
    bool driver_root;    /* false in a container, which gets libraries and device nodes only */
    struct gpu gpus[CONFIG_MAX_GPUS];
    unsigned int gpu_count;
};

/* Finds and reads the configuration anew. On failure, error holds one line. */
bool inventory_load(struct inventory *inventory, char *error, size_t error_size);

/* The device behind a handle, or NULL if the handle is none of this inventory's. */
struct nvmlDevice_st *inventory_device(struct inventory *inventory, const struct nvmlDevice_st *handle);

#endif
