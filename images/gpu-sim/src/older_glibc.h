/* Included before everything: what is compiled on glibc 2.38 or newer runs on older ones too, such as that of images.
 *
 * With _GNU_SOURCE those headers turn strtol, sscanf and their like into __isoc23_* of GLIBC_2.38, which read binary
 * numbers (0b...) as well; nothing here wants that. features.h decides it, and is read once only. The name of the
 * decision is C2X_STRTOL up to 2.41 and C23_STRTOL from then on. */
#ifndef GPU_SIM_OLDER_GLIBC_H
#define GPU_SIM_OLDER_GLIBC_H

#include <features.h>

#undef __GLIBC_USE_C2X_STRTOL
#define __GLIBC_USE_C2X_STRTOL 0
#undef __GLIBC_USE_C23_STRTOL
#define __GLIBC_USE_C23_STRTOL 0

#endif
