#include "json.h"
#include "probe.h"

#include <dlfcn.h>
#include <glob.h>
#include <limits.h>
#include <string.h>
#include <unistd.h>

extern char **environ;

void *probe_open(const char *name, char *error, size_t error_size)
{
    static const char *const folders[] = {"", "/usr/lib/x86_64-linux-gnu/", "/usr/lib64/"};
    char path[256];
    for (size_t i = 0; i < sizeof folders / sizeof folders[0]; i++) {
        snprintf(path, sizeof path, "%s%s", folders[i], name);
        void *library = dlopen(path, RTLD_NOW);
        if (library != NULL)
            return library;
        /* The plain name's message says what the loader lacks; later ones only name a file that is not there. */
        if (i == 0)
            snprintf(error, error_size, "%s", dlerror());
        else if (access(path, F_OK) == 0)
            snprintf(error, error_size, "%s", dlerror());
    }
    return NULL;
}

static void print_gpu(FILE *file, const struct probe_gpu *gpu)
{
    fprintf(file, "{\"index\": %u, \"uuid\": ", gpu->index);
    json_string(file, gpu->uuid);
    fputs(", \"name\": ", file);
    json_string(file, gpu->name);
    fprintf(file, ", \"memory_mib\": %llu, \"multiprocessors\": ", gpu->memory_mib);
    if (gpu->multiprocessors < 0)
        fputs("null", file);
    else
        fprintf(file, "%d", gpu->multiprocessors);
    fputs(", \"pci_bus_id\": ", file);
    json_string(file, gpu->pci_bus_id);
    fprintf(file, ", \"mig\": %s}", gpu->mig ? "true" : "false");
}

static void print_environment(FILE *file)
{
    const char *separator = "";
    fputs("{", file);
    for (char **variable = environ; *variable != NULL; variable++) {
        const char *equals = strchr(*variable, '=');
        char name[256];
        if (equals == NULL || (strncmp(*variable, "NVIDIA_", 7) != 0 && strncmp(*variable, "CUDA_", 5) != 0))
            continue;
        snprintf(name, sizeof name, "%.*s", (int)(equals - *variable), *variable);
        fputs(separator, file);
        json_string(file, name);
        fputs(": ", file);
        json_string(file, equals + 1);
        separator = ", ";
    }
    fputs("}", file);
}

static void print_device_nodes(FILE *file)
{
    glob_t nodes;
    fputs("[", file);
    if (glob("/dev/nvidia*", 0, NULL, &nodes) == 0) {
        for (size_t i = 0; i < nodes.gl_pathc; i++) {
            fputs(i == 0 ? "" : ", ", file);
            json_string(file, nodes.gl_pathv[i]);
        }
        globfree(&nodes);
    }
    fputs("]", file);
}

static void print_text_or_null(FILE *file, const char *text)
{
    if (*text == '\0')
        fputs("null", file);
    else
        json_string(file, text);
}

void probe_print(const struct probe *probe, FILE *file)
{
    char hostname[HOST_NAME_MAX + 1] = "";
    gethostname(hostname, sizeof hostname - 1);
    fprintf(file, "{\"simulated\": %s, \"hostname\": ", probe->simulated ? "true" : "false");
    json_string(file, hostname);
    fputs(", \"driver_version\": ", file);
    print_text_or_null(file, probe->driver_version);
    fputs(", \"gpus\": [", file);
    for (unsigned int i = 0; i < probe->gpu_count; i++) {
        fputs(i == 0 ? "" : ", ", file);
        print_gpu(file, &probe->gpus[i]);
    }
    fputs("], \"environment\": ", file);
    print_environment(file);
    fputs(", \"device_nodes\": ", file);
    print_device_nodes(file);
    fputs(", \"nvml_error\": ", file);
    print_text_or_null(file, probe->nvml_error);
    fputs(", \"cuda_error\": ", file);
    print_text_or_null(file, probe->cuda_error);
    fputs("}\n", file);
    fflush(file);
}
