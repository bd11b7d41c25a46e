/* Files below one directory, changed one by one and atomically, without ever following a symbolic link out of it.

   Whatever a call creates or confirms is recorded, so that tree_prune can remove what an earlier run left behind.
   Failures are reported on stderr with the path. */
#ifndef GPU_SIM_TREE_H
#define GPU_SIM_TREE_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct tree {
    const char *name;
    int folder;
    char **kept;
    size_t kept_count;
};

/* Opens the directory, which is made if create is set. */
bool tree_open(struct tree *tree, const char *name, bool create);
void tree_close(struct tree *tree);

/* Paths are relative, without "." and "..". Missing folders on the way are made. */
bool tree_folder(struct tree *tree, const char *path);
bool tree_file(struct tree *tree, const char *path, const void *data, size_t size, mode_t mode);
bool tree_link(struct tree *tree, const char *path, const char *target);
bool tree_device(struct tree *tree, const char *path, unsigned int major, unsigned int minor);
/* Copies files, links and folders of source into the tree's top. */
bool tree_copy(struct tree *tree, const char *source);

/* The whole file, to be freed; NULL if it cannot be read. */
void *tree_read(struct tree *tree, const char *path, size_t *size);

/* Removes everything below the folder that was not recorded; a missing folder is fine. */
bool tree_prune(struct tree *tree, const char *path);
/* Removes a character device of these numbers; anything else of that name is left alone. */
bool tree_remove_device(struct tree *tree, const char *path, unsigned int major, unsigned int minor);
/* Empties the tree; its top stays, since it may be a mount point. */
bool tree_remove_all(struct tree *tree);

#endif
