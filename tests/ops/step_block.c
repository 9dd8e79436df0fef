// Memory with canaries. See step_block.h.
#include "ops/step_block.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { CANARY_SIZE = 64, CANARY = 0xa5, NANS = 0xff };

void target_check(const Target *target, Status status) {
  if (status != STATUS_OK) fail_msg("%s: %s", target->context, status_message());
}

void target_write(const Target *target, void *to, const void *from, size_t size) {
  target_check(target, target->backend->copy_to_device(target->device, to, from, size));
}

void target_read(const Target *target, void *to, const void *from, size_t size) {
  target_check(target, target->backend->copy_to_host(target->device, to, from, size));
}

void *host_alloc(size_t size) {
  void *memory = calloc(size ? size : 1, 1);
  assert_non_null(memory);
  return memory;
}

void block_spoil(const Target *target, const Block *block) {
  if (!block->size) return;
  void *host = host_alloc(block->size);
  memset(host, NANS, block->size);
  target_write(target, block->data, host, block->size);
  free(host);
}

void block_alloc_behind(const Target *target, Block *out, size_t size, size_t front) {
  unsigned char canary[CANARY_SIZE];
  void *memory;
  memset(canary, CANARY, sizeof canary);
  target_check(target,
               target->backend->memory_alloc(target->device, &memory, front + size + CANARY_SIZE));
  unsigned char *data = (unsigned char *)memory + front;
  *out = (Block){memory, data, size};
  target_write(target, data - CANARY_SIZE, canary, CANARY_SIZE);
  target_write(target, data + size, canary, CANARY_SIZE);
  block_spoil(target, out);
}

void block_alloc(const Target *target, Block *out, size_t size) {
  block_alloc_behind(target, out, size, CANARY_SIZE);
}

void block_free(const Target *target, Block *block, const char *what) {
  if (!block->memory) return;
  unsigned char ends[2 * CANARY_SIZE], *data = block->data;
  target_read(target, ends, data - CANARY_SIZE, CANARY_SIZE);
  target_read(target, ends + CANARY_SIZE, data + block->size, CANARY_SIZE);
  for (int i = 0; i < 2 * CANARY_SIZE; i++)
    if (ends[i] != CANARY)
      fail_msg("%s: wrote %s %s", target->context, i < CANARY_SIZE ? "before" : "behind", what);
  target->backend->memory_free(target->device, block->memory);
  *block = (Block){0};
}
