// Pixels to a value: the bytes cross the bus, the scaling happens there.
#include <string.h>

#include "backend/cuda/device.h"
#include "backend/cuda/steps.h"

Status cuda_upload(Device *device, const UploadArgs *args) {
  void *staging;
  size_t size = (size_t)(args->batch * shape_count(args->shape));
  TRY(cuda_staging(device, &staging, size));
  TRY(cuda_copy_to_device(device, staging, args->pixels, size));
  KernelUpload upload = {.type = cuda_type(args->shape, args->dtype),
                         .pixels = args->batch * cuda_pixels(args->shape),
                         .channels = (int)shape_channels(args->shape),
                         .bytes = staging,
                         .value = args->value};
  memcpy(upload.scale, args->scale, sizeof upload.scale);
  memcpy(upload.offset, args->offset, sizeof upload.offset);
  kernel_upload(&upload, device->stream);
  return cuda__launched("upload");
}
