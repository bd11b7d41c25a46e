#include "json.h"

#include <stddef.h>

/* Length of the valid UTF-8 sequence at the text, or 0. Overlong forms and surrogates are invalid. */
static size_t sequence_length(const unsigned char *text)
{
    size_t length = 0;
    if (text[0] < 0x80)
        length = 1;
    else if (text[0] >= 0xC2 && text[0] < 0xF5)
        length = text[0] < 0xE0 ? 2 : text[0] < 0xF0 ? 3 : 4;
    for (size_t i = 1; i < length; i++) {
        if ((text[i] & 0xC0) != 0x80)
            return 0;
    }
    if ((text[0] == 0xE0 && text[1] < 0xA0) || (text[0] == 0xED && text[1] > 0x9F) ||
        (text[0] == 0xF0 && text[1] < 0x90) || (text[0] == 0xF4 && text[1] > 0x8F))
        return 0;
    return length;
}

void json_string(FILE *file, const char *text)
{
    const unsigned char *next = (const unsigned char *)text;
    fputc('"', file);
    while (*next != '\0') {
        size_t length = sequence_length(next);
        if (length == 0) {
            fputs("\\ufffd", file);
            length = 1;
        } else if (*next == '"' || *next == '\\') {
            fprintf(file, "\\%c", *next);
        } else if (*next < 0x20 || *next == 0x7F) {
            fprintf(file, "\\u%04x", *next);
        } else {
            fwrite(next, 1, length, file);
        }
        next += length;
    }
    fputc('"', file);
}
