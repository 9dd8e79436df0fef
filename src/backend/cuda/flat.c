// Flat fp32 slices: the optimizer, sums of gradients.
#include "backend/cuda/device.h"
#include "backend/cuda/steps.h"

_Static_assert((int)SGD_SLICES_MAX == (int)KERNEL_SGD_SLICES,
               "the kernel takes what the seam takes");

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
  double *sum = device->sums + KERNEL_SUM_BLOCKS;
  kernel_vector_sum_squares(sum, values, count, device->sums, device->stream);
  TRY(cuda__launched("vector sum of squares"));
  return cuda_copy_to_host(device, out, sum, sizeof *out);
}

// One launch, whatever the number of slices.
Status cuda_sgd_update(Device *device, const SgdArgs *args) {
  KernelSgd sgd = {.weights = args->weights,
                   .velocity = args->velocity,
                   .gradients = args->gradients,
                   .slice_count = args->slice_count,
                   .learning_rate = args->learning_rate,
                   .momentum = args->momentum,
                   .gradient_scale = args->gradient_scale,
                   .nesterov = args->nesterov};
  for (int i = 0; i < args->slice_count; i++) {
    const SgdSlice *slice = &args->slices[i];
    sgd.slices[i] =
        (KernelSgdSlice){slice->first, slice->first + slice->count, slice->weight_decay, slice->l2};
  }
  kernel_sgd(&sgd, device->stream);
  return cuda__launched("SGD");
}

Status cuda_moving_average_update(Device *device, float *moving, const float *batch, float momentum,
                                  int64_t count) {
  kernel_moving_average(moving, batch, momentum, count, device->stream);
  return cuda__launched("moving average");
}
