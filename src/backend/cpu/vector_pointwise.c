// Kernels that go over the pixels of one plane: activations, sums, scalings. See vector_kernels.h.
#include "backend/cpu/vector.h"
#include "backend/cpu/vector_kernels.h"

// Planes are copied to locals, so that the compiler keeps their fields in registers across stores.

INLINE V sum_at(const PointwisePlane *p, int64_t i, DType type) {
  V z = v_load(p->a, i, type);
  if (!p->b) return z;
  V b = v_load(p->b, i, type);
  if (p->scale) b *= *(const V *)p->scale;
  return z + b;
}

INLINE V gradient_at(const PointwisePlane *p, int64_t i, DType type) {
  V dy = v_load(p->dy, i, type);
  if (p->dy2) dy += v_load(p->dy2, i, type);
  return dy;
}

INLINE void activate_as(const PointwisePlane p, DType type, ActivationKind kind) {
  const V lanes = *(const V *)p.lanes;
  for (int64_t i = 0; i < p.pixels; i++) {
    V y = v_activate(sum_at(&p, i, type), kind);
    if (v_activation_moves_zero(kind)) y *= lanes;
    v_store(p.y, i, y, type);
  }
}

INLINE void slope_as(const PointwisePlane p, DType type, ActivationKind kind) {
  for (int64_t i = 0; i < p.pixels; i++) {
    V dz = gradient_at(&p, i, type);
    if (kind != ACTIVATION_LINEAR) dz *= v_slope(sum_at(&p, i, type), kind);
    if (p.da) v_store(p.da, i, dz, type);
    if (p.scale) dz *= *(const V *)p.scale;
    if (p.db) v_store(p.db, i, dz, type);
  }
}

INLINE void activate(const PointwisePlane *plane, DType type){
#define ACTIVATE(kind) activate_as(*plane, type, kind)
    FOR_ACTIVATION(plane->activation, ACTIVATE)}

INLINE void activate_backward(const PointwisePlane *plane, DType type){
#define SLOPE(kind) slope_as(*plane, type, kind)
    FOR_ACTIVATION(plane->activation, SLOPE)}

INLINE void scale(const PointwisePlane p, DType type) {
  const V factor = *(const V *)p.scale, shift = p.shift ? *(const V *)p.shift : v_splat(0.0f);
  for (int64_t i = 0; i < p.pixels; i++) {
    V y = v_load(p.a, i, type) * factor + shift;
    if (p.b) y += v_load(p.b, i, type);
    v_store(p.y, i, y, type);
  }
}

INLINE void scale_backward(const PointwisePlane p, DType type) {
  const V factor = *(const V *)p.scale;
  for (int64_t i = 0; i < p.pixels; i++) {
    V dy = gradient_at(&p, i, type);
    if (p.da) v_store(p.da, i, dy * factor, type);
    if (p.db) v_store(p.db, i, dy, type);
  }
}

INLINE V product_at(const void *a, const void *b, int64_t i, DType type) {
  V product = v_load(a, i, type);
  if (b) product *= v_load(b, i, type);
  return product;
}

// Chunks keep rounding from growing with the image; four partial sums hide the latency.
INLINE void sum(const void *a, const void *b, int64_t pixels, float *sums, DType type) {
  enum { CHUNK = 256 };
  V total = {0};
  for (int64_t begin = 0; begin < pixels; begin += CHUNK) {
    int64_t end = begin + CHUNK < pixels ? begin + CHUNK : pixels, i = begin;
    V part[4] = {{0}};
    for (; i + 4 <= end; i += 4)
      for (int k = 0; k < 4; k++) part[k] += product_at(a, b, i + k, type);
    for (; i < end; i++) part[0] += product_at(a, b, i, type);
    total += (part[0] + part[1]) + (part[2] + part[3]);
  }
  *(V *)sums = total;
}

INLINE void fill(void *y, const float *value, int64_t pixels, DType type) {
  const V v = *(const V *)value;
  for (int64_t i = 0; i < pixels; i++) v_store(y, i, v, type);
}

#define KERNELS(suffix, type)                                                                      \
  static void activate_##suffix(const PointwisePlane *p) {                                         \
    activate(p, type);                                                                             \
  }                                                                                                \
  static void activate_backward_##suffix(const PointwisePlane *p) {                                \
    activate_backward(p, type);                                                                    \
  }                                                                                                \
  static void scale_##suffix(const PointwisePlane *p) {                                            \
    scale(*p, type);                                                                               \
  }                                                                                                \
  static void scale_backward_##suffix(const PointwisePlane *p) {                                   \
    scale_backward(*p, type);                                                                      \
  }                                                                                                \
  static void sum_##suffix(const void *a, const void *b, int64_t pixels, float *sums) {            \
    if (b)                                                                                         \
      sum(a, b, pixels, sums, type);                                                               \
    else                                                                                           \
      sum(a, NULL, pixels, sums, type);                                                            \
  }                                                                                                \
  static void fill_##suffix(void *y, const float *value, int64_t pixels) {                         \
    fill(y, value, pixels, type);                                                                  \
  }
KERNELS(f32, DTYPE_F32)
KERNELS(bf16, DTYPE_BF16)

#define TABLE(suffix)                                                                              \
  {                                                                                                \
    .activate = activate_##suffix, .activate_backward = activate_backward_##suffix,                \
    .scale = scale_##suffix, .scale_backward = scale_backward_##suffix, .sum = sum_##suffix,       \
    .fill = fill_##suffix                                                                          \
  }
extern const PointwiseKernels VECTOR_NAME(pointwise_kernels)[VECTOR_TYPES];
const PointwiseKernels VECTOR_NAME(pointwise_kernels)[VECTOR_TYPES] = {TABLE(f32), TABLE(bf16)};
