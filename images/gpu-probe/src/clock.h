/* Time that no change of the system's clock moves. */
#ifndef GPU_PROBE_CLOCK_H
#define GPU_PROBE_CLOCK_H

double clock_seconds(void);

void clock_sleep(double seconds);

#endif
