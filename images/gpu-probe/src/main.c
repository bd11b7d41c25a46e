/* gpu-probe: a workload that says which GPUs it was given. */
#include "probe.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const char usage[] =
    "gpu-probe info [--require-gpu]            prints one line of JSON about the GPUs this process sees\n"
    "gpu-probe hold [SECONDS] [--require-gpu]  prints it, then waits for SIGTERM, at most SECONDS if given\n"
    "\n"
    "Without GPUs or libraries the line says so, and the exit code is 0; with --require-gpu it is 3.\n"
    "Exit codes: 0 done, 2 wrong usage, 3 no GPU.\n";

enum { EXIT_DONE = 0, EXIT_USAGE = 2, EXIT_NO_GPU = 3 };

struct options {
    bool hold;
    bool limited;
    long seconds;
    bool require_gpu;
};

static int wrong_usage(const char *argument)
{
    fprintf(stderr, "gpu-probe: wrong usage at \"%s\"; see gpu-probe --help\n", argument);
    return EXIT_USAGE;
}

static bool parse_seconds(const char *text, long *seconds)
{
    char *end;
    errno = 0;
    *seconds = strtol(text, &end, 10);
    return errno == 0 && end != text && *end == '\0' && *seconds >= 0;
}

static int parse(struct options *options, int count, char **arguments)
{
    if (count < 2)
        return wrong_usage("");
    options->hold = strcmp(arguments[1], "hold") == 0;
    if (!options->hold && strcmp(arguments[1], "info") != 0)
        return wrong_usage(arguments[1]);
    for (int i = 2; i < count; i++) {
        if (strcmp(arguments[i], "--require-gpu") == 0)
            options->require_gpu = true;
        else if (options->hold && !options->limited && parse_seconds(arguments[i], &options->seconds))
            options->limited = true;
        else
            return wrong_usage(arguments[i]);
    }
    return EXIT_DONE;
}

/* Blocked before anything else runs, so that an early SIGTERM is kept for the wait and not lost. */
static void block_signals(sigset_t *signals)
{
    sigemptyset(signals);
    sigaddset(signals, SIGTERM);
    sigaddset(signals, SIGINT);
    sigprocmask(SIG_BLOCK, signals, NULL);
}

/* sigwait works in process 1 too, where an unhandled SIGTERM would be ignored. */
static void wait_for_signal(const struct options *options, const sigset_t *signals)
{
    struct timespec deadline, now;
    clock_gettime(CLOCK_MONOTONIC, &deadline);
    deadline.tv_sec += options->seconds;
    for (;;) {
        struct timespec rest = {0, 0};
        int received;
        if (!options->limited) {
            received = sigwaitinfo(signals, NULL);
        } else {
            clock_gettime(CLOCK_MONOTONIC, &now);
            rest.tv_sec = deadline.tv_sec - now.tv_sec;
            rest.tv_nsec = deadline.tv_nsec - now.tv_nsec;
            if (rest.tv_nsec < 0) {
                rest.tv_sec--;
                rest.tv_nsec += 1000000000;
            }
            if (rest.tv_sec < 0)
                return;
            received = sigtimedwait(signals, NULL, &rest);
        }
        if (received > 0 || errno != EINTR)
            return;
    }
}

int main(int count, char **arguments)
{
    static struct probe probe;
    struct options options = {0};
    sigset_t signals;
    if (count == 2 && (strcmp(arguments[1], "--help") == 0 || strcmp(arguments[1], "-h") == 0)) {
        fputs(usage, stdout);
        return EXIT_DONE;
    }
    int code = parse(&options, count, arguments);
    if (code != EXIT_DONE)
        return code;
    if (options.hold)
        block_signals(&signals);
    probe_libraries(&probe);
    probe_print(&probe, stdout);
    if (options.require_gpu && probe.gpu_count == 0)
        return EXIT_NO_GPU;
    if (options.hold)
        wait_for_signal(&options, &signals);
    return EXIT_DONE;
}
