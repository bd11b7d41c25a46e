/* Numbers on the command line. */
#ifndef GPU_PROBE_VALUES_H
#define GPU_PROBE_VALUES_H

#include <stdbool.h>

/* Seconds from 0 to 1e9, such as 10 or 0.5. */
bool value_seconds(const char *text, double *seconds);

/* A whole number from the minimum to a million. */
bool value_number(const char *text, int minimum, int *number);

/* More than 0 bytes. Mi and M are 2^20, Gi and G are 2^30: MPS limits take M and G in that sense. */
bool value_size(const char *text, unsigned long long *bytes);

#endif
