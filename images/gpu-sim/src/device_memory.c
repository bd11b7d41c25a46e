#include "device_memory.h"

/* Measured on an H100 80GB with driver 580.159.04 and taken for every model: cuMemGetInfo under limits of 1 to 6 GiB,
   with 8 to 132 multiprocessors, with one to three clients, and with and without MPS. */
#define MIB 1048576.0
static const uint64_t allocation_unit = 2 << 20;
static const uint64_t server_bytes = 64 << 20;
/* Once a device, as soon as it has a context. */
static const uint64_t first_context_bytes = (uint64_t)(9.875 * MIB);
/* A context takes slightly more of the device than it counts against the client's limit. */
static const uint64_t counted_bytes = (uint64_t)(27.6 * MIB);
static const uint64_t counted_bytes_per_multiprocessor = (uint64_t)(3.68 * MIB);
static const uint64_t held_bytes = (uint64_t)(27.75 * MIB);
static const uint64_t held_bytes_per_multiprocessor = (uint64_t)(3.706 * MIB);

static uint64_t context_counted(unsigned int granted)
{
    return counted_bytes + granted * counted_bytes_per_multiprocessor;
}

static uint64_t context_held(unsigned int granted)
{
    return held_bytes + granted * held_bytes_per_multiprocessor;
}

static uint64_t rounded(uint64_t bytes)
{
    return (bytes + allocation_unit - 1) / allocation_unit * allocation_unit;
}

void device_memory_start(struct device_memory *device, uint64_t total, bool mps_server)
{
    *device = (struct device_memory){.total = total, .used = mps_server ? server_bytes : 0};
}

bool device_memory_add_context(struct device_memory *device, struct client_memory *client, unsigned int granted)
{
    uint64_t first = device->contexts == 0 ? first_context_bytes : 0;
    uint64_t held = context_held(granted);
    if (device->used + first + held > device->total)
        return false;
    device->used += first + held;
    device->contexts++;
    client->held += held;
    client->counted += context_counted(granted);
    return true;
}

void device_memory_end_context(struct device_memory *device, struct client_memory *client, unsigned int granted)
{
    uint64_t held = context_held(granted);
    device->contexts--;
    device->used -= held + (device->contexts == 0 ? first_context_bytes : 0);
    client->held -= held;
    client->counted -= context_counted(granted);
}

uint64_t device_memory_available(const struct device_memory *device, const struct client_memory *client)
{
    uint64_t available = device->total - device->used;
    if (client->limit == 0)
        return available;
    uint64_t allowed = client->counted < client->limit ? client->limit - client->counted : 0;
    return allowed < available ? allowed : available;
}

bool device_memory_allocate(struct device_memory *device, struct client_memory *client, uint64_t bytes)
{
    uint64_t available = device_memory_available(device, client);
    if (bytes > available || rounded(bytes) > available)
        return false;
    device->used += rounded(bytes);
    client->held += rounded(bytes);
    client->counted += rounded(bytes);
    client->allocated += rounded(bytes);
    return true;
}

bool device_memory_free(struct device_memory *device, struct client_memory *client, uint64_t bytes)
{
    if (bytes > client->allocated || rounded(bytes) > client->allocated)
        return false;
    client->allocated -= rounded(bytes);
    device->used -= rounded(bytes);
    client->held -= rounded(bytes);
    client->counted -= rounded(bytes);
    return true;
}
