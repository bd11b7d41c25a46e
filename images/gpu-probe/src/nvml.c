/* The part of NVML the probe asks, found at run time so that the probe starts without any driver. */
#include "probe.h"

#include <dlfcn.h>
#include <string.h>

typedef int nvmlReturn;
typedef struct nvmlDevice_st *nvmlDevice;

struct nvml_pci_info {
    char bus_id_legacy[16];
    unsigned int domain, bus, device, pci_device_id, pci_subsystem_id;
    char bus_id[32];
};

struct nvml_memory {
    unsigned long long total, free, used;
};

#define NVML_FUNCTIONS(X)                                                             \
    X(nvmlReturn, nvmlInitWithFlags, unsigned int)                                    \
    X(const char *, nvmlErrorString, nvmlReturn)                                      \
    X(nvmlReturn, nvmlSystemGetDriverVersion, char *, unsigned int)                   \
    X(nvmlReturn, nvmlDeviceGetCount_v2, unsigned int *)                              \
    X(nvmlReturn, nvmlDeviceGetHandleByIndex_v2, unsigned int, nvmlDevice *)          \
    X(nvmlReturn, nvmlDeviceGetUUID, nvmlDevice, char *, unsigned int)                \
    X(nvmlReturn, nvmlDeviceGetName, nvmlDevice, char *, unsigned int)                \
    X(nvmlReturn, nvmlDeviceGetPciInfo_v3, nvmlDevice, struct nvml_pci_info *)        \
    X(nvmlReturn, nvmlDeviceGetMemoryInfo, nvmlDevice, struct nvml_memory *)          \
    X(nvmlReturn, nvmlDeviceGetMigMode, nvmlDevice, unsigned int *, unsigned int *)   \
    X(nvmlReturn, nvmlDeviceGetMaxMigDeviceCount, nvmlDevice, unsigned int *)         \
    X(nvmlReturn, nvmlDeviceGetMigDeviceHandleByIndex, nvmlDevice, unsigned int, nvmlDevice *)

#define DECLARE(result, name, ...) static result (*name)(__VA_ARGS__);
NVML_FUNCTIONS(DECLARE)
#undef DECLARE

static bool resolve(void *library, const char *symbol, void *target, struct probe *probe)
{
    void *address = dlsym(library, symbol);
    memcpy(target, &address, sizeof address);
    if (address == NULL)
        snprintf(probe->nvml_error, sizeof probe->nvml_error, "libnvidia-ml.so.1 has no %s", symbol);
    return address != NULL;
}

static bool load(void *library, struct probe *probe)
{
#define RESOLVE(result, name, ...)                    \
    if (!resolve(library, #name, &name, probe))       \
        return false;
    NVML_FUNCTIONS(RESOLVE)
#undef RESOLVE
    probe->simulated = dlsym(library, "gpuSimulated") != NULL;
    return true;
}

static bool check(struct probe *probe, nvmlReturn result, const char *call)
{
    if (result != 0)
        snprintf(probe->nvml_error, sizeof probe->nvml_error, "%s: NVML error %d (%s)", call, result,
                 nvmlErrorString(result));
    return result == 0;
}

static void add(struct probe *probe, nvmlDevice device, unsigned int index, const char *bus_id, bool mig)
{
    struct nvml_memory memory;
    if (probe->gpu_count == PROBE_MAX_GPUS)
        return;
    struct probe_gpu *gpu = &probe->gpus[probe->gpu_count];
    *gpu = (struct probe_gpu){.index = index, .multiprocessors = -1, .mig = mig};
    snprintf(gpu->pci_bus_id, sizeof gpu->pci_bus_id, "%s", bus_id);
    if (!check(probe, nvmlDeviceGetUUID(device, gpu->uuid, sizeof gpu->uuid), "nvmlDeviceGetUUID") ||
        !check(probe, nvmlDeviceGetName(device, gpu->name, sizeof gpu->name), "nvmlDeviceGetName") ||
        !check(probe, nvmlDeviceGetMemoryInfo(device, &memory), "nvmlDeviceGetMemoryInfo"))
        return;
    gpu->memory_mib = memory.total >> 20;
    probe->gpu_count++;
}

/* Where MIG is on, a process can use the MIG devices and not the GPU as a whole. */
static bool add_mig_devices(struct probe *probe, nvmlDevice gpu, unsigned int index, const char *bus_id)
{
    unsigned int current = 0, pending = 0, count = 0;
    if (nvmlDeviceGetMigMode(gpu, &current, &pending) != 0 || current == 0)
        return false;
    nvmlDeviceGetMaxMigDeviceCount(gpu, &count);
    for (unsigned int i = 0; i < count; i++) {
        nvmlDevice mig;
        if (nvmlDeviceGetMigDeviceHandleByIndex(gpu, i, &mig) == 0)
            add(probe, mig, index, bus_id, true);
    }
    return true;
}

static void add_gpu(struct probe *probe, unsigned int index)
{
    nvmlDevice device;
    struct nvml_pci_info pci = {.bus_id = ""};
    if (!check(probe, nvmlDeviceGetHandleByIndex_v2(index, &device), "nvmlDeviceGetHandleByIndex") ||
        !check(probe, nvmlDeviceGetPciInfo_v3(device, &pci), "nvmlDeviceGetPciInfo"))
        return;
    if (!add_mig_devices(probe, device, index, pci.bus_id))
        add(probe, device, index, pci.bus_id, false);
}

void probe_libraries(struct probe *probe)
{
    const unsigned int no_gpus_is_fine = 1; /* NVML_INIT_FLAG_NO_GPUS */
    unsigned int count = 0;
    void *library = probe_open("libnvidia-ml.so.1", probe->nvml_error, sizeof probe->nvml_error);
    if (library != NULL && load(library, probe) &&
        check(probe, nvmlInitWithFlags(no_gpus_is_fine), "nvmlInitWithFlags") &&
        check(probe, nvmlSystemGetDriverVersion(probe->driver_version, sizeof probe->driver_version),
              "nvmlSystemGetDriverVersion") &&
        check(probe, nvmlDeviceGetCount_v2(&count), "nvmlDeviceGetCount")) {
        for (unsigned int i = 0; i < count; i++)
            add_gpu(probe, i);
    }
    probe_cuda(probe);
}
