// Kernels of normalisation, one plane each. See vector_kernels.h for what they compute and norm.c
// for the passes. Sums run over chunks that stay in the first-level cache, so that rounding grows
// with the chunk and not with the image.
#include "backend/cpu/vector.h"
#include "backend/cpu/vector_kernels.h"

enum { CHUNK = 256 }; // pixels: 16 KiB of fp32

// Sum over pixels [begin, end) of f, four partial sums to hide the latency of addition.
#define SUM_CHUNK(begin, end, total, f)                                                            \
  do {                                                                                             \
    V sum_part[4] = {{0}};                                                                         \
    int64_t i = (begin);                                                                           \
    for (; i + 4 <= (end); i += 4)                                                                 \
      for (int part = 0; part < 4; part++) sum_part[part] += f(i + part);                          \
    for (; i < (end); i++) sum_part[0] += f(i);                                                    \
    total = (sum_part[0] + sum_part[1]) + (sum_part[2] + sum_part[3]);                             \
  } while (0)

// Two passes over each chunk; chunks merge as in Chan, Golub and LeVeque 1983.
INLINE void moments(const void *x, int64_t pixels, float *mean, float *deviation, DType type) {
  V m = {0}, d = {0};
  for (int64_t begin = 0; begin < pixels; begin += CHUNK) {
    int64_t end = begin + CHUNK < pixels ? begin + CHUNK : pixels;
    float count = (float)(end - begin);
    V sum, squares;
#define PIXEL(i) v_load(x, i, type)
    SUM_CHUNK(begin, end, sum, PIXEL);
    V center = sum / count;
#define SQUARE(i) ((v_load(x, i, type) - center) * (v_load(x, i, type) - center))
    SUM_CHUNK(begin, end, squares, SQUARE);
    V delta = center - m;
    float share = count / (float)end;
    m += delta * share;
    d += squares + delta * delta * ((float)begin * share);
  }
  *(V *)mean = m;
  *(V *)deviation = d;
}

static void merge_moments(const float *planes, int64_t count, int64_t pixels, float *mean,
                          float *deviation) {
  const V *plane = (const V *)planes;
  V first = plane[0], sum = {0}, within = {0}, between = {0};
  for (int64_t i = 0; i < count; i++) {
    sum += plane[2 * i] - first;
    within += plane[2 * i + 1];
  }
  V m = first + sum / (float)count;
  for (int64_t i = 0; i < count; i++) between += (plane[2 * i] - m) * (plane[2 * i] - m);
  *(V *)mean = m;
  *(V *)deviation = within + between * (float)pixels;
}

static void merge_sums(const float *planes, int64_t count, float *sum_dz, float *sum_dz_x) {
  const V *plane = (const V *)planes;
  V sum = {0}, sum_x = {0};
  for (int64_t i = 0; i < count; i++) {
    sum += plane[2 * i];
    sum_x += plane[2 * i + 1];
  }
  *(V *)sum_dz = sum;
  *(V *)sum_dz_x = sum_x;
}

// The channel quantities of a plane, in registers.
typedef struct Channels {
  V mean, scale, shift, lanes;
} Channels;

INLINE Channels load_channels(const NormPlane *p) {
  return (Channels){*(const V *)p->mean, *(const V *)p->scale, *(const V *)p->shift,
                    *(const V *)p->lanes};
}

INLINE V preactivation(const NormPlane *p, const Channels *c, int64_t i, DType type, bool joins) {
  V z = (v_load(p->x, i, type) - c->mean) * c->scale + c->shift;
  if (joins) z += v_load(p->residual, i, type);
  return z;
}

// The planes are copied to locals, so that the compiler keeps their fields in registers across
// stores.
INLINE void forward_as(const NormPlane plane, DType type, ActivationKind kind, bool joins) {
  const Channels c = load_channels(&plane);
  for (int64_t i = 0; i < plane.pixels; i++) {
    V y = v_activate(preactivation(&plane, &c, i, type, joins), kind);
    if (v_activation_moves_zero(kind)) y *= c.lanes;
    v_store(plane.y, i, y, type);
  }
}

INLINE void forward(const NormPlane *plane, DType type) {
#define FORWARD(kind)                                                                              \
  if (plane->residual) forward_as(*plane, type, kind, true);                                       \
  else forward_as(*plane, type, kind, false)
  FOR_ACTIVATION(plane->activation, FORWARD)
}

// The gradient of z at pixel i.
INLINE V gradient(const NormPlane *p, const Channels *c, int64_t i, DType type,
                  ActivationKind kind, bool joins) {
  V dy = v_load(p->dy, i, type);
  if (p->dy2) dy += v_load(p->dy2, i, type);
  if (kind == ACTIVATION_LINEAR) return dy;
  bool result_tells = kind == ACTIVATION_RELU || kind == ACTIVATION_RELU6;
  if (joins && result_tells) return dy * v_slope(v_load(p->result, i, type), kind);
  return dy * v_slope(preactivation(p, c, i, type, joins), kind);
}

typedef struct Sums {
  V dz, dz_x;
} Sums;

INLINE void sums_pixel(const NormPlane *p, const Channels *c, int64_t i, Sums *sums, DType type,
                       ActivationKind kind, bool joins) {
  V dz = gradient(p, c, i, type, kind, joins);
  if (p->sum_dz) {
    sums->dz += dz;
    sums->dz_x += dz * (v_load(p->x, i, type) - c->mean);
  }
  if (p->dz) v_store(p->dz, i, dz, type);
  if (p->dx) v_store(p->dx, i, dz * c->scale, type);
}

INLINE void sums_as(const NormPlane plane, DType type, ActivationKind kind, bool joins) {
  const Channels c = load_channels(&plane);
  Sums total = {{0}, {0}};
  for (int64_t begin = 0; begin < plane.pixels; begin += CHUNK) {
    int64_t end = begin + CHUNK < plane.pixels ? begin + CHUNK : plane.pixels;
    Sums even = {{0}, {0}}, odd = {{0}, {0}};
    int64_t i = begin;
    for (; i + 2 <= end; i += 2) {
      sums_pixel(&plane, &c, i, &even, type, kind, joins);
      sums_pixel(&plane, &c, i + 1, &odd, type, kind, joins);
    }
    if (i < end) sums_pixel(&plane, &c, i, &even, type, kind, joins);
    total.dz += even.dz + odd.dz;
    total.dz_x += even.dz_x + odd.dz_x;
  }
  if (!plane.sum_dz) return;
  *(V *)plane.sum_dz = total.dz;
  *(V *)plane.sum_dz_x = total.dz_x;
}

INLINE void apply_as(const NormPlane plane, DType type, ActivationKind kind, bool joins) {
  const Channels c = load_channels(&plane);
  const V dz_mean = *(const V *)plane.dz_mean, slope = *(const V *)plane.slope;
  for (int64_t i = 0; i < plane.pixels; i++) {
    V dz = gradient(&plane, &c, i, type, kind, joins);
    V dx = (dz * c.scale - dz_mean) - (v_load(plane.x, i, type) - c.mean) * slope;
    v_store(plane.dx, i, dx, type);
  }
}

INLINE void backward_sums(const NormPlane *plane, DType type) {
#define SUMS(kind)                                                                                 \
  if (plane->residual || plane->result) sums_as(*plane, type, kind, true);                         \
  else sums_as(*plane, type, kind, false)
  FOR_ACTIVATION(plane->activation, SUMS)
}

INLINE void backward_apply(const NormPlane *plane, DType type) {
#define APPLY(kind)                                                                                \
  if (plane->residual || plane->result) apply_as(*plane, type, kind, true);                        \
  else apply_as(*plane, type, kind, false)
  FOR_ACTIVATION(plane->activation, APPLY)
}

#define KERNELS(suffix, type)                                                                      \
  static void moments_##suffix(const void *x, int64_t pixels, float *mean, float *deviation) {     \
    moments(x, pixels, mean, deviation, type);                                                     \
  }                                                                                                \
  static void forward_##suffix(const NormPlane *p) { forward(p, type); }                           \
  static void backward_sums_##suffix(const NormPlane *p) { backward_sums(p, type); }               \
  static void backward_apply_##suffix(const NormPlane *p) { backward_apply(p, type); }
KERNELS(f32, DTYPE_F32)
KERNELS(bf16, DTYPE_BF16)

#define TABLE(suffix)                                                                              \
  {                                                                                                \
    .moments = moments_##suffix, .forward = forward_##suffix,                                      \
    .backward_sums = backward_sums_##suffix, .backward_apply = backward_apply_##suffix,            \
    .merge_moments = merge_moments, .merge_sums = merge_sums                                       \
  }
const NormKernels VECTOR_NAME(norm_kernels)[VECTOR_TYPES] = {TABLE(f32), TABLE(bf16)};
