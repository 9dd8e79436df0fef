// Fibers for the threads of a block. See emulation.h.
//
// A fiber takes threads that have not begun, one after another, and runs each to its end; only a
// thread that must wait keeps its fiber, and then another fiber goes on with the rest. A kernel
// without barriers so runs on one fiber.
#include "emulation.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <mutex>
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
__attribute__((weak)) void standin_pass_time(double) {}
// Whether it takes work that stands on a stream, to do it later.
__attribute__((weak)) bool standin_stream_takes(CUstream_st *, void (*)(void *), void (*)(void *),
                                                void *) {
  return false;
}
__attribute__((weak)) int standin_stream_number(CUstream_st *) { return 0; }
}

namespace {

enum { WARP = 32, STACK_SIZE = 256 << 10 };
enum Waits { RUNS, AT_BLOCK_BARRIER, AT_WARP_BARRIER, ENDED };

// Where a fiber stands. A context is entered once; from then on a jump goes there and back, because
// swapcontext asks the kernel for the signal mask every time, and longjmp looks for cleanup
// handlers. ASan wants swapcontext all the same.
struct Place {
  ucontext_t context;
  void *jump[5];
  bool is_entered;
};

struct Fiber {
  Place place;
  std::vector<char> stack;
  unsigned thread; // linear
  bool has_thread;
};

// Threads that meet at a barrier: a warp, or the whole block.
struct Group {
  std::vector<unsigned> order; // of their first run
  size_t waiting, ended;
};

struct Block {
  const std::function<void()> *body;
  const char *kernel;
  Group all;
  std::vector<Group> warps;
  std::vector<dim3> index;                             // of each thread
  std::vector<Waits> state;                            // of each thread
  std::vector<Fiber *> fiber;                          // of each waiting thread
  std::vector<uint64_t> shuffle;                       // what each thread shows its warp
  std::vector<uint32_t> block_barriers, warp_barriers; // that each thread has passed
  uint32_t number;                                     // of the block in its launch
  size_t begun;                                        // threads of `all.order` that have begun
};

std::mutex launching;                       // one kernel at a time: __shared__ is static
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

#if defined(__SANITIZE_ADDRESS__)
const void *scheduler_stack;
size_t scheduler_stack_size;
#endif

#if !defined(__SANITIZE_ADDRESS__)
[[noreturn, gnu::noinline]] void jump_to(Place *place) {
  if (place->is_entered) __builtin_longjmp(place->jump, 1);
  setcontext(&place->context);
  std::abort(); // setcontext comes back only if it fails
}
#endif

[[gnu::noinline]] void go(Place *from, Place *to) {
#if defined(__SANITIZE_ADDRESS__)
  swapcontext(&from->context, &to->context);
#else
  from->is_entered = true;
  if (__builtin_setjmp(from->jump) == 0) jump_to(to);
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
    while (block.begun < block.all.order.size()) {
      unsigned thread = block.all.order[block.begun++];
      current->thread = thread;
      current->has_thread = true;
      threadIdx = block.index[thread];
      enter_thread(current);
      (*block.body)();
      block.state[thread] = ENDED;
      block.all.ended++;
      block.warps[thread / WARP].ended++;
    }
    current->has_thread = false;
    to_scheduler();
  }
}

void resume(Fiber *fiber) {
  current = fiber;
  if (fiber->has_thread) {
    threadIdx = block.index[fiber->thread];
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
  (state == AT_BLOCK_BARRIER ? block.all : block.warps[thread / WARP]).waiting++;
  to_scheduler();
}

// Lets the threads of a group go on where all that live wait at its barrier.
void release(Group *group, Waits state, std::vector<unsigned> &ready) {
  if (group->waiting == 0 || group->waiting + group->ended < group->order.size()) return;
  group->waiting = 0;
  for (unsigned i : group->order)
    if (block.state[i] == state) {
      block.state[i] = RUNS;
      (state == AT_BLOCK_BARRIER ? block.block_barriers : block.warp_barriers)[i]++;
      ready.push_back(i);
    }
}

void run_fiber(Fiber *fiber) {
  resume(fiber);
  if (!fiber->has_thread) idle.push_back(fiber);
}

void run_block() {
  size_t threads = block.all.order.size();
  while (block.begun < threads) run_fiber(fiber_take());
  static std::vector<unsigned> ready;
  for (;;) {
    ready.clear();
    release(&block.all, AT_BLOCK_BARRIER, ready);
    for (Group &warp : block.warps) release(&warp, AT_WARP_BARRIER, ready);
    for (unsigned thread : ready) run_fiber(block.fiber[thread]);
    if (!ready.empty()) continue;
    if (block.all.ended == threads) return;
    std::fprintf(stderr, "%s: block (%u, %u, %u): a barrier that only some threads reach\n",
                 block.kernel, blockIdx.x, blockIdx.y, blockIdx.z);
    std::abort();
  }
}

// EMULATION_ORDER's `order`, or forward.
void order_threads(const char *order) {
  std::vector<unsigned> &threads = block.all.order;
  size_t count = threads.size();
  for (size_t i = 0; i < count; i++) threads[i] = (unsigned)i;
  if (order && std::strcmp(order, "backward") == 0)
    std::reverse(threads.begin(), threads.end());
  else if (order && std::strcmp(order, "shuffled") == 0)
    for (size_t i = 0; i + 1 < count; i++) {
      shuffle_seed ^= shuffle_seed << 13;
      shuffle_seed ^= shuffle_seed >> 7;
      shuffle_seed ^= shuffle_seed << 17;
      std::swap(threads[i], threads[i + shuffle_seed % (count - i)]);
    }
  for (Group &warp : block.warps) warp.order.clear();
  for (unsigned thread : threads) block.warps[thread / WARP].order.push_back(thread);
}

// Room for a launch's blocks, of `count` threads each.
void prepare_blocks(size_t count) {
  block.all.order.resize(count);
  block.warps.resize((count + WARP - 1) / WARP);
  block.fiber.assign(count, nullptr);
  block.shuffle.assign(block.warps.size() * WARP, 0);
  block.index.clear();
  for (unsigned z = 0; z < blockDim.z; z++)
    for (unsigned y = 0; y < blockDim.y; y++)
      for (unsigned x = 0; x < blockDim.x; x++) block.index.push_back(dim3(x, y, z));
}

void begin_block(dim3 index) {
  blockIdx = index;
  block.state.assign(block.all.order.size(), RUNS);
  block.block_barriers.assign(block.all.order.size(), 0);
  block.warp_barriers.assign(block.all.order.size(), 0);
  block.begun = block.all.waiting = block.all.ended = 0;
  for (Group &warp : block.warps) warp.waiting = warp.ended = 0;
}

void launch(const char *name, dim3 grid, dim3 threads, const std::function<void()> &body) {
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
  prepare_blocks(count);
  const char *order = std::getenv("EMULATION_ORDER");
  bool changes = order && std::strcmp(order, "shuffled") == 0;
  order_threads(order);
  for (unsigned z = 0; z < grid.z; z++)
    for (unsigned y = 0; y < grid.y; y++)
      for (unsigned x = 0; x < grid.x; x++) {
        if (changes && block.number > 0) order_threads(order);
        begin_block(dim3(x, y, z));
        run_block();
        block.number++;
      }
  standin_touch_end();
  standin_pass_time(1.0); // microseconds of the stand-in's device
}

// What a graph keeps of a launch: its arguments as they were.
struct Launch {
  int stream; // its number
  const char *name;
  dim3 grid, threads;
  std::function<void()> body;
};

void trace(const Launch *kept) {
  static const char *path = std::getenv("STANDIN_TRACE");
  static std::FILE *file = path ? std::fopen(path, "a") : nullptr;
  if (file) std::fprintf(file, "%d %s\n", kept->stream, kept->name);
}

void run_launch(void *context) {
  const Launch *kept = static_cast<const Launch *>(context);
  trace(kept);
  launch(kept->name, kept->grid, kept->threads, kept->body);
}

void drop_launch(void *context) {
  delete static_cast<Launch *>(context);
}

} // namespace

void emulation_launch(CUstream_st *stream, const char *name, dim3 grid, dim3 threads,
                      std::function<void()> body) {
  std::unique_ptr<Launch> kept(
      new Launch{standin_stream_number(stream), name, grid, threads, std::move(body)});
  if (standin_stream_takes(stream, run_launch, drop_launch, kept.get())) (void)kept.release();
  else run_launch(kept.get());
}

void emulation_refuse(const char *what) {
  std::fprintf(stderr, "%s: %s\n", emulation_place.kernel ? emulation_place.kernel : "no kernel",
               what);
  std::abort();
}

void emulation_sync_block() {
  wait_as(AT_BLOCK_BARRIER);
}
void emulation_sync_warp() {
  wait_as(AT_WARP_BARRIER);
}

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
  if (magnitude < 0x38800000) {                                  // below 2^-14: a multiple of 2^-24
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
