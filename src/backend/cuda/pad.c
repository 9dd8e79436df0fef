// STEP_PAD: zeros around the spatial dimensions; backward cuts them off again. STEP_CROP is the
// opposite.
#include "backend/cuda/step_state.h"
#include "backend/cuda/steps.h"

static Status plan(void **state, Device *device, const StepDesc *desc, StepNeeds *needs) {
  *needs = (StepNeeds){0};
  return cuda_step_state_create(state, device, desc);
}

static KernelWindowCopy describe(const StepDesc *desc, Shape from, Shape to) {
  int channels = (int)shape_channels(from);
  return (KernelWindowCopy){.type = cuda_type(from, desc->dtype),
                            .samples = desc->batch,
                            .in_h = from.dim[0],
                            .in_w = from.dim[1],
                            .out_h = to.dim[0],
                            .out_w = to.dim[1],
                            .in_channels = channels,
                            .out_channels = channels,
                            .count = channels,
                            .clears = true};
}

// y[h, w] = x[h - top, w - left], 0 outside.
static Status shift(const StepState *state, KernelWindowCopy copy, int64_t top, int64_t left,
                    const void *x, void *y) {
  copy.top = top;
  copy.left = left;
  copy.x = x;
  copy.y = y;
  kernel_window_copy(&copy, state->device->stream);
  return cuda__launched("padding or cropping");
}

static Status pad_forward(void *context, const StepArgs *args) {
  const StepState *state = context;
  const StepDesc *desc = &state->desc;
  return shift(state, describe(desc, desc->inputs[0], desc->output), desc->pads.top,
               desc->pads.left, args->x[0], args->y);
}

static Status pad_backward(void *context, const StepArgs *args) {
  const StepState *state = context;
  const StepDesc *desc = &state->desc;
  if (!args->dx[0]) return STATUS_OK;
  return shift(state, describe(desc, desc->output, desc->inputs[0]), -desc->pads.top,
               -desc->pads.left, args->dy, args->dx[0]);
}

static Status crop_forward(void *context, const StepArgs *args) {
  const StepState *state = context;
  const StepDesc *desc = &state->desc;
  return shift(state, describe(desc, desc->inputs[0], desc->output), -desc->pads.top,
               -desc->pads.left, args->x[0], args->y);
}

static Status crop_backward(void *context, const StepArgs *args) {
  const StepState *state = context;
  const StepDesc *desc = &state->desc;
  if (!args->dx[0]) return STATUS_OK;
  return shift(state, describe(desc, desc->output, desc->inputs[0]), desc->pads.top,
               desc->pads.left, args->dy, args->dx[0]);
}

const StepImpl cuda_pad = {
    .plan = plan, .unplan = cuda_step_state_free, .forward = pad_forward, .backward = pad_backward};
const StepImpl cuda_crop = {.plan = plan,
                            .unplan = cuda_step_state_free,
                            .forward = crop_forward,
                            .backward = crop_backward};
