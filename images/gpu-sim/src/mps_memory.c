#include "mps_memory.h"

#include "mps_directories.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { COPIES = 2 };

static bool file_path(pid_t server, char path[PATH_MAX])
{
    int length = snprintf(path, PATH_MAX, "%s/" MPS_MEMORY_PREFIX "%d", mps_pipe_directory(), (int)server);
    if (length < PATH_MAX)
        return true;
    errno = ENAMETOOLONG;
    return false;
}

int mps_memory_create(pid_t server)
{
    char path[PATH_MAX];
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    if (!file_path(server, path))
        return -1;
    /* A former server's with the same pid, which are few in a container. */
    unlink(path);
    /* Nobody else can open it before it is locked. */
    int file = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (file < 0)
        return -1;
    if (fcntl(file, F_OFD_SETLK, &lock) == 0 && fchmod(file, 0644) == 0)
        return file;
    int error = errno;
    unlink(path);
    close(file);
    errno = error;
    return -1;
}

void mps_memory_remove(pid_t server)
{
    char path[PATH_MAX];
    if (file_path(server, path))
        unlink(path);
}

void mps_memory_remove_all(void)
{
    const struct dirent *entry;
    DIR *directory = opendir(mps_pipe_directory());
    if (directory == NULL)
        return;
    while ((entry = readdir(directory)) != NULL) {
        if (strncmp(entry->d_name, MPS_MEMORY_PREFIX, strlen(MPS_MEMORY_PREFIX)) == 0)
            unlinkat(dirfd(directory), entry->d_name, 0);
    }
    closedir(directory);
}

bool mps_memory_publish(int file, const struct memory_record *record)
{
    char text[MEMORY_RECORD_SIZE];
    size_t length = memory_record_write(record, text);
    for (off_t copy = 0; copy < COPIES; copy++) {
        ssize_t written = pwrite(file, text, length, copy * (off_t)length);
        if (written == (ssize_t)length)
            continue;
        if (written >= 0)
            errno = ENOSPC;
        return false;
    }
    return true;
}
