/* The simulated nvidia-smi: NVML found at run time, and the forms of output that people and programs rely on. */
#ifndef GPU_SIM_SMI_H
#define GPU_SIM_SMI_H

#include "gpu_sim.h"
#include "nvml_api.h"

#include <stdbool.h>
#include <stdio.h>

/* NVIDIA's documented exit codes (nvidia-smi -h, RETURN VALUE). */
enum {
    SMI_SUCCESS = 0,
    SMI_INVALID_ARGUMENT = 2,
    SMI_NO_DEVICE = 6,
    SMI_DRIVER_NOT_LOADED = 9,
    SMI_LIBRARY_NOT_FOUND = 12,
};

/* X(member of struct smi, symbol it points to) */
#define SMI_FUNCTIONS(X)                                                  \
    X(init, nvmlInitWithFlags)                                            \
    X(error_string, nvmlErrorString)                                      \
    X(driver_version, nvmlSystemGetDriverVersion)                         \
    X(nvml_version, nvmlSystemGetNVMLVersion)                             \
    X(cuda_version, nvmlSystemGetCudaDriverVersion_v2)                    \
    X(count, nvmlDeviceGetCount_v2)                                       \
    X(by_index, nvmlDeviceGetHandleByIndex_v2)                            \
    X(by_uuid, nvmlDeviceGetHandleByUUID)                                 \
    X(by_bus_id, nvmlDeviceGetHandleByPciBusId_v2)                        \
    X(index, nvmlDeviceGetIndex)                                          \
    X(name, nvmlDeviceGetName)                                            \
    X(uuid, nvmlDeviceGetUUID)                                            \
    X(pci, nvmlDeviceGetPciInfo_v3)                                       \
    X(memory, nvmlDeviceGetMemoryInfo)                                    \
    X(compute_capability, nvmlDeviceGetCudaComputeCapability)             \
    X(compute_mode, nvmlDeviceGetComputeMode)                             \
    X(set_compute_mode, nvmlDeviceSetComputeMode)                         \
    X(persistence_mode, nvmlDeviceGetPersistenceMode)                     \
    X(set_persistence_mode, nvmlDeviceSetPersistenceMode)                 \
    X(mig_mode, nvmlDeviceGetMigMode)                                     \
    X(mig_by_index, nvmlDeviceGetMigDeviceHandleByIndex)                  \
    X(max_mig_count, nvmlDeviceGetMaxMigDeviceCount)                      \
    X(set_mig_mode, nvmlDeviceSetMigMode)                                 \
    X(reset, gpuSimReset)                                                 \
    X(gi_profile, nvmlDeviceGetGpuInstanceProfileInfoV)                   \
    X(gi_placements, nvmlDeviceGetGpuInstancePossiblePlacements_v2)       \
    X(gi_remaining, nvmlDeviceGetGpuInstanceRemainingCapacity)            \
    X(gis, nvmlDeviceGetGpuInstances)                                     \
    X(gi_info, nvmlGpuInstanceGetInfo)                                    \
    X(gi_create, nvmlDeviceCreateGpuInstance)                             \
    X(gi_create_placed, nvmlDeviceCreateGpuInstanceWithPlacement)         \
    X(gi_destroy, nvmlGpuInstanceDestroy)                                 \
    X(ci_profile, nvmlGpuInstanceGetComputeInstanceProfileInfoV)          \
    X(ci_remaining, nvmlGpuInstanceGetComputeInstanceRemainingCapacity)   \
    X(cis, nvmlGpuInstanceGetComputeInstances)                            \
    X(ci_info, nvmlComputeInstanceGetInfo_v2)                             \
    X(ci_create, nvmlGpuInstanceCreateComputeInstance)                    \
    X(ci_destroy, nvmlComputeInstanceDestroy)                             \
    X(attributes, nvmlDeviceGetAttributes_v2)                             \
    X(gi_id, nvmlDeviceGetGpuInstanceId)                                  \
    X(ci_id, nvmlDeviceGetComputeInstanceId)                              \
    X(bar1, nvmlDeviceGetBAR1MemoryInfo)                                  \
    X(brand, nvmlDeviceGetBrand)                                          \
    X(minor, nvmlDeviceGetMinorNumber)                                    \
    X(addressing, nvmlDeviceGetAddressingMode)                            \
    X(memory_v2, nvmlDeviceGetMemoryInfo_v2)                              \
    X(architecture, nvmlDeviceGetArchitecture)                            \
    X(power_limit, nvmlDeviceGetPowerManagementLimit)                     \
    X(utilization, nvmlDeviceGetUtilizationRates)                         \
    X(set_timeslice, gpuSimSetTimeslice)

struct smi {
#define SMI_MEMBER(member, symbol) __typeof__(&symbol) member;
    SMI_FUNCTIONS(SMI_MEMBER)
#undef SMI_MEMBER
    nvmlDevice_t devices[64];
    unsigned int device_count;
};

/* Loads and initialises NVML; prints why it could not, as nvidia-smi does, and returns the exit code. */
int smi_open(struct smi *smi);

/* Chooses devices by a comma-separated list of indices, UUIDs or PCI bus IDs; NULL for all. */
int smi_select(struct smi *smi, const char *ids);

int smi_list(struct smi *smi);
int smi_table(struct smi *smi);
int smi_version(struct smi *smi);
/* nvidia-smi mig with the arguments behind "mig". Opens NVML itself, after it has understood them. */
int smi_mig(struct smi *smi, int count, char **arguments);
/* -q */
int smi_detail(struct smi *smi);
/* --query-gpu and --format as given on the command line. */
int smi_query(struct smi *smi, const char *fields, const char *format);

/* Names for people, of values NVML numbers. */
const char *smi_compute_mode_name(nvmlComputeMode_t mode);

/* For people only: on stderr, and only where both streams are a terminal. A container's log mixes the two, and whoever
   counts its lines must find as many as NVIDIA's nvidia-smi writes. */
void smi_note_simulation(void);

#endif
