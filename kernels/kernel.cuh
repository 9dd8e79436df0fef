// What every kernel shares: element types, 16-byte loads and stores, activations, launching.
//
// A value (n, H, W, C) lies in memory as NHWC with C rounded up to whole packs of 16 bytes; lanes
// beyond C hold zeros, always, so that no kernel has a tail. A thread works on one pack at a time:
// 8 channels of a 16-bit type, 4 of fp32. Arithmetic and sums are fp32.
//
// The same source compiles for the host under IMGCLS_EMULATION, so tests run every kernel without a
// GPU.
#ifndef IMGCLS_KERNELS_KERNEL_CUH
#define IMGCLS_KERNELS_KERNEL_CUH

#include "kernels.h"

#include <cstdint>

#ifdef IMGCLS_EMULATION
#include "emulation.h"
#define KERNEL_REFUSE(what) emulation_refuse(what)
#else
#define KERNEL_REFUSE(what) (void)0 // what the emulation refuses is in no program
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#define KERNEL_LAUNCH(kernel, grid, block, stream, ...)                                            \
  (kernel)<<<grid, block, 0, stream>>>(__VA_ARGS__)
#endif

enum { WARP_SIZE = 32, BLOCK_THREADS = 256 };

struct Bf16 {
  uint16_t bits;
};
struct F16 {
  uint16_t bits;
};
struct Row { // fp32 of rank 1: dense, a pack is one number
  float value;
};

__device__ __forceinline__ float to_float(float value) { return value; }
__device__ __forceinline__ float to_float(Bf16 value) {
  return __uint_as_float((uint32_t)value.bits << 16);
}

#ifdef IMGCLS_EMULATION
static inline float to_float(F16 value) { return emulation_from_f16(value.bits); }
static inline uint16_t bf16_bits(float value) { return emulation_to_bf16(value); }
static inline uint16_t f16_bits(float value) { return emulation_to_f16(value); }
static inline float hardware_exp(float x) { return emulation_exp(x); }
static inline float hardware_reciprocal(float x) { return 1.0f / x; }
#else
__device__ __forceinline__ float to_float(F16 value) {
  return __half2float(__ushort_as_half(value.bits));
}
__device__ __forceinline__ uint16_t bf16_bits(float value) {
  return __bfloat16_as_ushort(__float2bfloat16_rn(value));
}
__device__ __forceinline__ uint16_t f16_bits(float value) {
  return __half_as_ushort(__float2half_rn(value));
}
__device__ __forceinline__ float hardware_exp(float x) { return __expf(x); }
__device__ __forceinline__ float hardware_reciprocal(float x) { return __fdividef(1.0f, x); }
#endif

__device__ __forceinline__ float to_float(Row row) { return row.value; }
__device__ __forceinline__ void put(float *to, float value) { *to = value; }
__device__ __forceinline__ void put(Row *to, float value) { to->value = value; }
__device__ __forceinline__ void put(Bf16 *to, float value) { to->bits = bf16_bits(value); }
__device__ __forceinline__ void put(F16 *to, float value) { to->bits = f16_bits(value); }

// The channels of one pack, in fp32.
template <class T> struct Pack {
  static constexpr int LANES = 16 / (int)sizeof(T);
  float lane[LANES];
};

template <> struct Pack<Row> {
  static constexpr int LANES = 1;
  float lane[LANES];
};

static __host__ __device__ __forceinline__ bool is_aligned(const void *memory) {
  return ((uintptr_t)memory & 15) == 0;
}

// Memory as packs: a GPU faults where it does not begin on 16 bytes.
template <class T> __device__ __forceinline__ const uint4 *packs_at(const T *memory) {
  if (!is_aligned(memory)) KERNEL_REFUSE("a pack that does not begin on 16 bytes");
  return reinterpret_cast<const uint4 *>(memory);
}

// The memory of a pack as it comes. A thread waits where it unpacks one: what it has fetched by then is
// under way together.
template <class T> struct PackBits {
  uint4 bits;
};
template <> struct PackBits<Row> {
  float value;
};

template <class T> __device__ __forceinline__ Pack<T> unpack(const PackBits<T> &pack) {
  union {
    uint4 bits;
    T lane[Pack<T>::LANES];
  } memory;
  memory.bits = pack.bits;
  Pack<T> out;
  for (int l = 0; l < Pack<T>::LANES; l++) out.lane[l] = to_float(memory.lane[l]);
  return out;
}
// One instruction a channel; to cut a half out first would take two for every other one.
__device__ __forceinline__ Pack<Bf16> unpack(const PackBits<Bf16> &pack) {
  const uint32_t words[4] = {pack.bits.x, pack.bits.y, pack.bits.z, pack.bits.w};
  Pack<Bf16> out;
  for (int w = 0; w < 4; w++) {
    out.lane[2 * w] = __uint_as_float(words[w] << 16);
    out.lane[2 * w + 1] = __uint_as_float(words[w] & 0xffff0000u);
  }
  return out;
}
__device__ __forceinline__ Pack<Row> unpack(const PackBits<Row> &pack) { return {{pack.value}}; }

// One 16-byte access each. `pack` counts packs from `from`.
template <class T> __device__ __forceinline__ PackBits<T> fetch(const T *from, int64_t pack) {
  return {packs_at(from)[pack]};
}
__device__ __forceinline__ PackBits<Row> fetch(const Row *from, int64_t pack) {
  return {from[pack].value};
}
template <class T> __device__ __forceinline__ Pack<T> load(const T *from, int64_t pack) {
  return unpack(fetch(from, pack));
}

template <class T> __device__ __forceinline__ void store(T *to, int64_t pack, const Pack<T> &in) {
  union {
    uint4 bits;
    T lane[Pack<T>::LANES];
  } memory;
  for (int l = 0; l < Pack<T>::LANES; l++) put(&memory.lane[l], in.lane[l]);
  const_cast<uint4 *>(packs_at(to))[pack] = memory.bits;
}

__device__ __forceinline__ void store(Row *to, int64_t pack, const Pack<Row> &in) {
  to[pack].value = in.lane[0];
}

template <class T> __device__ __forceinline__ Pack<T> pack_of(float value) {
  Pack<T> out;
  for (int l = 0; l < Pack<T>::LANES; l++) out.lane[l] = value;
  return out;
}

template <class T> __device__ __forceinline__ void add_to(Pack<T> &sum, const Pack<T> &more) {
  for (int l = 0; l < Pack<T>::LANES; l++) sum.lane[l] += more.lane[l];
}

// dy, or dy + dy2 where there is a second contribution; dy may be a slice, whose pack is `at`.
template <class T> struct SumBits {
  PackBits<T> dy, dy2;
};
template <class T>
__device__ __forceinline__ SumBits<T> fetch_sum(const T *dy, int64_t at, const T *dy2,
                                                int64_t pack) {
  SumBits<T> read = {fetch(dy, at), {}};
  if (dy2) read.dy2 = fetch(dy2, pack);
  return read;
}
template <class T>
__device__ __forceinline__ Pack<T> unpack_sum(const SumBits<T> &read, bool has_second) {
  Pack<T> sum = unpack(read.dy);
  if (has_second) add_to(sum, unpack(read.dy2));
  return sum;
}
template <class T>
__device__ __forceinline__ Pack<T> load_sum(const T *dy, int64_t at, const T *dy2, int64_t pack) {
  return unpack_sum(fetch_sum(dy, at, dy2, pack), dy2 != nullptr);
}

// Goes from `begin` to `end` by `stride`, in order: `use` takes what `read` fetched, and unpacks it. COUNT
// are fetched before the first is used, so that a thread has so many under way.
template <int COUNT, class Read, class Use>
__device__ __forceinline__ void in_batches(int64_t begin, int64_t end, int64_t stride, Read read,
                                           Use use) {
  for (int64_t p = begin; p < end; p += COUNT * stride) {
    decltype(read(p)) batch[COUNT] = {};
    for (int b = 0; b < COUNT; b++)
      if (p + b * stride < end) batch[b] = read(p + b * stride);
    for (int b = 0; b < COUNT; b++)
      if (p + b * stride < end) use(p + b * stride, batch[b]);
  }
}

// Where a value with `packs` to a pixel and `pitch` from one to the next has its i-th pack.
__device__ __forceinline__ int64_t pitched(int64_t i, int packs, int pitch) {
  return pitch == packs ? i : i / packs * pitch + i % packs;
}

// Channels first ... of a fp32 vector of `channels`; `beyond` where it ends or is NULL. 16 bytes at a
// time where that can be, as it can for channels by fours: one by one, the loads of a pack's channels
// would cost more than those of the pack.
template <class T>
__device__ __forceinline__ Pack<T> load_channels(const float *from, int first, int channels,
                                                 float beyond) {
  Pack<T> out;
  if (Pack<T>::LANES >= 4 && from && first + Pack<T>::LANES <= channels &&
      is_aligned(from + first)) {
    const float4 *fours = reinterpret_cast<const float4 *>(from + first);
    for (int q = 0; q < Pack<T>::LANES / 4; q++) {
      float4 four = fours[q];
      out.lane[4 * q] = four.x;
      out.lane[4 * q + 1] = four.y;
      out.lane[4 * q + 2] = four.z;
      out.lane[4 * q + 3] = four.w;
    }
    return out;
  }
  for (int l = 0; l < Pack<T>::LANES; l++)
    out.lane[l] = from && first + l < channels ? from[first + l] : beyond;
  return out;
}

// --- activations ----------------------------------------------------------------------------------

// A NaN stays one, as on the CPU: fmaxf would hide that a training has diverged.
__device__ __forceinline__ float relu(float z) { return z <= 0.0f ? 0.0f : z; }
__device__ __forceinline__ float relu6(float z) { return z > 6.0f ? 6.0f : relu(z); }
// Off by less than 2^-23: e^-z by 2 + 1.16 |z| units in its last place, of which s (1 - s) counts. With
// expf and a division a swish would compute longer than its memory takes.
__device__ __forceinline__ float sigmoid(float z) {
  return hardware_reciprocal(1.0f + hardware_exp(-z));
}

template <KernelActivation KIND> __device__ __forceinline__ float activate(float z) {
  switch (KIND) {
  case KERNEL_RELU: return relu(z);
  case KERNEL_RELU6: return relu6(z);
  case KERNEL_SWISH: return z * sigmoid(z);
  case KERNEL_SIGMOID: return sigmoid(z);
  case KERNEL_HARD_SIGMOID: return relu6(z + 3.0f) * (1.0f / 6.0f);
  case KERNEL_HARD_SWISH: return z * relu6(z + 3.0f) * (1.0f / 6.0f);
  case KERNEL_TANH: return tanhf(z);
  default: return z;
  }
}

// The derivative of the activation at z.
template <KernelActivation KIND> __device__ __forceinline__ float slope(float z) {
  switch (KIND) {
  case KERNEL_RELU: return z > 0.0f ? 1.0f : 0.0f;
  case KERNEL_RELU6: return z > 0.0f && z < 6.0f ? 1.0f : 0.0f;
  case KERNEL_SWISH: {
    float s = sigmoid(z);
    return s * (1.0f + z * (1.0f - s));
  }
  case KERNEL_SIGMOID: {
    float s = sigmoid(z);
    return s * (1.0f - s);
  }
  case KERNEL_HARD_SIGMOID: return z > -3.0f && z < 3.0f ? 1.0f / 6.0f : 0.0f;
  case KERNEL_HARD_SWISH:
    return (relu6(z + 3.0f) + (z > -3.0f && z < 3.0f ? z : 0.0f)) * (1.0f / 6.0f);
  case KERNEL_TANH: {
    float t = tanhf(z);
    return 1.0f - t * t;
  }
  default: return 1.0f;
  }
}

// Whether the activation of 0 is not 0: lanes beyond C must be cleared behind it.
template <KernelActivation KIND> __device__ constexpr bool moves_zero() {
  return KIND == KERNEL_SIGMOID || KIND == KERNEL_HARD_SIGMOID;
}

// --- choosing an instance -------------------------------------------------------------------------

// Calls MACRO(T) with the element type `type`; rows are no type of what works on pixels alone.
#define FOR_TYPE(type, MACRO)                                                                      \
  switch (type) {                                                                                  \
  case KERNEL_BF16: MACRO(Bf16); break;                                                            \
  case KERNEL_F16: MACRO(F16); break;                                                              \
  case KERNEL_F32: MACRO(float); break;                                                            \
  default: KERNEL_REFUSE("vectors where there must be pixels");                                    \
  }

#define FOR_TYPE_OR_ROW(type, MACRO)                                                               \
  switch (type) {                                                                                  \
  case KERNEL_ROW: MACRO(Row); break;                                                              \
  case KERNEL_BF16: MACRO(Bf16); break;                                                            \
  case KERNEL_F16: MACRO(F16); break;                                                              \
  default: MACRO(float); break;                                                                    \
  }

// Calls MACRO(T, KIND).
#define FOR_ACTIVATION(kind, T, MACRO)                                                             \
  switch (kind) {                                                                                  \
  case KERNEL_RELU: MACRO(T, KERNEL_RELU); break;                                                  \
  case KERNEL_RELU6: MACRO(T, KERNEL_RELU6); break;                                                \
  case KERNEL_SWISH: MACRO(T, KERNEL_SWISH); break;                                                \
  case KERNEL_SIGMOID: MACRO(T, KERNEL_SIGMOID); break;                                            \
  case KERNEL_HARD_SIGMOID: MACRO(T, KERNEL_HARD_SIGMOID); break;                                  \
  case KERNEL_HARD_SWISH: MACRO(T, KERNEL_HARD_SWISH); break;                                      \
  case KERNEL_TANH: MACRO(T, KERNEL_TANH); break;                                                  \
  default: MACRO(T, KERNEL_LINEAR); break;                                                         \
  }

// --- launching ------------------------------------------------------------------------------------

constexpr int64_t SAMPLES_MAX = 65535; // what grid.y and grid.z hold

static inline unsigned blocks_for(int64_t items, int64_t per_block) {
  return (unsigned)((items + per_block - 1) / per_block);
}

__device__ __forceinline__ int64_t global_thread() {
  return (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
}

// Packs of one pixel of `channels` channels.
template <class T> static __host__ __device__ __forceinline__ int packs_of(int64_t channels) {
  return (int)((channels + Pack<T>::LANES - 1) / Pack<T>::LANES);
}

// A launcher's pitch in packs.
template <class T> static inline int pitch_of(int pitch, int64_t channels) {
  return pitch > 0 ? pitch / Pack<T>::LANES : packs_of<T>(channels);
}

#endif
