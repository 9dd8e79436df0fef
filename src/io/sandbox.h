// Runs a task in a child process, so that code which may crash, hang or eat memory on hostile input
// cannot take this process along. Used by h5.c for files that nobody has vouched for.
#ifndef IMGCLS_IO_SANDBOX_H
#define IMGCLS_IO_SANDBOX_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

// Runs in the child, which shares nothing with the parent but what it was before the call. The
// result block is made with memory_alloc.
typedef Status (*SandboxTask)(uint8_t **result, size_t *size_bytes, void *context);

typedef struct SandboxLimits {
  double deadline_s;   // then the child is killed
  size_t memory_bytes; // that the child may take beyond what the parent holds
} SandboxLimits;

// Runs `task(context)` in a child and returns its result, owned by the caller. A failing task gives
// its own code and message; a child that crashes, hangs or wants more than `limits` gives
// STATUS_DATA with `what` in the message ("FILE: crashed the reader (signal 11): the file is
// damaged"). Where it is the machine or a limit of this process that lacks memory for it, that is
// STATUS_OS.
MUST_CHECK Status sandbox_run(uint8_t **result, size_t *size_bytes, const SandboxLimits *limits,
                              SandboxTask task, void *context, const char *what);

#endif
