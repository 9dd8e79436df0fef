// Pixels to a value: the bytes cross the bus, moving images and scaling happen there.
#include <string.h>

#include "backend/cuda/device.h"
#include "backend/cuda/steps.h"

_Static_assert((int)UPLOAD_FILL_REFLECT == (int)KERNEL_FILL_REFLECT &&
                   (int)UPLOAD_FILL_WRAP == (int)KERNEL_FILL_WRAP &&
                   (int)UPLOAD_FILL_NEAREST == (int)KERNEL_FILL_NEAREST,
               "the kernel's names are the seam's");

// Staging holds the maps, then the pixels: doubles stay aligned.
Status cuda_upload(Device *device, const UploadArgs *args) {
  void *staging;
  size_t size = (size_t)(args->batch * shape_count(args->shape));
  size_t map_size = (size_t)args->batch * UPLOAD_MAP_NUMBERS * sizeof *args->maps;
  if (!args->maps) map_size = 0;
  TRY(cuda_staging(device, &staging, map_size + size));
  uint8_t *pixels = (uint8_t *)staging + map_size;
  TRY(cuda__send(device, staging, args->maps, map_size));
  TRY(cuda__send(device, pixels, args->pixels, size));
  KernelUpload upload = {.type = cuda_type(args->shape, args->dtype),
                         .samples = args->batch,
                         .height = args->shape.dim[0],
                         .width = args->shape.dim[1],
                         .channels = (int)shape_channels(args->shape),
                         .bytes = pixels,
                         .maps = args->maps ? staging : NULL,
                         .fill = (KernelFill)args->fill,
                         .fill_value = args->fill_value,
                         .value = args->value};
  memcpy(upload.scale, args->scale, sizeof upload.scale);
  memcpy(upload.offset, args->offset, sizeof upload.offset);
  kernel_upload(&upload, device->stream);
  return cuda__launched("upload");
}
