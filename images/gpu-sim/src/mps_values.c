#include "mps_values.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LIST_SIZE = 4096 };

/* Three digits behind the point, or fewer; further ones are too small to matter. */
static uint32_t parse_fraction(const char *digits)
{
    uint32_t value = 0;
    for (int i = 0; i < 3; i++)
        value = value * 10 + (isdigit((unsigned char)*digits) ? (uint32_t)(*digits++ - '0') : 0);
    return value;
}

bool mps_parse_percentage(const char *text, uint32_t *thousandths)
{
    while (isspace((unsigned char)*text))
        text++;
    if (!isdigit((unsigned char)*text))
        return false;
    char *end;
    unsigned long whole = strtoul(text, &end, 10);
    if (whole > 100)
        return false;
    uint32_t value = (uint32_t)whole * MPS_PERCENT + (*end == '.' ? parse_fraction(end + 1) : 0);
    if (value == 0 || value > MPS_ALL_THREADS)
        return false;
    *thousandths = value;
    return true;
}

void mps_format_percentage(uint32_t thousandths, char text[16])
{
    uint32_t tenths = (thousandths + MPS_PERCENT / 20) / (MPS_PERCENT / 10);
    snprintf(text, 16, "%u.%u", tenths / 10, tenths % 10);
}

/* Power of two behind a size's letter; 0 for none. */
static unsigned int size_shift(char letter)
{
    switch (tolower((unsigned char)letter)) {
    case 'k': return 10;
    case 'm': return 20;
    case 'g': return 30;
    default: return 0;
    }
}

bool mps_parse_memory(const char *text, uint64_t *bytes)
{
    if (!isdigit((unsigned char)*text))
        return false;
    char *end;
    errno = 0;
    unsigned long long number = strtoull(text, &end, 10);
    unsigned int shift = size_shift(*end);
    if (errno != 0 || number > (UINT64_MAX >> shift) || (shift == 0 && (number != 0 || *end != '\0')))
        return false;
    *bytes = (uint64_t)number << shift;
    return true;
}

/* Whole units of the largest letter that fits, as NVIDIA's program prints 1500M as 1G. */
void mps_format_memory(uint64_t bytes, char text[32])
{
    static const char letters[] = {'G', 'M', 'K'};
    for (unsigned int i = 0; i < sizeof letters; i++) {
        unsigned int shift = 30 - 10 * i;
        if (bytes >> shift != 0) {
            snprintf(text, 32, "%llu%c", (unsigned long long)(bytes >> shift), letters[i]);
            return;
        }
    }
    snprintf(text, 32, "%llu", (unsigned long long)bytes);
}

/* The smaller of two limits of which 0 is none. */
static uint64_t lower_limit(uint64_t one, uint64_t other)
{
    if (one == 0 || other == 0)
        return one + other;
    return one < other ? one : other;
}

static bool lower_one(char *item, const struct device *devices, unsigned int count, uint64_t limits[DEVICES_MAX])
{
    char *equals = strchr(item, '=');
    unsigned int index = 0;
    uint64_t bytes = 0;
    if (equals == NULL)
        return false;
    *equals = '\0';
    if (!devices_find(devices, count, item, &index) || !mps_parse_memory(equals + 1, &bytes) || bytes == 0)
        return false;
    limits[index] = lower_limit(limits[index], bytes);
    return true;
}

void mps_client_limits(const char *text, const struct device *devices, unsigned int count,
                       uint64_t limits[DEVICES_MAX])
{
    char list[LIST_SIZE], *state = NULL;
    snprintf(list, sizeof list, "%s", text == NULL ? "" : text);
    for (char *item = strtok_r(list, ", ", &state); item != NULL; item = strtok_r(NULL, ", ", &state)) {
        if (!lower_one(item, devices, count, limits)) {
            memset(limits, 0, DEVICES_MAX * sizeof *limits);
            return;
        }
    }
}

unsigned int mps_granted_multiprocessors(const struct device *device, uint32_t thousandths)
{
    unsigned int all = device_multiprocessors(device);
    if (thousandths >= MPS_ALL_THREADS)
        return all;
    /* Whole pairs of multiprocessors (TPCs), and no fewer than the model's least: measured. */
    unsigned int granted = (unsigned int)((uint64_t)thousandths * all / (2 * MPS_ALL_THREADS) * 2);
    unsigned int least = device->gpu->model->mps_minimum_multiprocessors;
    if (granted < least)
        granted = least;
    return granted < all ? granted : all;
}
