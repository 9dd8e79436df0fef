// Dynamic loss scaling. See loss_scale.h.
#include "train/loss_scale.h"

static const double fp16_scale = 32768.0; // Keras' initial_scale

LossScale loss_scale_begin(const TrainConfig *config, DType dtype) {
  double scale = config->loss_scale;
  if (scale == CONFIG_AUTOMATIC) scale = dtype == DTYPE_F16 ? fp16_scale : 1.0;
  return (LossScale){
      .enabled = scale != 1.0, .scale = scale, .growth_steps = config->loss_scale_growth_steps};
}
