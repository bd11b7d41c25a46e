/* NVML calls about modes and limits that stay as they are set. */
#include "gpu_sim.h"
#include "nvml_session.h"
#include "state.h"

#include <stdio.h>

enum mode { MODE_COMPUTE, MODE_PERSISTENCE, MODE_TIMESLICE, MODE_COUNT };

static const char *const mode_names[MODE_COUNT] = {"compute-mode", "persistence-mode", "timeslice"};

/* Used where the state folder cannot be written. */
static unsigned int kept[CONFIG_MAX_GPUS][MODE_COUNT];

static nvmlReturn_t get_mode(nvmlDevice_t handle, enum mode mode, unsigned int *value)
{
    struct nvmlDevice_st *device;
    nvmlReturn_t result = session_enter_device(handle, &device);
    if (result != NVML_SUCCESS)
        return result;
    *value = state_read_number(session_inventory(), device->gpu->config->minor, mode_names[mode],
                               kept[device->gpu->index][mode]);
    return session_leave(NVML_SUCCESS);
}

static nvmlReturn_t set_mode(nvmlDevice_t handle, enum mode mode, unsigned int value, unsigned int highest)
{
    struct gpu *gpu;
    nvmlReturn_t result = session_enter_gpu(handle, &gpu);
    if (result != NVML_SUCCESS)
        return result;
    if (value > highest)
        return session_leave(NVML_ERROR_INVALID_ARGUMENT);
    char text[16];
    snprintf(text, sizeof text, "%u", value);
    state_write(session_inventory(), gpu->config->minor, mode_names[mode], text);
    kept[gpu->index][mode] = value;
    return session_leave(NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetComputeMode(nvmlDevice_t handle, nvmlComputeMode_t *mode)
{
    unsigned int value = 0;
    nvmlReturn_t result = get_mode(handle, MODE_COMPUTE, &value);
    if (result != NVML_SUCCESS)
        return result;
    if (mode == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    *mode = value < NVML_COMPUTEMODE_COUNT ? (nvmlComputeMode_t)value : NVML_COMPUTEMODE_DEFAULT;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceSetComputeMode(nvmlDevice_t handle, nvmlComputeMode_t mode)
{
    if ((unsigned int)mode == NVML_COMPUTEMODE_EXCLUSIVE_THREAD)
        return session_not_supported(); /* removed in CUDA 8 */
    return set_mode(handle, MODE_COMPUTE, (unsigned int)mode, NVML_COMPUTEMODE_COUNT - 1);
}

nvmlReturn_t nvmlDeviceGetPersistenceMode(nvmlDevice_t handle, nvmlEnableState_t *mode)
{
    unsigned int value = 0;
    nvmlReturn_t result = get_mode(handle, MODE_PERSISTENCE, &value);
    if (result != NVML_SUCCESS)
        return result;
    if (mode == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    *mode = value == 0 ? NVML_FEATURE_DISABLED : NVML_FEATURE_ENABLED;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceSetPersistenceMode(nvmlDevice_t handle, nvmlEnableState_t mode)
{
    return set_mode(handle, MODE_PERSISTENCE, (unsigned int)mode, NVML_FEATURE_ENABLED);
}

nvmlReturn_t gpuSimSetTimeslice(nvmlDevice_t handle, unsigned int timeslice)
{
    return set_mode(handle, MODE_TIMESLICE, timeslice, GPU_SIM_TIMESLICE_MAX);
}

nvmlReturn_t gpuSimGetTimeslice(nvmlDevice_t handle, unsigned int *timeslice)
{
    unsigned int value = 0;
    nvmlReturn_t result = get_mode(handle, MODE_TIMESLICE, &value);
    if (result == NVML_SUCCESS && timeslice == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (result == NVML_SUCCESS)
        *timeslice = value;
    return result;
}

const char *gpuSimulated(void)
{
    return "simulated NVIDIA GPU: no CUDA code runs";
}

nvmlReturn_t nvmlDeviceGetVirtualizationMode(nvmlDevice_t handle, nvmlGpuVirtualizationMode_t *mode)
{
    struct nvmlDevice_st *device;
    nvmlReturn_t result = session_enter_device(handle, &device);
    if (result != NVML_SUCCESS)
        return result;
    if (mode == NULL)
        return session_leave(NVML_ERROR_INVALID_ARGUMENT);
    *mode = NVML_GPU_VIRTUALIZATION_MODE_NONE;
    return session_leave(NVML_SUCCESS);
}

/* In milliwatts, as NVML's power limits are. */
static nvmlReturn_t get_power_limit(nvmlDevice_t handle, unsigned int *limit)
{
    struct gpu *gpu;
    nvmlReturn_t result = session_enter_gpu(handle, &gpu);
    if (result != NVML_SUCCESS)
        return result;
    if (limit == NULL)
        return session_leave(NVML_ERROR_INVALID_ARGUMENT);
    *limit = gpu->config->model->power_limit_watts * 1000;
    return session_leave(NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetPowerManagementLimit(nvmlDevice_t handle, unsigned int *limit)
{
    return get_power_limit(handle, limit);
}

nvmlReturn_t nvmlDeviceGetPowerManagementDefaultLimit(nvmlDevice_t handle, unsigned int *limit)
{
    return get_power_limit(handle, limit);
}

nvmlReturn_t nvmlDeviceGetEnforcedPowerLimit(nvmlDevice_t handle, unsigned int *limit)
{
    return get_power_limit(handle, limit);
}
