#include "memory_record.h"

#include <stdio.h>
#include <string.h>

static const char sum_name[] = "sum ";

/* FNV-1a: it finds texts that are half old and half new; nothing here keeps a secret. */
static uint64_t sum_of(const char *text, size_t length)
{
    uint64_t sum = 0xcbf29ce484222325;
    for (size_t i = 0; i < length; i++)
        sum = (sum ^ (unsigned char)text[i]) * 0x100000001b3;
    return sum;
}

size_t memory_record_write(const struct memory_record *record, char text[MEMORY_RECORD_SIZE])
{
    size_t length = 0;
    for (unsigned int i = 0; i < record->count; i++)
        length += (size_t)snprintf(text + length, MEMORY_RECORD_SIZE - length, "%s %020llu\n", record->uuids[i],
                                   (unsigned long long)record->used[i]);
    unsigned long long sum = sum_of(text, length);
    return length + (size_t)snprintf(text + length, MEMORY_RECORD_SIZE - length, "%s%016llx\n", sum_name, sum);
}

static bool read_line(const char *line, struct memory_record *record)
{
    _Static_assert(MIG_UUID_SIZE == 48, "the format below has its width");
    unsigned long long used;
    if (record->count == DEVICES_MAX || sscanf(line, "%47s %20llu", record->uuids[record->count], &used) != 2)
        return false;
    record->used[record->count++] = used;
    return true;
}

/* Writing what was understood shows whether anything was not. */
bool memory_record_read(const char *text, size_t length, struct memory_record *record)
{
    char copy[MEMORY_RECORD_SIZE], again[MEMORY_RECORD_SIZE];
    *record = (struct memory_record){.count = 0};
    if (length >= sizeof copy)
        return false;
    memcpy(copy, text, length);
    copy[length] = '\0';
    for (const char *line = copy; strncmp(line, sum_name, strlen(sum_name)) != 0; line++) {
        if (!read_line(line, record) || (line = strchr(line, '\n')) == NULL)
            return false;
    }
    return memory_record_write(record, again) == length && memcmp(again, copy, length) == 0;
}
