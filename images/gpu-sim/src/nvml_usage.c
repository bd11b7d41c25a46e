/* NVML calls about use. No process runs code on a simulated GPU, so a utilization of zero is true. No process is
   listed, as a real NVML lists none of another container's. What memory is in use, nvml_memory.h finds. Figures that
   would have to be invented (power, temperature, clocks) are left to the stubs, which answer
   NVML_ERROR_NOT_SUPPORTED. */
#include "nvml_session.h"

#include <string.h>

nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t handle, nvmlUtilization_t *utilization)
{
    struct gpu *gpu;
    nvmlReturn_t result = session_enter_gpu(handle, &gpu);
    if (result != NVML_SUCCESS)
        return result;
    if (utilization == NULL)
        return session_leave(NVML_ERROR_INVALID_ARGUMENT);
    result = session_may_see(&gpu->device);
    if (result != NVML_SUCCESS)
        return session_leave(result);
    /* nvidia-smi's help (580.159.04): "On MIG-enabled GPUs, querying the utilization of ... gpu, and memory is not
       currently supported". */
    if (gpu->mig_enabled)
        return session_leave(NVML_ERROR_NOT_SUPPORTED);
    *utilization = (nvmlUtilization_t){.gpu = 0, .memory = 0};
    return session_leave(NVML_SUCCESS);
}

static nvmlReturn_t no_processes(nvmlDevice_t handle, unsigned int *count)
{
    struct nvmlDevice_st *device;
    nvmlReturn_t result = session_enter_device(handle, &device);
    if (result != NVML_SUCCESS)
        return result;
    if (count == NULL)
        return session_leave(NVML_ERROR_INVALID_ARGUMENT);
    *count = 0;
    return session_leave(NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetComputeRunningProcesses(nvmlDevice_t handle, unsigned int *count, nvmlProcessInfo_v1_t *infos)
{
    (void)infos;
    return no_processes(handle, count);
}

nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v2(nvmlDevice_t handle, unsigned int *count,
                                                     nvmlProcessInfo_v2_t *infos)
{
    (void)infos;
    return no_processes(handle, count);
}

nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v3(nvmlDevice_t handle, unsigned int *count, nvmlProcessInfo_t *infos)
{
    (void)infos;
    return no_processes(handle, count);
}

nvmlReturn_t nvmlDeviceGetGraphicsRunningProcesses(nvmlDevice_t handle, unsigned int *count,
                                                   nvmlProcessInfo_v1_t *infos)
{
    (void)infos;
    return no_processes(handle, count);
}

nvmlReturn_t nvmlDeviceGetGraphicsRunningProcesses_v2(nvmlDevice_t handle, unsigned int *count,
                                                      nvmlProcessInfo_v2_t *infos)
{
    (void)infos;
    return no_processes(handle, count);
}

nvmlReturn_t nvmlDeviceGetGraphicsRunningProcesses_v3(nvmlDevice_t handle, unsigned int *count,
                                                      nvmlProcessInfo_t *infos)
{
    (void)infos;
    return no_processes(handle, count);
}

nvmlReturn_t nvmlDeviceGetMPSComputeRunningProcesses(nvmlDevice_t handle, unsigned int *count,
                                                     nvmlProcessInfo_v1_t *infos)
{
    (void)infos;
    return no_processes(handle, count);
}

nvmlReturn_t nvmlDeviceGetMPSComputeRunningProcesses_v2(nvmlDevice_t handle, unsigned int *count,
                                                        nvmlProcessInfo_v2_t *infos)
{
    (void)infos;
    return no_processes(handle, count);
}

nvmlReturn_t nvmlDeviceGetMPSComputeRunningProcesses_v3(nvmlDevice_t handle, unsigned int *count,
                                                        nvmlProcessInfo_t *infos)
{
    (void)infos;
    return no_processes(handle, count);
}

/* Answers for each field, as a caller asks for many at once and reads them one by one. */
nvmlReturn_t nvmlDeviceGetFieldValues(nvmlDevice_t handle, int count, nvmlFieldValue_t *values)
{
    struct nvmlDevice_st *device;
    nvmlReturn_t result = session_enter_device(handle, &device);
    if (result != NVML_SUCCESS)
        return result;
    if (count < 0 || values == NULL)
        return session_leave(NVML_ERROR_INVALID_ARGUMENT);
    for (int i = 0; i < count; i++) {
        values[i].nvmlReturn = NVML_ERROR_NOT_SUPPORTED;
        memset(&values[i].value, 0, sizeof values[i].value);
    }
    return session_leave(NVML_SUCCESS);
}

static nvmlReturn_t disabled(nvmlDevice_t handle, nvmlEnableState_t *state)
{
    struct nvmlDevice_st *device;
    nvmlReturn_t result = session_enter_device(handle, &device);
    if (result != NVML_SUCCESS)
        return result;
    if (state == NULL)
        return session_leave(NVML_ERROR_INVALID_ARGUMENT);
    *state = NVML_FEATURE_DISABLED;
    return session_leave(NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetDisplayMode(nvmlDevice_t handle, nvmlEnableState_t *state)
{
    return disabled(handle, state);
}

nvmlReturn_t nvmlDeviceGetDisplayActive(nvmlDevice_t handle, nvmlEnableState_t *state)
{
    return disabled(handle, state);
}
