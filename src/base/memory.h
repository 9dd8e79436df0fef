// Allocation that reports failure as a Status. The only caller of malloc and friends.
//
// Every block has one owner, which frees it with memory_free. Contents start as zeros, so that a
// half-built struct can be freed.
#ifndef IMGCLS_BASE_MEMORY_H
#define IMGCLS_BASE_MEMORY_H

#include <stddef.h>

#include "base/status.h"

enum { MEMORY_ALIGNMENT = 64 }; // bytes: a cache line, and the widest vector

// Stores a zeroed block of count * size bytes in `*out` (the address of any object pointer).
// STATUS_OS when memory is short or the product overflows; `*out` is NULL then. count or size 0
// gives a block that may be freed but not used.
MUST_CHECK Status memory_alloc(void *out, size_t count, size_t size);

// The same, aligned to MEMORY_ALIGNMENT and, from 4 MiB up, placed for huge pages. For arenas.
MUST_CHECK Status memory_alloc_aligned(void *out, size_t size_bytes);

// Bytes that such a block takes: large ones are whole huge pages.
size_t memory_block_bytes(size_t size_bytes);

// `size_bytes` up to a multiple of MEMORY_ALIGNMENT, as parts of an arena are placed.
static inline size_t memory_round_up(size_t size_bytes) {
  return (size_bytes + MEMORY_ALIGNMENT - 1) / MEMORY_ALIGNMENT * MEMORY_ALIGNMENT;
}

// Grows the block at `*inout` to at least `count` elements of `size` bytes, `*capacity` being what
// it holds now; growth is geometric. The block is unchanged on failure. New elements are zeroed.
MUST_CHECK Status memory_reserve(void *inout, size_t *capacity, size_t count, size_t size);

// A copy of `text`, owned by the caller.
MUST_CHECK Status memory_copy_string(char **out, const char *text);

// A printed string, owned by the caller.
MUST_CHECK Status memory_print_string(char **out, const char *format, ...) PRINTF_LIKE(2, 3);

// Blocks of a mebibyte and more go back to the system as soon as they are freed, as a plan of memory
// counts on; glibc would begin to keep them. For main.
void memory_return_large_blocks(void);

// Frees a block of any of the above. NULL is fine.
void memory_free(void *block);

#endif
