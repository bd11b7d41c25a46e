/* The part of CUDA's driver API the probe asks, found at run time. */
#include "probe.h"

#include <dlfcn.h>
#include <string.h>

typedef int CUresult;
typedef int CUdevice;

enum { MULTIPROCESSOR_COUNT = 16 /* CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT */ };

static CUresult (*cuInit)(unsigned int);
static CUresult (*cuDeviceGetCount)(int *);
static CUresult (*cuDeviceGet)(CUdevice *, int);
static CUresult (*cuDeviceGetUuid)(unsigned char uuid[16], CUdevice);
static CUresult (*cuDeviceGetAttribute)(int *, int, CUdevice);
static CUresult (*cuGetErrorName)(CUresult, const char **);

static bool resolve(void *library, const char *symbol, void *target, struct probe *probe)
{
    void *address = dlsym(library, symbol);
    memcpy(target, &address, sizeof address);
    if (address == NULL)
        snprintf(probe->cuda_error, sizeof probe->cuda_error, "libcuda.so.1 has no %s", symbol);
    return address != NULL;
}

static bool load(void *library, struct probe *probe)
{
    return resolve(library, "cuInit", &cuInit, probe) &&
           resolve(library, "cuDeviceGetCount", &cuDeviceGetCount, probe) &&
           resolve(library, "cuDeviceGet", &cuDeviceGet, probe) &&
           resolve(library, "cuDeviceGetUuid_v2", &cuDeviceGetUuid, probe) &&
           resolve(library, "cuDeviceGetAttribute", &cuDeviceGetAttribute, probe) &&
           resolve(library, "cuGetErrorName", &cuGetErrorName, probe);
}

static bool check(struct probe *probe, CUresult result, const char *call)
{
    const char *name = NULL;
    if (result == 0)
        return true;
    if (cuGetErrorName(result, &name) != 0 || name == NULL)
        name = "unknown";
    snprintf(probe->cuda_error, sizeof probe->cuda_error, "%s: CUDA error %d (%s)", call, result, name);
    return false;
}

/* NVML writes a UUID as GPU- or MIG- and hex digits with dashes, CUDA as 16 bytes. */
static bool is_uuid(const char *text, const unsigned char bytes[16])
{
    char expected[33], digits[33];
    size_t count = 0;
    for (size_t i = 0; i < 16; i++)
        snprintf(expected + 2 * i, 3, "%02x", bytes[i]);
    for (text += strnlen(text, 4); *text != '\0' && count < 32; text++) {
        if (*text != '-')
            digits[count++] = *text;
    }
    digits[count] = '\0';
    return strcmp(expected, digits) == 0;
}

static void add_device(struct probe *probe, CUdevice device)
{
    unsigned char uuid[16];
    int multiprocessors;
    if (!check(probe, cuDeviceGetUuid(uuid, device), "cuDeviceGetUuid") ||
        !check(probe, cuDeviceGetAttribute(&multiprocessors, MULTIPROCESSOR_COUNT, device), "cuDeviceGetAttribute"))
        return;
    for (unsigned int i = 0; i < probe->gpu_count; i++) {
        if (is_uuid(probe->gpus[i].uuid, uuid))
            probe->gpus[i].multiprocessors = multiprocessors;
    }
}

void probe_cuda(struct probe *probe)
{
    int count = 0;
    void *library = probe_open("libcuda.so.1", probe->cuda_error, sizeof probe->cuda_error);
    if (library == NULL || !load(library, probe) || !check(probe, cuInit(0), "cuInit") ||
        !check(probe, cuDeviceGetCount(&count), "cuDeviceGetCount"))
        return;
    for (int i = 0; i < count; i++) {
        CUdevice device;
        if (check(probe, cuDeviceGet(&device, i), "cuDeviceGet"))
            add_device(probe, device);
    }
}
