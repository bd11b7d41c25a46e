/* The lists of `nvidia-smi mig`. Those of profiles and placements are byte for byte those of an H100 with driver
   580.159.04; the others have the forms of NVIDIA's MIG User Guide and of public logs. */
#include "smi_mig.h"

#include <string.h>

static void rule(char fill, unsigned int width)
{
    char line[128];
    memset(line, fill, width);
    line[width] = '\0';
    printf(fill == '=' ? "|%s|\n" : "+%s+\n", line);
}

static void profile_rows(struct smi *smi, nvmlDevice_t gpu)
{
    nvmlGpuInstanceProfileInfo_v2_t profiles[MIG_GPU_PROFILES];
    unsigned int count = mig_profiles(smi, gpu, profiles);
    for (unsigned int i = 0; i < count; i++) {
        const nvmlGpuInstanceProfileInfo_v2_t *info = &profiles[i];
        unsigned int free = 0;
        char memory[24];
        smi->gi_remaining(gpu, info->id, &free);
        /* GiB, cut after two digits. */
        unsigned int hundredths = (unsigned int)(info->memorySizeMB * 100 / 1024);
        snprintf(memory, sizeof memory, "%u.%02u", hundredths / 100, hundredths % 100);
        printf("|%4u  MIG %-16s%2u     %u/%u        %-11sNo     %-7u%-6u%-4u|\n", mig_gpu_index(smi, gpu), info->name,
               info->id, free, info->instanceCount, memory, info->multiprocessorCount, info->decoderCount,
               info->encoderCount);
        printf("|%63s%-6u%-6u%-4u|\n", "", info->copyEngineCount, info->jpegCount, info->ofaCount);
        rule('-', 79);
    }
}

int mig_list_profiles(const struct mig_request *request)
{
    rule('-', 79);
    printf("| %-78s|\n| %-78s|\n| %-78s|\n", "GPU instance profiles:",
           "GPU   Name               ID    Instances   Memory     P2P    SM    DEC   ENC",
           "                               Free/Total   GiB              CE    JPEG  OFA");
    rule('=', 79);
    for (unsigned int i = 0; i < request->smi->device_count; i++)
        profile_rows(request->smi, request->smi->devices[i]);
    return SMI_SUCCESS;
}

static void placement_row(struct smi *smi, nvmlDevice_t gpu, unsigned int id)
{
    nvmlGpuInstancePlacement_t places[MIG_MAX_LISTED];
    unsigned int count = MIG_MAX_LISTED;
    if (smi->gi_placements(gpu, id, places, &count) != NVML_SUCCESS || count == 0)
        return;
    printf("GPU %2u Profile ID %2u %s: {", mig_gpu_index(smi, gpu), id, count == 1 ? "Placement " : "Placements");
    for (unsigned int i = 0; i < count; i++)
        printf("%s%u", i == 0 ? "" : ",", places[i].start);
    printf("}:%u\n", places[0].size);
}

int mig_list_placements(const struct mig_request *request)
{
    struct smi *smi = request->smi;
    for (unsigned int i = 0; i < smi->device_count; i++) {
        nvmlGpuInstanceProfileInfo_v2_t profiles[MIG_GPU_PROFILES];
        unsigned int count = mig_profiles(smi, smi->devices[i], profiles);
        for (unsigned int j = 0; j < count; j++)
            placement_row(smi, smi->devices[i], profiles[j].id);
    }
    return SMI_SUCCESS;
}

int mig_list_instances(const struct mig_request *request)
{
    struct mig_instance found[MIG_MAX_LISTED];
    unsigned int count = mig_find_instances(request, found);
    if (count == 0)
        return mig_nothing_found("GPU instances");
    rule('-', 57);
    printf("| %-56s|\n| %-56s|\n| %-56s|\n", "GPU instances:",
           "GPU   Name               Profile  Instance   Placement",
           "                           ID       ID       Start:Size");
    rule('=', 57);
    for (unsigned int i = 0; i < count; i++) {
        printf("|%4u  MIG %-18s%2u       %2u          %u:%u     |\n", found[i].gpu, found[i].profile,
               found[i].info.profileId, found[i].info.id, found[i].info.placement.start, found[i].info.placement.size);
        rule('-', 57);
    }
    return SMI_SUCCESS;
}

static void compute_profile_rows(struct smi *smi, const struct mig_instance *instance)
{
    nvmlComputeInstanceProfileInfo_v2_t info, whole = {.id = NVML_COMPUTE_INSTANCE_PROFILE_COUNT};
    mig_default_profile(smi, instance, &whole);
    for (unsigned int index = 0; index < NVML_COMPUTE_INSTANCE_PROFILE_COUNT; index++) {
        unsigned int free = 0;
        if (!mig_compute_profile(smi, instance, index, &info))
            continue;
        smi->ci_remaining(instance->handle, info.id, &free);
        printf("|%4u     %2u       MIG %-16s%2u%c     %u/%u           %-10u%-6u%-6u%-4u|\n", instance->gpu,
               instance->info.id, info.name, info.id, info.id == whole.id ? '*' : ' ', free, info.instanceCount,
               info.multiprocessorCount, info.sharedDecoderCount, info.sharedEncoderCount, info.sharedOfaCount);
        printf("|%70s%-6u%-10u|\n", "", info.sharedCopyEngineCount, info.sharedJpegCount);
        rule('-', 86);
    }
}

int mig_list_compute_profiles(const struct mig_request *request)
{
    struct mig_instance found[MIG_MAX_LISTED];
    unsigned int count = mig_find_instances(request, found);
    if (count == 0)
        return mig_nothing_found("GPU instances");
    rule('-', 86);
    printf("| %-85s|\n| %-85s|\n| %-85s|\n| %-85s|\n", "Compute instance profiles:",
           "GPU     GPU       Name             Profile  Instances   Exclusive       Shared",
           "      Instance                       ID     Free/Total     SM       DEC   ENC   OFA",
           "        ID                                                          CE    JPEG");
    rule('=', 86);
    for (unsigned int i = 0; i < count; i++)
        compute_profile_rows(request->smi, &found[i]);
    return SMI_SUCCESS;
}

static int compute_row(const struct mig_request *request, const struct mig_instance *instance,
                       nvmlComputeInstance_t handle, const nvmlComputeInstanceInfo_t *info, const char *profile)
{
    (void)request;
    (void)handle;
    printf("|%4u     %2u       MIG %-16s%2u        %2u          %u:%u     |\n", instance->gpu, instance->info.id,
           profile, info->profileId, info->id, info->placement.start, info->placement.size);
    rule('-', 68);
    return SMI_SUCCESS;
}

static int no_row(const struct mig_request *request, const struct mig_instance *instance,
                  nvmlComputeInstance_t handle, const nvmlComputeInstanceInfo_t *info, const char *profile)
{
    (void)request, (void)instance, (void)handle, (void)info, (void)profile;
    return SMI_SUCCESS;
}

int mig_list_compute(const struct mig_request *request)
{
    unsigned int count = 0;
    mig_visit_compute(request, no_row, &count);
    if (count == 0)
        return mig_nothing_found("compute instances");
    rule('-', 68);
    printf("| %-67s|\n| %-67s|\n| %-67s|\n| %-67s|\n", "Compute instances:",
           "GPU     GPU       Name             Profile   Instance   Placement",
           "      Instance                       ID        ID       Start:Size", "        ID");
    rule('=', 68);
    return mig_visit_compute(request, compute_row, &count);
}
