/* The kernel that copies memory on the GPU, as PTX text that the driver compiles for its GPU. */
#ifndef GPU_PROBE_COPY_H
#define GPU_PROBE_COPY_H

enum { COPY_WORD_BYTES = 16 };

/* Parameters: the address to copy to, the number of 16-byte words (32 bits), the address to copy from. */
extern const char copy_name[];
extern const char copy_ptx[];

#endif
