// train/history: which epoch is the best, and that it is the same after the rows went through the
// text that a checkpoint carries.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/memory.h"
#include "train/history.h"

static void expect_ok(Status status) {
  if (status != STATUS_OK) fail_msg("%s", status_message());
}

// An epoch in the middle, one without an evaluation, and three whose loss is not finite.
static const HistoryRow rows[] = {
    {.epoch = 1,
     .loss = 2,
     .accuracy = 0.5,
     .has_validation = true,
     .val_loss = 1,
     .val_accuracy = 0.25,
     .lr = 0.1},
    {.epoch = 2, .loss = 1, .accuracy = 0.75, .lr = 0.1},
    {.epoch = 3,
     .loss = 1,
     .accuracy = 0.5,
     .has_validation = true,
     .val_loss = NAN,
     .val_accuracy = 0.875,
     .lr = 0.1},
    {.epoch = 4,
     .loss = 1,
     .accuracy = 0.5,
     .has_validation = true,
     .val_loss = INFINITY,
     .val_accuracy = 0.875,
     .lr = 0.1},
    {.epoch = 5,
     .loss = INFINITY,
     .accuracy = 1.0,
     .has_validation = true,
     .val_loss = 1,
     .val_accuracy = 0.125,
     .lr = 0.1},
};
enum { ROWS = sizeof rows / sizeof *rows };

static void check_best(const History *history) {
  assert_int_equal(history->count, ROWS);
  assert_true(history_best(history, true) == 0.25);
  assert_true(history_best(history, false) == 0.75);
  assert_true(isnan(history_score(&history->rows[1], true)));
  assert_true(isnan(history_score(&history->rows[2], true)));
  assert_true(isnan(history_score(&history->rows[3], true)));
  assert_true(isnan(history_score(&history->rows[4], false)));
}

static void best_has_a_finite_loss(void **state) {
  (void)state;
  History history = {0}, read = {0};
  for (int i = 0; i < ROWS; i++) expect_ok(history_append(&history, &rows[i]));
  check_best(&history);
  char *json;
  expect_ok(history_format_json(&json, &history));
  assert_non_null(strstr(json, "\"val_loss\":[1.0,null,null,null,1.0]"));
  expect_ok(history_parse_json(&read, json));
  check_best(&read);
  for (int i = 0; i < ROWS; i++) {
    assert_int_equal(read.rows[i].has_validation, rows[i].has_validation);
    if (rows[i].has_validation) assert_true(read.rows[i].val_accuracy == rows[i].val_accuracy);
  }
  memory_free(json);
  history_deinit(&read);
  history_deinit(&history);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(best_has_a_finite_loss),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
