/* What `nvidia-smi mig` makes and destroys. Its reports have the forms of NVIDIA's MIG User Guide and of public logs.
   Exit codes of failures are NVML's numbers, as elsewhere in nvidia-smi: not measured. */
#include "smi_mig.h"

#include <stdlib.h>
#include <string.h>

static int failed(struct smi *smi, nvmlReturn_t result, const char *verb, const char *what)
{
    printf("Failed to %s %s: %s\n", verb, what, smi->error_string(result));
    return (int)result;
}

static int create_one_compute(struct smi *smi, const struct mig_instance *instance,
                              const nvmlComputeInstanceProfileInfo_v2_t *profile)
{
    nvmlComputeInstance_t created;
    nvmlComputeInstanceInfo_t info = {.id = 0};
    nvmlReturn_t result = smi->ci_create(instance->handle, profile->id, &created);
    if (result != NVML_SUCCESS) {
        printf("Unable to create a compute instance on GPU %2u GPU instance ID %2u using profile %u: %s\n",
               instance->gpu, instance->info.id, profile->id, smi->error_string(result));
        return failed(smi, result, "create", "compute instances");
    }
    smi->ci_info(created, &info);
    printf("Successfully created compute instance ID %2u on GPU %2u GPU instance ID %2u using profile MIG %s "
           "(ID %2u)\n",
           info.id, instance->gpu, instance->info.id, profile->name, profile->id);
    return SMI_SUCCESS;
}

static bool matches(const char *item, const char *name, unsigned int id)
{
    char *end;
    unsigned long number = strtoul(item, &end, 10);
    return *end == '\0' && end != item ? number == id : strcmp(item, name) == 0;
}

static int create_compute_in(struct smi *smi, const struct mig_instance *instance, const char *profiles)
{
    nvmlComputeInstanceProfileInfo_v2_t profile;
    char list[512], *state = NULL;
    if (profiles == NULL)
        return mig_default_profile(smi, instance, &profile) ? create_one_compute(smi, instance, &profile)
                                                        : (int)NVML_ERROR_NOT_SUPPORTED;
    snprintf(list, sizeof list, "%s", profiles);
    for (char *item = strtok_r(list, ",", &state); item != NULL; item = strtok_r(NULL, ",", &state)) {
        unsigned int index = 0;
        while (index < NVML_COMPUTE_INSTANCE_PROFILE_COUNT &&
               !(mig_compute_profile(smi, instance, index, &profile) && matches(item, profile.name, profile.id)))
            index++;
        if (index == NVML_COMPUTE_INSTANCE_PROFILE_COUNT) {
            printf("\"%s\" is not a compute instance profile of GPU instance ID %2u.\n", item, instance->info.id);
            return failed(smi, NVML_ERROR_INVALID_ARGUMENT, "create", "compute instances");
        }
        int code = create_one_compute(smi, instance, &profile);
        if (code != SMI_SUCCESS)
            return code;
    }
    return SMI_SUCCESS;
}

int mig_create_compute(const struct mig_request *request)
{
    struct mig_instance found[MIG_MAX_LISTED];
    unsigned int count = mig_find_instances(request, found);
    if (count == 0)
        return mig_nothing_found("GPU instances");
    for (unsigned int i = 0; i < count; i++) {
        int code = create_compute_in(request->smi, &found[i], request->profiles);
        if (code != SMI_SUCCESS)
            return code;
    }
    return SMI_SUCCESS;
}

static int report_created(const struct mig_request *request, struct mig_instance *instance)
{
    request->smi->gi_info(instance->handle, &instance->info);
    printf("Successfully created GPU instance ID %2u on GPU %2u using profile MIG %s (ID %2u)\n", instance->info.id,
           instance->gpu, instance->profile, instance->info.profileId);
    return request->with_compute ? create_compute_in(request->smi, instance, NULL) : SMI_SUCCESS;
}

/* One "PROFILE" or "PROFILE:START". */
static int create_instance(const struct mig_request *request, nvmlDevice_t gpu, char *item)
{
    struct smi *smi = request->smi;
    struct mig_instance instance = {.gpu = mig_gpu_index(smi, gpu)};
    nvmlGpuInstanceProfileInfo_v2_t profiles[MIG_GPU_PROFILES];
    unsigned int i = 0, count = mig_profiles(smi, gpu, profiles);
    char *start = strchr(item, ':');
    if (start != NULL)
        *start++ = '\0';
    while (i < count && !matches(item, profiles[i].name, profiles[i].id))
        i++;
    if (i == count) {
        printf("\"%s\" is not a GPU instance profile of GPU %2u.\n", item, instance.gpu);
        return failed(smi, NVML_ERROR_INVALID_ARGUMENT, "create", "GPU instances");
    }
    nvmlGpuInstancePlacement_t places[MIG_MAX_LISTED] = {{0, 0}};
    unsigned int place_count = MIG_MAX_LISTED;
    smi->gi_placements(gpu, profiles[i].id, places, &place_count);
    nvmlGpuInstancePlacement_t place = {start == NULL ? 0 : (unsigned int)strtoul(start, NULL, 10), places[0].size};
    nvmlReturn_t result = start == NULL ? smi->gi_create(gpu, profiles[i].id, &instance.handle)
                                        : smi->gi_create_placed(gpu, profiles[i].id, &place, &instance.handle);
    if (result != NVML_SUCCESS) {
        printf("Unable to create a GPU instance on GPU %2u using profile %u: %s\n", instance.gpu, profiles[i].id,
               smi->error_string(result));
        return failed(smi, result, "create", "GPU instances");
    }
    snprintf(instance.profile, sizeof instance.profile, "%s", profiles[i].name);
    return report_created(request, &instance);
}

int mig_create_instances(const struct mig_request *request)
{
    for (unsigned int i = 0; i < request->smi->device_count; i++) {
        char list[512], *state = NULL;
        if (!mig_is_on(request->smi, request->smi->devices[i]))
            continue;
        snprintf(list, sizeof list, "%s", request->profiles);
        for (char *item = strtok_r(list, ",", &state); item != NULL; item = strtok_r(NULL, ",", &state)) {
            int code = create_instance(request, request->smi->devices[i], item);
            if (code != SMI_SUCCESS)
                return code;
        }
    }
    return SMI_SUCCESS;
}

int mig_destroy_instances(const struct mig_request *request)
{
    struct mig_instance found[MIG_MAX_LISTED];
    unsigned int count = mig_find_instances(request, found);
    if (count == 0)
        return mig_nothing_found("GPU instances");
    for (unsigned int i = 0; i < count; i++) {
        nvmlReturn_t result = request->smi->gi_destroy(found[i].handle);
        if (result != NVML_SUCCESS) {
            printf("Unable to destroy GPU instance ID %2u from GPU %2u: %s\n", found[i].info.id, found[i].gpu,
                   request->smi->error_string(result));
            return failed(request->smi, result, "destroy", "GPU instances");
        }
        printf("Successfully destroyed GPU instance ID %2u from GPU %2u\n", found[i].info.id, found[i].gpu);
    }
    return SMI_SUCCESS;
}

static int destroy_one_compute(const struct mig_request *request, const struct mig_instance *instance,
                               nvmlComputeInstance_t handle, const nvmlComputeInstanceInfo_t *info, const char *profile)
{
    (void)profile;
    nvmlReturn_t result = request->smi->ci_destroy(handle);
    if (result != NVML_SUCCESS)
        return failed(request->smi, result, "destroy", "compute instances");
    printf("Successfully destroyed compute instance ID %2u from GPU %2u GPU instance ID %2u\n", info->id,
           instance->gpu, instance->info.id);
    return SMI_SUCCESS;
}

int mig_destroy_compute(const struct mig_request *request)
{
    unsigned int count = 0;
    int code = mig_visit_compute(request, destroy_one_compute, &count);
    return code == SMI_SUCCESS && count == 0 ? mig_nothing_found("compute instances") : code;
}
