/* gpu-probe flops and load: throughput of the multiprocessors that this process was granted. */
#include "clock.h"
#include "commands.h"
#include "signals.h"
#include "work.h"

#include <stdio.h>

enum {
    IN_FLIGHT = 4, /* launches queued at once: the GPU never waits for the host */
    WAVES = 4,     /* blocks that each place of a multiprocessor runs in one launch */
};

/* On 128 lanes at 2 GHz a launch of flops is about 17 ms long: its few microseconds of overhead do not count, and
   processes that share the GPU still take turns often. Others wait for a block to end before theirs can start, so the
   blocks of load are as long as those of a large matrix product, a tenth of a millisecond or so. */
static const struct shape of_flops = {.iterations = 2048, .waves = WAVES};
static const struct shape of_load = {.iterations = 64, .waves = WAVES};

struct queue {
    CUevent begin;
    CUevent done[IN_FLIGHT];
};

struct measurement {
    long launches;
    double seconds;
};

static bool create_events(struct queue *queue, struct failure *failure)
{
    for (int i = 0; i < IN_FLIGHT; i++) {
        if (!CUDA_OK(failure, cuEventCreate, &queue->done[i], CU_EVENT_BLOCKING_SYNC))
            return false;
    }
    return CUDA_OK(failure, cuEventCreate, &queue->begin, CU_EVENT_BLOCKING_SYNC);
}

/* At least one launch, and as many as the host can start in that time. */
static bool measure(struct work *work, struct queue *queue, double seconds, struct measurement *measurement,
                    struct failure *failure)
{
    const double deadline = clock_seconds() + seconds;
    float milliseconds = 0;
    CUevent last;
    measurement->launches = 0;
    if (!CUDA_OK(failure, cuEventRecord, queue->begin, NULL))
        return false;
    do {
        last = queue->done[measurement->launches % IN_FLIGHT];
        if ((measurement->launches >= IN_FLIGHT && !CUDA_OK(failure, cuEventSynchronize, last)) ||
            !work_launch(work, failure) || !CUDA_OK(failure, cuEventRecord, last, NULL))
            return false;
        measurement->launches++;
    } while (clock_seconds() < deadline && signals_deferred() == 0);
    if (!CUDA_OK(failure, cuEventSynchronize, last) ||
        !CUDA_OK(failure, cuEventElapsedTime, &milliseconds, queue->begin, last))
        return false;
    measurement->seconds = milliseconds / 1e3;
    return true;
}

static void print(const struct work *work, const struct context *context, int repeat,
                  const struct measurement *measurement)
{
    const double a_second = (double)measurement->launches / measurement->seconds;
    printf("{\"repeat\": %d, ", repeat);
    if (work_bytes(work) > 0)
        printf("\"gbytes_per_second\": %.3f, ", work_bytes(work) * a_second / 1e9);
    else
        printf("\"tflops\": %.4f, ", work_operations(work) * a_second / 1e12);
    context_print(context);
    printf(", \"seconds\": %.6f, \"launches\": %ld}\n", measurement->seconds, measurement->launches);
    fflush(stdout);
}

static bool repeat(const struct arguments *arguments, const struct context *context, struct work *work,
                   struct queue *queue, struct failure *failure)
{
    struct measurement measurement;
    if (arguments->warmup > 0 && !measure(work, queue, arguments->warmup, &measurement, failure))
        return false;
    for (int i = 1; i <= arguments->repeats && signals_deferred() == 0; i++) {
        if (!measure(work, queue, arguments->seconds, &measurement, failure))
            return false;
        if (signals_deferred() == 0)
            print(work, context, i, &measurement);
    }
    return true;
}

static enum exit_code run(const struct arguments *arguments, const struct shape *shape)
{
    struct context context;
    struct work work;
    struct queue queue;
    struct failure failure;
    if (!work_open(&work, &context, arguments, shape, &failure) || !create_events(&queue, &failure))
        return work_report(&failure);
    /* Kernels in flight are waited for: under MPS a client that dies with work can disturb the others. */
    signals_defer(true);
    if (!repeat(arguments, &context, &work, &queue, &failure))
        return work_report(&failure);
    return signals_deferred() == 0 ? EXIT_DONE : EXIT_SIGNALLED + signals_deferred();
}

enum exit_code run_flops(const struct arguments *arguments)
{
    return run(arguments, &of_flops);
}

enum exit_code run_load(const struct arguments *arguments)
{
    return run(arguments, &of_load);
}
