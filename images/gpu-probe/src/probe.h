/* What the probe finds, and how it is printed. */
#ifndef GPU_PROBE_H
#define GPU_PROBE_H

#include <stdbool.h>
#include <stdio.h>

enum { PROBE_MAX_GPUS = 64, PROBE_TEXT = 160 };

struct probe_gpu {
    unsigned int index;
    char uuid[PROBE_TEXT];
    char name[PROBE_TEXT];
    char pci_bus_id[32];
    unsigned long long memory_mib;
    int multiprocessors; /* -1: not known */
    bool mig;
};

struct probe {
    bool simulated;
    char driver_version[PROBE_TEXT]; /* empty: not known */
    struct probe_gpu gpus[PROBE_MAX_GPUS];
    unsigned int gpu_count;
    char nvml_error[512]; /* empty: none */
    char cuda_error[512];
};

/* Asks libnvidia-ml for devices and libcuda for their multiprocessors; errors land in the result. */
void probe_libraries(struct probe *probe);

/* One line of JSON, with the process's surroundings beside the devices. */
void probe_print(const struct probe *probe, FILE *file);

/* Opens a library by name, or in the folders that a CDI specification mounts it to. */
void *probe_open(const char *name, char *error, size_t error_size);

/* Adds to the GPU with this UUID what only CUDA knows. */
void probe_cuda(struct probe *probe);

#endif
