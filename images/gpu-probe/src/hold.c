/* gpu-probe hold: keeps a GPU, and on demand memory of it, until it is told to stop or its context breaks. */
#include "clock.h"
#include "commands.h"
#include "context.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const double check_seconds = 0.5;

static bool take(const struct arguments *arguments, struct context *context, struct failure *failure)
{
    struct memory memory;
    CUdeviceptr pointer;
    if (!context_open(context, arguments->device, failure) ||
        (arguments->alloc_bytes != 0 && !CUDA_OK(failure, cuMemAlloc, &pointer, arguments->alloc_bytes)) ||
        !context_memory(&memory, failure))
        return false;
    printf("{\"holding\": true, \"pid\": %d, \"uid\": %u, ", (int)getpid(), (unsigned int)getuid());
    context_print(context);
    printf(", \"allocated_bytes\": %llu, ", arguments->alloc_bytes);
    memory_print(&memory);
    puts("}");
    fflush(stdout);
    return true;
}

/* Fills memory, since the kernel gives a page only to who writes to it. It is kept until the process ends. */
static bool fill_host(unsigned long long bytes, struct failure *failure)
{
    void *memory = malloc(bytes);
    if (memory == NULL) {
        snprintf(failure->error, sizeof failure->error, "the machine gives no %llu bytes of its memory", bytes);
        failure->call = NULL;
        failure->exit_code = EXIT_OUT_OF_MEMORY;
        return false;
    }
    memset(memory, 1, bytes);
    /* The compiler may not leave out what nobody reads. */
    __asm__ volatile("" : : "r"(memory) : "memory");
    return true;
}

/* A signal ends the process itself, so this returns only at the deadline or with a broken context. */
static bool wait_until(double deadline, bool has_context, struct failure *failure)
{
    const double step = has_context ? check_seconds : 3600;
    for (double rest = deadline - clock_seconds(); rest > 0; rest = deadline - clock_seconds()) {
        clock_sleep(rest < step ? rest : step);
        if (has_context && !context_check(failure))
            return false;
    }
    return true;
}

enum exit_code run_hold(const struct arguments *arguments)
{
    const bool has_context = arguments->watch || arguments->alloc_bytes != 0;
    const double deadline = arguments->seconds > 0 ? clock_seconds() + arguments->seconds : INFINITY;
    struct context context;
    struct failure failure;
    enum exit_code code = info_print(arguments);
    if (code != EXIT_DONE)
        return code;
    if ((has_context && !take(arguments, &context, &failure)) ||
        (arguments->host_bytes != 0 && !fill_host(arguments->host_bytes, &failure)))
        return failure_report(&failure);
    if (wait_until(deadline, has_context, &failure))
        return EXIT_DONE;
    /* The driver's exit handlers may wait for a daemon that has gone, and the system frees everything anyway. */
    _exit(failure_report(&failure));
}
