/* Where a GPU's MIG instances come from when a process starts, and where they are remembered. */
#include "mig.h"

#include "ini.h"
#include "state.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static unsigned int full_compute_profile(const struct nvmlGpuInstance_st *instance)
{
    unsigned int index = 0;
    while (mig_compute_slices(instance, index) != instance->profile->slices)
        index++;
    return index;
}

static bool capability_is_granted(const struct inventory *inventory, unsigned int minor)
{
    char path[PATH_MAX + 64];
    snprintf(path, sizeof path, "%s/dev/nvidia-caps/nvidia-cap%u", inventory->root, minor);
    return access(path, F_OK) == 0;
}

static bool find_generation(const struct inventory *inventory, unsigned int gpu_minor, unsigned int id,
                            unsigned int *generation)
{
    for (*generation = 0; *generation < CONFIG_GENERATIONS; (*generation)++) {
        if (capability_is_granted(inventory, config_compute_minor(gpu_minor, id, 0, *generation)))
            return true;
    }
    return false;
}

/* A container only ever sees whole GPU instances here: the driver creates no partial compute instances. */
static void load_from_capabilities(const struct inventory *inventory, struct gpu *gpu)
{
    /* A layout that is there from the start is known here too; that NVIDIA's driver has cut a GPU up later is not. */
    gpu->mig_enabled = gpu->mig_pending = gpu->config->mig_enabled;
    for (unsigned int id = 1; id < CONFIG_INSTANCE_IDS; id++) {
        unsigned int minor = config_capability_minor(gpu->config->minor, id), start = 0;
        const struct mig_profile *profile = config_instance(gpu->config->model, id, &start);
        struct nvmlGpuInstance_st *instance;
        struct nvmlComputeInstance_st *compute;
        unsigned int generation = 0;
        if (profile == NULL || !capability_is_granted(inventory, minor) ||
            !find_generation(inventory, gpu->config->minor, id, &generation) ||
            mig_create_instance(gpu, profile, start, &instance) != MIG_OK)
            continue;
        gpu->mig_enabled = gpu->mig_pending = true;
        if (mig_create_compute(instance, full_compute_profile(instance), &compute) == MIG_OK)
            mig_set_generation(compute, generation);
    }
}

static bool load_static(struct gpu *gpu, char *error, size_t error_size)
{
    for (unsigned int i = 0; i < gpu->config->static_mig_count; i++) {
        const struct static_mig *entry = &gpu->config->static_mig[i];
        struct nvmlGpuInstance_st *instance;
        struct nvmlComputeInstance_st *compute;
        if (mig_create_instance(gpu, entry->profile, entry->start, &instance) != MIG_OK) {
            snprintf(error, error_size, "GPU %u: mig %s@%u does not fit beside the others", gpu->config->minor,
                     entry->profile->name, entry->start);
            return false;
        }
        mig_create_compute(instance, full_compute_profile(instance), &compute);
    }
    gpu->mig_enabled = gpu->mig_pending = gpu->config->mig_enabled;
    return true;
}

/* "MODE", or "MODE>PENDING" where a reset would change it. */
static bool restore_mode(struct gpu *gpu, char *text)
{
    unsigned int enabled, pending;
    char *then = strchr(text, '>');
    if (then != NULL)
        *then = '\0';
    if (!ini_number(text, 0, 1, &enabled) || !ini_number(then == NULL ? text : then + 1, 0, 1, &pending))
        return false;
    gpu->mig_enabled = enabled == 1;
    gpu->mig_pending = pending == 1;
    return true;
}

/* "COMPUTE_PROFILE", then ":ID:START" of a part of the instance, then "#GENERATION" if it is not 0. */
static bool restore_compute(struct nvmlGpuInstance_st *instance, char *text)
{
    unsigned int compute_profile, id = 0, start = 0, generation = 0;
    char *hash = strchr(text, '#');
    if (hash != NULL)
        *hash = '\0';
    char *colon = strchr(text, ':'), rest;
    if (colon != NULL)
        *colon = '\0';
    if ((hash != NULL && !ini_number(hash + 1, 0, CONFIG_GENERATIONS - 1, &generation)) ||
        (colon != NULL && sscanf(colon + 1, "%1u:%1u%c", &id, &start, &rest) != 2) ||
        !ini_number(text, 0, 8, &compute_profile))
        return false;
    struct nvmlComputeInstance_st *compute = mig_restore_compute(instance, compute_profile, id, start);
    if (compute == NULL)
        return false;
    mig_set_generation(compute, generation);
    return true;
}

/* "INSTANCE", or "INSTANCE/" and a compute instance of it. */
static bool restore_instance(struct gpu *gpu, char *item)
{
    unsigned int id, start = 0;
    char *slash = strchr(item, '/');
    if (slash != NULL)
        *slash = '\0';
    if (!ini_number(item, 1, CONFIG_INSTANCE_IDS - 1, &id))
        return false;
    const struct mig_profile *profile = config_instance(gpu->config->model, id, &start);
    struct nvmlGpuInstance_st *instance = &gpu->instances[id];
    if (profile == NULL || (!instance->exists && mig_create_instance(gpu, profile, start, &instance) != MIG_OK))
        return false;
    return slash == NULL || restore_compute(instance, slash + 1);
}

/* One line: the mode, "#LAST_GENERATION" if it is not 0, and the instances. */
static bool restore(struct gpu *gpu, char *text)
{
    char *state = NULL;
    char *mode = strtok_r(text, " \n", &state);
    if (mode == NULL || !restore_mode(gpu, mode))
        return false;
    for (char *item = strtok_r(NULL, " \n", &state); item != NULL; item = strtok_r(NULL, " \n", &state)) {
        bool understood = *item == '#' ? ini_number(item + 1, 0, CONFIG_GENERATIONS - 1, &gpu->last_generation)
                                       : restore_instance(gpu, item);
        if (!understood)
            return false;
    }
    return true;
}

bool mig_load(struct inventory *inventory, struct gpu *gpu, char *error, size_t error_size)
{
    char text[STATE_SIZE];
    if (!inventory->driver_root) {
        load_from_capabilities(inventory, gpu);
        return true;
    }
    /* Before it is read: what is written meanwhile is read again. */
    state_version(inventory, gpu->config->minor, "mig", &gpu->mig_version);
    if (!state_read(inventory, gpu->config->minor, "mig", text))
        return load_static(gpu, error, error_size);
    if (restore(gpu, text))
        return true;
    snprintf(error, error_size, "%s/run/gpu%u.mig: not what this library wrote; remove it", inventory->root,
             gpu->config->minor);
    return false;
}

static bool same_version(const struct file_version *one, const struct file_version *other)
{
    return one->inode == other->inode && one->seconds == other->seconds && one->nanoseconds == other->nanoseconds &&
           one->size == other->size;
}

void mig_refresh(const struct inventory *inventory, struct gpu *gpu)
{
    char text[STATE_SIZE];
    struct file_version version;
    if (!inventory->driver_root || !state_version(inventory, gpu->config->minor, "mig", &version) ||
        same_version(&version, &gpu->mig_version) || !state_read(inventory, gpu->config->minor, "mig", text))
        return;
    struct gpu before = *gpu;
    memset(gpu->instances, 0, sizeof gpu->instances);
    gpu->last_generation = 0;
    if (!restore(gpu, text)) /* whoever starts next is told of it */
        *gpu = before;
    gpu->mig_version = version;
}

static bool replace_file(const char *path, const char *text)
{
    char temporary[PATH_MAX + 32];
    snprintf(temporary, sizeof temporary, "%s.%ld", path, (long)getpid());
    int file = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0644);
    if (file < 0)
        return false;
    bool written = dprintf(file, "%s", text) > 0;
    written = close(file) == 0 && written;
    if (written && rename(temporary, path) == 0)
        return true;
    unlink(temporary);
    return false;
}

void mig_announce(const struct inventory *inventory, struct nvmlComputeInstance_st *compute)
{
    struct gpu *gpu = compute->parent->gpu;
    unsigned int minor = gpu->config->minor, generation = gpu->last_generation % (CONFIG_GENERATIONS - 1) + 1;
    char path[PATH_MAX], text[CONFIG_TEXT * 2];
    int length = snprintf(path, sizeof path, "%s/sim/proc-driver/nvidia/capabilities/gpu%u/mig/gi%u/ci%u/access",
                          inventory->root, minor, compute->parent->id, compute->id);
    config_capability_text(config_compute_minor(minor, compute->parent->id, compute->id, generation), text);
    if (!inventory->driver_root || length >= (int)sizeof path || !replace_file(path, text))
        return;
    gpu->last_generation = generation;
    mig_set_generation(compute, generation);
}

static size_t append(char text[STATE_SIZE], size_t length, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    int added = vsnprintf(text + length, STATE_SIZE - length, format, arguments);
    va_end(arguments);
    return added > 0 && length + (size_t)added < STATE_SIZE ? length + (size_t)added : length;
}

void mig_save(const struct inventory *inventory, struct gpu *gpu)
{
    char text[STATE_SIZE];
    size_t length = append(text, 0, "%d", gpu->mig_enabled);
    if (gpu->mig_pending != gpu->mig_enabled)
        length = append(text, length, ">%d", gpu->mig_pending);
    if (gpu->last_generation != 0)
        length = append(text, length, " #%u", gpu->last_generation);
    for (unsigned int i = 0; i < CONFIG_INSTANCE_IDS; i++) {
        const struct nvmlGpuInstance_st *instance = &gpu->instances[i];
        if (!instance->exists)
            continue;
        length = append(text, length, " %u", instance->id);
        for (unsigned int j = 0; j < CONFIG_MAX_COMPUTE_INSTANCES; j++) {
            const struct nvmlComputeInstance_st *compute = &instance->compute[j];
            if (!compute->exists)
                continue;
            length = append(text, length, " %u/%u", instance->id, compute->profile_index);
            if (compute->slices != instance->profile->slices)
                length = append(text, length, ":%u:%u", compute->id, compute->start);
            if (compute->generation != 0)
                length = append(text, length, "#%u", compute->generation);
        }
    }
    if (state_write(inventory, gpu->config->minor, "mig", text))
        state_version(inventory, gpu->config->minor, "mig", &gpu->mig_version);
}
