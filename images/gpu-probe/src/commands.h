/* The commands, one a file; main.c says what each of them takes. */
#ifndef GPU_PROBE_COMMANDS_H
#define GPU_PROBE_COMMANDS_H

#include "arguments.h"
#include "failure.h"

enum exit_code run_info(const struct arguments *arguments);
enum exit_code run_hold(const struct arguments *arguments);
enum exit_code run_alloc(const struct arguments *arguments);
enum exit_code run_flops(const struct arguments *arguments);
enum exit_code run_load(const struct arguments *arguments);
enum exit_code run_latency(const struct arguments *arguments);

/* Prints info's line, with which hold starts too. */
enum exit_code info_print(const struct arguments *arguments);

#endif
