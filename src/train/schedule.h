// Learning rate as a function of the step alone, so that a resumed run needs no state.
#ifndef IMGCLS_TRAIN_SCHEDULE_H
#define IMGCLS_TRAIN_SCHEDULE_H

#include <stdint.h>

#include "config/config.h"

// The learning rate after scaling with the batch: base * batch / base_batch (linear, Goyal et al.,
// arXiv 1706.02677), its square root, or unchanged. `batch`: images of a step.
double schedule_peak_rate(const Config *config, int64_t batch);

// The learning rate of step `step` (from 0). Warm-up is linear from warmup_start * peak; what
// follows counts its progress from the end of the warm-up: step multiplies by step_factor at each
// of step_epochs, cosine is SGDR's without restarts (arXiv 1608.03983), polynomial is Keras'
// PolynomialDecay, exponential its ExponentialDecay. `steps_per_epoch` and `total_steps` are at
// least 1.
double schedule_rate(const Config *config, int64_t batch, int64_t step, int64_t steps_per_epoch,
                     int64_t total_steps);

#endif
