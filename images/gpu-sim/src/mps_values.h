/* Percentages and memory sizes as MPS's commands and environment variables write them. */
#ifndef GPU_SIM_MPS_VALUES_H
#define GPU_SIM_MPS_VALUES_H

#include "devices.h"

/* Percentages are kept in thousandths, so that no rounding depends on the machine or the locale. */
enum { MPS_PERCENT = 1000, MPS_ALL_THREADS = 100 * MPS_PERCENT };

/* Above 0 up to 100; what follows the number is ignored, as by NVIDIA's programs. */
bool mps_parse_percentage(const char *text, uint32_t *thousandths);
/* As get_default_active_thread_percentage prints it: one digit behind the point. */
void mps_format_percentage(uint32_t thousandths, char text[16]);

/* 2G, 1500M, 64k: the letters behind the first are ignored. A number without a letter is no size; "0" is: no limit. */
bool mps_parse_memory(const char *text, uint64_t *bytes);
void mps_format_memory(uint64_t bytes, char text[32]);

/* What holds for a client: its server's limits, which count by the client's own numbers of its devices, and the
   client's "0=2G,GPU-...=1500M", which may lower them. Measured: one entry that names no device of the client's or no
   size, and there is no limit at all. */
void mps_client_limits(const char *text, const struct device *devices, unsigned int count,
                       uint64_t limits[DEVICES_MAX]);

/* Multiprocessors that an MPS client with this percentage gets. */
unsigned int mps_granted_multiprocessors(const struct device *device, uint32_t thousandths);

#endif
