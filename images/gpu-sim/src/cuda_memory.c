/* Device memory: accounts and addresses, but no bytes. What would need bytes is refused rather than pretended. */
#include "cuda_private.h"

#include "mps_protocol.h"

#include <stdlib.h>

/* Addresses that no process uses for memory of its own, so that a program that follows one fails at once. */
static const CUdeviceptr first_address = 0x800000000000;
enum { ADDRESS_UNIT = 2 << 20 };

struct allocation {
    CUdeviceptr address;
    uint64_t bytes;
    unsigned int device;
    uintptr_t context;
    struct allocation *next;
};

static struct allocation *allocations;
static CUdeviceptr next_address = first_address;

static CUresult enter_current(struct cuda_context **current)
{
    CUresult result = cuda_enter();
    if (result != CUDA_SUCCESS)
        return result;
    result = cuda_context_current(current);
    return result == CUDA_SUCCESS ? CUDA_SUCCESS : cuda_leave(result);
}

/* A dead server's clients go on with their own accounts: measured. */
static bool server_answers(CUresult *result)
{
    if (*result != CUDA_ERROR_MPS_RPC_FAILURE)
        return true;
    *result = CUDA_SUCCESS;
    return false;
}

CUresult cuMemGetInfo_v2(size_t *available, size_t *total)
{
    struct cuda_context *current;
    CUresult result = enter_current(&current);
    if (result != CUDA_SUCCESS)
        return result;
    if (available == NULL || total == NULL)
        return cuda_leave(CUDA_ERROR_INVALID_VALUE);
    const struct cuda_device *device = cuda_device(current->device);
    uint64_t own = device_memory_available(&device->memory, &device->own), shared = own;
    result = cuda_mps_call(MPS_AVAILABLE, current->device, 0, 0, &shared);
    *available = server_answers(&result) && shared < own ? shared : own;
    *total = device->memory.total;
    return cuda_leave(result);
}

static CUresult allocate(const struct cuda_context *context, CUdeviceptr *address, uint64_t bytes)
{
    struct cuda_device *device = cuda_device(context->device);
    struct allocation *allocation = malloc(sizeof *allocation);
    if (allocation == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    /* This process's limit is its own affair; what others hold is the server's. */
    CUresult result = CUDA_ERROR_OUT_OF_MEMORY;
    if (device_memory_allocate(&device->memory, &device->own, bytes)) {
        result = cuda_mps_call(MPS_ALLOCATE, context->device, 0, bytes, NULL);
        server_answers(&result);
        if (result != CUDA_SUCCESS)
            device_memory_free(&device->memory, &device->own, bytes);
    }
    if (result != CUDA_SUCCESS) {
        free(allocation);
        return result;
    }
    *allocation = (struct allocation){.address = next_address,
                                      .bytes = bytes,
                                      .device = context->device,
                                      .context = context->handle,
                                      .next = allocations};
    /* A gap of one unit lies behind each. */
    next_address += (bytes / ADDRESS_UNIT + 2) * ADDRESS_UNIT;
    allocations = allocation;
    *address = allocation->address;
    return CUDA_SUCCESS;
}

CUresult cuMemAlloc_v2(CUdeviceptr *address, size_t bytes)
{
    struct cuda_context *current;
    CUresult result = enter_current(&current);
    if (result != CUDA_SUCCESS)
        return result;
    if (address == NULL || bytes == 0)
        return cuda_leave(CUDA_ERROR_INVALID_VALUE);
    return cuda_leave(allocate(current, address, bytes));
}

/* Takes the allocation out of the list and gives its memory back. */
static CUresult release(struct allocation **link)
{
    struct allocation *allocation = *link;
    struct cuda_device *device = cuda_device(allocation->device);
    CUresult result = cuda_mps_call(MPS_FREE, allocation->device, 0, allocation->bytes, NULL);
    server_answers(&result);
    device_memory_free(&device->memory, &device->own, allocation->bytes);
    *link = allocation->next;
    free(allocation);
    return result;
}

void cuda_memory_free_all(const struct cuda_context *context)
{
    struct allocation **link = &allocations;
    while (*link != NULL) {
        if ((*link)->context == context->handle)
            release(link);
        else
            link = &(*link)->next;
    }
}

CUresult cuMemFree_v2(CUdeviceptr address)
{
    struct cuda_context *current;
    CUresult result = enter_current(&current);
    if (result != CUDA_SUCCESS)
        return result;
    if (address == 0)
        return cuda_leave(CUDA_SUCCESS);
    for (struct allocation **link = &allocations; *link != NULL; link = &(*link)->next) {
        if ((*link)->address == address)
            return cuda_leave(release(link));
    }
    return cuda_leave(CUDA_ERROR_INVALID_VALUE);
}

static bool is_allocated(CUdeviceptr address, uint64_t bytes)
{
    for (const struct allocation *allocation = allocations; allocation != NULL; allocation = allocation->next) {
        if (address >= allocation->address && address - allocation->address <= allocation->bytes &&
            bytes <= allocation->bytes - (address - allocation->address))
            return true;
    }
    return false;
}

/* There are no bytes to write or to read, only the question whether they would be this process's. */
static CUresult refuse_bytes(const char *function, CUdeviceptr address, const void *host, uint64_t bytes)
{
    struct cuda_context *current;
    CUresult result = enter_current(&current);
    if (result != CUDA_SUCCESS)
        return result;
    bool valid = host != NULL && is_allocated(address, bytes);
    cuda_leave(CUDA_SUCCESS);
    return valid ? cuda_refuse(function) : CUDA_ERROR_INVALID_VALUE;
}

CUresult cuMemsetD8_v2(CUdeviceptr address, unsigned char value, size_t bytes)
{
    return refuse_bytes("cuMemsetD8_v2", address, &value, bytes);
}

CUresult cuMemcpyHtoD_v2(CUdeviceptr target, const void *source, size_t bytes)
{
    return refuse_bytes("cuMemcpyHtoD_v2", target, source, bytes);
}

CUresult cuMemcpyDtoH_v2(void *target, CUdeviceptr source, size_t bytes)
{
    return refuse_bytes("cuMemcpyDtoH_v2", source, target, bytes);
}
