// train/report: figures against a table worked out by hand, the files' text, names made of
// anything. train/plot: what a curve's SVG shows.
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
#include "io/file.h"
#include "train/plot.h"
#include "train/report.h"

enum { CLASSES = 4 };

static void expect_ok(Status status) {
  if (status != STATUS_OK) fail_msg("%s", status_message());
}

static void expect_near(double value, double expected, double tolerance) {
  if (!(fabs(value - expected) <= tolerance)) fail_msg("%.17g, not %.17g", value, expected);
}

// One image: its class, and probabilities in hundredths.
typedef struct Case {
  int32_t label;
  int p[CLASSES];
  float loss;
} Case;

// Class 2 is never predicted, class 3 has no images. Image 3 is a tie: the first class wins.
static const Case cases[] = {
    {0, {70, 20, 5, 5}, 0.4f},   {0, {10, 80, 5, 5}, 2.3f},   {0, {60, 20, 10, 10}, 0.5f},
    {1, {40, 40, 10, 10}, 0.9f}, {1, {10, 70, 10, 10}, 0.4f}, {2, {10, 20, 15, 55}, 1.9f},
    {2, {1, 97, 1, 1}, 4.6f},    {2, {97, 1, 1, 1}, 4.6f},
};
enum { CASES = sizeof cases / sizeof *cases };

static void fill(Report *report) {
  expect_ok(report_init(report, CLASSES));
  for (int64_t i = 0; i < CASES; i++) {
    float p[CLASSES];
    for (int k = 0; k < CLASSES; k++) p[k] = (float)cases[i].p[k] / 100.0f;
    expect_ok(report_add(report, &(ReportSample){.sample = i,
                                                 .label = cases[i].label,
                                                 .probabilities = p,
                                                 .loss = cases[i].loss}));
  }
  report_sort(report);
}

static void counts_by_hand(void **state) {
  (void)state;
  static const int64_t expected[CLASSES * CLASSES] = {
      2, 1, 0, 0, //
      1, 1, 0, 0, //
      1, 1, 0, 1, //
      0, 0, 0, 0,
  };
  Report report;
  fill(&report);
  for (int i = 0; i < CLASSES * CLASSES; i++) assert_int_equal(report.counts[i], expected[i]);
  report_deinit(&report);
}

static void figures_by_hand(void **state) {
  (void)state;
  static const ClassFigures expected[CLASSES] = {
      {.support = 3,
       .predicted = 4,
       .correct = 2,
       .precision = 0.5,
       .recall = 2.0 / 3,
       .f1 = 4.0 / 7},
      {.support = 2, .predicted = 3, .correct = 1, .precision = 1.0 / 3, .recall = 0.5, .f1 = 0.4},
      {.support = 3},
      {.predicted = 1},
  };
  Report report;
  fill(&report);
  for (int k = 0; k < CLASSES; k++) {
    ClassFigures f = report_class(&report, k), e = expected[k];
    assert_int_equal(f.support, e.support);
    assert_int_equal(f.predicted, e.predicted);
    assert_int_equal(f.correct, e.correct);
    expect_near(f.precision, e.precision, 1e-12);
    expect_near(f.recall, e.recall, 1e-12);
    expect_near(f.f1, e.f1, 1e-12);
  }
  // Class 3 has no images and takes no part.
  expect_near(report_macro_f1(&report), (4.0 / 7 + 0.4 + 0.0) / 3, 1e-12);
  report_deinit(&report);
}

static void mistakes_are_sorted(void **state) {
  (void)state;
  static const int64_t order[] = {6, 7, 1, 5, 3};
  Report report;
  fill(&report);
  assert_int_equal(report.mistake_count, 5);
  for (int i = 0; i < 5; i++) assert_int_equal(report.mistakes[i].sample, order[i]);
  assert_int_equal(report.mistakes[0].predicted, 1);
  assert_float_equal(report.mistakes[0].probability, 0.97, 1e-6);
  assert_float_equal(report.mistakes[0].label_probability, 0.01, 1e-6);
  report_deinit(&report);
}

static void nothing_counted(void **state) {
  (void)state;
  Report report;
  expect_ok(report_init(&report, CLASSES));
  report_sort(&report);
  expect_near(report_macro_f1(&report), 0.0, 0.0);
  report_deinit(&report);
}

// --- files ---------------------------------------------------------------------------------------

static Status copy_name(char **out, const void *context, int64_t sample) {
  return memory_print_string(out, "%s/%d.png", (const char *)context, (int)sample);
}

static void expect_file(const char *folder, const char *name, const char *start, bool whole) {
  char path[128];
  Bytes bytes = {0};
  (void)snprintf(path, sizeof path, "%s/%s", folder, name);
  expect_ok(file_read(&bytes, path, 1 << 20));
  size_t size = strlen(start);
  if (bytes.size < size || memcmp(bytes.data, start, size) != 0 || (whole && bytes.size != size))
    fail_msg("%s: %.*s", name, (int)bytes.size, (char *)bytes.data);
  bytes_deinit(&bytes);
  assert_int_equal(unlink(path), 0);
}

static void files_by_hand(void **state) {
  (void)state;
  static const char *const classes[CLASSES] = {"a, b", "say \"hi\"", "<c> & d", "\xff\x1b[2J"};
  char folder[] = "/tmp/imgcls_report_XXXXXX", below[64];
  assert_non_null(mkdtemp(folder));
  (void)snprintf(below, sizeof below, "%s/new", folder);
  Report report;
  fill(&report);
  expect_ok(report_make_folder(below));
  expect_ok(report_make_folder(below));
  expect_ok(report_write(&report, below, &(ReportNames){classes, copy_name, "x"}));
  expect_file(
      below, "confusion.csv",
      "true \\ predicted,\"a, b\",\"say \"\"hi\"\"\",<c> & d,\xff\x1b[2J\n"
      "\"a, b\",2,1,0,0\n\"say \"\"hi\"\"\",1,1,0,0\n<c> & d,1,1,0,1\n\xff\x1b[2J,0,0,0,0\n",
      true);
  expect_file(below, "per_class.csv",
              "class,precision,recall,f1,support,predicted,correct\n"
              "\"a, b\",0.500000,0.666667,0.571429,3,4,2\n"
              "\"say \"\"hi\"\"\",0.333333,0.500000,0.400000,2,3,1\n"
              "<c> & d,0.000000,0.000000,0.000000,3,0,0\n"
              "\xff\x1b[2J,0.000000,0.000000,0.000000,0,1,0\n",
              true);
  expect_file(below, "mistakes.csv",
              "file,true,predicted,loss,probability,true_probability\n"
              "x/6.png,<c> & d,\"say \"\"hi\"\"\",4.6,0.97,0.01\n",
              false);
  Bytes svg = {0};
  char path[80];
  (void)snprintf(path, sizeof path, "%s/confusion.svg", below);
  expect_ok(file_read(&svg, path, 1 << 20));
  assert_non_null(memmem(svg.data, svg.size, "&lt;c&gt; &amp; d<", 18));
  assert_non_null(memmem(svg.data, svg.size, ">??[2J<", 7));
  assert_null(memchr(svg.data, 0x1b, svg.size));
  bytes_deinit(&svg);
  assert_int_equal(unlink(path), 0);
  assert_int_equal(rmdir(below), 0);
  assert_int_equal(rmdir(folder), 0);
  report_deinit(&report);
}

static void folder_cannot_be_made(void **state) {
  (void)state;
  static const char *const classes[CLASSES] = {"a", "b", "c", "d"};
  assert_int_equal(report_make_folder("/proc/none/below"), STATUS_CANT_CREATE);
  assert_non_null(strstr(status_message(), "/proc/none/below"));
  assert_int_equal(report_make_folder("/proc/version"), STATUS_CANT_CREATE);
  Report report;
  fill(&report);
  assert_int_not_equal(
      report_write(&report, "/proc/none/below", &(ReportNames){classes, copy_name, "x"}),
      STATUS_OK);
  assert_non_null(strstr(status_message(), "/proc/none/below/confusion.csv"));
  report_deinit(&report);
}

typedef struct Shown {
  int moves, lines, dots;
  double last_x;
} Shown;

// What the document shows in one colour.
static Shown look_at(const char *svg, const char *colour) {
  Shown shown = {0};
  char text[64];
  (void)snprintf(text, sizeof text, "stroke='%s'", colour);
  const char *path = strstr(svg, text);
  assert_non_null(path);
  path = strstr(path, " d='");
  assert_non_null(path);
  for (path += 4; *path != '\''; path++) {
    shown.moves += *path == 'M';
    shown.lines += *path == 'L';
    if (*path == 'M' || *path == 'L') shown.last_x = strtod(path + 1, NULL);
  }
  (void)snprintf(text, sizeof text, "r='2.5' fill='%s'", colour);
  for (const char *dot = svg; (dot = strstr(dot, text)); dot++) shown.dots++;
  return shown;
}

// Training has a value in each epoch, validation in every `every`-th.
static void check_curves(int epochs, int every, int training_dots) {
  double training[100], validation[100];
  for (int i = 0; i < epochs; i++) {
    training[i] = 1.0 / (i + 1);
    validation[i] = (i + 1) % every == 0 ? 0.5 : NAN;
  }
  const PlotSeries series[] = {{"training", training}, {"validation", validation}};
  char *svg;
  expect_ok(plot_format_svg(&svg, &(PlotDesc){.title = "loss",
                                              .x_label = "epoch",
                                              .y_label = "loss",
                                              .series = series,
                                              .series_count = 2,
                                              .point_count = epochs,
                                              .y_top = 1.0}));
  Shown whole = look_at(svg, "#0072b2"), sparse = look_at(svg, "#d55e00");
  memory_free(svg);
  int points = epochs / every;
  assert_int_equal(whole.moves, 1);
  assert_int_equal(whole.lines, epochs - 1);
  assert_int_equal(whole.dots, training_dots);
  assert_int_equal(sparse.moves, 1);
  assert_int_equal(sparse.lines, points - 1);
  assert_int_equal(sparse.dots, points);
  if (epochs % every == 0) expect_near(sparse.last_x, whole.last_x, 0.0);
}

static void curves_go_on_over_gaps(void **state) {
  (void)state;
  check_curves(6, 1, 6);
  check_curves(6, 3, 6);
  check_curves(70, 5, 0);
  check_curves(70, 70, 0); // a lone point is a dot
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(counts_by_hand),      cmocka_unit_test(figures_by_hand),
      cmocka_unit_test(mistakes_are_sorted), cmocka_unit_test(nothing_counted),
      cmocka_unit_test(files_by_hand),       cmocka_unit_test(folder_cannot_be_made),
      cmocka_unit_test(curves_go_on_over_gaps),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
