// Opening a Keras file: which kind it is, what it says about itself, its checksums.
//
// Files of ours carry a checksum of every array and text; they are verified as they are read, so
// that a flipped bit is an error and never a wrong weight.
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/text.h"
#include "io/checksum.h"
#include "keras/keras_internal.h"

static bool is_model(const H5File *h5) {
  return h5_has_attribute(h5, "", "model_config") || h5_kind(h5, "model_weights") == H5_KIND_GROUP;
}

static bool is_weights(const H5File *h5) {
  return h5_has_attribute(h5, "", "layer_names") || h5_has_attribute(h5, "", "layer_names0");
}

static bool is_store(const H5File *h5) {
  return h5_kind(h5, "layers") == H5_KIND_GROUP ||
         h5_kind(h5, "_layer_checkpoint_dependencies") == H5_KIND_GROUP;
}

bool keras_recognizes(const H5File *h5) {
  return is_model(h5) || is_weights(h5) || is_store(h5);
}

static Status find_kind(KerasFileKind *kind, const H5File *h5) {
  if (is_model(h5)) {
    bool has_config = h5_has_attribute(h5, "", "model_config");
    if (!has_config || h5_kind(h5, "model_weights") != H5_KIND_GROUP)
      return status_set(STATUS_DATA, "%s: has %s: it is damaged", h5_name(h5),
                        has_config ? "a model_config but no model_weights"
                                   : "model_weights but no model_config");
    *kind = KERAS_FILE_MODEL;
    return STATUS_OK;
  }
  if (is_weights(h5) || is_store(h5)) {
    *kind = is_weights(h5) ? KERAS_FILE_WEIGHTS : KERAS_FILE_WEIGHTS_STORE;
    return STATUS_OK;
  }
  return status_set(STATUS_DATA,
                    "%s: is an HDF5 file but none of Keras (no model_config, no layer_names, no "
                    "layers)",
                    h5_name(h5));
}

static Status parse_json(json_t **out, const H5File *h5, const char *what, const char *text) {
  json_error_t error;
  *out = json_loads(text, JSON_REJECT_DUPLICATES, &error);
  if (*out) return STATUS_OK;
  return status_set(STATUS_DATA, "%s: its %s is no JSON: %s at byte %d", h5_name(h5), what,
                    error.text, error.position);
}

// STATUS_DATA unless the checksum noted under `key` is that of the bytes. Foreign files note none.
static Status verify(const KerasFile *file, const char *key, const void *bytes, size_t size_bytes) {
  if (!file->own) return STATUS_OK;
  char text[CHECKSUM_TEXT_CAPACITY];
  const char *noted =
      json_string_value(json_object_get(json_object_get(file->own, "checksums"), key));
  if (!noted)
    return status_set(STATUS_DATA, "%s: no checksum is kept for %s: it is damaged",
                      h5_name(file->h5), key);
  if (strcmp(noted, checksum_bytes(text, bytes, size_bytes)) == 0) return STATUS_OK;
  return status_set(STATUS_DATA, "%s: %s is damaged: its checksum is %s, not %s", h5_name(file->h5),
                    key, text, noted);
}

static Status read_text(char **out, const KerasFile *file, const char *group, const char *name) {
  char *key;
  TRY(h5_read_string(out, file->h5, group, name));
  TRY(memory_print_string(&key, "%s@%s", group, name));
  Status status = verify(file, key, *out, strlen(*out));
  memory_free(key);
  return status;
}

static Status read_class_names(KerasFile *file) {
  const json_t *names = json_object_get(file->own, "class_names");
  size_t count = json_array_size(names);
  TRY(memory_alloc(&file->class_names, count, sizeof *file->class_names));
  for (size_t i = 0; i < count; i++) {
    file->class_names[i] = json_string_value(json_array_get(names, i));
    if (!file->class_names[i] || !text_is_printable(file->class_names[i]))
      return status_set(STATUS_DATA, "%s: class %zu has no name that can be shown: it is damaged",
                        h5_name(file->h5), i);
  }
  file->info.class_names = file->class_names;
  file->info.class_count = (int64_t)count;
  return STATUS_OK;
}

double keras__standardize_epsilon(const KerasFile *file, const char *layer) {
  double epsilon =
      json_number_value(json_object_get(json_object_get(file->own, "standardized"), layer));
  return epsilon > 0 ? epsilon : 0;
}

// The group of ours, where there is one.
static Status read_own(KerasFile *file) {
  Status status = STATUS_OK;
  char *text = NULL, *noted = NULL;
  char checksum[CHECKSUM_TEXT_CAPACITY];
  const char *name = h5_name(file->h5);
  if (!h5_has_attribute(file->h5, KERAS_OWN_GROUP, "info")) return STATUS_OK;
  GUARD(h5_read_string(&text, file->h5, KERAS_OWN_GROUP, "info"));
  GUARD(h5_read_string(&noted, file->h5, KERAS_OWN_GROUP, "info_xxh3"));
  if (strcmp(noted, checksum_bytes(checksum, text, strlen(text))) != 0) {
    status = status_set(STATUS_DATA, "%s: its list of checksums is damaged", name);
    goto out;
  }
  GUARD(parse_json(&file->own, file->h5, "group imgcls", text));
  json_int_t format = json_integer_value(json_object_get(file->own, "format"));
  if (format != KERAS_FORMAT) {
    status = status_set(STATUS_DATA,
                        "%s: is of format %lld, this program reads %d: use the version that wrote "
                        "it",
                        name, (long long)format, KERAS_FORMAT);
    goto out;
  }
  file->info.is_ours = true;
  file->info.step = json_integer_value(json_object_get(file->own, "step"));
  const char *seed = json_string_value(json_object_get(file->own, "seed"));
  errno = 0;
  file->info.seed = seed ? strtoull(seed, NULL, 10) : 0;
  if (!seed || errno != 0) {
    status = status_set(STATUS_DATA, "%s: its seed is no number: it is damaged", name);
    goto out;
  }
  GUARD(read_class_names(file));
  if (h5_has_attribute(file->h5, KERAS_OWN_GROUP, "state"))
    GUARD(read_text(&file->state, file, KERAS_OWN_GROUP, "state"));
  file->info.state = file->state;
out:
  memory_free(noted);
  memory_free(text);
  return status;
}

static Status read_config(KerasFile *file) {
  if (file->info.kind != KERAS_FILE_MODEL) return STATUS_OK;
  char *text = NULL;
  Status status = read_text(&text, file, "", "model_config");
  if (status == STATUS_OK) status = parse_json(&file->config, file->h5, "model_config", text);
  memory_free(text);
  return status;
}

static Status read_version(KerasFile *file) {
  const char *place =
      file->info.kind == KERAS_FILE_MODEL && !h5_has_attribute(file->h5, "", "keras_version")
          ? "model_weights"
          : "";
  if (h5_has_attribute(file->h5, place, "keras_version"))
    TRY(h5_read_string(&file->keras_version, file->h5, place, "keras_version"));
  file->info.keras_version = file->keras_version ? file->keras_version : "";
  return STATUS_OK;
}

Status keras_open_h5(KerasFile **out, H5File *h5) {
  Status status = STATUS_OK;
  KerasFile *file = NULL;
  *out = NULL;
  status = memory_alloc(&file, 1, sizeof *file);
  if (status != STATUS_OK) {
    h5_close(h5);
    return status;
  }
  file->h5 = h5;
  GUARD(find_kind(&file->info.kind, h5));
  GUARD(read_version(file));
  GUARD(read_own(file));
  GUARD(read_config(file));
  GUARD(keras__source_create(&file->source, h5, file->info.kind, file->config));
  *out = file;
  file = NULL;
out:
  keras_close(file);
  return status;
}

Status keras_open(KerasFile **out, const char *path) {
  H5File *h5;
  *out = NULL;
  TRY(h5_open(&h5, path));
  return keras_open_h5(out, h5);
}

Status keras_open_bytes(KerasFile **out, const uint8_t *bytes, size_t size_bytes,
                        const char *name) {
  H5File *h5;
  *out = NULL;
  TRY(h5_open_bytes(&h5, bytes, size_bytes, name));
  return keras_open_h5(out, h5);
}

void keras_close(KerasFile *file) {
  if (!file) return;
  keras__source_free(file->source);
  memory_free(file->class_names);
  memory_free(file->keras_version);
  memory_free(file->state);
  json_decref(file->own);
  json_decref(file->config);
  h5_close(file->h5);
  memory_free(file);
}

const KerasInfo *keras_file_info(const KerasFile *file) {
  return &file->info;
}

const char *keras_file_name(const KerasFile *file) {
  return h5_name(file->h5);
}

Status keras__read_floats(float *values, const KerasFile *file, const char *path, int64_t count) {
  TRY(h5_read_array(values, file->h5, path, DTYPE_F32, count));
  return verify(file, path, values, (size_t)count * sizeof *values);
}

static Status verify_array(const KerasFile *file, const char *path) {
  DType dtype;
  Shape shape;
  void *values;
  TRY(h5_array_info(&dtype, &shape, file->h5, path));
  size_t count = (size_t)shape_count(shape);
  TRY(memory_alloc(&values, count, dtype_size(dtype)));
  Status status = h5_read_array(values, file->h5, path, dtype, (int64_t)count);
  if (status == STATUS_OK) status = verify(file, path, values, count * dtype_size(dtype));
  memory_free(values);
  return status;
}

static Status verify_text(const KerasFile *file, const char *key) {
  char *group, *text = NULL;
  TRY(memory_copy_string(&group, key));
  char *at = strrchr(group, '@');
  *at = '\0';
  Status status = read_text(&text, file, group, at + 1);
  memory_free(text);
  memory_free(group);
  return status;
}

Status keras_file_verify(int64_t *checked, const KerasFile *file) {
  const char *key;
  json_t *value;
  *checked = 0;
  if (!file->own)
    return status_set(STATUS_DATA, "%s: was not written by this program: it keeps no checksums",
                      h5_name(file->h5));
  json_object_foreach(json_object_get(file->own, "checksums"), key, value) {
    TRY(strchr(key, '@') ? verify_text(file, key) : verify_array(file, key));
    ++*checked;
  }
  return STATUS_OK;
}
