/* Contexts, and each thread's stack of current ones. */
#include "cuda_private.h"

#include "mps_protocol.h"

#include <stdlib.h>

enum { STACK_SIZE = 64, FIRST_HANDLE = 0x1000, HANDLE_STEP = 0x10, API_VERSION = 3020 };

static struct cuda_context *contexts;
static uintptr_t last_handle = FIRST_HANDLE;
static _Thread_local uintptr_t stack[STACK_SIZE];
static _Thread_local unsigned int depth;

uintptr_t cuda_context_new_handle(void)
{
    return last_handle += HANDLE_STEP;
}

struct cuda_context *cuda_context_find(uintptr_t handle)
{
    struct cuda_context *context = contexts;
    while (context != NULL && context->handle != handle)
        context = context->next;
    return context;
}

CUresult cuda_context_open(unsigned int device, unsigned int flags, uintptr_t handle, struct cuda_context **opened)
{
    struct cuda_device *found = cuda_device(device);
    uint64_t mps_id = 0;
    struct cuda_context *context = malloc(sizeof *context);
    if (context == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    CUresult result = cuda_mps_call(MPS_CONTEXT_CREATE, device, 0, 0, &mps_id);
    if (result == CUDA_SUCCESS && !device_memory_add_context(&found->memory, &found->own, found->granted))
        result = CUDA_ERROR_OUT_OF_MEMORY;
    if (result != CUDA_SUCCESS) {
        free(context);
        return result;
    }
    *context = (struct cuda_context){.handle = handle != 0 ? handle : cuda_context_new_handle(),
                                     .device = device,
                                     .flags = flags,
                                     .granted = found->granted,
                                     .mps_id = (uint32_t)mps_id,
                                     .next = contexts};
    contexts = context;
    *opened = context;
    return CUDA_SUCCESS;
}

void cuda_context_close(struct cuda_context *context)
{
    struct cuda_device *device = cuda_device(context->device);
    struct cuda_context **link = &contexts;
    cuda_memory_free_all(context);
    /* A dead server keeps no accounts any more. */
    cuda_mps_call(MPS_CONTEXT_DESTROY, context->device, context->mps_id, 0, NULL);
    device_memory_end_context(&device->memory, &device->own, context->granted);
    while (*link != context)
        link = &(*link)->next;
    *link = context->next;
    free(context);
}

CUresult cuda_context_current(struct cuda_context **current)
{
    if (depth == 0)
        return CUDA_ERROR_INVALID_CONTEXT;
    *current = cuda_context_find(stack[depth - 1]);
    return *current == NULL ? CUDA_ERROR_CONTEXT_IS_DESTROYED : CUDA_SUCCESS;
}

static CUresult enter_current(struct cuda_context **current)
{
    CUresult result = cuda_enter();
    if (result != CUDA_SUCCESS)
        return result;
    result = cuda_context_current(current);
    return result == CUDA_SUCCESS ? CUDA_SUCCESS : cuda_leave(result);
}

static CUresult push(uintptr_t handle)
{
    if (cuda_context_find(handle) == NULL)
        return CUDA_ERROR_INVALID_CONTEXT;
    if (depth == STACK_SIZE)
        return CUDA_ERROR_OUT_OF_MEMORY;
    stack[depth++] = handle;
    return CUDA_SUCCESS;
}

static CUresult create(CUcontext *context, unsigned int flags, CUdevice device)
{
    struct cuda_context *opened;
    if (context == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    CUresult result = cuda_context_open((unsigned int)device, flags, 0, &opened);
    if (result != CUDA_SUCCESS)
        return result;
    result = push(opened->handle);
    if (result != CUDA_SUCCESS) {
        cuda_context_close(opened);
        return result;
    }
    *context = (CUcontext)opened->handle;
    return CUDA_SUCCESS;
}

CUresult cuCtxCreate_v2(CUcontext *context, unsigned int flags, CUdevice device)
{
    struct cuda_device *found;
    CUresult result = cuda_enter_device(device, &found);
    return result == CUDA_SUCCESS ? cuda_leave(create(context, flags, device)) : result;
}

CUresult cuCtxCreate_v3(CUcontext *context, void *affinities, int count, unsigned int flags, CUdevice device)
{
    (void)affinities;
    return count == 0 ? cuCtxCreate_v2(context, flags, device) : CUDA_ERROR_NOT_SUPPORTED;
}

CUresult cuCtxCreate_v4(CUcontext *context, void *parameters, unsigned int flags, CUdevice device)
{
    return parameters == NULL ? cuCtxCreate_v2(context, flags, device) : CUDA_ERROR_NOT_SUPPORTED;
}

static bool is_primary(const struct cuda_context *context)
{
    return cuda_device(context->device)->primary_handle == context->handle;
}

CUresult cuCtxDestroy_v2(CUcontext context)
{
    CUresult result = cuda_enter();
    if (result != CUDA_SUCCESS)
        return result;
    struct cuda_context *found = cuda_context_find((uintptr_t)context);
    if (found == NULL || is_primary(found))
        return cuda_leave(CUDA_ERROR_INVALID_CONTEXT);
    if (depth > 0 && stack[depth - 1] == found->handle)
        depth--;
    cuda_context_close(found);
    return cuda_leave(CUDA_SUCCESS);
}

CUresult cuCtxPushCurrent_v2(CUcontext context)
{
    CUresult result = cuda_enter();
    return result == CUDA_SUCCESS ? cuda_leave(push((uintptr_t)context)) : result;
}

CUresult cuCtxPopCurrent_v2(CUcontext *context)
{
    CUresult result = cuda_enter();
    if (result != CUDA_SUCCESS)
        return result;
    if (depth == 0)
        return cuda_leave(CUDA_ERROR_INVALID_CONTEXT);
    depth--;
    if (context != NULL)
        *context = (CUcontext)stack[depth];
    return cuda_leave(CUDA_SUCCESS);
}

/* Replaces the top of the stack; NULL takes it away. */
CUresult cuCtxSetCurrent(CUcontext context)
{
    CUresult result = cuda_enter();
    if (result != CUDA_SUCCESS)
        return result;
    if (context != NULL && cuda_context_find((uintptr_t)context) == NULL)
        return cuda_leave(CUDA_ERROR_INVALID_CONTEXT);
    if (depth > 0)
        depth--;
    return cuda_leave(context == NULL ? CUDA_SUCCESS : push((uintptr_t)context));
}

CUresult cuCtxGetCurrent(CUcontext *context)
{
    CUresult result = cuda_enter();
    if (result != CUDA_SUCCESS)
        return result;
    if (context == NULL)
        return cuda_leave(CUDA_ERROR_INVALID_VALUE);
    *context = depth == 0 ? NULL : (CUcontext)stack[depth - 1];
    return cuda_leave(CUDA_SUCCESS);
}

CUresult cuCtxGetDevice(CUdevice *device)
{
    struct cuda_context *current;
    CUresult result = enter_current(&current);
    if (result != CUDA_SUCCESS)
        return result;
    if (device == NULL)
        return cuda_leave(CUDA_ERROR_INVALID_VALUE);
    *device = (CUdevice)current->device;
    return cuda_leave(CUDA_SUCCESS);
}

CUresult cuCtxGetFlags(unsigned int *flags)
{
    struct cuda_context *current;
    CUresult result = enter_current(&current);
    if (result != CUDA_SUCCESS)
        return result;
    if (flags == NULL)
        return cuda_leave(CUDA_ERROR_INVALID_VALUE);
    *flags = current->flags;
    return cuda_leave(CUDA_SUCCESS);
}

/* Of the current context if context is NULL. */
CUresult cuCtxGetApiVersion(CUcontext context, unsigned int *version)
{
    struct cuda_context *found;
    CUresult result = context == NULL ? enter_current(&found) : cuda_enter();
    if (result != CUDA_SUCCESS)
        return result;
    if (context != NULL && cuda_context_find((uintptr_t)context) == NULL)
        return cuda_leave(CUDA_ERROR_INVALID_CONTEXT);
    if (version == NULL)
        return cuda_leave(CUDA_ERROR_INVALID_VALUE);
    *version = API_VERSION;
    return cuda_leave(CUDA_SUCCESS);
}

/* Nothing runs that it could wait for, but an MPS server that is gone shows here. */
CUresult cuCtxSynchronize(void)
{
    struct cuda_context *current;
    CUresult result = enter_current(&current);
    if (result != CUDA_SUCCESS)
        return result;
    return cuda_leave(cuda_mps_call(MPS_SYNCHRONIZE, current->device, 0, 0, NULL));
}
