/* Log lines in the form of NVIDIA's: [time role pid] text. */
#ifndef GPU_SIM_MPS_LOG_H
#define GPU_SIM_MPS_LOG_H

#include <stdbool.h>

struct mps_log {
    int file;
    const char *role; /* Control, Server or Other */
};

/* Opens CUDA_MPS_LOG_DIRECTORY/name for appending, making the directory if need be; -1 on failure. */
int mps_log_open(const char *name);

void mps_log_line(const struct mps_log *log, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
