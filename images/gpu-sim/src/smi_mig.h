/* What the parts of `nvidia-smi mig` share. */
#ifndef GPU_SIM_SMI_MIG_H
#define GPU_SIM_SMI_MIG_H

#include "smi.h"

enum { MIG_MAX_LISTED = 128, MIG_GPU_PROFILES = NVML_GPU_INSTANCE_PROFILE_COUNT };

struct mig_request {
    struct smi *smi;
    bool with_compute; /* -C */
    const char *ids, *profiles, *instances, *compute; /* as given; NULL: all */
};

/* One GPU instance: its GPU, itself, and its profile's name. */
struct mig_instance {
    unsigned int gpu;
    nvmlGpuInstance_t handle;
    nvmlGpuInstanceInfo_t info;
    char profile[NVML_DEVICE_NAME_V2_BUFFER_SIZE];
};

typedef int (*mig_compute_visitor)(const struct mig_request *request, const struct mig_instance *instance,
                                   nvmlComputeInstance_t handle, const nvmlComputeInstanceInfo_t *info,
                                   const char *profile);

/* smi_mig_find.c */
unsigned int mig_gpu_index(struct smi *smi, nvmlDevice_t gpu);
bool mig_is_on(struct smi *smi, nvmlDevice_t gpu);
/* In nvidia-smi's order: by size, then by NVML's number. Returns how many there are. */
unsigned int mig_profiles(struct smi *smi, nvmlDevice_t gpu, nvmlGpuInstanceProfileInfo_v2_t found[MIG_GPU_PROFILES]);
/* The instances that the request names, by GPU and, there, by profile. */
unsigned int mig_find_instances(const struct mig_request *request, struct mig_instance found[MIG_MAX_LISTED]);
/* False if the GPU instance has no such profile. */
bool mig_compute_profile(struct smi *smi, const struct mig_instance *instance, unsigned int index,
                         nvmlComputeInstanceProfileInfo_v2_t *info);
/* The first profile that takes the whole instance. */
bool mig_default_profile(struct smi *smi, const struct mig_instance *instance,
                         nvmlComputeInstanceProfileInfo_v2_t *info);
/* Calls the visitor for each compute instance that the request names, until it fails; counts the calls. */
int mig_visit_compute(const struct mig_request *request, mig_compute_visitor visit, unsigned int *visits);
/* Says so and returns the exit code. */
int mig_nothing_found(const char *what);

/* smi_mig_list.c */
int mig_list_profiles(const struct mig_request *request);
int mig_list_placements(const struct mig_request *request);
int mig_list_instances(const struct mig_request *request);
int mig_list_compute_profiles(const struct mig_request *request);
int mig_list_compute(const struct mig_request *request);

/* smi_mig_change.c */
int mig_create_instances(const struct mig_request *request);
int mig_create_compute(const struct mig_request *request);
int mig_destroy_instances(const struct mig_request *request);
int mig_destroy_compute(const struct mig_request *request);

#endif
