/* nvidia-smi mig: its options. What it says with MIG off and to an unknown option was measured on an H100 with driver
   580.159.04. */
#include "smi_mig.h"

#include <string.h>

struct action {
    const char *short_name, *long_name;
    int (*run)(const struct mig_request *request);
    bool with_mig_off;
    bool takes_profiles, needs_profiles;
};

static const struct action actions[] = {
    {"-lgip", "--list-gpu-instance-profiles", mig_list_profiles, true, false, false},
    {"-lgipp", "--list-gpu-instance-possible-placements", mig_list_placements, true, false, false},
    {"-lgi", "--list-gpu-instances", mig_list_instances, false, false, false},
    {"-lcip", "--list-compute-instance-profiles", mig_list_compute_profiles, false, false, false},
    {"-lci", "--list-compute-instances", mig_list_compute, false, false, false},
    {"-cgi", "--create-gpu-instance", mig_create_instances, false, true, true},
    {"-cci", "--create-compute-instance", mig_create_compute, false, true, false},
    {"-dgi", "--destroy-gpu-instance", mig_destroy_instances, false, false, false},
    {"-dci", "--destroy-compute-instance", mig_destroy_compute, false, false, false},
};

static const char usage[] =
    "nvidia-smi mig (simulated) [-i ID[,ID...]] [-gi ID[,ID...]] [-ci ID[,ID...]] ACTION\n"
    "    -lgip | -lgipp                 profiles of GPU instances | their possible placements\n"
    "    -lgi | -lcip | -lci            GPU instances | profiles of compute instances | compute instances\n"
    "    -cgi PROFILE[:START][,...] [-C] create GPU instances, with -C each with its default compute instance\n"
    "    -cci [PROFILE[,...]]           create compute instances, of the default profile if none is given\n"
    "    -dgi | -dci                    destroy GPU instances | compute instances\n"
    "PROFILE is a name or an ID.\n";

static bool is(const char *argument, const char *short_name, const char *long_name)
{
    return strcmp(argument, short_name) == 0 || strcmp(argument, long_name) == 0;
}

/* The value behind an option; NULL if there is none. */
static const char *value(int count, char **arguments, int *position)
{
    return *position + 1 < count && arguments[*position + 1][0] != '-' ? arguments[++*position] : NULL;
}

static const struct action *find_action(struct mig_request *request, int count, char **arguments, int *position)
{
    for (size_t i = 0; i < sizeof actions / sizeof actions[0]; i++) {
        if (!is(arguments[*position], actions[i].short_name, actions[i].long_name))
            continue;
        if (actions[i].takes_profiles)
            request->profiles = value(count, arguments, position);
        return actions[i].needs_profiles && request->profiles == NULL ? NULL : &actions[i];
    }
    return NULL;
}

/* NULL, and said why, if they make no sense. */
static const struct action *parse(struct mig_request *request, int count, char **arguments)
{
    const struct action *action = NULL;
    for (int i = 0; i < count; i++) {
        const char *argument = arguments[i], **target = NULL;
        if (is(argument, "-i", "--id"))
            target = &request->ids;
        else if (is(argument, "-gi", "--gpu-instance-id"))
            target = &request->instances;
        else if (is(argument, "-ci", "--compute-instance-id"))
            target = &request->compute;
        bool known = true;
        if (target != NULL)
            known = (*target = value(count, arguments, &i)) != NULL;
        else if (is(argument, "-C", "--default-compute-instance"))
            request->with_compute = true;
        else
            known = (action = find_action(request, count, arguments, &i)) != NULL;
        if (!known) {
            printf("Option \"%s\" is not recognized.\n", argument);
            return NULL;
        }
    }
    if (action == NULL)
        fputs(usage, stdout);
    return action;
}

static bool any_mig(struct smi *smi)
{
    for (unsigned int i = 0; i < smi->device_count; i++) {
        if (mig_is_on(smi, smi->devices[i]))
            return true;
    }
    return false;
}

int smi_mig(struct smi *smi, int count, char **arguments)
{
    struct mig_request request = {.smi = smi};
    if (count == 1 && is(arguments[0], "-h", "--help")) {
        fputs(usage, stdout);
        return SMI_SUCCESS;
    }
    const struct action *action = parse(&request, count, arguments);
    if (action == NULL)
        return SMI_INVALID_ARGUMENT;
    int code = smi_open(smi);
    if (code == SMI_SUCCESS)
        code = smi_select(smi, request.ids);
    if (code != SMI_SUCCESS)
        return code;
    if (action->with_mig_off || any_mig(smi))
        return action->run(&request);
    puts("No MIG-enabled devices found.");
    return SMI_SUCCESS;
}
