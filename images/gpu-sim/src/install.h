/* What a node needs so that NVIDIA's driver takes the simulated GPUs for its own. */
#ifndef GPU_SIM_INSTALL_H
#define GPU_SIM_INSTALL_H

#include <stdbool.h>

struct install_paths {
    const char *source; /* the built driver root */
    const char *config; /* as gpus/models.py renders it */
    const char *root;   /* driver root on the node */
    const char *dev;    /* a second place for the device nodes, such as the node's /dev; NULL: none */
};

bool install(const struct install_paths *paths);

/* Empties the root and takes the device nodes out of dev. */
bool uninstall(const struct install_paths *paths);

#endif
