// The update: SGD on the trained weights, moving averages on the statistics. Flat loops over the
// slices of the arenas (exec/parameters.h).
#ifndef IMGCLS_TRAIN_OPTIMIZER_H
#define IMGCLS_TRAIN_OPTIMIZER_H

#include "config/config.h"
#include "exec/parameters.h"
#include "train/loss_scale.h"

// What an update works on. Pointers are memory of the device, but for layout and config.
typedef struct OptimizerArgs {
  const Backend *backend;
  Device *device;
  const ParameterLayout *layout;
  const OptimizerConfig *config;
  float *weights;         // layout->total
  float *velocity;        // layout->trained
  const float *gradients; // layout->reduced: summed, already divided by the global batch
  float *averaged;        // layout->total; NULL: no moving average of the weights
  const float *learning_rate;
  UpdateState *state;   // from one update to the next; begins as optimizer_begin says
  LossScale loss_scale; // its rules: of it only `enabled` and `growth_steps` are read
} OptimizerArgs;

// The state before the first update, or before the next where a run goes on.
UpdateState optimizer_begin(const LossScale *loss_scale);

// One update, and one of the moving average. Where clip_norm is set, gradients whose global norm is
// larger are scaled down to it (before the regulariser's part joins). Gradients that have
// overflowed under a loss scale leave it out. Reads nothing back: state says what was done.
MUST_CHECK Status optimizer_step(const OptimizerArgs *args);

// How many numbers the regulariser's part of the loss is made from.
int optimizer_penalty_terms(const ParameterLayout *layout);

// Fills `terms`, memory of the device, from the weights of now.
MUST_CHECK Status optimizer_find_penalty(const OptimizerArgs *args, double *terms);

// The regulariser's part of the loss, l2 * sum(W^2), as Keras adds it to loss and val_loss; `terms`
// are the host's.
double optimizer_penalty(const ParameterLayout *layout, const double *terms);

#endif
