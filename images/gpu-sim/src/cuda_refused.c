/* Whatever would run code or hold bytes on a GPU: refused with one line on standard error, never pretended. */
#include "cuda_refused.h"

#include "cuda_private.h"
#include "mps_protocol.h"

#include <stdio.h>

/* An MPS client whose server is gone gets that told first, as from CUDA. */
CUresult cuda_refuse(const char *function)
{
    if (cuda_enter() == CUDA_SUCCESS) {
        CUresult result = cuda_leave(cuda_mps_call(MPS_SYNCHRONIZE, 0, 0, 0, NULL));
        if (result != CUDA_SUCCESS)
            return result;
    }
    fprintf(stderr, "simulated CUDA: %s: this GPU is simulated and runs no CUDA code\n", function);
    return CUDA_ERROR_NOT_SUPPORTED;
}

/* Callers pass arguments, which x86-64's calling convention lets a function ignore. */
#define REFUSED(version, name, symbol)                                  \
    __attribute__((visibility("default"))) CUresult symbol(void);       \
    CUresult symbol(void)                                               \
    {                                                                   \
        return cuda_refuse(#symbol);                                    \
    }
CUDA_REFUSED(REFUSED)
#undef REFUSED

CUresult cuLaunchKernel(CUfunction function, unsigned int grid_x, unsigned int grid_y, unsigned int grid_z,
                        unsigned int block_x, unsigned int block_y, unsigned int block_z, unsigned int shared_bytes,
                        CUstream stream, void **parameters, void **extra)
{
    (void)function, (void)grid_x, (void)grid_y, (void)grid_z, (void)block_x, (void)block_y, (void)block_z;
    (void)shared_bytes, (void)stream, (void)parameters, (void)extra;
    return cuda_refuse("cuLaunchKernel");
}
