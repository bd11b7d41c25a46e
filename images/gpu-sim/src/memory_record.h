/* The text by which an MPS server tells other processes how much memory is in use: "UUID bytes" for each device of its
   own, then a sum over those lines, which only whole ones fit. For the same devices it always has the same length. */
#ifndef GPU_SIM_MEMORY_RECORD_H
#define GPU_SIM_MEMORY_RECORD_H

#include "devices.h"

#include <stdint.h>

enum { MEMORY_RECORD_SIZE = (DEVICES_MAX + 1) * (MIG_UUID_SIZE + 24) };

struct memory_record {
    unsigned int count;
    char uuids[DEVICES_MAX][MIG_UUID_SIZE];
    uint64_t used[DEVICES_MAX]; /* bytes */
};

/* Returns the text's length. */
size_t memory_record_write(const struct memory_record *record, char text[MEMORY_RECORD_SIZE]);

/* False unless it is, byte for byte, what memory_record_write writes. */
bool memory_record_read(const char *text, size_t length, struct memory_record *record);

#endif
