/* The simulated libcuda's start and its devices. */
#include "cuda_private.h"

#include "mps_values.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t fork_handler = PTHREAD_ONCE_INIT;
static bool initialised;
static bool forked; /* CUDA does not work in a fork of a process that has started it */
static struct inventory inventory;
static struct cuda_device devices[DEVICES_MAX];
static unsigned int device_count;

static bool load_inventory(struct inventory *target)
{
    char error[PATH_MAX + 256];
    if (inventory_load(target, error, sizeof error))
        return true;
    fprintf(stderr, "simulated CUDA: %s\n", error);
    return false;
}

static void before_fork(void)
{
    pthread_mutex_lock(&lock);
}

static void after_fork_in_parent(void)
{
    pthread_mutex_unlock(&lock);
}

static void after_fork_in_child(void)
{
    forked = initialised;
    cuda_mps_forget();
    pthread_mutex_unlock(&lock);
}

static void watch_forks(void)
{
    pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
}

static unsigned int list_reachable(struct cuda_device reachable[DEVICES_MAX])
{
    struct device found[DEVICES_MAX];
    unsigned int count = devices_all(&inventory, found);
    for (unsigned int i = 0; i < count; i++)
        reachable[i] = (struct cuda_device){.device = found[i], .granted = device_multiprocessors(&found[i])};
    return count;
}

/* CUDA_VISIBLE_DEVICES counts among the MPS server's devices, as measured, or among all without one. */
static void choose_devices(const struct cuda_device *reachable, unsigned int count)
{
    struct device plain[DEVICES_MAX];
    unsigned int chosen[DEVICES_MAX];
    for (unsigned int i = 0; i < count; i++)
        plain[i] = reachable[i].device;
    device_count = devices_select(plain, count, getenv("CUDA_VISIBLE_DEVICES"), chosen);
    for (unsigned int i = 0; i < device_count; i++)
        devices[i] = reachable[chosen[i]];
}

static void set_limits(uint64_t limits[DEVICES_MAX])
{
    struct device plain[DEVICES_MAX];
    for (unsigned int i = 0; i < device_count; i++)
        plain[i] = devices[i].device;
    mps_client_limits(getenv("CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"), plain, device_count, limits);
    for (unsigned int i = 0; i < device_count; i++)
        devices[i].own.limit = limits[i];
}

static CUresult start_devices(void)
{
    struct cuda_device reachable[DEVICES_MAX];
    uint64_t limits[DEVICES_MAX] = {0};
    CUresult result = CUDA_SUCCESS;
    unsigned int count = list_reachable(reachable);
    enum cuda_mps_start mps = cuda_mps_connect(reachable, &count, limits, &result);
    if (mps == CUDA_MPS_FAILED)
        return result;
    choose_devices(reachable, count);
    if (device_count == 0) {
        cuda_mps_forget();
        return CUDA_ERROR_NO_DEVICE;
    }
    if (mps == CUDA_MPS_CONNECTED)
        set_limits(limits);
    for (unsigned int i = 0; i < device_count; i++) {
        device_memory_start(&devices[i].memory, device_memory(&devices[i].device), false);
        devices[i].primary_handle = cuda_context_new_handle();
    }
    initialised = true;
    return CUDA_SUCCESS;
}

static CUresult initialise(void)
{
    if (forked)
        return CUDA_ERROR_NOT_INITIALIZED;
    if (initialised)
        return CUDA_SUCCESS;
    if (!load_inventory(&inventory))
        return CUDA_ERROR_UNKNOWN;
    return start_devices();
}

CUresult cuInit(unsigned int flags)
{
    if (flags != 0)
        return CUDA_ERROR_INVALID_VALUE;
    pthread_once(&fork_handler, watch_forks);
    pthread_mutex_lock(&lock);
    return cuda_leave(initialise());
}

CUresult cuda_enter(void)
{
    pthread_mutex_lock(&lock);
    return initialised && !forked ? CUDA_SUCCESS : cuda_leave(CUDA_ERROR_NOT_INITIALIZED);
}

CUresult cuda_leave(CUresult result)
{
    pthread_mutex_unlock(&lock);
    return result;
}

CUresult cuda_enter_device(CUdevice number, struct cuda_device **device)
{
    CUresult result = cuda_enter();
    if (result != CUDA_SUCCESS)
        return result;
    if (number < 0 || (unsigned int)number >= device_count)
        return cuda_leave(CUDA_ERROR_INVALID_DEVICE);
    *device = &devices[number];
    return CUDA_SUCCESS;
}

struct cuda_device *cuda_device(unsigned int number)
{
    return &devices[number];
}

const struct inventory *cuda_inventory(void)
{
    return &inventory;
}

/* Works before cuInit, as CUDA's does, and starts nothing. */
CUresult cuDriverGetVersion(int *version)
{
    static struct inventory read;
    if (version == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&lock);
    if (!initialised && !load_inventory(&read))
        return cuda_leave(CUDA_ERROR_UNKNOWN);
    *version = (int)(initialised ? &inventory : &read)->config.cuda_version;
    return cuda_leave(CUDA_SUCCESS);
}

CUresult cuDeviceGetCount(int *count)
{
    CUresult result = cuda_enter();
    if (result != CUDA_SUCCESS)
        return result;
    if (count == NULL)
        return cuda_leave(CUDA_ERROR_INVALID_VALUE);
    *count = (int)device_count;
    return cuda_leave(CUDA_SUCCESS);
}

CUresult cuDeviceGet(CUdevice *device, int ordinal)
{
    struct cuda_device *found;
    CUresult result = cuda_enter_device(ordinal, &found);
    if (result != CUDA_SUCCESS)
        return result;
    if (device == NULL)
        return cuda_leave(CUDA_ERROR_INVALID_VALUE);
    *device = ordinal;
    return cuda_leave(CUDA_SUCCESS);
}

CUresult cuDeviceGetName(char *name, int length, CUdevice device)
{
    struct cuda_device *found;
    CUresult result = cuda_enter_device(device, &found);
    if (result != CUDA_SUCCESS)
        return result;
    if (name == NULL || length <= 0)
        return cuda_leave(CUDA_ERROR_INVALID_VALUE);
    device_name(&found->device, name, (size_t)length);
    return cuda_leave(CUDA_SUCCESS);
}

static CUresult get_uuid(CUuuid *uuid, CUdevice device, bool mig)
{
    struct cuda_device *found;
    CUresult result = cuda_enter_device(device, &found);
    if (result != CUDA_SUCCESS)
        return result;
    if (uuid == NULL)
        return cuda_leave(CUDA_ERROR_INVALID_VALUE);
    const struct device gpu = {.gpu = found->device.gpu};
    bool known = device_key(mig ? &found->device : &gpu, (unsigned char *)uuid->bytes);
    return cuda_leave(known ? CUDA_SUCCESS : CUDA_ERROR_UNKNOWN);
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

/* All that CUDA offers, whatever an MPS client's limit: measured. */
CUresult cuDeviceTotalMem_v2(size_t *bytes, CUdevice device)
{
    struct cuda_device *found;
    CUresult result = cuda_enter_device(device, &found);
    if (result != CUDA_SUCCESS)
        return result;
    if (bytes == NULL)
        return cuda_leave(CUDA_ERROR_INVALID_VALUE);
    *bytes = device_memory(&found->device);
    return cuda_leave(CUDA_SUCCESS);
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
    struct cuda_device *found;
    CUresult result = cuda_enter_device(device, &found);
    if (result != CUDA_SUCCESS)
        return result;
    if (pci_bus_id == NULL || length <= 0)
        return cuda_leave(CUDA_ERROR_INVALID_VALUE);
    const struct gpu_config *gpu = found->device.gpu;
    snprintf(pci_bus_id, (size_t)length, "%04X:%02X:%02X.0", gpu->pci_domain, gpu->pci_bus, gpu->pci_device);
    return cuda_leave(CUDA_SUCCESS);
}
