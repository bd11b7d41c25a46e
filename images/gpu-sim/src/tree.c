#include "tree.h"

#include "tree_private.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

enum { FOLDER_FLAGS = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC };

bool tree_failed(const struct tree *tree, const char *path, const char *what)
{
    fprintf(stderr, "gpu-sim: %s/%s: %s: %s\n", tree->name, path, what, strerror(errno));
    return false;
}

static void keep(struct tree *tree, const char *path)
{
    char **kept = realloc(tree->kept, (tree->kept_count + 1) * sizeof *kept);
    char *copy = strdup(path);
    if (kept == NULL || copy == NULL) {
        fputs("gpu-sim: out of memory\n", stderr);
        exit(1);
    }
    tree->kept = kept;
    tree->kept[tree->kept_count++] = copy;
}

bool tree_open(struct tree *tree, const char *name, bool create)
{
    *tree = (struct tree){.name = name, .folder = -1};
    if (create && mkdir(name, 0755) != 0 && errno != EEXIST)
        return tree_failed(tree, "", "cannot be made");
    tree->folder = open(name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return tree->folder >= 0 || tree_failed(tree, "", "cannot be opened");
}

void tree_close(struct tree *tree)
{
    for (size_t i = 0; i < tree->kept_count; i++)
        free(tree->kept[i]);
    free(tree->kept);
    if (tree->folder >= 0)
        close(tree->folder);
}

/* Opens the folder one step below, which is made if missing. */
static int step_into(int folder, const char *name)
{
    int next = openat(folder, name, FOLDER_FLAGS);
    if (next >= 0 || errno != ENOENT)
        return next;
    if (mkdirat(folder, name, 0755) != 0 && errno != EEXIST)
        return -1;
    return openat(folder, name, FOLDER_FLAGS);
}

/* Opens the folder that holds the path's last part, making folders on the way, and finds that part. */
static int open_parent(struct tree *tree, const char *path, const char **leaf)
{
    char part[PATH_MAX];
    int folder = fcntl(tree->folder, F_DUPFD_CLOEXEC, 0);
    const char *rest = path;
    for (const char *slash; folder >= 0 && (slash = strchr(rest, '/')) != NULL; rest = slash + 1) {
        snprintf(part, sizeof part, "%.*s", (int)(slash - rest), rest);
        int next = step_into(folder, part);
        close(folder);
        folder = next;
        snprintf(part, sizeof part, "%.*s", (int)(slash - path), path);
        keep(tree, part);
    }
    *leaf = rest;
    if (folder < 0)
        tree_failed(tree, path, "cannot reach its folder (links are not followed)");
    return folder;
}

bool tree_folder(struct tree *tree, const char *path)
{
    const char *leaf;
    int parent = open_parent(tree, path, &leaf);
    if (parent < 0)
        return false;
    int folder = step_into(parent, leaf);
    close(parent);
    if (folder < 0)
        return tree_failed(tree, path, "cannot be made");
    close(folder);
    keep(tree, path);
    return true;
}

/* A new entry is made under a name of its own first; rename then replaces the old entry in one step. */
static void temporary_name(char *name, size_t size, const char *leaf)
{
    snprintf(name, size, ".gpu-sim.%s.tmp", leaf);
}

static bool replace(struct tree *tree, int parent, const char *temporary, const char *leaf, const char *path)
{
    struct stat status;
    bool done = true;
    if (fstatat(parent, leaf, &status, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(status.st_mode))
        done = tree_remove_at(tree, parent, leaf, path);
    done = done && (renameat(parent, temporary, parent, leaf) == 0 || tree_failed(tree, path, "cannot be replaced"));
    if (!done)
        unlinkat(parent, temporary, 0);
    return done;
}

static void *read_at(int folder, const char *name, size_t *size)
{
    struct stat status;
    int file = openat(folder, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (file < 0)
        return NULL;
    char *data = NULL;
    if (fstat(file, &status) == 0 && S_ISREG(status.st_mode))
        data = malloc((size_t)status.st_size + 1);
    *size = 0;
    while (data != NULL && *size < (size_t)status.st_size) {
        ssize_t length = read(file, data + *size, (size_t)status.st_size - *size);
        if (length <= 0) {
            free(data);
            data = NULL;
        } else {
            *size += (size_t)length;
        }
    }
    close(file);
    return data;
}

/* Leaving an equal file alone keeps containers that have it mounted on the same file as the tree. */
static bool is_equal_file(int parent, const char *leaf, const void *data, size_t size, mode_t mode)
{
    struct stat status;
    if (fstatat(parent, leaf, &status, AT_SYMLINK_NOFOLLOW) != 0 || !S_ISREG(status.st_mode) ||
        (status.st_mode & 07777) != mode || (size_t)status.st_size != size)
        return false;
    size_t present_size;
    void *present = read_at(parent, leaf, &present_size);
    bool equal = present != NULL && present_size == size && memcmp(present, data, size) == 0;
    free(present);
    return equal;
}

static bool write_at(int parent, const char *name, const char *data, size_t size, mode_t mode)
{
    unlinkat(parent, name, 0);
    int file = openat(parent, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (file < 0)
        return false;
    size_t written = 0;
    while (written < size) {
        ssize_t length = write(file, data + written, size - written);
        if (length <= 0)
            break;
        written += (size_t)length;
    }
    bool done = written == size && fchmod(file, mode) == 0;
    return close(file) == 0 && done;
}

bool tree_file(struct tree *tree, const char *path, const void *data, size_t size, mode_t mode)
{
    char temporary[NAME_MAX + 1];
    const char *leaf;
    int parent = open_parent(tree, path, &leaf);
    if (parent < 0)
        return false;
    keep(tree, path);
    bool done = is_equal_file(parent, leaf, data, size, mode);
    if (!done) {
        temporary_name(temporary, sizeof temporary, leaf);
        done = (write_at(parent, temporary, data, size, mode) || tree_failed(tree, path, "cannot be written")) &&
               replace(tree, parent, temporary, leaf, path);
    }
    close(parent);
    return done;
}

static bool is_equal_link(int parent, const char *leaf, const char *target)
{
    char present[PATH_MAX];
    ssize_t length = readlinkat(parent, leaf, present, sizeof present - 1);
    if (length < 0)
        return false;
    present[length] = '\0';
    return strcmp(present, target) == 0;
}

bool tree_link(struct tree *tree, const char *path, const char *target)
{
    char temporary[NAME_MAX + 1];
    const char *leaf;
    int parent = open_parent(tree, path, &leaf);
    if (parent < 0)
        return false;
    keep(tree, path);
    bool done = is_equal_link(parent, leaf, target);
    if (!done) {
        temporary_name(temporary, sizeof temporary, leaf);
        unlinkat(parent, temporary, 0);
        done = (symlinkat(target, parent, temporary) == 0 || tree_failed(tree, path, "cannot be linked")) &&
               replace(tree, parent, temporary, leaf, path);
    }
    close(parent);
    return done;
}

static bool is_device(int parent, const char *leaf, unsigned int major, unsigned int minor, mode_t *mode)
{
    struct stat status;
    if (fstatat(parent, leaf, &status, AT_SYMLINK_NOFOLLOW) != 0)
        return false;
    *mode = status.st_mode & 07777;
    return S_ISCHR(status.st_mode) && status.st_rdev == makedev(major, minor);
}

bool tree_device(struct tree *tree, const char *path, unsigned int major, unsigned int minor)
{
    char temporary[NAME_MAX + 1];
    const char *leaf;
    mode_t mode = 0;
    int parent = open_parent(tree, path, &leaf);
    if (parent < 0)
        return false;
    keep(tree, path);
    bool done = is_device(parent, leaf, major, minor, &mode) && mode == 0666;
    if (!done) {
        temporary_name(temporary, sizeof temporary, leaf);
        unlinkat(parent, temporary, 0);
        /* fchmodat: the umask must not narrow a GPU's 0666. */
        done = (mknodat(parent, temporary, S_IFCHR | 0600, makedev(major, minor)) == 0 &&
                fchmodat(parent, temporary, 0666, 0) == 0) ||
               tree_failed(tree, path, "cannot make the device node (CAP_MKNOD is needed)");
        done = done && replace(tree, parent, temporary, leaf, path);
    }
    close(parent);
    return done;
}

bool tree_remove_device(struct tree *tree, const char *path, unsigned int major, unsigned int minor)
{
    mode_t mode;
    if (!is_device(tree->folder, path, major, minor, &mode))
        return true;
    return unlinkat(tree->folder, path, 0) == 0 || tree_failed(tree, path, "cannot be removed");
}

void *tree_read(struct tree *tree, const char *path, size_t *size)
{
    const char *leaf;
    int parent = open_parent(tree, path, &leaf);
    if (parent < 0)
        return NULL;
    void *data = read_at(parent, leaf, size);
    close(parent);
    return data;
}
