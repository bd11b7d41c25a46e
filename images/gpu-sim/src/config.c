#include "config.h"

#include "ini.h"

#include <stdio.h>
#include <string.h>

enum section { SECTION_NONE, SECTION_DRIVER, SECTION_MODEL, SECTION_MIG, SECTION_GPU };

struct parser {
    struct config *config;
    enum section section;
    struct gpu_model *model;
    struct mig_profile *profile;
    struct gpu_config *gpu;
};

struct number_key {
    const char *name;
    size_t offset;
    unsigned int low;
    unsigned int high;
};

struct text_key {
    const char *name;
    size_t offset;
};

static const struct text_key model_texts[] = {
    {"product_name", offsetof(struct gpu_model, product_name)},
    {"brand", offsetof(struct gpu_model, brand)},
    {"architecture", offsetof(struct gpu_model, architecture)},
};

static const struct number_key model_numbers[] = {
    {"memory_mib", offsetof(struct gpu_model, memory_mib), 1, 1u << 22},
    {"reserved_memory_mib", offsetof(struct gpu_model, reserved_memory_mib), 0, 1u << 22},
    {"multiprocessors", offsetof(struct gpu_model, multiprocessors), 1, 1024},
    {"pci_device_id", offsetof(struct gpu_model, pci_device_id), 1, UINT32_MAX},
    {"power_limit_watts", offsetof(struct gpu_model, power_limit_watts), 1, 10000},
    {"mps_minimum_multiprocessors", offsetof(struct gpu_model, mps_minimum_multiprocessors), 1, 1024},
};

static const struct number_key profile_numbers[] = {
    {"profile_id", offsetof(struct mig_profile, id), 0, 255},
    {"profile_index", offsetof(struct mig_profile, index), 0, 17},
    {"slices", offsetof(struct mig_profile, slices), 1, 8},
    {"multiprocessors", offsetof(struct mig_profile, multiprocessors), 1, 1024},
    {"memory_mib", offsetof(struct mig_profile, memory_mib), 1, 1u << 22},
    {"instances", offsetof(struct mig_profile, instances), 1, 8},
    {"placement_size", offsetof(struct mig_profile, placement_size), 1, 8},
    {"copy_engines", offsetof(struct mig_profile, copy_engines), 0, 64},
    {"decoders", offsetof(struct mig_profile, decoders), 0, 64},
    {"jpeg_engines", offsetof(struct mig_profile, jpeg_engines), 0, 64},
    {"ofa_engines", offsetof(struct mig_profile, ofa_engines), 0, 64},
};

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static const char *set_text(char *target, const char *value)
{
    if (strlen(value) >= CONFIG_TEXT)
        return "the value is longer than 63 bytes";
    strcpy(target, value);
    return NULL;
}

/* Sets *rule and returns true if the key is one of the table's. */
static bool set_number(void *object, const struct number_key *keys, size_t count, const char *key, const char *value,
                       const char **rule)
{
    for (size_t i = 0; i < count; i++) {
        if (strcmp(keys[i].name, key) != 0)
            continue;
        unsigned int *target = (unsigned int *)(void *)((char *)object + keys[i].offset);
        *rule = ini_number(value, keys[i].low, keys[i].high, target) ? NULL : "not a whole number in the key's range";
        return true;
    }
    return false;
}

static const char *driver_pair(struct config *config, const char *key, const char *value)
{
    if (strcmp(key, "version") == 0)
        return set_text(config->driver_version, value);
    if (strcmp(key, "mps_memory_limit_by_mig_uuid") == 0) {
        config->mps_memory_limit_by_mig_uuid = strcmp(value, "applied") == 0;
        return config->mps_memory_limit_by_mig_uuid || strcmp(value, "ignored") == 0 ? NULL
                                                                                     : "must be applied or ignored";
    }
    if (strcmp(key, "cuda") != 0)
        return "unknown key in [driver]";
    unsigned int major, minor;
    char rest;
    if (sscanf(value, "%2u.%1u%c", &major, &minor, &rest) != 2)
        return "cuda must read like 13.0";
    config->cuda_version = major * 1000 + minor * 10;
    return NULL;
}

static const char *model_pair(struct gpu_model *model, const char *key, const char *value)
{
    const char *rule;
    if (set_number(model, model_numbers, COUNT(model_numbers), key, value, &rule))
        return rule;
    for (size_t i = 0; i < COUNT(model_texts); i++) {
        if (strcmp(model_texts[i].name, key) == 0)
            return set_text((char *)model + model_texts[i].offset, value);
    }
    if (strcmp(key, "cuda_compute_capability") != 0)
        return "unknown key in [model]";
    char rest;
    if (sscanf(value, "%2u.%1u%c", &model->compute_major, &model->compute_minor, &rest) != 2)
        return "cuda_compute_capability must read like 9.0";
    return NULL;
}

static const char *parse_placements(struct mig_profile *profile, const char *value)
{
    char list[CONFIG_TEXT];
    const char *rule = set_text(list, value);
    if (rule != NULL)
        return rule;
    char *state = NULL;
    profile->placement_count = 0;
    for (char *item = strtok_r(list, ", ", &state); item != NULL; item = strtok_r(NULL, ", ", &state)) {
        if (profile->placement_count == CONFIG_MAX_PLACEMENTS)
            return "more than 8 placements";
        if (!ini_number(item, 0, 7, &profile->placements[profile->placement_count++]))
            return "a placement must be 0 to 7";
    }
    return NULL;
}

static const char *profile_pair(struct mig_profile *profile, const char *key, const char *value)
{
    const char *rule;
    if (set_number(profile, profile_numbers, COUNT(profile_numbers), key, value, &rule))
        return rule;
    if (strcmp(key, "placements") == 0)
        return parse_placements(profile, value);
    return "unknown key in [mig]";
}

static struct gpu_model *find_model(struct config *config, const char *key)
{
    for (unsigned int i = 0; i < config->model_count; i++) {
        if (strcmp(config->models[i].key, key) == 0)
            return &config->models[i];
    }
    return NULL;
}

static const char *parse_pci_bus_id(struct gpu_config *gpu, const char *value)
{
    int end = 0;
    if (sscanf(value, "%4x:%2x:%2x.0%n", &gpu->pci_domain, &gpu->pci_bus, &gpu->pci_device, &end) != 3 ||
        value[end] != '\0' || end != 12)
        return "pci_bus_id must read like 0000:0a:00.0";
    return set_text(gpu->pci_bus_id, value);
}

static const struct mig_profile *find_profile(const struct gpu_model *model, const char *name)
{
    for (unsigned int i = 0; i < model->profile_count; i++) {
        if (strcmp(model->profiles[i].name, name) == 0)
            return &model->profiles[i];
    }
    return NULL;
}

static const char *parse_static_mig(struct gpu_config *gpu, const char *value)
{
    char list[512];
    if (gpu->model == NULL)
        return "model must come before mig";
    if (gpu->model->profile_count == 0)
        return "the model has no MIG";
    gpu->mig_enabled = true;
    if (strcmp(value, "on") == 0)
        return NULL;
    snprintf(list, sizeof list, "%s", value);
    char *state = NULL;
    for (char *item = strtok_r(list, ", ", &state); item != NULL; item = strtok_r(NULL, ", ", &state)) {
        char *at = strchr(item, '@');
        if (at == NULL || gpu->static_mig_count == CONFIG_MAX_STATIC_MIG)
            return "mig must be on, or at most 8 times PROFILE@PLACEMENT";
        *at = '\0';
        struct static_mig *entry = &gpu->static_mig[gpu->static_mig_count++];
        entry->profile = find_profile(gpu->model, item);
        if (entry->profile == NULL || !ini_number(at + 1, 0, 7, &entry->start) ||
            config_instance_id(gpu->model, entry->profile, entry->start) == 0)
            return "mig names a profile or placement that the model does not have";
    }
    return NULL;
}

static const char *gpu_pair(struct config *config, struct gpu_config *gpu, const char *key, const char *value)
{
    if (strcmp(key, "model") == 0) {
        gpu->model = find_model(config, value);
        return gpu->model == NULL ? "model has no [model] section before this line" : NULL;
    }
    if (strcmp(key, "uuid") == 0)
        return strlen(value) == 40 && strncmp(value, "GPU-", 4) == 0 ? set_text(gpu->uuid, value)
                                                                     : "uuid must be GPU- and 36 characters";
    if (strcmp(key, "minor") == 0)
        return ini_number(value, 0, CONFIG_MAX_GPUS - 1, &gpu->minor) ? NULL : "minor must be 0 to 15";
    if (strcmp(key, "pci_bus_id") == 0)
        return parse_pci_bus_id(gpu, value);
    if (strcmp(key, "pcie_root") == 0)
        return strchr(value, '/') == NULL ? set_text(gpu->pcie_root, value) : "pcie_root must not contain /";
    if (strcmp(key, "mig") == 0)
        return parse_static_mig(gpu, value);
    return "unknown key in [gpu]";
}

static const char *on_pair(void *context, const char *key, const char *value)
{
    struct parser *parser = context;
    switch (parser->section) {
    case SECTION_DRIVER: return driver_pair(parser->config, key, value);
    case SECTION_MODEL: return model_pair(parser->model, key, value);
    case SECTION_MIG: return profile_pair(parser->profile, key, value);
    case SECTION_GPU: return gpu_pair(parser->config, parser->gpu, key, value);
    case SECTION_NONE: break;
    }
    return "a key before the first section";
}

static const char *start_model(struct parser *parser, const char *key)
{
    struct config *config = parser->config;
    if (config->model_count == CONFIG_MAX_MODELS)
        return "more than 8 models";
    if (find_model(config, key) != NULL)
        return "the model is already defined";
    parser->section = SECTION_MODEL;
    parser->model = &config->models[config->model_count++];
    return set_text(parser->model->key, key);
}

static const char *start_profile(struct parser *parser, const char *model_key, const char *name)
{
    struct gpu_model *model = find_model(parser->config, model_key);
    if (model == NULL)
        return "a [mig] section must follow its [model]";
    if (model->profile_count == CONFIG_MAX_PROFILES)
        return "more than 16 MIG profiles";
    if (find_profile(model, name) != NULL)
        return "the profile is already defined";
    parser->section = SECTION_MIG;
    parser->profile = &model->profiles[model->profile_count++];
    return set_text(parser->profile->name, name);
}

static const char *start_gpu(struct parser *parser, const char *index)
{
    struct config *config = parser->config;
    unsigned int number;
    if (config->gpu_count == CONFIG_MAX_GPUS)
        return "more than 16 GPUs";
    if (!ini_number(index, config->gpu_count, config->gpu_count, &number))
        return "GPUs must be numbered 0, 1, 2, ...";
    parser->section = SECTION_GPU;
    parser->gpu = &config->gpus[config->gpu_count++];
    return NULL;
}

static const char *on_section(void *context, const char *name)
{
    struct parser *parser = context;
    char words[3][CONFIG_TEXT], rest[2];
    int count = sscanf(name, "%63s %63s %63s %1s", words[0], words[1], words[2], rest);
    if (count == 1 && strcmp(words[0], "driver") == 0) {
        parser->section = SECTION_DRIVER;
        return NULL;
    }
    if (count == 2 && strcmp(words[0], "model") == 0)
        return start_model(parser, words[1]);
    if (count == 3 && strcmp(words[0], "mig") == 0)
        return start_profile(parser, words[1], words[2]);
    if (count == 2 && strcmp(words[0], "gpu") == 0)
        return start_gpu(parser, words[1]);
    return "a section must be [driver], [model KEY], [mig KEY PROFILE] or [gpu INDEX]";
}

static unsigned int instance_count(const struct gpu_model *model)
{
    unsigned int count = 0;
    for (unsigned int i = 0; i < model->profile_count; i++)
        count += model->profiles[i].placement_count;
    return count;
}

static const char *check_model(const struct gpu_model *model)
{
    if (model->product_name[0] == '\0' || model->brand[0] == '\0' || model->architecture[0] == '\0' ||
        model->compute_major == 0 || model->memory_mib == 0 || model->multiprocessors == 0 ||
        model->pci_device_id == 0 || model->power_limit_watts == 0 || model->mps_minimum_multiprocessors == 0)
        return "a [model] lacks a key";
    if (model->reserved_memory_mib >= model->memory_mib)
        return "a [model]'s reserved_memory_mib leaves no memory";
    for (unsigned int i = 0; i < model->profile_count; i++) {
        const struct mig_profile *profile = &model->profiles[i];
        if (profile->slices == 0 || profile->multiprocessors == 0 || profile->memory_mib == 0 ||
            profile->instances == 0 || profile->placement_count == 0 || profile->placement_size == 0)
            return "a [mig] section lacks a key";
    }
    return instance_count(model) < CONFIG_INSTANCE_IDS ? NULL : "a model has more than 31 MIG placements";
}

static const char *check_gpus(const struct config *config)
{
    for (unsigned int i = 0; i < config->gpu_count; i++) {
        const struct gpu_config *gpu = &config->gpus[i];
        if (gpu->model == NULL || gpu->uuid[0] == '\0' || gpu->pci_bus_id[0] == '\0' || gpu->pcie_root[0] == '\0')
            return "a [gpu] lacks model, uuid, pci_bus_id or pcie_root";
        for (unsigned int j = 0; j < i; j++) {
            const struct gpu_config *other = &config->gpus[j];
            if (gpu->minor == other->minor || strcmp(gpu->uuid, other->uuid) == 0 ||
                strcmp(gpu->pci_bus_id, other->pci_bus_id) == 0)
                return "two GPUs share a minor, uuid or pci_bus_id";
        }
    }
    return NULL;
}

static const char *check_config(const struct config *config)
{
    if (config->driver_version[0] == '\0' || config->cuda_version == 0)
        return "[driver] lacks version or cuda";
    if (strchr(config->driver_version, '/') != NULL)
        return "[driver] version must not contain /";
    for (unsigned int i = 0; i < config->model_count; i++) {
        const char *rule = check_model(&config->models[i]);
        if (rule != NULL)
            return rule;
    }
    return check_gpus(config);
}

bool config_load(struct config *config, const char *path, char *error, size_t error_size)
{
    memset(config, 0, sizeof *config);
    struct parser parser = {.config = config};
    struct ini_handler handler = {.context = &parser, .section = on_section, .pair = on_pair};
    if (!ini_read(path, CONFIG_MAX_BYTES, &handler, error, error_size))
        return false;
    const char *rule = check_config(config);
    if (rule != NULL)
        snprintf(error, error_size, "%s: %s", path, rule);
    return rule == NULL;
}

const struct mig_profile *config_instance(const struct gpu_model *model, unsigned int instance_id, unsigned int *start)
{
    unsigned int next = 1;
    for (unsigned int i = 0; i < model->profile_count; i++) {
        const struct mig_profile *profile = &model->profiles[i];
        if (instance_id >= next && instance_id < next + profile->placement_count) {
            *start = profile->placements[instance_id - next];
            return profile;
        }
        next += profile->placement_count;
    }
    return NULL;
}

unsigned int config_instance_id(const struct gpu_model *model, const struct mig_profile *profile, unsigned int start)
{
    unsigned int placement = 0;
    for (unsigned int id = 1; id < CONFIG_INSTANCE_IDS; id++) {
        if (config_instance(model, id, &placement) == profile && placement == start)
            return id;
    }
    return 0;
}

/* As in NVIDIA's numbering, the first three minors belong to other capabilities. */
enum { FIRST_MINOR = 3, MINORS_OF_INSTANCE = 1 + CONFIG_MAX_COMPUTE_INSTANCES };

unsigned int config_capability_minor(unsigned int gpu_minor, unsigned int instance_id)
{
    return FIRST_MINOR + (gpu_minor * CONFIG_INSTANCE_IDS + instance_id) * MINORS_OF_INSTANCE;
}

unsigned int config_compute_minor(unsigned int gpu_minor, unsigned int instance_id, unsigned int compute_id,
                                  unsigned int generation)
{
    const unsigned int all = CONFIG_MAX_GPUS * CONFIG_INSTANCE_IDS * MINORS_OF_INSTANCE;
    _Static_assert(FIRST_MINOR + CONFIG_GENERATIONS * CONFIG_MAX_GPUS * CONFIG_INSTANCE_IDS * MINORS_OF_INSTANCE <
                       1 << 20,
                   "Linux has 20 bits for a minor number");
    return config_capability_minor(gpu_minor, instance_id) + 1 + compute_id + generation * all;
}

/* As NVIDIA's kernel module shows a capability. */
void config_capability_text(unsigned int minor, char text[CONFIG_TEXT * 2])
{
    snprintf(text, CONFIG_TEXT * 2, "DeviceFileMinor: %u\nDeviceFileMode: %d\nDeviceFileModify: 1\n", minor, 0444);
}
