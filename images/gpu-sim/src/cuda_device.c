/* Devices of the simulated libcuda: every visible GPU, or its first MIG device where MIG is on, as CUDA counts them. */
#include "cuda.h"
#include "mig.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

struct cuda_device {
    const struct gpu_config *gpu;
    const struct nvmlComputeInstance_st *compute; /* NULL: the whole GPU */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static bool initialised;
static struct inventory inventory;
static struct cuda_device devices[CONFIG_MAX_GPUS];
static int device_count;

static void list_devices(void)
{
    device_count = 0;
    for (unsigned int i = 0; i < inventory.gpu_count; i++) {
        struct gpu *gpu = &inventory.gpus[i];
        struct nvmlComputeInstance_st *compute = gpu->mig_enabled ? mig_device(gpu, 0) : NULL;
        if (!gpu->mig_enabled || compute != NULL)
            devices[device_count++] = (struct cuda_device){gpu->config, compute};
    }
}

static CUresult initialise(void)
{
    char error[PATH_MAX + 256];
    if (initialised)
        return CUDA_SUCCESS;
    if (!inventory_load(&inventory, error, sizeof error)) {
        fprintf(stderr, "simulated CUDA: %s\n", error);
        return CUDA_ERROR_UNKNOWN;
    }
    list_devices();
    if (device_count == 0)
        return CUDA_ERROR_NO_DEVICE;
    initialised = true;
    return CUDA_SUCCESS;
}

CUresult cuInit(unsigned int flags)
{
    if (flags != 0)
        return CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&lock);
    CUresult result = initialise();
    pthread_mutex_unlock(&lock);
    return result;
}

/* After cuInit nothing here changes any more, so readers only need to know that it has happened. */
static bool is_initialised(void)
{
    pthread_mutex_lock(&lock);
    bool result = initialised;
    pthread_mutex_unlock(&lock);
    return result;
}

static CUresult find_device(CUdevice number, const struct cuda_device **device)
{
    if (!is_initialised())
        return CUDA_ERROR_NOT_INITIALIZED;
    if (number < 0 || number >= device_count)
        return CUDA_ERROR_INVALID_DEVICE;
    *device = &devices[number];
    return CUDA_SUCCESS;
}

/* Works before cuInit, as CUDA's does. */
CUresult cuDriverGetVersion(int *version)
{
    if (version == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    CUresult result = cuInit(0);
    /* The version is known as soon as the configuration is read, with or without devices. */
    if (result == CUDA_SUCCESS || result == CUDA_ERROR_NO_DEVICE)
        *version = (int)inventory.config.cuda_version;
    return result == CUDA_ERROR_NO_DEVICE ? CUDA_SUCCESS : result;
}

CUresult cuDeviceGetCount(int *count)
{
    if (!is_initialised())
        return CUDA_ERROR_NOT_INITIALIZED;
    if (count == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *count = device_count;
    return CUDA_SUCCESS;
}

CUresult cuDeviceGet(CUdevice *device, int ordinal)
{
    const struct cuda_device *found;
    CUresult result = find_device(ordinal, &found);
    if (result != CUDA_SUCCESS)
        return result;
    if (device == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *device = ordinal;
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetName(char *name, int length, CUdevice device)
{
    const struct cuda_device *found;
    CUresult result = find_device(device, &found);
    if (result != CUDA_SUCCESS)
        return result;
    if (name == NULL || length <= 0)
        return CUDA_ERROR_INVALID_VALUE;
    char profile[CONFIG_TEXT + 8] = "";
    if (found->compute != NULL)
        mig_profile_name(found->compute, profile, sizeof profile);
    snprintf(name, (size_t)length, "%s%s%s", found->gpu->model->product_name, *profile == '\0' ? "" : " MIG ", profile);
    return CUDA_SUCCESS;
}

static CUresult get_uuid(CUuuid *uuid, CUdevice device, bool mig)
{
    const struct cuda_device *found;
    CUresult result = find_device(device, &found);
    if (result != CUDA_SUCCESS)
        return result;
    if (uuid == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    const char *text = mig && found->compute != NULL ? found->compute->uuid : found->gpu->uuid;
    text += strlen("GPU-"); /* MIG- is as long */
    for (unsigned int i = 0; i < sizeof uuid->bytes; i++) {
        unsigned int byte = 0;
        if (*text == '-')
            text++;
        if (sscanf(text, "%2x", &byte) != 1)
            return CUDA_ERROR_UNKNOWN;
        uuid->bytes[i] = (unsigned char)byte;
        text += 2;
    }
    return CUDA_SUCCESS;
}

/* The first version names the GPU even where the device is a MIG device of it. */
CUresult cuDeviceGetUuid(CUuuid *uuid, CUdevice device)
{
    return get_uuid(uuid, device, false);
}

CUresult cuDeviceGetUuid_v2(CUuuid *uuid, CUdevice device)
{
    return get_uuid(uuid, device, true);
}

static unsigned int multiprocessors(const struct cuda_device *device)
{
    return device->compute != NULL ? mig_multiprocessors(device->compute) : device->gpu->model->multiprocessors;
}

CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute attribute, CUdevice device)
{
    const struct cuda_device *found;
    CUresult result = find_device(device, &found);
    if (result != CUDA_SUCCESS)
        return result;
    if (value == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    const struct gpu_config *gpu = found->gpu;
    switch (attribute) {
    case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT: *value = (int)multiprocessors(found); return CUDA_SUCCESS;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: *value = (int)gpu->model->compute_major; return CUDA_SUCCESS;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: *value = (int)gpu->model->compute_minor; return CUDA_SUCCESS;
    case CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID: *value = (int)gpu->pci_domain; return CUDA_SUCCESS;
    case CU_DEVICE_ATTRIBUTE_PCI_BUS_ID: *value = (int)gpu->pci_bus; return CUDA_SUCCESS;
    case CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID: *value = (int)gpu->pci_device; return CUDA_SUCCESS;
    default: return CUDA_ERROR_NOT_SUPPORTED;
    }
}

CUresult cuDeviceTotalMem_v2(size_t *bytes, CUdevice device)
{
    const struct cuda_device *found;
    CUresult result = find_device(device, &found);
    if (result != CUDA_SUCCESS)
        return result;
    if (bytes == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    unsigned int mib =
        found->compute != NULL ? found->compute->parent->profile->memory_mib : found->gpu->model->memory_mib;
    *bytes = (size_t)mib << 20;
    return CUDA_SUCCESS;
}

/* The first version counts in 32 bits, which no simulated model's memory fits. */
CUresult cuDeviceTotalMem(unsigned int *bytes, CUdevice device)
{
    size_t all = 0;
    CUresult result = cuDeviceTotalMem_v2(&all, device);
    if (result != CUDA_SUCCESS)
        return result;
    if (bytes == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *bytes = all > UINT32_MAX ? UINT32_MAX : (unsigned int)all;
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetPCIBusId(char *pci_bus_id, int length, CUdevice device)
{
    const struct cuda_device *found;
    CUresult result = find_device(device, &found);
    if (result != CUDA_SUCCESS)
        return result;
    if (pci_bus_id == NULL || length <= 0)
        return CUDA_ERROR_INVALID_VALUE;
    const struct gpu_config *gpu = found->gpu;
    snprintf(pci_bus_id, (size_t)length, "%04X:%02X:%02X.0", gpu->pci_domain, gpu->pci_bus, gpu->pci_device);
    return CUDA_SUCCESS;
}
