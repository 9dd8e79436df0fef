// The base layer: status, memory, random numbers, shapes.
#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "base/memory.h"
#include "base/process.h"
#include "base/rng.h"
#include "base/status.h"
#include "base/text.h"
#include "tensor/tensor.h"

static void status_carries_message_and_context(void **state) {
  (void)state;
  Status status = status_set(STATUS_CONFIG, "batch = %d: must be 1..10", 0);
  status = status_prepend(status, "%s:%d", "a.ini", 12);
  assert_int_equal(status, STATUS_CONFIG);
  assert_string_equal(status_message(), "a.ini:12: batch = 0: must be 1..10");
}

static void status_is_kept_for_later(void **state) {
  (void)state;
  KeptStatus failure, success;
  char text[1000];
  memset(text, 'x', sizeof text - 1);
  text[sizeof text - 1] = '\0';
  status_keep(&failure, status_set(STATUS_IO, "%s", text));
  (void)status_set(STATUS_DATA, "another");
  status_keep(&success, STATUS_OK);
  assert_int_equal(status_restore(&success), STATUS_OK);
  assert_string_equal(status_message(), "another");
  assert_int_equal(status_restore(&failure), STATUS_IO);
  assert_string_equal(status_message(), text);
}

static void status_maps_errno(void **state) {
  (void)state;
  errno = ENOENT;
  assert_int_equal(status_set_errno(STATUS_IO, "cannot open x"), STATUS_NO_INPUT);
  assert_string_equal(status_message(), "cannot open x: No such file or directory");
  errno = ENOENT; // of an output: its folder
  assert_int_equal(status_set_errno(STATUS_CANT_CREATE, "x"), STATUS_CANT_CREATE);
  errno = EACCES;
  assert_int_equal(status_set_errno(STATUS_IO, "x"), STATUS_PERMISSION);
  errno = ENOSPC;
  assert_int_equal(status_set_errno(STATUS_IO, "x"), STATUS_IO);
}

static void status_survives_long_text(void **state) {
  (void)state;
  char text[6000];
  memset(text, 'x', sizeof text - 1);
  text[sizeof text - 1] = '\0';
  Status status = status_set(STATUS_DATA, "%s", text);
  status = status_prepend(status, "%s", text);
  assert_int_equal(status, STATUS_DATA);
  assert_true(strlen(status_message()) < 4096);
}

static void memory_is_zeroed_and_aligned(void **state) {
  (void)state;
  char *block;
  size_t sizes[] = {0, 1, 63, 64, 65, 5 << 20};
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
    assert_int_equal(memory_alloc_aligned(&block, sizes[i]), STATUS_OK);
    assert_int_equal((uintptr_t)block % MEMORY_ALIGNMENT, 0);
    for (size_t j = 0; j < sizes[i]; j++) assert_int_equal(block[j], 0);
    memory_free(block);
  }
}

static void memory_reports_impossible_sizes(void **state) {
  (void)state;
  void *block = &block;
  assert_int_equal(memory_alloc(&block, (size_t)1 << 40, (size_t)1 << 40), STATUS_OS);
  assert_null(block);
  assert_int_equal(memory_alloc_aligned(&block, SIZE_MAX - 5), STATUS_OS);
  assert_null(block);
}

static void memory_reserve_keeps_and_zeroes(void **state) {
  (void)state;
  int *numbers = NULL;
  size_t capacity = 0;
  for (int i = 0; i < 100; i++) {
    assert_int_equal(memory_reserve(&numbers, &capacity, (size_t)i + 1, sizeof *numbers),
                     STATUS_OK);
    assert_int_equal(numbers[i], 0);
    numbers[i] = i;
  }
  for (int i = 0; i < 100; i++) assert_int_equal(numbers[i], i);
  memory_free(numbers);
}

// The published known answer of philox4x32-10 for a zero key and counter; our stream number makes
// the counter non-zero, so the streams must differ from it and from one another.
static void rng_streams_differ(void **state) {
  (void)state;
  RngWords a = rng_draw(0, RNG_SHUFFLE, 0, 0, 0);
  RngWords b = rng_draw(0, RNG_AUGMENT, 0, 0, 0);
  RngWords again = rng_draw(0, RNG_SHUFFLE, 0, 0, 0);
  assert_memory_equal(&a, &again, sizeof a);
  assert_memory_not_equal(&a, &b, sizeof a);
  RngWords known = rng_draw(0, (RngStream)0, 0, 0, 0);
  assert_int_equal(known.word[0], 0x6627e8d5);
  assert_int_equal(known.word[3], 0x9b00dbd8);
}

// n draws of U[0,1) have mean 1/2 and variance 1/12; the mean of n = 40,000 lies within 5 standard
// errors (5 * sqrt(1/12/n) = 0.0072). Normal draws: mean 0 within 0.025, variance 1 within 0.036.
static void rng_has_the_right_moments(void **state) {
  (void)state;
  enum { DRAWS = 10000 };
  double sum = 0, normal_sum = 0, normal_squares = 0;
  for (uint64_t i = 0; i < DRAWS; i++) {
    RngWords r = rng_draw(7, RNG_DROPOUT, 1, i, 0);
    for (int j = 0; j < 4; j++) {
      float u = rng_unit(r.word[j]);
      assert_true(u >= 0.0f && u < 1.0f);
      sum += u;
    }
    for (int j = 0; j < 4; j += 2) {
      double a, b;
      rng_normal(r.word[j], r.word[j + 1], &a, &b);
      normal_sum += a + b;
      normal_squares += a * a + b * b;
    }
  }
  double n = 4.0 * DRAWS;
  assert_true(fabs(sum / n - 0.5) < 0.0072);
  assert_true(fabs(normal_sum / n) < 0.025);
  assert_true(fabs(normal_squares / n - 1.0) < 0.036);
}

static void shapes_count_and_print(void **state) {
  (void)state;
  char text[SHAPE_TEXT_CAPACITY];
  assert_string_equal(shape_format(SHAPE(7, 7, 1280), text), "(7, 7, 1280)");
  assert_string_equal(shape_format(SHAPE(1280), text), "(1280,)");
  assert_int_equal(shape_count(SHAPE(2, 3, 4)), 24);
  assert_true(shape_equal(SHAPE(1, 2), SHAPE(1, 2)));
  assert_false(shape_equal(SHAPE(1, 2), SHAPE(1, 2, 3)));
}

static void printable_is_utf8(void **state) {
  (void)state;
  static const struct {
    const char *text, *expected;
  } rows[] = {
      {"plain", "plain"},
      {"", ""},
      {"\xc3\xa9t\xc3\xa9 \xe2\x82\xac \xf0\x9f\x8c\xb7",
       "\xc3\xa9t\xc3\xa9 \xe2\x82\xac \xf0\x9f\x8c\xb7"},
      {"a\nb\tc\x7f", "a?b?c?"},
      {"\xc2\x9b[2J", "??[2J"},     // a control character of two bytes
      {"\xc0\xaf", "??"},           // overlong
      {"\xed\xa0\x80", "???"},      // a surrogate
      {"\xf4\x90\x80\x80", "????"}, // beyond Unicode
      {"cut \xe2\x82", "cut ??"},
  };
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    char *text;
    assert_int_equal(text_copy_printable(&text, rows[i].text), STATUS_OK);
    assert_string_equal(text, rows[i].expected);
    memory_free(text);
  }
}

static void write_text(const char *root, const char *path, const char *text) {
  char full[512];
  (void)snprintf(full, sizeof full, "%s%s", root, path);
  for (char *c = strchr(full + strlen(root) + 1, '/'); c; c = strchr(c + 1, '/')) {
    *c = '\0';
    (void)mkdir(full, 0777);
    *c = '/';
  }
  FILE *file = fopen(full, "w");
  assert_non_null(file);
  assert_true(fputs(text, file) >= 0);
  assert_int_equal(fclose(file), 0);
}

// The least of the machine and of every group around the process, in both generations of cgroups.
static void memory_left_is_that_of_the_narrowest(void **state) {
  (void)state;
  char root[] = "/tmp/imgcls_process_XXXXXX", command[64];
  assert_non_null(mkdtemp(root));
  assert_true(process_memory_available(root) == SIZE_MAX);
  write_text(root, "/proc/meminfo", "MemTotal: 9000 kB\nMemAvailable:    8000 kB\n");
  assert_int_equal(process_memory_available(root), 8000 * 1024);
  write_text(root, "/proc/self/cgroup", "3:cpuset:/\n0::/job/step\n");
  assert_int_equal(process_memory_available(root), 8000 * 1024);
  write_text(root, "/sys/fs/cgroup/job/step/memory.max", "max\n");
  write_text(root, "/sys/fs/cgroup/job/memory.max", "5000000\n");
  write_text(root, "/sys/fs/cgroup/job/memory.current", "2000000\n");
  write_text(root, "/sys/fs/cgroup/job/memory.stat", "anon 1\ninactive_file 500000\n");
  assert_int_equal(process_memory_available(root), 3500000);
  write_text(root, "/proc/self/cgroup", "4:memory:/batch\n1:cpu:/\n");
  write_text(root, "/sys/fs/cgroup/memory/batch/memory.limit_in_bytes", "1000\n");
  write_text(root, "/sys/fs/cgroup/memory/batch/memory.usage_in_bytes", "4000\n");
  assert_int_equal(process_memory_available(root), 0); // over its limit
  (void)snprintf(command, sizeof command, "rm -rf %s", root);
  assert_int_equal(system(command), 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(printable_is_utf8),
      cmocka_unit_test(status_carries_message_and_context),
      cmocka_unit_test(memory_left_is_that_of_the_narrowest),
      cmocka_unit_test(status_is_kept_for_later),
      cmocka_unit_test(status_maps_errno),
      cmocka_unit_test(status_survives_long_text),
      cmocka_unit_test(memory_is_zeroed_and_aligned),
      cmocka_unit_test(memory_reports_impossible_sizes),
      cmocka_unit_test(memory_reserve_keeps_and_zeroes),
      cmocka_unit_test(rng_streams_differ),
      cmocka_unit_test(rng_has_the_right_moments),
      cmocka_unit_test(shapes_count_and_print),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
