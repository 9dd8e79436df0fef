// Pixels to a value: uint8 (n, H, W, C) to the backend's layout, scaled and shifted per channel.
#include "backend/cpu/step_state.h"
#include "backend/cpu/steps.h"

Status cpu_upload(Device *device, const UploadArgs *args) {
  if (args->values)
    return cpu_value_import(device, args->value, args->shape, args->batch, args->dtype,
                            args->values);
  int64_t channels = shape_channels(args->shape), pixels = args->shape.dim[0] * args->shape.dim[1];
  int64_t planes = cpu_value_planes(device, args->shape), block = cpu_value_block(device, args->shape);
  cpu_device_enter(device);
#pragma omp parallel for schedule(static)
  for (int64_t p = 0; p < args->batch * planes; p++) {
    const uint8_t *in = args->pixels + p / planes * pixels * channels;
    for (int64_t l = 0; l < block; l++) {
      int64_t c = p % planes * block + l;
      for (int64_t i = 0; i < pixels; i++)
        cpu_put(args->value, (p * pixels + i) * block + l,
                c < channels ? (float)in[i * channels + c] * args->scale[c] + args->offset[c] : 0.0f,
                args->dtype);
    }
  }
  return STATUS_OK;
}
