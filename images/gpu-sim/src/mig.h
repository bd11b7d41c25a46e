/* GPU instances and compute instances of one GPU: which fit, and which exist. */
#ifndef GPU_SIM_MIG_H
#define GPU_SIM_MIG_H

#include "inventory.h"

enum mig_result { MIG_OK, MIG_NO_ROOM, MIG_IN_USE, MIG_INVALID };

/* Fills in the GPU's instances: in a driver root those remembered or configured, in a container those whose capability
   device the container was given. */
bool mig_load(struct inventory *inventory, struct gpu *gpu, char *error, size_t error_size);

/* Takes over what another process has remembered since: NVML asks the kernel module, which all processes share. Where two
   change one GPU in the same instant the later one wins, which the kernel module would not let happen. Instances that
   are still there keep their handles. Does nothing in a container. */
void mig_refresh(const struct inventory *inventory, struct gpu *gpu);

/* Remembers mode and instances in the driver root for later processes; does nothing in a container. */
void mig_save(const struct inventory *inventory, struct gpu *gpu);

const struct mig_profile *mig_profile_by_id(const struct gpu_model *model, unsigned int id);
const struct mig_profile *mig_profile_by_index(const struct gpu_model *model, unsigned int index);

enum mig_result mig_create_instance(struct gpu *gpu, const struct mig_profile *profile, unsigned int start,
                                    struct nvmlGpuInstance_st **created);
/* At the first placement that is free. */
enum mig_result mig_create_instance_anywhere(struct gpu *gpu, const struct mig_profile *profile,
                                             struct nvmlGpuInstance_st **created);
enum mig_result mig_destroy_instance(struct nvmlGpuInstance_st *instance);
/* What a reset of the GPU leaves: the pending mode, and no instance. */
void mig_reset(struct gpu *gpu);
/* How many more GPU instances of the profile fit. */
unsigned int mig_remaining_instances(const struct gpu *gpu, const struct mig_profile *profile);

/* Slices of a compute-instance profile (NVML_COMPUTE_INSTANCE_PROFILE_*) in that GPU instance; 0 if it offers none. */
unsigned int mig_compute_slices(const struct nvmlGpuInstance_st *instance, unsigned int profile_index);
enum mig_result mig_create_compute(struct nvmlGpuInstance_st *instance, unsigned int profile_index,
                                   struct nvmlComputeInstance_st **created);
/* The same under its number and at its place of before; NULL if it cannot be there. */
struct nvmlComputeInstance_st *mig_restore_compute(struct nvmlGpuInstance_st *instance, unsigned int profile_index,
                                                   unsigned int id, unsigned int start);
/* Gives it a UUID of its own. Generation 0 is what mig_create_compute leaves. */
void mig_set_generation(struct nvmlComputeInstance_st *compute, unsigned int generation);
/* Gives one that has just been made a UUID that none before it had, and shows its capability where the driver looks.
   Where that cannot be shown, the UUID stays, since no container could know another. */
void mig_announce(const struct inventory *inventory, struct nvmlComputeInstance_st *compute);
void mig_destroy_compute(struct nvmlComputeInstance_st *compute);
unsigned int mig_remaining_compute(const struct nvmlGpuInstance_st *instance, unsigned int profile_index);

/* The GPU's MIG devices in the order of their instance IDs; NULL behind the last. */
struct nvmlComputeInstance_st *mig_device(struct gpu *gpu, unsigned int index);
/* The largest number of MIG devices the model can have at once; 0 without MIG. */
unsigned int mig_max_devices(const struct gpu_model *model);

unsigned int mig_multiprocessors(const struct nvmlComputeInstance_st *compute);
/* As nvidia-smi -L: 1g.10gb, or 1c.3g.40gb for a part of a GPU instance. */
void mig_profile_name(const struct nvmlComputeInstance_st *compute, char *name, size_t size);

#endif
