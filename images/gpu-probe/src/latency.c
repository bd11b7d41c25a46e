/* gpu-probe latency: how long a small kernel takes from its launch until the process knows that it has ended. */
#include "clock.h"
#include "commands.h"
#include "signals.h"
#include "work.h"

#include <stdio.h>
#include <stdlib.h>

/* 2^24 multiply-adds, as many as a product of two matrices of 256 x 256 has. */
static const struct shape small = {.iterations = 8, .blocks = 32};

/* Upper bounds of the histogram in microseconds; the last bucket has none. */
static const double bounds[] = {5,    10,   20,   50,    100,   200,   500,    1000,
                                2000, 5000, 1e4,  2e4,   5e4,   1e5,   1e6};
enum { BOUND_COUNT = sizeof bounds / sizeof bounds[0] };

struct samples {
    float *microseconds;
    size_t count;
    size_t capacity;
};

static bool add(struct samples *samples, double seconds, struct failure *failure)
{
    if (samples->count == samples->capacity) {
        size_t capacity = samples->capacity == 0 ? 1 << 16 : 2 * samples->capacity;
        float *grown = realloc(samples->microseconds, capacity * sizeof *grown);
        if (grown == NULL) {
            *failure = (struct failure){.exit_code = EXIT_OUT_OF_MEMORY};
            snprintf(failure->error, sizeof failure->error, "no memory for %zu samples; measure fewer seconds",
                     capacity);
            return false;
        }
        samples->microseconds = grown;
        samples->capacity = capacity;
    }
    samples->microseconds[samples->count++] = (float)(1e6 * seconds);
    return true;
}

/* At least one sample. */
static bool measure(struct work *work, double seconds, struct samples *samples, struct failure *failure)
{
    const double begin = clock_seconds();
    double now = begin;
    samples->count = 0;
    do {
        const double before = now;
        if (!work_launch(work, failure) || !context_check(failure))
            return false;
        now = clock_seconds();
        if (!add(samples, now - before, failure))
            return false;
    } while (now - begin < seconds && signals_deferred() == 0);
    return true;
}

static int compare(const void *left, const void *right)
{
    const float a = *(const float *)left, b = *(const float *)right;
    return (a > b) - (a < b);
}

/* The smallest sample that is not below so many of a hundred: nearest rank. */
static double percentile(const struct samples *samples, size_t percent)
{
    return samples->microseconds[(percent * samples->count + 99) / 100 - 1];
}

static void print_histogram(const struct samples *samples)
{
    size_t done = 0;
    const char *separator = "";
    printf("\"histogram\": [");
    for (int i = 0; i <= BOUND_COUNT; i++) {
        size_t first = done;
        while (done < samples->count && (i == BOUND_COUNT || samples->microseconds[done] < bounds[i]))
            done++;
        if (done == first)
            continue;
        if (i == BOUND_COUNT)
            printf("%s{\"below_us\": null, \"count\": %zu}", separator, done - first);
        else
            printf("%s{\"below_us\": %.0f, \"count\": %zu}", separator, bounds[i], done - first);
        separator = ", ";
    }
    printf("]");
}

static void print(const struct context *context, int repeat, struct samples *samples)
{
    double sum = 0;
    for (size_t i = 0; i < samples->count; i++)
        sum += samples->microseconds[i];
    qsort(samples->microseconds, samples->count, sizeof *samples->microseconds, compare);
    printf("{\"repeat\": %d, \"p50_us\": %.1f, \"p90_us\": %.1f, \"p99_us\": %.1f, \"max_us\": %.1f, ", repeat,
           percentile(samples, 50), percentile(samples, 90), percentile(samples, 99),
           samples->microseconds[samples->count - 1]);
    print_histogram(samples);
    printf(", ");
    context_print(context);
    printf(", \"seconds\": %.6f, \"launches\": %zu}\n", sum / 1e6, samples->count);
    fflush(stdout);
}

static bool repeat(const struct arguments *arguments, const struct context *context, struct work *work,
                   struct samples *samples, struct failure *failure)
{
    if (arguments->warmup > 0 && !measure(work, arguments->warmup, samples, failure))
        return false;
    for (int i = 1; i <= arguments->repeats && signals_deferred() == 0; i++) {
        if (!measure(work, arguments->seconds, samples, failure))
            return false;
        if (signals_deferred() == 0)
            print(context, i, samples);
    }
    return true;
}

enum exit_code run_latency(const struct arguments *arguments)
{
    struct context context;
    struct work work;
    struct samples samples = {0};
    struct failure failure;
    if (!work_open(&work, &context, arguments, &small, &failure))
        return work_report(&failure);
    /* As in flops: a client that dies with work can disturb the others. */
    signals_defer(true);
    const bool done = repeat(arguments, &context, &work, &samples, &failure);
    free(samples.microseconds);
    if (!done)
        return work_report(&failure);
    return signals_deferred() == 0 ? EXIT_DONE : EXIT_SIGNALLED + signals_deferred();
}
