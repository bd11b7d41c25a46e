/* Shared by the tree's own files. */
#ifndef GPU_SIM_TREE_PRIVATE_H
#define GPU_SIM_TREE_PRIVATE_H

#include "tree.h"

/* Reports errno for the path and returns false. */
bool tree_failed(const struct tree *tree, const char *path, const char *what);

/* Removes the entry, and everything below it if it is a folder. */
bool tree_remove_at(struct tree *tree, int parent, const char *name, const char *path);

#endif
