#include "mps_directories.h"

#include <stdlib.h>

static const char *directory(const char *variable, const char *fallback)
{
    const char *value = getenv(variable);
    return value == NULL || *value == '\0' ? fallback : value;
}

const char *mps_pipe_directory(void)
{
    return directory("CUDA_MPS_PIPE_DIRECTORY", "/tmp/nvidia-mps");
}

const char *mps_log_directory(void)
{
    return directory("CUDA_MPS_LOG_DIRECTORY", "/var/log/nvidia-mps");
}
