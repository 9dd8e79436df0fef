// How the own steps see a value: samples x planes of pixels, each pixel `block` channels wide. A
// plain value has blocks of one channel, a rank-1 value planes of one pixel; the same loops serve
// all. Shared by the steps that use the vector kernels.
#ifndef IMGCLS_BACKEND_CPU_PLANES_H
#define IMGCLS_BACKEND_CPU_PLANES_H

#include "backend/cpu/device.h"
#include "backend/cpu/vector_kernels.h"

typedef struct Planes {
  const VectorKernels *kernels; // for this block
  DType type;
  int64_t samples, count, pixels, channels;
  int block;
  size_t plane_bytes;
} Planes;

static inline Planes planes_of(const Device *device, Shape shape, int64_t batch, DType dtype) {
  bool blocked = cpu_value_is_blocked(shape), image = shape.rank == 3;
  Planes planes = {.kernels = blocked ? device->kernels : &vector_kernels_plain,
                   .type = image ? dtype : DTYPE_F32,
                   .samples = batch,
                   .pixels = image ? shape.dim[0] * shape.dim[1] : 1,
                   .channels = shape_channels(shape)};
  planes.block = planes.kernels->block;
  planes.count = (planes.channels + planes.block - 1) / planes.block;
  planes.plane_bytes = (size_t)(planes.pixels * planes.block) * dtype_size(planes.type);
  return planes;
}

// The same for work that treats all channels alike: a plain value is then one plane a sample.
static inline Planes planes_alike(const Device *device, Shape shape, int64_t batch, DType dtype) {
  Planes planes = planes_of(device, shape, batch, dtype);
  if (planes.block > 1) return planes;
  planes.pixels *= planes.count;
  planes.plane_bytes *= (size_t)planes.count;
  planes.count = planes.channels = 1;
  return planes;
}

// Plane `b` of sample `n` of a value; NULL for NULL.
static inline void *plane_at(const Planes *planes, const void *value, int64_t n, int64_t b) {
  if (!value) return NULL;
  return (char *)value + (size_t)(n * planes->count + b) * planes->plane_bytes;
}

// The same of a value that may be a slice, whose samples stand further apart.
static inline void *plane_of_slice(const Planes *planes, Slice slice, const void *value, int64_t n,
                                   int64_t b) {
  if (slice.channels == 0) return plane_at(planes, value, n, b);
  int64_t count = (slice.channels + planes->block - 1) / planes->block;
  if (!value) return NULL;
  return (char *)value + (size_t)(n * count + slice.first / planes->block + b) * planes->plane_bytes;
}

// Channels that plane `b` really holds.
static inline int plane_lanes(const Planes *planes, int64_t b) {
  int64_t left = planes->channels - b * planes->block;
  return (int)(left < planes->block ? left : planes->block);
}

typedef struct Range {
  int64_t begin, end;
} Range;

// The share of part `part` of `parts` in [0, count).
static inline Range range_cut(int64_t count, int part, int parts) {
  return (Range){count * part / parts, count * (part + 1) / parts};
}

// `block` floats of a dense channel vector, zeros past its end; `absent` where it is NULL.
static inline void lanes_load(float *lanes, const float *dense, int64_t first, int count,
                              float absent) {
  for (int i = 0; i < VECTOR_BLOCK_MAX; i++)
    lanes[i] = i >= count ? 0.0f : dense ? dense[first + i] : absent;
}

#endif
