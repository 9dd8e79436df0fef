// Allocation that reports failure as a Status. See memory.h.
#include "base/memory.h"

#include <malloc.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { HUGE_PAGE = 2 << 20 };

static Status out_of_memory(size_t size_bytes) {
  return status_set(STATUS_OS,
                    "out of memory: %.1f MiB asked for; free memory or make the job smaller",
                    (double)size_bytes / (1 << 20));
}

Status memory_alloc(void *out, size_t count, size_t size) {
  void *block = calloc(count > 0 ? count : 1, size > 0 ? size : 1);
  memcpy(out, &block, sizeof block);
  return block ? STATUS_OK : out_of_memory(count * size);
}

static size_t alignment_of(size_t size_bytes) {
  return size_bytes >= 2 * HUGE_PAGE ? HUGE_PAGE : MEMORY_ALIGNMENT;
}

size_t memory_block_bytes(size_t size_bytes) {
  size_t alignment = alignment_of(size_bytes);
  return (size_bytes + alignment - 1) / alignment * alignment;
}

Status memory_alloc_aligned(void *out, size_t size_bytes) {
  size_t alignment = alignment_of(size_bytes);
  void *block = NULL;
  memcpy(out, &block, sizeof block);
  if (size_bytes > SIZE_MAX - alignment) return out_of_memory(size_bytes);
  size_t rounded = memory_block_bytes(size_bytes);
  block = aligned_alloc(alignment, rounded > 0 ? rounded : alignment);
  if (!block) return out_of_memory(size_bytes);
  if (alignment == HUGE_PAGE)
    (void)madvise(block, rounded, MADV_HUGEPAGE); // a hint: may be refused
  memset(block, 0, rounded);
  memcpy(out, &block, sizeof block);
  return STATUS_OK;
}

Status memory_reserve(void *inout, size_t *capacity, size_t count, size_t size) {
  if (count <= *capacity) return STATUS_OK;
  size_t grown = *capacity < 8 ? 8 : *capacity + *capacity / 2;
  if (grown < count) grown = count;
  if (size > 0 && grown > SIZE_MAX / size) return out_of_memory(SIZE_MAX);
  void *block;
  memcpy(&block, inout, sizeof block);
  block = realloc(block, grown * size);
  if (!block) return out_of_memory(grown * size);
  memset((char *)block + *capacity * size, 0, (grown - *capacity) * size);
  memcpy(inout, &block, sizeof block);
  *capacity = grown;
  return STATUS_OK;
}

Status memory_copy_string(char **out, const char *text) {
  size_t size = strlen(text) + 1;
  TRY(memory_alloc(out, size, 1));
  memcpy(*out, text, size);
  return STATUS_OK;
}

Status memory_print_string(char **out, const char *format, ...) {
  *out = NULL;
  va_list args;
  va_start(args, format);
  int length = vsnprintf(NULL, 0, format, args);
  va_end(args);
  if (length < 0)
    return status_set(STATUS_INTERNAL, "memory_print_string: bad format '%s'", format);
  TRY(memory_alloc(out, (size_t)length + 1, 1));
  va_start(args, format);
  (void)vsnprintf(*out, (size_t)length + 1, format, args);
  va_end(args);
  return STATUS_OK;
}

void memory_return_large_blocks(void) {
  enum { LARGE = 1 << 20 };
  (void)mallopt(M_MMAP_THRESHOLD, LARGE);
}

void memory_free(void *block) {
  free(block);
}
