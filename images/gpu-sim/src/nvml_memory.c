#include "nvml_memory.h"

#include "mig.h"
#include "mps_directories.h"
#include "mps_memory.h"

#include <dirent.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { ATTEMPTS = 10 };

/* A GPU with MIG has the use of all its devices; those of one GPU instance share its memory. */
static bool belongs(const char *uuid, const struct nvmlDevice_st *device)
{
    const struct nvmlComputeInstance_st *compute;
    if (device->compute == NULL && strcmp(uuid, device->gpu->config->uuid) == 0)
        return true;
    for (unsigned int i = 0; (compute = mig_device(device->gpu, i)) != NULL; i++) {
        if (strcmp(uuid, compute->uuid) == 0)
            return device->compute == NULL || compute->parent == device->compute->parent;
    }
    return false;
}

/* A regular file of the daemon's user that a living server has locked; -1 for anything else. */
static int open_file(int directory, const char *name, uid_t daemon)
{
    struct stat status;
    struct flock lock = {.l_type = F_RDLCK, .l_whence = SEEK_SET};
    /* A FIFO of that name must not keep the caller waiting. */
    int file = openat(directory, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (file < 0)
        return -1;
    if (fstat(file, &status) == 0 && S_ISREG(status.st_mode) && status.st_uid == daemon &&
        fcntl(file, F_OFD_GETLK, &lock) == 0 && lock.l_type == F_WRLCK)
        return file;
    close(file);
    return -1;
}

/* Again if both copies were being written while they were read, which takes a very slow reader. */
static bool read_file(int file, struct memory_record *record)
{
    char text[2 * MEMORY_RECORD_SIZE];
    for (int i = 0; i < ATTEMPTS; i++) {
        ssize_t length = pread(file, text, sizeof text, 0);
        if (length <= 0 || length % 2 != 0 || length == (ssize_t)sizeof text)
            return false;
        size_t half = (size_t)length / 2;
        if (memory_record_read(text, half, record) || memory_record_read(text + half, half, record))
            return true;
    }
    return false;
}

static uint64_t add(uint64_t sum, uint64_t more, uint64_t capacity)
{
    return more < capacity - sum ? sum + more : capacity;
}

static uint64_t used_in_directory(DIR *directory, const struct nvmlDevice_st *device, uint64_t capacity)
{
    uint64_t used = 0;
    struct stat control;
    const struct dirent *entry;
    if (fstatat(dirfd(directory), "control", &control, AT_SYMLINK_NOFOLLOW) != 0)
        return 0;
    while ((entry = readdir(directory)) != NULL) {
        struct memory_record record = {.count = 0};
        if (strncmp(entry->d_name, MPS_MEMORY_PREFIX, strlen(MPS_MEMORY_PREFIX)) != 0)
            continue;
        int file = open_file(dirfd(directory), entry->d_name, control.st_uid);
        if (file < 0)
            continue;
        if (!read_file(file, &record))
            record.count = 0;
        close(file);
        for (unsigned int i = 0; i < record.count; i++) {
            if (belongs(record.uuids[i], device))
                used = add(used, record.used[i], capacity);
        }
    }
    return used;
}

uint64_t nvml_memory_used(const struct nvmlDevice_st *device, uint64_t capacity)
{
    DIR *directory = opendir(mps_pipe_directory());
    if (directory == NULL)
        return 0;
    uint64_t used = used_in_directory(directory, device, capacity);
    closedir(directory);
    return used;
}
