// The vector type of one instruction set: loads, stores and elementary functions. Included only by
// the vector_*.c files, which CMake compiles once for each set with BLOCK (floats of a vector) and
// VECTOR_SUFFIX defined. A vector holds the BLOCK channels of one pixel of a blocked value, in
// fp32 whatever the element type in memory; bf16 is rounded to nearest even when stored.
//
// BLOCK 1 is the plain layout (N, C, H, W): the same source, one channel at a time.
#ifndef IMGCLS_BACKEND_CPU_VECTOR_H
#define IMGCLS_BACKEND_CPU_VECTOR_H

#include <float.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "graph/graph.h"
#include "tensor/tensor.h"

#if BLOCK >= 8 && defined(__AVX2__)
#include <immintrin.h>
#endif

#define VECTOR_PASTE(name, suffix) name##_##suffix
#define VECTOR_EXPAND(name, suffix) VECTOR_PASTE(name, suffix)
#define VECTOR_NAME(name) VECTOR_EXPAND(name, VECTOR_SUFFIX) // name_avx2, ...

// What is templated by constant arguments (element type, activation) must be inlined to fold.
#define INLINE static inline __attribute__((always_inline))

typedef float V __attribute__((vector_size(BLOCK * 4), may_alias));
typedef float VFlat __attribute__((vector_size(BLOCK * 4), may_alias, aligned(4)));
typedef int32_t VInt __attribute__((vector_size(BLOCK * 4), may_alias));
typedef uint32_t VBits __attribute__((vector_size(BLOCK * 4), may_alias));
typedef uint16_t VHalf __attribute__((vector_size(BLOCK * 2), may_alias));

INLINE V v_splat(float value) { return value - (V){0}; }
INLINE V v_select(VInt mask, V yes, V no) { return (V)(((VInt)yes & mask) | ((VInt)no & ~mask)); }

// The larger and the smaller; the second argument where one is NaN, so keep data second.
#if BLOCK == 16
INLINE V v_max(V a, V b) { return (V)_mm512_max_ps((__m512)a, (__m512)b); }
INLINE V v_min(V a, V b) { return (V)_mm512_min_ps((__m512)a, (__m512)b); }
#elif BLOCK == 8 && defined(__AVX2__)
INLINE V v_max(V a, V b) { return (V)_mm256_max_ps((__m256)a, (__m256)b); }
INLINE V v_min(V a, V b) { return (V)_mm256_min_ps((__m256)a, (__m256)b); }
#else
INLINE V v_max(V a, V b) { return v_select(a > b, a, b); }
INLINE V v_min(V a, V b) { return v_select(a < b, a, b); }
#endif

INLINE V v_widen(VHalf half) { return (V)(__builtin_convertvector(half, VBits) << 16); }

#if BLOCK == 16 && defined(__AVX512BF16__)
INLINE VHalf v_narrow(V value) { return (VHalf)_mm512_cvtneps_pbh((__m512)value); }
#else
INLINE VHalf v_narrow(V value) {
  VBits bits = (VBits)value;
  VBits rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  VBits quiet = (bits >> 16) | 0x40; // a NaN stays one
  VBits nan = (VBits)(value != value);
  return __builtin_convertvector((quiet & nan) | (rounded & ~nan), VHalf);
}
#endif

// Pixel i of a plane whose elements are fp32 or bf16.
INLINE V v_load(const void *plane, int64_t i, DType type) {
  if (type == DTYPE_BF16) return v_widen(((const VHalf *)plane)[i]);
  return ((const V *)plane)[i];
}
INLINE void v_store(void *plane, int64_t i, V value, DType type) {
  if (type == DTYPE_BF16) ((VHalf *)plane)[i] = v_narrow(value);
  else ((V *)plane)[i] = value;
}

// v_store past the caches where a pixel is a whole line of them; parts of lines would be slower. It
// does not read the line first, which is for values that leave the caches before they are read.
// Behind the last one stands v_stream_end, for the threads that read what was written.
#if BLOCK == 16
INLINE void v_stream(void *plane, int64_t i, V value, DType type) {
  if (type == DTYPE_BF16) v_store(plane, i, value, type);
  else _mm512_stream_ps((float *)plane + i * BLOCK, (__m512)value);
}
INLINE void v_stream_end(void) { _mm_sfence(); }
#else
INLINE void v_stream(void *plane, int64_t i, V value, DType type) {
  v_store(plane, i, value, type);
}
INLINE void v_stream_end(void) {}
#endif

INLINE const void *v_at(const void *plane, int64_t i, DType type) {
  return (const char *)plane + i * (int64_t)(type == DTYPE_BF16 ? sizeof(VHalf) : sizeof(V));
}
INLINE void *v_at_mutable(void *plane, int64_t i, DType type) {
  return (char *)plane + i * (int64_t)(type == DTYPE_BF16 ? sizeof(VHalf) : sizeof(V));
}

// e^x within 2 ulp where the result is a normal number; beyond, the nearest such number. 2^n times
// a polynomial of degree 6 on [-ln 2 / 2, ln 2 / 2] (coefficients of Cephes' expf).
INLINE V v_exp(V x) {
  x = v_min(v_splat(88.3f), v_max(v_splat(-87.3f), x));
  const V round = v_splat(0x1.8p23f); // adding it leaves the integer in the low bits
  V shifted = x * 1.44269504088896341f + round;
  V n = shifted - round;
  V r = x - n * 0.693359375f;
  r = r + n * 2.12194440e-4f;
  V p = v_splat(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  VInt exponent = ((VInt)shifted - (VInt)round + 127) << 23;
  return p * (V)exponent;
}

INLINE V v_sigmoid(V x) { return 1.0f / (1.0f + v_exp(-x)); }
INLINE V v_abs(V x) { return (V)((VInt)x & 0x7fffffff); }

// Within 3 ulp: an odd polynomial near 0 (Cephes' tanhf), 1 - 2 / (e^2|x| + 1) beyond.
INLINE V v_tanh(V x) {
  V a = v_abs(x), s = x * x;
  V p = v_splat(-5.70498872745e-3f);
  p = p * s + 2.06390887954e-2f;
  p = p * s + -5.37397155531e-2f;
  p = p * s + 1.33314422036e-1f;
  p = p * s + -3.33332819422e-1f;
  V near = p * s * x + x;
  V far = 1.0f - 2.0f / (v_exp(2.0f * a) + 1.0f);
  far = (V)((VInt)far | ((VInt)x & INT32_MIN));
  return v_select(a < 0.625f, near, far);
}

INLINE V v_relu6(V x) { return v_min(v_splat(6.0f), v_max(v_splat(0.0f), x)); }
INLINE V v_inside(V x, float low, float high) { // 1 where low < x < high
  return v_select((x > low) & (x < high), v_splat(1.0f), v_splat(0.0f));
}

// act(z). `kind` must be a constant where this is called.
INLINE V v_activate(V z, ActivationKind kind) {
  switch (kind) {
  case ACTIVATION_RELU: return v_max(v_splat(0.0f), z);
  case ACTIVATION_RELU6: return v_relu6(z);
  case ACTIVATION_SWISH: return z * v_sigmoid(z);
  case ACTIVATION_SIGMOID: return v_sigmoid(z);
  case ACTIVATION_HARD_SIGMOID: return v_relu6(z + 3.0f) * (1.0f / 6.0f);
  case ACTIVATION_HARD_SWISH: return z * v_relu6(z + 3.0f) * (1.0f / 6.0f);
  case ACTIVATION_TANH: return v_tanh(z);
  default: return z;
  }
}

// act'(z); 0 at the kinks of ReLU and ReLU6, as TensorFlow.
INLINE V v_slope(V z, ActivationKind kind) {
  switch (kind) {
  case ACTIVATION_RELU: return v_select(z > 0.0f, v_splat(1.0f), v_splat(0.0f));
  case ACTIVATION_RELU6: return v_inside(z, 0.0f, 6.0f);
  case ACTIVATION_SWISH: {
    V s = v_sigmoid(z);
    return s * (1.0f + z * (1.0f - s));
  }
  case ACTIVATION_SIGMOID: {
    V s = v_sigmoid(z);
    return s * (1.0f - s);
  }
  case ACTIVATION_HARD_SIGMOID: return v_inside(z, -3.0f, 3.0f) * (1.0f / 6.0f);
  case ACTIVATION_HARD_SWISH:
    return (v_relu6(z + 3.0f) + z * v_inside(z, -3.0f, 3.0f)) * (1.0f / 6.0f);
  case ACTIVATION_TANH: {
    V t = v_tanh(z);
    return 1.0f - t * t;
  }
  default: return v_splat(1.0f);
  }
}

// The slope from the activation's result y, for the kinds that tell it exactly: ReLU, ReLU6.
INLINE V v_slope_of_result(V y, ActivationKind kind) { return v_slope(y, kind); }

// Whether a padded lane, whose z is 0, would not stay 0.
INLINE bool v_activation_moves_zero(ActivationKind kind) {
  return kind == ACTIVATION_SIGMOID || kind == ACTIVATION_HARD_SIGMOID;
}

// Calls MACRO(kind) with a constant for the value of `kind`.
#define FOR_ACTIVATION(kind, MACRO)                                                                \
  switch (kind) {                                                                                  \
  case ACTIVATION_RELU: MACRO(ACTIVATION_RELU); break;                                             \
  case ACTIVATION_RELU6: MACRO(ACTIVATION_RELU6); break;                                           \
  case ACTIVATION_SWISH: MACRO(ACTIVATION_SWISH); break;                                           \
  case ACTIVATION_SIGMOID: MACRO(ACTIVATION_SIGMOID); break;                                       \
  case ACTIVATION_HARD_SIGMOID: MACRO(ACTIVATION_HARD_SIGMOID); break;                             \
  case ACTIVATION_HARD_SWISH: MACRO(ACTIVATION_HARD_SWISH); break;                                 \
  case ACTIVATION_TANH: MACRO(ACTIVATION_TANH); break;                                             \
  default: MACRO(ACTIVATION_LINEAR); break;                                                        \
  }

#endif
