/* Writing JSON text. */
#ifndef GPU_PROBE_JSON_H
#define GPU_PROBE_JSON_H

#include <stdio.h>

/* A quoted string. Bytes that are not UTF-8 become U+FFFD, since JSON has no other place for them. */
void json_string(FILE *file, const char *text);

#endif
