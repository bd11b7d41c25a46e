#include "devices.h"

#include "ini.h"
#include "mig.h"

#include <stdio.h>
#include <string.h>

enum { LIST_SIZE = 4096 };

static unsigned int list_all(struct inventory *inventory, struct device all[CONFIG_MAX_GPUS])
{
    unsigned int count = 0;
    for (unsigned int i = 0; i < inventory->gpu_count; i++) {
        struct gpu *gpu = &inventory->gpus[i];
        struct nvmlComputeInstance_st *compute = gpu->mig_enabled ? mig_device(gpu, 0) : NULL;
        if (!gpu->mig_enabled || compute != NULL)
            all[count++] = (struct device){gpu->config, compute};
    }
    return count;
}

static bool uuid_starts_with(const struct device *device, const char *text)
{
    size_t length = strlen(text);
    return strncmp(device->gpu->uuid, text, length) == 0 ||
           (device->compute != NULL && strncmp(device->compute->uuid, text, length) == 0);
}

bool devices_find(const struct device *devices, unsigned int count, const char *text, unsigned int *index)
{
    if (strncmp(text, "GPU-", 4) != 0 && strncmp(text, "MIG-", 4) != 0)
        return count > 0 && strncmp(text, "0x", 2) != 0 && ini_number(text, 0, count - 1, index);
    unsigned int matches = 0;
    for (unsigned int i = 0; i < count; i++) {
        if (!uuid_starts_with(&devices[i], text))
            continue;
        *index = i;
        matches++;
    }
    return matches == 1;
}

/* As CUDA: an entry that names no device ends the list. One that is named twice leaves no device at all. */
static unsigned int select_listed(const struct device *devices, unsigned int count, const char *visible,
                                  unsigned int chosen[CONFIG_MAX_GPUS])
{
    char list[LIST_SIZE], *state = NULL;
    unsigned int selected = 0, index = 0;
    bool taken[CONFIG_MAX_GPUS] = {false};
    snprintf(list, sizeof list, "%s", visible);
    for (char *item = strtok_r(list, ", ", &state); item != NULL; item = strtok_r(NULL, ", ", &state)) {
        if (!devices_find(devices, count, item, &index))
            break;
        if (taken[index])
            return 0;
        taken[index] = true;
        chosen[selected++] = index;
    }
    return selected;
}

unsigned int devices_select(const struct device *devices, unsigned int count, const char *visible,
                            unsigned int chosen[CONFIG_MAX_GPUS])
{
    if (visible != NULL)
        return select_listed(devices, count, visible, chosen);
    for (unsigned int i = 0; i < count; i++)
        chosen[i] = i;
    return count;
}

unsigned int devices_list(struct inventory *inventory, const char *visible, struct device found[CONFIG_MAX_GPUS])
{
    struct device all[CONFIG_MAX_GPUS];
    unsigned int chosen[CONFIG_MAX_GPUS];
    unsigned int count = devices_select(all, list_all(inventory, all), visible, chosen);
    for (unsigned int i = 0; i < count; i++)
        found[i] = all[chosen[i]];
    return count;
}

const char *device_uuid(const struct device *device)
{
    return device->compute != NULL ? device->compute->uuid : device->gpu->uuid;
}

void device_name(const struct device *device, char *name, size_t size)
{
    char profile[CONFIG_TEXT + 8] = "";
    if (device->compute != NULL)
        mig_profile_name(device->compute, profile, sizeof profile);
    snprintf(name, size, "%s%s%s", device->gpu->model->product_name, *profile == '\0' ? "" : " MIG ", profile);
}

unsigned int device_multiprocessors(const struct device *device)
{
    return device->compute != NULL ? mig_multiprocessors(device->compute) : device->gpu->model->multiprocessors;
}

uint64_t device_memory(const struct device *device)
{
    const struct gpu_model *model = device->gpu->model;
    unsigned int mib = device->compute != NULL ? device->compute->parent->profile->memory_mib
                                               : model->memory_mib - model->reserved_memory_mib;
    return (uint64_t)mib << 20;
}
