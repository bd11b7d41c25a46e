#include "values.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* strtod and strtoul also take signs, spaces, hexadecimal and words. */
static bool has_only(const char *text, const char *characters)
{
    return *text != '\0' && text[strspn(text, characters)] == '\0';
}

bool value_seconds(const char *text, double *seconds)
{
    char *end;
    if (!has_only(text, "0123456789."))
        return false;
    *seconds = strtod(text, &end);
    return *end == '\0' && end != text && *seconds <= 1e9;
}

bool value_number(const char *text, int minimum, int *number)
{
    if (!has_only(text, "0123456789"))
        return false;
    errno = 0;
    long value = strtol(text, NULL, 10);
    *number = (int)value;
    return errno == 0 && value >= minimum && value <= 1000000;
}

bool value_size(const char *text, unsigned long long *bytes)
{
    static const struct {
        const char *name;
        int shift;
    } units[] = {{"Mi", 20}, {"M", 20}, {"Gi", 30}, {"G", 30}};
    size_t digits = strspn(text, "0123456789");
    errno = 0;
    unsigned long long count = strtoull(text, NULL, 10);
    if (digits == 0 || errno != 0 || count == 0)
        return false;
    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++) {
        if (strcmp(text + digits, units[i].name) == 0) {
            *bytes = count << units[i].shift;
            return *bytes >> units[i].shift == count;
        }
    }
    return false;
}
