// Softmax cross-entropy with label smoothing, loss and gradient in one pass over the logits.
//
// With p = softmax(z) and target t = (1 - s) onehot + s / K, whose sum is 1:
// loss = log sum exp z - sum t z, and its gradient by z is p - t.
#include <math.h>

#include "backend/cpu/device.h"
#include "backend/cpu/steps.h"

static void one_sample(const LossArgs *args, int64_t n) {
  const float *z = args->logits + n * args->classes;
  int32_t label = args->labels[n], above = 0;
  float top = z[0];
  double sum = 0.0, mean = 0.0;
  for (int64_t k = 1; k < args->classes; k++) top = z[k] > top ? z[k] : top;
  for (int64_t k = 0; k < args->classes; k++) {
    sum += exp((double)z[k] - top);
    mean += z[k];
    above += z[k] > z[label] || (z[k] == z[label] && k < label);
  }
  double smooth = args->smoothing / (double)args->classes, hard = 1.0 - args->smoothing;
  float loss = (float)(log(sum) + top - hard * z[label] - smooth * mean);
  args->losses[n] = loss;
  args->ranks[n] = isfinite(loss) ? above : INT32_MAX; // no score is above one that is no number
  if (!args->dlogits) return;
  float *dz = args->dlogits + n * args->classes, scale = args->gradient_scale;
  if (args->loss_scale) scale *= (float)*args->loss_scale;
  for (int64_t k = 0; k < args->classes; k++) {
    double target = smooth + (k == label ? hard : 0.0);
    dz[k] = (float)((exp((double)z[k] - top) / sum - target) * scale);
  }
}

Status cpu_softmax_cross_entropy(Device *device, const LossArgs *args) {
  cpu_device_enter(device);
#pragma omp parallel for schedule(static)
  for (int64_t n = 0; n < args->batch; n++) one_sample(args, n);
  return STATUS_OK;
}
