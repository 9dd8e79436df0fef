// Layers without parameters: input, activations, joins, padding, pooling, shape changes. Model
// builders and keras/ call them.
#include <inttypes.h>
#include <math.h>

#include "graph/graph.h"
#include "graph/graph_internal.h"

// --- shared --------------------------------------------------------------------------------------

Shape graph__input_shape(const Graph *graph, const Layer *layer) {
  return graph->layers[layer->inputs[0]].shape;
}

bool graph__input_is_image(Graph *graph, const Layer *layer) {
  Shape shape = graph__input_shape(graph, layer);
  if (shape.rank == 3) return true;
  char text[SHAPE_TEXT_CAPACITY];
  graph__fail(graph, layer, "needs an input (height, width, channels), got %s",
              shape_format(shape, text));
  return false;
}

// One dimension of a window: TensorFlow's output size and padding. 0 where the window does not fit.
static int64_t window_output(int64_t in, int size, int stride, Padding padding, int *before,
                             int *after) {
  *before = *after = 0;
  if (padding == PADDING_VALID) return in < size ? 0 : (in - size) / stride + 1;
  int64_t out = (in + stride - 1) / stride;
  int64_t missing = (out - 1) * stride + size - in;
  int total = missing > 0 ? (int)missing : 0;
  *before = total / 2;
  *after = total - total / 2;
  return out;
}

bool graph__apply_window(Graph *graph, Layer *layer, Window w) {
  if (w.size_h < 1 || w.size_w < 1 || w.size_h > GRAPH_MAX_KERNEL || w.size_w > GRAPH_MAX_KERNEL ||
      w.stride_h < 1 || w.stride_w < 1 || w.stride_h > GRAPH_MAX_KERNEL ||
      w.stride_w > GRAPH_MAX_KERNEL || w.dilation < 1 || w.dilation > GRAPH_MAX_KERNEL) {
    graph__fail(graph, layer, "window %d x %d, stride %d x %d, dilation %d: each must be 1..%d",
                w.size_h, w.size_w, w.stride_h, w.stride_w, w.dilation, (int)GRAPH_MAX_KERNEL);
    return false;
  }
  if (w.dilation > 1 && (w.stride_h > 1 || w.stride_w > 1)) {
    graph__fail(graph, layer, "stride and dilation: only one may be above 1, as in Keras");
    return false;
  }
  Shape in = graph__input_shape(graph, layer);
  int reach_h = (w.size_h - 1) * w.dilation + 1, reach_w = (w.size_w - 1) * w.dilation + 1;
  Pads *pads = &layer->pads;
  layer->shape = in;
  layer->shape.dim[0] =
      window_output(in.dim[0], reach_h, w.stride_h, w.padding, &pads->top, &pads->bottom);
  layer->shape.dim[1] =
      window_output(in.dim[1], reach_w, w.stride_w, w.padding, &pads->left, &pads->right);
  if (layer->shape.dim[0] < 1 || layer->shape.dim[1] < 1) {
    char text[SHAPE_TEXT_CAPACITY];
    graph__fail(graph, layer,
                "a window of %d x %d does not fit the input %s: use a larger image or padding same",
                reach_h, reach_w, shape_format(in, text));
    return false;
  }
  return true;
}

// A layer whose output has the input's shape.
static Layer *begin_same_shape(Graph *graph, LayerKind kind, Value x, const char *name) {
  Layer *layer = graph__layer_begin(graph, kind, name, &x, 1);
  if (layer) layer->shape = graph__input_shape(graph, layer);
  return layer;
}

// --- input, activations --------------------------------------------------------------------------

Value graph_input(Graph *graph, Shape shape, const char *name) {
  Layer *layer = graph__layer_begin(graph, LAYER_INPUT, name, NULL, 0);
  if (!layer) return NO_VALUE;
  if (layer->submodel >= 0)
    return graph__fail(graph, layer, "a nested model takes its input from the outer one");
  if (shape.rank != 1 && shape.rank != 3) {
    char text[SHAPE_TEXT_CAPACITY];
    return graph__fail(graph, layer, "shape %s: must be (height, width, channels) or (features,)",
                       shape_format(shape, text));
  }
  layer->shape = shape;
  return graph__layer_end(graph, layer);
}

Value graph_activation(Graph *graph, Value x, ActivationKind kind, const char *name) {
  Layer *layer = begin_same_shape(graph, LAYER_ACTIVATION, x, name);
  if (!layer) return NO_VALUE;
  layer->activation = kind;
  return graph__layer_end(graph, layer);
}

Value graph_relu(Graph *graph, Value x, double max_value, const char *name) {
  Layer *layer = begin_same_shape(graph, LAYER_RELU, x, name);
  if (!layer) return NO_VALUE;
  if (!(max_value >= 0 && isfinite(max_value)))
    return graph__fail(graph, layer, "max_value = %g: must be positive, or 0 for none", max_value);
  layer->relu_max_value = max_value;
  return graph__layer_end(graph, layer);
}

// y = x scale + offset, for Rescaling and the Normalization of files.
static Value add_affine(Graph *graph, LayerKind kind, Value x, const RescalingDesc *desc,
                        const char *name) {
  Layer *layer = begin_same_shape(graph, kind, x, name);
  if (!layer) return NO_VALUE;
  int64_t channels = shape_channels(layer->shape);
  if (desc->count < 1 || desc->count > RESCALING_MAX_CHANNELS ||
      (desc->count != 1 && desc->count != channels))
    return graph__fail(graph, layer,
                       "%d values for %" PRId64 " channels: give one value, or one a channel "
                       "(at most %d)",
                       desc->count, channels, (int)RESCALING_MAX_CHANNELS);
  for (int i = 0; i < desc->count; i++)
    if (!isfinite(desc->scale[i]) || !isfinite(desc->offset[i]))
      return graph__fail(graph, layer, "scale %g, offset %g: must be finite", desc->scale[i],
                         desc->offset[i]);
  layer->rescaling = *desc;
  return graph__layer_end(graph, layer);
}

Value graph_rescaling(Graph *graph, Value x, const RescalingDesc *desc, const char *name) {
  return add_affine(graph, LAYER_RESCALING, x, desc, name);
}

Value graph_normalization(Graph *graph, Value x, const RescalingDesc *desc, const char *name) {
  return add_affine(graph, LAYER_NORMALIZATION, x, desc, name);
}

Value graph_dropout(Graph *graph, Value x, const DropoutDesc *desc, const char *name) {
  Layer *layer = begin_same_shape(graph, LAYER_DROPOUT, x, name);
  if (!layer) return NO_VALUE;
  if (!(desc->rate >= 0 && desc->rate < 1))
    return graph__fail(graph, layer, "rate = %g: must be at least 0 and below 1", desc->rate);
  layer->dropout = *desc;
  return graph__layer_end(graph, layer);
}

// --- joins ---------------------------------------------------------------------------------------

// Says that two inputs do not fit.
static Value fail_join(Graph *graph, const Layer *layer, Value other, const char *rule) {
  char first[SHAPE_TEXT_CAPACITY], second[SHAPE_TEXT_CAPACITY];
  return graph__fail(
      graph, layer, "inputs \"%s\" %s and \"%s\" %s: %s", graph->layers[layer->inputs[0]].name,
      shape_format(graph__input_shape(graph, layer), first), graph->layers[other].name,
      shape_format(graph->layers[other].shape, second), rule);
}

Value graph_add(Graph *graph, Value a, Value b, const char *name) {
  Layer *layer = graph__layer_begin(graph, LAYER_ADD, name, (Value[]){a, b}, 2);
  if (!layer) return NO_VALUE;
  layer->shape = graph_shape(graph, a);
  if (!shape_equal(layer->shape, graph_shape(graph, b)))
    return fail_join(graph, layer, b, "both branches need the same stride and channels");
  return graph__layer_end(graph, layer);
}

// (1, 1, C) beside any (H, W, C): the gate of squeeze-and-excite.
static bool is_gate_of(Shape gate, Shape x) {
  return gate.rank == 3 && x.rank == 3 && gate.dim[0] == 1 && gate.dim[1] == 1 &&
         gate.dim[2] == x.dim[2];
}

Value graph_multiply(Graph *graph, Value a, Value b, const char *name) {
  Layer *layer = graph__layer_begin(graph, LAYER_MULTIPLY, name, (Value[]){a, b}, 2);
  if (!layer) return NO_VALUE;
  Shape left = graph_shape(graph, a), right = graph_shape(graph, b);
  if (!shape_equal(left, right) && !is_gate_of(right, left) && !is_gate_of(left, right))
    return fail_join(graph, layer, b, "the shapes must be equal, or one of them (1, 1, channels)");
  layer->shape = shape_equal(left, right) || is_gate_of(right, left) ? left : right;
  return graph__layer_end(graph, layer);
}

Value graph_concatenate(Graph *graph, const Value *values, int count, const char *name) {
  Layer *layer = graph__layer_begin(graph, LAYER_CONCATENATE, name, values, count);
  if (!layer) return NO_VALUE;
  if (count < 2) return graph__fail(graph, layer, "needs two or more inputs");
  layer->shape = graph__input_shape(graph, layer);
  int last = layer->shape.rank - 1;
  for (int i = 1; i < count; i++) {
    Shape shape = graph_shape(graph, values[i]);
    layer->shape.dim[last] += shape_channels(shape);
    if (shape.rank != layer->shape.rank) return fail_join(graph, layer, values[i], "ranks differ");
    for (int d = 0; d < last; d++)
      if (shape.dim[d] != layer->shape.dim[d])
        return fail_join(graph, layer, values[i], "only the channels may differ");
  }
  return graph__layer_end(graph, layer);
}

// --- padding and pooling -------------------------------------------------------------------------

// Begins a layer that adds or cuts off pixels at the edges. NULL when it failed.
static Layer *begin_edges(Graph *graph, LayerKind kind, Value x, Pads pads, const char *name) {
  Layer *layer = begin_same_shape(graph, kind, x, name);
  if (!layer || !graph__input_is_image(graph, layer)) return NULL;
  const int sides[] = {pads.top, pads.bottom, pads.left, pads.right};
  for (int i = 0; i < 4; i++) {
    if (sides[i] >= 0 && sides[i] <= GRAPH_MAX_KERNEL) continue;
    graph__fail(graph, layer, "%d pixels at an edge: must be 0..%d", sides[i],
                (int)GRAPH_MAX_KERNEL);
    return NULL;
  }
  layer->pads = pads;
  return layer;
}

Value graph_zero_padding2d(Graph *graph, Value x, Pads pads, const char *name) {
  Layer *layer = begin_edges(graph, LAYER_ZERO_PADDING2D, x, pads, name);
  if (!layer) return NO_VALUE;
  layer->shape.dim[0] += pads.top + pads.bottom;
  layer->shape.dim[1] += pads.left + pads.right;
  return graph__layer_end(graph, layer);
}

Value graph_cropping2d(Graph *graph, Value x, Pads pads, const char *name) {
  Layer *layer = begin_edges(graph, LAYER_CROPPING2D, x, pads, name);
  if (!layer) return NO_VALUE;
  Shape in = layer->shape;
  layer->shape.dim[0] -= pads.top + pads.bottom;
  layer->shape.dim[1] -= pads.left + pads.right;
  if (layer->shape.dim[0] < 1 || layer->shape.dim[1] < 1) {
    char text[SHAPE_TEXT_CAPACITY];
    return graph__fail(graph, layer,
                       "cuts off %d + %d rows and %d + %d columns of %s: nothing is left", pads.top,
                       pads.bottom, pads.left, pads.right, shape_format(in, text));
  }
  return graph__layer_end(graph, layer);
}

static Value add_pool(Graph *graph, LayerKind kind, Value x, const PoolDesc *desc,
                      const char *name) {
  Layer *layer = graph__layer_begin(graph, kind, name, &x, 1);
  if (!layer || !graph__input_is_image(graph, layer)) return NO_VALUE;
  PoolDesc d = *desc;
  if (d.size_w == 0) d.size_w = d.size_h;
  if (d.stride_h == 0) {
    d.stride_h = d.size_h;
    if (d.stride_w == 0) d.stride_w = d.size_w;
  }
  if (d.stride_w == 0) d.stride_w = d.stride_h;
  layer->pool = d;
  Window window = {d.size_h, d.size_w, d.stride_h, d.stride_w, 1, d.padding};
  if (!graph__apply_window(graph, layer, window)) return NO_VALUE;
  return graph__layer_end(graph, layer);
}

Value graph_max_pooling2d(Graph *graph, Value x, const PoolDesc *desc, const char *name) {
  return add_pool(graph, LAYER_MAX_POOLING2D, x, desc, name);
}

Value graph_average_pooling2d(Graph *graph, Value x, const PoolDesc *desc, const char *name) {
  return add_pool(graph, LAYER_AVERAGE_POOLING2D, x, desc, name);
}

Value graph_global_average_pooling2d(Graph *graph, Value x, bool keep_dims, const char *name) {
  Layer *layer = graph__layer_begin(graph, LAYER_GLOBAL_AVERAGE_POOLING2D, name, &x, 1);
  if (!layer || !graph__input_is_image(graph, layer)) return NO_VALUE;
  int64_t channels = shape_channels(graph__input_shape(graph, layer));
  layer->keep_dims = keep_dims;
  layer->shape = keep_dims ? SHAPE(1, 1, channels) : SHAPE(channels);
  return graph__layer_end(graph, layer);
}

// --- shape changes -------------------------------------------------------------------------------

Value graph_reshape(Graph *graph, Value x, Shape shape, const char *name) {
  Layer *layer = graph__layer_begin(graph, LAYER_RESHAPE, name, &x, 1);
  if (!layer) return NO_VALUE;
  Shape in = graph__input_shape(graph, layer);
  layer->shape = shape;
  if (graph__layer_end(graph, layer) == NO_VALUE) return NO_VALUE;
  if (shape_count(in) != shape_count(shape) || (shape.rank != 1 && shape.rank != 3)) {
    char from[SHAPE_TEXT_CAPACITY], to[SHAPE_TEXT_CAPACITY];
    return graph__fail(graph, layer,
                       "from %s to %s: needs equally many elements, as (H, W, C) or (features,)",
                       shape_format(in, from), shape_format(shape, to));
  }
  return (Value)(layer - graph->layers);
}

Value graph_flatten(Graph *graph, Value x, const char *name) {
  Layer *layer = graph__layer_begin(graph, LAYER_FLATTEN, name, &x, 1);
  if (!layer) return NO_VALUE;
  layer->shape = SHAPE(shape_count(graph__input_shape(graph, layer)));
  return graph__layer_end(graph, layer);
}
