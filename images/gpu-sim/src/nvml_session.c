#include "nvml_session.h"

#include "mig.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static unsigned int references;
static struct inventory inventory;

nvmlReturn_t session_start(unsigned int flags)
{
    char error[PATH_MAX + 256];
    pthread_mutex_lock(&lock);
    if (references == 0 && !inventory_load(&inventory, error, sizeof error)) {
        fprintf(stderr, "simulated NVML: %s\n", error);
        return session_leave(NVML_ERROR_DRIVER_NOT_LOADED);
    }
    if (inventory.gpu_count == 0 && (flags & NVML_INIT_FLAG_NO_GPUS) == 0)
        return session_leave(NVML_ERROR_GPU_NOT_FOUND);
    references++;
    return session_leave(NVML_SUCCESS);
}

nvmlReturn_t session_stop(void)
{
    struct inventory *unused;
    nvmlReturn_t result = session_enter(&unused);
    if (result != NVML_SUCCESS)
        return result;
    references--;
    return session_leave(NVML_SUCCESS);
}

nvmlReturn_t session_enter(struct inventory **entered)
{
    pthread_mutex_lock(&lock);
    if (references == 0)
        return session_leave(NVML_ERROR_UNINITIALIZED);
    for (unsigned int i = 0; i < inventory.gpu_count; i++)
        mig_refresh(&inventory, &inventory.gpus[i]);
    *entered = &inventory;
    return NVML_SUCCESS;
}

nvmlReturn_t session_leave(nvmlReturn_t result)
{
    pthread_mutex_unlock(&lock);
    return result;
}

nvmlReturn_t session_enter_device(nvmlDevice_t handle, struct nvmlDevice_st **device)
{
    struct inventory *entered;
    nvmlReturn_t result = session_enter(&entered);
    if (result != NVML_SUCCESS)
        return result;
    *device = inventory_device(entered, handle.handle);
    return *device == NULL ? session_leave(NVML_ERROR_INVALID_ARGUMENT) : NVML_SUCCESS;
}

nvmlReturn_t session_enter_gpu(nvmlDevice_t handle, struct gpu **gpu)
{
    struct nvmlDevice_st *device;
    nvmlReturn_t result = session_enter_device(handle, &device);
    if (result != NVML_SUCCESS)
        return result;
    if (device->compute != NULL)
        return session_leave(NVML_ERROR_INVALID_ARGUMENT);
    *gpu = device->gpu;
    return NVML_SUCCESS;
}

nvmlReturn_t session_enter_gpu_instance(nvmlGpuInstance_t handle, struct nvmlGpuInstance_st **instance)
{
    struct inventory *entered;
    nvmlReturn_t result = session_enter(&entered);
    if (result != NVML_SUCCESS)
        return result;
    for (unsigned int i = 0; i < entered->gpu_count; i++) {
        for (unsigned int j = 0; j < CONFIG_INSTANCE_IDS; j++) {
            *instance = &entered->gpus[i].instances[j];
            if (*instance == handle.handle && (*instance)->exists)
                return NVML_SUCCESS;
        }
    }
    return session_leave(NVML_ERROR_INVALID_ARGUMENT);
}

nvmlReturn_t session_enter_compute_instance(nvmlComputeInstance_t handle, struct nvmlComputeInstance_st **compute)
{
    struct inventory *entered;
    nvmlReturn_t result = session_enter(&entered);
    if (result != NVML_SUCCESS)
        return result;
    for (unsigned int i = 0; i < entered->gpu_count; i++) {
        for (unsigned int j = 0; (*compute = mig_device(&entered->gpus[i], j)) != NULL; j++) {
            if (*compute == handle.handle)
                return NVML_SUCCESS;
        }
    }
    return session_leave(NVML_ERROR_INVALID_ARGUMENT);
}

nvmlReturn_t session_may_see(const struct nvmlDevice_st *device)
{
    bool hidden = device->compute == NULL && device->gpu->mig_enabled && !inventory.driver_root;
    return hidden ? NVML_ERROR_NO_PERMISSION : NVML_SUCCESS;
}

struct inventory *session_inventory(void)
{
    return &inventory;
}

nvmlReturn_t session_not_supported(void)
{
    struct inventory *entered;
    nvmlReturn_t result = session_enter(&entered);
    return result == NVML_SUCCESS ? session_leave(NVML_ERROR_NOT_SUPPORTED) : result;
}

nvmlReturn_t copy_text(char *target, unsigned int size, const char *text)
{
    if (target == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (strlen(text) >= size)
        return NVML_ERROR_INSUFFICIENT_SIZE;
    strcpy(target, text);
    return NVML_SUCCESS;
}
