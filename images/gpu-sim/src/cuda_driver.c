/* The simulated libcuda beside its devices: names of errors and lookup of functions. */
#include "cuda.h"

#include "cuda_refused.h"

#include <string.h>

struct error {
    int number;
    const char *name;
    const char *text;
};

/* Those that this library or a program's other CUDA libraries may ask for; numbers are cuda.h's. */
static const struct error errors[] = {
    {0, "CUDA_SUCCESS", "no error"},
    {1, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {2, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {3, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {4, "CUDA_ERROR_DEINITIALIZED", "driver shutting down"},
    {46, "CUDA_ERROR_DEVICE_UNAVAILABLE", "device busy or unavailable"},
    {100, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {101, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {200, "CUDA_ERROR_INVALID_IMAGE", "device kernel image is invalid"},
    {201, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {209, "CUDA_ERROR_NO_BINARY_FOR_GPU", "no kernel image for this device"},
    {224, "CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY", "unsupported execution affinity"},
    {304, "CUDA_ERROR_OPERATING_SYSTEM", "operating system call failed"},
    {400, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {500, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {600, "CUDA_ERROR_NOT_READY", "device not ready"},
    {700, "CUDA_ERROR_ILLEGAL_ADDRESS", "illegal memory access"},
    {701, "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES", "too many resources requested for launch"},
    {708, "CUDA_ERROR_PRIMARY_CONTEXT_ACTIVE", "primary context is active"},
    {709, "CUDA_ERROR_CONTEXT_IS_DESTROYED", "context is destroyed"},
    {719, "CUDA_ERROR_LAUNCH_FAILED", "launch failed"},
    {800, "CUDA_ERROR_NOT_PERMITTED", "operation not permitted"},
    {801, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
    {802, "CUDA_ERROR_SYSTEM_NOT_READY", "system not yet initialized"},
    {803, "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH", "driver and library versions differ"},
    {804, "CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE", "forward compatibility not supported on this device"},
    {805, "CUDA_ERROR_MPS_CONNECTION_FAILED", "MPS client failed to connect to the MPS control daemon or server"},
    {806, "CUDA_ERROR_MPS_RPC_FAILURE", "call between MPS client and server failed"},
    {807, "CUDA_ERROR_MPS_SERVER_NOT_READY", "MPS server is not ready for new clients"},
    {808, "CUDA_ERROR_MPS_MAX_CLIENTS_REACHED", "no room for a further MPS client"},
    {809, "CUDA_ERROR_MPS_MAX_CONNECTIONS_REACHED", "no room for a further MPS client context"},
    {810, "CUDA_ERROR_MPS_CLIENT_TERMINATED", "MPS client was terminated by the server"},
    {811, "CUDA_ERROR_CDP_NOT_SUPPORTED", "dynamic parallelism not supported in this configuration"},
    {812, "CUDA_ERROR_CDP_VERSION_MISMATCH", "dynamic parallelism versions do not match"},
    {999, "CUDA_ERROR_UNKNOWN", "unknown error"},
};

static const struct error *find_error(CUresult number)
{
    for (size_t i = 0; i < sizeof errors / sizeof errors[0]; i++) {
        if (errors[i].number == (int)number)
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

const char *gpuSimulatedCuda(void)
{
    return "simulated NVIDIA GPU: no CUDA code runs";
}

/* Tables of functions that only NVIDIA's own libraries know. */
CUresult cuGetExportTable(const void **table, const CUuuid *id)
{
    if (table == NULL || id == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *table = NULL;
    return CUDA_ERROR_NOT_SUPPORTED;
}

struct function {
    int version; /* CUDA's that brought this form of it */
    const char *name;
    void (*address)(void);
};

#define REFUSED(version, name, symbol) CUresult symbol(void);
CUDA_REFUSED(REFUSED)
#undef REFUSED

#define FUNCTION(version, name, symbol) {version, #name, (void (*)(void))symbol},

/* Under a name with several forms the newest that the caller's CUDA version knows counts, so later rows win. */
static const struct function functions[] = {
    FUNCTION(2000, cuInit, cuInit)
    FUNCTION(2020, cuDriverGetVersion, cuDriverGetVersion)
    FUNCTION(2000, cuDeviceGetCount, cuDeviceGetCount)
    FUNCTION(2000, cuDeviceGet, cuDeviceGet)
    FUNCTION(2000, cuDeviceGetName, cuDeviceGetName)
    FUNCTION(9020, cuDeviceGetUuid, cuDeviceGetUuid)
    FUNCTION(11040, cuDeviceGetUuid, cuDeviceGetUuid_v2)
    FUNCTION(2000, cuDeviceGetAttribute, cuDeviceGetAttribute)
    FUNCTION(2000, cuDeviceTotalMem, cuDeviceTotalMem)
    FUNCTION(3020, cuDeviceTotalMem, cuDeviceTotalMem_v2)
    FUNCTION(4010, cuDeviceGetPCIBusId, cuDeviceGetPCIBusId)
    FUNCTION(7000, cuDevicePrimaryCtxRetain, cuDevicePrimaryCtxRetain)
    FUNCTION(7000, cuDevicePrimaryCtxRelease, cuDevicePrimaryCtxRelease)
    FUNCTION(11000, cuDevicePrimaryCtxRelease, cuDevicePrimaryCtxRelease_v2)
    FUNCTION(7000, cuDevicePrimaryCtxReset, cuDevicePrimaryCtxReset)
    FUNCTION(11000, cuDevicePrimaryCtxReset, cuDevicePrimaryCtxReset_v2)
    FUNCTION(7000, cuDevicePrimaryCtxSetFlags, cuDevicePrimaryCtxSetFlags)
    FUNCTION(11000, cuDevicePrimaryCtxSetFlags, cuDevicePrimaryCtxSetFlags_v2)
    FUNCTION(7000, cuDevicePrimaryCtxGetState, cuDevicePrimaryCtxGetState)
    FUNCTION(3020, cuCtxCreate, cuCtxCreate_v2)
    FUNCTION(11040, cuCtxCreate, cuCtxCreate_v3)
    FUNCTION(12050, cuCtxCreate, cuCtxCreate_v4)
    FUNCTION(4000, cuCtxDestroy, cuCtxDestroy_v2)
    FUNCTION(4000, cuCtxSetCurrent, cuCtxSetCurrent)
    FUNCTION(4000, cuCtxGetCurrent, cuCtxGetCurrent)
    FUNCTION(4000, cuCtxPushCurrent, cuCtxPushCurrent_v2)
    FUNCTION(4000, cuCtxPopCurrent, cuCtxPopCurrent_v2)
    FUNCTION(2000, cuCtxGetDevice, cuCtxGetDevice)
    FUNCTION(7000, cuCtxGetFlags, cuCtxGetFlags)
    FUNCTION(3020, cuCtxGetApiVersion, cuCtxGetApiVersion)
    FUNCTION(2000, cuCtxSynchronize, cuCtxSynchronize)
    FUNCTION(3020, cuMemGetInfo, cuMemGetInfo_v2)
    FUNCTION(3020, cuMemAlloc, cuMemAlloc_v2)
    FUNCTION(3020, cuMemFree, cuMemFree_v2)
    FUNCTION(3020, cuMemsetD8, cuMemsetD8_v2)
    FUNCTION(3020, cuMemcpyHtoD, cuMemcpyHtoD_v2)
    FUNCTION(3020, cuMemcpyDtoH, cuMemcpyDtoH_v2)
    FUNCTION(4000, cuLaunchKernel, cuLaunchKernel)
    FUNCTION(6000, cuGetErrorName, cuGetErrorName)
    FUNCTION(6000, cuGetErrorString, cuGetErrorString)
    FUNCTION(3000, cuGetExportTable, cuGetExportTable)
    FUNCTION(11030, cuGetProcAddress, cuGetProcAddress)
    FUNCTION(12000, cuGetProcAddress, cuGetProcAddress_v2)
    CUDA_REFUSED(FUNCTION)
};

CUresult cuGetProcAddress_v2(const char *symbol, void **function, int cuda_version, uint64_t flags,
                             CUdriverProcAddressQueryResult *status)
{
    (void)flags;
    if (symbol == NULL || function == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *function = NULL;
    for (size_t i = 0; i < sizeof functions / sizeof functions[0]; i++) {
        if (functions[i].version <= cuda_version && strcmp(functions[i].name, symbol) == 0)
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
