#include "inventory.h"

#include "mig.h"

#include <dlfcn.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *const library_folders[] = {"/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib",
                                              "/lib/x86_64-linux-gnu", "/lib64"};

/* Real path of the folder this library was loaded from; empty if unknown. */
static void own_folder(char folder[PATH_MAX])
{
    Dl_info info;
    folder[0] = '\0';
    if (dladdr((void *)(uintptr_t)&inventory_load, &info) == 0 || info.dli_fname == NULL ||
        realpath(info.dli_fname, folder) == NULL) {
        folder[0] = '\0';
        return;
    }
    char *slash = strrchr(folder, '/');
    if (slash != NULL)
        *slash = '\0';
}

/* The library folder without its usual end is the root: /driver-root/usr/lib64 lies in /driver-root. */
static void strip_library_folder(const char *folder, char root[PATH_MAX])
{
    size_t length = strlen(folder);
    snprintf(root, PATH_MAX, "%s", folder);
    for (size_t i = 0; i < sizeof library_folders / sizeof library_folders[0]; i++) {
        size_t end = strlen(library_folders[i]);
        if (length >= end && strcmp(folder + length - end, library_folders[i]) == 0) {
            root[length - end] = '\0';
            return;
        }
    }
    root[0] = '\0';
}

/* A container gets every *.so.<driver version> of the driver root, and so the configuration under such a name. */
static bool find_copied_config(const char *folder, char path[PATH_MAX])
{
    char pattern[PATH_MAX + 32];
    glob_t matches;
    snprintf(pattern, sizeof pattern, "%s/libnvidia-simcfg.so.*", folder);
    bool found = glob(pattern, 0, NULL, &matches) == 0 && matches.gl_pathc == 1;
    if (found)
        snprintf(path, PATH_MAX, "%s", matches.gl_pathv[0]);
    globfree(&matches);
    return found;
}

static bool find_config(struct inventory *inventory, char path[PATH_MAX])
{
    char folder[PATH_MAX];
    own_folder(folder);
    strip_library_folder(folder, inventory->root);
    inventory->driver_root = true;
    const char *configured = getenv("GPU_SIM_CONFIG");
    if (configured != NULL && *configured != '\0') {
        snprintf(path, PATH_MAX, "%s", configured);
        return true;
    }
    char own[PATH_MAX + 32];
    snprintf(own, sizeof own, "%s/etc/gpu-sim.ini", inventory->root);
    if (access(own, F_OK) == 0 && strlen(own) < PATH_MAX) {
        memcpy(path, own, strlen(own) + 1);
        return true;
    }
    inventory->driver_root = false;
    return find_copied_config(folder, path);
}

static bool gpu_is_visible(const struct inventory *inventory, unsigned int minor)
{
    char path[PATH_MAX + 32];
    snprintf(path, sizeof path, "%s/dev/nvidia%u", inventory->root, minor);
    return access(path, F_OK) == 0;
}

bool inventory_load(struct inventory *inventory, char *error, size_t error_size)
{
    char path[PATH_MAX];
    memset(inventory, 0, sizeof *inventory);
    if (!find_config(inventory, path)) {
        snprintf(error, error_size, "no configuration: neither GPU_SIM_CONFIG nor %s/etc/gpu-sim.ini nor exactly one "
                 "libnvidia-simcfg.so.* beside this library", inventory->root);
        return false;
    }
    if (!config_load(&inventory->config, path, error, error_size))
        return false;
    for (unsigned int i = 0; i < inventory->config.gpu_count; i++) {
        const struct gpu_config *config = &inventory->config.gpus[i];
        if (!gpu_is_visible(inventory, config->minor))
            continue;
        struct gpu *gpu = &inventory->gpus[inventory->gpu_count];
        gpu->config = config;
        gpu->index = inventory->gpu_count++;
        gpu->device.gpu = gpu;
        if (!mig_load(inventory, gpu, error, error_size))
            return false;
    }
    return true;
}

static struct nvmlDevice_st *mig_device_of(struct gpu *gpu, const struct nvmlDevice_st *handle)
{
    for (unsigned int i = 0; i < CONFIG_INSTANCE_IDS; i++) {
        struct nvmlGpuInstance_st *instance = &gpu->instances[i];
        if (!instance->exists)
            continue;
        for (unsigned int j = 0; j < CONFIG_MAX_COMPUTE_INSTANCES; j++) {
            if (instance->compute[j].exists && handle == &instance->compute[j].device)
                return &instance->compute[j].device;
        }
    }
    return NULL;
}

struct nvmlDevice_st *inventory_device(struct inventory *inventory, const struct nvmlDevice_st *handle)
{
    for (unsigned int i = 0; i < inventory->gpu_count; i++) {
        struct gpu *gpu = &inventory->gpus[i];
        if (handle == &gpu->device)
            return &gpu->device;
        struct nvmlDevice_st *mig_device = mig_device_of(gpu, handle);
        if (mig_device != NULL)
            return mig_device;
    }
    return NULL;
}
