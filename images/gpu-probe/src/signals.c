#include "signals.h"

#include "failure.h"

#include <signal.h>
#include <stddef.h>
#include <unistd.h>

static volatile sig_atomic_t ends_as_done, is_deferring, deferred;

static void handle(int number)
{
    if (is_deferring)
        deferred = number;
    else
        _exit(ends_as_done ? EXIT_DONE : EXIT_SIGNALLED + number);
}

void signals_end_process(bool as_done)
{
    struct sigaction action = {.sa_handler = handle, .sa_flags = SA_RESTART};
    ends_as_done = as_done;
    sigemptyset(&action.sa_mask);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
}

void signals_defer(bool defer)
{
    is_deferring = defer;
}

int signals_deferred(void)
{
    return deferred;
}
