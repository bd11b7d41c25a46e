/* The simulated libcuda beside its devices: errors, lookup of functions, and the refusal to run kernels. */
#include "cuda.h"

#include <stdio.h>
#include <string.h>

struct error {
    CUresult number;
    const char *name;
    const char *text;
};

static const struct error errors[] = {
    {CUDA_SUCCESS, "CUDA_SUCCESS", "no error"},
    {CUDA_ERROR_INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {CUDA_ERROR_NOT_INITIALIZED, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {CUDA_ERROR_NO_DEVICE, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {CUDA_ERROR_INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {CUDA_ERROR_NOT_FOUND, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {CUDA_ERROR_NOT_SUPPORTED, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
    {CUDA_ERROR_UNKNOWN, "CUDA_ERROR_UNKNOWN", "unknown error"},
};

static const struct error *find_error(CUresult number)
{
    for (size_t i = 0; i < sizeof errors / sizeof errors[0]; i++) {
        if (errors[i].number == number)
            return &errors[i];
    }
    return NULL;
}

CUresult cuGetErrorName(CUresult number, const char **name)
{
    if (name == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    const struct error *error = find_error(number);
    *name = error == NULL ? NULL : error->name;
    return error == NULL ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}

CUresult cuGetErrorString(CUresult number, const char **text)
{
    if (text == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    const struct error *error = find_error(number);
    *text = error == NULL ? NULL : error->text;
    return error == NULL ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}

CUresult cuLaunchKernel(CUfunction function, unsigned int grid_x, unsigned int grid_y, unsigned int grid_z,
                        unsigned int block_x, unsigned int block_y, unsigned int block_z, unsigned int shared_bytes,
                        CUstream stream, void **parameters, void **extra)
{
    (void)function, (void)grid_x, (void)grid_y, (void)grid_z, (void)block_x, (void)block_y, (void)block_z;
    (void)shared_bytes, (void)stream, (void)parameters, (void)extra;
    fprintf(stderr, "simulated CUDA: cuLaunchKernel: this GPU is simulated and runs no CUDA code\n");
    return CUDA_ERROR_NOT_SUPPORTED;
}

const char *gpuSimulatedCuda(void)
{
    return "simulated NVIDIA GPU: no CUDA code runs";
}

struct function {
    const char *name;
    void (*address)(void);
};

/* CUDA hands out the newest version of a function under its plain name. */
static const struct function functions[] = {
    {"cuInit", (void (*)(void))cuInit},
    {"cuDriverGetVersion", (void (*)(void))cuDriverGetVersion},
    {"cuDeviceGetCount", (void (*)(void))cuDeviceGetCount},
    {"cuDeviceGet", (void (*)(void))cuDeviceGet},
    {"cuDeviceGetName", (void (*)(void))cuDeviceGetName},
    {"cuDeviceGetUuid", (void (*)(void))cuDeviceGetUuid_v2},
    {"cuDeviceGetAttribute", (void (*)(void))cuDeviceGetAttribute},
    {"cuDeviceTotalMem", (void (*)(void))cuDeviceTotalMem_v2},
    {"cuDeviceGetPCIBusId", (void (*)(void))cuDeviceGetPCIBusId},
    {"cuGetErrorName", (void (*)(void))cuGetErrorName},
    {"cuGetErrorString", (void (*)(void))cuGetErrorString},
    {"cuGetProcAddress", (void (*)(void))cuGetProcAddress_v2},
    {"cuLaunchKernel", (void (*)(void))cuLaunchKernel},
};

CUresult cuGetProcAddress_v2(const char *symbol, void **function, int cuda_version, uint64_t flags,
                             CUdriverProcAddressQueryResult *status)
{
    (void)cuda_version, (void)flags;
    if (symbol == NULL || function == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *function = NULL;
    for (size_t i = 0; i < sizeof functions / sizeof functions[0]; i++) {
        if (strcmp(functions[i].name, symbol) == 0)
            memcpy(function, &functions[i].address, sizeof *function);
    }
    if (status != NULL)
        *status = *function == NULL ? CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND : CU_GET_PROC_ADDRESS_SUCCESS;
    return *function == NULL ? CUDA_ERROR_NOT_FOUND : CUDA_SUCCESS;
}

CUresult cuGetProcAddress(const char *symbol, void **function, int cuda_version, uint64_t flags)
{
    return cuGetProcAddress_v2(symbol, function, cuda_version, flags, NULL);
}
