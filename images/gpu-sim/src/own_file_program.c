#include "own_file.h"

#include <stdint.h>
#include <stdlib.h>
#include <sys/auxv.h>
#include <unistd.h>

bool own_file(char path[PATH_MAX])
{
    ssize_t length = readlink("/proc/self/exe", path, PATH_MAX - 1);
    if (length > 0) {
        path[length] = '\0';
        return true;
    }
    /* A program that a chroot runs may have no /proc. */
    const char *started = (const char *)(uintptr_t)getauxval(AT_EXECFN);
    return started != NULL && realpath(started, path) != NULL;
}
