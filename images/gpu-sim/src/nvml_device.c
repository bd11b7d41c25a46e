/* NVML calls about what a device is: names, numbers and memory. */
#include "mig.h"
#include "nvml_memory.h"
#include "nvml_session.h"

#include <stdio.h>
#include <string.h>

nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t handle, char *name, unsigned int length)
{
    struct nvmlDevice_st *device;
    nvmlReturn_t result = session_enter_device(handle, &device);
    if (result != NVML_SUCCESS)
        return result;
    const char *product = device->gpu->config->model->product_name;
    if (device->compute == NULL)
        return session_leave(copy_text(name, length, product));
    char profile[CONFIG_TEXT + 8], text[MIG_NAME_SIZE + 16];
    mig_profile_name(device->compute, profile, sizeof profile);
    snprintf(text, sizeof text, "%s MIG %s", product, profile);
    return session_leave(copy_text(name, length, text));
}

nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t handle, char *uuid, unsigned int length)
{
    struct nvmlDevice_st *device;
    nvmlReturn_t result = session_enter_device(handle, &device);
    if (result != NVML_SUCCESS)
        return result;
    const char *text = device->compute == NULL ? device->gpu->config->uuid : device->compute->uuid;
    return session_leave(copy_text(uuid, length, text));
}

static unsigned int mig_index(const struct nvmlDevice_st *device)
{
    unsigned int index = 0;
    while (mig_device(device->gpu, index) != device->compute)
        index++;
    return index;
}

nvmlReturn_t nvmlDeviceGetIndex(nvmlDevice_t handle, unsigned int *index)
{
    struct nvmlDevice_st *device;
    nvmlReturn_t result = session_enter_device(handle, &device);
    if (result != NVML_SUCCESS)
        return result;
    if (index == NULL)
        return session_leave(NVML_ERROR_INVALID_ARGUMENT);
    *index = device->compute == NULL ? device->gpu->index : mig_index(device);
    return session_leave(NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetMinorNumber(nvmlDevice_t handle, unsigned int *minor)
{
    struct nvmlDevice_st *device;
    nvmlReturn_t result = session_enter_device(handle, &device);
    if (result != NVML_SUCCESS)
        return result;
    if (minor == NULL)
        return session_leave(NVML_ERROR_INVALID_ARGUMENT);
    *minor = device->gpu->config->minor;
    return session_leave(NVML_SUCCESS);
}

struct named_number {
    const char *name;
    unsigned int number;
};

static unsigned int number_of(const struct named_number *table, size_t count, const char *name, unsigned int fallback)
{
    for (size_t i = 0; i < count; i++) {
        if (strcmp(table[i].name, name) == 0)
            return table[i].number;
    }
    return fallback;
}

nvmlReturn_t nvmlDeviceGetBrand(nvmlDevice_t handle, nvmlBrandType_t *brand)
{
    static const struct named_number brands[] = {
        {"GeForce", NVML_BRAND_GEFORCE}, {"NVIDIA", NVML_BRAND_NVIDIA}, {"Tesla", NVML_BRAND_TESLA}};
    struct nvmlDevice_st *device;
    nvmlReturn_t result = session_enter_device(handle, &device);
    if (result != NVML_SUCCESS)
        return result;
    if (brand == NULL)
        return session_leave(NVML_ERROR_INVALID_ARGUMENT);
    const char *name = device->gpu->config->model->brand;
    *brand = (nvmlBrandType_t)number_of(brands, sizeof brands / sizeof brands[0], name, NVML_BRAND_UNKNOWN);
    return session_leave(NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetArchitecture(nvmlDevice_t handle, nvmlDeviceArchitecture_t *architecture)
{
    static const struct named_number architectures[] = {{"Ampere", NVML_DEVICE_ARCH_AMPERE},
                                                        {"Ada Lovelace", NVML_DEVICE_ARCH_ADA},
                                                        {"Hopper", NVML_DEVICE_ARCH_HOPPER},
                                                        {"Blackwell", NVML_DEVICE_ARCH_BLACKWELL}};
    struct nvmlDevice_st *device;
    nvmlReturn_t result = session_enter_device(handle, &device);
    if (result != NVML_SUCCESS)
        return result;
    if (architecture == NULL)
        return session_leave(NVML_ERROR_INVALID_ARGUMENT);
    const char *name = device->gpu->config->model->architecture;
    *architecture = number_of(architectures, sizeof architectures / sizeof architectures[0], name,
                              NVML_DEVICE_ARCH_UNKNOWN);
    return session_leave(NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetCudaComputeCapability(nvmlDevice_t handle, int *major, int *minor)
{
    struct nvmlDevice_st *device;
    nvmlReturn_t result = session_enter_device(handle, &device);
    if (result != NVML_SUCCESS)
        return result;
    if (major == NULL || minor == NULL)
        return session_leave(NVML_ERROR_INVALID_ARGUMENT);
    *major = (int)device->gpu->config->model->compute_major;
    *minor = (int)device->gpu->config->model->compute_minor;
    return session_leave(NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetNumGpuCores(nvmlDevice_t handle, unsigned int *cores)
{
    struct nvmlDevice_st *device;
    nvmlReturn_t result = session_enter_device(handle, &device);
    if (result != NVML_SUCCESS)
        return result;
    if (cores == NULL)
        return session_leave(NVML_ERROR_INVALID_ARGUMENT);
    const struct gpu_model *model = device->gpu->config->model;
    unsigned int multiprocessors =
        device->compute == NULL ? model->multiprocessors : mig_multiprocessors(device->compute);
    /* CUDA programming guide: 64 FP32 cores a multiprocessor at compute capability 8.0, 128 from 8.6 on. */
    *cores = multiprocessors * (model->compute_major == 8 && model->compute_minor == 0 ? 64 : 128);
    return session_leave(NVML_SUCCESS);
}

/* What the host offers rather than the GPU: HMM needs NVIDIA's open kernel modules and a kernel with HMM, ATS a Grace
   processor. Measured on an H100 80GB HBM3 with driver 580.159.04: None; so say published `nvidia-smi -q` of H100 and
   H200 with drivers 545 to 565. Not measured on the other models; a GeForce with open modules says HMM. */
nvmlReturn_t nvmlDeviceGetAddressingMode(nvmlDevice_t handle, nvmlDeviceAddressingMode_t *mode)
{
    struct nvmlDevice_st *device;
    nvmlReturn_t result = session_enter_device(handle, &device);
    if (result != NVML_SUCCESS)
        return result;
    if (mode == NULL)
        return session_leave(NVML_ERROR_INVALID_ARGUMENT);
    if (mode->version != nvmlDeviceAddressingMode_v1)
        return session_leave(NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
    mode->value = NVML_DEVICE_ADDRESSING_MODE_NONE;
    return session_leave(NVML_SUCCESS);
}

static unsigned long long memory_bytes(const struct nvmlDevice_st *device)
{
    unsigned int mib = device->compute == NULL ? device->gpu->config->model->memory_mib
                                               : device->compute->parent->profile->memory_mib;
    return (unsigned long long)mib << 20;
}

static unsigned long long reserved_bytes(const struct nvmlDevice_st *device)
{
    return device->compute == NULL ? (unsigned long long)device->gpu->config->model->reserved_memory_mib << 20 : 0;
}

/* No bytes are behind it: what CUDA programs were told they hold, as far as their MPS servers publish it. */
static unsigned long long used_bytes(const struct nvmlDevice_st *device)
{
    return nvml_memory_used(device, memory_bytes(device) - reserved_bytes(device));
}

nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t handle, nvmlMemory_t *memory)
{
    struct nvmlDevice_st *device;
    nvmlReturn_t result = session_enter_device(handle, &device);
    if (result != NVML_SUCCESS)
        return result;
    if (memory == NULL)
        return session_leave(NVML_ERROR_INVALID_ARGUMENT);
    result = session_may_see(device);
    if (result != NVML_SUCCESS)
        return session_leave(result);
    unsigned long long total = memory_bytes(device), used = used_bytes(device);
    *memory = (nvmlMemory_t){.total = total, .free = total - used, .used = used};
    return session_leave(NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t handle, nvmlMemory_v2_t *memory)
{
    struct nvmlDevice_st *device;
    nvmlReturn_t result = session_enter_device(handle, &device);
    if (result != NVML_SUCCESS)
        return result;
    if (memory == NULL)
        return session_leave(NVML_ERROR_INVALID_ARGUMENT);
    if (memory->version != nvmlMemory_v2)
        return session_leave(NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
    result = session_may_see(device);
    if (result != NVML_SUCCESS)
        return session_leave(result);
    memory->total = memory_bytes(device);
    memory->reserved = reserved_bytes(device);
    memory->used = used_bytes(device);
    memory->free = memory->total - memory->reserved - memory->used;
    return session_leave(NVML_SUCCESS);
}

/* MiB. The least power of two that all memory fits: measured on an H100 80GB (131072 MiB), published of A100s. A MIG
   device has the part of its memory slices less one MiB: public nvidia-smi tables of A100s. Not measured elsewhere. */
static unsigned long long bar1_mib(const struct nvmlDevice_st *device)
{
    unsigned long long mib = 1;
    while (mib < device->gpu->config->model->memory_mib)
        mib *= 2;
    return device->compute == NULL ? mib : mib / 8 * device->compute->parent->profile->placement_size - 1;
}

nvmlReturn_t nvmlDeviceGetBAR1MemoryInfo(nvmlDevice_t handle, nvmlBAR1Memory_t *memory)
{
    struct nvmlDevice_st *device;
    nvmlReturn_t result = session_enter_device(handle, &device);
    if (result != NVML_SUCCESS)
        return result;
    if (memory == NULL)
        return session_leave(NVML_ERROR_INVALID_ARGUMENT);
    result = session_may_see(device);
    if (result != NVML_SUCCESS)
        return session_leave(result);
    unsigned long long total = bar1_mib(device) << 20;
    *memory = (nvmlBAR1Memory_t){.bar1Total = total, .bar1Free = total, .bar1Used = 0};
    return session_leave(NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetAttributes_v2(nvmlDevice_t handle, nvmlDeviceAttributes_t *attributes)
{
    struct nvmlDevice_st *device;
    nvmlReturn_t result = session_enter_device(handle, &device);
    if (result != NVML_SUCCESS)
        return result;
    if (attributes == NULL)
        return session_leave(NVML_ERROR_INVALID_ARGUMENT);
    if (device->compute == NULL)
        return session_leave(NVML_ERROR_NOT_SUPPORTED);
    const struct mig_profile *profile = device->compute->parent->profile;
    *attributes = (nvmlDeviceAttributes_t){.multiprocessorCount = mig_multiprocessors(device->compute),
                                           .sharedCopyEngineCount = profile->copy_engines,
                                           .sharedDecoderCount = profile->decoders,
                                           .sharedJpegCount = profile->jpeg_engines,
                                           .sharedOfaCount = profile->ofa_engines,
                                           .gpuInstanceSliceCount = profile->slices,
                                           .computeInstanceSliceCount = device->compute->slices,
                                           .memorySizeMB = profile->memory_mib};
    return session_leave(NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetAttributes(nvmlDevice_t handle, nvmlDeviceAttributes_t *attributes)
{
    return nvmlDeviceGetAttributes_v2(handle, attributes);
}
