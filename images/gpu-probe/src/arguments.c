#include "arguments.h"

#include "values.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct option {
    int bit;
    const char *name;
    const char *value; /* NULL: takes none */
    const char *rule;  /* for the value */
};

static const struct option options[] = {
    {OPTION_REQUIRE_GPU, "--require-gpu", NULL, NULL},
    {OPTION_CONTEXT, "--context", NULL, NULL},
    {OPTION_WATCH, "--watch", NULL, NULL},
    {OPTION_ALLOC, "--alloc", "SIZE", "must be a whole number with Mi or Gi (M, G are the same), such as 512Mi"},
    {OPTION_COPY, "--copy", "SIZE", "must be a whole number with Mi or Gi (M, G are the same), at most 16Gi, such as 64Mi"},
    {OPTION_HOST, "--host", "SIZE", "must be a whole number with Mi or Gi (M, G are the same), such as 512Mi"},
    {OPTION_DEVICE, "--device", "ORDINAL", "must be a whole number from 0"},
    {OPTION_REPEATS, "--repeats", "N", "must be a whole number from 1"},
    {OPTION_WARMUP, "--warmup", "SECONDS", "must be a number from 0, such as 0.5"},
    {OPTION_SETENV, "--setenv", "NAME=VALUE", "must have a name before the ="},
};

enum { OPTION_COUNT = sizeof options / sizeof options[0] };

static const char *const operand_names[] = {
    [OPERANDS_NONE] = "no operands",
    [OPERANDS_SECONDS] = "SECONDS, a number above 0 such as 2 or 0.5",
    [OPERANDS_OPTIONAL_SECONDS] = "SECONDS, a number from 0 such as 60",
    [OPERANDS_SIZES] = "SIZE..., at most 64 whole numbers with Mi or Gi (M and G mean the same) such as 512Mi",
};

static bool unexpected(const char *command, const char *text, int allowed, enum operands operands)
{
    fprintf(stderr, "gpu-probe %s: unexpected \"%s\"; allowed: %s", command, text, operand_names[operands]);
    for (size_t i = 0; i < OPTION_COUNT; i++) {
        const struct option *option = &options[i];
        if (allowed & option->bit)
            fprintf(stderr, ", %s%s%s", option->name, option->value == NULL ? "" : " ",
                    option->value == NULL ? "" : option->value);
    }
    fputs(", --help\n", stderr);
    return false;
}

/* What any program can do to itself before its first CUDA call, whatever its container's specification says. */
static bool set_environment(const char *text)
{
    char name[128];
    size_t length = strcspn(text, "=");
    if (length == 0 || length >= sizeof name || text[length] == '\0')
        return false;
    memcpy(name, text, length);
    name[length] = '\0';
    return setenv(name, text + length + 1, 1) == 0;
}

static bool set(struct arguments *arguments, const struct option *option, const char *value)
{
    switch (option->bit) {
    case OPTION_REQUIRE_GPU: arguments->require_gpu = true; return true;
    case OPTION_CONTEXT: arguments->context = true; return true;
    case OPTION_WATCH: arguments->watch = true; return true;
    case OPTION_ALLOC: return value_size(value, &arguments->alloc_bytes);
    case OPTION_COPY: return value_size(value, &arguments->copy_bytes) && arguments->copy_bytes <= MAX_COPY_BYTES;
    case OPTION_HOST: return value_size(value, &arguments->host_bytes);
    case OPTION_DEVICE: return value_number(value, 0, &arguments->device);
    case OPTION_REPEATS: return value_number(value, 1, &arguments->repeats);
    case OPTION_WARMUP: return value_seconds(value, &arguments->warmup);
    case OPTION_SETENV: return set_environment(value);
    default: return false;
    }
}

static const struct option *find(const char *text, int allowed)
{
    for (size_t i = 0; i < OPTION_COUNT; i++) {
        if ((allowed & options[i].bit) && strcmp(text, options[i].name) == 0)
            return &options[i];
    }
    return NULL;
}

static bool take_option(struct arguments *arguments, const char *command, const struct option *option,
                        const char *value)
{
    if (option->value != NULL && value == NULL)
        fprintf(stderr, "gpu-probe %s: %s lacks its %s; see gpu-probe %s --help\n", command, option->name,
                option->value, command);
    else if (!set(arguments, option, value))
        fprintf(stderr, "gpu-probe %s: %s \"%s\" %s; see gpu-probe %s --help\n", command, option->name, value,
                option->rule, command);
    else
        return true;
    return false;
}

static bool take_operand(struct arguments *arguments, enum operands operands, const char *text)
{
    switch (operands) {
    case OPERANDS_SIZES:
        return arguments->size_count < MAX_SIZES && value_size(text, &arguments->sizes[arguments->size_count++]);
    case OPERANDS_SECONDS:
    case OPERANDS_OPTIONAL_SECONDS:
        if (arguments->has_seconds)
            return false;
        arguments->has_seconds = true;
        return value_seconds(text, &arguments->seconds) && (operands != OPERANDS_SECONDS || arguments->seconds > 0);
    default: return false;
    }
}

static bool is_complete(const struct arguments *arguments, const char *command, enum operands operands)
{
    if ((operands == OPERANDS_SECONDS && !arguments->has_seconds) ||
        (operands == OPERANDS_SIZES && arguments->size_count == 0)) {
        fprintf(stderr, "gpu-probe %s: lacks %s; see gpu-probe %s --help\n", command, operand_names[operands], command);
        return false;
    }
    return true;
}

bool arguments_parse(struct arguments *arguments, const char *command, int allowed, enum operands operands, int count,
                     char **texts)
{
    *arguments = (struct arguments){.repeats = 1, .warmup = 1};
    for (int i = 0; i < count; i++) {
        const struct option *option = find(texts[i], allowed);
        if (strcmp(texts[i], "--help") == 0 || strcmp(texts[i], "-h") == 0) {
            arguments->help = true;
            return true;
        }
        if (option == NULL && !take_operand(arguments, operands, texts[i]))
            return unexpected(command, texts[i], allowed, operands);
        if (option != NULL) {
            const char *value = option->value != NULL && i + 1 < count ? texts[++i] : NULL;
            if (!take_option(arguments, command, option, value))
                return false;
        }
    }
    return is_complete(arguments, command, operands);
}
