#include "copy.h"

const char copy_name[] = "copy_words";

/* Each thread moves 16 bytes at a time, and all threads of the launch move on together, so that neighbours read and
   write one line of memory. */
const char copy_ptx[] =
    ".version 6.0\n"
    ".target sm_50\n"
    ".address_size 64\n"
    ".visible .entry copy_words(.param .u64 target, .param .u32 words, .param .u64 source)\n"
    "{\n"
    ".reg .b32 %word, %words, %block, %size, %thread, %blocks, %stride, %v<4>;\n"
    ".reg .b64 %to, %from, %offset, %at;\n"
    ".reg .pred %done;\n"
    "ld.param.u64 %to, [target];\n"
    "ld.param.u64 %from, [source];\n"
    "ld.param.u32 %words, [words];\n"
    "cvta.to.global.u64 %to, %to;\n"
    "cvta.to.global.u64 %from, %from;\n"
    "mov.u32 %block, %ctaid.x;\n"
    "mov.u32 %size, %ntid.x;\n"
    "mov.u32 %thread, %tid.x;\n"
    "mov.u32 %blocks, %nctaid.x;\n"
    "mad.lo.u32 %word, %block, %size, %thread;\n"
    "mul.lo.u32 %stride, %blocks, %size;\n"
    "again:\n"
    "setp.ge.u32 %done, %word, %words;\n"
    "@%done bra end;\n"
    "mul.wide.u32 %offset, %word, 16;\n"
    "add.u64 %at, %from, %offset;\n"
    "ld.global.v4.u32 {%v0, %v1, %v2, %v3}, [%at];\n"
    "add.u64 %at, %to, %offset;\n"
    "st.global.v4.u32 [%at], {%v0, %v1, %v2, %v3};\n"
    "add.u32 %word, %word, %stride;\n"
    "bra again;\n"
    "end:\n"
    "ret;\n"
    "}\n";
