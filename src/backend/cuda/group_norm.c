// STEP_GROUP_NORM through kernels/group_norm.cu. Saved: mean and rstd of each group of each sample.
#include "backend/cuda/step_state.h"
#include "backend/cuda/steps.h"

static Status plan(void **state, Device *device, const StepDesc *desc, StepNeeds *needs) {
  if (desc->activation == ACTIVATION_SOFTMAX)
    return status_set(STATUS_CONFIG, "%s: softmax cannot follow a normalisation", desc->name);
  TRY(cuda_norm_check(desc));
  size_t scratch = (size_t)kernel_group_norm_scratch(
      &(KernelGroupNorm){.type = cuda_norm_type(desc),
                         .samples = desc->batch,
                         .sample_pixels = cuda_pixels(desc->output),
                         .channels = (int)shape_channels(desc->output),
                         .groups = desc->groups});
  *needs = (StepNeeds){.saved_size = (size_t)(desc->batch * desc->groups) * 2 * sizeof(float),
                       .scratch_size = scratch * sizeof(float),
                       .forward_in_place = true,
                       .backward_in_place = true,
                       .takes_second_dy = true,
                       .backward_reads_x = {true}};
  return cuda_step_state_create(state, device, desc);
}

static KernelGroupNorm describe(const StepDesc *desc, const StepArgs *args) {
  float *mean = args->saved;
  return (KernelGroupNorm){.type = cuda_norm_type(desc),
                           .kind = (KernelActivation)desc->activation,
                           .samples = desc->batch,
                           .sample_pixels = cuda_pixels(desc->output),
                           .channels = (int)shape_channels(desc->output),
                           .groups = desc->groups,
                           .epsilon = desc->epsilon,
                           .x = args->x[0],
                           .y = args->y,
                           .gamma = args->params[0],
                           .beta = args->params[1],
                           .mean = mean,
                           .rstd = mean + desc->batch * desc->groups,
                           .scratch = args->scratch};
}

static Status forward(void *context, const StepArgs *args) {
  const StepState *state = context;
  KernelGroupNorm norm = describe(&state->desc, args);
  kernel_group_norm_forward(&norm, state->device->stream);
  return cuda__launched("group normalisation");
}

static Status rebuild(void *context, const StepArgs *args) {
  const StepState *state = context;
  KernelGroupNorm norm = describe(&state->desc, args);
  kernel_group_norm_apply(&norm, state->device->stream);
  return cuda__launched("group normalisation, recomputed");
}

static Status backward(void *context, const StepArgs *args) {
  const StepState *state = context;
  KernelGroupNorm norm = describe(&state->desc, args);
  norm.dy = args->dy;
  norm.dy2 = args->dy2;
  norm.dx = args->dx[0];
  norm.dgamma = args->dparams[0];
  norm.dbeta = args->dparams[1];
  kernel_group_norm_backward(&norm, state->device->stream);
  return cuda__launched("group normalisation's gradient");
}

const StepImpl cuda_group_norm = {
    .plan = plan, .unplan = cuda_step_state_free, .forward = forward, .backward = backward,
    .rebuild = rebuild};
