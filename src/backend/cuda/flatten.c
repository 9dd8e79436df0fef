// STEP_FLATTEN: (H, W, C) in the compute type to (H W C,) in fp32, which is dense memory; backward
// goes the other way.
#include "backend/cuda/step_state.h"
#include "backend/cuda/steps.h"

static Status plan(void **state, Device *device, const StepDesc *desc, StepNeeds *needs) {
  *needs = (StepNeeds){0};
  return cuda_step_state_create(state, device, desc);
}

static Status forward(void *context, const StepArgs *args) {
  const StepState *state = context;
  const StepDesc *desc = &state->desc;
  Shape in = desc->inputs[0];
  kernel_export(cuda_type(in, desc->dtype), args->y, args->x[0], cuda_batch_pixels(desc, in),
                (int)shape_channels(in), state->device->stream);
  return cuda__launched("flatten");
}

static Status backward(void *context, const StepArgs *args) {
  const StepState *state = context;
  const StepDesc *desc = &state->desc;
  Shape in = desc->inputs[0];
  if (!args->dx[0]) return STATUS_OK;
  kernel_import(cuda_type(in, desc->dtype), args->dx[0], args->dy, cuda_batch_pixels(desc, in),
                (int)shape_channels(in), state->device->stream);
  return cuda__launched("flatten's gradient");
}

const StepImpl cuda_flatten = {
    .plan = plan, .unplan = cuda_step_state_free, .forward = forward, .backward = backward};
