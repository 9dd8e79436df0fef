// Flat fp32 slices: the optimizer, sums of gradients.
#include <stddef.h>

#include "backend/cuda/device.h"
#include "backend/cuda/steps.h"

_Static_assert((int)SGD_SLICES_MAX == (int)KERNEL_SGD_SLICES,
               "the kernel takes what the seam takes");
_Static_assert(sizeof(UpdateState) == sizeof(KernelUpdateState) &&
                   offsetof(UpdateState, loss_scale) == offsetof(KernelUpdateState, loss_scale) &&
                   offsetof(UpdateState, good_steps) == offsetof(KernelUpdateState, good_steps) &&
                   offsetof(UpdateState, skipped_steps) ==
                       offsetof(KernelUpdateState, skipped_steps) &&
                   offsetof(UpdateState, gradient_scale) ==
                       offsetof(KernelUpdateState, gradient_scale) &&
                   offsetof(UpdateState, is_skipped) == offsetof(KernelUpdateState, is_skipped),
               "the kernels' state is the seam's");

static const KernelUpdateState *state_of(const UpdateState *state) {
  return (const KernelUpdateState *)(const void *)state;
}

Status cuda_vector_add(Device *device, float *to, const float *from, int64_t count) {
  kernel_vector_add(to, from, count, device->stream);
  return cuda__launched("vector add");
}

Status cuda_vector_scale(Device *device, float *to, const float *from, float factor,
                         int64_t count) {
  kernel_vector_scale(to, from, factor, count, device->stream);
  return cuda__launched("vector scale");
}

Status cuda_vector_sum_squares(Device *device, double *out, const float *values, int64_t count) {
  kernel_vector_sum_squares(out, values, count, device->sums, device->stream);
  return cuda__launched("vector sum of squares");
}

// One launch, whatever the number of slices.
Status cuda_sgd_update(Device *device, const SgdArgs *args) {
  KernelSgd sgd = {.weights = args->weights,
                   .velocity = args->velocity,
                   .gradients = args->gradients,
                   .slice_count = args->slice_count,
                   .momentum = args->momentum,
                   .nesterov = args->nesterov,
                   .learning_rate = args->learning_rate,
                   .state = state_of(args->state)};
  for (int i = 0; i < args->slice_count; i++) {
    const SgdSlice *slice = &args->slices[i];
    sgd.slices[i] =
        (KernelSgdSlice){slice->first, slice->first + slice->count, slice->weight_decay, slice->l2};
  }
  kernel_sgd(&sgd, device->stream);
  return cuda__launched("SGD");
}

Status cuda_moving_average_update(Device *device, const MovingAverageArgs *args) {
  kernel_moving_average(&(KernelMovingAverage){.moving = args->moving,
                                               .batch = args->batch,
                                               .momentum = args->momentum,
                                               .count = args->count,
                                               .state = state_of(args->state)},
                        device->stream);
  return cuda__launched("moving average");
}

Status cuda_update_begin(Device *device, UpdateState *state, const UpdateRules *rules) {
  kernel_update_begin((KernelUpdateState *)(void *)state,
                      &(KernelUpdateRules){.clip_norm = rules->clip_norm,
                                           .scales_loss = rules->scales_loss,
                                           .growth_steps = rules->growth_steps},
                      device->stream);
  return cuda__launched("beginning of an update");
}
