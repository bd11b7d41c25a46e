/* NVML calls about compute instances, the parts of a GPU instance. */
#include "mig.h"
#include "nvml_session.h"

#include <stdio.h>

static nvmlReturn_t check_profile(const struct nvmlGpuInstance_st *instance, unsigned int index)
{
    if (index >= NVML_COMPUTE_INSTANCE_PROFILE_COUNT)
        return NVML_ERROR_INVALID_ARGUMENT;
    return mig_compute_slices(instance, index) == 0 ? NVML_ERROR_NOT_SUPPORTED : NVML_SUCCESS;
}

/* Enters and checks the profile; a compute-instance profile's ID is its NVML_COMPUTE_INSTANCE_PROFILE_* number. */
static nvmlReturn_t enter_profile(nvmlGpuInstance_t handle, unsigned int index, unsigned int engines,
                                  struct nvmlGpuInstance_st **instance)
{
    nvmlReturn_t result = session_enter_gpu_instance(handle, instance);
    if (result != NVML_SUCCESS)
        return result;
    if (engines != NVML_COMPUTE_INSTANCE_ENGINE_PROFILE_SHARED)
        return session_leave(NVML_ERROR_INVALID_ARGUMENT);
    result = check_profile(*instance, index);
    return result == NVML_SUCCESS ? NVML_SUCCESS : session_leave(result);
}

static void fill_info(nvmlComputeInstanceProfileInfo_t *info, const struct nvmlGpuInstance_st *instance,
                      unsigned int index)
{
    const struct mig_profile *profile = instance->profile;
    unsigned int slices = mig_compute_slices(instance, index);
    *info = (nvmlComputeInstanceProfileInfo_t){.id = index,
                                               .sliceCount = slices,
                                               .instanceCount = profile->slices / slices,
                                               .multiprocessorCount =
                                                   profile->multiprocessors * slices / profile->slices,
                                               .sharedCopyEngineCount = profile->copy_engines,
                                               .sharedDecoderCount = profile->decoders,
                                               .sharedJpegCount = profile->jpeg_engines,
                                               .sharedOfaCount = profile->ofa_engines};
}

nvmlReturn_t nvmlGpuInstanceGetComputeInstanceProfileInfo(nvmlGpuInstance_t handle, unsigned int index,
                                                          unsigned int engines, nvmlComputeInstanceProfileInfo_t *info)
{
    struct nvmlGpuInstance_st *instance;
    nvmlReturn_t result = enter_profile(handle, index, engines, &instance);
    if (result != NVML_SUCCESS)
        return result;
    if (info == NULL)
        return session_leave(NVML_ERROR_INVALID_ARGUMENT);
    fill_info(info, instance, index);
    return session_leave(NVML_SUCCESS);
}

static void name_profile(char *name, size_t size, const struct nvmlGpuInstance_st *instance, unsigned int slices)
{
    if (slices == instance->profile->slices)
        snprintf(name, size, "%s", instance->profile->name);
    else
        snprintf(name, size, "%uc.%s", slices, instance->profile->name);
}

/* Version 3 is version 2 with a field more at its end. */
nvmlReturn_t nvmlGpuInstanceGetComputeInstanceProfileInfoV(nvmlGpuInstance_t handle, unsigned int index,
                                                           unsigned int engines,
                                                           nvmlComputeInstanceProfileInfo_v2_t *info)
{
    struct nvmlGpuInstance_st *instance;
    nvmlReturn_t result = enter_profile(handle, index, engines, &instance);
    if (result != NVML_SUCCESS)
        return result;
    if (info == NULL)
        return session_leave(NVML_ERROR_INVALID_ARGUMENT);
    if (info->version != nvmlComputeInstanceProfileInfo_v2 && info->version != nvmlComputeInstanceProfileInfo_v3)
        return session_leave(NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
    nvmlComputeInstanceProfileInfo_t base;
    fill_info(&base, instance, index);
    *info = (nvmlComputeInstanceProfileInfo_v2_t){.version = info->version,
                                                  .id = base.id,
                                                  .sliceCount = base.sliceCount,
                                                  .instanceCount = base.instanceCount,
                                                  .multiprocessorCount = base.multiprocessorCount,
                                                  .sharedCopyEngineCount = base.sharedCopyEngineCount,
                                                  .sharedDecoderCount = base.sharedDecoderCount,
                                                  .sharedJpegCount = base.sharedJpegCount,
                                                  .sharedOfaCount = base.sharedOfaCount};
    name_profile(info->name, sizeof info->name, instance, base.sliceCount);
    if (info->version == nvmlComputeInstanceProfileInfo_v3)
        ((nvmlComputeInstanceProfileInfo_v3_t *)(void *)info)->capabilities = 0;
    return session_leave(NVML_SUCCESS);
}

nvmlReturn_t nvmlGpuInstanceGetComputeInstanceRemainingCapacity(nvmlGpuInstance_t handle, unsigned int index,
                                                                unsigned int *count)
{
    struct nvmlGpuInstance_st *instance;
    nvmlReturn_t result = enter_profile(handle, index, NVML_COMPUTE_INSTANCE_ENGINE_PROFILE_SHARED, &instance);
    if (result != NVML_SUCCESS)
        return result;
    if (count == NULL)
        return session_leave(NVML_ERROR_INVALID_ARGUMENT);
    *count = mig_remaining_compute(instance, index);
    return session_leave(NVML_SUCCESS);
}

nvmlReturn_t nvmlGpuInstanceCreateComputeInstance(nvmlGpuInstance_t handle, unsigned int index,
                                                  nvmlComputeInstance_t *created)
{
    struct nvmlGpuInstance_st *instance;
    nvmlReturn_t result = enter_profile(handle, index, NVML_COMPUTE_INSTANCE_ENGINE_PROFILE_SHARED, &instance);
    if (result != NVML_SUCCESS)
        return result;
    if (created == NULL)
        return session_leave(NVML_ERROR_INVALID_ARGUMENT);
    if (mig_create_compute(instance, index, &created->handle) != MIG_OK)
        return session_leave(NVML_ERROR_INSUFFICIENT_RESOURCES);
    mig_announce(session_inventory(), created->handle);
    mig_save(session_inventory(), instance->gpu);
    return session_leave(NVML_SUCCESS);
}

nvmlReturn_t nvmlComputeInstanceDestroy(nvmlComputeInstance_t handle)
{
    struct nvmlComputeInstance_st *compute;
    nvmlReturn_t result = session_enter_compute_instance(handle, &compute);
    if (result != NVML_SUCCESS)
        return result;
    mig_destroy_compute(compute);
    mig_save(session_inventory(), compute->parent->gpu);
    return session_leave(NVML_SUCCESS);
}

nvmlReturn_t nvmlGpuInstanceGetComputeInstances(nvmlGpuInstance_t handle, unsigned int index,
                                                nvmlComputeInstance_t *instances, unsigned int *count)
{
    struct nvmlGpuInstance_st *instance;
    nvmlReturn_t result = enter_profile(handle, index, NVML_COMPUTE_INSTANCE_ENGINE_PROFILE_SHARED, &instance);
    if (result != NVML_SUCCESS)
        return result;
    if (instances == NULL || count == NULL)
        return session_leave(NVML_ERROR_INVALID_ARGUMENT);
    *count = 0;
    for (unsigned int i = 0; i < CONFIG_MAX_COMPUTE_INSTANCES; i++) {
        if (instance->compute[i].exists && instance->compute[i].profile_index == index)
            instances[(*count)++].handle = &instance->compute[i];
    }
    return session_leave(NVML_SUCCESS);
}

nvmlReturn_t nvmlGpuInstanceGetComputeInstanceById(nvmlGpuInstance_t handle, unsigned int id,
                                                   nvmlComputeInstance_t *found)
{
    struct nvmlGpuInstance_st *instance;
    nvmlReturn_t result = session_enter_gpu_instance(handle, &instance);
    if (result != NVML_SUCCESS)
        return result;
    if (found == NULL)
        return session_leave(NVML_ERROR_INVALID_ARGUMENT);
    if (id >= CONFIG_MAX_COMPUTE_INSTANCES || !instance->compute[id].exists)
        return session_leave(NVML_ERROR_NOT_FOUND);
    found->handle = &instance->compute[id];
    return session_leave(NVML_SUCCESS);
}

nvmlReturn_t nvmlComputeInstanceGetInfo_v2(nvmlComputeInstance_t handle, nvmlComputeInstanceInfo_t *info)
{
    struct nvmlComputeInstance_st *compute;
    nvmlReturn_t result = session_enter_compute_instance(handle, &compute);
    if (result != NVML_SUCCESS)
        return result;
    if (info == NULL)
        return session_leave(NVML_ERROR_INVALID_ARGUMENT);
    *info = (nvmlComputeInstanceInfo_t){.device = {&compute->device},
                                        .gpuInstance = {compute->parent},
                                        .id = compute->id,
                                        .profileId = compute->profile_index,
                                        .placement = {compute->start, compute->slices}};
    return session_leave(NVML_SUCCESS);
}

nvmlReturn_t nvmlComputeInstanceGetInfo(nvmlComputeInstance_t handle, nvmlComputeInstanceInfo_t *info)
{
    return nvmlComputeInstanceGetInfo_v2(handle, info);
}
