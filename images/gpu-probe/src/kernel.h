/* The kernel that keeps every FP32 unit busy, as PTX text that the driver compiles for its GPU. */
#ifndef GPU_PROBE_KERNEL_H
#define GPU_PROBE_KERNEL_H

enum {
    KERNEL_THREADS = 256, /* of a block: divides what a multiprocessor holds: 1024, 1536 or 2048 threads */
    KERNEL_FMAS = 256,    /* of a thread in one iteration */
};

/* Parameters: the address of a 32-bit word for the result, the number of iterations (32 bits, not 0). */
extern const char kernel_name[];
extern const char kernel_ptx[];

#endif
