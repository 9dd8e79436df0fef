// CUDA's execution model on the host, as far as kernels/ uses it, so that every kernel's logic runs
// without a GPU: blocks one after another, the threads of a block as fibers that change place at
// barriers and shuffles only. Included by kernels/kernel.cuh in place of the CUDA headers.
//
// Shared memory is static and device memory of exact size, so ASan guards their ends. What threads
// do between two barriers happens in an order that EMULATION_ORDER chooses (forward, backward,
// shuffled); races.cpp finds what no barrier orders, whatever the order. A barrier that some
// threads never reach ends the program by name, as does what faults on a GPU alone (a pack that does
// not begin on 16 bytes).
#ifndef IMGCLS_TESTS_KERNELS_EMULATION_H
#define IMGCLS_TESTS_KERNELS_EMULATION_H

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>

#define __global__ static
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __shared__ static
#define __launch_bounds__(...)

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};
struct alignas(16) float4 {
  float x, y, z, w;
};

extern dim3 threadIdx, blockIdx, blockDim, gridDim;

// Where the running thread stands, for a checker of races (races.cpp).
struct EmulationPlace {
  bool is_device; // a thread of a kernel, not the host
  const char *kernel;
  uint32_t launch;                        // counted
  uint32_t thread;                        // of the launch: block * 1024 + thread of the block
  uint32_t block_barriers, warp_barriers; // that the thread has passed
  uintptr_t stack, stack_end;             // its own
};
extern EmulationPlace emulation_place;

// Runs `body` for every thread of every block, now, or as often as a graph is launched where the
// stand-in of the runtime records the stream.
void emulation_launch(struct CUstream_st *stream, const char *name, dim3 grid, dim3 block,
                      std::function<void()> body);
// Ends the program: the kernel does what no device takes.
[[noreturn]] void emulation_refuse(const char *what);
void emulation_sync_block();
void emulation_sync_warp();
uint64_t emulation_shuffle(uint64_t bits, int lane_xor);

static inline void __syncthreads() { emulation_sync_block(); }
static inline void __syncwarp() { emulation_sync_warp(); }

template <class T> T __shfl_xor_sync(unsigned, T value, int lane_xor) {
  static_assert(sizeof(T) <= sizeof(uint64_t), "a shuffle moves at most 8 bytes");
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  bits = emulation_shuffle(bits, lane_xor);
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// As the hardware does it: a power of 2, of a product that is rounded.
static inline float emulation_exp(float x) { return exp2f(x * 1.44269504f); }
static inline float __uint_as_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
static inline uint32_t __float_as_uint(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

// Rounded one by one; -ffp-contract=off keeps the compiler from joining them.
static inline float __fadd_rn(float a, float b) {
  return a + b;
}
static inline float __fmul_rn(float a, float b) {
  return a * b;
}
static inline float __fdiv_rn(float a, float b) {
  return a / b;
}
static inline double __dadd_rn(double a, double b) {
  return a + b;
}
static inline double __dmul_rn(double a, double b) {
  return a * b;
}

// Round to nearest, ties to even, as the hardware's conversions.
uint16_t emulation_to_bf16(float value);
uint16_t emulation_to_f16(float value);
float emulation_from_f16(uint16_t bits);

#define KERNEL_LAUNCH(kernel, grid, block, stream, ...)                                            \
  emulation_launch(stream, #kernel, grid, block, [=] { (kernel)(__VA_ARGS__); })

#endif
