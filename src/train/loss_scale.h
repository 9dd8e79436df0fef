// Dynamic loss scaling (Micikevicius et al., "Mixed precision training", ICLR 2018): fp16 gradients
// below 6e-8 would vanish, so the loss is multiplied by a scale before the backward pass and the
// gradients divided by it in the update. A step whose gradients overflow is left out and halves the
// scale; enough good ones in a row double it. The rule and its numbers are those of Keras'
// LossScaleOptimizer; the device applies it (update_begin of backend/backend.h), so that no step
// waits for the host to look.
#ifndef IMGCLS_TRAIN_LOSS_SCALE_H
#define IMGCLS_TRAIN_LOSS_SCALE_H

#include "config/config.h"
#include "tensor/tensor.h"

// A part of a run's state, as of the last step that was read back; the same on all ranks.
typedef struct LossScale {
  bool enabled; // false: the scale is 1 and nobody looks for overflows
  double scale;
  int64_t good_steps;   // since the scale last changed
  int64_t growth_steps; // that double it; 0: never
  int64_t skipped;      // steps left out so far
} LossScale;

// As the configuration and the compute type ask for it.
LossScale loss_scale_begin(const TrainConfig *config, DType dtype);

#endif
