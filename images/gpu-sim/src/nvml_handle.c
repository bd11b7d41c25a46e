/* NVML calls that find devices and tell where they are. */
#include "mig.h"
#include "nvml_session.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

nvmlReturn_t nvmlDeviceGetCount_v2(unsigned int *count)
{
    struct inventory *inventory;
    nvmlReturn_t result = session_enter(&inventory);
    if (result != NVML_SUCCESS)
        return result;
    if (count == NULL)
        return session_leave(NVML_ERROR_INVALID_ARGUMENT);
    *count = inventory->gpu_count;
    return session_leave(NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetCount(unsigned int *count)
{
    return nvmlDeviceGetCount_v2(count);
}

nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned int index, nvmlDevice_t *device)
{
    struct inventory *inventory;
    nvmlReturn_t result = session_enter(&inventory);
    if (result != NVML_SUCCESS)
        return result;
    if (device == NULL || index >= inventory->gpu_count)
        return session_leave(NVML_ERROR_INVALID_ARGUMENT);
    device->handle = &inventory->gpus[index].device;
    return session_leave(NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetHandleByIndex(unsigned int index, nvmlDevice_t *device)
{
    return nvmlDeviceGetHandleByIndex_v2(index, device);
}

static struct nvmlDevice_st *device_by_uuid(struct inventory *inventory, const char *uuid)
{
    for (unsigned int i = 0; i < inventory->gpu_count; i++) {
        struct gpu *gpu = &inventory->gpus[i];
        struct nvmlComputeInstance_st *compute;
        if (strcmp(gpu->config->uuid, uuid) == 0)
            return &gpu->device;
        for (unsigned int j = 0; (compute = mig_device(gpu, j)) != NULL; j++) {
            if (strcmp(compute->uuid, uuid) == 0)
                return &compute->device;
        }
    }
    return NULL;
}

nvmlReturn_t nvmlDeviceGetHandleByUUID(const char *uuid, nvmlDevice_t *device)
{
    struct inventory *inventory;
    nvmlReturn_t result = session_enter(&inventory);
    if (result != NVML_SUCCESS)
        return result;
    if (uuid == NULL || device == NULL)
        return session_leave(NVML_ERROR_INVALID_ARGUMENT);
    device->handle = device_by_uuid(inventory, uuid);
    return session_leave(device->handle == NULL ? NVML_ERROR_NOT_FOUND : NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetHandleByPciBusId_v2(const char *pci_bus_id, nvmlDevice_t *device)
{
    struct inventory *inventory;
    nvmlReturn_t result = session_enter(&inventory);
    if (result != NVML_SUCCESS)
        return result;
    unsigned int domain, bus, slot;
    int end = 0;
    if (pci_bus_id == NULL || device == NULL ||
        sscanf(pci_bus_id, "%x:%x:%x.0%n", &domain, &bus, &slot, &end) != 3 || end == 0 || pci_bus_id[end] != '\0')
        return session_leave(NVML_ERROR_INVALID_ARGUMENT);
    for (unsigned int i = 0; i < inventory->gpu_count; i++) {
        const struct gpu_config *config = inventory->gpus[i].config;
        if (config->pci_domain == domain && config->pci_bus == bus && config->pci_device == slot) {
            device->handle = &inventory->gpus[i].device;
            return session_leave(NVML_SUCCESS);
        }
    }
    return session_leave(NVML_ERROR_NOT_FOUND);
}

nvmlReturn_t nvmlDeviceGetHandleByPciBusId(const char *pci_bus_id, nvmlDevice_t *device)
{
    return nvmlDeviceGetHandleByPciBusId_v2(pci_bus_id, device);
}

static void format_bus_ids(const struct gpu_config *gpu, char *long_id, size_t long_size, char *short_id,
                           size_t short_size)
{
    snprintf(long_id, long_size, "%08X:%02X:%02X.0", gpu->pci_domain, gpu->pci_bus, gpu->pci_device);
    if (short_id != NULL)
        snprintf(short_id, short_size, "%04X:%02X:%02X.0", gpu->pci_domain & 0xffff, gpu->pci_bus & 0xff,
                 gpu->pci_device & 0xff);
}

nvmlReturn_t nvmlDeviceGetPciInfo_v3(nvmlDevice_t handle, nvmlPciInfo_t *pci)
{
    struct nvmlDevice_st *device;
    nvmlReturn_t result = session_enter_device(handle, &device);
    if (result != NVML_SUCCESS)
        return result;
    if (pci == NULL)
        return session_leave(NVML_ERROR_INVALID_ARGUMENT);
    const struct gpu_config *gpu = device->gpu->config;
    memset(pci, 0, sizeof *pci);
    pci->domain = gpu->pci_domain;
    pci->bus = gpu->pci_bus;
    pci->device = gpu->pci_device;
    pci->pciDeviceId = gpu->model->pci_device_id;
    format_bus_ids(gpu, pci->busId, sizeof pci->busId, pci->busIdLegacy, sizeof pci->busIdLegacy);
    return session_leave(NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetPciInfo_v2(nvmlDevice_t handle, nvmlPciInfo_t *pci)
{
    return nvmlDeviceGetPciInfo_v3(handle, pci);
}

nvmlReturn_t nvmlDeviceGetPciInfo(nvmlDevice_t handle, nvmlPciInfo_t *pci)
{
    return nvmlDeviceGetPciInfo_v3(handle, pci);
}

nvmlReturn_t nvmlDeviceGetPciInfoExt(nvmlDevice_t handle, nvmlPciInfoExt_t *pci)
{
    struct nvmlDevice_st *device;
    nvmlReturn_t result = session_enter_device(handle, &device);
    if (result != NVML_SUCCESS)
        return result;
    if (pci == NULL)
        return session_leave(NVML_ERROR_INVALID_ARGUMENT);
    if (pci->version != nvmlPciInfoExt_v1)
        return session_leave(NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
    const struct gpu_config *gpu = device->gpu->config;
    *pci = (nvmlPciInfoExt_t){.version = nvmlPciInfoExt_v1,
                              .domain = gpu->pci_domain,
                              .bus = gpu->pci_bus,
                              .device = gpu->pci_device,
                              .pciDeviceId = gpu->model->pci_device_id,
                              .baseClass = 0x03,  /* display controller */
                              .subClass = 0x02}; /* 3D controller */
    format_bus_ids(gpu, pci->busId, sizeof pci->busId, NULL, 0);
    return session_leave(NVML_SUCCESS);
}

static nvmlGpuTopologyLevel_t distance(const struct gpu *first, const struct gpu *second)
{
    if (first == second)
        return NVML_TOPOLOGY_INTERNAL;
    return strcmp(first->config->pcie_root, second->config->pcie_root) == 0 ? NVML_TOPOLOGY_HOSTBRIDGE
                                                                            : NVML_TOPOLOGY_SYSTEM;
}

nvmlReturn_t nvmlDeviceGetTopologyCommonAncestor(nvmlDevice_t first, nvmlDevice_t second, nvmlGpuTopologyLevel_t *level)
{
    struct gpu *gpu;
    nvmlReturn_t result = session_enter_gpu(first, &gpu);
    if (result != NVML_SUCCESS)
        return result;
    struct nvmlDevice_st *other = inventory_device(session_inventory(), second.handle);
    if (other == NULL || other->compute != NULL || level == NULL)
        return session_leave(NVML_ERROR_INVALID_ARGUMENT);
    *level = distance(gpu, other->gpu);
    return session_leave(NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceOnSameBoard(nvmlDevice_t first, nvmlDevice_t second, int *same)
{
    struct gpu *gpu;
    nvmlReturn_t result = session_enter_gpu(first, &gpu);
    if (result != NVML_SUCCESS)
        return result;
    struct nvmlDevice_st *other = inventory_device(session_inventory(), second.handle);
    if (other == NULL || other->compute != NULL || same == NULL)
        return session_leave(NVML_ERROR_INVALID_ARGUMENT);
    *same = other->gpu == gpu;
    return session_leave(NVML_SUCCESS);
}
