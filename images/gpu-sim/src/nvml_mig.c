/* NVML calls about MIG mode and MIG devices. */
#include "mig.h"
#include "gpu_sim.h"
#include "nvml_session.h"

#include <string.h>

nvmlReturn_t nvmlDeviceGetMigMode(nvmlDevice_t handle, unsigned int *current, unsigned int *pending)
{
    struct nvmlDevice_st *device;
    nvmlReturn_t result = session_enter_device(handle, &device);
    if (result != NVML_SUCCESS)
        return result;
    if (current == NULL || pending == NULL)
        return session_leave(NVML_ERROR_INVALID_ARGUMENT);
    if (device->gpu->config->model->profile_count == 0)
        return session_leave(NVML_ERROR_NOT_SUPPORTED);
    *current = device->gpu->mig_enabled ? NVML_DEVICE_MIG_ENABLE : NVML_DEVICE_MIG_DISABLE;
    *pending = device->gpu->mig_pending ? NVML_DEVICE_MIG_ENABLE : NVML_DEVICE_MIG_DISABLE;
    return session_leave(NVML_SUCCESS);
}

static bool has_instances(const struct gpu *gpu)
{
    for (unsigned int i = 0; i < CONFIG_INSTANCE_IDS; i++) {
        if (gpu->instances[i].exists)
            return true;
    }
    return false;
}

/* Not measured; an inference from NVIDIA's DRA driver v0.5.0. It takes the activation status for the call's result and
   the call's result for the activation status. With two MIG devices of one GPU it asks for MIG off after the first is
   gone, and it could not go on if the activation status were an error; NVIDIA's own test of that passes on real GPUs,
   and a comment there says that a refusal ("in use by another client") shows in the other value of the two. */
static const nvmlReturn_t refused_activation = NVML_SUCCESS;

/* Documented in NVIDIA's MIG User Guide: an Ampere GPU is reset before a mode holds, which is left to
   `nvidia-smi --gpu-reset` here; later ones change at once. That NVML says so by the activation status is documented
   in nvml.h for GPUs that NVML cannot reset itself, as in virtual machines. */
static bool needs_reset(const struct gpu *gpu)
{
    return strcmp(gpu->config->model->architecture, "Ampere") == 0;
}

nvmlReturn_t nvmlDeviceSetMigMode(nvmlDevice_t handle, unsigned int mode, nvmlReturn_t *activation)
{
    struct gpu *gpu;
    nvmlReturn_t result = session_enter_gpu(handle, &gpu);
    if (result != NVML_SUCCESS)
        return result;
    if (activation == NULL || mode > NVML_DEVICE_MIG_ENABLE)
        return session_leave(NVML_ERROR_INVALID_ARGUMENT);
    if (!session_inventory()->driver_root)
        return session_leave(*activation = NVML_ERROR_NO_PERMISSION);
    if (gpu->config->model->profile_count == 0)
        return session_leave(*activation = NVML_ERROR_NOT_SUPPORTED);
    if (mode == NVML_DEVICE_MIG_DISABLE && has_instances(gpu)) {
        *activation = refused_activation;
        return session_leave(NVML_ERROR_IN_USE);
    }
    gpu->mig_pending = mode == NVML_DEVICE_MIG_ENABLE;
    *activation = needs_reset(gpu) && gpu->mig_pending != gpu->mig_enabled ? NVML_ERROR_RESET_REQUIRED : NVML_SUCCESS;
    if (!needs_reset(gpu))
        gpu->mig_enabled = gpu->mig_pending;
    mig_save(session_inventory(), gpu);
    return session_leave(NVML_SUCCESS);
}

/* A reset destroys all instances, as NVIDIA's MIG User Guide says of instances in general: none is persistent. */
nvmlReturn_t gpuSimReset(nvmlDevice_t handle)
{
    struct gpu *gpu;
    nvmlReturn_t result = session_enter_gpu(handle, &gpu);
    if (result != NVML_SUCCESS)
        return result;
    if (!session_inventory()->driver_root)
        return session_leave(NVML_ERROR_NO_PERMISSION);
    mig_reset(gpu);
    mig_save(session_inventory(), gpu);
    return session_leave(NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetMaxMigDeviceCount(nvmlDevice_t handle, unsigned int *count)
{
    struct gpu *gpu;
    nvmlReturn_t result = session_enter_gpu(handle, &gpu);
    if (result != NVML_SUCCESS)
        return result;
    if (count == NULL)
        return session_leave(NVML_ERROR_INVALID_ARGUMENT);
    /* 0 with MIG off: measured on an H100 with driver 580.159.04. */
    *count = gpu->mig_enabled ? mig_max_devices(gpu->config->model) : 0;
    return session_leave(NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceIsMigDeviceHandle(nvmlDevice_t handle, unsigned int *is_mig_device)
{
    struct nvmlDevice_st *device;
    nvmlReturn_t result = session_enter_device(handle, &device);
    if (result != NVML_SUCCESS)
        return result;
    if (is_mig_device == NULL)
        return session_leave(NVML_ERROR_INVALID_ARGUMENT);
    *is_mig_device = device->compute != NULL;
    return session_leave(NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetMigDeviceHandleByIndex(nvmlDevice_t handle, unsigned int index, nvmlDevice_t *mig)
{
    struct gpu *gpu;
    nvmlReturn_t result = session_enter_gpu(handle, &gpu);
    if (result != NVML_SUCCESS)
        return result;
    if (mig == NULL)
        return session_leave(NVML_ERROR_INVALID_ARGUMENT);
    if (gpu->config->model->profile_count == 0)
        return session_leave(NVML_ERROR_NOT_SUPPORTED);
    struct nvmlComputeInstance_st *compute = gpu->mig_enabled ? mig_device(gpu, index) : NULL;
    if (compute == NULL)
        return session_leave(NVML_ERROR_NOT_FOUND);
    mig->handle = &compute->device;
    return session_leave(NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetDeviceHandleFromMigDeviceHandle(nvmlDevice_t mig, nvmlDevice_t *device)
{
    struct nvmlDevice_st *entered;
    nvmlReturn_t result = session_enter_device(mig, &entered);
    if (result != NVML_SUCCESS)
        return result;
    if (device == NULL || entered->compute == NULL)
        return session_leave(NVML_ERROR_INVALID_ARGUMENT);
    device->handle = &entered->gpu->device;
    return session_leave(NVML_SUCCESS);
}

/* Measured on an H100 with driver 580.159.04. */
static const nvmlReturn_t whole_gpu_has_none = NVML_ERROR_INVALID_ARGUMENT;

nvmlReturn_t nvmlDeviceGetGpuInstanceId(nvmlDevice_t handle, unsigned int *id)
{
    struct nvmlDevice_st *device;
    nvmlReturn_t result = session_enter_device(handle, &device);
    if (result != NVML_SUCCESS)
        return result;
    if (id == NULL)
        return session_leave(NVML_ERROR_INVALID_ARGUMENT);
    if (device->compute == NULL)
        return session_leave(whole_gpu_has_none);
    *id = device->compute->parent->id;
    return session_leave(NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetComputeInstanceId(nvmlDevice_t handle, unsigned int *id)
{
    struct nvmlDevice_st *device;
    nvmlReturn_t result = session_enter_device(handle, &device);
    if (result != NVML_SUCCESS)
        return result;
    if (id == NULL)
        return session_leave(NVML_ERROR_INVALID_ARGUMENT);
    if (device->compute == NULL)
        return session_leave(whole_gpu_has_none);
    *id = device->compute->id;
    return session_leave(NVML_SUCCESS);
}
