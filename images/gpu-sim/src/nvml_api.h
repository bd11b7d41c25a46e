/* nvml.h as its implementation needs it: old function names kept apart from new ones, everything it declares exported.

   The header is the one of github.com/NVIDIA/go-nvml, where a handle is a struct of one pointer; the calling convention
   is that of NVIDIA's own header. */
#ifndef GPU_SIM_NVML_API_H
#define GPU_SIM_NVML_API_H

#define NVML_NO_UNVERSIONED_FUNC_DEFS
#pragma GCC visibility push(default)
#include <nvml.h>
#pragma GCC visibility pop

#endif
