// The CPU device and its layout of values, shared by the files of this folder.
//
// Rank-3 values with up to 4 channels are plain N, C, H, W (the image). All others are blocked:
// N, ceil(C / block), H, W, block with block 16 under AVX-512 and 8 elsewhere; the lanes past C
// hold zeros, always. Rank-1 values are N, C in fp32. The plain layout is the blocked one with
// block 1, so loops over cpu_value_block() serve both. One OpenMP team of `threads` runs every
// step; work is cut by thread index alone, so results do not depend on timing.
#ifndef IMGCLS_BACKEND_CPU_DEVICE_H
#define IMGCLS_BACKEND_CPU_DEVICE_H

#include <dnnl.h>
#include <string.h>

#include "backend/backend.h"

typedef enum CpuIsa { CPU_ISA_BASELINE, CPU_ISA_AVX2, CPU_ISA_AVX512, CPU_ISA_AVX512_BF16 } CpuIsa;

typedef struct VectorKernels VectorKernels; // vector_kernels.h

struct Device {
  int threads;
  CpuIsa isa;
  int block; // channels of a block
  dnnl_engine_t engine;
  dnnl_stream_t stream;
  const VectorKernels *kernels; // for `isa`
};

enum { PLAIN_CHANNELS_MAX = 4 };

// backend.h's device functions.
MUST_CHECK Status cpu_device_open(Device **out, const DeviceDesc *desc);
void cpu_device_close(Device *device);
void cpu_device_describe(const Device *device, char *text, size_t capacity);
bool cpu_device_multiplies(const Device *device, DType dtype);

// timeline.c
MUST_CHECK Status cpu_timeline_create(Device *device, Timeline **out, int capacity);
void cpu_timeline_free(Timeline *timeline);
MUST_CHECK Status cpu_timeline_mark(Timeline *timeline);
MUST_CHECK Status cpu_timeline_read(Timeline *timeline, double *seconds);

// Makes the calling thread's OpenMP team that of the device: its thread count, denormals flushed in
// every thread. Each step calls it first, because the executor may use a device from a thread that
// did not open it. Costs nothing when all is set already.
void cpu_device_enter(const Device *device);

static inline bool cpu_value_is_blocked(Shape shape) {
  return shape.rank == 3 && shape.dim[2] > PLAIN_CHANNELS_MAX;
}

static inline int64_t cpu_block_count(const Device *device, int64_t channels) {
  return (channels + device->block - 1) / device->block;
}

// Channels that lie side by side in a value: the block, or 1 where it is plain.
static inline int64_t cpu_value_block(const Device *device, Shape shape) {
  return cpu_value_is_blocked(shape) ? device->block : 1;
}

// Planes (of H W block elements) that an image of a value has.
static inline int64_t cpu_value_planes(const Device *device, Shape shape) {
  return cpu_value_is_blocked(shape) ? cpu_block_count(device, shape.dim[2])
                                     : shape_channels(shape);
}

static inline float cpu_from_bf16(uint16_t half) {
  uint32_t bits = (uint32_t)half << 16;
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

// To nearest, ties to even; a NaN stays one.
static inline uint16_t cpu_to_bf16(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  if (value != value) return (uint16_t)(bits >> 16 | 0x40);
  return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

#endif
