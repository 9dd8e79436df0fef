// STEP_DROPOUT: y = x mask / (1 - rate) [+ residual]. The mask of an element is drawn from (seed,
// step, layer, place in the global batch, element), with the CPU's bits; backward draws it again.
#include <stddef.h>

#include "backend/cuda/step_state.h"
#include "backend/cuda/steps.h"

_Static_assert(sizeof(StepKey) == sizeof(KernelKey) &&
                   offsetof(StepKey, step) == offsetof(KernelKey, step) &&
                   offsetof(StepKey, first_sample) == offsetof(KernelKey, first_sample),
               "the kernel's key is the seam's");

static Status plan(void **state, Device *device, const StepDesc *desc, StepNeeds *needs) {
  *needs = (StepNeeds){.forward_in_place = true,
                       .backward_in_place = true,
                       .residual_in_place = desc->input_count > 1,
                       .takes_second_dy = true};
  return cuda_step_state_create(state, device, desc);
}

static bool draws(const StepDesc *desc) { return desc->training && desc->rate > 0.0; }

static void run(const StepState *state, KernelDropout dropout, const StepKey *key) {
  const StepDesc *desc = &state->desc;
  dropout.type = cuda_type(desc->output, desc->dtype);
  dropout.samples = desc->batch;
  dropout.sample_pixels = cuda_pixels(desc->output);
  dropout.channels = (int)shape_channels(desc->output);
  dropout.per_sample = desc->per_sample;
  dropout.layer = desc->layer;
  if (draws(desc)) {
    dropout.rate = (float)desc->rate;
    dropout.key = (const KernelKey *)(const void *)key;
  }
  kernel_dropout(&dropout, state->device->stream);
}

static Status forward(void *context, const StepArgs *args) {
  const StepState *state = context;
  const StepDesc *desc = &state->desc;
  const void *residual = desc->input_count > 1 ? args->x[1] : NULL;
  run(state,
      (KernelDropout){.x = cuda_slice_at(desc, desc->x_slice[0], args->x[0]),
                      .x_pitch = cuda_slice_pitch(desc, desc->x_slice[0]),
                      .residual = cuda_slice_at(desc, desc->x_slice[1], residual),
                      .residual_pitch = cuda_slice_pitch(desc, desc->x_slice[1]),
                      .y = cuda_slice_at(desc, desc->y_slice, args->y),
                      .y_pitch = cuda_slice_pitch(desc, desc->y_slice)},
      args->key);
  return cuda__launched("dropout");
}

static Status backward(void *context, const StepArgs *args) {
  const StepState *state = context;
  const StepDesc *desc = &state->desc;
  bool is_there = args->dx[1] == args->dy && !args->dy2; // dy is the residual's gradient already
  run(state,
      (KernelDropout){.x = cuda_slice_at(desc, desc->y_slice, args->dy),
                      .x_pitch = cuda_slice_pitch(desc, desc->y_slice),
                      .x2 = args->dy2,
                      .y = args->dx[0],
                      .sum = is_there ? NULL : args->dx[1]},
      args->key);
  return cuda__launched("dropout's gradient");
}

const StepImpl cuda_dropout = {.plan = plan,
                               .unplan = cuda_step_state_free,
                               .forward = forward,
                               .backward = backward,
                               .reads_slices = true,
                               .writes_slices = true};
