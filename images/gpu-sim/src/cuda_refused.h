/* Functions that need a real GPU, with the CUDA version that their present form came with: X(version, name, symbol). */
#ifndef GPU_SIM_CUDA_REFUSED_H
#define GPU_SIM_CUDA_REFUSED_H

#define CUDA_REFUSED(X)                                                 \
    X(2000, cuModuleLoad, cuModuleLoad)                                 \
    X(2000, cuModuleLoadData, cuModuleLoadData)                         \
    X(2010, cuModuleLoadDataEx, cuModuleLoadDataEx)                     \
    X(2000, cuModuleLoadFatBinary, cuModuleLoadFatBinary)               \
    X(2000, cuModuleUnload, cuModuleUnload)                             \
    X(2000, cuModuleGetFunction, cuModuleGetFunction)                   \
    X(3020, cuModuleGetGlobal, cuModuleGetGlobal_v2)                    \
    X(12000, cuLibraryLoadData, cuLibraryLoadData)                      \
    X(12000, cuLibraryUnload, cuLibraryUnload)                          \
    X(12000, cuLibraryGetModule, cuLibraryGetModule)                    \
    X(12000, cuLibraryGetKernel, cuLibraryGetKernel)                    \
    X(12000, cuKernelGetFunction, cuKernelGetFunction)                  \
    X(11060, cuLaunchKernelEx, cuLaunchKernelEx)                        \
    X(9000, cuLaunchCooperativeKernel, cuLaunchCooperativeKernel)       \
    X(2020, cuFuncGetAttribute, cuFuncGetAttribute)                     \
    X(9000, cuFuncSetAttribute, cuFuncSetAttribute)                     \
    X(6050, cuOccupancyMaxActiveBlocksPerMultiprocessor, cuOccupancyMaxActiveBlocksPerMultiprocessor) \
    X(2000, cuStreamCreate, cuStreamCreate)                             \
    X(5050, cuStreamCreateWithPriority, cuStreamCreateWithPriority)     \
    X(4000, cuStreamDestroy, cuStreamDestroy_v2)                        \
    X(2000, cuStreamSynchronize, cuStreamSynchronize)                   \
    X(2000, cuStreamQuery, cuStreamQuery)                               \
    X(3020, cuStreamWaitEvent, cuStreamWaitEvent)                       \
    X(2000, cuEventCreate, cuEventCreate)                               \
    X(4000, cuEventDestroy, cuEventDestroy_v2)                          \
    X(2000, cuEventRecord, cuEventRecord)                               \
    X(2000, cuEventSynchronize, cuEventSynchronize)                     \
    X(2000, cuEventElapsedTime, cuEventElapsedTime)                     \
    X(6000, cuMemAllocManaged, cuMemAllocManaged)                       \
    X(3020, cuMemAllocPitch, cuMemAllocPitch_v2)                        \
    X(11020, cuMemAllocAsync, cuMemAllocAsync)                          \
    X(11020, cuMemFreeAsync, cuMemFreeAsync)                            \
    X(3020, cuMemAllocHost, cuMemAllocHost_v2)                          \
    X(2020, cuMemHostAlloc, cuMemHostAlloc)                             \
    X(2000, cuMemFreeHost, cuMemFreeHost)                               \
    X(4000, cuMemcpy, cuMemcpy)                                         \
    X(4000, cuMemcpyAsync, cuMemcpyAsync)                               \
    X(3020, cuMemcpyDtoD, cuMemcpyDtoD_v2)                              \
    X(3020, cuMemcpyHtoDAsync, cuMemcpyHtoDAsync_v2)                    \
    X(3020, cuMemcpyDtoHAsync, cuMemcpyDtoHAsync_v2)                    \
    X(3020, cuMemsetD32, cuMemsetD32_v2)                                \
    X(3020, cuMemsetD8Async, cuMemsetD8Async)

#endif
