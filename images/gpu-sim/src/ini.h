/* A strict reader of ini text: [section], key = value, whole-line comments with #; anything else is an error. */
#ifndef GPU_SIM_INI_H
#define GPU_SIM_INI_H

#include <stdbool.h>
#include <stddef.h>

struct ini_handler {
    void *context;
    /* Both return NULL, or the rule that the line breaks. */
    const char *(*section)(void *context, const char *name);
    const char *(*pair)(void *context, const char *key, const char *value);
};

/* Calls the handler line by line. On failure, error holds "path:line: rule". */
bool ini_read(const char *path, size_t max_bytes, const struct ini_handler *handler, char *error, size_t error_size);

/* Whole decimal or 0x-hexadecimal number within the limits. */
bool ini_number(const char *text, unsigned int low, unsigned int high, unsigned int *number);

#endif
