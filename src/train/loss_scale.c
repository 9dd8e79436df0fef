// Dynamic loss scaling. See loss_scale.h.
#include "train/loss_scale.h"

static const double fp16_scale = 32768.0; // Keras' initial_scale
// Scale and 1 / scale stay normal numbers of fp32, and the loss's gradient finite.
static const double least_scale = 1.0, largest_scale = 0x1p126;

LossScale loss_scale_begin(const TrainConfig *config, DType dtype) {
  double scale = config->loss_scale;
  if (scale == CONFIG_AUTOMATIC) scale = dtype == DTYPE_F16 ? fp16_scale : 1.0;
  return (LossScale){
      .enabled = scale != 1.0, .scale = scale, .growth_steps = config->loss_scale_growth_steps};
}

bool loss_scale_update(LossScale *scale, bool is_finite) {
  double before = scale->scale;
  if (!scale->enabled) return false;
  if (!is_finite) {
    scale->skipped++;
    scale->good_steps = 0;
    if (scale->scale > least_scale) scale->scale /= 2.0;
    if (scale->scale < least_scale) scale->scale = least_scale;
  } else if (scale->growth_steps > 0 && ++scale->good_steps == scale->growth_steps) {
    scale->good_steps = 0;
    if (scale->scale <= largest_scale / 2.0) scale->scale *= 2.0;
  }
  return scale->scale != before;
}
