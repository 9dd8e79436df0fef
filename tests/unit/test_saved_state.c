// The numbers of a run's state: what a run writes is taken as it is, what none can write is
// refused.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "train/saved_state.h"

static Status read_text(SavedState *out, const char *text) {
  json_t *root = json_loads(text, 0, NULL);
  Status status = saved_state_read(out, root, "m.h5");
  json_decref(root);
  return status;
}

static void good_numbers_are_taken(void **state) {
  (void)state;
  SavedState got;
  assert_int_equal(
      read_text(&got, "{\"format\": 1, \"step\": 12345678901, \"epoch_loss\": 3.25, "
                      "\"epoch_correct\": 7.0, \"epoch_samples\": 16, \"virtual_workers\": 64, "
                      "\"loss_scale\": 32768.0, \"loss_scale_good_steps\": 9, "
                      "\"steps_left_out\": 2, \"history\": \"{}\"}"),
      STATUS_OK);
  assert_int_equal(got.step, 12345678901);
  assert_true(got.sums.loss == 3.25 && got.sums.correct == 7.0 && got.sums.samples == 16.0);
  assert_int_equal(got.virtual_workers, 64);
  assert_true(got.loss_scale == 32768.0);
  assert_int_equal(got.good_steps, 9);
  assert_int_equal(got.steps_left_out, 2);
  // An older version did not say all of it.
  assert_int_equal(read_text(&got, "{\"format\": 1, \"step\": 0}"), STATUS_OK);
  assert_int_equal(got.virtual_workers, 0);
  assert_true(got.loss_scale == 0.0);
}

static void others_are_refused_by_name(void **state) {
  (void)state;
  static const struct {
    const char *members, *name;
  } rows[] = {
      {"\"step\": -1", "step"},
      {"\"step\": 9223372036854775807", "step"},
      {"\"step\": 1.5", "step"},
      {"\"step\": \"4\"", "step"},
      {"\"step\": null", "step"},
      {"\"epoch\": 4", "step"},
      {"\"step\": 4, \"format\": 2", "format"},
      {"\"step\": 4, \"epoch_loss\": \"nan\"", "epoch_loss"},
      {"\"step\": 4, \"epoch_correct\": -1.0", "epoch_correct"},
      {"\"step\": 4, \"epoch_samples\": -16.0", "epoch_samples"},
      {"\"step\": 4, \"epoch_samples\": 1e300", "epoch_samples"},
      {"\"step\": 4, \"virtual_workers\": -2", "virtual_workers"},
      {"\"step\": 4, \"virtual_workers\": 4294967297", "virtual_workers"},
      {"\"step\": 4, \"loss_scale\": 0.0", "loss_scale"},
      {"\"step\": 4, \"loss_scale\": 1e300", "loss_scale"},
      {"\"step\": 4, \"loss_scale_good_steps\": 1e300", "loss_scale_good_steps"},
      {"\"step\": 4, \"loss_scale_good_steps\": -1", "loss_scale_good_steps"},
      {"\"step\": 4, \"steps_left_out\": -1", "steps_left_out"},
  };
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    char text[256], expected[64];
    SavedState got;
    (void)snprintf(text, sizeof text, "{\"format\": 1, %s}", rows[i].members);
    (void)snprintf(expected, sizeof expected, "m.h5: the state of its run has no \"%s\" of",
                   rows[i].name);
    if (read_text(&got, text) != STATUS_DATA || !strstr(status_message(), expected))
      fail_msg("%s: %s", text, status_message());
  }
  SavedState got;
  assert_int_equal(saved_state_read(&got, NULL, "m.h5"), STATUS_DATA); // no JSON at all
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(good_numbers_are_taken),
      cmocka_unit_test(others_are_refused_by_name),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
