/* What the simulated libnvidia-ml offers beside NVML. NVIDIA's own library has none of these symbols, so a program can
   tell a simulation by looking for gpuSimulated. */
#ifndef GPU_SIM_H
#define GPU_SIM_H

#include "nvml_api.h"

/* Highest value of `nvidia-smi compute-policy --set-timeslice`: 0 default, 1 short, 2 medium, 3 long. */
enum { GPU_SIM_TIMESLICE_MAX = 3 };

#pragma GCC visibility push(default)
const char *gpuSimulated(void);
/* Makes the pending MIG mode the current one, and destroys all instances. */
nvmlReturn_t gpuSimReset(nvmlDevice_t device);
nvmlReturn_t gpuSimSetTimeslice(nvmlDevice_t device, unsigned int timeslice);
nvmlReturn_t gpuSimGetTimeslice(nvmlDevice_t device, unsigned int *timeslice);
#pragma GCC visibility pop

#endif
