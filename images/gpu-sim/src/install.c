#include "install.h"

#include "config.h"
#include "tree.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* 195 is NVIDIA's own number in Linux's devices.txt. The kernel hands the other three out at run time and NVIDIA's
   tools read them from /proc/devices; these are from the ranges it takes them from. */
enum {
    MAJOR_NVIDIA = 195,
    MINOR_CONTROL = 255,
    MAJOR_CAPS = 237,
    MAJOR_IMEX = 238,
    MAJOR_UVM = 511,
    GPU_MINORS = 255,
};

#define LIBRARY_FOLDER "usr/lib/x86_64-linux-gnu"

static bool write_text(struct tree *tree, const char *path, const char *text)
{
    return tree_file(tree, path, text, strlen(text), 0644);
}

static bool make_device_nodes(struct tree *tree, const char *folder, const struct config *config)
{
    char path[PATH_MAX];
    for (unsigned int i = 0; i < config->gpu_count; i++) {
        snprintf(path, sizeof path, "%snvidia%u", folder, config->gpus[i].minor);
        if (!tree_device(tree, path, MAJOR_NVIDIA, config->gpus[i].minor))
            return false;
    }
    const struct {
        const char *name;
        unsigned int major;
        unsigned int minor;
    } others[] = {
        {"nvidiactl", MAJOR_NVIDIA, MINOR_CONTROL}, {"nvidia-uvm", MAJOR_UVM, 0}, {"nvidia-uvm-tools", MAJOR_UVM, 1}};
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        snprintf(path, sizeof path, "%s%s", folder, others[i].name);
        if (!tree_device(tree, path, others[i].major, others[i].minor))
            return false;
    }
    return true;
}

/* With unset, also where the library has shown another minor since (see mig_announce). */
static bool write_capability(struct tree *tree, const char *folder, unsigned int minor, bool unset)
{
    char path[PATH_MAX], text[CONFIG_TEXT * 2];
    size_t size = 0;
    snprintf(path, sizeof path, "%s/access", folder);
    char *present = unset ? NULL : tree_read(tree, path, &size);
    config_capability_text(minor, text);
    bool done = present != NULL && size > 0 ? tree_file(tree, path, present, size, 0644) : write_text(tree, path, text);
    free(present);
    return done;
}

/* A file for every MIG device that could ever be made: the driver reads it when one is, and nothing runs here then. */
static bool write_gpu_capabilities(struct tree *tree, const struct gpu_config *gpu, bool unset)
{
    for (unsigned int id = 1; id < CONFIG_INSTANCE_IDS; id++) {
        char folder[128], compute_folder[192];
        unsigned int start, minor = config_capability_minor(gpu->minor, id);
        const struct mig_profile *profile = config_instance(gpu->model, id, &start);
        if (profile == NULL)
            continue;
        snprintf(folder, sizeof folder, "sim/proc-driver/nvidia/capabilities/gpu%u/mig/gi%u", gpu->minor, id);
        if (!write_capability(tree, folder, minor, unset))
            return false;
        for (unsigned int compute = 0; compute < profile->slices; compute++) {
            snprintf(compute_folder, sizeof compute_folder, "%s/ci%u", folder, compute);
            if (!write_capability(tree, compute_folder, config_compute_minor(gpu->minor, id, compute, 0), unset))
                return false;
        }
    }
    return true;
}

/* GPUs below one PCIe root are on one NUMA node, those of the first half of the roots on node 0, as on servers with two
   processors (DGX A100 and H100). A machine for a GeForce has one processor; its kernel knows no node and says -1. */
static int numa_node(const struct config *config, const struct gpu_config *gpu)
{
    unsigned int roots = 0, own = 0;
    if (strcmp(gpu->model->brand, "GeForce") == 0)
        return -1;
    for (unsigned int i = 0; i < config->gpu_count; i++) {
        const char *root = config->gpus[i].pcie_root;
        unsigned int first = 0;
        while (strcmp(config->gpus[first].pcie_root, root) != 0)
            first++;
        if (first != i)
            continue;
        if (strcmp(root, gpu->pcie_root) == 0)
            own = roots;
        roots++;
    }
    return own < (roots + 1) / 2 ? 0 : 1;
}

/* As below /sys: the driver reads a GPU's PCIe root from the link's text, and numa_node in the folder behind it. */
static bool write_pci_device(struct tree *tree, const struct config *config, const struct gpu_config *gpu)
{
    char device[160], path[256], text[16];
    const char *root = strncmp(gpu->pcie_root, "pci", 3) == 0 ? gpu->pcie_root + 3 : gpu->pcie_root;
    snprintf(device, sizeof device, "devices/%s/%s:01.0/%s", gpu->pcie_root, root, gpu->pci_bus_id);
    snprintf(path, sizeof path, "sim/sys/%s/numa_node", device);
    snprintf(text, sizeof text, "%d\n", numa_node(config, gpu));
    if (!write_text(tree, path, text))
        return false;
    snprintf(path, sizeof path, "sim/sys/bus/pci/devices/%s", gpu->pci_bus_id);
    char target[192];
    snprintf(target, sizeof target, "../../../%s", device);
    return tree_link(tree, path, target);
}

static bool write_proc_devices(struct tree *tree)
{
    char text[512];
    snprintf(text, sizeof text,
             "Character devices:\n  1 mem\n%3d nvidia\n%3d nvidiactl\n%3d nvidia-caps\n%3d nvidia-caps-imex-channels\n"
             "%3d nvidia-uvm\n\nBlock devices:\n",
             MAJOR_NVIDIA, MAJOR_NVIDIA, MAJOR_CAPS, MAJOR_IMEX, MAJOR_UVM);
    return write_text(tree, "sim/proc-devices", text);
}

/* Stand-ins for /proc/driver, /proc/devices and the PCI devices of /sys. */
static bool write_kernel_views(struct tree *tree, const struct config *config, bool unset)
{
    if (!tree_folder(tree, "sim/proc-driver/nvidia/capabilities") || !tree_folder(tree, "sim/sys/bus/pci/devices") ||
        !write_proc_devices(tree))
        return false;
    for (unsigned int i = 0; i < config->gpu_count; i++) {
        if (!write_gpu_capabilities(tree, &config->gpus[i], unset) || !write_pci_device(tree, config, &config->gpus[i]))
            return false;
    }
    return true;
}

static char *read_whole(const char *path, size_t *size)
{
    FILE *file = fopen(path, "re");
    char *data = malloc(CONFIG_MAX_BYTES);
    *size = 0;
    if (file != NULL && data != NULL)
        *size = fread(data, 1, CONFIG_MAX_BYTES, file);
    if (file != NULL)
        fclose(file);
    return data;
}

/* What is remembered of GPUs (modes, MIG devices) belongs to a configuration; with another one it would be wrong. */
static bool forget_state(struct tree *tree, const char *config, size_t size, bool *forgotten)
{
    size_t present_size = 0;
    void *present = tree_read(tree, "etc/gpu-sim.ini", &present_size);
    bool same = present != NULL && present_size == size && memcmp(present, config, size) == 0;
    free(present);
    *forgotten = !same;
    return tree_folder(tree, "run") && (same || tree_prune(tree, "run"));
}

static bool write_config(struct tree *tree, const struct config *config, const char *text, size_t size)
{
    char copy[PATH_MAX];
    snprintf(copy, sizeof copy, LIBRARY_FOLDER "/libnvidia-simcfg.so.%s", config->driver_version);
    return tree_file(tree, copy, text, size, 0644) && tree_file(tree, "etc/gpu-sim.ini", text, size, 0644);
}

static bool check_version(const struct install_paths *paths, const struct config *config)
{
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/" LIBRARY_FOLDER "/libnvidia-ml.so.%s", paths->source, config->driver_version);
    FILE *library = fopen(path, "re");
    if (library != NULL) {
        fclose(library);
        return true;
    }
    fprintf(stderr,
            "gpu-sim: %s: [driver] version = %s, but %s is missing: the libraries carry the version they were built "
            "for; build with DRIVER_VERSION=%s or correct the version\n",
            paths->config, config->driver_version, path, config->driver_version);
    return false;
}

static bool install_tree(struct tree *tree, const struct install_paths *paths, const struct config *config)
{
    static const char *const owned[] = {"usr", "etc", "dev", "sim"};
    size_t size;
    bool forgotten = true;
    char *text = read_whole(paths->config, &size);
    bool done = text != NULL && forget_state(tree, text, size, &forgotten) && tree_copy(tree, paths->source) &&
                make_device_nodes(tree, "dev/", config) && write_kernel_views(tree, config, forgotten) &&
                write_config(tree, config, text, size);
    for (size_t i = 0; done && i < sizeof owned / sizeof owned[0]; i++)
        done = tree_prune(tree, owned[i]);
    free(text);
    return done;
}

static bool is_configured(const struct config *config, unsigned int minor)
{
    for (unsigned int i = 0; i < config->gpu_count; i++) {
        if (config->gpus[i].minor == minor)
            return true;
    }
    return false;
}

/* Only nodes of NVIDIA's numbers go: a node's /dev holds much that is not ours. */
static bool remove_gpu_nodes(struct tree *dev, const struct config *keep)
{
    bool done = true;
    for (unsigned int minor = 0; minor < GPU_MINORS; minor++) {
        char name[32];
        snprintf(name, sizeof name, "nvidia%u", minor);
        if (keep == NULL || !is_configured(keep, minor))
            done = tree_remove_device(dev, name, MAJOR_NVIDIA, minor) && done;
    }
    return done;
}

static bool install_dev(const char *name, const struct config *config)
{
    struct tree dev;
    bool done = tree_open(&dev, name, false) && make_device_nodes(&dev, "", config) && remove_gpu_nodes(&dev, config);
    tree_close(&dev);
    return done;
}

bool install(const struct install_paths *paths)
{
    static struct config config;
    char error[PATH_MAX + 256];
    struct tree tree;
    if (!config_load(&config, paths->config, error, sizeof error)) {
        fprintf(stderr, "gpu-sim: %s\n", error);
        return false;
    }
    if (!check_version(paths, &config))
        return false;
    bool done = tree_open(&tree, paths->root, true) && install_tree(&tree, paths, &config) &&
                (paths->dev == NULL || install_dev(paths->dev, &config));
    tree_close(&tree);
    if (done)
        printf("gpu-sim: %u simulated GPUs, driver %s, in %s\n", config.gpu_count, config.driver_version, paths->root);
    return done;
}

bool uninstall(const struct install_paths *paths)
{
    struct tree tree, dev;
    bool done = tree_open(&tree, paths->root, true) && tree_remove_all(&tree);
    tree_close(&tree);
    if (paths->dev == NULL)
        return done;
    done = tree_open(&dev, paths->dev, false) && remove_gpu_nodes(&dev, NULL) &&
           tree_remove_device(&dev, "nvidiactl", MAJOR_NVIDIA, MINOR_CONTROL) &&
           tree_remove_device(&dev, "nvidia-uvm", MAJOR_UVM, 0) &&
           tree_remove_device(&dev, "nvidia-uvm-tools", MAJOR_UVM, 1) && done;
    tree_close(&dev);
    return done;
}
