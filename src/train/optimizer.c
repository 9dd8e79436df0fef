// The update. See optimizer.h.
#include "train/optimizer.h"

#include <math.h>

static double scale_of(const OptimizerArgs *args) {
  return args->loss_scale > 0.0 ? args->loss_scale : 1.0;
}

// Squares of fp32 numbers and their sums are finite in double.
Status optimizer_gradient_norm(const OptimizerArgs *args, double *norm) {
  double squares;
  *norm = 0.0;
  if (args->config->clip_norm <= 0.0 && args->loss_scale == 0.0) return STATUS_OK;
  TRY(args->backend->vector_sum_squares(args->device, &squares, args->gradients,
                                        args->layout->trained));
  *norm = sqrt(squares) / scale_of(args);
  return STATUS_OK;
}

static double clip_factor(const OptimizerArgs *args, double norm) {
  double most = args->config->clip_norm;
  return most > 0.0 && norm > most ? most / norm : 1.0;
}

Status optimizer_step(const OptimizerArgs *args, double norm) {
  const ParameterLayout *layout = args->layout;
  SgdArgs sgd = {.weights = args->weights,
                 .velocity = args->velocity,
                 .gradients = args->gradients,
                 .learning_rate = (float)args->learning_rate,
                 .momentum = (float)args->config->momentum,
                 .gradient_scale = (float)(clip_factor(args, norm) / scale_of(args)),
                 .nesterov = args->config->nesterov};
  for (int i = 0; i < layout->slice_count; i++) {
    const ParameterSlice *slice = &layout->slices[i];
    sgd.slices[sgd.slice_count++] =
        (SgdSlice){.first = slice->first,
                   .count = slice->count,
                   .weight_decay = slice->decay ? (float)args->config->weight_decay : 0.0f,
                   .l2 = (float)slice->l2};
    if (sgd.slice_count < SGD_SLICES_MAX && i + 1 < layout->slice_count) continue;
    TRY(args->backend->sgd_update(args->device, &sgd));
    sgd.slice_count = 0;
  }
  for (int i = 0; i < layout->statistic_count; i++) {
    const ParameterSlice *slice = &layout->statistics[i];
    TRY(args->backend->moving_average_update(args->device, args->weights + slice->first,
                                             args->gradients + slice->first,
                                             (float)slice->momentum, slice->count));
  }
  if (!args->averaged) return STATUS_OK;
  return args->backend->moving_average_update(args->device, args->averaged, args->weights,
                                              (float)args->config->ema_momentum, layout->trained);
}

Status optimizer_regularization(const OptimizerArgs *args, double *loss) {
  *loss = 0.0;
  for (int i = 0; i < args->layout->slice_count; i++) {
    const ParameterSlice *slice = &args->layout->slices[i];
    if (slice->l2 == 0.0) continue;
    double squares;
    TRY(args->backend->vector_sum_squares(args->device, &squares, args->weights + slice->first,
                                          slice->count));
    *loss += slice->l2 * squares;
  }
  return STATUS_OK;
}
