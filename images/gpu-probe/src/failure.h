/* Why a command ends early: its line of JSON and its exit code. */
#ifndef GPU_PROBE_FAILURE_H
#define GPU_PROBE_FAILURE_H

enum exit_code {
    EXIT_DONE = 0,
    EXIT_USAGE = 2,
    EXIT_NO_GPU = 3,
    EXIT_SIMULATED = 4,
    EXIT_OUT_OF_MEMORY = 5,
    EXIT_CUDA = 6,
    EXIT_SIGNALLED = 128, /* plus the signal */
};

struct failure {
    char error[512];  /* CUDA's name of the error, or a sentence where CUDA was not asked */
    const char *call; /* NULL: CUDA was not asked */
    int code;         /* CUDA's number, only with a call */
    enum exit_code exit_code;
};

/* Prints the line and returns the exit code. */
enum exit_code failure_report(const struct failure *failure);

#endif
