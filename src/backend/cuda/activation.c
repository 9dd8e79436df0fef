// STEP_ACTIVATION: y = act(x). Softmax over the channels of a rank-1 value, for a model's last layer
// in inference.
#include "backend/cuda/step_state.h"
#include "backend/cuda/steps.h"

static Status plan(void **state, Device *device, const StepDesc *desc, StepNeeds *needs) {
  if (desc->activation == ACTIVATION_SOFTMAX && (desc->output.rank != 1 || desc->need_dx[0]))
    return status_set(STATUS_CONFIG,
                      "softmax is for the last layer's output, and not for training");
  *needs = (StepNeeds){.forward_in_place = true,
                       .backward_in_place = true,
                       .takes_second_dy = true,
                       .backward_reads_x = {true}};
  return cuda_step_state_create(state, device, desc);
}

static KernelActivate describe(const StepDesc *desc, const StepArgs *args) {
  return (KernelActivate){.type = cuda_type(desc->output, desc->dtype),
                          .kind = (KernelActivation)desc->activation,
                          .pixels = cuda_batch_pixels(desc, desc->output),
                          .channels = (int)shape_channels(desc->output),
                          .a = cuda_slice_at(desc, desc->x_slice[0], args->x[0]),
                          .a_pitch = cuda_slice_pitch(desc, desc->x_slice[0]),
                          .y = cuda_slice_at(desc, desc->y_slice, args->y),
                          .y_pitch = cuda_slice_pitch(desc, desc->y_slice),
                          .dy = cuda_slice_at(desc, desc->y_slice, args->dy),
                          .dy_pitch = cuda_slice_pitch(desc, desc->y_slice),
                          .dy2 = args->dy2,
                          .da = args->dx[0]};
}

static Status forward(void *context, const StepArgs *args) {
  const StepState *state = context;
  const StepDesc *desc = &state->desc;
  KernelActivate activate = describe(desc, args);
  if (desc->activation == ACTIVATION_SOFTMAX)
    kernel_softmax(args->y, args->x[0], desc->batch, activate.channels, state->device->stream);
  else
    kernel_activate(&activate, state->device->stream);
  return cuda__launched("activation");
}

static Status backward(void *context, const StepArgs *args) {
  const StepState *state = context;
  KernelActivate activate = describe(&state->desc, args);
  kernel_activate_backward(&activate, state->device->stream);
  return cuda__launched("activation's gradient");
}

const StepImpl cuda_activation = {.plan = plan,
                                  .unplan = cuda_step_state_free,
                                  .forward = forward,
                                  .backward = backward,
                                  .rebuild = forward,
                                  .reads_slices = true,
                                  .writes_slices = true};
