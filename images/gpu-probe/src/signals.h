/* SIGTERM and SIGINT. Process 1 of a container ignores a signal that it has no handler for. */
#ifndef GPU_PROBE_SIGNALS_H
#define GPU_PROBE_SIGNALS_H

#include <stdbool.h>

/* From now on a signal ends the process at once, even in the middle of a driver's call: with 0, or 128 plus the
   signal where the work is cut short by it. */
void signals_end_process(bool as_done);

/* From now on, or no longer, a signal waits to be asked for. */
void signals_defer(bool defer);

/* The deferred signal; 0: none yet. */
int signals_deferred(void);

#endif
