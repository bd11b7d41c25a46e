#include "state.h"

#include "ini.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static bool state_path(const struct inventory *inventory, unsigned int minor, const char *name, char path[PATH_MAX])
{
    /* A container has no state of its own: its /run belongs to the workload. */
    int length = snprintf(path, PATH_MAX, "%s/run/gpu%u.%s", inventory->root, minor, name);
    return inventory->driver_root && length > 0 && length < PATH_MAX;
}

bool state_read(const struct inventory *inventory, unsigned int minor, const char *name, char text[STATE_SIZE])
{
    char path[PATH_MAX];
    if (!state_path(inventory, minor, name, path))
        return false;
    int file = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (file < 0)
        return false;
    ssize_t length = read(file, text, STATE_SIZE - 1);
    close(file);
    if (length <= 0)
        return false;
    text[length] = '\0';
    text[strcspn(text, "\n")] = '\0';
    return true;
}

bool state_write(const struct inventory *inventory, unsigned int minor, const char *name, const char *text)
{
    char path[PATH_MAX], temporary[PATH_MAX + 32];
    if (!state_path(inventory, minor, name, path))
        return false;
    snprintf(temporary, sizeof temporary, "%s.%ld", path, (long)getpid());
    int file = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0644);
    if (file < 0)
        return false;
    bool written = dprintf(file, "%s\n", text) > 0;
    written = close(file) == 0 && written;
    if (written && rename(temporary, path) == 0)
        return true;
    unlink(temporary);
    return false;
}

bool state_version(const struct inventory *inventory, unsigned int minor, const char *name,
                   struct file_version *version)
{
    char path[PATH_MAX];
    struct stat status;
    if (!state_path(inventory, minor, name, path) || lstat(path, &status) != 0)
        return false;
    *version = (struct file_version){.inode = status.st_ino,
                                     .seconds = status.st_mtim.tv_sec,
                                     .nanoseconds = status.st_mtim.tv_nsec,
                                     .size = status.st_size};
    return true;
}

unsigned int state_read_number(const struct inventory *inventory, unsigned int minor, const char *name,
                               unsigned int fallback)
{
    char text[STATE_SIZE];
    unsigned int number;
    if (state_read(inventory, minor, name, text) && ini_number(text, 0, UINT32_MAX, &number))
        return number;
    return fallback;
}
