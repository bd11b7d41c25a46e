/* gpu-sim: puts the simulated driver root on a node, keeps it there while it runs, and takes it away again. */
#include "install.h"

#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

static const char usage[] =
    "gpu-sim install --config FILE --root DIR [--dev DIR] [--source DIR]\n"
    "    Copies the driver root into DIR, with device nodes and stand-ins for /proc and /sys in DIR/sim.\n"
    "    May be repeated: what an earlier install left and FILE no longer asks for is removed.\n"
    "gpu-sim hold --root DIR [--dev DIR] [--remove-on-exit]\n"
    "    Waits for SIGTERM or SIGINT; with --remove-on-exit it then does what remove does.\n"
    "gpu-sim remove --root DIR [--dev DIR]\n"
    "    Empties DIR, which itself stays.\n"
    "\n"
    "--dev DIR     second place for the device nodes, such as the node's /dev\n"
    "--source DIR  built driver root, /driver-root unless given\n"
    "Needs root and CAP_MKNOD. Exit codes: 0 done, 1 failed, 2 wrong usage.\n";

enum { EXIT_DONE = 0, EXIT_FAILED = 1, EXIT_USAGE = 2 };

struct options {
    struct install_paths paths;
    bool remove_on_exit;
};

static int wrong_usage(const char *what, const char *argument)
{
    fprintf(stderr, "gpu-sim: %s%s; see gpu-sim --help\n", what, argument);
    return EXIT_USAGE;
}

static const char **value_of(struct options *options, const char *name)
{
    if (strcmp(name, "--config") == 0)
        return &options->paths.config;
    if (strcmp(name, "--root") == 0)
        return &options->paths.root;
    if (strcmp(name, "--dev") == 0)
        return &options->paths.dev;
    if (strcmp(name, "--source") == 0)
        return &options->paths.source;
    return NULL;
}

static int parse(struct options *options, int count, char **arguments)
{
    for (int i = 2; i < count; i++) {
        const char **value = value_of(options, arguments[i]);
        if (strcmp(arguments[i], "--remove-on-exit") == 0) {
            options->remove_on_exit = true;
            continue;
        }
        if (value == NULL)
            return wrong_usage("unknown argument ", arguments[i]);
        if (++i == count || *arguments[i] == '\0')
            return wrong_usage("a value is missing after ", arguments[i - 1]);
        *value = arguments[i];
    }
    return options->paths.root == NULL ? wrong_usage("--root is missing", "") : EXIT_DONE;
}

/* Blocked signals reach sigwait even in process 1 of a container, where they would otherwise be ignored. */
static int wait_for_signal(void)
{
    sigset_t signals;
    int received = 0;
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    sigprocmask(SIG_BLOCK, &signals, NULL);
    puts("gpu-sim: waiting for SIGTERM");
    fflush(stdout);
    while (sigwait(&signals, &received) == EINTR)
        continue;
    return received;
}

static int run(const char *command, const struct options *options)
{
    if (strcmp(command, "install") == 0) {
        if (options->paths.config == NULL)
            return wrong_usage("--config is missing", "");
        return install(&options->paths) ? EXIT_DONE : EXIT_FAILED;
    }
    if (strcmp(command, "hold") == 0) {
        wait_for_signal();
        if (!options->remove_on_exit)
            return EXIT_DONE;
        return uninstall(&options->paths) ? EXIT_DONE : EXIT_FAILED;
    }
    if (strcmp(command, "remove") == 0)
        return uninstall(&options->paths) ? EXIT_DONE : EXIT_FAILED;
    return wrong_usage("unknown command ", command);
}

int main(int count, char **arguments)
{
    struct options options = {.paths = {.source = "/driver-root"}};
    if (count < 2)
        return wrong_usage("a command is missing", "");
    if (strcmp(arguments[1], "--help") == 0 || strcmp(arguments[1], "-h") == 0) {
        fputs(usage, stdout);
        return EXIT_DONE;
    }
    int code = parse(&options, count, arguments);
    return code == EXIT_DONE ? run(arguments[1], &options) : code;
}
