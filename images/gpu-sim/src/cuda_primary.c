/* Each device's primary context, which the runtime API and most programs use. */
#include "cuda_private.h"

static unsigned int number_of(const struct cuda_device *device)
{
    return (unsigned int)(device - cuda_device(0));
}

CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device)
{
    struct cuda_device *found;
    struct cuda_context *opened;
    CUresult result = cuda_enter_device(device, &found);
    if (result != CUDA_SUCCESS)
        return result;
    if (context == NULL)
        return cuda_leave(CUDA_ERROR_INVALID_VALUE);
    if (found->primary_references == 0)
        result = cuda_context_open(number_of(found), found->primary_flags, found->primary_handle, &opened);
    if (result != CUDA_SUCCESS)
        return cuda_leave(result);
    found->primary_references++;
    *context = (CUcontext)found->primary_handle;
    return cuda_leave(CUDA_SUCCESS);
}

CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device)
{
    struct cuda_device *found;
    CUresult result = cuda_enter_device(device, &found);
    if (result != CUDA_SUCCESS)
        return result;
    if (found->primary_references == 0)
        return cuda_leave(CUDA_ERROR_INVALID_CONTEXT);
    if (--found->primary_references == 0)
        cuda_context_close(cuda_context_find(found->primary_handle));
    return cuda_leave(CUDA_SUCCESS);
}

/* Ends the context for all who retained it. */
CUresult cuDevicePrimaryCtxReset_v2(CUdevice device)
{
    struct cuda_device *found;
    CUresult result = cuda_enter_device(device, &found);
    if (result != CUDA_SUCCESS)
        return result;
    if (found->primary_references > 0)
        cuda_context_close(cuda_context_find(found->primary_handle));
    found->primary_references = 0;
    return cuda_leave(CUDA_SUCCESS);
}

CUresult cuDevicePrimaryCtxSetFlags_v2(CUdevice device, unsigned int flags)
{
    struct cuda_device *found;
    CUresult result = cuda_enter_device(device, &found);
    if (result != CUDA_SUCCESS)
        return result;
    found->primary_flags = flags;
    struct cuda_context *active = cuda_context_find(found->primary_handle);
    if (active != NULL)
        active->flags = flags;
    return cuda_leave(CUDA_SUCCESS);
}

CUresult cuDevicePrimaryCtxGetState(CUdevice device, unsigned int *flags, int *active)
{
    struct cuda_device *found;
    CUresult result = cuda_enter_device(device, &found);
    if (result != CUDA_SUCCESS)
        return result;
    if (flags == NULL || active == NULL)
        return cuda_leave(CUDA_ERROR_INVALID_VALUE);
    *flags = found->primary_flags;
    *active = found->primary_references > 0;
    return cuda_leave(CUDA_SUCCESS);
}

/* The first versions differ only in what they do while the context is in use, which the second ones allow. */
CUresult cuDevicePrimaryCtxRelease(CUdevice device)
{
    return cuDevicePrimaryCtxRelease_v2(device);
}

CUresult cuDevicePrimaryCtxReset(CUdevice device)
{
    return cuDevicePrimaryCtxReset_v2(device);
}

CUresult cuDevicePrimaryCtxSetFlags(CUdevice device, unsigned int flags)
{
    return cuDevicePrimaryCtxSetFlags_v2(device, flags);
}
