#include "smi.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

static const char usage[] =
    "nvidia-smi (simulated): shows the GPUs of images/gpu-sim's libnvidia-ml; no hardware is involved.\n"
    "\n"
    "nvidia-smi [-i ID[,ID...]]                       table of GPUs\n"
    "nvidia-smi [-i ID] -L | --list-gpus              one line a GPU and MIG device\n"
    "nvidia-smi [-i ID] -q | --query                  what is known of each GPU and MIG device\n"
    "nvidia-smi [-i ID] --query-gpu=FIELD[,FIELD...] --format=csv[,noheader][,nounits]\n"
    "nvidia-smi [-i ID] -c | --compute-mode MODE      0/DEFAULT, 2/PROHIBITED, 3/EXCLUSIVE_PROCESS\n"
    "nvidia-smi [-i ID] -pm | --persistence-mode MODE 0/DISABLED, 1/ENABLED\n"
    "nvidia-smi [-i ID] -mig | --multi-instance-gpu MODE 0/DISABLED, 1/ENABLED; on Ampere it holds after a reset\n"
    "nvidia-smi [-i ID] -r | --gpu-reset              makes a pending MIG mode current; destroys MIG devices\n"
    "nvidia-smi mig -h                                GPU instances and compute instances\n"
    "nvidia-smi compute-policy [-i ID] --set-timeslice 0..3\n"
    "nvidia-smi --version | -h | --help\n"
    "\n"
    "ID is an index, a UUID or a PCI bus ID. Exit codes are NVIDIA's: 0 success, 2 invalid argument,\n"
    "6 no such device, 9 driver not loaded, 12 library not found.\n";

struct options {
    const char *ids;
    const char *query;
    const char *format;
    const char *compute_mode;
    const char *persistence_mode;
    const char *timeslice;
    const char *mig_mode;
    bool compute_policy;
    bool reset;
    bool list;
    bool detail;
    bool version;
    bool help;
};

struct value_option {
    const char *short_name; /* NULL: none */
    const char *long_name;
    size_t offset;
};

static const struct value_option value_options[] = {
    {"-i", "--id", offsetof(struct options, ids)},
    {NULL, "--query-gpu", offsetof(struct options, query)},
    {NULL, "--format", offsetof(struct options, format)},
    {"-c", "--compute-mode", offsetof(struct options, compute_mode)},
    {"-pm", "--persistence-mode", offsetof(struct options, persistence_mode)},
    {NULL, "--set-timeslice", offsetof(struct options, timeslice)},
    {"-mig", "--multi-instance-gpu", offsetof(struct options, mig_mode)},
};

/* Takes "--name=value", "--name value" or "-n value"; false if the argument is none of these. */
static bool take_value(struct options *options, int count, char **arguments, int *position)
{
    const char *argument = arguments[*position];
    for (size_t i = 0; i < sizeof value_options / sizeof value_options[0]; i++) {
        const struct value_option *option = &value_options[i];
        const char **target = (const char **)(void *)((char *)options + option->offset);
        size_t length = strlen(option->long_name);
        if (strncmp(argument, option->long_name, length) == 0 && argument[length] == '=') {
            *target = argument + length + 1;
            return **target != '\0';
        }
        if (strcmp(argument, option->long_name) == 0 ||
            (option->short_name != NULL && strcmp(argument, option->short_name) == 0)) {
            *target = ++*position < count ? arguments[*position] : NULL;
            return *target != NULL;
        }
    }
    return false;
}

static bool take_flag(struct options *options, const char *argument)
{
    if (strcmp(argument, "-L") == 0 || strcmp(argument, "--list-gpus") == 0)
        return options->list = true;
    if (strcmp(argument, "-q") == 0 || strcmp(argument, "--query") == 0)
        return options->detail = true;
    if (strcmp(argument, "-r") == 0 || strcmp(argument, "--gpu-reset") == 0)
        return options->reset = true;
    if (strcmp(argument, "--version") == 0)
        return options->version = true;
    if (strcmp(argument, "-h") == 0 || strcmp(argument, "--help") == 0)
        return options->help = true;
    return false;
}

static int parse(struct options *options, int count, char **arguments)
{
    int position = 1;
    if (count > 1 && strcmp(arguments[1], "compute-policy") == 0) {
        options->compute_policy = true;
        position = 2;
    }
    for (; position < count; position++) {
        if (take_flag(options, arguments[position]) || take_value(options, count, arguments, &position))
            continue;
        const char *wrong = position < count ? arguments[position] : arguments[count - 1];
        printf("Invalid combination of input arguments: \"%s\". Please run 'nvidia-smi -h' for help.\n", wrong);
        return SMI_INVALID_ARGUMENT;
    }
    if (options->compute_policy == (options->timeslice != NULL) || options->help)
        return SMI_SUCCESS;
    puts("Invalid combination of input arguments: compute-policy and --set-timeslice go together.");
    return SMI_INVALID_ARGUMENT;
}

/* The number behind a mode's number or name; -1 for neither. */
static int mode_number(const char *text, const char *const *names, int count)
{
    char *end;
    long number = strtol(text, &end, 10);
    if (*text != '\0' && *end == '\0')
        return number >= 0 && number < count && names[number] != NULL ? (int)number : -1;
    for (int i = 0; i < count; i++) {
        if (names[i] != NULL && strcmp(names[i], text) == 0)
            return i;
    }
    return -1;
}

static int report(struct smi *smi, nvmlDevice_t device, nvmlReturn_t result, const char *what, const char *value)
{
    nvmlPciInfo_t pci = {.busId = ""};
    smi->pci(device, &pci);
    if (result != NVML_SUCCESS) {
        printf("Unable to set %s for GPU %s: %s\n", what, pci.busId, smi->error_string(result));
        return (int)result;
    }
    printf("Set %s to %s for GPU %s (simulated).\n", what, value, pci.busId);
    return SMI_SUCCESS;
}

typedef nvmlReturn_t (*setter)(struct smi *smi, nvmlDevice_t device, int number);

static nvmlReturn_t set_compute_mode(struct smi *smi, nvmlDevice_t device, int number)
{
    return smi->set_compute_mode(device, (nvmlComputeMode_t)number);
}

static nvmlReturn_t set_persistence_mode(struct smi *smi, nvmlDevice_t device, int number)
{
    return smi->set_persistence_mode(device, (nvmlEnableState_t)number);
}

static nvmlReturn_t set_timeslice(struct smi *smi, nvmlDevice_t device, int number)
{
    return smi->set_timeslice(device, (unsigned int)number);
}

static int set_all(struct smi *smi, const char *what, const char *value, const char *const *names, int name_count,
                   setter set)
{
    int number = mode_number(value, names, name_count);
    if (number < 0) {
        printf("\"%s\" is not a valid %s.\n", value, what);
        return SMI_INVALID_ARGUMENT;
    }
    for (unsigned int i = 0; i < smi->device_count; i++) {
        nvmlReturn_t result = set(smi, smi->devices[i], number);
        int code = report(smi, smi->devices[i], result, what, names[number]);
        if (code != SMI_SUCCESS)
            return code;
    }
    puts("All done.");
    return SMI_SUCCESS;
}

static const char *bus_id(struct smi *smi, nvmlDevice_t device)
{
    static nvmlPciInfo_t pci;
    pci = (nvmlPciInfo_t){.busId = ""};
    smi->pci(device, &pci);
    return pci.busId;
}

/* Texts as NVIDIA's MIG User Guide and public logs have them. */
static int set_mig_mode(struct smi *smi, const char *value)
{
    static const char *const modes[] = {"DISABLED", "ENABLED"};
    int mode = mode_number(value, modes, 2);
    if (mode < 0) {
        printf("\"%s\" is not a valid MIG mode.\n", value);
        return SMI_INVALID_ARGUMENT;
    }
    const char *verb = mode == 1 ? "enable" : "disable";
    for (unsigned int i = 0; i < smi->device_count; i++) {
        const char *id = bus_id(smi, smi->devices[i]);
        nvmlReturn_t activation = NVML_SUCCESS;
        nvmlReturn_t result = smi->set_mig_mode(smi->devices[i], (unsigned int)mode, &activation);
        if (result != NVML_SUCCESS) {
            printf("Unable to %s MIG Mode for GPU %s: %s\n", verb, id, smi->error_string(result));
            return (int)result;
        }
        if (activation != NVML_SUCCESS)
            printf("Warning: MIG mode is in pending %s state for GPU %s:%s\n"
                   "Reboot the system or try nvidia-smi --gpu-reset to make MIG mode effective on GPU %s\n",
                   verb, id, smi->error_string(activation), id);
        else
            printf("%s MIG Mode for GPU %s\n", mode == 1 ? "Enabled" : "Disabled", id);
    }
    puts("All done.");
    return SMI_SUCCESS;
}

static int reset_all(struct smi *smi)
{
    for (unsigned int i = 0; i < smi->device_count; i++) {
        nvmlReturn_t result = smi->reset(smi->devices[i]);
        const char *id = bus_id(smi, smi->devices[i]);
        if (result != NVML_SUCCESS) {
            printf("Unable to reset GPU %s: %s\n", id, smi->error_string(result));
            return (int)result;
        }
        printf("GPU %s was successfully reset.\n", id);
    }
    puts("All done.");
    return SMI_SUCCESS;
}

static int run(struct smi *smi, const struct options *options)
{
    static const char *const compute_modes[] = {"DEFAULT", NULL, "PROHIBITED", "EXCLUSIVE_PROCESS"};
    static const char *const persistence_modes[] = {"DISABLED", "ENABLED"};
    static const char *const timeslices[] = {"DEFAULT", "SHORT", "MEDIUM", "LONG"};
    if (options->compute_mode != NULL)
        return set_all(smi, "compute mode", options->compute_mode, compute_modes, 4, set_compute_mode);
    if (options->persistence_mode != NULL)
        return set_all(smi, "persistence mode", options->persistence_mode, persistence_modes, 2, set_persistence_mode);
    if (options->timeslice != NULL)
        return set_all(smi, "timeslice", options->timeslice, timeslices, 4, set_timeslice);
    if (options->mig_mode != NULL)
        return set_mig_mode(smi, options->mig_mode);
    if (options->reset)
        return reset_all(smi);
    if (options->query != NULL)
        return smi_query(smi, options->query, options->format);
    if (options->detail)
        return smi_detail(smi);
    return options->list ? smi_list(smi) : smi_table(smi);
}

int main(int count, char **arguments)
{
    struct options options = {0};
    struct smi smi = {0};
    if (count > 1 && strcmp(arguments[1], "mig") == 0)
        return smi_mig(&smi, count - 2, arguments + 2);
    int code = parse(&options, count, arguments);
    if (code != SMI_SUCCESS)
        return code;
    if (options.help) {
        fputs(usage, stdout);
        return SMI_SUCCESS;
    }
    code = smi_open(&smi);
    if (code != SMI_SUCCESS)
        return code;
    if (options.version)
        return smi_version(&smi);
    code = smi_select(&smi, options.ids);
    return code == SMI_SUCCESS ? run(&smi, &options) : code;
}
