#include "devices.h"

#include "ini.h"
#include "mig.h"

#include <stdio.h>
#include <string.h>

enum { LIST_SIZE = 4096 };

/* One compute instance of each GPU instance, or all the others. */
static void list_mig_devices(struct gpu *gpu, bool further, struct device all[DEVICES_MAX], unsigned int *count)
{
    const struct nvmlGpuInstance_st *last = NULL;
    const struct nvmlComputeInstance_st *compute;
    for (unsigned int i = 0; *count < DEVICES_MAX && (compute = mig_device(gpu, i)) != NULL; i++) {
        if ((compute->parent == last) == further)
            all[(*count)++] = (struct device){gpu->config, compute, further};
        last = compute->parent;
    }
}

unsigned int devices_all(struct inventory *inventory, struct device all[DEVICES_MAX])
{
    unsigned int count = 0;
    for (unsigned int i = 0; i < inventory->gpu_count; i++) {
        struct gpu *gpu = &inventory->gpus[i];
        if (gpu->mig_enabled)
            list_mig_devices(gpu, false, all, &count);
        else if (count < DEVICES_MAX)
            all[count++] = (struct device){gpu->config, NULL, false};
    }
    for (unsigned int i = 0; i < inventory->gpu_count; i++) {
        if (inventory->gpus[i].mig_enabled)
            list_mig_devices(&inventory->gpus[i], true, all, &count);
    }
    return count;
}

static unsigned int numbered(const struct device *devices, unsigned int count)
{
    while (count > 0 && devices[count - 1].by_uuid_only)
        count--;
    return count;
}

/* A GPU's UUID stands for its first MIG device where MIG is on: not measured. */
static bool uuid_starts_with(const struct device *devices, unsigned int index, const char *text)
{
    const struct device *device = &devices[index];
    size_t length = strlen(text);
    if (device->compute != NULL && strncmp(device->compute->uuid, text, length) == 0)
        return true;
    return strncmp(device->gpu->uuid, text, length) == 0 && (index == 0 || devices[index - 1].gpu != device->gpu) &&
           !device->by_uuid_only;
}

bool devices_find(const struct device *devices, unsigned int count, const char *text, unsigned int *index)
{
    if (strncmp(text, "GPU-", 4) != 0 && strncmp(text, "MIG-", 4) != 0) {
        unsigned int numbers = numbered(devices, count);
        return numbers > 0 && strncmp(text, "0x", 2) != 0 && ini_number(text, 0, numbers - 1, index);
    }
    unsigned int matches = 0;
    for (unsigned int i = 0; i < count; i++) {
        if (!uuid_starts_with(devices, i, text))
            continue;
        *index = i;
        matches++;
    }
    return matches == 1;
}

/* As CUDA: an entry that names no device ends the list. One that is named twice leaves no device at all. */
static unsigned int select_listed(const struct device *devices, unsigned int count, const char *visible,
                                  unsigned int chosen[DEVICES_MAX])
{
    char list[LIST_SIZE], *state = NULL;
    unsigned int selected = 0, index = 0;
    bool taken[DEVICES_MAX] = {false};
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
                            unsigned int chosen[DEVICES_MAX])
{
    if (visible != NULL)
        return select_listed(devices, count, visible, chosen);
    count = numbered(devices, count);
    for (unsigned int i = 0; i < count; i++)
        chosen[i] = i;
    return count;
}

unsigned int devices_list(struct inventory *inventory, const char *visible, struct device found[DEVICES_MAX])
{
    struct device all[DEVICES_MAX];
    unsigned int chosen[DEVICES_MAX];
    unsigned int count = devices_select(all, devices_all(inventory, all), visible, chosen);
    for (unsigned int i = 0; i < count; i++)
        found[i] = all[chosen[i]];
    return count;
}

const char *device_uuid(const struct device *device)
{
    return device->compute != NULL ? device->compute->uuid : device->gpu->uuid;
}

bool device_key(const struct device *device, unsigned char key[DEVICE_KEY_SIZE])
{
    const char *text = device_uuid(device) + strlen("GPU-"); /* MIG- is as long */
    for (unsigned int i = 0; i < DEVICE_KEY_SIZE; i++) {
        unsigned int byte = 0;
        if (*text == '-')
            text++;
        if (sscanf(text, "%2x", &byte) != 1)
            return false;
        key[i] = (unsigned char)byte;
        text += 2;
    }
    return true;
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

unsigned int device_mps_contexts(const struct device *device)
{
    unsigned int all = mig_max_devices(device->gpu->model);
    return device->compute == NULL ? DEVICE_MPS_CONTEXTS : DEVICE_MPS_CONTEXTS * device->compute->slices / all;
}

uint64_t device_memory(const struct device *device)
{
    const struct gpu_model *model = device->gpu->model;
    unsigned int mib = device->compute != NULL ? device->compute->parent->profile->memory_mib
                                               : model->memory_mib - model->reserved_memory_mib;
    return (uint64_t)mib << 20;
}
