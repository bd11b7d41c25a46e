#include "ini.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LINE_SIZE = 512 };

static char *trim(char *text)
{
    while (isspace((unsigned char)*text))
        text++;
    size_t length = strlen(text);
    while (length > 0 && isspace((unsigned char)text[length - 1]))
        text[--length] = '\0';
    return text;
}

static const char *handle_section(const struct ini_handler *handler, char *line)
{
    size_t length = strlen(line);
    if (length < 3 || line[length - 1] != ']')
        return "a section must read [name]";
    line[length - 1] = '\0';
    return handler->section(handler->context, trim(line + 1));
}

static const char *handle_line(const struct ini_handler *handler, char *line)
{
    line = trim(line);
    if (*line == '\0' || *line == '#')
        return NULL;
    if (*line == '[')
        return handle_section(handler, line);
    char *equals = strchr(line, '=');
    if (equals == NULL || equals == line)
        return "expected [section], key = value, or # comment";
    *equals = '\0';
    char *value = trim(equals + 1);
    if (*value == '\0')
        return "the value is empty";
    return handler->pair(handler->context, trim(line), value);
}

/* Reads one line without its newline. Returns its length, or -1 at the end; too long or binary lines set *rule. */
static long read_line(FILE *file, char *line, const char **rule)
{
    long length = 0;
    int character;
    while ((character = fgetc(file)) != EOF && character != '\n') {
        if (character == '\0') {
            *rule = "contains a NUL byte";
            return length;
        }
        if (length == LINE_SIZE - 1) {
            *rule = "the line is longer than 511 bytes";
            return length;
        }
        line[length++] = (char)character;
    }
    line[length] = '\0';
    return character == EOF && length == 0 ? -1 : length;
}

bool ini_read(const char *path, size_t max_bytes, const struct ini_handler *handler, char *error, size_t error_size)
{
    FILE *file = fopen(path, "re");
    if (file == NULL) {
        snprintf(error, error_size, "%s: %s", path, strerror(errno));
        return false;
    }
    char line[LINE_SIZE];
    const char *rule = NULL;
    size_t total = 0;
    unsigned int number = 0;
    while (rule == NULL) {
        long length = read_line(file, line, &rule);
        if (length < 0)
            break;
        number++;
        total += (size_t)length + 1;
        if (rule == NULL && total > max_bytes)
            rule = "the file is too large";
        if (rule == NULL)
            rule = handle_line(handler, line);
    }
    if (rule == NULL && ferror(file))
        rule = "cannot be read";
    fclose(file);
    if (rule != NULL)
        snprintf(error, error_size, "%s:%u: %s", path, number, rule);
    return rule == NULL;
}

bool ini_number(const char *text, unsigned int low, unsigned int high, unsigned int *number)
{
    int base = strncmp(text, "0x", 2) == 0 ? 16 : 10;
    const char *digits = base == 16 ? text + 2 : text;
    if (!isxdigit((unsigned char)*digits))
        return false;
    char *end;
    errno = 0;
    unsigned long value = strtoul(digits, &end, base);
    if (errno != 0 || *end != '\0' || value < low || value > high)
        return false;
    *number = (unsigned int)value;
    return true;
}
