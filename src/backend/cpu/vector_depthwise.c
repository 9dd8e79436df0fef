// Depthwise convolution over one plane, for the instruction set it is compiled for. Called by
// depthwise_conv2d.c through VectorKernels. All sums are fp32, in a fixed order.
//
// Every pass walks down the rows of its input, which a ring in the first-level cache holds widened
// to fp32 with zeros around: the loops over taps meet no edge and no bf16. An output pixel is a
// vector of BLOCK channels; DEPTHWISE_TILE of them stay in registers while the taps go by (7
// divides the widths 7, 14, ..., 112). Planes of values beyond the caches (`large`) are computed
// alike, but the next row is asked for meanwhile, and results go past the caches.
#include "backend/cpu/vector.h"
#include "backend/cpu/vector_kernels.h"

enum { TILE = DEPTHWISE_TILE, TAPS_MAX = DEPTHWISE_KERNEL_MAX };

// With 32 registers the taps are unrolled whole, and planes of large values have passes of their
// own. With 16 both are more code and no faster.
enum { WIDE = BLOCK == 16 };
#if BLOCK == 16
#define UNROLL _Pragma("GCC unroll 16")
#else
#define UNROLL
#endif

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

// Pixels of a row that the image fills; zeros stand left and right of them.
INLINE int64_t ring_inside(const Ring *ring) {
  int64_t room = ring->width - ring->left;
  return ring->w < room ? ring->w : room;
}

// Writes the zeros left and right of every row.
INLINE void ring_begin(const Ring *ring) {
  int64_t right = ring->left + ring_inside(ring);
  for (int64_t slot = 0; slot < ring->slots; slot++) {
    V *row = ring->memory + slot * ring->width;
    for (int64_t i = 0; i < ring->width; i++)
      if (i < ring->left || i >= right) row[i] = v_splat(0.0f);
  }
}

// Makes rows up to and with `last` present; rows outside the image are zeros.
INLINE void ring_fetch(Ring *ring, int64_t last, DType type) {
  if (ring->next < last + 1 - ring->slots) ring->next = last + 1 - ring->slots;
  for (; ring->next <= last; ring->next++) {
    V *row = ring_row(ring, ring->next) + ring->left;
    int64_t inside = ring_inside(ring);
    if (ring->next < 0 || ring->next >= ring->h)
      for (int64_t i = 0; i < inside; i++) row[i] = v_splat(0.0f);
    else
      for (int64_t i = 0; i < inside; i++)
        row[i] = v_load(ring->image, ring->next * ring->w + i, type);
  }
}

INLINE void write_pixel(void *plane, int64_t i, V value, bool large, DType type) {
  if (large)
    v_stream(plane, i, value, type);
  else
    v_store(plane, i, value, type);
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

// Asks for `count` pixels of a plane. Past its last row lies the next plane of this thread.
INLINE void prefetch_pixels(const void *plane, int64_t first, int64_t count, DType type) {
  const int64_t line = 64 / (BLOCK * (type == DTYPE_BF16 ? 2 : 4)); // pixels of a cache line
  UNROLL
  for (int64_t i = 0; i < count; i += line) __builtin_prefetch(v_at(plane, first + i, type), 0, 2);
}

// sums[t] += one row of the kernel on the pixels of output t.
INLINE void forward_row(V *sums, const V *x, const V *weights, int64_t kw, int64_t stride) {
  UNROLL
  for (int64_t s = 0; s < kw; s++) {
    UNROLL
    for (int t = 0; t < TILE; t++) sums[t] += x[t * stride + s] * weights[s];
  }
}

// kh, kw and stride are constants of the caller, so that the loops over taps unroll.
INLINE void forward_plane(const DepthwisePlane plane, float *scratch, int64_t kh, int64_t kw,
                          int64_t stride, bool large, DType type) {
  const V *weights = (const V *)plane.weights;
  const V bias = plane.bias ? *(const V *)plane.bias : v_splat(0.0f);
  Ring ring = input_ring(&plane, scratch);
  ring_begin(&ring);
  for (int64_t oh = 0; oh < plane.out_h; oh++) {
    int64_t top = oh * stride - plane.pad_top;
    ring_fetch(&ring, top + kh - 1, type);
    const V *rows[TAPS_MAX];
    for (int64_t r = 0; r < kh; r++) rows[r] = ring_row(&ring, top + r);
    for (int64_t begin = 0; begin < plane.out_w; begin += TILE) {
      // The last tile steps back over pixels that are done: the same sums once more.
      int64_t ow = begin + TILE <= plane.out_w || plane.out_w < TILE ? begin : plane.out_w - TILE;
      for (int64_t r = 0; large && r < stride; r++)
        prefetch_pixels(plane.x, (top + kh + r) * plane.in_w + ow * stride, TILE * stride, type);
      V sum[TILE];
      for (int t = 0; t < TILE; t++) sum[t] = bias;
      for (int64_t r = 0; r < kh; r++)
        forward_row(sum, rows[r] + ow * stride, weights + r * kw, kw, stride);
      for (int t = 0; t < TILE; t++)
        if (t < plane.out_w) write_pixel(plane.y, oh * plane.out_w + ow + t, sum[t], large, type);
    }
  }
  if (large) v_stream_end();
}

// sums[t] += what a row of dy gives to pixel t by the taps that are `stride` apart.
INLINE void data_taps(V *sums, const V *dy, const V *weights, int64_t taps, int64_t stride) {
  UNROLL
  for (int64_t j = 0; j < taps; j++) {
    UNROLL
    for (int t = 0; t < TILE; t++) sums[t] += dy[t - j] * weights[j * stride];
  }
}

// The pixels iw of row ih with (iw + pad_left) % stride == phase: the taps phase, phase + stride,
// ... of every row of dy that meets ih.
INLINE void data_phase(const DepthwisePlane *p, const Ring *ring, int64_t ih, int64_t phase,
                       int64_t kh, int64_t kw, int64_t stride, bool large, DType type) {
  const V *weights = (const V *)p->weights;
  int64_t below = ih + p->pad_top, first_r = below % stride, oh = below / stride;
  int64_t iw = (phase + stride - p->pad_left % stride) % stride;
  int64_t base = (iw + p->pad_left) / stride + ring->left;
  int64_t count = (p->in_w - iw + stride - 1) / stride;
  for (int64_t begin = 0; begin < count; begin += TILE) {
    if (large && stride == 1) prefetch_pixels(p->dy, ring->next * p->out_w + begin, TILE, type);
    V sum[TILE];
    for (int t = 0; t < TILE; t++) sum[t] = v_splat(0.0f);
    for (int64_t r = first_r, i = 0; r < kh; r += stride, i++)
      data_taps(sum, ring_row(ring, oh - i) + base + begin, weights + r * kw + phase,
                (kw - phase + stride - 1) / stride, stride);
    for (int t = 0; t < TILE; t++)
      if (begin + t < count)
        write_pixel(p->dx, ih * p->in_w + iw + (begin + t) * stride, sum[t], large, type);
  }
}

INLINE void data_plane(const DepthwisePlane plane, float *scratch, int64_t kh, int64_t kw,
                       int64_t stride, bool large, DType type) {
  Ring ring = {.memory = (V *)scratch,
               .slots = (kh + stride - 1) / stride,
               .width = depthwise_gradient_width(&plane),
               .left = kw,
               .image = plane.dy,
               .h = plane.out_h,
               .w = plane.out_w};
  ring.next = 1 - ring.slots;
  ring_begin(&ring);
  for (int64_t ih = 0; ih < plane.in_h; ih++) {
    ring_fetch(&ring, (ih + plane.pad_top) / stride, type);
    UNROLL
    for (int64_t phase = 0; phase < stride; phase++)
      data_phase(&plane, &ring, ih, phase, kh, kw, stride, large, type);
  }
  if (large) v_stream_end();
}

// Row oh of dy against `rows` rows of x, which meet the rows of the kernel from `first_r` on: each
// tap's sum += the sum over pixels of x dy. `ask`: for the rows of x that the next row of dy needs.
INLINE void weights_rows(const DepthwisePlane *p, const Ring *ring, int64_t oh, int64_t first_r,
                         int64_t rows, int64_t kh, int64_t kw, int64_t stride, bool ask,
                         DType type) {
  V *sums = (V *)p->dweights + first_r * kw;
  const V *x[TAPS_MAX] = {NULL};
  V even[TAPS_MAX * TAPS_MAX], odd[TAPS_MAX * TAPS_MAX]; // two chains a tap hide the latency
  int64_t ow = 0, width = p->out_w, first = oh * width, top = oh * stride - p->pad_top;
  UNROLL
  for (int64_t r = 0; r < rows; r++) x[r] = ring_row(ring, top + first_r + r);
  UNROLL
  for (int64_t i = 0; i < rows * kw; i++) even[i] = odd[i] = v_splat(0.0f);
  for (; ow + 2 <= width; ow += 2) {
    for (int64_t r = 0; ask && r < stride; r++)
      prefetch_pixels(p->x, (top + kh + r) * p->in_w + ow * stride, 2 * stride, type);
    V left = v_load(p->dy, first + ow, type), right = v_load(p->dy, first + ow + 1, type);
    UNROLL
    for (int64_t r = 0; r < rows; r++) {
      UNROLL
      for (int64_t s = 0; s < kw; s++) {
        even[r * kw + s] += x[r][ow * stride + s] * left;
        odd[r * kw + s] += x[r][(ow + 1) * stride + s] * right;
      }
    }
  }
  if (ow < width) {
    V left = v_load(p->dy, first + ow, type);
    UNROLL
    for (int64_t r = 0; r < rows; r++) {
      UNROLL
      for (int64_t s = 0; s < kw; s++) even[r * kw + s] += x[r][ow * stride + s] * left;
    }
  }
  UNROLL
  for (int64_t i = 0; i < rows * kw; i++) sums[i] += even[i] + odd[i];
}

INLINE void weights_plane(const DepthwisePlane plane, float *scratch, int64_t kh, int64_t kw,
                          int64_t stride, bool large, DType type) {
  const int64_t step = WIDE ? 10 / kw : 1; // rows of the kernel whose sums fit the registers
  V *sums = (V *)plane.dweights, bias = {0};
  for (int64_t i = 0; i < kh * kw; i++) sums[i] = v_splat(0.0f);
  Ring ring = input_ring(&plane, scratch);
  ring_begin(&ring);
  for (int64_t oh = 0; oh < plane.out_h; oh++) {
    ring_fetch(&ring, oh * stride - plane.pad_top + kh - 1, type);
    UNROLL
    for (int64_t r = 0; r < kh; r += step) {
      bool ask = large && stride > 1 && r == 0; // without a stride the processor asks by itself
      weights_rows(&plane, &ring, oh, r, r + step <= kh ? step : kh - r, kh, kw, stride, ask, type);
    }
    V row = {0};
    for (int64_t ow = 0; plane.dbias && ow < plane.out_w; ow++)
      row += v_load(plane.dy, oh * plane.out_w + ow, type);
    bias += row;
  }
  if (plane.dbias) *(V *)plane.dbias = bias;
}

#define FOR_SIZE(pass, p, scratch, k, stride, type)                                                \
  do {                                                                                             \
    if (WIDE && (p)->large)                                                                        \
      pass(*(p), scratch, k, k, stride, true, type);                                               \
    else                                                                                           \
      pass(*(p), scratch, k, k, stride, false, type);                                              \
  } while (0)

// Calls a pass with constants for the kernels and strides of the backbones.
#define FOR_KERNEL(pass, p, scratch, type)                                                         \
  do {                                                                                             \
    int64_t k = (p)->kernel_h == (p)->kernel_w ? (p)->kernel_h : 0, stride = (p)->stride;          \
    if (k == 3 && stride == 1)                                                                     \
      FOR_SIZE(pass, p, scratch, 3, 1, type);                                                      \
    else if (k == 3 && stride == 2)                                                                \
      FOR_SIZE(pass, p, scratch, 3, 2, type);                                                      \
    else if (k == 5 && stride == 1)                                                                \
      FOR_SIZE(pass, p, scratch, 5, 1, type);                                                      \
    else if (k == 5 && stride == 2)                                                                \
      FOR_SIZE(pass, p, scratch, 5, 2, type);                                                      \
    else if (k == 7 && stride == 1)                                                                \
      FOR_SIZE(pass, p, scratch, 7, 1, type);                                                      \
    else if (k == 7 && stride == 2)                                                                \
      FOR_SIZE(pass, p, scratch, 7, 2, type);                                                      \
    else                                                                                           \
      pass(*(p), scratch, (p)->kernel_h, (p)->kernel_w, stride, false, type);                      \
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
