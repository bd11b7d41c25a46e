#include "mig.h"

#include <stdio.h>
#include <string.h>

/* By NVML_COMPUTE_INSTANCE_PROFILE_*. 1_SLICE_REV1, which other boards have, is left out. The last, 7_SLICE_NVL, is
   not: NVIDIA's DRA driver takes the highest-numbered profile of a size for a dynamic 7g device. */
static const unsigned int compute_profile_slices[] = {1, 2, 3, 4, 7, 8, 6, 0, 7};

enum { COMPUTE_PROFILES = sizeof compute_profile_slices / sizeof compute_profile_slices[0] };

const struct mig_profile *mig_profile_by_id(const struct gpu_model *model, unsigned int id)
{
    for (unsigned int i = 0; i < model->profile_count; i++) {
        if (model->profiles[i].id == id)
            return &model->profiles[i];
    }
    return NULL;
}

const struct mig_profile *mig_profile_by_index(const struct gpu_model *model, unsigned int index)
{
    for (unsigned int i = 0; i < model->profile_count; i++) {
        if (model->profiles[i].index == index)
            return &model->profiles[i];
    }
    return NULL;
}

static unsigned int max_slices(const struct gpu_model *model)
{
    unsigned int slices = 0;
    for (unsigned int i = 0; i < model->profile_count; i++) {
        if (model->profiles[i].slices > slices)
            slices = model->profiles[i].slices;
    }
    return slices;
}

unsigned int mig_max_devices(const struct gpu_model *model)
{
    /* Every compute slice can be a device of its own. */
    return max_slices(model);
}

struct occupancy {
    unsigned int memory_slices; /* one bit each */
    unsigned int compute_slices;
    unsigned int same_profile;
};

static struct occupancy measure(const struct gpu *gpu, const struct mig_profile *profile)
{
    struct occupancy used = {0, 0, 0};
    for (unsigned int i = 0; i < CONFIG_INSTANCE_IDS; i++) {
        const struct nvmlGpuInstance_st *instance = &gpu->instances[i];
        if (!instance->exists)
            continue;
        used.memory_slices |= ((1u << instance->profile->placement_size) - 1) << instance->start;
        used.compute_slices += instance->profile->slices;
        used.same_profile += instance->profile == profile;
    }
    return used;
}

/* Adds an instance to the occupancy if it fits. */
static bool occupy(struct occupancy *used, const struct gpu_model *model, const struct mig_profile *profile,
                   unsigned int start)
{
    unsigned int slices = ((1u << profile->placement_size) - 1) << start;
    if ((used->memory_slices & slices) != 0 || used->same_profile >= profile->instances ||
        used->compute_slices + profile->slices > max_slices(model))
        return false;
    used->memory_slices |= slices;
    used->compute_slices += profile->slices;
    used->same_profile++;
    return true;
}

enum mig_result mig_create_instance(struct gpu *gpu, const struct mig_profile *profile, unsigned int start,
                                    struct nvmlGpuInstance_st **created)
{
    unsigned int id = config_instance_id(gpu->config->model, profile, start);
    if (id == 0)
        return MIG_INVALID;
    struct occupancy used = measure(gpu, profile);
    if (!occupy(&used, gpu->config->model, profile, start))
        return MIG_NO_ROOM;
    struct nvmlGpuInstance_st *instance = &gpu->instances[id];
    *instance = (struct nvmlGpuInstance_st){.exists = true, .id = id, .start = start, .profile = profile, .gpu = gpu};
    *created = instance;
    return MIG_OK;
}

enum mig_result mig_create_instance_anywhere(struct gpu *gpu, const struct mig_profile *profile,
                                             struct nvmlGpuInstance_st **created)
{
    for (unsigned int i = 0; i < profile->placement_count; i++) {
        if (mig_create_instance(gpu, profile, profile->placements[i], created) == MIG_OK)
            return MIG_OK;
    }
    return MIG_NO_ROOM;
}

enum mig_result mig_destroy_instance(struct nvmlGpuInstance_st *instance)
{
    for (unsigned int i = 0; i < CONFIG_MAX_COMPUTE_INSTANCES; i++) {
        if (instance->compute[i].exists)
            return MIG_IN_USE;
    }
    instance->exists = false;
    return MIG_OK;
}

void mig_reset(struct gpu *gpu)
{
    memset(gpu->instances, 0, sizeof gpu->instances);
    gpu->mig_enabled = gpu->mig_pending;
}

unsigned int mig_remaining_instances(const struct gpu *gpu, const struct mig_profile *profile)
{
    struct occupancy used = measure(gpu, profile);
    unsigned int count = 0;
    for (unsigned int i = 0; i < profile->placement_count; i++)
        count += occupy(&used, gpu->config->model, profile, profile->placements[i]);
    return count;
}

unsigned int mig_compute_slices(const struct nvmlGpuInstance_st *instance, unsigned int profile_index)
{
    if (profile_index >= COMPUTE_PROFILES)
        return 0;
    unsigned int slices = compute_profile_slices[profile_index];
    unsigned int all = instance->profile->slices;
    /* A part may be at most half of the instance, rounded up: a 4-slice instance has parts of 1 and 2, not 3. */
    return slices == all || slices * 2 <= all + 1 ? slices : 0;
}

static unsigned int used_compute_slices(const struct nvmlGpuInstance_st *instance)
{
    unsigned int used = 0;
    for (unsigned int i = 0; i < CONFIG_MAX_COMPUTE_INSTANCES; i++) {
        const struct nvmlComputeInstance_st *compute = &instance->compute[i];
        if (compute->exists)
            used |= ((1u << compute->slices) - 1) << compute->start;
    }
    return used;
}

unsigned int mig_remaining_compute(const struct nvmlGpuInstance_st *instance, unsigned int profile_index)
{
    unsigned int slices = mig_compute_slices(instance, profile_index);
    if (slices == 0)
        return 0;
    unsigned int count = 0, used = used_compute_slices(instance);
    for (unsigned int start = 0; start + slices <= instance->profile->slices; start += slices)
        count += (used & (((1u << slices) - 1) << start)) == 0;
    return count;
}

/* FNV-1a over the text, from a seed. */
static uint64_t hash(const char *text, uint64_t seed)
{
    uint64_t value = 0xcbf29ce484222325u ^ seed;
    for (; *text != '\0'; text++)
        value = (value ^ (unsigned char)*text) * 0x100000001b3u;
    return value;
}

/* Derived from GPU, IDs and generation, which the minor of a capability device tells as well, so that driver and
   container agree on it without sharing any state. */
static void derive_uuid(struct nvmlComputeInstance_st *compute)
{
    char name[CONFIG_TEXT + 48], again[16] = "";
    if (compute->generation != 0)
        snprintf(again, sizeof again, "/%u", compute->generation);
    snprintf(name, sizeof name, "%s/%u/%u%s", compute->parent->gpu->config->uuid, compute->parent->id, compute->id,
             again);
    unsigned long long high = hash(name, 0), low = hash(name, high);
    snprintf(compute->uuid, sizeof compute->uuid, "MIG-%08llx-%04llx-8%03llx-%04llx-%012llx", high >> 32,
             (high >> 16) & 0xffff, high & 0xfff, 0x8000 | ((low >> 48) & 0x3fff), low & 0xffffffffffff);
}

void mig_set_generation(struct nvmlComputeInstance_st *compute, unsigned int generation)
{
    compute->generation = generation;
    derive_uuid(compute);
}

static struct nvmlComputeInstance_st *place_compute(struct nvmlGpuInstance_st *instance, unsigned int id,
                                                    unsigned int profile_index, unsigned int start)
{
    struct nvmlComputeInstance_st *compute = &instance->compute[id];
    *compute = (struct nvmlComputeInstance_st){.exists = true,
                                               .id = id,
                                               .profile_index = profile_index,
                                               .slices = compute_profile_slices[profile_index],
                                               .start = start,
                                               .parent = instance,
                                               .device = {instance->gpu, compute}};
    derive_uuid(compute);
    return compute;
}

enum mig_result mig_create_compute(struct nvmlGpuInstance_st *instance, unsigned int profile_index,
                                   struct nvmlComputeInstance_st **created)
{
    unsigned int slices = mig_compute_slices(instance, profile_index);
    if (slices == 0)
        return MIG_INVALID;
    unsigned int used = used_compute_slices(instance);
    for (unsigned int start = 0; start + slices <= instance->profile->slices; start += slices) {
        if ((used & (((1u << slices) - 1) << start)) != 0)
            continue;
        unsigned int id = 0;
        while (instance->compute[id].exists)
            id++;
        *created = place_compute(instance, id, profile_index, start);
        return MIG_OK;
    }
    return MIG_NO_ROOM;
}

struct nvmlComputeInstance_st *mig_restore_compute(struct nvmlGpuInstance_st *instance, unsigned int profile_index,
                                                   unsigned int id, unsigned int start)
{
    unsigned int slices = mig_compute_slices(instance, profile_index);
    if (slices == 0 || id >= CONFIG_MAX_COMPUTE_INSTANCES || instance->compute[id].exists ||
        start + slices > instance->profile->slices ||
        (used_compute_slices(instance) & (((1u << slices) - 1) << start)) != 0)
        return NULL;
    return place_compute(instance, id, profile_index, start);
}

void mig_destroy_compute(struct nvmlComputeInstance_st *compute)
{
    compute->exists = false;
}

struct nvmlComputeInstance_st *mig_device(struct gpu *gpu, unsigned int index)
{
    for (unsigned int i = 0; i < CONFIG_INSTANCE_IDS; i++) {
        struct nvmlGpuInstance_st *instance = &gpu->instances[i];
        for (unsigned int j = 0; instance->exists && j < CONFIG_MAX_COMPUTE_INSTANCES; j++) {
            if (instance->compute[j].exists && index-- == 0)
                return &instance->compute[j];
        }
    }
    return NULL;
}

unsigned int mig_multiprocessors(const struct nvmlComputeInstance_st *compute)
{
    const struct mig_profile *profile = compute->parent->profile;
    return profile->multiprocessors * compute->slices / profile->slices;
}

void mig_profile_name(const struct nvmlComputeInstance_st *compute, char *name, size_t size)
{
    const struct mig_profile *profile = compute->parent->profile;
    if (compute->slices == profile->slices)
        snprintf(name, size, "%s", profile->name);
    else
        snprintf(name, size, "%uc.%s", compute->slices, profile->name);
}
