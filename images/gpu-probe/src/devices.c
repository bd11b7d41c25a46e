/* What CUDA alone knows about the GPUs that NVML lists. */
#include "cuda.h"
#include "probe.h"

#include <string.h>

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

static bool add_device(struct probe *probe, int ordinal, struct failure *failure)
{
    CUdevice device;
    unsigned char uuid[16];
    int multiprocessors;
    if (!CUDA_OK(failure, cuDeviceGet, &device, ordinal) || !CUDA_OK(failure, cuDeviceGetUuid, uuid, device) ||
        !CUDA_OK(failure, cuDeviceGetAttribute, &multiprocessors, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, device))
        return false;
    for (unsigned int i = 0; i < probe->gpu_count; i++) {
        if (is_uuid(probe->gpus[i].uuid, uuid))
            probe->gpus[i].multiprocessors = multiprocessors;
    }
    return true;
}

static void tell(struct probe *probe, const struct failure *failure)
{
    if (failure->call == NULL)
        snprintf(probe->cuda_error, sizeof probe->cuda_error, "%.500s", failure->error);
    else
        snprintf(probe->cuda_error, sizeof probe->cuda_error, "%s: CUDA error %d (%.400s)", failure->call,
                 failure->code, failure->error);
}

void probe_cuda(struct probe *probe)
{
    int count = 0;
    struct failure failure;
    if (!cuda_open(&failure) || !CUDA_OK(&failure, cuInit, 0) || !CUDA_OK(&failure, cuDeviceGetCount, &count))
        tell(probe, &failure);
    for (int i = 0; i < count; i++) {
        if (!add_device(probe, i, &failure))
            tell(probe, &failure);
    }
}
