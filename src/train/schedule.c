// Learning rate as a function of the step. See schedule.h.
#include "train/schedule.h"

#include <math.h>

static const double pi = 3.14159265358979323846;

double schedule_peak_rate(const Config *config, int64_t batch) {
  double ratio = (double)batch / (double)config->schedule.base_batch;
  switch (config->schedule.scale_with_batch) {
  case CONFIG_SCALE_LINEAR: return config->optimizer.learning_rate * ratio;
  case CONFIG_SCALE_SQRT: return config->optimizer.learning_rate * sqrt(ratio);
  case CONFIG_SCALE_NONE: break;
  }
  return config->optimizer.learning_rate;
}

double schedule_rate(const Config *config, int64_t batch, int64_t step, int64_t steps_per_epoch,
                     int64_t total_steps) {
  const ScheduleConfig *schedule = &config->schedule;
  double peak = schedule_peak_rate(config, batch);
  double warmup = schedule->warmup_epochs * (double)steps_per_epoch;
  double at = (double)step;
  if (at < warmup)
    return peak * (schedule->warmup_start + (1.0 - schedule->warmup_start) * at / warmup);
  double length = (double)total_steps - warmup;
  double progress = length > 0.0 ? (at - warmup) / length : 1.0;
  if (progress > 1.0) progress = 1.0;
  double end = schedule->end_factor;
  switch (schedule->name) {
  case CONFIG_SCHEDULE_CONSTANT: return peak;
  case CONFIG_SCHEDULE_COSINE: return peak * (end + (1.0 - end) * 0.5 * (1.0 + cos(pi * progress)));
  case CONFIG_SCHEDULE_POLYNOMIAL: return peak * (end + (1.0 - end) * pow(1.0 - progress, schedule->power));
  case CONFIG_SCHEDULE_EXPONENTIAL: {
    double periods = (at - warmup) / (schedule->decay_epochs * (double)steps_per_epoch);
    return peak * pow(schedule->decay_rate, schedule->staircase ? floor(periods) : periods);
  }
  case CONFIG_SCHEDULE_STEP: break;
  }
  double rate = peak;
  for (int64_t i = 0; i < schedule->step_epochs.count; i++)
    if (at >= schedule->step_epochs.items[i] * (double)steps_per_epoch) rate *= schedule->step_factor;
  return rate;
}
