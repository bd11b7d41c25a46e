/* gpu-probe info: which GPUs this process was given. */
#include "commands.h"
#include "context.h"
#include "probe.h"

static bool print_context(int ordinal, struct failure *failure)
{
    struct context context;
    struct memory memory;
    if (!context_open(&context, ordinal, failure) || !context_memory(&memory, failure))
        return false;
    putchar('{');
    context_print(&context);
    fputs(", ", stdout);
    memory_print(&memory);
    puts("}");
    fflush(stdout);
    return true;
}

static enum exit_code print_contexts(void)
{
    struct failure failure;
    int count = 0;
    if (!cuda_open(&failure) || !CUDA_OK(&failure, cuInit, 0) || !CUDA_OK(&failure, cuDeviceGetCount, &count))
        return failure_report(&failure);
    for (int i = 0; i < count; i++) {
        if (!print_context(i, &failure))
            return failure_report(&failure);
    }
    return EXIT_DONE;
}

enum exit_code info_print(const struct arguments *arguments)
{
    static struct probe probe;
    static const struct failure no_gpu = {.error = "no GPU", .exit_code = EXIT_NO_GPU};
    probe_libraries(&probe);
    probe_print(&probe, stdout);
    return arguments->require_gpu && probe.gpu_count == 0 ? failure_report(&no_gpu) : EXIT_DONE;
}

enum exit_code run_info(const struct arguments *arguments)
{
    enum exit_code code = info_print(arguments);
    return code == EXIT_DONE && arguments->context ? print_contexts() : code;
}
