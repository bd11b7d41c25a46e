/* nvidia-smi -L, --version and the table it prints by default. */
#include "smi.h"

#include <string.h>

static void list_mig_devices(struct smi *smi, nvmlDevice_t gpu)
{
    unsigned int count = 0;
    smi->max_mig_count(gpu, &count);
    for (unsigned int i = 0; i < count; i++) {
        nvmlDevice_t mig;
        char name[192], uuid[96];
        if (smi->mig_by_index(gpu, i, &mig) != NVML_SUCCESS || smi->name(mig, name, sizeof name) != NVML_SUCCESS ||
            smi->uuid(mig, uuid, sizeof uuid) != NVML_SUCCESS)
            continue;
        const char *profile = strstr(name, " MIG ");
        printf("  MIG %-11s Device %2u: (UUID: %s)\n", profile == NULL ? name : profile + strlen(" MIG "), i, uuid);
    }
}

int smi_list(struct smi *smi)
{
    for (unsigned int i = 0; i < smi->device_count; i++) {
        char name[192] = "", uuid[96] = "";
        unsigned int index = i;
        smi->index(smi->devices[i], &index);
        smi->name(smi->devices[i], name, sizeof name);
        smi->uuid(smi->devices[i], uuid, sizeof uuid);
        printf("GPU %u: %s (UUID: %s)\n", index, name, uuid);
        list_mig_devices(smi, smi->devices[i]);
    }
    smi_note_simulation();
    return SMI_SUCCESS;
}

int smi_version(struct smi *smi)
{
    char driver[96] = "", nvml[96] = "";
    int cuda = 0;
    smi->driver_version(driver, sizeof driver);
    smi->nvml_version(nvml, sizeof nvml);
    smi->cuda_version(&cuda);
    printf("NVIDIA-SMI version  : %s (simulated)\n", driver);
    printf("NVML version        : %s (simulated)\n", nvml);
    printf("DRIVER version      : %s (simulated)\n", driver);
    printf("CUDA Version        : %d.%d (simulated)\n", cuda / 1000, cuda % 1000 / 10);
    return SMI_SUCCESS;
}

static void print_rule(char fill)
{
    char line[90];
    memset(line, fill, sizeof line - 1);
    line[sizeof line - 1] = '\0';
    printf("+%s+\n", line);
}

static const char *mig_text(struct smi *smi, nvmlDevice_t device)
{
    unsigned int current, pending;
    if (smi->mig_mode(device, &current, &pending) != NVML_SUCCESS)
        return "N/A";
    return current == NVML_DEVICE_MIG_ENABLE ? "Enabled" : "Disabled";
}

/* As the real table abbreviates it, since the column is narrow. */
static const char *short_mode_name(nvmlComputeMode_t mode)
{
    return mode == NVML_COMPUTEMODE_EXCLUSIVE_PROCESS ? "E. Process" : smi_compute_mode_name(mode);
}

static void print_gpu(struct smi *smi, nvmlDevice_t device)
{
    char name[192] = "", memory_text[48];
    unsigned int index = 0;
    nvmlPciInfo_t pci = {.busId = ""};
    nvmlMemory_t memory = {.total = 0};
    nvmlComputeMode_t mode = NVML_COMPUTEMODE_DEFAULT;
    smi->index(device, &index);
    smi->name(device, name, sizeof name);
    smi->pci(device, &pci);
    smi->compute_mode(device, &mode);
    snprintf(memory_text, sizeof memory_text, "N/A");
    if (smi->memory(device, &memory) == NVML_SUCCESS)
        snprintf(memory_text, sizeof memory_text, "%lluMiB / %lluMiB", memory.used >> 20, memory.total >> 20);
    printf("| %3u  %-26.26s %16s  %20s  %-16.16s|\n", index, name, pci.busId, memory_text, short_mode_name(mode));
    printf("| %3s  %-26s %16s  %20s  MIG %-12s|\n", "", "simulated", "", "", mig_text(smi, device));
}

/* The table of MIG devices has the form of driver 580, as public logs show it; a simulated GPU counts no ECC error. */
static const char mig_rule[] =
    "+------------------+----------------------------------+-----------+-----------------------+\n";

static void print_mig_device(struct smi *smi, unsigned int gpu, unsigned int index, nvmlDevice_t device)
{
    nvmlDeviceAttributes_t has = {.multiprocessorCount = 0};
    nvmlMemory_t memory = {.total = 0};
    nvmlBAR1Memory_t bar1 = {.bar1Total = 0};
    unsigned int gpu_instance = 0, compute_instance = 0;
    char used[24], total[24];
    smi->gi_id(device, &gpu_instance);
    smi->ci_id(device, &compute_instance);
    smi->attributes(device, &has);
    smi->memory(device, &memory);
    smi->bar1(device, &bar1);
    snprintf(used, sizeof used, "%lluMiB", memory.used >> 20);
    snprintf(total, sizeof total, "%lluMiB", memory.total >> 20);
    printf("|%3u  %3u %3u %3u  |%19s / %8s    | %-3u%6s |%3u %3u %4u %4u %4u |\n", gpu, gpu_instance, compute_instance,
           index, used, total, has.multiprocessorCount, "N/A", has.sharedCopyEngineCount, has.sharedEncoderCount,
           has.sharedDecoderCount, has.sharedOfaCount, has.sharedJpegCount);
    snprintf(used, sizeof used, "%lluMiB", bar1.bar1Used >> 20);
    snprintf(total, sizeof total, "%lluMiB", bar1.bar1Total >> 20);
    printf("|%18s|%19s / %8s    |%11s|%23s|\n%s", "", used, total, "", "", mig_rule);
}

/* Returns how many devices it has printed. */
static unsigned int print_mig_devices(struct smi *smi, nvmlDevice_t gpu)
{
    unsigned int index = 0, count = 0, printed = 0;
    nvmlDevice_t device;
    smi->index(gpu, &index);
    smi->max_mig_count(gpu, &count);
    for (unsigned int i = 0; i < count; i++) {
        if (smi->mig_by_index(gpu, i, &device) != NVML_SUCCESS)
            continue;
        print_mig_device(smi, index, i, device);
        printed++;
    }
    return printed;
}

static void print_mig_table(struct smi *smi)
{
    unsigned int printed = 0;
    bool on = false;
    for (unsigned int i = 0; i < smi->device_count; i++)
        on = on || strcmp(mig_text(smi, smi->devices[i]), "Enabled") == 0;
    if (!on)
        return;
    print_rule('-');
    printf("| %-88s|\n%s", "MIG devices:", mig_rule);
    puts("| GPU  GI  CI  MIG |              Shared Memory-Usage |        Vol|        Shared         |\n"
         "|      ID  ID  Dev |                Shared BAR1-Usage | SM     Unc| CE ENC  DEC  OFA  JPG |\n"
         "|                  |                                  |        ECC|                       |\n"
         "|==================+==================================+===========+=======================|");
    for (unsigned int i = 0; i < smi->device_count; i++)
        printed += print_mig_devices(smi, smi->devices[i]);
    if (printed > 0)
        return;
    printf("|  %-87s|\n", "No MIG devices found");
    print_rule('-');
}

int smi_table(struct smi *smi)
{
    char driver[64] = "", title[192];
    int cuda = 0;
    smi->driver_version(driver, sizeof driver);
    smi->cuda_version(&cuda);
    snprintf(title, sizeof title, "NVIDIA-SMI %s (simulated)    Driver Version: %s    CUDA Version: %d.%d", driver,
             driver, cuda / 1000, cuda % 1000 / 10);
    print_rule('-');
    printf("| %-88.88s|\n", title);
    print_rule('-');
    printf("| %3s  %-26s %16s  %20s  %-16s|\n", "GPU", "Name", "Bus-Id", "Memory-Usage", "Compute M.");
    print_rule('=');
    for (unsigned int i = 0; i < smi->device_count; i++)
        print_gpu(smi, smi->devices[i]);
    print_rule('-');
    print_mig_table(smi);
    printf("| %-88s|\n", "Processes: none; a simulated GPU runs no CUDA code");
    print_rule('-');
    return SMI_SUCCESS;
}
