#include "cuda.h"

#include "probe.h"

#include <dlfcn.h>
#include <string.h>

#define DEFINE(name, symbol, ...) CUresult (*name)(__VA_ARGS__);
CUDA_DEVICE_FUNCTIONS(DEFINE)
CUDA_CONTEXT_FUNCTIONS(DEFINE)
CUDA_KERNEL_FUNCTIONS(DEFINE)
#undef DEFINE

static void *library;

static bool find(const char *symbol, void *target, struct failure *failure)
{
    void *address = dlsym(library, symbol);
    memcpy(target, &address, sizeof address);
    if (address != NULL)
        return true;
    *failure = (struct failure){.exit_code = EXIT_NO_GPU};
    snprintf(failure->error, sizeof failure->error, "libcuda.so.1 has no %s", symbol);
    return false;
}

#define FIND(name, symbol, ...)            \
    if (!find(#symbol, &name, failure))    \
        return false;

bool cuda_open(struct failure *failure)
{
    *failure = (struct failure){.exit_code = EXIT_NO_GPU};
    if (library == NULL)
        library = probe_open("libcuda.so.1", failure->error, sizeof failure->error);
    if (library == NULL)
        return false;
    CUDA_DEVICE_FUNCTIONS(FIND)
    return true;
}

bool cuda_find_context_functions(struct failure *failure)
{
    CUDA_CONTEXT_FUNCTIONS(FIND)
    return true;
}

bool cuda_find_kernel_functions(struct failure *failure)
{
    CUDA_KERNEL_FUNCTIONS(FIND)
    return true;
}

bool cuda_is_simulated(void)
{
    return dlsym(library, "gpuSimulatedCuda") != NULL;
}

const char *cuda_error_name(CUresult result)
{
    const char *name = NULL;
    return cuGetErrorName(result, &name) == CUDA_SUCCESS && name != NULL ? name : "unknown";
}

bool cuda_check(struct failure *failure, CUresult result, const char *call)
{
    if (result == CUDA_SUCCESS)
        return true;
    *failure = (struct failure){.call = call, .code = result, .exit_code = EXIT_CUDA};
    if (result == CUDA_ERROR_NO_DEVICE)
        failure->exit_code = EXIT_NO_GPU;
    else if (result == CUDA_ERROR_OUT_OF_MEMORY)
        failure->exit_code = EXIT_OUT_OF_MEMORY;
    snprintf(failure->error, sizeof failure->error, "%s", cuda_error_name(result));
    return false;
}
