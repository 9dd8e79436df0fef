// Pixels to a value: the bytes cross the bus unless they are resident; moving images and scaling
// happen there.
#include <string.h>

#include "backend/cuda/device.h"
#include "backend/cuda/steps.h"

_Static_assert((int)UPLOAD_FILL_REFLECT == (int)KERNEL_FILL_REFLECT &&
                   (int)UPLOAD_FILL_WRAP == (int)KERNEL_FILL_WRAP &&
                   (int)UPLOAD_FILL_NEAREST == (int)KERNEL_FILL_NEAREST,
               "the kernel's names are the seam's");

// Host memory goes to staging: the maps, then the pixels or which images they are, so that doubles
// stay aligned.
static Status stage(UploadArgs *args, Device *device) {
  void *staging;
  size_t samples = (size_t)args->batch;
  size_t map_size = args->maps ? samples * UPLOAD_MAP_NUMBERS * sizeof *args->maps : 0;
  size_t size =
      args->images ? samples * sizeof *args->images : samples * (size_t)shape_count(args->shape);
  TRY(cuda_staging(device, &staging, map_size + size));
  void *rest = (char *)staging + map_size;
  TRY(cuda__send(device, staging, args->maps, map_size));
  TRY(cuda__send(device, rest, args->images ? (const void *)args->images : args->pixels, size));
  if (args->images)
    args->images = rest;
  else
    args->pixels = rest;
  if (args->maps) args->maps = staging;
  return STATUS_OK;
}

static Status scale(const UploadArgs *args, cudaStream_t stream) {
  KernelUpload upload = {.type = cuda_type(args->shape, args->dtype),
                         .samples = args->batch,
                         .height = args->shape.dim[0],
                         .width = args->shape.dim[1],
                         .channels = (int)shape_channels(args->shape),
                         .bytes = args->pixels,
                         .images = args->images,
                         .maps = args->maps,
                         .fill = (KernelFill)args->fill,
                         .fill_value = args->fill_value,
                         .value = args->value};
  memcpy(upload.scale, args->scale, sizeof upload.scale);
  memcpy(upload.offset, args->offset, sizeof upload.offset);
  kernel_upload(&upload, stream);
  return cuda__launched("upload");
}

Status cuda_upload(Device *device, const UploadArgs *given) {
  UploadArgs args = *given;
  cudaStream_t stream;
  TRY(cuda__upload_begin(device, &stream, args.order));
  if (args.values) {
    TRY(cuda__import(device, &args, stream));
  } else {
    if (!args.is_on_device) TRY(stage(&args, device));
    TRY(scale(&args, stream));
  }
  return cuda__upload_end(device, args.order);
}
