// Pools over one plane. Compiled once for each instruction set; called by pool2d.c through
// vector_kernels.h.
#include "backend/cpu/vector_kernels.h"

#include "backend/cpu/vector.h"

typedef uint8_t VBytes __attribute__((vector_size(BLOCK), may_alias));

// The part of an output pixel's window that lies inside.
typedef struct Inside {
  int64_t h, w, h_end, w_end; // pixels of the input
  int64_t first_h, first_w;   // where the whole window starts; may be outside
} Inside;

INLINE Inside window_inside(const PoolPlane *p, int64_t oh, int64_t ow) {
  int64_t h = oh * p->stride_h - p->top, w = ow * p->stride_w - p->left;
  int64_t h_end = h + p->kernel_h, w_end = w + p->kernel_w;
  return (Inside){.h = h < 0 ? 0 : h,
                  .w = w < 0 ? 0 : w,
                  .h_end = h_end > p->in_h ? p->in_h : h_end,
                  .w_end = w_end > p->in_w ? p->in_w : w_end,
                  .first_h = h,
                  .first_w = w};
}

INLINE float part_of(const Inside *in) {
  return 1.0f / (float)((in->h_end - in->h) * (in->w_end - in->w));
}

INLINE int32_t tap_number(const PoolPlane *p, const Inside *in, int64_t h, int64_t w) {
  return (int32_t)((h - in->first_h) * p->kernel_w + w - in->first_w);
}

INLINE void maximum(const PoolPlane *p, DType type) {
  for (int64_t oh = 0, out = 0; oh < p->out_h; oh++)
    for (int64_t ow = 0; ow < p->out_w; ow++, out++) {
      Inside in = window_inside(p, oh, ow);
      V best = v_load(p->x, in.h * p->in_w + in.w, type);
      VInt tap = (VInt){0} + tap_number(p, &in, in.h, in.w);
      for (int64_t h = in.h; h < in.h_end; h++)
        for (int64_t w = in.w; w < in.w_end; w++) {
          V x = v_load(p->x, h * p->in_w + w, type);
          VInt larger = (x > best) | (x != x); // a NaN stays one
          VInt number = (VInt){0} + tap_number(p, &in, h, w);
          best = v_select(larger, x, best);
          tap = (number & larger) | (tap & ~larger);
        }
      v_store(p->y, out, best, type);
      if (p->taps) ((VBytes *)p->taps)[out] = __builtin_convertvector(tap, VBytes);
    }
}

INLINE void average(const PoolPlane *p, DType type) {
  for (int64_t oh = 0, out = 0; oh < p->out_h; oh++)
    for (int64_t ow = 0; ow < p->out_w; ow++, out++) {
      Inside in = window_inside(p, oh, ow);
      V sum = {0};
      for (int64_t h = in.h; h < in.h_end; h++)
        for (int64_t w = in.w; w < in.w_end; w++) sum += v_load(p->x, h * p->in_w + w, type);
      v_store(p->y, out, sum * part_of(&in), type);
    }
}

INLINE void backward(const PoolPlane *p, DType type, bool is_max) {
  V *sums = (V *)p->sums;
  memset(sums, 0, (size_t)(p->in_h * p->in_w) * sizeof *sums);
  for (int64_t oh = 0, out = 0; oh < p->out_h; oh++)
    for (int64_t ow = 0; ow < p->out_w; ow++, out++) {
      Inside in = window_inside(p, oh, ow);
      V dy = v_load(p->dy, out, type);
      if (p->dy2) dy += v_load(p->dy2, out, type);
      VInt tap = {0};
      if (is_max)
        tap = __builtin_convertvector(((const VBytes *)p->taps)[out], VInt);
      else
        dy *= part_of(&in);
      for (int64_t h = in.h; h < in.h_end; h++)
        for (int64_t w = in.w; w < in.w_end; w++) {
          VInt chosen = tap == (is_max ? tap_number(p, &in, h, w) : 0);
          sums[h * p->in_w + w] += (V)((VInt)dy & chosen);
        }
    }
  if (type == DTYPE_BF16)
    for (int64_t i = 0; i < p->in_h * p->in_w; i++) v_store(p->dx, i, sums[i], type);
}

#define KERNELS(suffix, type)                                                                      \
  static void maximum_##suffix(const PoolPlane *p) {                                               \
    maximum(p, type);                                                                              \
  }                                                                                                \
  static void average_##suffix(const PoolPlane *p) {                                               \
    average(p, type);                                                                              \
  }                                                                                                \
  static void maximum_backward_##suffix(const PoolPlane *p) {                                      \
    backward(p, type, true);                                                                       \
  }                                                                                                \
  static void average_backward_##suffix(const PoolPlane *p) {                                      \
    backward(p, type, false);                                                                      \
  }
KERNELS(f32, DTYPE_F32)
KERNELS(bf16, DTYPE_BF16)

#define TABLE(suffix)                                                                              \
  {                                                                                                \
    .maximum = maximum_##suffix, .average = average_##suffix,                                      \
    .maximum_backward = maximum_backward_##suffix, .average_backward = average_backward_##suffix   \
  }
const PoolKernels VECTOR_NAME(pool_kernels)[VECTOR_TYPES] = {TABLE(f32), TABLE(bf16)};
