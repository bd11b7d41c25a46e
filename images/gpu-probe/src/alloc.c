/* gpu-probe alloc: how much memory this process gets. */
#include "commands.h"
#include "context.h"

#include <stdio.h>

static void print_memory(const char *key, const struct memory *memory)
{
    printf(", \"%s\": {", key);
    memory_print(memory);
    putchar('}');
}

/* A refusal for want of memory is a result like any other and leaves the context usable. */
static bool allocate(unsigned long long bytes, struct failure *refusal, struct failure *failure)
{
    struct memory before, after;
    CUdeviceptr pointer;
    if (!context_memory(&before, failure))
        return false;
    CUresult result = cuMemAlloc(&pointer, bytes);
    if (result != CUDA_SUCCESS && result != CUDA_ERROR_OUT_OF_MEMORY)
        return cuda_check(failure, result, "cuMemAlloc");
    cuda_check(refusal, result, "cuMemAlloc");
    if (!context_memory(&after, failure))
        return false;
    printf("{\"requested_bytes\": %llu, \"result\": \"%s\", \"code\": %d", bytes,
           result == CUDA_SUCCESS ? "CUDA_SUCCESS" : cuda_error_name(result), result);
    print_memory("before", &before);
    print_memory("after", &after);
    puts("}");
    fflush(stdout);
    return true;
}

enum exit_code run_alloc(const struct arguments *arguments)
{
    struct context context;
    struct failure failure, refusal = {.exit_code = EXIT_DONE};
    if (!context_open(&context, arguments->device, &failure))
        return failure_report(&failure);
    for (size_t i = 0; i < arguments->size_count; i++) {
        if (!allocate(arguments->sizes[i], &refusal, &failure))
            return failure_report(&failure);
    }
    return refusal.exit_code == EXIT_DONE ? EXIT_DONE : failure_report(&refusal);
}
