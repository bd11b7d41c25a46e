/* NVML event sets. The one event a simulated GPU has is an XID error that somebody puts into <root>/run/xid:
   lines of "GPU_INDEX XID" or, for a MIG device, "GPU_INDEX XID GPU_INSTANCE COMPUTE_INSTANCE". */
#include "nvml_session.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { MAX_SETS = 16, MAX_PENDING = 32, POLL_MILLISECONDS = 50, XID_FILE_SIZE = 4096 };

static const unsigned int whole_gpu = 0xFFFFFFFF;
static const unsigned long long supported_events =
    nvmlEventTypeXidCriticalError | nvmlEventTypeDoubleBitEccError | nvmlEventTypeSingleBitEccError;

struct nvmlEventSet_st {
    bool exists;
    unsigned long long types[CONFIG_MAX_GPUS]; /* by GPU index */
    nvmlEventData_t pending[MAX_PENDING];
    unsigned int pending_count;
};

static struct nvmlEventSet_st sets[MAX_SETS];
/* A root that cannot be written keeps its file; the one already read is told by these. */
static struct stat last_read;

static struct nvmlEventSet_st *find_set(nvmlEventSet_t handle)
{
    for (unsigned int i = 0; i < MAX_SETS; i++) {
        if (handle.handle == &sets[i] && sets[i].exists)
            return &sets[i];
    }
    return NULL;
}

nvmlReturn_t nvmlEventSetCreate(nvmlEventSet_t *set)
{
    struct inventory *inventory;
    nvmlReturn_t result = session_enter(&inventory);
    if (result != NVML_SUCCESS)
        return result;
    if (set == NULL)
        return session_leave(NVML_ERROR_INVALID_ARGUMENT);
    for (unsigned int i = 0; i < MAX_SETS; i++) {
        if (sets[i].exists)
            continue;
        sets[i] = (struct nvmlEventSet_st){.exists = true};
        set->handle = &sets[i];
        return session_leave(NVML_SUCCESS);
    }
    return session_leave(NVML_ERROR_INSUFFICIENT_RESOURCES);
}

nvmlReturn_t nvmlEventSetFree(nvmlEventSet_t handle)
{
    struct inventory *inventory;
    nvmlReturn_t result = session_enter(&inventory);
    if (result != NVML_SUCCESS)
        return result;
    struct nvmlEventSet_st *set = find_set(handle);
    if (set == NULL)
        return session_leave(NVML_ERROR_INVALID_ARGUMENT);
    set->exists = false;
    return session_leave(NVML_SUCCESS);
}

/* What is injected reaches one reader, who is the driver's plugin: a container is told of no event, not of none yet. */
static nvmlReturn_t find_supported(unsigned long long *types)
{
    struct inventory *inventory;
    nvmlReturn_t result = session_enter(&inventory);
    if (result != NVML_SUCCESS)
        return result;
    *types = inventory->driver_root ? supported_events : 0;
    return session_leave(NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetSupportedEventTypes(nvmlDevice_t handle, unsigned long long *types)
{
    struct gpu *gpu;
    unsigned long long supported;
    nvmlReturn_t result = find_supported(&supported);
    if (result == NVML_SUCCESS)
        result = session_enter_gpu(handle, &gpu);
    if (result != NVML_SUCCESS)
        return result;
    if (types == NULL)
        return session_leave(NVML_ERROR_INVALID_ARGUMENT);
    *types = supported;
    return session_leave(NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceRegisterEvents(nvmlDevice_t handle, unsigned long long types, nvmlEventSet_t set_handle)
{
    struct gpu *gpu;
    unsigned long long supported;
    nvmlReturn_t result = find_supported(&supported);
    if (result == NVML_SUCCESS)
        result = session_enter_gpu(handle, &gpu);
    if (result != NVML_SUCCESS)
        return result;
    struct nvmlEventSet_st *set = find_set(set_handle);
    if (set == NULL)
        return session_leave(NVML_ERROR_INVALID_ARGUMENT);
    if ((types & ~supported) != 0)
        return session_leave(NVML_ERROR_NOT_SUPPORTED);
    set->types[gpu->index] |= types;
    return session_leave(NVML_SUCCESS);
}

/* Hands the event to every set that registered for it. */
static void deliver(struct inventory *inventory, const char *line)
{
    unsigned int index, xid, gpu_instance = whole_gpu, compute_instance = whole_gpu;
    int count = sscanf(line, "%u %u %u %u", &index, &xid, &gpu_instance, &compute_instance);
    if ((count != 2 && count != 4) || index >= inventory->gpu_count) {
        fprintf(stderr, "simulated NVML: run/xid: \"%s\" is not GPU_INDEX XID [GPU_INSTANCE COMPUTE_INSTANCE]\n", line);
        return;
    }
    nvmlEventData_t event = {.device = {&inventory->gpus[index].device},
                             .eventType = nvmlEventTypeXidCriticalError,
                             .eventData = xid,
                             .gpuInstanceId = gpu_instance,
                             .computeInstanceId = compute_instance};
    for (unsigned int i = 0; i < MAX_SETS; i++) {
        struct nvmlEventSet_st *set = &sets[i];
        if (set->exists && (set->types[index] & nvmlEventTypeXidCriticalError) != 0 && set->pending_count < MAX_PENDING)
            set->pending[set->pending_count++] = event;
    }
}

static bool already_read(const struct stat *file)
{
    return file->st_dev == last_read.st_dev && file->st_ino == last_read.st_ino &&
           file->st_mtim.tv_sec == last_read.st_mtim.tv_sec && file->st_mtim.tv_nsec == last_read.st_mtim.tv_nsec;
}

/* Reads a complete file; one without a final newline is still being written. */
static bool read_xid_file(const char *path, char text[XID_FILE_SIZE])
{
    struct stat status;
    int file = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (file < 0)
        return false;
    ssize_t length = read(file, text, XID_FILE_SIZE - 1);
    bool usable = fstat(file, &status) == 0 && S_ISREG(status.st_mode) && !already_read(&status);
    close(file);
    if (!usable || length <= 0 || text[length - 1] != '\n')
        return false;
    text[length] = '\0';
    if (unlink(path) != 0 && errno == ENOENT)
        return false; /* another process took it */
    last_read = status;
    return true;
}

static void collect_events(struct inventory *inventory)
{
    char path[PATH_MAX + 16], text[XID_FILE_SIZE];
    if (!inventory->driver_root)
        return;
    snprintf(path, sizeof path, "%s/run/xid", inventory->root);
    if (!read_xid_file(path, text))
        return;
    char *state = NULL;
    for (char *line = strtok_r(text, "\n", &state); line != NULL; line = strtok_r(NULL, "\n", &state))
        deliver(inventory, line);
}

static nvmlReturn_t take_event(nvmlEventSet_t handle, nvmlEventData_t *data)
{
    struct inventory *inventory;
    nvmlReturn_t result = session_enter(&inventory);
    if (result != NVML_SUCCESS)
        return result;
    struct nvmlEventSet_st *set = find_set(handle);
    if (set == NULL || data == NULL)
        return session_leave(NVML_ERROR_INVALID_ARGUMENT);
    collect_events(inventory);
    if (set->pending_count == 0)
        return session_leave(NVML_ERROR_TIMEOUT);
    *data = set->pending[0];
    memmove(set->pending, set->pending + 1, --set->pending_count * sizeof set->pending[0]);
    return session_leave(NVML_SUCCESS);
}

nvmlReturn_t nvmlEventSetWait_v2(nvmlEventSet_t handle, nvmlEventData_t *data, unsigned int timeout_milliseconds)
{
    for (unsigned int waited = 0;; waited += POLL_MILLISECONDS) {
        nvmlReturn_t result = take_event(handle, data);
        if (result != NVML_ERROR_TIMEOUT || waited >= timeout_milliseconds)
            return result;
        nanosleep(&(struct timespec){.tv_nsec = POLL_MILLISECONDS * 1000000L}, NULL);
    }
}

nvmlReturn_t nvmlEventSetWait(nvmlEventSet_t handle, nvmlEventData_t *data, unsigned int timeout_milliseconds)
{
    return nvmlEventSetWait_v2(handle, data, timeout_milliseconds);
}
