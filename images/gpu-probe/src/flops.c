/* gpu-probe flops: FP32 throughput of the multiprocessors that this process was granted. */
#include "clock.h"
#include "commands.h"
#include "context.h"
#include "kernel.h"
#include "signals.h"

#include <stdio.h>

enum {
    IN_FLIGHT = 4, /* launches queued at once: the GPU never waits for the host */
    WAVES = 4,     /* blocks that each place of a multiprocessor runs in one launch */
    /* On 128 lanes at 2 GHz a launch is then about 17 ms long: its few microseconds of overhead do not count, and
       processes that share the GPU still take turns often. */
    ITERATIONS = 2048,
};

struct work {
    CUfunction function;
    CUdeviceptr result;
    unsigned int blocks;
    CUevent begin;
    CUevent done[IN_FLIGHT];
};

struct measurement {
    long launches;
    double seconds;
};

static bool create_events(struct work *work, struct failure *failure)
{
    for (int i = 0; i < IN_FLIGHT; i++) {
        if (!CUDA_OK(failure, cuEventCreate, &work->done[i], CU_EVENT_BLOCKING_SYNC))
            return false;
    }
    return CUDA_OK(failure, cuEventCreate, &work->begin, CU_EVENT_BLOCKING_SYNC);
}

/* A whole multiple of what fits at once, so that no multiprocessor is idle while others finish. */
static bool prepare(struct work *work, const struct context *context, struct failure *failure)
{
    CUmodule module;
    int resident = 0;
    if (!CUDA_OK(failure, cuModuleLoadData, &module, kernel_ptx) ||
        !CUDA_OK(failure, cuModuleGetFunction, &work->function, module, kernel_name) ||
        !CUDA_OK(failure, cuOccupancyMaxActiveBlocksPerMultiprocessor, &resident, work->function, KERNEL_THREADS, 0) ||
        !CUDA_OK(failure, cuMemAlloc, &work->result, sizeof(float)))
        return false;
    work->blocks = (unsigned int)(context->sms * resident * WAVES);
    return create_events(work, failure);
}

static bool launch(struct work *work, CUevent done, struct failure *failure)
{
    unsigned int iterations = ITERATIONS;
    void *parameters[] = {&work->result, &iterations};
    return CUDA_OK(failure, cuLaunchKernel, work->function, work->blocks, 1, 1, KERNEL_THREADS, 1, 1, 0, NULL,
                   parameters, NULL) &&
           CUDA_OK(failure, cuEventRecord, done, NULL);
}

/* At least one launch, and as many as the host can start in that time. */
static bool measure(struct work *work, double seconds, struct measurement *measurement, struct failure *failure)
{
    const double deadline = clock_seconds() + seconds;
    float milliseconds = 0;
    CUevent last;
    measurement->launches = 0;
    if (!CUDA_OK(failure, cuEventRecord, work->begin, NULL))
        return false;
    do {
        last = work->done[measurement->launches % IN_FLIGHT];
        if ((measurement->launches >= IN_FLIGHT && !CUDA_OK(failure, cuEventSynchronize, last)) ||
            !launch(work, last, failure))
            return false;
        measurement->launches++;
    } while (clock_seconds() < deadline && signals_deferred() == 0);
    if (!CUDA_OK(failure, cuEventSynchronize, last) ||
        !CUDA_OK(failure, cuEventElapsedTime, &milliseconds, work->begin, last))
        return false;
    measurement->seconds = milliseconds / 1e3;
    return true;
}

static void print(const struct work *work, const struct context *context, int repeat,
                  const struct measurement *measurement)
{
    /* Two operations an FMA. */
    const double operations = 2.0 * KERNEL_FMAS * ITERATIONS * KERNEL_THREADS * work->blocks;
    printf("{\"repeat\": %d, \"tflops\": %.4f, ", repeat,
           operations * (double)measurement->launches / measurement->seconds / 1e12);
    context_print(context);
    printf(", \"seconds\": %.6f, \"launches\": %ld}\n", measurement->seconds, measurement->launches);
    fflush(stdout);
}

static bool repeat(const struct arguments *arguments, const struct context *context, struct work *work,
                   struct failure *failure)
{
    struct measurement measurement;
    if (arguments->warmup > 0 && !measure(work, arguments->warmup, &measurement, failure))
        return false;
    for (int i = 1; i <= arguments->repeats && signals_deferred() == 0; i++) {
        if (!measure(work, arguments->seconds, &measurement, failure))
            return false;
        if (signals_deferred() == 0)
            print(work, context, i, &measurement);
    }
    return true;
}

/* A simulation has devices and memory but runs no kernels, and a number from one would mean nothing. */
static enum exit_code refuse(struct failure *failure)
{
    snprintf(failure->error, sizeof failure->error, "needs a real GPU");
    failure->exit_code = EXIT_SIMULATED;
    return failure_report(failure);
}

static enum exit_code report(struct failure *failure)
{
    return failure->code == CUDA_ERROR_NOT_SUPPORTED ? refuse(failure) : failure_report(failure);
}

enum exit_code run_flops(const struct arguments *arguments)
{
    struct context context;
    struct work work;
    struct failure failure;
    if (!cuda_open(&failure))
        return failure_report(&failure);
    if (cuda_is_simulated())
        return refuse(&failure);
    if (!cuda_find_kernel_functions(&failure) || !context_open(&context, arguments->device, &failure))
        return failure_report(&failure);
    if (!prepare(&work, &context, &failure))
        return report(&failure);
    /* Kernels in flight are waited for: under MPS a client that dies with work can disturb the others. */
    signals_defer(true);
    if (!repeat(arguments, &context, &work, &failure))
        return report(&failure);
    return signals_deferred() == 0 ? EXIT_DONE : EXIT_SIGNALLED + signals_deferred();
}
