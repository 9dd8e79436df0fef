// The update. See optimizer.h.
#include "train/optimizer.h"

UpdateState optimizer_begin(const LossScale *loss_scale) {
  return (UpdateState){.loss_scale = loss_scale->scale,
                       .good_steps = loss_scale->good_steps,
                       .skipped_steps = loss_scale->skipped};
}

static Status begin(const OptimizerArgs *args) {
  UpdateRules rules = {.clip_norm = args->config->clip_norm,
                       .scales_loss = args->loss_scale.enabled,
                       .growth_steps = args->loss_scale.growth_steps};
  if (rules.clip_norm > 0.0 || rules.scales_loss)
    TRY(args->backend->vector_sum_squares(args->device, &args->state->squares, args->gradients,
                                          args->layout->trained));
  return args->backend->update_begin(args->device, args->state, &rules);
}

static Status update_weights(const OptimizerArgs *args) {
  const ParameterLayout *layout = args->layout;
  SgdArgs sgd = {.weights = args->weights,
                 .velocity = args->velocity,
                 .gradients = args->gradients,
                 .momentum = (float)args->config->momentum,
                 .nesterov = args->config->nesterov,
                 .learning_rate = args->learning_rate,
                 .state = args->state};
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
  return STATUS_OK;
}

static Status update_averages(const OptimizerArgs *args) {
  const ParameterLayout *layout = args->layout;
  for (int i = 0; i < layout->statistic_count; i++) {
    const ParameterSlice *slice = &layout->statistics[i];
    TRY(args->backend->moving_average_update(
        args->device, &(MovingAverageArgs){.moving = args->weights + slice->first,
                                           .batch = args->gradients + slice->first,
                                           .momentum = (float)slice->momentum,
                                           .count = slice->count,
                                           .state = args->state}));
  }
  if (!args->averaged) return STATUS_OK;
  return args->backend->moving_average_update(
      args->device, &(MovingAverageArgs){.moving = args->averaged,
                                         .batch = args->weights,
                                         .momentum = (float)args->config->ema_momentum,
                                         .count = layout->trained,
                                         .state = args->state});
}

Status optimizer_step(const OptimizerArgs *args) {
  TRY(begin(args));
  TRY(update_weights(args));
  return update_averages(args);
}

// --- the regulariser's part of the loss -----------------------------------------------------------

int optimizer_penalty_terms(const ParameterLayout *layout) {
  int terms = 0;
  for (int i = 0; i < layout->slice_count; i++) terms += layout->slices[i].l2 != 0.0;
  return terms;
}

Status optimizer_find_penalty(const OptimizerArgs *args, double *terms) {
  for (int i = 0; i < args->layout->slice_count; i++) {
    const ParameterSlice *slice = &args->layout->slices[i];
    if (slice->l2 == 0.0) continue;
    TRY(args->backend->vector_sum_squares(args->device, terms++, args->weights + slice->first,
                                          slice->count));
  }
  return STATUS_OK;
}

double optimizer_penalty(const ParameterLayout *layout, const double *terms) {
  double loss = 0.0;
  for (int i = 0; i < layout->slice_count; i++)
    if (layout->slices[i].l2 != 0.0) loss += layout->slices[i].l2 * *terms++;
  return loss;
}
