/* The command line. */
#ifndef GPU_PROBE_ARGUMENTS_H
#define GPU_PROBE_ARGUMENTS_H

#include <stdbool.h>
#include <stddef.h>

enum { MAX_SIZES = 64 };

/* A kernel counts words of 16 bytes in 32 bits, and goes on by all its threads at once. */
#define MAX_COPY_BYTES (1ULL << 34)

struct arguments {
    bool help;
    bool require_gpu;
    bool context;
    bool watch;
    int device;
    int repeats;
    double warmup;
    bool has_seconds;
    double seconds;
    unsigned long long alloc_bytes; /* 0: nothing */
    unsigned long long copy_bytes;  /* 0: multiply-adds */
    unsigned long long host_bytes;  /* 0: nothing */
    unsigned long long sizes[MAX_SIZES];
    size_t size_count;
};

/* Options of a command, to be combined. --help is one of every command's. */
enum {
    OPTION_REQUIRE_GPU = 1 << 0,
    OPTION_CONTEXT = 1 << 1,
    OPTION_WATCH = 1 << 2,
    OPTION_ALLOC = 1 << 3,
    OPTION_DEVICE = 1 << 4,
    OPTION_REPEATS = 1 << 5,
    OPTION_WARMUP = 1 << 6,
    OPTION_SETENV = 1 << 7,
    OPTION_COPY = 1 << 8,
    OPTION_HOST = 1 << 9,
};

enum operands { OPERANDS_NONE, OPERANDS_SECONDS, OPERANDS_OPTIONAL_SECONDS, OPERANDS_SIZES };

/* Reads what follows the command's name. False after a message on standard error. */
bool arguments_parse(struct arguments *arguments, const char *command, int options, enum operands operands, int count,
                     char **texts);

#endif
