/* What one process changes and later ones must see: <root>/run/gpu<minor>.<name>, one short line each.

   A root that cannot be written remembers nothing; the caller then keeps its value in memory. */
#ifndef GPU_SIM_STATE_H
#define GPU_SIM_STATE_H

#include "inventory.h"

enum { STATE_SIZE = 512 };

/* False if nothing is remembered. */
bool state_read(const struct inventory *inventory, unsigned int minor, const char *name, char text[STATE_SIZE]);
bool state_write(const struct inventory *inventory, unsigned int minor, const char *name, const char *text);

/* Which contents state_read would read now; false if nothing is remembered. A write makes another version. */
bool state_version(const struct inventory *inventory, unsigned int minor, const char *name,
                   struct file_version *version);

/* As state_read, for one number; fallback if nothing usable is remembered. */
unsigned int state_read_number(const struct inventory *inventory, unsigned int minor, const char *name,
                               unsigned int fallback);

#endif
