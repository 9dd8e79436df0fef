// What the options of a layer mean. See parse_options.h.
#include "keras/parse_options.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { MAX_OPTION = 65535 }; // of kernel sizes, strides, pads

Status keras__refuse(const Parser *parser, const ParsedNode *node, const char *format, ...) {
  char text[512];
  va_list arguments;
  va_start(arguments, format);
  (void)vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  return status_set(STATUS_DATA, "%s: layer %.200s (%.100s): %s", h5_name(parser->file->h5),
                    node->name, node->class_name, text);
}

const json_t *keras__option(const LayerBuild *build, const char *key) {
  const json_t *value = json_object_get(build->node->config, key);
  return json_is_null(value) ? NULL : value;
}

Status keras__get_integer(int64_t *out, const LayerBuild *build, const char *key, int64_t otherwise,
                          int64_t least, int64_t most) {
  const json_t *value = keras__option(build, key);
  *out = value ? json_integer_value(value) : otherwise;
  if (value && !json_is_integer(value)) return REFUSE(build, "%s is no integer", key);
  if (*out < least || *out > most)
    return REFUSE(build, "%s = %lld: must be %lld..%lld", key, (long long)*out, (long long)least,
                  (long long)most);
  return STATUS_OK;
}

Status keras__get_real(double *out, const LayerBuild *build, const char *key, double otherwise) {
  const json_t *value = keras__option(build, key);
  *out = value ? json_number_value(value) : otherwise;
  if (value && !json_is_number(value)) return REFUSE(build, "%s is no number", key);
  return STATUS_OK;
}

Status keras__get_bool(bool *out, const LayerBuild *build, const char *key, bool otherwise) {
  const json_t *value = keras__option(build, key);
  *out = value ? json_is_true(value) : otherwise;
  if (value && !json_is_boolean(value)) return REFUSE(build, "%s is neither true nor false", key);
  return STATUS_OK;
}

static bool small_integer(int *out, const json_t *value, int least) {
  json_int_t number = json_integer_value(value);
  *out = (int)number;
  return json_is_integer(value) && number >= least && number <= MAX_OPTION;
}

Status keras__get_pair(int *h, int *w, const LayerBuild *build, const char *key, int otherwise) {
  const json_t *value = keras__option(build, key);
  *h = *w = otherwise;
  if (!value) return STATUS_OK;
  bool is_list = json_is_array(value) && json_array_size(value) == 2;
  if (small_integer(h, is_list ? json_array_get(value, 0) : value, 1) &&
      small_integer(w, is_list ? json_array_get(value, 1) : value, 1))
    return STATUS_OK;
  return REFUSE(build, "%s must be one or two integers from 1 to %d", key, MAX_OPTION);
}

Status keras__get_padding(Padding *out, const LayerBuild *build) {
  const char *name = json_string_value(keras__option(build, "padding"));
  *out = name && strcmp(name, "same") == 0 ? PADDING_SAME : PADDING_VALID;
  if (name && strcmp(name, "same") != 0 && strcmp(name, "valid") != 0)
    return REFUSE(build, "padding \"%.40s\": must be \"same\" or \"valid\"", name);
  return STATUS_OK;
}

Status keras__require_absent(const LayerBuild *build, const char *const *keys, int count) {
  for (int i = 0; i < count; i++) {
    const json_t *value = keras__option(build, keys[i]);
    if (value && !json_is_false(value)) return REFUSE(build, "%s is not supported", keys[i]);
  }
  return STATUS_OK;
}

Status keras__require_channels_last(const LayerBuild *build) {
  const char *format = json_string_value(keras__option(build, "data_format"));
  if (format && strcmp(format, "channels_last") != 0)
    return REFUSE(build, "data_format \"%.40s\": only channels_last is supported", format);
  return STATUS_OK;
}

Status keras__require_last_axis(const LayerBuild *build) {
  const json_t *value = keras__option(build, "axis");
  if (json_is_array(value) && json_array_size(value) == 1) value = json_array_get(value, 0);
  int rank = graph_shape(build->parser->graph, build->inputs[0]).rank;
  json_int_t axis = value ? json_integer_value(value) : -1;
  if (axis != -1 && axis != rank)
    return REFUSE(build, "axis %lld: only the channels (axis %d) are supported", (long long)axis,
                  rank);
  return STATUS_OK;
}

Status keras__get_l2(double *out, const LayerBuild *build, const char *key) {
  const json_t *value = keras__option(build, key);
  *out = 0;
  if (!value) return STATUS_OK;
  const char *class_name = json_string_value(json_object_get(value, "class_name"));
  const json_t *config = json_object_get(value, "config");
  bool known = class_name && (strcmp(class_name, "L2") == 0 || strcmp(class_name, "L1L2") == 0);
  if (!known || json_number_value(json_object_get(config, "l1")) != 0)
    return REFUSE(build, "%s: only L2 is supported", key);
  *out = json_number_value(json_object_get(config, "l2"));
  return STATUS_OK;
}

static const json_t *unpacked_list(const json_t *value) {
  // Keras 3 writes numpy arrays as objects.
  if (json_is_object(value)) return json_object_get(json_object_get(value, "config"), "value");
  return value;
}

int keras__get_channel_values(double values[RESCALING_MAX_CHANNELS], const json_t *value) {
  value = unpacked_list(value);
  if (json_is_number(value)) {
    values[0] = json_number_value(value);
    return 1;
  }
  size_t count = json_array_size(value);
  if (count < 1 || count > RESCALING_MAX_CHANNELS) return 0;
  for (size_t i = 0; i < count; i++) {
    if (!json_is_number(json_array_get(value, i))) return 0;
    values[i] = json_number_value(json_array_get(value, i));
  }
  return (int)count;
}

static Status find_activation(ActivationKind *out, const LayerBuild *build, const char *name) {
  static const struct {
    const char *name;
    ActivationKind kind;
  } names[] = {{"linear", ACTIVATION_LINEAR},
               {"relu", ACTIVATION_RELU},
               {"relu6", ACTIVATION_RELU6},
               {"swish", ACTIVATION_SWISH},
               {"silu", ACTIVATION_SWISH},
               {"sigmoid", ACTIVATION_SIGMOID},
               {"hard_sigmoid", ACTIVATION_HARD_SIGMOID},
               {"hard_swish", ACTIVATION_HARD_SWISH},
               {"hard_silu", ACTIVATION_HARD_SWISH},
               {"softmax", ACTIVATION_SOFTMAX},
               {"tanh", ACTIVATION_TANH}};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    if (strcmp(name, names[i].name) != 0) continue;
    if (names[i].kind == ACTIVATION_HARD_SIGMOID && !build->parser->is_keras3)
      return REFUSE(build, "Keras 2's hard_sigmoid, 0.2 x + 0.5, is not supported");
    *out = names[i].kind;
    return STATUS_OK;
  }
  return REFUSE(build, "activation \"%.60s\" is not supported", name);
}

Status keras__get_activation(ActivationKind *out, const LayerBuild *build) {
  const json_t *value = keras__option(build, "activation");
  *out = ACTIVATION_LINEAR;
  if (!value) return STATUS_OK;
  if (json_is_object(value)) value = json_object_get(value, "config");
  if (!json_is_string(value)) return REFUSE(build, "its activation is not one of Keras' own");
  return find_activation(out, build, json_string_value(value));
}

static bool get_ends(int *before, int *after, const json_t *value) {
  bool is_list = json_array_size(value) == 2;
  return small_integer(before, is_list ? json_array_get(value, 0) : value, 0) &&
         small_integer(after, is_list ? json_array_get(value, 1) : value, 0);
}

Status keras__get_edges(Pads *out, const LayerBuild *build, const char *key) {
  const json_t *value = keras__option(build, key);
  bool is_list = json_array_size(value) == 2;
  TRY(keras__require_channels_last(build));
  if (!get_ends(&out->top, &out->bottom, is_list ? json_array_get(value, 0) : value) ||
      !get_ends(&out->left, &out->right, is_list ? json_array_get(value, 1) : value))
    return REFUSE(build, "%s must be integers from 0 to %d", key, MAX_OPTION);
  return STATUS_OK;
}
