#include "mps_log.h"

#include "mps_directories.h"
#include "mps_protocol.h"

#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

int mps_log_open(const char *name)
{
    char path[PATH_MAX];
    mkdir(mps_log_directory(), 0755);
    if (snprintf(path, sizeof path, "%s/%s", mps_log_directory(), name) >= (int)sizeof path)
        return -1;
    return open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
}

void mps_log_line(const struct mps_log *log, const char *format, ...)
{
    char text[MPS_TEXT_SIZE + 256], when[32] = "";
    struct timespec now;
    struct tm local;
    clock_gettime(CLOCK_REALTIME, &now);
    if (localtime_r(&now.tv_sec, &local) != NULL)
        strftime(when, sizeof when, "%Y-%m-%d %H:%M:%S", &local);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    dprintf(log->file, "[%s.%03ld %s %5d] %s\n", when, now.tv_nsec / 1000000, log->role, (int)getpid(), text);
}
