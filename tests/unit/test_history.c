// train/history: which epoch is the best, and that it is the same after the rows went through the
// text that a checkpoint carries. train/side_file: when a failed write is told.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/memory.h"
#include "train/history.h"
#include "train/side_file.h"

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

// Lines of the file.
static int count_lines(const char *path) {
  FILE *file = fopen(path, "r");
  assert_non_null(file);
  int lines = 0;
  for (int c; (c = fgetc(file)) != EOF;) lines += c == '\n';
  (void)fclose(file);
  return lines;
}

static void failed_write_is_told_once_until_it_works(void **state) {
  (void)state;
  char path[] = "/tmp/imgcls_history.XXXXXX";
  int fd = mkstemp(path);
  assert_true(fd >= 0);
  (void)close(fd);
  Log log;
  log_init(&log, "test_history");
  expect_ok(log_open_copy(&log, path));
  static const struct {
    Status status;
    int lines; // told so far
  } writes[] = {{STATUS_OK, 0}, {STATUS_IO, 1}, {STATUS_IO, 1},
                {STATUS_OK, 1}, {STATUS_IO, 2}, {STATUS_CANT_CREATE, 2}};
  SideFile file = {0};
  for (size_t i = 0; i < sizeof writes / sizeof *writes; i++) {
    Status status = writes[i].status;
    if (status != STATUS_OK) status = status_set(status, "history.json: no room");
    side_file_note(&file, status, &log);
    assert_int_equal(count_lines(path), writes[i].lines);
    assert_int_equal(file.is_missing, status != STATUS_OK);
  }
  log_close_copy(&log);
  assert_int_equal(unlink(path), 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(best_has_a_finite_loss),
      cmocka_unit_test(failed_write_is_told_once_until_it_works),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
