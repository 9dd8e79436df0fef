// STEP_PAD: zeros around the spatial dimensions; backward cuts them off again.
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

static Status forward(void *context, const StepArgs *args) {
  const StepState *state = context;
  const StepDesc *desc = &state->desc;
  KernelWindowCopy copy = describe(desc, desc->inputs[0], desc->output);
  copy.top = desc->pads.top;
  copy.left = desc->pads.left;
  copy.x = args->x[0];
  copy.y = args->y;
  kernel_window_copy(&copy, state->device->stream);
  return cuda__launched("padding");
}

static Status backward(void *context, const StepArgs *args) {
  const StepState *state = context;
  const StepDesc *desc = &state->desc;
  if (!args->dx[0]) return STATUS_OK;
  KernelWindowCopy copy = describe(desc, desc->output, desc->inputs[0]);
  copy.top = -desc->pads.top;
  copy.left = -desc->pads.left;
  copy.x = args->dy;
  copy.y = args->dx[0];
  kernel_window_copy(&copy, state->device->stream);
  return cuda__launched("padding's gradient");
}

const StepImpl cuda_pad = {
    .plan = plan, .unplan = cuda_step_state_free, .forward = forward, .backward = backward};
