/* nvidia-smi --query-gpu: one value for each field and GPU, as CSV. */
#include "smi.h"

#include <string.h>

enum { VALUE_SIZE = 160, MAX_FIELDS = 64 };

static const char not_available[] = "[N/A]";
static const char not_permitted[] = "[Insufficient Permissions]";

struct field {
    const char *name;
    const char *alias;
    const char *unit; /* NULL: none */
    /* NULL: NVIDIA's nvidia-smi knows the field and a simulated GPU has no value for it. */
    bool (*get)(struct smi *smi, nvmlDevice_t device, char value[VALUE_SIZE]);
};

static bool get_count(struct smi *smi, nvmlDevice_t device, char value[VALUE_SIZE])
{
    (void)device;
    unsigned int count;
    if (smi->count(&count) != NVML_SUCCESS)
        return false;
    snprintf(value, VALUE_SIZE, "%u", count);
    return true;
}

static bool get_index(struct smi *smi, nvmlDevice_t device, char value[VALUE_SIZE])
{
    unsigned int index;
    if (smi->index(device, &index) != NVML_SUCCESS)
        return false;
    snprintf(value, VALUE_SIZE, "%u", index);
    return true;
}

static bool get_name(struct smi *smi, nvmlDevice_t device, char value[VALUE_SIZE])
{
    return smi->name(device, value, VALUE_SIZE) == NVML_SUCCESS;
}

static bool get_uuid(struct smi *smi, nvmlDevice_t device, char value[VALUE_SIZE])
{
    return smi->uuid(device, value, VALUE_SIZE) == NVML_SUCCESS;
}

static bool get_driver_version(struct smi *smi, nvmlDevice_t device, char value[VALUE_SIZE])
{
    (void)device;
    return smi->driver_version(value, VALUE_SIZE) == NVML_SUCCESS;
}

static bool get_bus_id(struct smi *smi, nvmlDevice_t device, char value[VALUE_SIZE])
{
    nvmlPciInfo_t pci;
    if (smi->pci(device, &pci) != NVML_SUCCESS)
        return false;
    snprintf(value, VALUE_SIZE, "%s", pci.busId);
    return true;
}

static bool get_device_id(struct smi *smi, nvmlDevice_t device, char value[VALUE_SIZE])
{
    nvmlPciInfo_t pci;
    if (smi->pci(device, &pci) != NVML_SUCCESS)
        return false;
    snprintf(value, VALUE_SIZE, "0x%08X", pci.pciDeviceId);
    return true;
}

static bool format_mib(char value[VALUE_SIZE], unsigned long long bytes)
{
    snprintf(value, VALUE_SIZE, "%llu", bytes >> 20);
    return true;
}

static bool get_memory_total(struct smi *smi, nvmlDevice_t device, char value[VALUE_SIZE])
{
    nvmlMemory_t memory;
    return smi->memory(device, &memory) == NVML_SUCCESS && format_mib(value, memory.total);
}

static bool get_memory_used(struct smi *smi, nvmlDevice_t device, char value[VALUE_SIZE])
{
    nvmlMemory_t memory;
    return smi->memory(device, &memory) == NVML_SUCCESS && format_mib(value, memory.used);
}

static bool get_memory_free(struct smi *smi, nvmlDevice_t device, char value[VALUE_SIZE])
{
    nvmlMemory_t memory;
    return smi->memory(device, &memory) == NVML_SUCCESS && format_mib(value, memory.free);
}

static bool get_compute_capability(struct smi *smi, nvmlDevice_t device, char value[VALUE_SIZE])
{
    int major, minor;
    if (smi->compute_capability(device, &major, &minor) != NVML_SUCCESS)
        return false;
    snprintf(value, VALUE_SIZE, "%d.%d", major, minor);
    return true;
}

static bool get_compute_mode(struct smi *smi, nvmlDevice_t device, char value[VALUE_SIZE])
{
    nvmlComputeMode_t mode;
    if (smi->compute_mode(device, &mode) != NVML_SUCCESS)
        return false;
    snprintf(value, VALUE_SIZE, "%s", smi_compute_mode_name(mode));
    return true;
}

static bool get_persistence_mode(struct smi *smi, nvmlDevice_t device, char value[VALUE_SIZE])
{
    nvmlEnableState_t mode;
    if (smi->persistence_mode(device, &mode) != NVML_SUCCESS)
        return false;
    snprintf(value, VALUE_SIZE, "%s", mode == NVML_FEATURE_ENABLED ? "Enabled" : "Disabled");
    return true;
}

static bool format_mig_mode(char value[VALUE_SIZE], unsigned int mode)
{
    snprintf(value, VALUE_SIZE, "%s", mode == NVML_DEVICE_MIG_ENABLE ? "Enabled" : "Disabled");
    return true;
}

static bool get_mig_mode(struct smi *smi, nvmlDevice_t device, char value[VALUE_SIZE])
{
    unsigned int current, pending;
    return smi->mig_mode(device, &current, &pending) == NVML_SUCCESS && format_mig_mode(value, current);
}

static bool get_pending_mig_mode(struct smi *smi, nvmlDevice_t device, char value[VALUE_SIZE])
{
    unsigned int current, pending;
    return smi->mig_mode(device, &current, &pending) == NVML_SUCCESS && format_mig_mode(value, pending);
}

static bool get_power_limit(struct smi *smi, nvmlDevice_t device, char value[VALUE_SIZE])
{
    unsigned int milliwatts;
    if (smi->power_limit(device, &milliwatts) != NVML_SUCCESS)
        return false;
    snprintf(value, VALUE_SIZE, "%u.%02u", milliwatts / 1000, milliwatts % 1000 / 10);
    return true;
}

static bool get_utilization(struct smi *smi, nvmlDevice_t device, char value[VALUE_SIZE])
{
    nvmlUtilization_t utilization;
    if (smi->utilization(device, &utilization) != NVML_SUCCESS)
        return false;
    snprintf(value, VALUE_SIZE, "%u", utilization.gpu);
    return true;
}

static const struct field fields[] = {
    {"count", NULL, NULL, get_count},
    {"index", NULL, NULL, get_index},
    {"name", "gpu_name", NULL, get_name},
    {"uuid", "gpu_uuid", NULL, get_uuid},
    {"driver_version", NULL, NULL, get_driver_version},
    {"pci.bus_id", "gpu_bus_id", NULL, get_bus_id},
    {"pci.device_id", NULL, NULL, get_device_id},
    {"memory.total", NULL, "MiB", get_memory_total},
    {"memory.used", NULL, "MiB", get_memory_used},
    {"memory.free", NULL, "MiB", get_memory_free},
    {"compute_cap", NULL, NULL, get_compute_capability},
    {"compute_mode", NULL, NULL, get_compute_mode},
    {"persistence_mode", NULL, NULL, get_persistence_mode},
    {"mig.mode.current", NULL, NULL, get_mig_mode},
    {"mig.mode.pending", NULL, NULL, get_pending_mig_mode},
    {"power.limit", NULL, "W", get_power_limit},
    {"power.default_limit", NULL, "W", get_power_limit},
    {"utilization.gpu", NULL, "%", get_utilization},
    {"utilization.memory", NULL, "%", get_utilization},
    {"timestamp", NULL, NULL, NULL},
    {"serial", "gpu_serial", NULL, NULL},
    {"vbios_version", NULL, NULL, NULL},
    {"pstate", NULL, NULL, NULL},
    {"fan.speed", NULL, "%", NULL},
    {"temperature.gpu", NULL, NULL, NULL},
    {"temperature.memory", NULL, NULL, NULL},
    {"power.draw", NULL, "W", NULL},
    {"power.max_limit", NULL, "W", NULL},
    {"power.min_limit", NULL, "W", NULL},
    {"clocks.current.graphics", "clocks.gr", "MHz", NULL},
    {"clocks.current.sm", "clocks.sm", "MHz", NULL},
    {"clocks.current.memory", "clocks.mem", "MHz", NULL},
    {"clocks.max.sm", NULL, "MHz", NULL},
    {"ecc.mode.current", NULL, NULL, NULL},
    {"ecc.mode.pending", NULL, NULL, NULL},
    {"display_active", NULL, NULL, NULL},
    {"display_mode", NULL, NULL, NULL},
    {"pcie.link.gen.current", NULL, NULL, NULL},
    {"pcie.link.width.current", NULL, NULL, NULL},
};

struct request {
    const struct field *fields[MAX_FIELDS];
    const char *names[MAX_FIELDS]; /* as asked for: an alias stays an alias in the header */
    unsigned int count;
    bool header;
    bool units;
};

static const struct field *find_field(const char *name)
{
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++) {
        if (strcmp(fields[i].name, name) == 0 || (fields[i].alias != NULL && strcmp(fields[i].alias, name) == 0))
            return &fields[i];
    }
    return NULL;
}

static bool parse_fields(struct request *request, char *names)
{
    char *state = NULL;
    for (char *name = strtok_r(names, ", ", &state); name != NULL; name = strtok_r(NULL, ", ", &state)) {
        const struct field *field = find_field(name);
        if (field == NULL || request->count == MAX_FIELDS) {
            printf("Field \"%s\" is not a valid field to query.\n\n", name);
            return false;
        }
        request->names[request->count] = name;
        request->fields[request->count++] = field;
    }
    return request->count > 0;
}

static bool parse_format(struct request *request, char *options)
{
    bool csv = false;
    char *state = NULL;
    request->header = request->units = true;
    for (char *option = strtok_r(options, ", ", &state); option != NULL; option = strtok_r(NULL, ", ", &state)) {
        if (strcmp(option, "csv") == 0)
            csv = true;
        else if (strcmp(option, "noheader") == 0)
            request->header = false;
        else if (strcmp(option, "nounits") == 0)
            request->units = false;
        else
            return false;
    }
    return csv;
}

static void print_header(const struct request *request)
{
    for (unsigned int i = 0; i < request->count; i++) {
        printf("%s%s", i == 0 ? "" : ", ", request->names[i]);
        if (request->fields[i]->unit != NULL)
            printf(" [%s]", request->fields[i]->unit);
    }
    putchar('\n');
}

/* Of a GPU whose memory this program may not know, its use is hidden as well. */
static const char *missing(struct smi *smi, const struct field *field, nvmlDevice_t device)
{
    nvmlMemory_t memory;
    bool of_use = field->get == get_memory_total || field->get == get_memory_used || field->get == get_memory_free ||
                  field->get == get_utilization;
    return of_use && smi->memory(device, &memory) == NVML_ERROR_NO_PERMISSION ? not_permitted : not_available;
}

static void print_row(struct smi *smi, const struct request *request, nvmlDevice_t device)
{
    for (unsigned int i = 0; i < request->count; i++) {
        const struct field *field = request->fields[i];
        char value[VALUE_SIZE];
        bool known = field->get != NULL && field->get(smi, device, value);
        printf("%s%s", i == 0 ? "" : ", ", known ? value : missing(smi, field, device));
        if (known && request->units && field->unit != NULL)
            printf(" %s", field->unit);
    }
    putchar('\n');
}

int smi_query(struct smi *smi, const char *names, const char *format)
{
    char name_list[2048], option_list[256];
    struct request request = {.count = 0};
    snprintf(name_list, sizeof name_list, "%s", names);
    snprintf(option_list, sizeof option_list, "%s", format == NULL ? "" : format);
    if (!parse_format(&request, option_list)) {
        puts("\"--format=\" switch must be csv, with noheader or nounits after it if wanted.");
        return SMI_INVALID_ARGUMENT;
    }
    if (!parse_fields(&request, name_list))
        return SMI_INVALID_ARGUMENT;
    if (request.header)
        print_header(&request);
    for (unsigned int i = 0; i < smi->device_count; i++)
        print_row(smi, &request, smi->devices[i]);
    smi_note_simulation();
    return SMI_SUCCESS;
}
