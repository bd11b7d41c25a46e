/* gpu-probe: a workload that says what it was given of the GPUs. */
#include "commands.h"
#include "signals.h"

#include <stdio.h>
#include <string.h>

struct command {
    const char *name;
    enum exit_code (*run)(const struct arguments *);
    int options;
    enum operands operands;
    const char *help;
};

static const struct command commands[] = {
    {"info", run_info, OPTION_REQUIRE_GPU | OPTION_CONTEXT | OPTION_SETENV, OPERANDS_NONE,
     "gpu-probe info [--require-gpu] [--context] [--setenv NAME=VALUE]...\n"
     "\n"
     "Prints a line about the GPUs this process sees. It makes no CUDA context, so it takes no GPU memory and is no\n"
     "client of an MPS daemon. Without GPUs or libraries the line says so, and the exit code is 0.\n"
     "  --require-gpu  exit code 3 if there is no GPU\n"
     "  --context      a further line for each CUDA device: its multiprocessors, free and total memory in a context\n"
     "  --setenv       changes the environment before the first CUDA call, as any program can\n"},
    {"hold", run_hold, OPTION_REQUIRE_GPU | OPTION_WATCH | OPTION_ALLOC | OPTION_HOST | OPTION_DEVICE,
     OPERANDS_OPTIONAL_SECONDS,
     "gpu-probe hold [SECONDS] [--watch] [--alloc SIZE] [--host SIZE] [--device ORDINAL] [--require-gpu]\n"
     "\n"
     "Prints info's line, then waits for SIGTERM or SIGINT, at most SECONDS if given and not 0. CUDA is not needed\n"
     "without --watch or --alloc, which make a context and print a line once they hold it.\n"
     "  --watch           hold a context, check it every 0.5 seconds, and end with an error when it breaks\n"
     "  --alloc SIZE      the same with that much GPU memory: a whole number with Mi or M (2^20), Gi or G (2^30)\n"
     "  --host SIZE       fill that much memory of the machine afterwards, which counts for a container's limit\n"
     "  --device ORDINAL  the CUDA device, 0 by default\n"
     "  --require-gpu     exit code 3 if there is no GPU\n"},
    {"alloc", run_alloc, OPTION_DEVICE, OPERANDS_SIZES,
     "gpu-probe alloc SIZE... [--device ORDINAL]\n"
     "\n"
     "Allocates each SIZE in turn in one context, keeps them all, and prints a line for each: CUDA's result and the\n"
     "memory before and after. It goes on after a refusal for want of memory, since a smaller SIZE may still fit.\n"
     "  SIZE              a whole number with Mi or M (2^20 bytes), Gi or G (2^30 bytes), such as 512Mi; at most 64\n"
     "  --device ORDINAL  the CUDA device, 0 by default\n"},
    {"flops", run_flops, OPTION_REPEATS | OPTION_WARMUP | OPTION_DEVICE, OPERANDS_SECONDS,
     "gpu-probe flops SECONDS [--repeats N] [--warmup SECONDS] [--device ORDINAL]\n"
     "\n"
     "Measures FP32 throughput for SECONDS and prints a line for each repeat. An FMA counts as two operations. The\n"
     "load covers all multiprocessors that this process was granted. A simulated GPU runs no kernels.\n"
     "  --repeats N         measurements one after another, 1 by default\n"
     "  --warmup SECONDS    the same load before the first measurement, 1 by default\n"
     "  --device ORDINAL    the CUDA device, 0 by default\n"},
    {"load", run_load, OPTION_COPY | OPTION_REPEATS | OPTION_WARMUP | OPTION_DEVICE, OPERANDS_SECONDS,
     "gpu-probe load SECONDS [--copy SIZE] [--repeats N] [--warmup SECONDS] [--device ORDINAL]\n"
     "\n"
     "Is a neighbour that fills the GPU: as flops, but of kernels whose blocks are as short as those of a large matrix\n"
     "product, since others wait for a block's end.\n"
     "  --copy SIZE         copies that much memory on the GPU instead, and prints bytes read and written a second\n"
     "  --repeats N         measurements one after another, 1 by default\n"
     "  --warmup SECONDS    the same load before the first measurement, 1 by default\n"
     "  --device ORDINAL    the CUDA device, 0 by default\n"},
    {"latency", run_latency, OPTION_COPY | OPTION_REPEATS | OPTION_WARMUP | OPTION_DEVICE, OPERANDS_SECONDS,
     "gpu-probe latency SECONDS [--copy SIZE] [--repeats N] [--warmup SECONDS] [--device ORDINAL]\n"
     "\n"
     "Measures for SECONDS, one at a time, how long a small kernel takes from its launch until the process knows that\n"
     "it has ended, and prints percentiles and a histogram in microseconds for each repeat. The kernel has as many\n"
     "multiply-adds as a product of two matrices of 256 x 256, and 32 blocks. A simulated GPU runs no kernels.\n"
     "  --copy SIZE         copies that much memory on the GPU instead\n"
     "  --repeats N         measurements one after another, 1 by default\n"
     "  --warmup SECONDS    the same before the first measurement, 1 by default\n"
     "  --device ORDINAL    the CUDA device, 0 by default\n"},
};

enum { COMMAND_COUNT = sizeof commands / sizeof commands[0] };

static const char exit_codes[] =
    "Output is JSON Lines on standard output. A command that fails ends with a line of error, code, call, exit_code.\n"
    "Exit codes:\n"
    "  0    done; for hold also SIGTERM or SIGINT\n"
    "  2    wrong usage\n"
    "  3    no GPU, or no usable libcuda.so.1\n"
    "  4    needs a real GPU\n"
    "  5    not enough GPU memory (CUDA_ERROR_OUT_OF_MEMORY); for hold also none of the machine's\n"
    "  6    any other CUDA error, such as CUDA_ERROR_MPS_RPC_FAILURE\n"
    "  130  SIGINT and 143 SIGTERM, other commands than hold\n";

static enum exit_code print_help(void)
{
    puts("gpu-probe COMMAND [ARGUMENT...]; gpu-probe COMMAND --help says more.\n");
    for (size_t i = 0; i < COMMAND_COUNT; i++)
        printf("%.*s\n", (int)strcspn(commands[i].help, "\n"), commands[i].help);
    printf("\n%s", exit_codes);
    return EXIT_DONE;
}

static enum exit_code wrong_command(const char *name)
{
    fprintf(stderr, "gpu-probe: unknown command \"%s\"; allowed:", name);
    for (size_t i = 0; i < COMMAND_COUNT; i++)
        fprintf(stderr, " %s", commands[i].name);
    fputs("; see gpu-probe --help\n", stderr);
    return EXIT_USAGE;
}

static enum exit_code run(const struct command *command, int count, char **texts)
{
    struct arguments arguments;
    if (!arguments_parse(&arguments, command->name, command->options, command->operands, count, texts))
        return EXIT_USAGE;
    if (arguments.help) {
        printf("%s\n%s", command->help, exit_codes);
        return EXIT_DONE;
    }
    signals_end_process(command->run == run_hold);
    return command->run(&arguments);
}

int main(int count, char **texts)
{
    const char *name = count < 2 ? "" : texts[1];
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0)
        return print_help();
    for (size_t i = 0; i < COMMAND_COUNT; i++) {
        if (strcmp(name, commands[i].name) == 0)
            return run(&commands[i], count - 2, texts + 2);
    }
    return wrong_command(name);
}
