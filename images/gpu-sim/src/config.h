/* The node's GPUs as gpus/models.py renders them: driver version, models with their MIG profiles, and GPUs. */
#ifndef GPU_SIM_CONFIG_H
#define GPU_SIM_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    CONFIG_MAX_BYTES = 64 * 1024,
    CONFIG_MAX_GPUS = 16,
    CONFIG_MAX_MODELS = 8,
    CONFIG_MAX_PROFILES = 16,
    CONFIG_MAX_PLACEMENTS = 8,
    CONFIG_MAX_STATIC_MIG = 8,
    CONFIG_TEXT = 64,
    /* A GPU-instance ID stands for one profile at one placement, so a container can tell from a capability device's
       minor number alone which MIG device it was given. ID 0 stays unused. */
    CONFIG_INSTANCE_IDS = 32,
    CONFIG_MAX_COMPUTE_INSTANCES = 8,
    /* A MIG device that is made anew has another UUID. Containers derive the UUID from the capability device they were
       given, so a compute instance has a minor number of its own each time that it is made, up to this many times. */
    CONFIG_GENERATIONS = 128,
};

struct mig_profile {
    char name[CONFIG_TEXT];
    unsigned int id;    /* as `nvidia-smi mig -lgip` shows it */
    unsigned int index; /* NVML_GPU_INSTANCE_PROFILE_* */
    unsigned int slices;
    unsigned int multiprocessors;
    unsigned int memory_mib;
    unsigned int instances;
    unsigned int placements[CONFIG_MAX_PLACEMENTS];
    unsigned int placement_count;
    unsigned int placement_size;
    unsigned int copy_engines;
    unsigned int decoders;
    unsigned int jpeg_engines;
    unsigned int ofa_engines;
};

struct gpu_model {
    char key[CONFIG_TEXT];
    char product_name[CONFIG_TEXT];
    char brand[CONFIG_TEXT];
    char architecture[CONFIG_TEXT];
    unsigned int compute_major;
    unsigned int compute_minor;
    unsigned int memory_mib;
    unsigned int reserved_memory_mib; /* the part of memory_mib that CUDA does not offer; 0 if not stated */
    unsigned int multiprocessors;
    unsigned int pci_device_id;
    unsigned int power_limit_watts;
    unsigned int mps_minimum_multiprocessors;
    struct mig_profile profiles[CONFIG_MAX_PROFILES];
    unsigned int profile_count;
};

struct static_mig {
    const struct mig_profile *profile;
    unsigned int start;
};

struct gpu_config {
    const struct gpu_model *model;
    char uuid[CONFIG_TEXT];
    char pcie_root[CONFIG_TEXT];
    char pci_bus_id[CONFIG_TEXT]; /* domain:bus:device.function, lower case */
    unsigned int pci_domain;
    unsigned int pci_bus;
    unsigned int pci_device;
    unsigned int minor;
    struct static_mig static_mig[CONFIG_MAX_STATIC_MIG];
    unsigned int static_mig_count;
    bool mig_enabled; /* from the start; with or without instances */
};

struct config {
    char driver_version[CONFIG_TEXT];
    unsigned int cuda_version; /* as cuDriverGetVersion: 13000 is 13.0 */
    /* Whether MPS holds a client to a memory limit that the daemon was given by a MIG device's UUID. Off unless the
       configuration says so: on an A100 with NVIDIA's DRA driver v25.8.1 others saw such limits without effect, and
       NVIDIA/k8s-device-plugin's pull request 572 reports the same. Not measured by this project; by ordinal, and by a
       whole GPU's UUID, limits hold (measured on an H100). */
    bool mps_memory_limit_by_mig_uuid;
    struct gpu_model models[CONFIG_MAX_MODELS];
    unsigned int model_count;
    struct gpu_config gpus[CONFIG_MAX_GPUS];
    unsigned int gpu_count;
};

/* Reads and checks the file. On failure, error holds one line that names file, line and rule. */
bool config_load(struct config *config, const char *path, char *error, size_t error_size);

/* The profile and placement behind a GPU-instance ID of the model; NULL for an ID that stands for none. */
const struct mig_profile *config_instance(const struct gpu_model *model, unsigned int instance_id, unsigned int *start);

/* The inverse of config_instance; 0 if the profile cannot start there. */
unsigned int config_instance_id(const struct gpu_model *model, const struct mig_profile *profile, unsigned int start);

/* Minor number of /dev/nvidia-caps/nvidia-cap<minor> of a GPU instance, and of a compute instance of it. */
unsigned int config_capability_minor(unsigned int gpu_minor, unsigned int instance_id);
unsigned int config_compute_minor(unsigned int gpu_minor, unsigned int instance_id, unsigned int compute_id,
                                  unsigned int generation);
/* The file's text in /proc/driver/nvidia/capabilities. */
void config_capability_text(unsigned int minor, char text[CONFIG_TEXT * 2]);

#endif
