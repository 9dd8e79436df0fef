// The own inner loops of the CPU backend: one const table of functions for each instruction set,
// filled by the vector_*.c files. The steps (norm.c, ...) plan and cut the work; a kernel here runs
// over one plane, the pixels of one sample and one block of channels, on one thread.
//
// Arguments named after a channel quantity (mean, scale, ...) point to `block` floats, aligned to a
// cache line; values are planes as device.h lays them out, element type fp32 or bf16.
#ifndef IMGCLS_BACKEND_CPU_VECTOR_KERNELS_H
#define IMGCLS_BACKEND_CPU_VECTOR_KERNELS_H

#include <stdbool.h>
#include <stdint.h>

#include "backend/backend.h"

enum { VECTOR_BLOCK_MAX = 16 };

// One plane of a normalisation: z = (x - mean) scale + shift [+ residual], y = act(z).
typedef struct NormPlane {
  int64_t pixels;
  ActivationKind activation;
  const void *x, *residual;          // residual: NULL where there is none
  const float *mean, *scale, *shift; // scale = gamma rstd, shift = beta
  const float *lanes;                // 1 for a channel, 0 for padding
  void *y;                           // forward
  const void *result;                // backward: y, for ReLU and ReLU6 with a residual
  const void *dy, *dy2;              // dy2: NULL where there is none
  void *dz;                          // backward: the gradient of z, or NULL
  void *dx;                          // NULL in the pass that only sums
  const float *dz_mean, *slope;      // dx = scale dz - dz_mean - (x - mean) slope
  float *sum_dz, *sum_dz_x;          // sums of dz and of dz (x - mean); NULL where unneeded
} NormPlane;

typedef struct NormKernels {
  // Mean of a plane and the sum of squared deviations from it.
  void (*moments)(const void *x, int64_t pixels, float *mean, float *deviation);
  void (*forward)(const NormPlane *plane);
  // dz and its sums; also dx = scale dz where plane->dx is set (moving statistics).
  void (*backward_sums)(const NormPlane *plane);
  // dx from dz where the first pass has stored it, else from dy once more.
  void (*backward_apply)(const NormPlane *plane);
  // Merges `count` planes' moments (mean, deviation: two vectors each) of `pixels` each.
  void (*merge_moments)(const float *planes, int64_t count, int64_t pixels, float *mean,
                        float *deviation);
  // Adds `count` planes' sums of dz and of dz (x - mean) (two vectors each) in order.
  void (*merge_sums)(const float *planes, int64_t count, float *sum_dz, float *sum_dz_x);
} NormKernels;

// One plane of a depthwise convolution. Weights, bias and their gradients are fp32 vectors, tap by
// tap; x and dx have the input's size, y and dy the output's. Kernels need scratch of
// depthwise_scratch_floats().
typedef struct DepthwisePlane {
  int64_t in_h, in_w, out_h, out_w, kernel_h, kernel_w, stride, pad_top, pad_left;
  const void *x, *dy;
  void *y, *dx;
  const float *weights, *bias; // bias: NULL where there is none
  float *dweights, *dbias;     // of this plane alone; dbias: NULL where there is none
  bool large;                  // x and y, or dy and dx, do not fit the caches together
} DepthwisePlane;

typedef struct DepthwiseKernels {
  void (*forward)(const DepthwisePlane *plane, float *scratch);
  void (*data)(const DepthwisePlane *plane, float *scratch);    // dx
  void (*weights)(const DepthwisePlane *plane, float *scratch); // dweights, dbias
} DepthwiseKernels;

enum { DEPTHWISE_TILE = 7, DEPTHWISE_KERNEL_MAX = 7 };

// Pixels of a padded row of x that forward reads.
static inline int64_t depthwise_input_width(const DepthwisePlane *p) {
  int64_t outputs = p->out_w < DEPTHWISE_TILE ? DEPTHWISE_TILE : p->out_w;
  int64_t read = (outputs - 1) * p->stride + p->kernel_w;
  return read > p->pad_left ? read : p->pad_left;
}

// Pixels of a padded row of dy that the data gradient reads.
static inline int64_t depthwise_gradient_width(const DepthwisePlane *p) {
  return p->kernel_w + (p->in_w - 1 + p->pad_left) / p->stride + 1 + DEPTHWISE_TILE;
}

static inline int64_t depthwise_scratch_floats(const DepthwisePlane *p, int block) {
  int64_t input = depthwise_input_width(p), gradient = depthwise_gradient_width(p);
  return p->kernel_h * (input > gradient ? input : gradient) * block;
}

// One plane of a pool. Pixels outside take no part.
typedef struct PoolPlane {
  int64_t in_h, in_w, out_h, out_w;
  int64_t kernel_h, kernel_w, stride_h, stride_w, top, left;
  const void *x;
  void *y;
  uint8_t *taps; // which pixel of the window was the (first) maximum, row by row; NULL: not kept
  const void *dy, *dy2; // dy2: NULL where there is none
  float *sums; // fp32 memory of dx's shape; dx itself where that is fp32
  void *dx;
} PoolPlane;

typedef struct PoolKernels {
  void (*maximum)(const PoolPlane *plane);
  void (*average)(const PoolPlane *plane);
  void (*maximum_backward)(const PoolPlane *plane); // reads taps
  void (*average_backward)(const PoolPlane *plane);
} PoolKernels;

// Pixel by pixel over one plane. Pointers that may be NULL are marked so.
typedef struct PointwisePlane {
  int64_t pixels;
  ActivationKind activation;
  const float *lanes;         // activations: 1 for a channel, 0 for padding
  const float *scale, *shift; // by channel; shift may be NULL, and scale where it is b's
  const void *a, *b;          // b may be NULL
  const void *dy, *dy2;       // dy2 may be NULL
  void *y, *da, *db;          // da, db may be NULL
} PointwisePlane;

typedef struct PointwiseKernels {
  void (*activate)(const PointwisePlane *plane);          // y = act(a [+ [scale] b])
  void (*activate_backward)(const PointwisePlane *plane); // da = (dy [+ dy2]) act', db = [scale] da
  void (*scale)(const PointwisePlane *plane);             // y = a scale [+ shift] [+ b]
  void (*scale_backward)(const PointwisePlane *plane); // da = (dy [+ dy2]) scale; db = dy [+ dy2]
  // Channel sums of a, or of a b.
  void (*sum)(const void *a, const void *b, int64_t pixels, float *sums);
  void (*fill)(void *y, const float *value, int64_t pixels);
} PointwiseKernels;

// Small dense layers in fp32 over rows of any length: W is (inputs, outputs).
typedef struct DenseKernels {
  // y = x W + bias
  void (*forward)(float *y, const float *x, const float *w, const float *bias, int64_t inputs,
                  int64_t outputs);
  // dx = dy W'
  void (*backward)(float *dx, const float *dy, const float *w, int64_t inputs, int64_t outputs);
  // dw (outputs) = sum over n of x[n stride] dy[n, :], in the order of n
  void (*row)(float *dw, const float *x, int64_t stride, const float *dy, int64_t batch,
              int64_t outputs);
  void (*activate)(float *y, const float *x, ActivationKind kind, int64_t count);
  void (*slope)(float *inout, const float *x, ActivationKind kind, int64_t count); // *= act'(x)
} DenseKernels;

// Weight standardisation of neighbouring filters of a kernel, fp32: `count` (at most a block)
// columns of `rows` rows, `stride` floats apart.
typedef struct Filters {
  int64_t rows, stride;
  int count;
  float epsilon;
} Filters;

typedef struct StandardizeKernels {
  // out = (kernel - mean) / sqrt(variance + epsilon), column by column; out is laid out alike.
  void (*forward)(float *out, const float *kernel, const Filters *filters);
  // From the gradient of the standardised kernel that of the kernel, in place.
  void (*backward)(float *gradient, const float *kernel, const Filters *filters);
} StandardizeKernels;

// Tables that depend on the element type hold DTYPE_F32 and DTYPE_BF16, in this order.
enum { VECTOR_TYPES = 2 };

typedef struct VectorKernels {
  int block;
  const NormKernels *norm;           // [VECTOR_TYPES]
  const DepthwiseKernels *depthwise; // the same
  const PoolKernels *pool;           // the same
  const PointwiseKernels *pointwise; // the same
  const DenseKernels *dense;
  const StandardizeKernels *standardize;
} VectorKernels;

extern const VectorKernels vector_kernels_plain; // block 1
extern const VectorKernels vector_kernels_baseline;
// The set of an instruction set of x86; NULL where the program is built for another processor.
#if defined(__x86_64__)
extern const VectorKernels vector_kernels_avx2, vector_kernels_avx512, vector_kernels_avx512_bf16;
#define VECTOR_KERNELS_X86(suffix) &vector_kernels_##suffix
#else
#define VECTOR_KERNELS_X86(suffix) NULL
#endif

#endif
