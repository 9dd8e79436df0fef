// What a file holds, array by array, for people: `imgcls h5` is the caller.
#include <string.h>

#include "base/memory.h"
#include "keras/keras_internal.h"

// The layer that holds an array, by halving.
static const SourceLayer *find_layer(const Source *source, int64_t index) {
  int low = 0, high = source->count;
  while (high - low > 1) {
    int middle = low + (high - low) / 2;
    if (source->layers[middle].first_array <= index)
      low = middle;
    else
      high = middle;
  }
  return &source->layers[low];
}

int64_t keras_file_array_count(const KerasFile *file) {
  if (file->source->count == 0) return 0;
  const SourceLayer *last = &file->source->layers[file->source->count - 1];
  return last->first_array + last->array_count;
}

// One name for what Keras 2 calls "kernel:0" and Keras 3 "kernel", and the store only numbers.
static const char *plain_role(const SourceLayer *layer, const SourceArray *array, int number) {
  static const char *const known[] = {"kernel",      "pointwise_kernel", "bias", "gamma",   "beta",
                                      "moving_mean", "moving_variance",  "mean", "variance"};
  static const char *const numbers[] = {"0", "1", "2", "3", "4", "5", "6", "7"};
  static const char *const stored[][4] = {{"kernel", "bias", NULL, NULL},
                                          {"gamma", "beta", "moving_mean", "moving_variance"},
                                          {"kernel", "pointwise_kernel", "bias", NULL}};
  if (!array->role) {
    // The store's order is that of the roles, where none is left out.
    bool is_norm = (layer->kind == LAYER_BATCH_NORMALIZATION && layer->array_count == 4) ||
                   (layer->kind == LAYER_GROUP_NORMALIZATION && layer->array_count == 2);
    bool has_kernel = layer->kind == LAYER_CONV2D || layer->kind == LAYER_DENSE ||
                      layer->kind == LAYER_DEPTHWISE_CONV2D;
    bool is_separable = layer->kind == LAYER_SEPARABLE_CONV2D;
    if ((has_kernel && number < 2) || is_norm) return stored[is_norm][number];
    if (is_separable && number < 3) return stored[2][number];
    return numbers[number];
  }
  size_t length = strcspn(array->role, ":");
  if (length == 16 && strncmp(array->role, "depthwise_kernel", length) == 0) return "kernel";
  for (size_t i = 0; i < sizeof known / sizeof *known; i++)
    if (strlen(known[i]) == length && strncmp(array->role, known[i], length) == 0) return known[i];
  return array->role;
}

bool keras_file_has_layer(const KerasFile *file, const char *name) {
  static const char *const places[] = {"", "layers", "layers/functional/layers"};
  bool found = false;
  for (size_t i = 0; i < sizeof places / sizeof *places && !found; i++) {
    char path[512];
    (void)snprintf(path, sizeof path, "%s%s%s", places[i], places[i][0] ? "/" : "", name);
    found = h5_kind(file->h5, path) == H5_KIND_GROUP;
  }
  return found;
}

KerasArray keras_file_array(const KerasFile *file, int64_t index) {
  const SourceLayer *layer = find_layer(file->source, index);
  int number = (int)(index - layer->first_array);
  const SourceArray *array = &layer->arrays[number];
  return (KerasArray){.path = array->path,
                      .layer = layer->name,
                      .role = plain_role(layer, array, number),
                      .class_name =
                          layer->kind < LAYER_KIND_COUNT ? layer_kind_name(layer->kind) : "",
                      .shape = array->shape};
}

Status keras_file_read_array(float *values, const KerasFile *file, int64_t index) {
  KerasArray array = keras_file_array(file, index);
  return keras__read_floats(values, file, array.path, shape_count(array.shape));
}

Status keras_file_config(char **json, const KerasFile *file) {
  *json = NULL;
  if (!file->config) return STATUS_OK;
  const size_t flags = JSON_INDENT(1) | JSON_SORT_KEYS;
  size_t size = json_dumpb(file->config, NULL, 0, flags);
  TRY(memory_alloc(json, size + 1, 1));
  (void)json_dumpb(file->config, *json, size, flags);
  return STATUS_OK;
}
