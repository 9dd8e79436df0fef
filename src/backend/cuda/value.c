// Sizes of values, and between values and dense host memory.
#include "backend/cuda/steps.h"

#include "backend/cuda/device.h"

// Whole packs only; the last slice may end in a pack that the wider value ends in too.
bool cuda_can_slice(const Device *device, Shape shape, Slice slice) {
  (void)device;
  enum { LANES = 8 }; // of a pack in 16 bits; those of fp32 are fewer
  if (shape.rank != 3 || slice.first % LANES != 0) return false;
  return shape.dim[2] % LANES == 0 || slice.first + shape.dim[2] == slice.channels;
}

size_t cuda_value_size(const Device *device, Shape shape, int64_t batch, DType dtype) {
  (void)device;
  KernelType type = cuda_type(shape, dtype);
  return (size_t)(batch * cuda_pixels(shape) *
                  kernel_stored_channels(type, shape_channels(shape))) *
         cuda_type_size(type);
}

Status cuda__import(Device *device, const UploadArgs *args, cudaStream_t stream) {
  const void *dense = args->values;
  size_t size = (size_t)(args->batch * shape_count(args->shape)) * sizeof *args->values;
  if (!args->is_on_device) TRY(cuda_stage(device, &dense, dense, size));
  kernel_import(cuda_type(args->shape, args->dtype), args->value, dense,
                args->batch * cuda_pixels(args->shape), (int)shape_channels(args->shape), stream);
  return cuda__launched("import");
}

Status cuda_value_import(Device *device, void *value, Shape shape, int64_t batch, DType dtype,
                         const float *dense) {
  return cuda__import(
      device,
      &(UploadArgs){
          .values = dense, .batch = batch, .shape = shape, .dtype = dtype, .value = value},
      device->stream);
}

Status cuda_value_export(Device *device, float *dense, const void *value, Shape shape, int64_t batch,
                         DType dtype) {
  void *staging;
  size_t size = (size_t)(batch * shape_count(shape)) * sizeof *dense;
  TRY(cuda_staging(device, &staging, size));
  kernel_export(cuda_type(shape, dtype), staging, value, batch * cuda_pixels(shape),
                (int)shape_channels(shape), device->stream);
  TRY(cuda__launched("export"));
  return cuda_copy_to_host(device, dense, staging, size);
}

Status cuda_value_add(Device *device, void *to, const void *from, size_t size_bytes, DType dtype) {
  KernelType type = cuda_type((Shape){.rank = 3}, dtype);
  if (size_bytes % 16 != 0) type = KERNEL_ROW; // packs of 16 bytes, which rows need not be
  int channels = (int)kernel_stored_channels(type, 1);
  size_t pixel_size = (size_t)channels * cuda_type_size(type);
  kernel_activate(&(KernelActivate){.type = type,
                                    .pixels = (int64_t)(size_bytes / pixel_size),
                                    .channels = channels,
                                    .a = to,
                                    .b = from,
                                    .factor = 1.0f,
                                    .y = to},
                  device->stream);
  return cuda__launched("value add");
}
