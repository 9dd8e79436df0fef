// STEP_ADD: y = act(a + factor b). ReLU and ReLU6 take their slope from y, the others from the sum
// once more.
#include "backend/cuda/step_state.h"
#include "backend/cuda/steps.h"

static bool slope_from_result(const StepDesc *desc) {
  return desc->activation == ACTIVATION_RELU || desc->activation == ACTIVATION_RELU6;
}

static Status plan(void **state, Device *device, const StepDesc *desc, StepNeeds *needs) {
  if (desc->activation == ACTIVATION_SOFTMAX)
    return status_set(STATUS_CONFIG, "%s: softmax cannot follow a sum", desc->name);
  bool reads_x = desc->activation != ACTIVATION_LINEAR && !slope_from_result(desc);
  *needs = (StepNeeds){.forward_in_place = true,
                       .backward_in_place = true,
                       .residual_in_place = true,
                       .takes_second_dy = true,
                       .backward_reads_x = {reads_x, reads_x},
                       .backward_reads_y = slope_from_result(desc)};
  return cuda_step_state_create(state, device, desc);
}

static bool has_factor(const StepDesc *desc) { return desc->factor != 0.0 && desc->factor != 1.0; }

static KernelActivate describe(const StepDesc *desc) {
  return (KernelActivate){.type = cuda_type(desc->output, desc->dtype),
                          .kind = (KernelActivation)desc->activation,
                          .pixels = cuda_batch_pixels(desc, desc->output),
                          .channels = (int)shape_channels(desc->output),
                          .factor = has_factor(desc) ? (float)desc->factor : 1.0f};
}

static Status forward(void *context, const StepArgs *args) {
  const StepState *state = context;
  KernelActivate activate = describe(&state->desc);
  activate.a = args->x[0];
  activate.b = args->x[1];
  activate.y = args->y;
  kernel_activate(&activate, state->device->stream);
  return cuda__launched("sum");
}

static Status backward(void *context, const StepArgs *args) {
  const StepState *state = context;
  KernelActivate activate = describe(&state->desc);
  bool from_result = slope_from_result(&state->desc);
  activate.a = from_result ? args->y : args->x[0];
  activate.b = from_result ? NULL : args->x[1];
  activate.dy = args->dy;
  activate.dy2 = args->dy2;
  bool is_there = activate.kind == KERNEL_LINEAR && !args->dy2; // dy is the gradient of both
  activate.da = is_there && args->dx[0] == args->dy ? NULL : args->dx[0];
  bool b_is_there = is_there && !has_factor(&state->desc);
  activate.db = b_is_there && args->dx[1] == args->dy ? NULL : args->dx[1];
  if (!activate.da && !activate.db) return STATUS_OK;
  kernel_activate_backward(&activate, state->device->stream);
  return cuda__launched("sum's gradient");
}

const StepImpl cuda_add = {
    .plan = plan, .unplan = cuda_step_state_free, .forward = forward, .backward = backward};
