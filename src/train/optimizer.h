// The update: SGD on the trained weights, moving averages on the statistics. Flat loops over the
// slices of the arenas (exec/parameters.h).
#ifndef IMGCLS_TRAIN_OPTIMIZER_H
#define IMGCLS_TRAIN_OPTIMIZER_H

#include "config/config.h"
#include "exec/parameters.h"

typedef struct OptimizerArgs {
  const Backend *backend;
  Device *device;
  const ParameterLayout *layout;
  const OptimizerConfig *config;
  float *weights;         // layout->total
  float *velocity;        // layout->trained
  const float *gradients; // layout->reduced: summed, already divided by the global batch
  float *averaged;        // layout->total; NULL: no moving average of the weights
  double learning_rate;
  double loss_scale; // that gradients carry; 0: none
} OptimizerArgs;

// The global norm of the gradients without their scale, in one pass: not finite where one of them is
// not. 0 where neither clip_norm nor a loss scale asks for it.
MUST_CHECK Status optimizer_gradient_norm(const OptimizerArgs *args, double *norm);

// One update, and one of the moving average. Where clip_norm is set, gradients whose norm is larger
// are scaled down to it (before the regulariser's part joins).
MUST_CHECK Status optimizer_step(const OptimizerArgs *args, double norm);

// The regulariser's part of the loss, l2 * sum(W^2), as Keras adds it to loss and val_loss.
MUST_CHECK Status optimizer_regularization(const OptimizerArgs *args, double *loss);

#endif
