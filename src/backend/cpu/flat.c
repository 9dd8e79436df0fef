// Flat fp32 slices: the optimizer, sums of gradients. Bound by memory: each is one pass. Sums run
// over fixed blocks whose results are added in order, whatever the number of threads.
#include <math.h>

#include "backend/cpu/device.h"
#include "backend/cpu/steps.h"

enum { SUM_BLOCK = 4096, SUM_BLOCKS_MAX = 1024 };

Status cpu_vector_add(Device *device, float *to, const float *from, int64_t count) {
  cpu_device_enter(device);
#pragma omp parallel for simd schedule(static)
  for (int64_t i = 0; i < count; i++) to[i] += from[i];
  return STATUS_OK;
}

Status cpu_vector_scale(Device *device, float *to, const float *from, float factor, int64_t count) {
  cpu_device_enter(device);
#pragma omp parallel for simd schedule(static)
  for (int64_t i = 0; i < count; i++) to[i] = from[i] * factor;
  return STATUS_OK;
}

Status cpu_vector_sum_squares(Device *device, double *out, const float *values, int64_t count) {
  *out = 0.0;
  cpu_device_enter(device);
  for (int64_t first = 0; first < count; first += (int64_t)SUM_BLOCK * SUM_BLOCKS_MAX) {
    double sums[SUM_BLOCKS_MAX] = {0};
    int64_t end = first + (int64_t)SUM_BLOCK * SUM_BLOCKS_MAX;
    if (end > count) end = count;
    int64_t blocks = (end - first + SUM_BLOCK - 1) / SUM_BLOCK;
#pragma omp parallel for schedule(static)
    for (int64_t b = 0; b < blocks; b++) {
      int64_t stop = first + (b + 1) * SUM_BLOCK;
      if (stop > end) stop = end;
      double sum = 0.0;
      for (int64_t i = first + b * SUM_BLOCK; i < stop; i++) sum += (double)values[i] * values[i];
      sums[b] = sum;
    }
    for (int64_t b = 0; b < blocks; b++) *out += sums[b];
  }
  return STATUS_OK;
}

static void sgd_slice(const SgdArgs *args, const SgdSlice *slice) {
  float *w = args->weights + slice->first, *v = args->velocity + slice->first;
  const float *g = args->gradients + slice->first;
  float lr = *args->learning_rate, momentum = args->momentum, scale = args->state->gradient_scale;
  float l2 = 2.0f * slice->l2, decay = lr * slice->weight_decay;
  if (args->nesterov) {
#pragma omp parallel for simd schedule(static)
    for (int64_t i = 0; i < slice->count; i++) {
      float step = lr * (scale * g[i] + l2 * w[i]);
      v[i] = momentum * v[i] - step;
      w[i] = w[i] - decay * w[i] + momentum * v[i] - step;
    }
    return;
  }
#pragma omp parallel for simd schedule(static)
  for (int64_t i = 0; i < slice->count; i++) {
    v[i] = momentum * v[i] - lr * (scale * g[i] + l2 * w[i]);
    w[i] = w[i] - decay * w[i] + v[i];
  }
}

Status cpu_sgd_update(Device *device, const SgdArgs *args) {
  if (args->state->is_skipped) return STATUS_OK;
  cpu_device_enter(device);
  for (int i = 0; i < args->slice_count; i++) sgd_slice(args, &args->slices[i]);
  return STATUS_OK;
}

Status cpu_moving_average_update(Device *device, const MovingAverageArgs *args) {
  float *moving = args->moving, momentum = args->momentum;
  const float *batch = args->batch;
  if (args->state->is_skipped) return STATUS_OK;
  cpu_device_enter(device);
#pragma omp parallel for simd schedule(static)
  for (int64_t i = 0; i < args->count; i++)
    moving[i] = momentum * moving[i] + (1.0f - momentum) * batch[i];
  return STATUS_OK;
}

// Scale and 1 / scale stay normal numbers of fp32, and the loss's gradient finite.
static const double least_scale = 1.0, largest_scale = 0x1p126;

static void move_loss_scale(UpdateState *state, int64_t growth_steps) {
  if (state->is_skipped) {
    state->skipped_steps++;
    state->good_steps = 0;
    state->loss_scale = fmax(state->loss_scale / 2.0, least_scale);
  } else if (growth_steps > 0 && ++state->good_steps == growth_steps) {
    state->good_steps = 0;
    if (state->loss_scale <= largest_scale / 2.0) state->loss_scale *= 2.0;
  }
}

// Squares of fp32 numbers and their sums are finite in double where all numbers are.
Status cpu_update_begin(Device *device, UpdateState *state, const UpdateRules *rules) {
  (void)device;
  double scale = rules->scales_loss ? state->loss_scale : 1.0;
  double norm = sqrt(state->squares) / scale, most = rules->clip_norm;
  double clip = most > 0.0 && norm > most ? most / norm : 1.0;
  state->gradient_scale = (float)(clip / scale);
  state->is_skipped = rules->scales_loss && !isfinite(norm);
  if (rules->scales_loss) move_loss_scale(state, rules->growth_steps);
  return STATUS_OK;
}
