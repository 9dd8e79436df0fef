// Values between dense host memory (n, H, W, C) and the CPU's blocked layout, and sums of values.
//
// import writes zeros into the lanes past C; every step keeps them so.
#include "backend/cpu/device.h"
#include "backend/cpu/steps.h"

size_t cpu_value_size(const Device *device, Shape shape, int64_t batch, DType dtype) {
  if (shape.rank == 1) return (size_t)(batch * shape.dim[0]) * sizeof(float);
  int64_t plane = shape.dim[0] * shape.dim[1] * cpu_value_block(device, shape);
  return (size_t)(batch * cpu_value_planes(device, shape) * plane) * dtype_size(dtype);
}

// Whole blocks only; the last slice may end in a block that the wider value ends in too.
bool cpu_can_slice(const Device *device, Shape shape, Slice slice) {
  if (!cpu_value_is_blocked(shape) || slice.first % device->block != 0) return false;
  return shape.dim[2] % device->block == 0 || slice.first + shape.dim[2] == slice.channels;
}

static Status dtype_check(DType dtype) {
  if (dtype == DTYPE_F32 || dtype == DTYPE_BF16) return STATUS_OK;
  return status_set(STATUS_CONFIG, "the CPU computes in fp32 and bf16, not in %s",
                    dtype_name(dtype));
}

// How a rank-3 value's planes follow each other, and the dense image beside them.
typedef struct Planes {
  int64_t count;    // of all images
  int64_t of_image; // planes of one image
  int64_t pixels, block, channels;
} Planes;

static Planes planes_of(const Device *device, Shape shape, int64_t batch) {
  int64_t of_image = cpu_value_planes(device, shape);
  return (Planes){.count = batch * of_image,
                  .of_image = of_image,
                  .pixels = shape.dim[0] * shape.dim[1],
                  .block = cpu_value_block(device, shape),
                  .channels = shape.dim[2]};
}

static int64_t plane_lanes(const Planes *planes, int64_t plane) {
  int64_t left = planes->channels - plane % planes->of_image * planes->block;
  return left < planes->block ? left : planes->block;
}

// Where the dense image has the first channel of a plane's first pixel.
static int64_t plane_in_dense(const Planes *planes, int64_t plane) {
  return plane / planes->of_image * planes->pixels * planes->channels +
         plane % planes->of_image * planes->block;
}

static inline void element_set(void *value, int64_t i, float x, DType dtype) {
  if (dtype == DTYPE_BF16)
    ((uint16_t *)value)[i] = cpu_to_bf16(x);
  else
    ((float *)value)[i] = x;
}

static inline float element_get(const void *value, int64_t i, DType dtype) {
  return dtype == DTYPE_BF16 ? cpu_from_bf16(((const uint16_t *)value)[i])
                             : ((const float *)value)[i];
}

Status cpu_value_import(Device *device, void *value, Shape shape, int64_t batch, DType dtype,
                        const float *dense) {
  if (shape.rank == 1) {
    memcpy(value, dense, cpu_value_size(device, shape, batch, dtype));
    return STATUS_OK;
  }
  TRY(dtype_check(dtype));
  cpu_device_enter(device);
  const Planes planes = planes_of(device, shape, batch);
#pragma omp parallel for num_threads(device->threads) schedule(static)
  for (int64_t plane = 0; plane < planes.count; plane++) {
    const float *from = dense + plane_in_dense(&planes, plane);
    int64_t to = plane * planes.pixels * planes.block, lanes = plane_lanes(&planes, plane);
    for (int64_t pixel = 0; pixel < planes.pixels; pixel++) {
      for (int64_t lane = 0; lane < planes.block; lane++)
        element_set(value, to + lane, lane < lanes ? from[lane] : 0.0f, dtype);
      from += planes.channels;
      to += planes.block;
    }
  }
  return STATUS_OK;
}

Status cpu_value_export(Device *device, float *dense, const void *value, Shape shape, int64_t batch,
                        DType dtype) {
  if (shape.rank == 1) {
    memcpy(dense, value, cpu_value_size(device, shape, batch, dtype));
    return STATUS_OK;
  }
  TRY(dtype_check(dtype));
  cpu_device_enter(device);
  const Planes planes = planes_of(device, shape, batch);
#pragma omp parallel for num_threads(device->threads) schedule(static)
  for (int64_t plane = 0; plane < planes.count; plane++) {
    float *to = dense + plane_in_dense(&planes, plane);
    int64_t from = plane * planes.pixels * planes.block, lanes = plane_lanes(&planes, plane);
    for (int64_t pixel = 0; pixel < planes.pixels; pixel++) {
      for (int64_t lane = 0; lane < lanes; lane++)
        to[lane] = element_get(value, from + lane, dtype);
      to += planes.channels;
      from += planes.block;
    }
  }
  return STATUS_OK;
}

Status cpu_value_add(Device *device, void *to, const void *from, size_t size_bytes, DType dtype) {
  TRY(dtype_check(dtype));
  cpu_device_enter(device);
  int64_t count = (int64_t)(size_bytes / dtype_size(dtype));
  if (dtype == DTYPE_BF16) {
    uint16_t *sum = to;
    const uint16_t *term = from;
#pragma omp parallel for simd num_threads(device->threads) schedule(static)
    for (int64_t i = 0; i < count; i++)
      sum[i] = cpu_to_bf16(cpu_from_bf16(sum[i]) + cpu_from_bf16(term[i]));
  } else {
    float *sum = to;
    const float *term = from;
#pragma omp parallel for simd num_threads(device->threads) schedule(static)
    for (int64_t i = 0; i < count; i++) sum[i] += term[i];
  }
  return STATUS_OK;
}
