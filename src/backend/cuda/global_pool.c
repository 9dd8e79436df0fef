// STEP_GLOBAL_POOL: the mean over H and W, (H, W, C) to (C,) in fp32.
#include "backend/cuda/step_state.h"
#include "backend/cuda/steps.h"

static Status plan(void **state, Device *device, const StepDesc *desc, StepNeeds *needs) {
  *needs = (StepNeeds){.scratch_size = cuda_sum_pixels_scratch(desc, desc->inputs[0])};
  return cuda_step_state_create(state, device, desc);
}

static Status forward(void *context, const StepArgs *args) {
  const StepState *state = context;
  const StepDesc *desc = &state->desc;
  Shape in = desc->inputs[0];
  KernelSumPixels sums = cuda_sum_pixels(desc, in);
  sums.a = args->x[0];
  sums.factor = 1.0f / (float)cuda_pixels(in);
  sums.sums = args->y;
  sums.scratch = args->scratch;
  kernel_sum_pixels(&sums, state->device->stream);
  return cuda__launched("global pool");
}

static Status backward(void *context, const StepArgs *args) {
  const StepState *state = context;
  const StepDesc *desc = &state->desc;
  Shape in = desc->inputs[0];
  if (!args->dx[0]) return STATUS_OK;
  kernel_affine(&(KernelAffine){.type = cuda_type(in, desc->dtype),
                                .pixels = cuda_batch_pixels(desc, in),
                                .row_pixels = cuda_pixels(in),
                                .channels = (int)shape_channels(in),
                                .shift = args->dy,
                                .shift_factor = 1.0f / (float)cuda_pixels(in),
                                .y = args->dx[0]},
                state->device->stream);
  return cuda__launched("global pool's gradient");
}

const StepImpl cuda_global_pool = {
    .plan = plan, .unplan = cuda_step_state_free, .forward = forward, .backward = backward};
