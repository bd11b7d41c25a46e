#include "work.h"

#include "copy.h"
#include "kernel.h"

#include <stdio.h>

static enum exit_code refuse(struct failure *failure)
{
    snprintf(failure->error, sizeof failure->error, "needs a real GPU");
    failure->exit_code = EXIT_SIMULATED;
    return failure_report(failure);
}

enum exit_code work_report(struct failure *failure)
{
    const bool is_simulated = failure->code == CUDA_ERROR_NOT_SUPPORTED || failure->exit_code == EXIT_SIMULATED;
    return is_simulated ? refuse(failure) : failure_report(failure);
}

static bool load(struct work *work, const char *ptx, const char *name, int *resident, struct failure *failure)
{
    CUmodule module;
    return CUDA_OK(failure, cuModuleLoadData, &module, ptx) &&
           CUDA_OK(failure, cuModuleGetFunction, &work->function, module, name) &&
           CUDA_OK(failure, cuOccupancyMaxActiveBlocksPerMultiprocessor, resident, work->function, KERNEL_THREADS, 0);
}

static bool open_copy(struct work *work, const struct context *context, unsigned long long bytes,
                      struct failure *failure)
{
    int resident = 0;
    if (!load(work, copy_ptx, copy_name, &resident, failure) ||
        !CUDA_OK(failure, cuMemAlloc, &work->target, bytes) || !CUDA_OK(failure, cuMemAlloc, &work->source, bytes))
        return false;
    work->count = (unsigned int)(bytes / COPY_WORD_BYTES);
    work->blocks = (unsigned int)(context->sms * resident);
    return true;
}

static bool open_fma(struct work *work, const struct context *context, const struct shape *shape,
                     struct failure *failure)
{
    int resident = 0;
    if (!load(work, kernel_ptx, kernel_name, &resident, failure) ||
        !CUDA_OK(failure, cuMemAlloc, &work->target, sizeof(float)))
        return false;
    work->count = shape->iterations;
    /* A whole multiple of what fits at once, so that no multiprocessor is idle while others finish. */
    work->blocks = shape->blocks != 0 ? shape->blocks : (unsigned int)(context->sms * resident) * shape->waves;
    return true;
}

bool work_open(struct work *work, struct context *context, const struct arguments *arguments, const struct shape *shape,
               struct failure *failure)
{
    *work = (struct work){0};
    if (!cuda_open(failure))
        return false;
    if (cuda_is_simulated()) {
        failure->exit_code = EXIT_SIMULATED;
        return false;
    }
    if (!cuda_find_kernel_functions(failure) || !context_open(context, arguments->device, failure))
        return false;
    return arguments->copy_bytes != 0 ? open_copy(work, context, arguments->copy_bytes, failure)
                                      : open_fma(work, context, shape, failure);
}

bool work_launch(struct work *work, struct failure *failure)
{
    void *parameters[] = {&work->target, &work->count, &work->source};
    return CUDA_OK(failure, cuLaunchKernel, work->function, work->blocks, 1, 1, KERNEL_THREADS, 1, 1, 0, NULL,
                   parameters, NULL);
}

double work_operations(const struct work *work)
{
    return work->source != 0 ? 0 : 2.0 * KERNEL_FMAS * work->count * KERNEL_THREADS * work->blocks;
}

double work_bytes(const struct work *work)
{
    return work->source != 0 ? 2.0 * COPY_WORD_BYTES * work->count : 0;
}
