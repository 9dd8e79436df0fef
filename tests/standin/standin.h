// Stand-ins for the GPU's libraries, so that the host side of the CUDA backend runs whole without a
// GPU: device memory is the host's, kernels run through tests/kernels/emulation.h, cuDNN's graphs and
// cuBLASLt's products are computed naively from the same descriptors. Test tools, never part of the
// program. What they do not know they refuse by name instead of guessing.
//
// IMGCLS_STANDIN_GPUS = how many devices there are (1). IMGCLS_STANDIN_FAIL = k: the k-th call of a
// library fails, counted from 1 over all of them.
#ifndef IMGCLS_TESTS_STANDIN_STANDIN_H
#define IMGCLS_TESTS_STANDIN_STANDIN_H

#include <stdbool.h>

// Whether this call, one more, is the one that must fail.
bool standin_call_fails(void);

// Ends the process: the program asked for something that the stand-in does not know.
__attribute__((noreturn, format(printf, 1, 2))) void standin_unknown(const char *format, ...);

#endif
