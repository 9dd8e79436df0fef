// Layers with parameters: convolutions, dense, batch and group normalisation. Model builders and
// keras/ call them; shapes and parameter shapes are Keras'.
#include <inttypes.h>
#include <math.h>

#include "graph/graph.h"
#include "graph/graph_internal.h"

static const Initializer zeros = {.kind = INITIALIZER_ZEROS};
static const Initializer ones = {.kind = INITIALIZER_ONES};

static Initializer or_glorot(Initializer initializer) {
  if (initializer.kind == INITIALIZER_ZEROS) initializer.kind = INITIALIZER_GLOROT_UNIFORM;
  return initializer;
}

// Replaces the zeros that stand for defaults.
static Conv2dDesc complete_conv(Conv2dDesc desc) {
  if (desc.kernel_w == 0) desc.kernel_w = desc.kernel_h;
  if (desc.stride_h == 0) desc.stride_h = 1;
  if (desc.stride_w == 0) desc.stride_w = desc.stride_h;
  if (desc.dilation == 0) desc.dilation = 1;
  if (desc.groups == 0) desc.groups = 1;
  desc.initializer = or_glorot(desc.initializer);
  return desc;
}

// Checks the layer's window and adds its first kernel. False when it failed.
static bool begin_conv(Graph *graph, Layer *layer, Shape kernel) {
  const Conv2dDesc *desc = &layer->conv2d;
  Window window = {desc->kernel_h, desc->kernel_w, desc->stride_h,
                   desc->stride_w, desc->dilation, desc->padding};
  if (desc->filters < 1 || desc->filters > GRAPH_MAX_DIM) {
    graph__fail(graph, layer, "filters = %" PRId64 ": must be 1..%d", desc->filters,
                (int)GRAPH_MAX_DIM);
    return false;
  }
  if (!graph__apply_window(graph, layer, window)) return false;
  if (!(desc->l2 >= 0)) {
    graph__fail(graph, layer, "l2 = %g: must not be negative", desc->l2);
    return false;
  }
  layer->shape.rank = 3;
  layer->shape.dim[2] = desc->filters;
  graph__parameter_add(graph, layer, PARAMETER_KERNEL, kernel, desc->initializer, desc->l2);
  return true;
}

static Value end_conv(Graph *graph, Layer *layer) {
  const Conv2dDesc *desc = &layer->conv2d;
  if (desc->use_bias)
    graph__parameter_add(graph, layer, PARAMETER_BIAS, SHAPE(desc->filters), zeros, 0);
  return graph__layer_end(graph, layer);
}

Value graph_conv2d(Graph *graph, Value x, const Conv2dDesc *desc, const char *name) {
  Layer *layer = graph__layer_begin(graph, LAYER_CONV2D, name, &x, 1);
  if (!layer || !graph__input_is_image(graph, layer)) return NO_VALUE;
  Conv2dDesc d = layer->conv2d = complete_conv(*desc);
  int64_t channels = shape_channels(graph__input_shape(graph, layer));
  if (!(d.standardize_epsilon >= 0 && d.standardize_epsilon <= 1))
    return graph__fail(graph, layer, "standardize_epsilon = %g: must be 0..1",
                       d.standardize_epsilon);
  if (d.groups < 1 || channels % d.groups != 0 || d.filters % d.groups != 0)
    return graph__fail(graph, layer,
                       "groups = %d: must divide the %" PRId64 " channels in and the %" PRId64
                       " filters",
                       d.groups, channels, d.filters);
  Shape kernel = SHAPE(d.kernel_h, d.kernel_w, channels / d.groups, d.filters);
  return begin_conv(graph, layer, kernel) ? end_conv(graph, layer) : NO_VALUE;
}

Value graph_depthwise_conv2d(Graph *graph, Value x, const Conv2dDesc *desc, const char *name) {
  Layer *layer = graph__layer_begin(graph, LAYER_DEPTHWISE_CONV2D, name, &x, 1);
  if (!layer || !graph__input_is_image(graph, layer)) return NO_VALUE;
  Conv2dDesc d = complete_conv(*desc);
  int64_t channels = shape_channels(graph__input_shape(graph, layer));
  d.filters = channels;
  d.groups = (int)channels;
  layer->conv2d = d;
  Shape kernel = SHAPE(d.kernel_h, d.kernel_w, channels, 1);
  return begin_conv(graph, layer, kernel) ? end_conv(graph, layer) : NO_VALUE;
}

Value graph_separable_conv2d(Graph *graph, Value x, const Conv2dDesc *desc, const char *name) {
  Layer *layer = graph__layer_begin(graph, LAYER_SEPARABLE_CONV2D, name, &x, 1);
  if (!layer || !graph__input_is_image(graph, layer)) return NO_VALUE;
  Conv2dDesc d = layer->conv2d = complete_conv(*desc);
  int64_t channels = shape_channels(graph__input_shape(graph, layer));
  if (d.groups != 1)
    return graph__fail(graph, layer, "groups = %d: a separable convolution has none", d.groups);
  if (!begin_conv(graph, layer, SHAPE(d.kernel_h, d.kernel_w, channels, 1))) return NO_VALUE;
  graph__parameter_add(graph, layer, PARAMETER_POINTWISE_KERNEL, SHAPE(1, 1, channels, d.filters),
                       d.initializer, d.l2);
  return end_conv(graph, layer);
}

Value graph_dense(Graph *graph, Value x, const DenseDesc *desc, const char *name) {
  Layer *layer = graph__layer_begin(graph, LAYER_DENSE, name, &x, 1);
  if (!layer) return NO_VALUE;
  Shape in = graph__input_shape(graph, layer);
  char text[SHAPE_TEXT_CAPACITY];
  if (in.rank != 1)
    return graph__fail(graph, layer,
                       "needs a vector, got %s: put GlobalAveragePooling2D or Flatten before it",
                       shape_format(in, text));
  layer->dense = *desc;
  layer->dense.initializer = or_glorot(desc->initializer);
  if (desc->units < 1 || desc->units > GRAPH_MAX_DIM)
    return graph__fail(graph, layer, "units = %" PRId64 ": must be 1..%d", desc->units,
                       (int)GRAPH_MAX_DIM);
  if (!(desc->l2 >= 0)) return graph__fail(graph, layer, "l2 = %g: must not be negative", desc->l2);
  layer->shape = SHAPE(desc->units);
  graph__parameter_add(graph, layer, PARAMETER_KERNEL, SHAPE(in.dim[0], desc->units),
                       layer->dense.initializer, desc->l2);
  if (!desc->no_bias)
    graph__parameter_add(graph, layer, PARAMETER_BIAS, SHAPE(desc->units), zeros, 0);
  return graph__layer_end(graph, layer);
}

Value graph_batch_normalization(Graph *graph, Value x, const BatchNormDesc *desc,
                                const char *name) {
  Layer *layer = graph__layer_begin(graph, LAYER_BATCH_NORMALIZATION, name, &x, 1);
  if (!layer) return NO_VALUE;
  layer->batch_norm = *desc;
  if (!(desc->momentum >= 0 && desc->momentum <= 1))
    return graph__fail(graph, layer, "momentum = %g: must be 0..1", desc->momentum);
  if (!(desc->epsilon > 0 && desc->epsilon <= 1))
    return graph__fail(graph, layer, "epsilon = %g: must be above 0, at most 1", desc->epsilon);
  layer->shape = graph__input_shape(graph, layer);
  Shape channels = SHAPE(shape_channels(layer->shape));
  if (!desc->no_scale) graph__parameter_add(graph, layer, PARAMETER_GAMMA, channels, ones, 0);
  if (!desc->no_center) graph__parameter_add(graph, layer, PARAMETER_BETA, channels, zeros, 0);
  graph__parameter_add(graph, layer, PARAMETER_MOVING_MEAN, channels, zeros, 0);
  graph__parameter_add(graph, layer, PARAMETER_MOVING_VARIANCE, channels, ones, 0);
  return graph__layer_end(graph, layer);
}

Value graph_group_normalization(Graph *graph, Value x, const GroupNormDesc *desc,
                                const char *name) {
  Layer *layer = graph__layer_begin(graph, LAYER_GROUP_NORMALIZATION, name, &x, 1);
  if (!layer) return NO_VALUE;
  layer->group_norm = *desc;
  layer->shape = graph__input_shape(graph, layer);
  int64_t channels = shape_channels(layer->shape);
  if (desc->groups < 1 || channels % desc->groups != 0)
    return graph__fail(graph, layer, "groups = %d: must divide the %" PRId64 " channels",
                       desc->groups, channels);
  if (!(desc->epsilon > 0 && desc->epsilon <= 1))
    return graph__fail(graph, layer, "epsilon = %g: must be above 0, at most 1", desc->epsilon);
  if (!desc->no_scale)
    graph__parameter_add(graph, layer, PARAMETER_GAMMA, SHAPE(channels), ones, 0);
  if (!desc->no_center)
    graph__parameter_add(graph, layer, PARAMETER_BETA, SHAPE(channels), zeros, 0);
  return graph__layer_end(graph, layer);
}

void graph_standardize_kernel(float *out, const float *kernel, int64_t count, int64_t filters,
                              double epsilon) {
  int64_t rows = count / filters;
  for (int64_t f = 0; f < filters; f++) {
    double mean = 0, variance = 0;
    for (int64_t i = f; i < count; i += filters) mean += kernel[i];
    mean /= (double)rows;
    for (int64_t i = f; i < count; i += filters)
      variance += (kernel[i] - mean) * (kernel[i] - mean);
    double scale = 1 / sqrt(variance / (double)rows + epsilon);
    for (int64_t i = f; i < count; i += filters) out[i] = (float)((kernel[i] - mean) * scale);
  }
}
