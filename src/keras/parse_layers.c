// One layer of a model_config as layers of the graph: a row for each class that this program has.
// parse.c is the caller.
//
// Options of Keras 2 and Keras 3 are read alike. An option that would change what the layer
// computes and that the graph does not have is refused, never dropped.
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "keras/parse_options.h"

// --- one function for each class -----------------------------------------------------------------
// The activation inside a convolution or dense layer becomes a layer of its own.
static Status split_activation(Value *inout, const LayerBuild *build) {
  ActivationKind kind;
  char *name;
  TRY(keras__get_activation(&kind, build));
  if (kind == ACTIVATION_LINEAR) return STATUS_OK;
  TRY(keras__layer_name(&name, build->parser, build->node->name, "_activation"));
  *inout = graph_activation(build->parser->graph, *inout, kind, name);
  memory_free(name);
  return STATUS_OK;
}

// What the three kinds of convolution have in common.
static Status get_convolution(Conv2dDesc *out, const LayerBuild *build) {
  static const char *const refused[] = {"bias_regularizer", "activity_regularizer"};
  int dilation_w;
  *out = (Conv2dDesc){0};
  TRY(keras__require_channels_last(build));
  TRY(keras__require_absent(build, refused, 2));
  TRY(keras__get_pair(&out->kernel_h, &out->kernel_w, build, "kernel_size", 1));
  TRY(keras__get_pair(&out->stride_h, &out->stride_w, build, "strides", 1));
  TRY(keras__get_pair(&out->dilation, &dilation_w, build, "dilation_rate", 1));
  if (out->dilation != dilation_w) return REFUSE(build, "dilation_rate must be square");
  TRY(keras__get_padding(&out->padding, build));
  return keras__get_bool(&out->use_bias, build, "use_bias", true);
}

static Status build_convolution(Value *out, const LayerBuild *build, bool depthwise) {
  Conv2dDesc desc;
  int64_t filters = 1, groups = 1, multiplier = 1;
  TRY(get_convolution(&desc, build));
  TRY(keras__get_l2(&desc.l2, build, depthwise ? "depthwise_regularizer" : "kernel_regularizer"));
  if (depthwise)
    TRY(keras__get_integer(&multiplier, build, "depth_multiplier", 1, 1, 1));
  else
    TRY(keras__get_integer(&filters, build, "filters", 0, 1, INT32_MAX));
  if (!depthwise) TRY(keras__get_integer(&groups, build, "groups", 1, 1, INT32_MAX));
  desc.filters = filters;
  desc.groups = (int)groups;
  if (!depthwise)
    desc.standardize_epsilon = keras__standardize_epsilon(build->parser->file, build->node->name);
  *out = (depthwise ? graph_depthwise_conv2d : graph_conv2d)(build->parser->graph, build->inputs[0],
                                                             &desc, build->name);
  return split_activation(out, build);
}

static Status build_conv2d(Value *out, const LayerBuild *build) {
  return build_convolution(out, build, false);
}

static Status build_depthwise_conv2d(Value *out, const LayerBuild *build) {
  return build_convolution(out, build, true);
}

static Status build_separable_conv2d(Value *out, const LayerBuild *build) {
  Conv2dDesc desc;
  int64_t filters, multiplier;
  double pointwise_l2;
  TRY(get_convolution(&desc, build));
  TRY(keras__get_integer(&multiplier, build, "depth_multiplier", 1, 1, 1));
  TRY(keras__get_integer(&filters, build, "filters", 0, 1, INT32_MAX));
  TRY(keras__get_l2(&desc.l2, build, "depthwise_regularizer"));
  TRY(keras__get_l2(&pointwise_l2, build, "pointwise_regularizer"));
  if (desc.l2 != pointwise_l2)
    return REFUSE(build, "depthwise_regularizer and pointwise_regularizer must be equal");
  desc.filters = filters;
  *out = graph_separable_conv2d(build->parser->graph, build->inputs[0], &desc, build->name);
  return split_activation(out, build);
}

static Status build_dense(Value *out, const LayerBuild *build) {
  static const char *const refused[] = {"bias_regularizer", "activity_regularizer", "lora_rank",
                                        "quantization_config"};
  DenseDesc desc = {0};
  bool use_bias;
  TRY(keras__require_absent(build, refused, 4));
  TRY(keras__get_integer(&desc.units, build, "units", 0, 1, INT32_MAX));
  TRY(keras__get_bool(&use_bias, build, "use_bias", true));
  TRY(keras__get_l2(&desc.l2, build, "kernel_regularizer"));
  desc.no_bias = !use_bias;
  *out = graph_dense(build->parser->graph, build->inputs[0], &desc, build->name);
  return split_activation(out, build);
}

static Status build_batch_normalization(Value *out, const LayerBuild *build) {
  static const char *const refused[] = {"renorm", "virtual_batch_size", "beta_regularizer",
                                        "gamma_regularizer"};
  BatchNormDesc desc;
  bool scale, center;
  TRY(keras__require_last_axis(build));
  TRY(keras__require_absent(build, refused, 4));
  TRY(keras__get_real(&desc.momentum, build, "momentum", 0.99));
  TRY(keras__get_real(&desc.epsilon, build, "epsilon", 1e-3));
  TRY(keras__get_bool(&scale, build, "scale", true));
  TRY(keras__get_bool(&center, build, "center", true));
  if (!(desc.momentum >= 0 && desc.momentum <= 1))
    return REFUSE(build, "momentum %g: must be 0..1", desc.momentum);
  if (!(desc.epsilon > 0 && isfinite(desc.epsilon)))
    return REFUSE(build, "epsilon %g: must be positive", desc.epsilon);
  desc.no_scale = !scale;
  desc.no_center = !center;
  *out = graph_batch_normalization(build->parser->graph, build->inputs[0], &desc, build->name);
  return STATUS_OK;
}

static Status build_group_normalization(Value *out, const LayerBuild *build) {
  static const char *const refused[] = {"beta_regularizer", "gamma_regularizer"};
  GroupNormDesc desc;
  int64_t groups;
  bool scale, center;
  TRY(keras__require_last_axis(build));
  TRY(keras__require_absent(build, refused, 2));
  TRY(keras__get_integer(&groups, build, "groups", 32, -1, INT32_MAX));
  TRY(keras__get_real(&desc.epsilon, build, "epsilon", 1e-3));
  TRY(keras__get_bool(&scale, build, "scale", true));
  TRY(keras__get_bool(&center, build, "center", true));
  if (groups == -1) groups = graph_channels(build->parser->graph, build->inputs[0]); // each channel
  desc.groups = (int)groups;
  desc.no_scale = !scale;
  desc.no_center = !center;
  *out = graph_group_normalization(build->parser->graph, build->inputs[0], &desc, build->name);
  return STATUS_OK;
}

static Status build_activation(Value *out, const LayerBuild *build) {
  ActivationKind kind;
  TRY(keras__get_activation(&kind, build));
  *out = graph_activation(build->parser->graph, build->inputs[0], kind, build->name);
  return STATUS_OK;
}

static Status build_softmax(Value *out, const LayerBuild *build) {
  TRY(keras__require_last_axis(build));
  *out = graph_activation(build->parser->graph, build->inputs[0], ACTIVATION_SOFTMAX, build->name);
  return STATUS_OK;
}

static Status build_relu(Value *out, const LayerBuild *build) {
  double max_value, slope, threshold;
  TRY(keras__get_real(&max_value, build, "max_value", 0));
  TRY(keras__get_real(&slope, build, "negative_slope", 0));
  TRY(keras__get_real(&threshold, build, "threshold", 0));
  if (slope != 0 || threshold != 0)
    return REFUSE(build, "negative_slope and threshold are not supported");
  if (!(max_value >= 0) || (keras__option(build, "max_value") && max_value == 0))
    return REFUSE(build, "max_value %g: must be positive", max_value);
  *out = graph_relu(build->parser->graph, build->inputs[0], max_value, build->name);
  return STATUS_OK;
}

// Keras adds or multiplies any number of values; the graph two at a time.
static Status build_merge(Value *out, const LayerBuild *build,
                          Value (*merge)(Graph *, Value, Value, const char *)) {
  int count = build->node->input_count;
  if (count < 2) return REFUSE(build, "has %d input; at least 2 are needed", count);
  Value sum = build->inputs[0];
  for (int i = 1; i < count; i++) {
    char suffix[32], *name = NULL;
    (void)snprintf(suffix, sizeof suffix, "_part%d", i);
    if (i < count - 1) TRY(keras__layer_name(&name, build->parser, build->node->name, suffix));
    sum = merge(build->parser->graph, sum, build->inputs[i], name ? name : build->name);
    memory_free(name);
  }
  *out = sum;
  return STATUS_OK;
}

static Status build_add(Value *out, const LayerBuild *build) {
  return build_merge(out, build, graph_add);
}

// keras.applications' own layer in Inception-ResNet: the first input plus the scaled second.
static Status build_custom_scale(Value *out, const LayerBuild *build) {
  Graph *graph = build->parser->graph;
  RescalingDesc desc = {.count = 1};
  char *name;
  if (build->node->input_count != 2)
    return REFUSE(build, "has %d inputs; it adds two", build->node->input_count);
  TRY(keras__get_real(&desc.scale[0], build, "scale", 1));
  TRY(keras__layer_name(&name, build->parser, build->node->name, "_scale"));
  Value scaled = graph_rescaling(graph, build->inputs[1], &desc, name);
  memory_free(name);
  *out = graph_add(graph, build->inputs[0], scaled, build->name);
  return STATUS_OK;
}

static Status build_multiply(Value *out, const LayerBuild *build) {
  return build_merge(out, build, graph_multiply);
}

static Status build_concatenate(Value *out, const LayerBuild *build) {
  TRY(keras__require_last_axis(build));
  *out =
      graph_concatenate(build->parser->graph, build->inputs, build->node->input_count, build->name);
  return STATUS_OK;
}

static Status build_rescaling(Value *out, const LayerBuild *build) {
  RescalingDesc desc = {0};
  const json_t *offset = keras__option(build, "offset");
  int scales = keras__get_channel_values(desc.scale, keras__option(build, "scale"));
  int offsets = offset ? keras__get_channel_values(desc.offset, offset) : 1;
  if (scales == 0 || offsets == 0 || (scales != offsets && scales != 1 && offsets != 1))
    return REFUSE(build, "scale and offset must be numbers or lists of up to %d",
                  RESCALING_MAX_CHANNELS);
  desc.count = scales > offsets ? scales : offsets;
  for (int i = 1; i < desc.count; i++) {
    if (scales == 1) desc.scale[i] = desc.scale[0];
    if (offsets == 1) desc.offset[i] = desc.offset[0];
  }
  *out = graph_rescaling(build->parser->graph, build->inputs[0], &desc, build->name);
  return STATUS_OK;
}

// One array of a Normalization layer's weights. Returns the count of channels, 0 where absent.
static Status read_statistic(int *count, double values[RESCALING_MAX_CHANNELS],
                             const LayerBuild *build, const SourceLayer *source, const char *role,
                             int position) {
  float stored[RESCALING_MAX_CHANNELS];
  *count = 0;
  for (int i = 0; source && i < source->array_count; i++) {
    const SourceArray *array = &source->arrays[i];
    bool wanted = array->role ? strncmp(array->role, role, strlen(role)) == 0 : i == position;
    int64_t size = shape_count(array->shape);
    if (!wanted) continue;
    if (size < 1 || size > RESCALING_MAX_CHANNELS)
      return REFUSE(build, "normalises %lld channels; at most %d are supported", (long long)size,
                    RESCALING_MAX_CHANNELS);
    TRY(keras__read_floats(stored, build->parser->file, array->path, size));
    for (int64_t c = 0; c < size; c++) values[c] = (double)stored[c];
    *count = (int)size;
  }
  return STATUS_OK;
}

// (x - mean) / max(sqrt(variance), 1e-7), as Keras computes it; the values stand in the
// configuration or among the weights.
static Status build_normalization(Value *out, const LayerBuild *build) {
  static const char *const refused[] = {"invert"};
  RescalingDesc desc = {0};
  double mean[RESCALING_MAX_CHANNELS], variance[RESCALING_MAX_CHANNELS];
  TRY(keras__require_last_axis(build));
  TRY(keras__require_absent(build, refused, 1));
  int means = keras__get_channel_values(mean, keras__option(build, "mean"));
  int variances = keras__get_channel_values(variance, keras__option(build, "variance"));
  if (means == 0 || variances == 0) {
    const SourceLayer *source = keras__source_find(build->parser->file->source, build->node->name);
    TRY(read_statistic(&means, mean, build, source, "mean", 0));
    TRY(read_statistic(&variances, variance, build, source, "variance", 1));
  }
  if (means == 0 || means != variances)
    return REFUSE(build, "has no mean and variance: it was saved before `adapt`");
  desc.count = means;
  for (int i = 0; i < means; i++) {
    double deviation = sqrt(variance[i]);
    desc.scale[i] = 1 / (deviation > 1e-7 ? deviation : 1e-7);
    desc.offset[i] = -mean[i] * desc.scale[i];
  }
  *out = graph_normalization(build->parser->graph, build->inputs[0], &desc, build->name);
  return STATUS_OK;
}

static Status build_dropout(Value *out, const LayerBuild *build) {
  DropoutDesc desc = {0};
  const json_t *noise = keras__option(build, "noise_shape");
  TRY(keras__get_real(&desc.rate, build, "rate", 0));
  if (!(desc.rate >= 0 && desc.rate < 1))
    return REFUSE(build, "rate %g: must be 0 or more, and less than 1", desc.rate);
  for (size_t i = 1; i < json_array_size(noise); i++)
    if (json_integer_value(json_array_get(noise, i)) != 1)
      return REFUSE(build, "noise_shape: only one draw a sample, [null, 1, 1, 1], is supported");
  desc.per_sample = noise != NULL;
  *out = graph_dropout(build->parser->graph, build->inputs[0], &desc, build->name);
  return STATUS_OK;
}

static Status build_zero_padding2d(Value *out, const LayerBuild *build) {
  Pads pads;
  TRY(keras__get_edges(&pads, build, "padding"));
  *out = graph_zero_padding2d(build->parser->graph, build->inputs[0], pads, build->name);
  return STATUS_OK;
}

static Status build_cropping2d(Value *out, const LayerBuild *build) {
  Pads pads;
  TRY(keras__get_edges(&pads, build, "cropping"));
  *out = graph_cropping2d(build->parser->graph, build->inputs[0], pads, build->name);
  return STATUS_OK;
}

static Status build_pooling(Value *out, const LayerBuild *build,
                            Value (*pool)(Graph *, Value, const PoolDesc *, const char *)) {
  PoolDesc desc = {0};
  TRY(keras__require_channels_last(build));
  TRY(keras__get_pair(&desc.size_h, &desc.size_w, build, "pool_size", 2));
  desc.stride_h = desc.size_h;
  desc.stride_w = desc.size_w;
  if (keras__option(build, "strides"))
    TRY(keras__get_pair(&desc.stride_h, &desc.stride_w, build, "strides", 1));
  TRY(keras__get_padding(&desc.padding, build));
  *out = pool(build->parser->graph, build->inputs[0], &desc, build->name);
  return STATUS_OK;
}

static Status build_max_pooling2d(Value *out, const LayerBuild *build) {
  return build_pooling(out, build, graph_max_pooling2d);
}

static Status build_average_pooling2d(Value *out, const LayerBuild *build) {
  return build_pooling(out, build, graph_average_pooling2d);
}

static Status build_global_average_pooling2d(Value *out, const LayerBuild *build) {
  bool keep_dims;
  TRY(keras__require_channels_last(build));
  TRY(keras__get_bool(&keep_dims, build, "keepdims", false));
  *out = graph_global_average_pooling2d(build->parser->graph, build->inputs[0], keep_dims,
                                        build->name);
  return STATUS_OK;
}

// One dimension may be -1: what the others leave.
static Status build_reshape(Value *out, const LayerBuild *build) {
  const json_t *list = keras__option(build, "target_shape");
  size_t rank = json_array_size(list);
  Shape shape = {.rank = (int)rank};
  int open = -1;
  int64_t known = 1;
  if (rank < 1 || rank > SHAPE_MAX_RANK - 1)
    return REFUSE(build, "target_shape must have 1 to %d dimensions", SHAPE_MAX_RANK - 1);
  for (int i = 0; i < shape.rank; i++) {
    json_int_t dim = json_integer_value(json_array_get(list, (size_t)i));
    if (dim == -1 && open < 0) {
      open = i;
      continue;
    }
    if (dim < 1 || dim > INT32_MAX)
      return REFUSE(build, "target_shape has dimension %lld", (long long)dim);
    shape.dim[i] = dim;
    if (__builtin_mul_overflow(known, (int64_t)dim, &known))
      return REFUSE(build, "target_shape is too large");
  }
  if (open >= 0)
    shape.dim[open] = shape_count(graph_shape(build->parser->graph, build->inputs[0])) / known;
  *out = graph_reshape(build->parser->graph, build->inputs[0], shape, build->name);
  return STATUS_OK;
}

static Status build_flatten(Value *out, const LayerBuild *build) {
  TRY(keras__require_channels_last(build));
  *out = graph_flatten(build->parser->graph, build->inputs[0], build->name);
  return STATUS_OK;
}

typedef struct LayerClass {
  const char *name;
  Status (*build)(Value *out, const LayerBuild *build);
  bool merges; // takes several inputs
} LayerClass;

static const LayerClass CLASSES[] = {
    {"Conv2D", build_conv2d, false},
    {"DepthwiseConv2D", build_depthwise_conv2d, false},
    {"SeparableConv2D", build_separable_conv2d, false},
    {"Dense", build_dense, false},
    {"BatchNormalization", build_batch_normalization, false},
    {"GroupNormalization", build_group_normalization, false},
    {"Activation", build_activation, false},
    {"ReLU", build_relu, false},
    {"Softmax", build_softmax, false},
    {"Add", build_add, true},
    {"CustomScaleLayer", build_custom_scale, true},        // as Keras 3 spells it
    {"Custom>CustomScaleLayer", build_custom_scale, true}, // as Keras 2 does
    {"Multiply", build_multiply, true},
    {"Concatenate", build_concatenate, true},
    {"Rescaling", build_rescaling, false},
    {"Normalization", build_normalization, false},
    {"Dropout", build_dropout, false},
    {"ZeroPadding2D", build_zero_padding2d, false},
    {"Cropping2D", build_cropping2d, false},
    {"MaxPooling2D", build_max_pooling2d, false},
    {"AveragePooling2D", build_average_pooling2d, false},
    {"GlobalAveragePooling2D", build_global_average_pooling2d, false},
    {"Reshape", build_reshape, false},
    {"Flatten", build_flatten, false},
};

bool keras__is_identity(const char *class_name) {
  static const char *const names[] = {"RandomFlip",        "RandomRotation", "RandomZoom",
                                      "RandomTranslation", "RandomContrast", "RandomBrightness"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++)
    if (strcmp(class_name, names[i]) == 0) return true;
  return false;
}

Status keras__parse_shape(Shape *out, const Parser *parser, const ParsedNode *node,
                          const json_t *list) {
  size_t rank = json_array_size(list);
  if (rank != 4 && rank != 2)
    return keras__refuse(parser, node, "its input has %zu dimensions; images have 4", rank);
  *out = (Shape){.rank = (int)rank - 1};
  for (size_t i = 1; i < rank; i++) {
    const json_t *dim = json_array_get(list, i);
    bool is_open = json_is_null(dim) && i < rank - 1 && parser->open_side > 0;
    if (!is_open && (!json_is_integer(dim) || json_integer_value(dim) < 1))
      return keras__refuse(parser, node,
                           "its input size is open; build the model with a fixed input_shape");
    out->dim[i - 1] = is_open ? parser->open_side : json_integer_value(dim);
  }
  return STATUS_OK;
}

Status keras__build_layer(Value *out, Parser *parser, const ParsedNode *node, const Value *inputs) {
  if (keras__is_identity(node->class_name) && node->input_count == 1) {
    *out = inputs[0];
    return STATUS_OK;
  }
  for (size_t i = 0; i < sizeof CLASSES / sizeof *CLASSES; i++) {
    const LayerClass *class = &CLASSES[i];
    if (strcmp(node->class_name, class->name) != 0) continue;
    if (node->input_count < 1 || (node->input_count > 1 && !class->merges))
      return keras__refuse(parser, node, "has %d inputs", node->input_count);
    LayerBuild build = {.parser = parser, .node = node, .inputs = inputs};
    char *name;
    TRY(keras__layer_name(&name, parser, node->name, ""));
    build.name = name;
    Status status = class->build(out, &build);
    memory_free(name);
    return status;
  }
  return keras__refuse(parser, node, "layers of this class are not supported");
}
