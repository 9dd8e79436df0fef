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
                          .factor = has_factor(desc) ? (float)desc->factor : 1.0f,
                          .a_pitch = cuda_slice_pitch(desc, desc->x_slice[0]),
                          .b_pitch = cuda_slice_pitch(desc, desc->x_slice[1]),
                          .y_pitch = cuda_slice_pitch(desc, desc->y_slice),
                          .dy_pitch = cuda_slice_pitch(desc, desc->y_slice)};
}

static Status forward(void *context, const StepArgs *args) {
  const StepState *state = context;
  const StepDesc *desc = &state->desc;
  KernelActivate activate = describe(desc);
  activate.a = cuda_slice_at(desc, desc->x_slice[0], args->x[0]);
  activate.b = cuda_slice_at(desc, desc->x_slice[1], args->x[1]);
  activate.y = cuda_slice_at(desc, desc->y_slice, args->y);
  kernel_activate(&activate, state->device->stream);
  return cuda__launched("sum");
}

static Status backward(void *context, const StepArgs *args) {
  const StepState *state = context;
  const StepDesc *desc = &state->desc;
  KernelActivate activate = describe(desc);
  activate.a = cuda_slice_at(desc, desc->x_slice[0], args->x[0]);
  activate.b = cuda_slice_at(desc, desc->x_slice[1], args->x[1]);
  if (slope_from_result(desc)) {
    activate.a = cuda_slice_at(desc, desc->y_slice, args->y);
    activate.a_pitch = activate.y_pitch;
    activate.b = NULL;
  }
  activate.dy = cuda_slice_at(desc, desc->y_slice, args->dy);
  activate.dy2 = args->dy2;
  bool is_there = activate.kind == KERNEL_LINEAR && !args->dy2; // dy is the gradient of both
  activate.da = is_there && args->dx[0] == args->dy ? NULL : args->dx[0];
  bool b_is_there = is_there && !has_factor(desc);
  activate.db = b_is_there && args->dx[1] == args->dy ? NULL : args->dx[1];
  if (!activate.da && !activate.db) return STATUS_OK;
  kernel_activate_backward(&activate, state->device->stream);
  return cuda__launched("sum's gradient");
}

const StepImpl cuda_add = {.plan = plan,
                           .unplan = cuda_step_state_free,
                           .forward = forward,
                           .backward = backward,
                           .reads_slices = true,
                           .writes_slices = true};
