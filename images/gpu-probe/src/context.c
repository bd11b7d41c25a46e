#include "context.h"

#include <stdio.h>

bool context_open(struct context *context, int ordinal, struct failure *failure)
{
    CUdevice device;
    CUcontext primary;
    *context = (struct context){.ordinal = ordinal};
    /* The count of multiprocessors is asked last: under MPS a process learns its share with its context. */
    return cuda_open(failure) && cuda_find_context_functions(failure) && CUDA_OK(failure, cuInit, 0) &&
           CUDA_OK(failure, cuDeviceGet, &device, ordinal) &&
           CUDA_OK(failure, cuDevicePrimaryCtxRetain, &primary, device) &&
           CUDA_OK(failure, cuCtxSetCurrent, primary) &&
           CUDA_OK(failure, cuDeviceGetAttribute, &context->sms, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, device);
}

bool context_check(struct failure *failure)
{
    return CUDA_OK(failure, cuCtxSynchronize);
}

bool context_memory(struct memory *memory, struct failure *failure)
{
    return CUDA_OK(failure, cuMemGetInfo, &memory->free, &memory->total);
}

void context_print(const struct context *context)
{
    printf("\"device\": %d, \"sms\": %d", context->ordinal, context->sms);
}

void memory_print(const struct memory *memory)
{
    printf("\"free_mib\": %zu, \"total_mib\": %zu", memory->free >> 20, memory->total >> 20);
}
