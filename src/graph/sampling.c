// Strides and pads, however a graph spells them, as places on the image. See sampling.h.
//
// The outputs of a layer look at the image every `stride` pixels, the first at `start`: the middle
// of what its window covers, pads included. A layer of several inputs has the mean of theirs, so
// that a branch that is off shows behind it.
#include "graph/sampling.h"

#include <math.h>

#include "base/memory.h"

enum { AXES = 2 };

typedef struct Axis {
  double stride, start; // pixels
} Axis;

typedef struct Places {
  Axis axes[AXES];
  double padding; // pixels that the layer just added
  double pooled;  // of them that pools took for pixels of the image, where SAME leaves them out
  bool taken;     // by a layer that was compared
} Places;

typedef struct WindowOfAxis {
  int size, stride, before; // before: pixels that are padded
} WindowOfAxis;

static void look_through(Axis *axis, const WindowOfAxis *window) {
  axis->start += axis->stride * ((window->size - 1) / 2.0 - window->before);
  axis->stride *= window->stride;
}

static void look_through_layer(Places *places, const Layer *layer) {
  const Conv2dDesc *conv = &layer->conv2d;
  const PoolDesc *pool = &layer->pool;
  const Pads *pads = &layer->pads;
  WindowOfAxis windows[AXES] = {{1, 1, 0}, {1, 1, 0}};
  switch (layer->kind) {
  case LAYER_CONV2D:
  case LAYER_DEPTHWISE_CONV2D:
  case LAYER_SEPARABLE_CONV2D:
    windows[0] =
        (WindowOfAxis){(conv->kernel_h - 1) * conv->dilation + 1, conv->stride_h, pads->top};
    windows[1] =
        (WindowOfAxis){(conv->kernel_w - 1) * conv->dilation + 1, conv->stride_w, pads->left};
    break;
  case LAYER_MAX_POOLING2D:
  case LAYER_AVERAGE_POOLING2D:
    places->pooled += places->padding;
    windows[0] = (WindowOfAxis){pool->size_h, pool->stride_h, pads->top};
    windows[1] = (WindowOfAxis){pool->size_w, pool->stride_w, pads->left};
    break;
  case LAYER_ZERO_PADDING2D:
    windows[0].before = pads->top;
    windows[1].before = pads->left;
    break;
  case LAYER_CROPPING2D:
    windows[0].before = -pads->top;
    windows[1].before = -pads->left;
    break;
  case LAYER_GLOBAL_AVERAGE_POOLING2D:
    *places = (Places){0};
    return;
  default:
    break;
  }
  bool pads_only = layer->kind == LAYER_ZERO_PADDING2D;
  places->padding = pads_only ? pads->top + pads->bottom + pads->left + pads->right : 0;
  for (int a = 0; a < AXES; a++) look_through(&places->axes[a], &windows[a]);
}

static void look_through_inputs(Places *out, const Layer *layer, const Places *places) {
  int count = 0;
  for (int k = 0; k < layer->input_count; k++) {
    const Places *from = &places[layer->inputs[k]];
    if (from->axes[0].stride == 0) continue;
    count++;
    out->padding += from->padding;
    out->pooled += from->pooled;
    for (int a = 0; a < AXES; a++) {
      out->axes[a].stride += from->axes[a].stride;
      out->axes[a].start += from->axes[a].start;
    }
  }
  if (count == 0) return;
  out->pooled /= count;
  for (int a = 0; a < AXES; a++) {
    out->axes[a].stride /= count;
    out->axes[a].start /= count;
  }
}

// One for each layer; owned by the caller.
static Status find_places(Places **out, const Graph *graph) {
  TRY(memory_alloc(out, (size_t)graph->layer_count, sizeof **out));
  for (int i = 0; i < graph->layer_count; i++) {
    const Layer *layer = &graph->layers[i];
    Places *places = &(*out)[i];
    if (layer->input_count == 0) *places = (Places){.axes = {{1, 0}, {1, 0}}};
    look_through_inputs(places, layer, *out);
    look_through_layer(places, layer);
  }
  return STATUS_OK;
}

static bool is_convolution(const Layer *layer) {
  return layer->kind == LAYER_CONV2D || layer->kind == LAYER_DEPTHWISE_CONV2D ||
         layer->kind == LAYER_SEPARABLE_CONV2D;
}

static bool same_kernels(const Graph *graph, const Layer *layer, const Graph *other,
                         const Layer *partner) {
  if (partner->kind != layer->kind || partner->parameter_count != layer->parameter_count ||
      !shape_equal(partner->shape, layer->shape))
    return false;
  for (int i = 0; i < layer->parameter_count; i++)
    if (!shape_equal(graph->parameters[layer->parameters[i]].shape,
                     other->parameters[partner->parameters[i]].shape))
      return false;
  return true;
}

static bool same_places(const Places *a, const Places *b) {
  static const double close = 1e-6; // of pixels: means of three do not come out even
  bool same = fabs(a->pooled - b->pooled) < close;
  for (int i = 0; i < AXES; i++)
    same = same && fabs(a->axes[i].stride - b->axes[i].stride) < close &&
           fabs(a->axes[i].start - b->axes[i].start) < close;
  return same;
}

Status graph_find_unlike(const Layer **out, const Graph *graph, int submodel, const Graph *other) {
  Status status = STATUS_OK;
  Places *places = NULL, *others = NULL;
  *out = NULL;
  GUARD(find_places(&places, graph));
  GUARD(find_places(&others, other));
  for (int i = 0; i < graph->layer_count && !*out; i++) {
    const Layer *layer = &graph->layers[i];
    if (layer->submodel != submodel || !is_convolution(layer)) continue;
    int k = 0;
    while (k < other->layer_count &&
           (others[k].taken || !same_kernels(graph, layer, other, &other->layers[k]) ||
            !same_places(&places[i], &others[k])))
      k++;
    if (k == other->layer_count)
      *out = layer;
    else
      others[k].taken = true;
  }
out:
  memory_free(others);
  memory_free(places);
  return status;
}
