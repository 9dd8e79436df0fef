// Flat fp32 slices: the optimizer, sums of gradients.
#include "backend/cuda/device.h"
#include "backend/cuda/steps.h"

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

Status cuda_vector_is_finite(Device *device, bool *out, const float *values, int64_t count) {
  int32_t found, *counter = (int32_t *)device->sums;
  kernel_vector_not_finite(counter, values, count, device->stream);
  TRY(cuda__launched("vector is finite"));
  TRY(cuda_copy_to_host(device, &found, counter, sizeof found));
  *out = found == 0;
  return STATUS_OK;
}

Status cuda_sgd_update(Device *device, const SgdArgs *args) {
  kernel_sgd(&(KernelSgd){.weights = args->weights,
                          .velocity = args->velocity,
                          .gradients = args->gradients,
                          .count = args->count,
                          .learning_rate = args->learning_rate,
                          .momentum = args->momentum,
                          .weight_decay = args->weight_decay,
                          .l2 = args->l2,
                          .gradient_scale = args->gradient_scale,
                          .nesterov = args->nesterov},
             device->stream);
  return cuda__launched("SGD");
}

Status cuda_moving_average_update(Device *device, float *moving, const float *batch, float momentum,
                                  int64_t count) {
  kernel_moving_average(moving, batch, momentum, count, device->stream);
  return cuda__launched("moving average");
}
