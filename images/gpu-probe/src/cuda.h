/* The part of CUDA's driver API that the probe calls, found at run time so that it starts without any driver. */
#ifndef GPU_PROBE_CUDA_H
#define GPU_PROBE_CUDA_H

#include "failure.h"

#include <stdbool.h>
#include <stddef.h>

typedef int CUresult;
typedef int CUdevice;
typedef struct CUctx_st *CUcontext;
typedef struct CUmod_st *CUmodule;
typedef struct CUfunc_st *CUfunction;
typedef struct CUstream_st *CUstream;
typedef struct CUevent_st *CUevent;
typedef unsigned long long CUdeviceptr;

enum {
    CUDA_SUCCESS = 0,
    CUDA_ERROR_OUT_OF_MEMORY = 2,
    CUDA_ERROR_NO_DEVICE = 100,
    CUDA_ERROR_NOT_SUPPORTED = 801,
};

enum { CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT = 16 };
enum { CU_EVENT_BLOCKING_SYNC = 1 };

/* name, symbol, parameters: the symbol carries the version that CUDA's own header maps the name to. Three groups,
   since a library that lacks what one command needs still serves the others. */
#define CUDA_DEVICE_FUNCTIONS(X)                                           \
    X(cuInit, cuInit, unsigned int)                                        \
    X(cuGetErrorName, cuGetErrorName, CUresult, const char **)             \
    X(cuDeviceGetCount, cuDeviceGetCount, int *)                           \
    X(cuDeviceGet, cuDeviceGet, CUdevice *, int)                           \
    X(cuDeviceGetUuid, cuDeviceGetUuid_v2, unsigned char *, CUdevice)      \
    X(cuDeviceGetAttribute, cuDeviceGetAttribute, int *, int, CUdevice)

#define CUDA_CONTEXT_FUNCTIONS(X)                                                     \
    X(cuDevicePrimaryCtxRetain, cuDevicePrimaryCtxRetain, CUcontext *, CUdevice)      \
    X(cuCtxSetCurrent, cuCtxSetCurrent, CUcontext)                                    \
    X(cuCtxSynchronize, cuCtxSynchronize, void)                                       \
    X(cuMemGetInfo, cuMemGetInfo_v2, size_t *, size_t *)                              \
    X(cuMemAlloc, cuMemAlloc_v2, CUdeviceptr *, size_t)

#define CUDA_KERNEL_FUNCTIONS(X)                                                                                  \
    X(cuModuleLoadData, cuModuleLoadData, CUmodule *, const void *)                                               \
    X(cuModuleGetFunction, cuModuleGetFunction, CUfunction *, CUmodule, const char *)                             \
    X(cuOccupancyMaxActiveBlocksPerMultiprocessor, cuOccupancyMaxActiveBlocksPerMultiprocessor, int *,            \
      CUfunction, int, size_t)                                                                                    \
    X(cuLaunchKernel, cuLaunchKernel, CUfunction, unsigned int, unsigned int, unsigned int, unsigned int,         \
      unsigned int, unsigned int, unsigned int, CUstream, void **, void **)                                       \
    X(cuEventCreate, cuEventCreate, CUevent *, unsigned int)                                                      \
    X(cuEventRecord, cuEventRecord, CUevent, CUstream)                                                            \
    X(cuEventSynchronize, cuEventSynchronize, CUevent)                                                            \
    X(cuEventElapsedTime, cuEventElapsedTime, float *, CUevent, CUevent)

#define CUDA_DECLARE(name, symbol, ...) extern CUresult (*name)(__VA_ARGS__);
CUDA_DEVICE_FUNCTIONS(CUDA_DECLARE)
CUDA_CONTEXT_FUNCTIONS(CUDA_DECLARE)
CUDA_KERNEL_FUNCTIONS(CUDA_DECLARE)
#undef CUDA_DECLARE

/* Opens libcuda and finds the first group; each further group on demand. All may be called again. */
bool cuda_open(struct failure *failure);
bool cuda_find_context_functions(struct failure *failure);
bool cuda_find_kernel_functions(struct failure *failure);

/* Only after cuda_open. */
bool cuda_is_simulated(void);
const char *cuda_error_name(CUresult result);

/* CUDA_OK(failure, cuInit, 0) calls cuInit(0); on an error it fills the failure and is false. */
#define CUDA_OK(failure, name, ...) cuda_check(failure, name(__VA_ARGS__), #name)
bool cuda_check(struct failure *failure, CUresult result, const char *call);

#endif
