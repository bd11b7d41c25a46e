/* A libcuda.so.1 for gpu-probe's tests: one GPU that counts memory and launches but computes nothing.

   FAKE_CUDA_SMS, FAKE_CUDA_FREE_MIB  what it reports
   FAKE_CUDA_SYNCHRONIZE_US=A,B  waiting for a context takes A microseconds, and B every tenth time
   FAKE_CUDA_FAIL=CALL:N:CODE         the call answers CODE from its Nth time on; -1: it never answers
   Built with -DSIMULATED it has the simulation's marker, with -DWITHOUT_CONTEXTS and -DWITHOUT_KERNELS it lacks those
   functions. Every launch is a line on standard error: blocks, threads, iterations, launches in flight. */
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef int result;

enum { DEVICES = 1, TOTAL_MIB = 81559, RESIDENT_BLOCKS = 8, LAUNCH_MS = 20 };
enum { OUT_OF_MEMORY = 2, INVALID_VALUE = 1, INVALID_DEVICE = 101, INVALID_CONTEXT = 201 };

static long number(const char *variable, long otherwise)
{
    const char *text = getenv(variable);
    return text == NULL ? otherwise : strtol(text, NULL, 10);
}

static result planned(const char *call, int *calls)
{
    const char *plan = getenv("FAKE_CUDA_FAIL");
    size_t length = strlen(call);
    int first, code;
    *calls += 1;
    if (plan == NULL || strncmp(plan, call, length) != 0 || sscanf(plan + length, ":%d:%d", &first, &code) != 2)
        return 0;
    if (*calls < first)
        return 0;
    while (code == -1)
        pause();
    return code;
}

#define FAIL_AS_PLANNED                          \
    static int calls;                            \
    result plan = planned(__func__, &calls);     \
    if (plan != 0)                               \
        return plan;

result cuInit(unsigned int flags)
{
    FAIL_AS_PLANNED
    return flags == 0 ? 0 : INVALID_VALUE;
}

result cuGetErrorName(result code, const char **name)
{
    static const struct {
        result code;
        const char *name;
    } names[] = {
        {0, "CUDA_SUCCESS"},
        {1, "CUDA_ERROR_INVALID_VALUE"},
        {2, "CUDA_ERROR_OUT_OF_MEMORY"},
        {100, "CUDA_ERROR_NO_DEVICE"},
        {101, "CUDA_ERROR_INVALID_DEVICE"},
        {218, "CUDA_ERROR_INVALID_PTX"},
        {801, "CUDA_ERROR_NOT_SUPPORTED"},
        {805, "CUDA_ERROR_MPS_CONNECTION_FAILED"},
        {806, "CUDA_ERROR_MPS_RPC_FAILURE"},
    };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (names[i].code == code) {
            *name = names[i].name;
            return 0;
        }
    }
    return INVALID_VALUE;
}

result cuDeviceGetCount(int *count)
{
    FAIL_AS_PLANNED
    *count = DEVICES;
    return 0;
}

result cuDeviceGet(int *device, int ordinal)
{
    FAIL_AS_PLANNED
    *device = ordinal;
    return ordinal < DEVICES ? 0 : INVALID_DEVICE;
}

result cuDeviceGetUuid_v2(unsigned char uuid[16], int device)
{
    memset(uuid, 0x11 + device, 16);
    return 0;
}

result cuDeviceGetAttribute(int *value, int attribute, int device)
{
    FAIL_AS_PLANNED
    *value = (int)number("FAKE_CUDA_SMS", 132);
    return attribute == 16 && device < DEVICES ? 0 : INVALID_VALUE;
}

#ifdef SIMULATED
const char *gpuSimulatedCuda(void)
{
    return "simulated";
}
#endif

#ifndef WITHOUT_CONTEXTS
static char the_context[1];
static const void *current;
static size_t allocated;

static size_t available(void)
{
    return ((size_t)number("FAKE_CUDA_FREE_MIB", 80488) << 20) - allocated;
}

result cuDevicePrimaryCtxRetain(void **context, int device)
{
    FAIL_AS_PLANNED
    (void)device;
    *context = the_context;
    return 0;
}

result cuCtxSetCurrent(void *context)
{
    FAIL_AS_PLANNED
    current = context;
    return 0;
}

result cuCtxSynchronize(void)
{
    FAIL_AS_PLANNED
    const char *times = getenv("FAKE_CUDA_SYNCHRONIZE_US");
    unsigned int usual, tenth;
    if (times != NULL && sscanf(times, "%u,%u", &usual, &tenth) == 2)
        usleep(calls % 10 == 0 ? tenth : usual);
    return current == the_context ? 0 : INVALID_CONTEXT;
}

result cuMemGetInfo_v2(size_t *free_bytes, size_t *total)
{
    FAIL_AS_PLANNED
    *free_bytes = available();
    *total = (size_t)TOTAL_MIB << 20;
    return current == the_context ? 0 : INVALID_CONTEXT;
}

result cuMemAlloc_v2(unsigned long long *pointer, size_t size)
{
    FAIL_AS_PLANNED
    if (current != the_context)
        return INVALID_CONTEXT;
    if (size > available())
        return OUT_OF_MEMORY;
    allocated += size;
    *pointer = allocated;
    return 0;
}
#endif

#ifndef WITHOUT_KERNELS
static long launched, waited_for;

struct event {
    long launched;
};

result cuModuleLoadData(void **module, const void *image)
{
    FAIL_AS_PLANNED
    *module = (void *)image;
    return 0;
}

result cuModuleGetFunction(void **function, void *module, const char *name)
{
    FAIL_AS_PLANNED
    char entry[64];
    snprintf(entry, sizeof entry, ".entry %s(", name);
    *function = module;
    return strstr(module, entry) != NULL ? 0 : INVALID_VALUE;
}

result cuOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, void *function, int threads, size_t shared)
{
    FAIL_AS_PLANNED
    *blocks = RESIDENT_BLOCKS;
    return function != NULL && threads > 0 && shared == 0 ? 0 : INVALID_VALUE;
}

result cuLaunchKernel(void *function, unsigned int x, unsigned int y, unsigned int z, unsigned int threads,
                      unsigned int threads_y, unsigned int threads_z, unsigned int shared, void *stream,
                      void **parameters, void **extra)
{
    FAIL_AS_PLANNED
    if (function == NULL || y * z * threads_y * threads_z != 1 || shared != 0 || stream != NULL || extra != NULL)
        return INVALID_VALUE;
    launched++;
    fprintf(stderr, "%u %u %u %ld\n", x, threads, *(unsigned int *)parameters[1], launched - waited_for);
    return 0;
}

result cuEventCreate(struct event **event, unsigned int flags)
{
    FAIL_AS_PLANNED
    static struct event events[16];
    static size_t count;
    (void)flags;
    *event = &events[count++];
    return count <= sizeof events / sizeof events[0] ? 0 : OUT_OF_MEMORY;
}

result cuEventRecord(struct event *event, void *stream)
{
    FAIL_AS_PLANNED
    (void)stream;
    event->launched = launched;
    return 0;
}

result cuEventSynchronize(struct event *event)
{
    FAIL_AS_PLANNED
    usleep(1000); /* work takes time, or nothing would be left to wait for */
    waited_for = event->launched;
    return 0;
}

result cuEventElapsedTime(float *milliseconds, struct event *begin, struct event *end)
{
    FAIL_AS_PLANNED
    *milliseconds = (float)(LAUNCH_MS * (end->launched - begin->launched));
    return 0;
}
#endif
