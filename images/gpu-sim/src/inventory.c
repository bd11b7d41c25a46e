#include "inventory.h"

#include "mig.h"
#include "own_file.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define COPIED_CONFIG "libnvidia-simcfg.so."

static const char *const program_folder = "/usr/bin";
static const char *const library_folders[] = {"/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib",
                                              "/lib/x86_64-linux-gnu", "/lib64"};

enum { LIBRARY_FOLDERS = sizeof library_folders / sizeof library_folders[0] };

/* Real path of the folder that holds this library or program; empty if unknown. */
static void own_folder(char folder[PATH_MAX])
{
    if (!own_file(folder))
        folder[0] = '\0';
    char *slash = strrchr(folder, '/');
    if (slash != NULL)
        *slash = '\0';
}

static bool ends_with(const char *text, const char *end)
{
    size_t length = strlen(text), end_length = strlen(end);
    return length >= end_length && strcmp(text + length - end_length, end) == 0;
}

/* The folder without its usual end is the root: /driver-root/usr/lib64 lies in /driver-root. */
static void strip_usual_folder(const char *folder, char root[PATH_MAX])
{
    size_t length = strlen(folder);
    snprintf(root, PATH_MAX, "%s", folder);
    for (size_t i = 0; i <= LIBRARY_FOLDERS; i++) {
        const char *usual = i == LIBRARY_FOLDERS ? program_folder : library_folders[i];
        size_t end = strlen(usual);
        if (ends_with(folder, usual)) {
            root[length - end] = '\0';
            return;
        }
    }
    root[0] = '\0';
}

/* A container gets every *.so.<driver version> of the driver root, and so the configuration under such a name. */
static bool find_copied_config(const char *folder, char path[PATH_MAX])
{
    DIR *entries = opendir(folder);
    unsigned int found = 0;
    for (struct dirent *entry; entries != NULL && (entry = readdir(entries)) != NULL;) {
        if (strncmp(entry->d_name, COPIED_CONFIG, strlen(COPIED_CONFIG)) != 0)
            continue;
        found++;
        if (snprintf(path, PATH_MAX, "%s/%s", folder, entry->d_name) >= PATH_MAX)
            found = 0;
    }
    if (entries != NULL)
        closedir(entries);
    return found == 1;
}

/* A library has it in its own folder; a program looks where a container may have got its libraries. */
static bool find_container_config(const char *root, const char *folder, char path[PATH_MAX])
{
    if (!ends_with(folder, program_folder))
        return find_copied_config(folder, path);
    for (size_t i = 0; i < LIBRARY_FOLDERS; i++) {
        char libraries[PATH_MAX + 32];
        snprintf(libraries, sizeof libraries, "%s%s", root, library_folders[i]);
        if (find_copied_config(libraries, path))
            return true;
    }
    return false;
}

static bool find_config(struct inventory *inventory, char path[PATH_MAX])
{
    char folder[PATH_MAX];
    own_folder(folder);
    strip_usual_folder(folder, inventory->root);
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
    return find_container_config(inventory->root, folder, path);
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
                 "libnvidia-simcfg.so.* among the libraries", inventory->root);
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
