/* Device attributes: those that the model states or that CUDA fixes by compute capability. Anything else, above all
   every clock rate, would be invented and is CUDA_ERROR_NOT_SUPPORTED. */
#include "cuda_private.h"

#include "state.h"

#include <limits.h>

struct attribute {
    CUdevice_attribute attribute;
    int value;
};

/* CUDA programming guide, "Technical Specifications per Compute Capability": the same from 8.0 to 10.0. */
static const struct attribute common[] = {
    {CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK, 1024},
    {CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X, 1024},
    {CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y, 1024},
    {CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z, 64},
    {CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X, INT_MAX},
    {CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y, 65535},
    {CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z, 65535},
    {CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK, 48 * 1024},
    {CU_DEVICE_ATTRIBUTE_TOTAL_CONSTANT_MEMORY, 64 * 1024},
    {CU_DEVICE_ATTRIBUTE_WARP_SIZE, 32},
    {CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK, 64 * 1024},
    {CU_DEVICE_ATTRIBUTE_INTEGRATED, 0},
    {CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING, 1},
    {CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR, 64 * 1024},
    /* Real ones manage memory; cuMemAllocManaged is refused here. */
    {CU_DEVICE_ATTRIBUTE_MANAGED_MEMORY, 0},
};

struct capability {
    unsigned int major;
    unsigned int minor;
    int threads;
    int blocks;
    int shared_kib; /* a multiprocessor */
};

static const struct capability capabilities[] = {
    {8, 0, 2048, 32, 164}, {8, 6, 1536, 16, 100}, {8, 9, 1536, 24, 100}, {9, 0, 2048, 32, 228}, {10, 0, 2048, 32, 228},
};

static CUresult by_capability(const struct gpu_model *model, CUdevice_attribute attribute, int *value)
{
    for (size_t i = 0; i < sizeof capabilities / sizeof capabilities[0]; i++) {
        const struct capability *capability = &capabilities[i];
        if (capability->major != model->compute_major || capability->minor != model->compute_minor)
            continue;
        switch (attribute) {
        case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR: *value = capability->threads; return CUDA_SUCCESS;
        case CU_DEVICE_ATTRIBUTE_MAX_BLOCKS_PER_MULTIPROCESSOR: *value = capability->blocks; return CUDA_SUCCESS;
        case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR:
            *value = capability->shared_kib * 1024;
            return CUDA_SUCCESS;
        /* CUDA keeps one KiB a block for itself. */
        case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN:
            *value = (capability->shared_kib - 1) * 1024;
            return CUDA_SUCCESS;
        default: return CUDA_ERROR_NOT_SUPPORTED;
        }
    }
    return CUDA_ERROR_NOT_SUPPORTED;
}

static CUresult get_attribute(const struct cuda_device *device, CUdevice_attribute attribute, int *value)
{
    const struct gpu_config *gpu = device->device.gpu;
    switch (attribute) {
    case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT: *value = (int)device->granted; return CUDA_SUCCESS;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: *value = (int)gpu->model->compute_major; return CUDA_SUCCESS;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: *value = (int)gpu->model->compute_minor; return CUDA_SUCCESS;
    case CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID: *value = (int)gpu->pci_domain; return CUDA_SUCCESS;
    case CU_DEVICE_ATTRIBUTE_PCI_BUS_ID: *value = (int)gpu->pci_bus; return CUDA_SUCCESS;
    case CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID: *value = (int)gpu->pci_device; return CUDA_SUCCESS;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_MODE:
        *value = (int)state_read_number(cuda_inventory(), gpu->minor, "compute-mode", 0);
        return CUDA_SUCCESS;
    default: break;
    }
    for (size_t i = 0; i < sizeof common / sizeof common[0]; i++) {
        if (common[i].attribute == attribute) {
            *value = common[i].value;
            return CUDA_SUCCESS;
        }
    }
    return by_capability(gpu->model, attribute, value);
}

CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute attribute, CUdevice device)
{
    struct cuda_device *found;
    CUresult result = cuda_enter_device(device, &found);
    if (result != CUDA_SUCCESS)
        return result;
    if (value == NULL)
        return cuda_leave(CUDA_ERROR_INVALID_VALUE);
    return cuda_leave(get_attribute(found, attribute, value));
}
