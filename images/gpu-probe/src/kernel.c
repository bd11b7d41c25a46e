#include "kernel.h"

const char kernel_name[] = "fma_chains";

/* A multiprocessor starts an FMA every cycle in each of its lanes but has a result only cycles later, so each thread
   works on eight values that do not need one another. */
#define FMA(i) "fma.rn.f32 %x" #i ", %x" #i ", %scale, %step;\n"
#define FMAS_8 FMA(0) FMA(1) FMA(2) FMA(3) FMA(4) FMA(5) FMA(6) FMA(7)
#define FMAS_64 FMAS_8 FMAS_8 FMAS_8 FMAS_8 FMAS_8 FMAS_8 FMAS_8 FMAS_8

/* The loop's own three instructions are then about one in a hundred. */
#define FMAS_256 FMAS_64 FMAS_64 FMAS_64 FMAS_64

/* The chains start from different values, or the compiler would keep only one of them. */
#define START(i) "add.f32 %x" #i ", %step, 0f3F80000" #i ";\n"
#define SUM(i) "add.f32 %x0, %x0, %x" #i ";\n"

/* 0f3F800001 is the next number after 1: values grow slowly and stay finite and normal. A driver compiles text for
   sm_50 for any newer GPU; seen with driver 580 and an H100 (sm_90). */
const char kernel_ptx[] =
    ".version 6.0\n"
    ".target sm_50\n"
    ".address_size 64\n"
    ".visible .entry fma_chains(.param .u64 result, .param .u32 iterations)\n"
    "{\n"
    ".reg .f32 %x<8>, %scale, %step;\n"
    ".reg .b32 %left, %thread;\n"
    ".reg .b64 %address;\n"
    ".reg .pred %more;\n"
    "ld.param.u32 %left, [iterations];\n"
    "mov.u32 %thread, %tid.x;\n"
    "cvt.rn.f32.u32 %step, %thread;\n"
    "mov.f32 %scale, 0f3F800001;\n"
    START(0) START(1) START(2) START(3) START(4) START(5) START(6) START(7)
    "again:\n"
    FMAS_256
    "sub.u32 %left, %left, 1;\n"
    "setp.ne.u32 %more, %left, 0;\n"
    "@%more bra again;\n"
    /* All threads write the one word: without a result the compiler would drop the chains. */
    SUM(1) SUM(2) SUM(3) SUM(4) SUM(5) SUM(6) SUM(7)
    "ld.param.u64 %address, [result];\n"
    "cvta.to.global.u64 %address, %address;\n"
    "st.global.f32 [%address], %x0;\n"
    "ret;\n"
    "}\n";
