/* nvidia-smi -q: of each GPU what the simulation knows, in the order and form of driver 580.159.04 (measured on an H100
   with MIG off). Sections without any known figure (clocks, temperatures, ECC, links) are left out rather than filled
   with N/A. What is said of a MIG device has the names of NVIDIA's nvidia-smi DTD; its form is not measured. */
#include "smi.h"

#include <string.h>
#include <time.h>

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

enum { COLON_COLUMN = 55, STEP = 4 };

static void line(unsigned int depth, const char *label, const char *text)
{
    int indent = (int)depth * STEP;
    printf("%*s%-*s: %s\n", indent, "", COLON_COLUMN - indent, label, text);
}

static void heading(unsigned int depth, const char *label)
{
    printf("%*s%s\n", (int)depth * STEP, "", label);
}

static void number(unsigned int depth, const char *label, unsigned long long value, const char *unit)
{
    char text[48];
    snprintf(text, sizeof text, "%llu%s", value, unit);
    line(depth, label, text);
}

static const char *unknown(nvmlReturn_t result)
{
    return result == NVML_ERROR_NO_PERMISSION ? "Insufficient Permissions" : "N/A";
}

static void bytes(unsigned int depth, const char *label, nvmlReturn_t result, unsigned long long value)
{
    if (result == NVML_SUCCESS)
        number(depth, label, value >> 20, " MiB");
    else
        line(depth, label, unknown(result));
}

static void memory(struct smi *smi, unsigned int depth, nvmlDevice_t device)
{
    nvmlMemory_v2_t framebuffer = {.version = nvmlMemory_v2};
    nvmlBAR1Memory_t bar1 = {.bar1Total = 0};
    nvmlReturn_t result = smi->memory_v2(device, &framebuffer);
    heading(depth, "FB Memory Usage");
    bytes(depth + 1, "Total", result, framebuffer.total);
    bytes(depth + 1, "Reserved", result, framebuffer.reserved);
    bytes(depth + 1, "Used", result, framebuffer.used);
    bytes(depth + 1, "Free", result, framebuffer.free);
    result = smi->bar1(device, &bar1);
    heading(depth, "BAR1 Memory Usage");
    bytes(depth + 1, "Total", result, bar1.bar1Total);
    bytes(depth + 1, "Used", result, bar1.bar1Used);
    bytes(depth + 1, "Free", result, bar1.bar1Free);
}

static void mig_device(struct smi *smi, unsigned int index, nvmlDevice_t device)
{
    nvmlDeviceAttributes_t attributes = {.multiprocessorCount = 0};
    unsigned int gpu_instance = 0, compute_instance = 0;
    smi->gi_id(device, &gpu_instance);
    smi->ci_id(device, &compute_instance);
    smi->attributes(device, &attributes);
    heading(1, "MIG Device");
    number(2, "Index", index, "");
    number(2, "GPU Instance ID", gpu_instance, "");
    number(2, "Compute Instance ID", compute_instance, "");
    heading(2, "Device Attributes");
    heading(3, "Shared");
    number(4, "Multiprocessor count", attributes.multiprocessorCount, "");
    number(4, "Copy Engine count", attributes.sharedCopyEngineCount, "");
    number(4, "Encoder count", attributes.sharedEncoderCount, "");
    number(4, "Decoder count", attributes.sharedDecoderCount, "");
    number(4, "OFA count", attributes.sharedOfaCount, "");
    number(4, "JPG count", attributes.sharedJpegCount, "");
    memory(smi, 2, device);
}

static void mig(struct smi *smi, nvmlDevice_t gpu)
{
    unsigned int current, pending, count = 0;
    bool known = smi->mig_mode(gpu, &current, &pending) == NVML_SUCCESS;
    heading(1, "MIG Mode");
    line(2, "Current", !known ? "N/A" : current == NVML_DEVICE_MIG_ENABLE ? "Enabled" : "Disabled");
    line(2, "Pending", !known ? "N/A" : pending == NVML_DEVICE_MIG_ENABLE ? "Enabled" : "Disabled");
    smi->max_mig_count(gpu, &count);
    for (unsigned int i = 0; i < count; i++) {
        nvmlDevice_t device;
        if (smi->mig_by_index(gpu, i, &device) == NVML_SUCCESS)
            mig_device(smi, i, device);
    }
}

static const char *name_of(unsigned int number, const char *const *names, unsigned int count)
{
    return number < count && names[number] != NULL ? names[number] : "N/A";
}

static void product(struct smi *smi, nvmlDevice_t gpu)
{
    static const char *const architectures[] = {[NVML_DEVICE_ARCH_AMPERE] = "Ampere",
                                                [NVML_DEVICE_ARCH_ADA] = "Ada Lovelace",
                                                [NVML_DEVICE_ARCH_HOPPER] = "Hopper",
                                                [NVML_DEVICE_ARCH_BLACKWELL] = "Blackwell"};
    static const char *const brands[] = {
        [NVML_BRAND_TESLA] = "Tesla", [NVML_BRAND_GEFORCE] = "GeForce", [NVML_BRAND_NVIDIA] = "NVIDIA"};
    static const char *const modes[] = {"None", "HMM", "ATS"};
    nvmlDeviceAddressingMode_t addressing = {.version = nvmlDeviceAddressingMode_v1, .value = 3};
    nvmlDeviceArchitecture_t architecture = NVML_DEVICE_ARCH_UNKNOWN;
    nvmlBrandType_t brand = NVML_BRAND_UNKNOWN;
    nvmlEnableState_t persistence = NVML_FEATURE_DISABLED;
    char name[192] = "";
    smi->name(gpu, name, sizeof name);
    smi->brand(gpu, &brand);
    smi->architecture(gpu, &architecture);
    smi->addressing(gpu, &addressing);
    smi->persistence_mode(gpu, &persistence);
    line(1, "Product Name", name);
    line(1, "Product Brand", name_of(brand, brands, COUNT(brands)));
    line(1, "Product Architecture", name_of(architecture, architectures, COUNT(architectures)));
    line(1, "Persistence Mode", persistence == NVML_FEATURE_ENABLED ? "Enabled" : "Disabled");
    line(1, "Addressing Mode", name_of(addressing.value, modes, COUNT(modes)));
}

static void gpu_details(struct smi *smi, nvmlDevice_t gpu)
{
    nvmlPciInfo_t pci = {.busId = ""};
    nvmlUtilization_t utilization = {.gpu = 0};
    nvmlComputeMode_t mode = NVML_COMPUTEMODE_DEFAULT;
    char uuid[96] = "", text[96];
    unsigned int minor = 0, limit = 0;
    smi->pci(gpu, &pci);
    smi->uuid(gpu, uuid, sizeof uuid);
    smi->minor(gpu, &minor);
    smi->power_limit(gpu, &limit);
    smi->compute_mode(gpu, &mode);
    printf("GPU %s\n", pci.busId);
    product(smi, gpu);
    mig(smi, gpu);
    line(1, "GPU UUID", uuid);
    number(1, "Minor Number", minor, "");
    heading(1, "PCI");
    snprintf(text, sizeof text, "0x%08X", pci.pciDeviceId);
    line(2, "Device Id", text);
    line(2, "Bus Id", pci.busId);
    memory(smi, 1, gpu);
    line(1, "Compute Mode", smi_compute_mode_name(mode));
    nvmlReturn_t result = smi->utilization(gpu, &utilization);
    heading(1, "Utilization");
    snprintf(text, sizeof text, "%u %%", utilization.gpu);
    line(2, "GPU", result == NVML_SUCCESS ? text : unknown(result));
    heading(1, "GPU Power Readings");
    snprintf(text, sizeof text, "%u.%02u W", limit / 1000, limit % 1000 / 10);
    line(2, "Current Power Limit", text);
    line(1, "Processes", "None");
    putchar('\n');
}

int smi_detail(struct smi *smi)
{
    char driver[96] = "", text[64];
    unsigned int count = 0;
    int cuda = 0;
    time_t now = time(NULL);
    smi->driver_version(driver, sizeof driver);
    smi->cuda_version(&cuda);
    smi->count(&count);
    puts("\n==============NVSMI LOG==============\n");
    strftime(text, sizeof text, "%a %b %e %H:%M:%S %Y", localtime(&now));
    line(0, "Timestamp", text);
    line(0, "Driver Version", driver);
    snprintf(text, sizeof text, "%d.%d", cuda / 1000, cuda % 1000 / 10);
    line(0, "CUDA Version", text);
    putchar('\n');
    number(0, "Attached GPUs", count, "");
    for (unsigned int i = 0; i < smi->device_count; i++)
        gpu_details(smi, smi->devices[i]);
    smi_note_simulation();
    return SMI_SUCCESS;
}
