// A checker of races between the threads of an emulated kernel. The kernels are compiled with
// -fsanitize=thread, which calls a function before every access to memory; the functions are here,
// and the sanitizer's own runtime is left out, because it takes fibers for one thread.
//
// Two accesses to a byte, shared or global, conflict where at least one writes, different threads
// of one launch make them, and nothing orders them: no barrier of the block, nor of a common warp,
// lies between. That is so whatever order the emulation happens to run the threads in. Of the
// readers of a byte the last two are remembered, so a race may be missed, but none is made up. The
// first one ends the program by the kernel's name. What lies in the program's static data is shared
// memory, of which every block has its own on a device.
#include "emulation.h"

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <unordered_map>

extern "C" char __data_start, _end; // of the linker

namespace {

struct Access {
  uint32_t launch, thread, block_barriers, warp_barriers;
};

struct Byte {
  Access write, reads[2];
};

enum { PAGE_SIZE = 4096, BLOCK_SHIFT = 10, WARP_SHIFT = 5 };
struct Page {
  Byte bytes[PAGE_SIZE];
};

enum { PAGES_MAX = 4096 }; // 800 MB
std::unordered_map<uintptr_t, std::unique_ptr<Page>> pages;
uintptr_t last_number = 0;
Page *last_page = nullptr;
uint32_t last_launch = 0;

// What was done before a launch is ordered before all that it does, and may be forgotten.
void begin_launch(uint32_t launch) {
  last_launch = launch;
  if (pages.size() < PAGES_MAX) return;
  pages.clear();
  last_page = nullptr;
}

Page *page_of(uintptr_t number) {
  if (number == last_number && last_page) return last_page;
  std::unique_ptr<Page> &page = pages[number];
  if (!page) page = std::make_unique<Page>(); // zeroed: no access, as launches are counted from 1
  last_number = number;
  return last_page = page.get();
}

bool is_shared(uintptr_t at) {
  return at >= reinterpret_cast<uintptr_t>(&__data_start) &&
         at < reinterpret_cast<uintptr_t>(&_end);
}

// Whether an access of before comes first in every order of the threads.
bool is_ordered(const Access &before, const Access &now, uintptr_t at) {
  if (before.launch != now.launch || before.thread == now.thread) return true;
  if (before.thread >> BLOCK_SHIFT != now.thread >> BLOCK_SHIFT) return is_shared(at);
  if (before.block_barriers < now.block_barriers) return true;
  return before.thread >> WARP_SHIFT == now.thread >> WARP_SHIFT &&
         before.warp_barriers < now.warp_barriers;
}

[[noreturn]] void report(const Access &before, const Access &now, const char *what, uintptr_t at) {
  std::fprintf(stderr,
               "%s: race: block %u thread %u and block %u thread %u %s byte %p with no barrier "
               "between them\n",
               emulation_place.kernel, before.thread >> BLOCK_SHIFT,
               before.thread % (1 << BLOCK_SHIFT), now.thread >> BLOCK_SHIFT,
               now.thread % (1 << BLOCK_SHIFT), what, reinterpret_cast<void *>(at));
  std::abort();
}

void touch(const void *address, size_t size, bool writes) {
  const EmulationPlace &place = emulation_place;
  uintptr_t begin = reinterpret_cast<uintptr_t>(address);
  if (!place.is_device || (begin >= place.stack && begin < place.stack_end)) return;
  if (place.launch != last_launch) begin_launch(place.launch);
  Access now = {place.launch, place.thread, place.block_barriers, place.warp_barriers};
  for (uintptr_t at = begin; at < begin + size; at++) {
    Byte &byte = page_of(at / PAGE_SIZE)->bytes[at % PAGE_SIZE];
    if (!is_ordered(byte.write, now, at))
      report(byte.write, now, writes ? "write" : "write and read", at);
    if (writes) {
      for (const Access &read : byte.reads)
        if (!is_ordered(read, now, at)) report(read, now, "read and write", at);
      byte.write = now;
      continue;
    }
    if (byte.reads[0].thread != now.thread || byte.reads[0].launch != now.launch)
      byte.reads[1] = byte.reads[0];
    byte.reads[0] = now;
  }
}

} // namespace

extern "C" {

#define ACCESS(size)                                                                               \
  void __tsan_read##size(void *at) {                                                               \
    touch(at, size, false);                                                                        \
  }                                                                                                \
  void __tsan_write##size(void *at) {                                                              \
    touch(at, size, true);                                                                         \
  }                                                                                                \
  void __tsan_unaligned_read##size(void *at) {                                                     \
    touch(at, size, false);                                                                        \
  }                                                                                                \
  void __tsan_unaligned_write##size(void *at) {                                                    \
    touch(at, size, true);                                                                         \
  }
ACCESS(1)
ACCESS(2)
ACCESS(4)
ACCESS(8)
ACCESS(16)

void __tsan_init() {}
void __tsan_func_entry(void *) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void **, void *) {}
void __tsan_vptr_read(void **) {}
void __tsan_read_range(void *at, unsigned long size) {
  touch(at, size, false);
}
void __tsan_write_range(void *at, unsigned long size) {
  touch(at, size, true);
}
}
