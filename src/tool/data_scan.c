// `imgcls data scan`: what a dataset holds. Without --quick every image is decoded, so that broken
// files are known before a training run meets them.
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/text.h"
#include "data/dataset.h"
#include "tool/data_tool.h"
#include "tool/decode_all.h"

typedef struct BadImage {
  int64_t sample;
  char *reason; // owned
} BadImage;

typedef struct Scan {
  const DataOptions *options;
  Log *log;
  Dataset *dataset;
  SampleLimits limits;
  Bytes scratch;
  int64_t good;
  int32_t *heights, *widths; // of the good ones
  BadImage *bad;
  size_t bad_count, bad_capacity;
} Scan;

// --- looking -------------------------------------------------------------------------------------

static Status note_bad(Scan *scan, int64_t sample, const char *text) {
  char *reason;
  TRY(memory_copy_string(&reason, text));
  Status status =
      memory_reserve(&scan->bad, &scan->bad_capacity, scan->bad_count + 1, sizeof *scan->bad);
  if (status == STATUS_OK)
    scan->bad[scan->bad_count++] = (BadImage){sample, reason};
  else
    memory_free(reason);
  return status;
}

static Status note_image(void *context, int64_t sample, const char *reason) {
  Scan *scan = context;
  if (reason) return note_bad(scan, sample, reason);
  ImageSize size;
  TRY(dataset_read_size(&size, scan->dataset, sample, &scan->limits, &scan->scratch));
  scan->heights[scan->good] = (int32_t)size.height;
  scan->widths[scan->good++] = (int32_t)size.width;
  return STATUS_OK;
}

static Status decode_images(Scan *scan) {
  size_t count = (size_t)dataset_sample_count(scan->dataset);
  int threads;
  TRY(arguments_threads(&threads, &scan->options->common, NULL));
  TRY(memory_alloc(&scan->heights, count, sizeof *scan->heights));
  TRY(memory_alloc(&scan->widths, count, sizeof *scan->widths));
  return decode_all(&(DecodeAll){.dataset = scan->dataset,
                                 .limits = scan->limits,
                                 .threads = threads,
                                 .log = scan->log,
                                 .on_image = note_image,
                                 .context = scan});
}

// --- telling -------------------------------------------------------------------------------------

typedef struct Spread {
  int32_t least, median, most;
} Spread;

static int compare_sides(const void *a, const void *b) {
  int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
  return (x > y) - (x < y);
}

// Sorts the sides.
static Spread spread_of(int32_t *sides, int64_t count) {
  qsort(sides, (size_t)count, sizeof *sides, compare_sides);
  return (Spread){sides[0], sides[count / 2], sides[count - 1]};
}

static void print_text(Scan *scan) {
  const Dataset *d = scan->dataset;
  (void)printf("%s: %" PRId64 " images in %" PRId64 " classes%s\n", dataset_source(d),
               dataset_sample_count(d), dataset_class_count(d),
               dataset_is_packed(d) ? ", packed" : "");
  for (int64_t i = 0; i < dataset_class_count(d); i++)
    (void)printf("%5" PRId64 "  %-32s %9" PRId64 "\n", i, dataset_class_name(d, i),
                 dataset_class_size(d, i));
  if (scan->good > 0) {
    Spread h = spread_of(scan->heights, scan->good), w = spread_of(scan->widths, scan->good);
    (void)printf("height %" PRId32 "..%" PRId32 ", median %" PRId32 "; width %" PRId32 "..%" PRId32
                 ", median %" PRId32 "\n",
                 h.least, h.most, h.median, w.least, w.most, w.median);
  }
  for (size_t i = 0; i < scan->bad_count; i++) (void)printf("bad: %s\n", scan->bad[i].reason);
  if (scan->options->quick) return;
  (void)printf("%" PRId64 " good, %zu bad\n", scan->good, scan->bad_count);
}

static json_t *spread_json(Spread spread) {
  return json_pack("{s:i, s:i, s:i}", "min", (int)spread.least, "median", (int)spread.median, "max",
                   (int)spread.most);
}

// File names need not be UTF-8, JSON must be.
static json_t *text_json(const char *text) {
  json_t *json = json_string(text);
  char *printable;
  if (json) return json; // exact, control characters escaped
  if (text_copy_printable(&printable, text) != STATUS_OK) return NULL;
  json = json_string(printable);
  memory_free(printable);
  return json;
}

static Status print_json(Scan *scan) {
  const Dataset *d = scan->dataset;
  json_t *classes = json_array(), *bad = json_array();
  for (int64_t i = 0; i < dataset_class_count(d); i++)
    (void)json_array_append_new(classes, json_pack("{s:s, s:I}", "name", dataset_class_name(d, i),
                                                   "images", (json_int_t)dataset_class_size(d, i)));
  for (size_t i = 0; i < scan->bad_count; i++) {
    char *name;
    if (dataset_copy_name(&name, d, scan->bad[i].sample) != STATUS_OK) continue;
    (void)json_array_append_new(bad, json_pack("{s:o, s:o}", "file", text_json(name), "reason",
                                               text_json(scan->bad[i].reason)));
    memory_free(name);
  }
  json_t *object = json_pack("{s:s, s:b, s:I, s:o, s:o}", "source", dataset_source(d), "packed",
                             (int)dataset_is_packed(d), "images",
                             (json_int_t)dataset_sample_count(d), "classes", classes, "bad", bad);
  if (object && scan->good > 0) {
    (void)json_object_set_new(object, "height", spread_json(spread_of(scan->heights, scan->good)));
    (void)json_object_set_new(object, "width", spread_json(spread_of(scan->widths, scan->good)));
  }
  if (!object) return status_set(STATUS_OS, "data scan: out of memory, or a path is not UTF-8");
  int failed = json_dumpf(object, stdout, JSON_INDENT(1));
  json_decref(object);
  (void)putchar('\n');
  return failed ? status_set(STATUS_IO, "cannot write to standard output") : STATUS_OK;
}

Status data_scan(const DataOptions *options, Log *log) {
  Scan scan = {.options = options, .log = log, .limits = sample_limits_default()};
  char **names = NULL;
  DatasetDesc desc = {
      .path = options->operands[0], .follow_symlinks = options->follow_symlinks, .min_classes = 1};
  Status status;
  if (options->class_names) {
    GUARD(data_split_names(&names, &desc.class_count, options->class_names));
    desc.class_names = (const char *const *)names;
  }
  GUARD(dataset_open(&scan.dataset, &desc, log));
  if (!options->quick) GUARD(decode_images(&scan));
  if (options->common.json)
    GUARD(print_json(&scan));
  else
    print_text(&scan);
  if (!options->quick && scan.good == 0)
    status = status_set(STATUS_DATA, "%s: no image can be read", options->operands[0]);
out:
  for (size_t i = 0; i < scan.bad_count; i++) memory_free(scan.bad[i].reason);
  memory_free(scan.bad);
  bytes_deinit(&scan.scratch);
  memory_free(scan.widths);
  memory_free(scan.heights);
  dataset_close(scan.dataset);
  memory_free(names);
  return status;
}
