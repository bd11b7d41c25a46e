/* Whole trees: copying one in, and removing what should not be there. */
#include "tree_private.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static DIR *open_entries(int parent, const char *name)
{
    int folder = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *entries = folder < 0 ? NULL : fdopendir(folder);
    if (entries == NULL && folder >= 0)
        close(folder);
    return entries;
}

static const char *next_entry(DIR *entries)
{
    struct dirent *entry;
    do
        entry = readdir(entries);
    while (entry != NULL && (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0));
    return entry == NULL ? NULL : entry->d_name;
}

static void join(char path[PATH_MAX], const char *folder, const char *name)
{
    snprintf(path, PATH_MAX, "%s%s%s", folder, *folder == '\0' ? "" : "/", name);
}

static bool remove_entries(struct tree *tree, DIR *entries, const char *path)
{
    bool done = true;
    const char *name;
    while ((name = next_entry(entries)) != NULL) {
        char below[PATH_MAX];
        join(below, path, name);
        done = tree_remove_at(tree, dirfd(entries), name, below) && done;
    }
    return done;
}

bool tree_remove_at(struct tree *tree, int parent, const char *name, const char *path)
{
    if (unlinkat(parent, name, 0) == 0 || errno == ENOENT)
        return true;
    if (errno != EISDIR && errno != EPERM)
        return tree_failed(tree, path, "cannot be removed");
    DIR *entries = open_entries(parent, name);
    if (entries == NULL)
        return tree_failed(tree, path, "cannot be removed");
    bool done = remove_entries(tree, entries, path);
    closedir(entries);
    return done && (unlinkat(parent, name, AT_REMOVEDIR) == 0 || tree_failed(tree, path, "cannot be removed"));
}

bool tree_remove_all(struct tree *tree)
{
    DIR *entries = open_entries(tree->folder, ".");
    if (entries == NULL)
        return tree_failed(tree, "", "cannot be read");
    bool done = remove_entries(tree, entries, "");
    closedir(entries);
    return done;
}

static int compare(const void *first, const void *second)
{
    return strcmp(*(char *const *)first, *(char *const *)second);
}

static bool prune_folder(struct tree *tree, int parent, const char *name, const char *path)
{
    DIR *entries = open_entries(parent, name);
    if (entries == NULL) /* missing, or not a folder and then itself in the list or removed by the caller */
        return true;
    bool done = true;
    const char *entry;
    while ((entry = next_entry(entries)) != NULL) {
        char below[PATH_MAX], *key = below;
        join(below, path, entry);
        if (bsearch(&key, tree->kept, tree->kept_count, sizeof key, compare) == NULL)
            done = tree_remove_at(tree, dirfd(entries), entry, below) && done;
        else
            done = prune_folder(tree, dirfd(entries), entry, below) && done;
    }
    closedir(entries);
    return done;
}

bool tree_prune(struct tree *tree, const char *path)
{
    if (tree->kept_count > 0)
        qsort(tree->kept, tree->kept_count, sizeof tree->kept[0], compare);
    return prune_folder(tree, tree->folder, path, path);
}

static bool copy_folder(struct tree *tree, DIR *entries, const char *path);

static bool copy_file(struct tree *tree, const char *path, int source_folder, const char *name,
                      const struct stat *status)
{
    struct tree source = {.name = "source", .folder = source_folder};
    size_t size;
    void *data = tree_read(&source, name, &size);
    bool done = data != NULL ? tree_file(tree, path, data, size, status->st_mode & 0777)
                             : tree_failed(&source, path, "cannot be read");
    free(data);
    return done;
}

static bool copy_entry(struct tree *tree, int source, const char *name, const char *path)
{
    struct stat status;
    char target[PATH_MAX];
    if (fstatat(source, name, &status, AT_SYMLINK_NOFOLLOW) != 0)
        return tree_failed(tree, path, "cannot be read");
    if (S_ISREG(status.st_mode))
        return copy_file(tree, path, source, name, &status);
    if (S_ISLNK(status.st_mode)) {
        ssize_t length = readlinkat(source, name, target, sizeof target - 1);
        if (length < 0)
            return tree_failed(tree, path, "cannot be read");
        target[length] = '\0';
        return tree_link(tree, path, target);
    }
    DIR *entries = open_entries(source, name);
    if (entries == NULL)
        return tree_failed(tree, path, "is neither a file nor a link nor a folder");
    bool done = tree_folder(tree, path) && copy_folder(tree, entries, path);
    closedir(entries);
    return done;
}

static bool copy_folder(struct tree *tree, DIR *entries, const char *path)
{
    const char *name;
    while ((name = next_entry(entries)) != NULL) {
        char below[PATH_MAX];
        join(below, path, name);
        if (!copy_entry(tree, dirfd(entries), name, below))
            return false;
    }
    return true;
}

bool tree_copy(struct tree *tree, const char *source)
{
    DIR *entries = opendir(source);
    if (entries == NULL) {
        fprintf(stderr, "gpu-sim: %s: %s\n", source, strerror(errno));
        return false;
    }
    bool done = copy_folder(tree, entries, "");
    closedir(entries);
    return done;
}
