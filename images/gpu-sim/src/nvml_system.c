/* NVML calls about the library and the system rather than one device. */
#include "nvml_session.h"

#include <stdio.h>

nvmlReturn_t nvmlInitWithFlags(unsigned int flags)
{
    return session_start(flags);
}

nvmlReturn_t nvmlInit_v2(void)
{
    return session_start(0);
}

nvmlReturn_t nvmlInit(void)
{
    /* The first version accepted systems without any GPU. */
    return session_start(NVML_INIT_FLAG_NO_GPUS);
}

nvmlReturn_t nvmlShutdown(void)
{
    return session_stop();
}

const char *nvmlErrorString(nvmlReturn_t result)
{
    static const char *const texts[] = {
        [NVML_SUCCESS] = "Success",
        [NVML_ERROR_UNINITIALIZED] = "Uninitialized",
        [NVML_ERROR_INVALID_ARGUMENT] = "Invalid Argument",
        [NVML_ERROR_NOT_SUPPORTED] = "Not Supported",
        [NVML_ERROR_NO_PERMISSION] = "Insufficient Permissions",
        [NVML_ERROR_ALREADY_INITIALIZED] = "Already Initialized",
        [NVML_ERROR_NOT_FOUND] = "Not Found",
        [NVML_ERROR_INSUFFICIENT_SIZE] = "Insufficient Size",
        [NVML_ERROR_INSUFFICIENT_POWER] = "Insufficient External Power",
        [NVML_ERROR_DRIVER_NOT_LOADED] = "Driver Not Loaded",
        [NVML_ERROR_TIMEOUT] = "Timeout",
        [NVML_ERROR_IRQ_ISSUE] = "Interrupt Request Issue",
        [NVML_ERROR_LIBRARY_NOT_FOUND] = "NVML Shared Library Not Found",
        [NVML_ERROR_FUNCTION_NOT_FOUND] = "Function Not Found",
        [NVML_ERROR_CORRUPTED_INFOROM] = "Corrupted infoROM",
        [NVML_ERROR_GPU_IS_LOST] = "GPU is lost",
        [NVML_ERROR_RESET_REQUIRED] = "GPU requires reset",
        [NVML_ERROR_OPERATING_SYSTEM] = "GPU access blocked by the operating system",
        [NVML_ERROR_LIB_RM_VERSION_MISMATCH] = "Driver/library version mismatch",
        [NVML_ERROR_IN_USE] = "In use by another client",
        [NVML_ERROR_MEMORY] = "Insufficient Memory",
        [NVML_ERROR_NO_DATA] = "No data",
        [NVML_ERROR_VGPU_ECC_NOT_SUPPORTED] = "ECC is enabled; vGPU operation not available",
        [NVML_ERROR_INSUFFICIENT_RESOURCES] = "Insufficient Resources",
        [NVML_ERROR_FREQ_NOT_SUPPORTED] = "Frequency Not Supported",
        [NVML_ERROR_ARGUMENT_VERSION_MISMATCH] = "Argument version mismatch",
        [NVML_ERROR_DEPRECATED] = "Deprecated",
        [NVML_ERROR_NOT_READY] = "Not Ready",
        [NVML_ERROR_GPU_NOT_FOUND] = "No GPUs found",
        [NVML_ERROR_INVALID_STATE] = "Invalid State",
        [NVML_ERROR_RESET_TYPE_NOT_SUPPORTED] = "Reset type not supported",
    };
    unsigned int index = (unsigned int)result;
    return index < sizeof texts / sizeof texts[0] ? texts[index] : "Unknown Error";
}

nvmlReturn_t nvmlSystemGetDriverVersion(char *version, unsigned int length)
{
    struct inventory *inventory;
    nvmlReturn_t result = session_enter(&inventory);
    if (result != NVML_SUCCESS)
        return result;
    return session_leave(copy_text(version, length, inventory->config.driver_version));
}

nvmlReturn_t nvmlSystemGetNVMLVersion(char *version, unsigned int length)
{
    struct inventory *inventory;
    nvmlReturn_t result = session_enter(&inventory);
    if (result != NVML_SUCCESS)
        return result;
    char text[CONFIG_TEXT + 16];
    snprintf(text, sizeof text, "%u.%s", inventory->config.cuda_version / 1000, inventory->config.driver_version);
    return session_leave(copy_text(version, length, text));
}

nvmlReturn_t nvmlSystemGetCudaDriverVersion_v2(int *version)
{
    struct inventory *inventory;
    nvmlReturn_t result = session_enter(&inventory);
    if (result != NVML_SUCCESS)
        return result;
    if (version == NULL)
        return session_leave(NVML_ERROR_INVALID_ARGUMENT);
    *version = (int)inventory->config.cuda_version;
    return session_leave(NVML_SUCCESS);
}

nvmlReturn_t nvmlSystemGetCudaDriverVersion(int *version)
{
    return nvmlSystemGetCudaDriverVersion_v2(version);
}

static nvmlReturn_t answer_zero(unsigned int *count)
{
    struct inventory *inventory;
    nvmlReturn_t result = session_enter(&inventory);
    if (result != NVML_SUCCESS)
        return result;
    if (count == NULL)
        return session_leave(NVML_ERROR_INVALID_ARGUMENT);
    *count = 0;
    return session_leave(NVML_SUCCESS);
}

nvmlReturn_t nvmlUnitGetCount(unsigned int *count)
{
    return answer_zero(count);
}

nvmlReturn_t nvmlGetExcludedDeviceCount(unsigned int *count)
{
    return answer_zero(count);
}
