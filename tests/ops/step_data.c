// The numbers that the operation tests feed a step with: functions of the seed alone, representable
// in the types of the step.
#include <math.h>
#include <stdlib.h>

#include "base/rng.h"
#include "ops/step_test.h"

// The distance between neighbours among the numbers of a type near x.
static double spacing_at(double x, DType dtype) {
  static const struct {
    int bits, least; // significant ones; the exponent of the smallest distance
  } types[] = {[DTYPE_F32] = {24, -149}, [DTYPE_BF16] = {8, -133}, [DTYPE_F16] = {11, -24}};
  int exponent;
  (void)frexp(x, &exponent);
  exponent -= types[dtype].bits;
  return ldexp(1.0, exponent > types[dtype].least ? exponent : types[dtype].least);
}

double step_rounding(double x, DType dtype) {
  return 0.5 * spacing_at(x, dtype);
}

static double round_to(double x, DType dtype) {
  double spacing = spacing_at(x, dtype);
  return rint(x / spacing) * spacing;
}

// Uniform in [low, high), a function of (seed, which, i).
static double *draw(int64_t count, uint64_t seed, uint64_t which, const double range[2]) {
  double *values = calloc((size_t)(count ? count : 1), sizeof *values);
  if (!values) abort();
  for (int64_t i = 0; i < count; i++) {
    RngWords words = rng_draw(seed, RNG_SYNTHETIC, which, (uint64_t)i / 4, 0);
    values[i] = range[0] + (range[1] - range[0]) * (words.word[i % 4] * 0x1p-32);
  }
  return values;
}

static void round_all(double *values, int64_t count, DType dtype) {
  for (int64_t i = 0; i < count; i++) values[i] = round_to(values[i], dtype);
}

static void round_to_64ths(double *values, int64_t count) {
  for (int64_t i = 0; i < count; i++) values[i] = rint(values[i] * 64.0) / 64.0;
}

static void round_to_quarters(double *values, int64_t count) {
  for (int64_t i = 0; i < count; i++) values[i] = rint(values[i] * 4.0) / 4.0;
}

void step_data_draw(StepData *out, const StepCase *test, uint64_t seed) {
  const StepDesc *desc = &test->desc;
  *out = (StepData){0};
  bool has_corners = desc->kind == STEP_ACTIVATION || desc->kind == STEP_ADD;
  bool is_norm = desc->kind == STEP_NORM || desc->kind == STEP_GROUP_NORM;
  double range = test->x_range > 0.0 ? test->x_range : has_corners ? 8.0 : 1.0;
  double center = test->x_offset + (is_norm ? 0.5 * range : 0.0);
  for (int k = 0; k < desc->input_count; k++) {
    int64_t count = desc->batch * shape_count(desc->inputs[k]);
    out->x[k] = draw(count, seed, (uint64_t)k, (double[]){center - range, center + range});
    if (test->x_ties) round_to_quarters(out->x[k], count);
    round_all(out->x[k], count, desc->inputs[k].rank == 3 ? desc->dtype : DTYPE_F32);
    if (k == 0 && test->x_nan) out->x[0][count / 2] = NAN;
  }
  for (int k = 0; k < STEP_MAX_PARAMETERS; k++) {
    int64_t count = step_parameter_count(desc, k);
    if (!count) continue;
    // Scales of a norm large enough that ReLU6 saturates; variances stay positive.
    const double any[2] = {-1.0, 1.0}, scale[2] = {0.5, 4.0};
    bool positive = (desc->kind == STEP_NORM && (k == 0 || k == 3)) ||
                    (desc->kind == STEP_CONV2D && (k == 2 || k == 5)) ||
                    (desc->kind == STEP_GROUP_NORM && k == 0);
    out->params[k] = draw(count, seed, 16 + (uint64_t)k, positive ? scale : any);
    round_all(out->params[k], count, desc->dtype);
  }
  int64_t count = desc->batch * shape_count(desc->output);
  out->dy = draw(count, seed, 32, (double[]){-1.0, 1.0});
  out->dy2 = draw(count, seed, 33, (double[]){-1.0, 1.0});
  round_to_64ths(out->dy, count);
  round_to_64ths(out->dy2, count);
}

void step_data_deinit(StepData *data) {
  for (int k = 0; k < STEP_MAX_INPUTS; k++) free(data->x[k]);
  for (int k = 0; k < STEP_MAX_PARAMETERS; k++) free(data->params[k]);
  free(data->dy);
  free(data->dy2);
  *data = (StepData){0};
}
