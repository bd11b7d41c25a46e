/* Memory in use, as far as this process can see it.

   A real driver knows from its kernel module what every process of the machine holds. Here libcuda and the MPS servers
   keep the accounts, and only the servers publish theirs (mps_memory.h): NVML adds up what the files in
   CUDA_MPS_PIPE_DIRECTORY, or else /tmp/nvidia-mps, say. A process that does not see a daemon's pipe sees nothing of
   its clients, and none sees programs that run without MPS. */
#ifndef GPU_SIM_NVML_MEMORY_H
#define GPU_SIM_NVML_MEMORY_H

#include "inventory.h"

#include <stdint.h>

/* Bytes of a GPU, or of the GPU instance that a MIG device belongs to; no more than capacity. */
uint64_t nvml_memory_used(const struct nvmlDevice_st *device, uint64_t capacity);

#endif
