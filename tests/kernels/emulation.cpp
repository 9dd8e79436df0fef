// Fibers for the threads of a block. See emulation.h.
//
// A fiber takes threads that have not begun, one after another, and runs each to its end; only a
// thread that must wait keeps its fiber, and then another fiber goes on with the rest. A kernel
// without barriers so runs on one fiber.
#include "emulation.h"

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <setjmp.h>
#include <ucontext.h>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

dim3 threadIdx, blockIdx, blockDim, gridDim;
EmulationPlace emulation_place;

// Where the stand-in for the runtime guards its memory, it has its own of these (tests/standin).
extern "C" {
__attribute__((weak)) void standin_touch_begin() {}
__attribute__((weak)) void standin_touch_end() {}
}

namespace {

enum { WARP = 32, STACK_SIZE = 256 << 10 };
enum Waits { RUNS, AT_BLOCK_BARRIER, AT_WARP_BARRIER, ENDED };

// Where a fiber stands. A context is entered once; from then on a jump goes there and back, because
// swapcontext asks the kernel for the signal mask every time. ASan wants swapcontext all the same.
struct Place {
  ucontext_t context;
  jmp_buf jump;
  bool is_entered;
};

struct Fiber {
  Place place;
  std::vector<char> stack;
  unsigned thread; // linear
  bool has_thread;
};

struct Block {
  const std::function<void()> *body;
  const char *kernel;
  std::vector<unsigned> order;   // threads in the order of their first run
  std::vector<Waits> state;      // of each thread
  std::vector<Fiber *> fiber;    // of each waiting thread
  std::vector<uint64_t> shuffle; // what each thread shows its warp
  std::vector<uint32_t> block_barriers, warp_barriers; // that each thread has passed
  uint32_t number;                                     // of the block in its launch
  size_t begun;                  // threads of `order` that have begun
};

std::mutex launching; // one kernel at a time: __shared__ is static
std::vector<std::unique_ptr<Fiber>> fibers; // all that were ever made
std::vector<Fiber *> idle;
Place scheduler;
Block block;
Fiber *current;
uint64_t shuffle_seed = 88172645463325252ull;

// The thread that runs from now on.
void enter_thread(const Fiber *fiber) {
  unsigned thread = fiber->thread;
  emulation_place.is_device = true;
  emulation_place.thread = block.number * 1024 + thread;
  emulation_place.block_barriers = block.block_barriers[thread];
  emulation_place.warp_barriers = block.warp_barriers[thread];
  emulation_place.stack = reinterpret_cast<uintptr_t>(fiber->stack.data());
  emulation_place.stack_end = emulation_place.stack + fiber->stack.size();
}

dim3 index_of(unsigned thread) {
  return dim3(thread % blockDim.x, thread / blockDim.x % blockDim.y,
              thread / (blockDim.x * blockDim.y));
}

#if defined(__SANITIZE_ADDRESS__)
const void *scheduler_stack;
size_t scheduler_stack_size;
#endif

void go(Place *from, Place *to) {
#if defined(__SANITIZE_ADDRESS__)
  swapcontext(&from->context, &to->context);
#else
  from->is_entered = true;
  if (_setjmp(from->jump) != 0) return;
  if (to->is_entered) _longjmp(to->jump, 1);
  setcontext(&to->context);
#endif
}

void to_scheduler() {
#if defined(__SANITIZE_ADDRESS__)
  void *fake = nullptr;
  __sanitizer_start_switch_fiber(&fake, scheduler_stack, scheduler_stack_size);
#endif
  go(&current->place, &scheduler);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fake, &scheduler_stack, &scheduler_stack_size);
#endif
}

void fiber_main() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack, &scheduler_stack_size);
#endif
  for (;;) {
    while (block.begun < block.order.size()) {
      unsigned thread = block.order[block.begun++];
      current->thread = thread;
      current->has_thread = true;
      threadIdx = index_of(thread);
      enter_thread(current);
      (*block.body)();
      block.state[thread] = ENDED;
    }
    current->has_thread = false;
    to_scheduler();
  }
}

void resume(Fiber *fiber) {
  current = fiber;
  if (fiber->has_thread) {
    threadIdx = index_of(fiber->thread);
    enter_thread(fiber);
  }
#if defined(__SANITIZE_ADDRESS__)
  void *fake = nullptr;
  __sanitizer_start_switch_fiber(&fake, fiber->stack.data(), fiber->stack.size());
#endif
  go(&scheduler, &fiber->place);
  emulation_place.is_device = false;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#endif
}

// getcontext may come back twice in the compiler's eyes, so nothing else happens in its function.
void fiber_prepare(Fiber *fiber) {
  ucontext_t *context = &fiber->place.context;
  getcontext(context);
  context->uc_stack.ss_sp = fiber->stack.data();
  context->uc_stack.ss_size = fiber->stack.size();
  context->uc_link = nullptr;
  makecontext(context, fiber_main, 0);
}

Fiber *fiber_take() {
  if (idle.empty()) {
    fibers.push_back(std::make_unique<Fiber>());
    Fiber *fiber = fibers.back().get();
    fiber->stack.resize(STACK_SIZE);
    fiber_prepare(fiber);
    return fiber;
  }
  Fiber *fiber = idle.back();
  idle.pop_back();
  return fiber;
}

void wait_as(Waits state) {
  unsigned thread = current->thread;
  block.state[thread] = state;
  block.fiber[thread] = current;
  to_scheduler();
}

// Whether every living thread of [first, end) waits for `state`.
bool all_wait(size_t first, size_t end, Waits state) {
  bool any = false;
  for (size_t i = first; i < end; i++) {
    if (block.state[i] == ENDED) continue;
    if (block.state[i] != state) return false;
    any = true;
  }
  return any;
}

bool release(size_t first, size_t end, Waits state, std::vector<unsigned> &ready) {
  if (!all_wait(first, end, state)) return false;
  for (unsigned i : block.order)
    if (i >= first && i < end && block.state[i] == state) {
      block.state[i] = RUNS;
      (state == AT_BLOCK_BARRIER ? block.block_barriers : block.warp_barriers)[i]++;
      ready.push_back(i);
    }
  return true;
}

void run_fiber(Fiber *fiber) {
  resume(fiber);
  if (!fiber->has_thread) idle.push_back(fiber);
}

void run_block() {
  size_t threads = block.order.size();
  while (block.begun < threads) run_fiber(fiber_take());
  std::vector<unsigned> ready;
  for (;;) {
    ready.clear();
    if (!release(0, threads, AT_BLOCK_BARRIER, ready))
      for (size_t first = 0; first < threads; first += WARP)
        release(first, first + WARP < threads ? first + WARP : threads, AT_WARP_BARRIER, ready);
    for (unsigned thread : ready) run_fiber(block.fiber[thread]);
    if (!ready.empty()) continue;
    for (size_t i = 0; i < threads; i++)
      if (block.state[i] != ENDED) {
        std::fprintf(stderr, "%s: block (%u, %u, %u): a barrier that only some threads reach\n",
                     block.kernel, blockIdx.x, blockIdx.y, blockIdx.z);
        std::abort();
      }
    return;
  }
}

void order_threads() {
  const char *order = std::getenv("EMULATION_ORDER");
  size_t threads = block.order.size();
  for (size_t i = 0; i < threads; i++) block.order[i] = (unsigned)i;
  if (!order || std::strcmp(order, "forward") == 0) return;
  for (size_t i = 0; i + 1 < threads; i++) {
    size_t j = threads - 1 - i;
    if (std::strcmp(order, "shuffled") == 0) {
      shuffle_seed ^= shuffle_seed << 13;
      shuffle_seed ^= shuffle_seed >> 7;
      shuffle_seed ^= shuffle_seed << 17;
      j = i + shuffle_seed % (threads - i);
    } else if (j <= i) break;
    std::swap(block.order[i], block.order[j]);
  }
}

} // namespace

void emulation_launch(const char *name, dim3 grid, dim3 threads, const std::function<void()> &body) {
  std::lock_guard<std::mutex> lock(launching);
  size_t count = (size_t)threads.x * threads.y * threads.z;
  if (count == 0 || count > 1024 || threads.z > 64 || grid.x == 0 || grid.y == 0 || grid.z == 0 ||
      grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535) {
    std::fprintf(stderr, "%s: grid (%u, %u, %u) of blocks (%u, %u, %u): no device takes it\n", name,
                 grid.x, grid.y, grid.z, threads.x, threads.y, threads.z);
    std::abort();
  }
  standin_touch_begin();
  gridDim = grid;
  blockDim = threads;
  block.body = &body;
  block.kernel = emulation_place.kernel = name;
  block.number = 0;
  emulation_place.launch++;
  block.order.resize(count);
  block.fiber.assign(count, nullptr);
  block.shuffle.assign((count + WARP - 1) / WARP * WARP, 0);
  for (unsigned z = 0; z < grid.z; z++)
    for (unsigned y = 0; y < grid.y; y++)
      for (unsigned x = 0; x < grid.x; x++) {
        blockIdx = dim3(x, y, z);
        order_threads();
        block.state.assign(count, RUNS);
        block.block_barriers.assign(count, 0);
        block.warp_barriers.assign(count, 0);
        block.begun = 0;
        run_block();
        block.number++;
      }
  standin_touch_end();
}

void emulation_sync_block() { wait_as(AT_BLOCK_BARRIER); }
void emulation_sync_warp() { wait_as(AT_WARP_BARRIER); }

uint64_t emulation_shuffle(uint64_t bits, int lane_xor) {
  unsigned thread = current->thread;
  block.shuffle[thread] = bits;
  emulation_sync_warp();
  uint64_t other = block.shuffle[thread ^ (unsigned)lane_xor];
  emulation_sync_warp();
  return other;
}

uint16_t emulation_to_bf16(float value) {
  uint32_t bits = __float_as_uint(value);
  if ((bits & 0x7fffffff) > 0x7f800000) return 0x7fff; // as cvt.rn.bf16: one NaN
  return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

uint16_t emulation_to_f16(float value) {
  uint32_t bits = __float_as_uint(value), sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return 0x7fff;
  if (magnitude >= 0x477ff000) return (uint16_t)(sign | 0x7c00); // rounds to 65536 or more
  if (magnitude < 0x38800000) { // below 2^-14: a multiple of 2^-24
    float scaled = std::nearbyint(std::fabs(value) * 0x1p24f);
    return (uint16_t)(sign | (uint32_t)scaled);
  }
  uint32_t rounded = magnitude + 0xfff + (magnitude >> 13 & 1);
  return (uint16_t)(sign | ((rounded - 0x38000000) >> 13));
}

float emulation_from_f16(uint16_t half) {
  uint32_t sign = (uint32_t)(half & 0x8000) << 16, magnitude = half & 0x7fff;
  if (magnitude < 0x400) {
    float value = (float)magnitude * 0x1p-24f;
    return sign ? -value : value;
  }
  uint32_t exponent = magnitude >= 0x7c00 ? 0x70000000 : 0x38000000;
  return __uint_as_float(sign | ((magnitude << 13) + exponent));
}
