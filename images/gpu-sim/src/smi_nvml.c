#include "smi.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* nvidia-smi in a driver root has its library there too, where the loader does not look. */
static void *open_own_library(void)
{
    char path[PATH_MAX], library[PATH_MAX + 64];
    ssize_t length = readlink("/proc/self/exe", path, sizeof path - 1);
    if (length < 0)
        return NULL;
    path[length] = '\0';
    char *end = strstr(path, "/usr/bin/");
    if (end == NULL)
        return NULL;
    *end = '\0';
    snprintf(library, sizeof library, "%s/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1", path);
    return dlopen(library, RTLD_NOW);
}

static int library_not_found(void)
{
    puts("NVIDIA-SMI couldn't find libnvidia-ml.so library in your system. Please make sure that the NVIDIA Display "
         "Driver is properly installed and present in your system.\nPlease also try adding directory that contains "
         "libnvidia-ml.so to your system PATH.");
    return SMI_LIBRARY_NOT_FOUND;
}

static bool resolve(void *library, const char *symbol, void *target)
{
    void *address = dlsym(library, symbol);
    memcpy(target, &address, sizeof address);
    return address != NULL;
}

int smi_open(struct smi *smi)
{
    void *library = dlopen("libnvidia-ml.so.1", RTLD_NOW);
    if (library == NULL)
        library = open_own_library();
    if (library == NULL)
        return library_not_found();
#define SMI_RESOLVE(member, symbol)                              \
    if (!resolve(library, #symbol, &smi->member)) {              \
        puts("nvidia-smi (simulated): libnvidia-ml.so.1 lacks " #symbol "; it is not the simulated one"); \
        return SMI_LIBRARY_NOT_FOUND;                            \
    }
    SMI_FUNCTIONS(SMI_RESOLVE)
#undef SMI_RESOLVE
    if (smi->init(NVML_INIT_FLAG_NO_GPUS) != NVML_SUCCESS) {
        puts("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest "
             "NVIDIA driver is installed and running.");
        return SMI_DRIVER_NOT_LOADED;
    }
    return SMI_SUCCESS;
}

static bool find_device(struct smi *smi, const char *id, nvmlDevice_t *device)
{
    char *end;
    unsigned long index = strtoul(id, &end, 10);
    if (*id != '\0' && *end == '\0')
        return smi->by_index((unsigned int)index, device) == NVML_SUCCESS;
    return smi->by_uuid(id, device) == NVML_SUCCESS || smi->by_bus_id(id, device) == NVML_SUCCESS;
}

static int no_devices(void)
{
    puts("No devices were found");
    return SMI_NO_DEVICE;
}

int smi_select(struct smi *smi, const char *ids)
{
    const unsigned int room = sizeof smi->devices / sizeof smi->devices[0];
    smi->device_count = 0;
    if (ids == NULL) {
        unsigned int count = 0;
        smi->count(&count);
        while (smi->device_count < count && smi->device_count < room &&
               smi->by_index(smi->device_count, &smi->devices[smi->device_count]) == NVML_SUCCESS)
            smi->device_count++;
        return smi->device_count == 0 ? no_devices() : SMI_SUCCESS;
    }
    char list[4096], *state = NULL;
    snprintf(list, sizeof list, "%s", ids);
    for (char *id = strtok_r(list, ",", &state); id != NULL; id = strtok_r(NULL, ",", &state)) {
        if (smi->device_count == room || !find_device(smi, id, &smi->devices[smi->device_count]))
            return no_devices();
        smi->device_count++;
    }
    return smi->device_count == 0 ? no_devices() : SMI_SUCCESS;
}

void smi_note_simulation(void)
{
    if (!isatty(STDOUT_FILENO) || !isatty(STDERR_FILENO))
        return;
    fflush(stdout);
    fputs("# nvidia-smi: these GPUs are simulated\n", stderr);
}

const char *smi_compute_mode_name(nvmlComputeMode_t mode)
{
    switch (mode) {
    case NVML_COMPUTEMODE_DEFAULT: return "Default";
    case NVML_COMPUTEMODE_PROHIBITED: return "Prohibited";
    case NVML_COMPUTEMODE_EXCLUSIVE_PROCESS: return "Exclusive_Process";
    default: return "[N/A]";
    }
}
