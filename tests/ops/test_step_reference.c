// The reference of the operation tests itself: its gradients against central differences of its
// results, along one direction for each input and parameter of each case.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "ops/step_separable.h"

// What is differentiated: sum(dy y) of a step or a layer.
typedef struct Slope {
  const char *name;
  const void *subject;
  double (*loss)(const void *subject, const StepData *data);
  const StepData *data;
} Slope;

static double step_loss(const void *subject, const StepData *data) {
  return reference_loss(subject, data);
}

static double layer_loss(const void *subject, const StepData *data) {
  return separable_loss(subject, data);
}

// The reference's gradient along `values` itself against a central difference. Where that meets a
// kink of an activation, the side without it must agree, as closely as one side can.
static void check_direction(const Slope *slope, double *values, const Bounded *gradient) {
  double size = 0.0, along = 0.0, here = slope->loss(slope->subject, slope->data), loss[2];
  const double step = 1e-6;
  double *kept = malloc((size_t)gradient->count * sizeof *kept);
  assert_non_null(kept);
  memcpy(kept, values, (size_t)gradient->count * sizeof *kept);
  for (int64_t i = 0; i < gradient->count; i++) {
    double direction = i % 3 == 0 ? 1.0 : i % 3 == 1 ? -0.5 : 0.25;
    along += gradient->value[i] * direction;
    size += fabs(gradient->value[i] * direction);
  }
  for (int side = 0; side < 2; side++) {
    for (int64_t i = 0; i < gradient->count; i++) {
      double direction = i % 3 == 0 ? 1.0 : i % 3 == 1 ? -0.5 : 0.25;
      values[i] = kept[i] + (side ? step : -step) * direction;
    }
    loss[side] = slope->loss(slope->subject, slope->data);
  }
  memcpy(values, kept, (size_t)gradient->count * sizeof *kept);
  free(kept);
  double difference = (loss[1] - loss[0]) / (2.0 * step);
  // Rounding of the losses, 1e-16 of their size, is divided by the step; curvature gives step^2.
  double tolerance = 1e-6 * size + 1e-7;
  if (fabs(difference - along) <= tolerance) return;
  double before = fabs((here - loss[0]) / step - along),
         after = fabs((loss[1] - here) / step - along);
  if (fmin(before, after) > 1e-5 * size + 1e-7)
    fail_msg("%s: the reference's gradient is %.12g, a central difference %.12g", slope->name,
             along, difference);
}

// The reference itself: its gradients against finite differences.
static void reference_has_right_gradients(void **state) {
  (void)state;
  StepCase *cases;
  int count = step_cases(&cases);
  for (int c = 0; c < count; c++) {
    StepDesc desc = cases[c].desc;
    if (!desc.training) continue;
    desc.name = cases[c].name;
    StepData data;
    Reference reference;
    // Without the offsets and ties that stress rounding: a difference could not see the slope.
    step_data_draw(&data, &(StepCase){.desc = desc}, 1 + (uint64_t)c);
    reference_compute(&reference, &desc, &data);
    Slope slope = {desc.name, &desc, step_loss, &data};
    for (int k = 0; k < desc.input_count; k++) check_direction(&slope, data.x[k], &reference.dx[k]);
    for (int k = 0; k < STEP_MAX_PARAMETERS; k++)
      if (reference.dparams[k].count && !(desc.kind == STEP_NORM && k >= 2))
        check_direction(&slope, data.params[k], &reference.dparams[k]);
    reference_deinit(&reference);
    step_data_deinit(&data);
  }
  free(cases);
}

static void separable_has_right_gradients(void **state) {
  (void)state;
  const SeparableCase *cases;
  int count = separable_cases(&cases);
  for (int c = 0; c < count; c++) {
    StepData data;
    Reference reference;
    separable_draw(&data, &cases[c], 1 + (uint64_t)c);
    separable_compute(&reference, &cases[c], &data, DTYPE_F32);
    Slope slope = {cases[c].name, &cases[c], layer_loss, &data};
    check_direction(&slope, data.x[0], &reference.dx[0]);
    for (int k = 0; k < SEPARABLE_PARAMETERS; k++)
      check_direction(&slope, data.params[k], &reference.dparams[k]);
    reference_deinit(&reference);
    step_data_deinit(&data);
  }
}

// Binomial: what it keeps is within five deviations of the mean, scaled to keep the sum.
static void dropout_keeps_its_rate(void **state) {
  (void)state;
  StepCase test = {.desc = {.kind = STEP_DROPOUT,
                            .batch = 7,
                            .input_count = 1,
                            .inputs = {SHAPE(9, 11, 13)},
                            .output = SHAPE(9, 11, 13),
                            .training = true,
                            .rate = 0.375,
                            .layer = 2}};
  StepData data;
  Reference reference;
  step_data_draw(&data, &test, 1);
  int64_t kept = 0, count = test.desc.batch * shape_count(test.desc.output);
  for (int64_t i = 0; i < count; i++) data.x[0][i] = 1.0;
  reference_compute(&reference, &test.desc, &data);
  double keep = 1.0 - test.desc.rate;
  for (int64_t i = 0; i < count; i++) {
    double y = reference.y.value[i];
    assert_true(y == 0.0 || fabs(y - 1.0 / keep) < 1e-12);
    kept += y != 0.0;
  }
  double off = fabs((double)kept - keep * (double)count);
  assert_true(off <= 5.0 * sqrt(keep * test.desc.rate * (double)count));
  reference_deinit(&reference);
  step_data_deinit(&data);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(reference_has_right_gradients),
                                     cmocka_unit_test(separable_has_right_gradients),
                                     cmocka_unit_test(dropout_keeps_its_rate)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
