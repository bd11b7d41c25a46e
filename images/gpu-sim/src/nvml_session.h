/* One initialised NVML: reference count, lock, and the checks every call begins with. */
#ifndef GPU_SIM_NVML_SESSION_H
#define GPU_SIM_NVML_SESSION_H

#include "inventory.h"
#include "nvml_api.h"

nvmlReturn_t session_start(unsigned int flags);
nvmlReturn_t session_stop(void);

/* Each session_enter* takes the lock if, and only if, it returns NVML_SUCCESS; session_leave gives it back and passes
   the result on. */
nvmlReturn_t session_enter(struct inventory **inventory);
nvmlReturn_t session_enter_device(nvmlDevice_t handle, struct nvmlDevice_st **device);
/* The whole GPU: NVML_ERROR_INVALID_ARGUMENT for a MIG device. */
nvmlReturn_t session_enter_gpu(nvmlDevice_t handle, struct gpu **gpu);
nvmlReturn_t session_enter_gpu_instance(nvmlGpuInstance_t handle, struct nvmlGpuInstance_st **instance);
nvmlReturn_t session_enter_compute_instance(nvmlComputeInstance_t handle, struct nvmlComputeInstance_st **compute);
nvmlReturn_t session_leave(nvmlReturn_t result);

/* For figures of a whole GPU that has MIG on: a program that was given MIG devices of it may not know them. Seen by
   others in containers on A100s ("Insufficient Permissions"); whoever sees the whole driver root may. */
nvmlReturn_t session_may_see(const struct nvmlDevice_st *device);

/* Valid between enter and leave. */
struct inventory *session_inventory(void);

/* What a function says that the simulation has no answer for. */
nvmlReturn_t session_not_supported(void);

/* Copies a text out as NVML does. */
nvmlReturn_t copy_text(char *target, unsigned int size, const char *text);

#endif
