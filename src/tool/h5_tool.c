// `imgcls h5 show|diff|verify`: what a Keras file holds, how two differ, whether one is sound. Run
// by main_tool.c. Files of Keras 2, Keras 3 and ours, whole models and weights alike.
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "io/checksum.h"
#include "keras/keras.h"
#include "tool/tool.h"

static const char HELP[] =
    "Usage: imgcls h5 show [--config] FILE\n"
    "  or:  imgcls h5 diff FILE FILE\n"
    "  or:  imgcls h5 verify FILE...\n"
    "Looks at .h5 files of Keras 2, Keras 3 and this program.\n\n"
    "  show    what the file is, and each layer's weights: shape, range and XXH3-128 checksum;\n"
    "          with --config the model's configuration as JSON instead\n"
    "  diff    options of layers and weights that differ, with the largest difference of each;\n"
    "          exit status 0 where nothing differs, 1 where something does\n"
    "  verify  recomputes the checksums that this program kept in the file; exit status 65 where\n"
    "          one is wrong\n";

// --- show ----------------------------------------------------------------------------------------
static const char *kind_text(const KerasInfo *info) {
  static const char *const texts[] = {[KERAS_FILE_MODEL] = "whole model",
                                      [KERAS_FILE_WEIGHTS] = "weights only, by layer names",
                                      [KERAS_FILE_WEIGHTS_STORE] =
                                          "weights only, as Keras 3 stores them (.weights.h5)"};
  return texts[info->kind];
}

static void show_info(const char *path, const KerasInfo *info) {
  (void)printf("%s: %s", path, kind_text(info));
  if (*info->keras_version) (void)printf(", dialect of Keras %s", info->keras_version);
  (void)printf(", written by %s\n", info->is_ours ? "imgcls" : "another program");
  if (!info->is_ours) return;
  (void)printf("step %" PRId64 ", seed %" PRIu64 ", %" PRId64 " classes", info->step, info->seed,
               info->class_count);
  for (int64_t i = 0; i < info->class_count && i < 10; i++)
    (void)printf("%s %s", i ? "," : ":", info->class_names[i]);
  (void)printf("%s\n", info->class_count > 10 ? ", ..." : "");
}

// Smallest and largest value, and how many are no numbers.
static void print_range(const float *values, int64_t count) {
  float least = INFINITY, most = -INFINITY;
  int64_t broken = 0;
  for (int64_t i = 0; i < count; i++) {
    if (isfinite(values[i])) {
      least = fminf(least, values[i]);
      most = fmaxf(most, values[i]);
    } else {
      broken++;
    }
  }
  (void)printf("%12.5g %12.5g", (double)least, (double)most);
  if (broken > 0) (void)printf("  %" PRId64 " NOT FINITE", broken);
}

static Status show_array(const KerasFile *file, int64_t index, char *layer_before,
                         size_t layer_capacity) {
  KerasArray array = keras_file_array(file, index);
  char shape[SHAPE_TEXT_CAPACITY], checksum[CHECKSUM_TEXT_CAPACITY];
  int64_t count = shape_count(array.shape);
  float *values;
  TRY(memory_alloc(&values, (size_t)count, sizeof *values));
  Status status = keras_file_read_array(values, file, index);
  if (status == STATUS_OK) {
    if (strcmp(layer_before, array.layer) != 0)
      (void)printf("%s  %s\n", array.layer, array.class_name);
    (void)snprintf(layer_before, layer_capacity, "%s", array.layer);
    (void)printf("  %-16s %-22s ", array.role, shape_format(array.shape, shape));
    print_range(values, count);
    (void)printf("  %s\n", checksum_bytes(checksum, values, (size_t)count * sizeof *values));
  }
  memory_free(values);
  return status;
}

static Status show_config(const KerasFile *file, const char *path) {
  char *json;
  TRY(keras_file_config(&json, file));
  if (!json) return status_set(STATUS_DATA, "%s: holds weights only, no configuration", path);
  (void)printf("%s\n", json);
  memory_free(json);
  return STATUS_OK;
}

static Status show(const char *path, bool config_only) {
  KerasFile *file;
  char layer_before[256] = "";
  int64_t elements = 0;
  TRY(keras_open(&file, path));
  Status status = STATUS_OK;
  if (config_only) {
    status = show_config(file, path);
    goto out;
  }
  show_info(path, keras_file_info(file));
  int64_t count = keras_file_array_count(file);
  (void)printf("\n  %-16s %-22s %12s %12s  %s\n", "weight", "shape", "smallest", "largest",
               "XXH3-128");
  for (int64_t i = 0; i < count; i++) {
    GUARD(show_array(file, i, layer_before, sizeof layer_before));
    elements += shape_count(keras_file_array(file, i).shape);
  }
  (void)printf("\n%" PRId64 " arrays, %" PRId64 " parameters\n", count, elements);
out:
  keras_close(file);
  return status;
}

// --- diff ----------------------------------------------------------------------------------------
typedef struct Diff {
  const KerasFile *a, *b;
  const char *a_path, *b_path;
  int64_t differences;
} Diff;

// The array of `file` that stands for the same weight: same layer and role, so that files of both
// Keras generations compare. -1 for none.
static int64_t find_same(const KerasFile *file, const KerasArray *wanted, int64_t guess) {
  int64_t count = keras_file_array_count(file);
  for (int64_t i = 0; i < count; i++) {
    int64_t index = (guess + i) % count;
    KerasArray array = keras_file_array(file, index);
    if (strcmp(array.layer, wanted->layer) == 0 && strcmp(array.role, wanted->role) == 0)
      return index;
  }
  return -1;
}

static Status read_values(float **out, const KerasFile *file, int64_t index) {
  int64_t count = shape_count(keras_file_array(file, index).shape);
  TRY(memory_alloc(out, (size_t)count, sizeof **out));
  Status status = keras_file_read_array(*out, file, index);
  if (status != STATUS_OK) {
    memory_free(*out);
    *out = NULL;
  }
  return status;
}

// Bitwise, so that what is no number equals itself; the largest difference is over finite values.
static void compare_values(Diff *diff, const KerasArray *array, const float *a, const float *b) {
  int64_t count = shape_count(array->shape), different = 0;
  double largest = 0, scale = 0;
  for (int64_t i = 0; i < count; i++) {
    if (isfinite(a[i])) scale = fmax(scale, fabs((double)a[i]));
    if (memcmp(&a[i], &b[i], sizeof *a) == 0) continue;
    different++;
    double distance = fabs((double)a[i] - (double)b[i]);
    if (isfinite(distance)) largest = fmax(largest, distance);
  }
  if (different == 0) return;
  diff->differences++;
  (void)printf("%s/%s: %" PRId64 " of %" PRId64 " values differ, by at most %.4g", array->layer,
               array->role, different, count, largest);
  if (scale > 0) (void)printf(" (%.3g of the largest)", largest / scale);
  (void)putchar('\n');
}

static Status compare_array(Diff *diff, int64_t index) {
  KerasArray array = keras_file_array(diff->a, index);
  int64_t other = find_same(diff->b, &array, index);
  char a_shape[SHAPE_TEXT_CAPACITY], b_shape[SHAPE_TEXT_CAPACITY];
  if (other < 0) {
    diff->differences++;
    (void)printf("%s/%s: only in %s\n", array.layer, array.role, diff->a_path);
    return STATUS_OK;
  }
  KerasArray same = keras_file_array(diff->b, other);
  if (!shape_equal(array.shape, same.shape)) {
    diff->differences++;
    (void)printf("%s/%s: shape %s and %s\n", array.layer, array.role,
                 shape_format(array.shape, a_shape), shape_format(same.shape, b_shape));
    return STATUS_OK;
  }
  float *a, *b;
  TRY(read_values(&a, diff->a, index));
  Status status = read_values(&b, diff->b, other);
  if (status == STATUS_OK) {
    compare_values(diff, &array, a, b);
    memory_free(b);
  }
  memory_free(a);
  return status;
}

static void compare_json(Diff *diff, const char *place, const json_t *a, const json_t *b);

// A layer's name, where the value is a layer of a configuration.
static const char *name_of(const json_t *value) {
  return json_string_value(json_object_get(json_object_get(value, "config"), "name"));
}

// The layer of that name in a list of layers, or the value at the same place.
static const json_t *find_item(const json_t *list, const char *name, size_t place) {
  if (!name) return json_array_get(list, place);
  for (size_t i = 0; i < json_array_size(list); i++) {
    const char *other = name_of(json_array_get(list, i));
    if (other && strcmp(other, name) == 0) return json_array_get(list, i);
  }
  return NULL;
}

// Items of `a` with their partners in `b`; `missing_only`: only those that have none.
static void compare_items(Diff *diff, const char *place, const json_t *a, const json_t *b,
                          bool missing_only) {
  for (size_t i = 0; i < json_array_size(a); i++) {
    const json_t *item = json_array_get(a, i);
    const char *name = name_of(item);
    const json_t *other = find_item(b, name, i);
    if (missing_only && other) continue;
    char inner[512];
    if (name)
      (void)snprintf(inner, sizeof inner, "%s/%s", place, name);
    else
      (void)snprintf(inner, sizeof inner, "%s[%zu]", place, i);
    if (missing_only)
      compare_json(diff, inner, NULL, item);
    else
      compare_json(diff, inner, item, other);
  }
}

static void compare_members(Diff *diff, const char *place, const json_t *a, const json_t *b,
                            bool missing_only) {
  const char *key;
  const json_t *value;
  json_object_foreach((json_t *)(uintptr_t)a, key, value) {
    const json_t *other = json_object_get(b, key);
    if (missing_only && other) continue;
    char inner[512];
    // The path of a layer is the path of its model and its name.
    bool is_frame = strcmp(key, "config") == 0 || strcmp(key, "layers") == 0;
    (void)snprintf(inner, sizeof inner, is_frame ? "%s" : "%s.%s", place, key);
    if (missing_only)
      compare_json(diff, inner, NULL, value);
    else
      compare_json(diff, inner, value, other);
  }
}

static void print_json(const char *path, const json_t *value) {
  (void)printf("  %s: ", path);
  if (json_is_object(value) || json_array_size(value) > 8)
    (void)fputs("present", stdout);
  else if (value)
    (void)json_dumpf(value, stdout, JSON_ENCODE_ANY | JSON_COMPACT);
  else
    (void)fputs("absent", stdout);
  (void)putchar('\n');
}

// Prints what differs, by the names of layers. NULL is an absent value.
static void compare_json(Diff *diff, const char *place, const json_t *a, const json_t *b) {
  if (json_is_object(a) && json_is_object(b)) {
    compare_members(diff, place, a, b, false);
    compare_members(diff, place, b, a, true);
  } else if (json_is_array(a) && json_is_array(b) &&
             (json_is_object(json_array_get(a, 0)) || json_is_object(json_array_get(b, 0)))) {
    compare_items(diff, place, a, b, false);
    compare_items(diff, place, b, a, true);
  } else if (!a || !b || !json_equal(a, b)) {
    diff->differences++;
    (void)printf("configuration, %s:\n", place);
    print_json(diff->a_path, a);
    print_json(diff->b_path, b);
  }
}

static Status compare_configs(Diff *diff) {
  Status status = STATUS_OK;
  char *a = NULL, *b = NULL;
  GUARD(keras_file_config(&a, diff->a));
  GUARD(keras_file_config(&b, diff->b));
  json_t *a_json = a ? json_loads(a, 0, NULL) : NULL;
  json_t *b_json = b ? json_loads(b, 0, NULL) : NULL;
  if (a_json || b_json) compare_json(diff, "model", a_json, b_json);
  json_decref(a_json);
  json_decref(b_json);
out:
  memory_free(a);
  memory_free(b);
  return status;
}

static Status diff_files(const char *a_path, const char *b_path) {
  Status status = STATUS_OK;
  KerasFile *a = NULL, *b = NULL;
  Diff diff = {.a_path = a_path, .b_path = b_path};
  GUARD(keras_open(&a, a_path));
  GUARD(keras_open(&b, b_path));
  diff.a = a;
  diff.b = b;
  GUARD(compare_configs(&diff));
  for (int64_t i = 0; i < keras_file_array_count(a); i++) GUARD(compare_array(&diff, i));
  for (int64_t i = 0; i < keras_file_array_count(b); i++) {
    KerasArray array = keras_file_array(b, i);
    if (find_same(a, &array, i) >= 0) continue;
    diff.differences++;
    (void)printf("%s/%s: only in %s\n", array.layer, array.role, b_path);
  }
  if (diff.differences > 0)
    status = status_set(STATUS_ERROR, "%s and %s differ in %" PRId64 " places", a_path, b_path,
                        diff.differences);
  else
    (void)printf("no difference in %" PRId64 " arrays\n", keras_file_array_count(a));
out:
  keras_close(b);
  keras_close(a);
  return status;
}

// --- verify --------------------------------------------------------------------------------------
static Status verify(const char *path) {
  KerasFile *file;
  int64_t checked;
  TRY(keras_open(&file, path));
  Status status = keras_file_verify(&checked, file);
  if (status == STATUS_OK) (void)printf("%s: sound, %" PRId64 " checksums\n", path, checked);
  keras_close(file);
  return status;
}

// Each file, whatever is wrong with those before it.
static Status verify_all(char **paths, int count, Log *log) {
  int damaged = 0;
  Status worst = STATUS_OK;
  if (count == 1) return verify(paths[0]);
  for (int i = 0; i < count; i++) {
    Status status = verify(paths[i]);
    if (status == STATUS_OK) continue;
    log_error(log, "%s", status_message());
    damaged++;
    worst = status;
  }
  if (damaged == 0) return STATUS_OK;
  return status_set(worst, "%d of %d files are not sound", damaged, count);
}

Status tool_h5(int argc, char **argv, Log *log) {
  const char *what = argc > 1 ? argv[1] : "";
  for (int i = 1; i < argc; i++)
    if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
      (void)fputs(HELP, stdout);
      return STATUS_OK;
    }
  if (strcmp(what, "show") == 0 && argc == 3) return show(argv[2], false);
  if (strcmp(what, "show") == 0 && argc == 4 && strcmp(argv[2], "--config") == 0)
    return show(argv[3], true);
  if (strcmp(what, "diff") == 0 && argc == 4) return diff_files(argv[2], argv[3]);
  if (strcmp(what, "verify") == 0 && argc >= 3) return verify_all(argv + 2, argc - 2, log);
  return status_set(STATUS_USAGE,
                    "h5: expected `show FILE`, `diff FILE FILE` or `verify FILE...`; `imgcls h5 "
                    "--help` explains");
}
