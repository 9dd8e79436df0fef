// Dynamic loss scaling follows Keras' LossScaleOptimizer: an overflow leaves the step out, halves
// the scale (never below 1) and starts the count anew; `growth` good steps in a row double it.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "train/loss_scale.h"

static void begins_as_configured(void **state) {
  (void)state;
  TrainConfig config = {.loss_scale = CONFIG_AUTOMATIC, .loss_scale_growth_steps = 2000};
  assert_true(loss_scale_begin(&config, DTYPE_F16).scale == 32768.0);
  assert_true(loss_scale_begin(&config, DTYPE_F16).enabled);
  assert_true(loss_scale_begin(&config, DTYPE_BF16).scale == 1.0);
  assert_false(loss_scale_begin(&config, DTYPE_BF16).enabled);
  config.loss_scale = 1.0;
  assert_false(loss_scale_begin(&config, DTYPE_F16).enabled);
  config.loss_scale = 64.0;
  assert_true(loss_scale_begin(&config, DTYPE_F32).enabled);
}

// Steps as letters: '.' is finite, 'X' overflows; and the scale after each.
static void moves_as_keras(void **state) {
  (void)state;
  static const char steps[] = "X..X...X......XXXXX";
  static const double scales[] = {4, 4, 4, 2, 2, 2, 4, 2, 2, 2, 4, 4, 4, 8, 4, 2, 1, 1, 1};
  TrainConfig config = {.loss_scale = 8.0, .loss_scale_growth_steps = 3};
  LossScale scale = loss_scale_begin(&config, DTYPE_F32);
  int64_t overflows = 0;
  for (size_t i = 0; i < sizeof scales / sizeof *scales; i++) {
    double before = scale.scale;
    bool is_finite = steps[i] == '.';
    overflows += !is_finite;
    assert_int_equal(loss_scale_update(&scale, is_finite), scales[i] != before);
    assert_true(scale.scale == scales[i]);
    assert_int_equal(scale.skipped, overflows);
  }
}

static void stays_in_range(void **state) {
  (void)state;
  TrainConfig config = {.loss_scale = 0x1p126, .loss_scale_growth_steps = 1};
  LossScale scale = loss_scale_begin(&config, DTYPE_F32);
  assert_false(loss_scale_update(&scale, true));
  assert_true(scale.scale == 0x1p126);
  config.loss_scale_growth_steps = 0;
  scale = loss_scale_begin(&config, DTYPE_F32);
  scale.scale = 2.0;
  for (int i = 0; i < 10; i++) assert_false(loss_scale_update(&scale, true));
  scale.enabled = false;
  assert_false(loss_scale_update(&scale, false));
  assert_int_equal(scale.skipped, 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(begins_as_configured),
                                     cmocka_unit_test(moves_as_keras),
                                     cmocka_unit_test(stays_in_range)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
