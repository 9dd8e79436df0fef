// Where loss scaling begins, by configuration and type. How it goes on is the backend's: ops.flat.
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

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(begins_as_configured)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
