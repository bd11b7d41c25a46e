/* What the parts of the simulated libcuda share. One lock guards all of it; functions named cuda_... want it held. */
#ifndef GPU_SIM_CUDA_PRIVATE_H
#define GPU_SIM_CUDA_PRIVATE_H

#include "cuda.h"
#include "device_memory.h"
#include "devices.h"

struct cuda_context {
    uintptr_t handle; /* never used twice, so that a handle of a destroyed context is known as such */
    unsigned int device;
    unsigned int flags;
    unsigned int granted;
    uint32_t mps_id; /* the MPS server's number of it */
    struct cuda_context *next;
};

struct cuda_device {
    struct device device;
    unsigned int granted;    /* multiprocessors */
    unsigned int mps_number; /* the MPS server's clients name devices by it */
    /* What this process knows by itself. Without MPS that is all there is: nothing is shared between containers. */
    struct device_memory memory;
    struct client_memory own;
    uintptr_t primary_handle;
    unsigned int primary_flags;
    unsigned int primary_references;
};

/* Takes the lock; CUDA_ERROR_NOT_INITIALIZED, and no lock, before cuInit and in a fork of a process that called it. */
CUresult cuda_enter(void);
CUresult cuda_enter_device(CUdevice number, struct cuda_device **device);
/* Gives the lock back and returns the result. */
CUresult cuda_leave(CUresult result);

struct cuda_device *cuda_device(unsigned int number);
const struct inventory *cuda_inventory(void);

/* cuda_mps.c: the connection to an MPS server, if there is one. */
enum cuda_mps_start { CUDA_MPS_ABSENT, CUDA_MPS_CONNECTED, CUDA_MPS_FAILED };
/* Leaves the devices that the server has, in its order, with what each is granted. limits are the server's. */
enum cuda_mps_start cuda_mps_connect(struct cuda_device *devices, unsigned int *count,
                                     uint64_t limits[DEVICES_MAX], CUresult *result);
/* Sends a request (enum mps_kind). CUDA_SUCCESS at once without MPS, CUDA_ERROR_MPS_RPC_FAILURE once the server is
   gone. */
CUresult cuda_mps_call(int kind, unsigned int device, uint32_t context_id, uint64_t bytes, uint64_t *value);
/* Closes this process's end of the connection. In a fork, that leaves it to the parent alone. */
void cuda_mps_forget(void);

/* cuda_context.c */
struct cuda_context *cuda_context_find(uintptr_t handle);
/* handle 0: a new one */
CUresult cuda_context_open(unsigned int device, unsigned int flags, uintptr_t handle, struct cuda_context **opened);
void cuda_context_close(struct cuda_context *context);
uintptr_t cuda_context_new_handle(void);
/* This thread's current context. */
CUresult cuda_context_current(struct cuda_context **current);

/* cuda_memory.c */
void cuda_memory_free_all(const struct cuda_context *context);

/* cuda_refused.c: what every function that needs a real GPU answers. Takes the lock itself. */
CUresult cuda_refuse(const char *function);

#endif
