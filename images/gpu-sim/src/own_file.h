/* Where the running code lies: a library finds its driver root from its own file, a program from its executable. */
#ifndef GPU_SIM_OWN_FILE_H
#define GPU_SIM_OWN_FILE_H

#include <limits.h>
#include <stdbool.h>

/* Real path of the library or program; false if unknown. */
bool own_file(char path[PATH_MAX]);

#endif
