/* Which profiles and instances there are, and which of them a command names. */
#include "smi_mig.h"

#include <stdlib.h>
#include <string.h>

/* Every number is in a list that is not given. */
static bool listed(const char *list, unsigned int number)
{
    for (const char *item = list; item != NULL; item = strchr(item, ',')) {
        char *end;
        if (*item == ',')
            item++;
        if (strtoul(item, &end, 10) == number && end != item)
            return true;
    }
    return list == NULL;
}

unsigned int mig_profiles(struct smi *smi, nvmlDevice_t gpu, nvmlGpuInstanceProfileInfo_v2_t found[MIG_GPU_PROFILES])
{
    unsigned int count = 0;
    for (unsigned int slices = 1; slices <= 8; slices++) {
        for (unsigned int index = 0; index < MIG_GPU_PROFILES; index++) {
            nvmlGpuInstanceProfileInfo_v2_t info = {.version = nvmlGpuInstanceProfileInfo_v2};
            if (smi->gi_profile(gpu, index, &info) == NVML_SUCCESS && info.sliceCount == slices)
                found[count++] = info;
        }
    }
    return count;
}

unsigned int mig_gpu_index(struct smi *smi, nvmlDevice_t gpu)
{
    unsigned int index = 0;
    smi->index(gpu, &index);
    return index;
}

bool mig_is_on(struct smi *smi, nvmlDevice_t gpu)
{
    unsigned int current = NVML_DEVICE_MIG_DISABLE, pending;
    return smi->mig_mode(gpu, &current, &pending) == NVML_SUCCESS && current == NVML_DEVICE_MIG_ENABLE;
}

static void add_instances(const struct mig_request *request, nvmlDevice_t gpu,
                          const nvmlGpuInstanceProfileInfo_v2_t *profile, struct mig_instance found[MIG_MAX_LISTED],
                          unsigned int *count)
{
    nvmlGpuInstance_t handles[MIG_MAX_LISTED];
    unsigned int handle_count = 0;
    if (request->smi->gis(gpu, profile->id, handles, &handle_count) != NVML_SUCCESS)
        return;
    for (unsigned int i = 0; i < handle_count && *count < MIG_MAX_LISTED; i++) {
        struct mig_instance *instance = &found[*count];
        instance->gpu = mig_gpu_index(request->smi, gpu);
        instance->handle = handles[i];
        snprintf(instance->profile, sizeof instance->profile, "%s", profile->name);
        if (request->smi->gi_info(handles[i], &instance->info) == NVML_SUCCESS &&
            listed(request->instances, instance->info.id))
            (*count)++;
    }
}

unsigned int mig_find_instances(const struct mig_request *request, struct mig_instance found[MIG_MAX_LISTED])
{
    unsigned int count = 0;
    for (unsigned int i = 0; i < request->smi->device_count; i++) {
        nvmlGpuInstanceProfileInfo_v2_t profiles[MIG_GPU_PROFILES];
        nvmlDevice_t gpu = request->smi->devices[i];
        unsigned int profile_count = mig_is_on(request->smi, gpu) ? mig_profiles(request->smi, gpu, profiles) : 0;
        for (unsigned int j = 0; j < profile_count; j++)
            add_instances(request, gpu, &profiles[j], found, &count);
    }
    return count;
}

int mig_nothing_found(const char *what)
{
    printf("No %s found: Not Found\n", what);
    return NVML_ERROR_NOT_FOUND;
}

bool mig_compute_profile(struct smi *smi, const struct mig_instance *instance, unsigned int index,
                         nvmlComputeInstanceProfileInfo_v2_t *info)
{
    *info = (nvmlComputeInstanceProfileInfo_v2_t){.version = nvmlComputeInstanceProfileInfo_v2};
    return smi->ci_profile(instance->handle, index, NVML_COMPUTE_INSTANCE_ENGINE_PROFILE_SHARED, info) == NVML_SUCCESS;
}

bool mig_default_profile(struct smi *smi, const struct mig_instance *instance,
                         nvmlComputeInstanceProfileInfo_v2_t *info)
{
    for (unsigned int index = 0; index < NVML_COMPUTE_INSTANCE_PROFILE_COUNT; index++) {
        if (mig_compute_profile(smi, instance, index, info) && info->instanceCount == 1 &&
            strcmp(info->name, instance->profile) == 0)
            return true;
    }
    return false;
}

static int visit_profile(const struct mig_request *request, const struct mig_instance *instance,
                         const nvmlComputeInstanceProfileInfo_v2_t *profile, mig_compute_visitor visit,
                         unsigned int *visits)
{
    nvmlComputeInstance_t handles[MIG_MAX_LISTED];
    unsigned int count = 0;
    if (request->smi->cis(instance->handle, profile->id, handles, &count) != NVML_SUCCESS)
        return SMI_SUCCESS;
    for (unsigned int i = 0; i < count; i++) {
        nvmlComputeInstanceInfo_t info;
        if (request->smi->ci_info(handles[i], &info) != NVML_SUCCESS || !listed(request->compute, info.id))
            continue;
        int code = visit(request, instance, handles[i], &info, profile->name);
        if (code != SMI_SUCCESS)
            return code;
        (*visits)++;
    }
    return SMI_SUCCESS;
}

int mig_visit_compute(const struct mig_request *request, mig_compute_visitor visit, unsigned int *visits)
{
    struct mig_instance found[MIG_MAX_LISTED];
    unsigned int count = mig_find_instances(request, found);
    int code = SMI_SUCCESS;
    for (unsigned int i = 0; i < count; i++) {
        for (unsigned int index = 0; code == SMI_SUCCESS && index < NVML_COMPUTE_INSTANCE_PROFILE_COUNT; index++) {
            nvmlComputeInstanceProfileInfo_v2_t profile;
            if (mig_compute_profile(request->smi, &found[i], index, &profile))
                code = visit_profile(request, &found[i], &profile, visit, visits);
        }
    }
    return code;
}
