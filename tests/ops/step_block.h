// Memory of a device as the tests of steps give it to them: full of NaNs, with canaries at both
// ends that tell who wrote beside it. Whatever fails ends the test, with a message that begins with
// the target's context.
#ifndef IMGCLS_TESTS_OPS_STEP_BLOCK_H
#define IMGCLS_TESTS_OPS_STEP_BLOCK_H

#include "backend/backend.h"

typedef struct Target { // all borrowed
  const Backend *backend;
  Device *device;
  const char *context; // what runs now, for messages
} Target;

typedef struct Block {
  unsigned char *memory; // of the device
  void *data;            // NULL where there is no block
  size_t size;
} Block;

void target_check(const Target *target, Status status);
void target_write(const Target *target, void *to, const void *from, size_t size);
void target_read(const Target *target, void *to, const void *from, size_t size);

// Zeros, the caller's to free().
void *host_alloc(size_t size);

// Ends with block_free, which looks at the canaries and names `what` when one is gone.
void block_alloc(const Target *target, Block *out, size_t size);
// With so many bytes of the device's memory before it, at least those of a canary.
void block_alloc_behind(const Target *target, Block *out, size_t size, size_t front);
void block_free(const Target *target, Block *block, const char *what);
// Fills it with NaNs once more.
void block_spoil(const Target *target, const Block *block);

#endif
