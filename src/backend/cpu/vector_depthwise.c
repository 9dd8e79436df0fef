// Depthwise convolution over one plane, for the instruction set it is compiled for. Called by
// depthwise_conv2d.c through VectorKernels. All sums are fp32, in a fixed order.
//
// Every pass walks down the rows of its input, which a ring in the first-level cache holds widened
// to fp32 with zeros around: the loops over taps meet no edge and no bf16. An output pixel is a
// vector of BLOCK channels; DEPTHWISE_TILE of them stay in registers while the taps go by (7
// divides the widths 7, 14, ..., 112).
#include "backend/cpu/vector.h"
#include "backend/cpu/vector_kernels.h"

enum { TILE = DEPTHWISE_TILE, TAPS_MAX = DEPTHWISE_KERNEL_MAX };

// The last rows of an image that a pass has met: row i lies in slot i % slots.
typedef struct Ring {
  V *memory;
  int64_t slots, width, left; // width in pixels; the image begins at pixel `left`
  const void *image;
  int64_t h, w, next; // the next row to fetch
} Ring;

INLINE V *ring_row(const Ring *ring, int64_t row) {
  int64_t slot = row % ring->slots; // negative above the image
  return ring->memory + (slot < 0 ? slot + ring->slots : slot) * ring->width;
}

// Makes rows up to and with `last` present; rows outside the image are zeros.
INLINE void ring_fetch(Ring *ring, int64_t last, DType type) {
  if (ring->next < last + 1 - ring->slots) ring->next = last + 1 - ring->slots;
  for (; ring->next <= last; ring->next++) {
    V *row = ring_row(ring, ring->next);
    bool inside = ring->next >= 0 && ring->next < ring->h;
    int64_t room = ring->width - ring->left, end = inside ? (ring->w < room ? ring->w : room) : 0;
    for (int64_t i = 0; i < ring->left; i++) row[i] = v_splat(0.0f);
    for (int64_t i = 0; i < end; i++)
      row[ring->left + i] = v_load(ring->image, ring->next * ring->w + i, type);
    for (int64_t i = ring->left + end; i < ring->width; i++) row[i] = v_splat(0.0f);
  }
}

INLINE Ring input_ring(const DepthwisePlane *p, float *scratch) {
  return (Ring){.memory = (V *)scratch,
                .slots = p->kernel_h,
                .width = depthwise_input_width(p),
                .left = p->pad_left,
                .image = p->x,
                .h = p->in_h,
                .w = p->in_w,
                .next = -p->pad_top};
}

// kh, kw and stride are constants of the caller, so that the loops over taps unroll.
INLINE void forward_plane(const DepthwisePlane plane, float *scratch, int64_t kh, int64_t kw,
                          int64_t stride, DType type) {
  const V *weights = (const V *)plane.weights;
  const V bias = plane.bias ? *(const V *)plane.bias : v_splat(0.0f);
  Ring ring = input_ring(&plane, scratch);
  for (int64_t oh = 0; oh < plane.out_h; oh++) {
    int64_t top = oh * stride - plane.pad_top;
    ring_fetch(&ring, top + kh - 1, type);
    const V *rows[TAPS_MAX];
    for (int64_t r = 0; r < kh; r++) rows[r] = ring_row(&ring, top + r);
    for (int64_t begin = 0; begin < plane.out_w; begin += TILE) {
      // The last tile steps back over pixels that are done: the same sums once more.
      int64_t ow = begin + TILE <= plane.out_w || plane.out_w < TILE ? begin : plane.out_w - TILE;
      V sum[TILE];
      for (int t = 0; t < TILE; t++) sum[t] = bias;
      for (int64_t r = 0; r < kh; r++)
        for (int64_t s = 0; s < kw; s++)
          for (int t = 0; t < TILE; t++)
            sum[t] += rows[r][(ow + t) * stride + s] * weights[r * kw + s];
      for (int t = 0; t < TILE; t++)
        if (t < plane.out_w) v_store(plane.y, oh * plane.out_w + ow + t, sum[t], type);
    }
  }
}

// The pixels iw of row ih with (iw + pad_left) % stride == phase: the taps phase, phase + stride,
// ... of every row of dy that meets ih.
INLINE void data_phase(const DepthwisePlane *p, const Ring *ring, int64_t ih, int64_t phase,
                       int64_t kh, int64_t kw, int64_t stride, DType type) {
  const V *weights = (const V *)p->weights;
  int64_t below = ih + p->pad_top, first_r = below % stride, oh = below / stride;
  int64_t iw = (phase + stride - p->pad_left % stride) % stride;
  int64_t base = (iw + p->pad_left) / stride + ring->left;
  int64_t count = (p->in_w - iw + stride - 1) / stride;
  for (int64_t begin = 0; begin < count; begin += TILE) {
    V sum[TILE];
    for (int t = 0; t < TILE; t++) sum[t] = v_splat(0.0f);
    for (int64_t r = first_r, i = 0; r < kh; r += stride, i++) {
      const V *dy = ring_row(ring, oh - i) + base + begin;
      for (int64_t s = phase, j = 0; s < kw; s += stride, j++)
        for (int t = 0; t < TILE; t++) sum[t] += dy[t - j] * weights[r * kw + s];
    }
    for (int t = 0; t < TILE; t++)
      if (begin + t < count) v_store(p->dx, ih * p->in_w + iw + (begin + t) * stride, sum[t], type);
  }
}

INLINE void data_plane(const DepthwisePlane plane, float *scratch, int64_t kh, int64_t kw,
                       int64_t stride, DType type) {
  Ring ring = {.memory = (V *)scratch,
               .slots = (kh + stride - 1) / stride,
               .width = depthwise_gradient_width(&plane),
               .left = kw,
               .image = plane.dy,
               .h = plane.out_h,
               .w = plane.out_w};
  ring.next = 1 - ring.slots;
  for (int64_t ih = 0; ih < plane.in_h; ih++) {
    ring_fetch(&ring, (ih + plane.pad_top) / stride, type);
    for (int64_t phase = 0; phase < stride; phase++)
      data_phase(&plane, &ring, ih, phase, kh, kw, stride, type);
  }
}

// One row of dy against one row of x: sums[s] += sum over pixels of x dy.
INLINE void weights_row(V *sums, const V *x, const void *dy, int64_t first, int64_t width,
                        int64_t kw, int64_t stride, DType type) {
  V even[TAPS_MAX], odd[TAPS_MAX]; // two chains a tap hide the latency
  for (int64_t s = 0; s < kw; s++) even[s] = odd[s] = v_splat(0.0f);
  int64_t ow = 0;
  for (; ow + 2 <= width; ow += 2) {
    V left = v_load(dy, first + ow, type), right = v_load(dy, first + ow + 1, type);
    for (int64_t s = 0; s < kw; s++) {
      even[s] += x[ow * stride + s] * left;
      odd[s] += x[(ow + 1) * stride + s] * right;
    }
  }
  if (ow < width)
    for (int64_t s = 0; s < kw; s++) even[s] += x[ow * stride + s] * v_load(dy, first + ow, type);
  for (int64_t s = 0; s < kw; s++) sums[s] += even[s] + odd[s];
}

INLINE void weights_plane(const DepthwisePlane plane, float *scratch, int64_t kh, int64_t kw,
                          int64_t stride, DType type) {
  V *sums = (V *)plane.dweights, bias = {0};
  for (int64_t i = 0; i < kh * kw; i++) sums[i] = v_splat(0.0f);
  Ring ring = input_ring(&plane, scratch);
  for (int64_t oh = 0; oh < plane.out_h; oh++) {
    int64_t top = oh * stride - plane.pad_top;
    ring_fetch(&ring, top + kh - 1, type);
    for (int64_t r = 0; r < kh; r++)
      weights_row(sums + r * kw, ring_row(&ring, top + r), plane.dy, oh * plane.out_w, plane.out_w,
                  kw, stride, type);
    V row = {0};
    for (int64_t ow = 0; plane.dbias && ow < plane.out_w; ow++)
      row += v_load(plane.dy, oh * plane.out_w + ow, type);
    bias += row;
  }
  if (plane.dbias) *(V *)plane.dbias = bias;
}

// Calls a pass with constants for the kernels and strides of the backbones.
#define FOR_KERNEL(pass, p, scratch, type)                                                         \
  do {                                                                                             \
    int64_t k = (p)->kernel_h == (p)->kernel_w ? (p)->kernel_h : 0, stride = (p)->stride;          \
    if (k == 3 && stride == 1)                                                                     \
      pass(*(p), scratch, 3, 3, 1, type);                                                          \
    else if (k == 3 && stride == 2)                                                                \
      pass(*(p), scratch, 3, 3, 2, type);                                                          \
    else if (k == 5 && stride == 1)                                                                \
      pass(*(p), scratch, 5, 5, 1, type);                                                          \
    else if (k == 5 && stride == 2)                                                                \
      pass(*(p), scratch, 5, 5, 2, type);                                                          \
    else                                                                                           \
      pass(*(p), scratch, (p)->kernel_h, (p)->kernel_w, stride, type);                             \
  } while (0)

#define KERNELS(suffix, type)                                                                      \
  static void forward_##suffix(const DepthwisePlane *p, float *scratch) {                          \
    FOR_KERNEL(forward_plane, p, scratch, type);                                                   \
  }                                                                                                \
  static void data_##suffix(const DepthwisePlane *p, float *scratch) {                             \
    FOR_KERNEL(data_plane, p, scratch, type);                                                      \
  }                                                                                                \
  static void weights_##suffix(const DepthwisePlane *p, float *scratch) {                          \
    FOR_KERNEL(weights_plane, p, scratch, type);                                                   \
  }
KERNELS(f32, DTYPE_F32)
KERNELS(bf16, DTYPE_BF16)

extern const DepthwiseKernels VECTOR_NAME(depthwise_kernels)[VECTOR_TYPES];
const DepthwiseKernels VECTOR_NAME(depthwise_kernels)[VECTOR_TYPES] = {
    [DTYPE_F32] = {forward_f32, data_f32, weights_f32},
    [DTYPE_BF16] = {forward_bf16, data_bf16, weights_bf16},
};
