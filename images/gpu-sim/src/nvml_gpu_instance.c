/* NVML calls about GPU instances: profiles, placements, creation and destruction. */
#include "mig.h"
#include "nvml_session.h"

#include <stdio.h>

static nvmlReturn_t nvml_result(enum mig_result result)
{
    switch (result) {
    case MIG_OK: return NVML_SUCCESS;
    case MIG_NO_ROOM: return NVML_ERROR_INSUFFICIENT_RESOURCES;
    case MIG_IN_USE: return NVML_ERROR_IN_USE;
    case MIG_INVALID: break;
    }
    return NVML_ERROR_INVALID_ARGUMENT;
}

/* Enters and finds the profile by its NVML_GPU_INSTANCE_PROFILE_* number. */
static nvmlReturn_t enter_profile(nvmlDevice_t handle, unsigned int index, struct gpu **gpu,
                                  const struct mig_profile **profile)
{
    nvmlReturn_t result = session_enter_gpu(handle, gpu);
    if (result != NVML_SUCCESS)
        return result;
    const struct gpu_model *model = (*gpu)->config->model;
    if (model->profile_count > 0 && index >= NVML_GPU_INSTANCE_PROFILE_COUNT)
        return session_leave(NVML_ERROR_INVALID_ARGUMENT);
    *profile = mig_profile_by_index(model, index);
    return *profile == NULL ? session_leave(NVML_ERROR_NOT_SUPPORTED) : NVML_SUCCESS;
}

/* The same by the number `nvidia-smi mig -lgip` shows. */
static nvmlReturn_t enter_profile_id(nvmlDevice_t handle, unsigned int id, struct gpu **gpu,
                                     const struct mig_profile **profile)
{
    nvmlReturn_t result = session_enter_gpu(handle, gpu);
    if (result != NVML_SUCCESS)
        return result;
    const struct gpu_model *model = (*gpu)->config->model;
    if (model->profile_count == 0)
        return session_leave(NVML_ERROR_NOT_SUPPORTED);
    *profile = mig_profile_by_id(model, id);
    return *profile == NULL ? session_leave(NVML_ERROR_INVALID_ARGUMENT) : NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetGpuInstanceProfileInfo(nvmlDevice_t handle, unsigned int index,
                                                 nvmlGpuInstanceProfileInfo_t *info)
{
    struct gpu *gpu;
    const struct mig_profile *profile;
    nvmlReturn_t result = enter_profile(handle, index, &gpu, &profile);
    if (result != NVML_SUCCESS)
        return result;
    if (info == NULL)
        return session_leave(NVML_ERROR_INVALID_ARGUMENT);
    *info = (nvmlGpuInstanceProfileInfo_t){.id = profile->id,
                                           .sliceCount = profile->slices,
                                           .instanceCount = profile->instances,
                                           .multiprocessorCount = profile->multiprocessors,
                                           .copyEngineCount = profile->copy_engines,
                                           .decoderCount = profile->decoders,
                                           .jpegCount = profile->jpeg_engines,
                                           .ofaCount = profile->ofa_engines,
                                           .memorySizeMB = profile->memory_mib};
    return session_leave(NVML_SUCCESS);
}

static void fill_v2(nvmlGpuInstanceProfileInfo_v2_t *info, const struct mig_profile *profile)
{
    *info = (nvmlGpuInstanceProfileInfo_v2_t){.version = info->version,
                                              .id = profile->id,
                                              .sliceCount = profile->slices,
                                              .instanceCount = profile->instances,
                                              .multiprocessorCount = profile->multiprocessors,
                                              .copyEngineCount = profile->copy_engines,
                                              .decoderCount = profile->decoders,
                                              .jpegCount = profile->jpeg_engines,
                                              .ofaCount = profile->ofa_engines,
                                              .memorySizeMB = profile->memory_mib};
    snprintf(info->name, sizeof info->name, "%s", profile->name);
}

static void fill_v3(nvmlGpuInstanceProfileInfo_v3_t *info, const struct mig_profile *profile)
{
    *info = (nvmlGpuInstanceProfileInfo_v3_t){.version = info->version,
                                              .id = profile->id,
                                              .sliceCount = profile->slices,
                                              .instanceCount = profile->instances,
                                              .multiprocessorCount = profile->multiprocessors,
                                              .copyEngineCount = profile->copy_engines,
                                              .decoderCount = profile->decoders,
                                              .jpegCount = profile->jpeg_engines,
                                              .ofaCount = profile->ofa_engines,
                                              .memorySizeMB = profile->memory_mib};
    snprintf(info->name, sizeof info->name, "%s", profile->name);
}

/* The caller's version field says which layout its memory has. */
static nvmlReturn_t fill_versioned(nvmlGpuInstanceProfileInfo_v2_t *info, const struct mig_profile *profile)
{
    if (info == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (info->version == nvmlGpuInstanceProfileInfo_v2)
        fill_v2(info, profile);
    else if (info->version == nvmlGpuInstanceProfileInfo_v3)
        fill_v3((nvmlGpuInstanceProfileInfo_v3_t *)(void *)info, profile);
    else
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetGpuInstanceProfileInfoV(nvmlDevice_t handle, unsigned int index,
                                                  nvmlGpuInstanceProfileInfo_v2_t *info)
{
    struct gpu *gpu;
    const struct mig_profile *profile;
    nvmlReturn_t result = enter_profile(handle, index, &gpu, &profile);
    return result == NVML_SUCCESS ? session_leave(fill_versioned(info, profile)) : result;
}

nvmlReturn_t nvmlDeviceGetGpuInstanceProfileInfoByIdV(nvmlDevice_t handle, unsigned int id,
                                                      nvmlGpuInstanceProfileInfo_v2_t *info)
{
    struct gpu *gpu;
    const struct mig_profile *profile;
    nvmlReturn_t result = enter_profile_id(handle, id, &gpu, &profile);
    return result == NVML_SUCCESS ? session_leave(fill_versioned(info, profile)) : result;
}

nvmlReturn_t nvmlDeviceGetGpuInstancePossiblePlacements_v2(nvmlDevice_t handle, unsigned int id,
                                                           nvmlGpuInstancePlacement_t *placements, unsigned int *count)
{
    struct gpu *gpu;
    const struct mig_profile *profile;
    nvmlReturn_t result = enter_profile_id(handle, id, &gpu, &profile);
    if (result != NVML_SUCCESS)
        return result;
    if (count == NULL)
        return session_leave(NVML_ERROR_INVALID_ARGUMENT);
    unsigned int room = *count;
    *count = profile->placement_count;
    if (placements == NULL)
        return session_leave(NVML_SUCCESS);
    if (room < profile->placement_count)
        return session_leave(NVML_ERROR_INSUFFICIENT_SIZE);
    for (unsigned int i = 0; i < profile->placement_count; i++) {
        placements[i].start = profile->placements[i];
        placements[i].size = profile->placement_size;
    }
    return session_leave(NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetGpuInstancePossiblePlacements(nvmlDevice_t handle, unsigned int id,
                                                        nvmlGpuInstancePlacement_t *placements, unsigned int *count)
{
    return nvmlDeviceGetGpuInstancePossiblePlacements_v2(handle, id, placements, count);
}

nvmlReturn_t nvmlDeviceGetGpuInstanceRemainingCapacity(nvmlDevice_t handle, unsigned int id, unsigned int *count)
{
    struct gpu *gpu;
    const struct mig_profile *profile;
    nvmlReturn_t result = enter_profile_id(handle, id, &gpu, &profile);
    if (result != NVML_SUCCESS)
        return result;
    if (count == NULL)
        return session_leave(NVML_ERROR_INVALID_ARGUMENT);
    /* The same with MIG off: measured on an H100 with driver 580.159.04, as is what the two functions below answer. */
    *count = mig_remaining_instances(gpu, profile);
    return session_leave(NVML_SUCCESS);
}

/* Placement NULL: wherever it fits. */
static nvmlReturn_t create(nvmlDevice_t handle, unsigned int id, const nvmlGpuInstancePlacement_t *placement,
                           nvmlGpuInstance_t *created)
{
    struct gpu *gpu;
    const struct mig_profile *profile;
    nvmlReturn_t result = enter_profile_id(handle, id, &gpu, &profile);
    if (result != NVML_SUCCESS)
        return result;
    if (created == NULL || (placement != NULL && placement->size != profile->placement_size))
        return session_leave(NVML_ERROR_INVALID_ARGUMENT);
    if (!gpu->mig_enabled)
        return session_leave(NVML_ERROR_NOT_SUPPORTED);
    enum mig_result made = placement == NULL
                               ? mig_create_instance_anywhere(gpu, profile, &created->handle)
                               : mig_create_instance(gpu, profile, placement->start, &created->handle);
    if (made == MIG_OK)
        mig_save(session_inventory(), gpu);
    return session_leave(nvml_result(made));
}

nvmlReturn_t nvmlDeviceCreateGpuInstance(nvmlDevice_t handle, unsigned int id, nvmlGpuInstance_t *created)
{
    return create(handle, id, NULL, created);
}

nvmlReturn_t nvmlDeviceCreateGpuInstanceWithPlacement(nvmlDevice_t handle, unsigned int id,
                                                      const nvmlGpuInstancePlacement_t *placement,
                                                      nvmlGpuInstance_t *created)
{
    static const nvmlGpuInstancePlacement_t missing = {0, 0};
    return create(handle, id, placement == NULL ? &missing : placement, created);
}

nvmlReturn_t nvmlGpuInstanceDestroy(nvmlGpuInstance_t handle)
{
    struct nvmlGpuInstance_st *instance;
    nvmlReturn_t result = session_enter_gpu_instance(handle, &instance);
    if (result != NVML_SUCCESS)
        return result;
    enum mig_result destroyed = mig_destroy_instance(instance);
    if (destroyed == MIG_OK)
        mig_save(session_inventory(), instance->gpu);
    return session_leave(nvml_result(destroyed));
}

nvmlReturn_t nvmlDeviceGetGpuInstances(nvmlDevice_t handle, unsigned int id, nvmlGpuInstance_t *instances,
                                       unsigned int *count)
{
    struct gpu *gpu;
    const struct mig_profile *profile;
    nvmlReturn_t result = enter_profile_id(handle, id, &gpu, &profile);
    if (result != NVML_SUCCESS)
        return result;
    if (instances == NULL || count == NULL)
        return session_leave(NVML_ERROR_INVALID_ARGUMENT);
    *count = 0;
    /* The caller's array holds the profile's instanceCount handles, and never more instances exist. */
    for (unsigned int i = 0; i < CONFIG_INSTANCE_IDS; i++) {
        if (gpu->instances[i].exists && gpu->instances[i].profile == profile)
            instances[(*count)++].handle = &gpu->instances[i];
    }
    return session_leave(NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetGpuInstanceById(nvmlDevice_t handle, unsigned int id, nvmlGpuInstance_t *instance)
{
    struct gpu *gpu;
    nvmlReturn_t result = session_enter_gpu(handle, &gpu);
    if (result != NVML_SUCCESS)
        return result;
    if (instance == NULL)
        return session_leave(NVML_ERROR_INVALID_ARGUMENT);
    if (id >= CONFIG_INSTANCE_IDS || !gpu->instances[id].exists)
        return session_leave(NVML_ERROR_NOT_FOUND);
    instance->handle = &gpu->instances[id];
    return session_leave(NVML_SUCCESS);
}

nvmlReturn_t nvmlGpuInstanceGetInfo(nvmlGpuInstance_t handle, nvmlGpuInstanceInfo_t *info)
{
    struct nvmlGpuInstance_st *instance;
    nvmlReturn_t result = session_enter_gpu_instance(handle, &instance);
    if (result != NVML_SUCCESS)
        return result;
    if (info == NULL)
        return session_leave(NVML_ERROR_INVALID_ARGUMENT);
    *info = (nvmlGpuInstanceInfo_t){.device = {&instance->gpu->device},
                                    .id = instance->id,
                                    .profileId = instance->profile->id,
                                    .placement = {instance->start, instance->profile->placement_size}};
    return session_leave(NVML_SUCCESS);
}
