// STEP_RESCALE: y = x scale + offset, by channel. The constants go to the device once.
#include "backend/cuda/step_state.h"
#include "backend/cuda/steps.h"
#include "base/memory.h"

typedef struct Rescale {
  StepState step;     // first: the simple steps' state
  const void *filled; // the constants' place once they are there
} Rescale;

static Status plan(void **state, Device *device, const StepDesc *desc, StepNeeds *needs) {
  *state = NULL;
  Rescale *rescale;
  TRY(memory_alloc(&rescale, 1, sizeof *rescale));
  rescale->step = (StepState){device, *desc};
  *state = rescale;
  *needs = (StepNeeds){.persistent_size =
                           2 * (size_t)shape_channels(desc->output) * sizeof(float),
                       .forward_in_place = true,
                       .backward_in_place = true,
                       .takes_second_dy = true};
  return STATUS_OK;
}

// One constant for all channels, or one each. Only once: later calls may be those of a step that is
// recorded, where nothing can be waited for.
static Status prepare(void *context, const StepArgs *args) {
  Rescale *rescale = context;
  if (rescale->filled == args->persistent) return STATUS_OK;
  const StepState *state = &rescale->step;
  const RescalingDesc *rescaling = &state->desc.rescaling;
  int64_t channels = shape_channels(state->desc.output);
  float *constants;
  TRY(memory_alloc(&constants, 2 * (size_t)channels, sizeof *constants));
  for (int64_t c = 0; c < channels; c++) {
    int64_t from = rescaling->count > 1 ? c : 0;
    constants[c] = (float)rescaling->scale[from];
    constants[channels + c] = (float)rescaling->offset[from];
  }
  Status status = cuda_copy_to_device(state->device, args->persistent, constants,
                                      2 * (size_t)channels * sizeof *constants);
  memory_free(constants);
  if (status == STATUS_OK) rescale->filled = args->persistent;
  return status;
}

static KernelAffine describe(const StepState *state, const StepArgs *args) {
  const StepDesc *desc = &state->desc;
  int64_t pixels = cuda_batch_pixels(desc, desc->output);
  return (KernelAffine){.type = cuda_type(desc->output, desc->dtype),
                        .pixels = pixels,
                        .row_pixels = pixels,
                        .channels = (int)shape_channels(desc->output),
                        .scale = args->persistent};
}

static Status forward(void *context, const StepArgs *args) {
  const StepState *state = context;
  const StepDesc *desc = &state->desc;
  KernelAffine affine = describe(state, args);
  affine.x = cuda_slice_at(desc, desc->x_slice[0], args->x[0]);
  affine.x_pitch = cuda_slice_pitch(desc, desc->x_slice[0]);
  affine.shift = (const float *)args->persistent + affine.channels;
  affine.shift_factor = 1.0f;
  affine.y = cuda_slice_at(desc, desc->y_slice, args->y);
  affine.y_pitch = cuda_slice_pitch(desc, desc->y_slice);
  kernel_affine(&affine, state->device->stream);
  return cuda__launched("rescaling");
}

static Status backward(void *context, const StepArgs *args) {
  const StepState *state = context;
  const StepDesc *desc = &state->desc;
  if (!args->dx[0]) return STATUS_OK;
  KernelAffine affine = describe(state, args);
  affine.x = cuda_slice_at(desc, desc->y_slice, args->dy);
  affine.x_pitch = cuda_slice_pitch(desc, desc->y_slice);
  affine.x2 = args->dy2;
  affine.y = args->dx[0];
  kernel_affine(&affine, state->device->stream);
  return cuda__launched("rescaling's gradient");
}

const StepImpl cuda_rescale = {.plan = plan,
                               .unplan = cuda_step_state_free,
                               .prepare = prepare,
                               .forward = forward,
                               .backward = backward,
                               .reads_slices = true,
                               .writes_slices = true};
