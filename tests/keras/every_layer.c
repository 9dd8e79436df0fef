#include "every_layer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static Value stem(Graph *g, Value x) {
  static const Initializer he = {INITIALIZER_VARIANCE_SCALING, 2, FAN_OUT,
                                 DISTRIBUTION_TRUNCATED_NORMAL};
  x = graph_rescaling(g, x, &(RescalingDesc){1, {1 / 127.5}, {-1}}, "rescale");
  x = graph_normalization(g, x, &(RescalingDesc){3, {2, 3, 4}, {0.5, -0.25, 0.125}}, "normalise");
  x = graph_zero_padding2d(g, x, (Pads){0, 1, 0, 1}, "pad");
  Conv2dDesc conv = {.filters = 8, .kernel_h = 3, .stride_h = 2, .initializer = he};
  x = graph_conv2d(g, x, &conv, "stem_conv");
  x = graph_batch_normalization(g, x, &(BatchNormDesc){.momentum = 0.9, .epsilon = 1e-3},
                                "stem_bn");
  return graph_activation(g, x, ACTIVATION_HARD_SWISH, "stem_hard_swish");
}

// Squeeze and excite; the gate is a hard sigmoid.
static Value gate(Graph *g, Value x, const char *prefix, ActivationKind kind) {
  char name[64];
#define NAME(suffix) (snprintf(name, sizeof name, "%s_%s", prefix, suffix), name)
  int64_t channels = graph_channels(g, x);
  Value s = graph_global_average_pooling2d(g, x, false, NAME("squeeze"));
  s = graph_reshape(g, s, SHAPE(1, 1, channels), NAME("reshape"));
  Conv2dDesc reduce = {.filters = 2, .kernel_h = 1, .use_bias = true};
  s = graph_conv2d(g, s, &reduce, NAME("reduce"));
  s = graph_activation(g, s, ACTIVATION_SWISH, NAME("swish"));
  Conv2dDesc expand = {.filters = channels, .kernel_h = 1, .use_bias = true};
  s = graph_conv2d(g, s, &expand, NAME("expand"));
  s = graph_activation(g, s, kind, NAME("gate"));
  return graph_multiply(g, x, s, NAME("excite"));
}

static Value blocks(Graph *g, Value x) {
  BatchNormDesc no_scale = {.momentum = 0.99, .epsilon = 1e-5, .no_scale = true};
  BatchNormDesc no_center = {.momentum = 0.99, .epsilon = 1e-5, .no_center = true};
  // The shortcut's layers come first here, and in Keras' order between those of the main way.
  Conv2dDesc shortcut = {.filters = 8, .kernel_h = 1, .stride_h = 2, .padding = PADDING_SAME};
  Value way = graph_conv2d(g, x, &shortcut, "shortcut_conv");
  way = graph_batch_normalization(g, way, &no_scale, "shortcut_bn");
  Conv2dDesc depthwise = {.kernel_h = 3, .kernel_w = 5, .stride_h = 2, .padding = PADDING_SAME};
  Value y = graph_depthwise_conv2d(g, x, &depthwise, "depthwise");
  y = graph_batch_normalization(g, y, &no_center, "depthwise_bn");
  y = graph_relu(g, y, 6, "depthwise_relu6");
  y = gate(g, y, "se", ACTIVATION_HARD_SIGMOID);
  Conv2dDesc grouped = {.filters = 8, .kernel_h = 3, .groups = 2, .padding = PADDING_SAME};
  y = graph_conv2d(g, y, &grouped, "grouped");
  y = graph_dropout(g, y, &(DropoutDesc){.rate = 0.2, .per_sample = true}, "drop_path");
  Conv2dDesc standardised = {
      .filters = 12, .kernel_h = 3, .padding = PADDING_SAME, .standardize_epsilon = 1e-8};
  y = graph_conv2d(g, y, &standardised, "standardised");
  y = graph_group_normalization(g, y, &(GroupNormDesc){.groups = 4, .epsilon = 1e-5}, "group_norm");
  y = graph_relu(g, y, 0, "group_norm_relu");
  Conv2dDesc separable = {
      .filters = 8, .kernel_h = 5, .padding = PADDING_SAME, .use_bias = true, .l2 = 1e-5};
  y = graph_separable_conv2d(g, y, &separable, "separable");
  y = graph_rescaling(g, y, &(RescalingDesc){1, {0.17}, {0}}, "residual_scale");
  x = graph_add(g, y, way, "join");
  x = graph_relu(g, x, 0, "join_relu");
  Conv2dDesc dilated = {.filters = 4,
                        .kernel_h = 3,
                        .dilation = 2,
                        .padding = PADDING_SAME,
                        .use_bias = true,
                        .l2 = 1e-5};
  Value a = graph_conv2d(g, x, &dilated, "dilated");
  a = graph_activation(g, a, ACTIVATION_TANH, "dilated_tanh");
  Value b = graph_max_pooling2d(
      g, x, &(PoolDesc){.size_h = 3, .stride_h = 1, .padding = PADDING_SAME}, "max_pool");
  Value c = graph_average_pooling2d(
      g, x, &(PoolDesc){.size_h = 3, .size_w = 2, .stride_h = 1, .padding = PADDING_SAME},
      "average_pool");
  c = graph_activation(g, c, ACTIVATION_RELU6, "average_relu6");
  // The shifted subsampling of NASNet, and that of TF-Slim's ResNet v2, brought back to size.
  Value d = graph_zero_padding2d(g, x, (Pads){0, 1, 0, 1}, "shift_pad");
  d = graph_cropping2d(g, d, (Pads){1, 0, 1, 0}, "shift_crop");
  d = graph_max_pooling2d(g, d, &(PoolDesc){.size_h = 1, .stride_h = 1}, "subsample");
  d = graph_separable_conv2d(
      g, d, &(Conv2dDesc){.filters = 3, .kernel_h = 3, .padding = PADDING_SAME}, "separable_plain");
  d = graph_group_normalization(
      g, d, &(GroupNormDesc){.groups = 3, .epsilon = 1e-3, .no_scale = true}, "group_norm_plain");
  x = graph_concatenate(g, (Value[]){a, b, c, d}, 4, "concatenate");
  x = gate(g, x, "se2", ACTIVATION_SIGMOID);
  x = graph_activation(g, x, ACTIVATION_RELU, "last_relu");
  x = graph_global_average_pooling2d(g, x, true, "pool_keep");
  return graph_flatten(g, x, "flatten");
}

// So many long names that the lists of weights must be split.
static Value long_names(Graph *g, Value x) {
  char name[256];
  for (int i = 0; i < 310; i++) {
    (void)snprintf(name, sizeof name, "%0200d_%d", 0, i);
    x = graph_batch_normalization(
        g, x, &(BatchNormDesc){.momentum = 0.9, .epsilon = 1e-3, .no_scale = true}, name);
  }
  return graph_global_average_pooling2d(g, x, false, "pool");
}

static Graph *finish(Graph *g, Value output) {
  if (graph_finish(g, output) == STATUS_OK) return g;
  (void)fprintf(stderr, "%s\n", status_message());
  graph_free(g);
  return NULL;
}

Graph *every_layer_graph(const char *name) {
  Graph *g;
  bool flat = strcmp(name, "flat") == 0;
  if (!flat && strcmp(name, "nested") != 0 && strcmp(name, "frozen") != 0 &&
      strcmp(name, "partly") != 0 && strcmp(name, "long") != 0)
    return NULL;
  if (graph_create(&g, name) != STATUS_OK) return NULL;
  Value x = graph_input(g, SHAPE(32, 40, 3), "image");
  if (!flat) graph_submodel_begin(g, x, "backbone");
  x = strcmp(name, "long") == 0 ? long_names(g, x) : blocks(g, stem(g, x));
  if (!flat) x = graph_submodel_end(g, x);
  x = graph_dropout(g, x, &(DropoutDesc){.rate = 0.3}, "dropout");
  x = graph_dense(g, x, &(DenseDesc){.units = 5, .l2 = 1e-4}, "dense");
  if (flat) x = graph_activation(g, x, ACTIVATION_SOFTMAX, "softmax");
  g = finish(g, x);
  if (!g) return NULL;
  if (strcmp(name, "frozen") == 0) graph_set_trainable(g, 0, false);
  for (int i = 0; i < g->layer_count && strcmp(name, "partly") == 0; i++)
    if (strcmp(g->layers[i].name, "stem_bn") == 0 || strcmp(g->layers[i].name, "depthwise") == 0)
      g->layers[i].trainable = false;
  return g;
}

float **every_layer_values(const Graph *graph, int seed) {
  float **values = calloc((size_t)graph->parameter_count + 1, sizeof *values);
  for (int i = 0; i < graph->parameter_count; i++) {
    int64_t count = shape_count(graph->parameters[i].shape);
    values[i] = calloc((size_t)count, sizeof **values);
    graph_initialize_parameter(graph, i, (uint64_t)seed, values[i]);
    // No two parameters, and few elements of one, are alike; deep networks stay finite.
    for (int64_t j = 0; j < count; j++)
      values[i][j] += 1e-6f * (float)(i + 1 + 1000 * seed) + 2e-7f * (float)(j % 97);
  }
  return values;
}

void every_layer_values_free(const Graph *graph, float **values) {
  for (int i = 0; values && i < graph->parameter_count; i++) free(values[i]);
  free(values);
}
