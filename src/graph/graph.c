// The graph itself: creating, naming, connecting and finishing. Model builders and keras/ call it.
//
// The first error sticks: `status` and `error` keep it, and every later call does nothing.
#include "graph/graph.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "graph/graph_internal.h"

// --- life and errors -----------------------------------------------------------------------------

Status graph_create(Graph **out, const char *name) {
  *out = NULL;
  if (name[0] == '\0' || strchr(name, '/'))
    return status_set(STATUS_CONFIG, "model name \"%s\": must not be empty nor contain '/'", name);
  Graph *graph;
  TRY(memory_alloc(&graph, 1, sizeof *graph));
  Status status = memory_copy_string(&graph->name, name);
  if (status != STATUS_OK) {
    memory_free(graph);
    return status;
  }
  graph->open_submodel = -1;
  graph->output = NO_VALUE;
  *out = graph;
  return STATUS_OK;
}

void graph_free(Graph *graph) {
  if (!graph) return;
  for (int i = 0; i < graph->layer_count; i++) memory_free(graph->layers[i].name);
  for (int i = 0; i < graph->parameter_count; i++) memory_free(graph->parameters[i].path);
  for (int i = 0; i < graph->submodel_count; i++) memory_free(graph->submodels[i].name);
  memory_free(graph->layers);
  memory_free(graph->parameters);
  memory_free(graph->submodels);
  memory_free(graph->error);
  memory_free(graph->name);
  memory_free(graph);
}

// Keeps the message that the failing call left in Status.
static void keep_status(Graph *graph, Status status) {
  if (status == STATUS_OK || graph->status != STATUS_OK) return;
  graph->status = status;
  char *copy = NULL; // stays NULL when even this fails; graph_finish then has the code alone
  if (memory_copy_string(&copy, status_message()) == STATUS_OK) graph->error = copy;
}

Value graph__fail(Graph *graph, const Layer *layer, const char *format, ...) {
  if (graph->status != STATUS_OK) return NO_VALUE;
  char text[1024];
  va_list args;
  va_start(args, format);
  (void)vsnprintf(text, sizeof text, format, args);
  va_end(args);
  Status status =
      layer ? status_set(STATUS_CONFIG, "model %s: layer \"%s\" (%s): %s", graph->name,
                         layer->name ? layer->name : "", layer_kind_name(layer->kind), text)
            : status_set(STATUS_CONFIG, "model %s: %s", graph->name, text);
  keep_status(graph, status);
  return NO_VALUE;
}

// --- connections ---------------------------------------------------------------------------------

static bool is_value(const Graph *graph, Value value) {
  return value >= 0 && value < graph->layer_count;
}

// A nested model sees its own layers and its input; the outer one sees a nested model's output
// only.
static bool is_visible(const Graph *graph, Value value) {
  int home = graph->layers[value].submodel;
  if (home == graph->open_submodel) return true;
  if (graph->open_submodel >= 0) return graph->submodels[graph->open_submodel].input == value;
  return home >= 0 && graph->submodels[home].output == value;
}

static bool name_is_taken(const Graph *graph, const char *name) {
  for (int i = 0; i < graph->layer_count; i++)
    if (strcmp(graph->layers[i].name, name) == 0) return true;
  for (int i = 0; i < graph->submodel_count; i++)
    if (strcmp(graph->submodels[i].name, name) == 0) return true;
  return false;
}

static bool check_name(Graph *graph, const char *name) {
  if (name[0] == '\0' || strchr(name, '/')) {
    graph__fail(graph, NULL, "layer name \"%s\": must not be empty nor contain '/'", name);
    return false;
  }
  if (name_is_taken(graph, name)) {
    graph__fail(graph, NULL, "two layers are named \"%s\": give each its own name", name);
    return false;
  }
  return true;
}

Layer *graph__layer_begin(Graph *graph, LayerKind kind, const char *name, const Value *inputs,
                          int input_count) {
  if (graph->status != STATUS_OK || !check_name(graph, name)) return NULL;
  if (graph->layer_count >= GRAPH_MAX_LAYERS) {
    graph__fail(graph, NULL, "more than %d layers", (int)GRAPH_MAX_LAYERS);
    return NULL;
  }
  Layer draft = {.kind = kind, .submodel = graph->open_submodel, .trainable = true};
  char *copy;
  Status status = memory_copy_string(&copy, name);
  if (status == STATUS_OK) {
    status = memory_reserve(&graph->layers, &graph->layer_capacity, (size_t)graph->layer_count + 1,
                            sizeof *graph->layers);
    if (status != STATUS_OK) memory_free(copy);
  }
  if (status != STATUS_OK) {
    keep_status(graph, status);
    return NULL;
  }
  draft.name = copy;
  Layer *layer = &graph->layers[graph->layer_count++];
  *layer = draft;
  if (input_count > LAYER_MAX_INPUTS) {
    graph__fail(graph, layer, "%d inputs: at most %d", input_count, (int)LAYER_MAX_INPUTS);
    return NULL;
  }
  for (int i = 0; i < input_count; i++) {
    if (!is_value(graph, inputs[i]) || inputs[i] == graph->layer_count - 1) {
      graph__fail(graph, layer, "input %d is not a layer of this graph", i);
      return NULL;
    }
    if (!is_visible(graph, inputs[i])) {
      graph__fail(graph, layer,
                  "input \"%s\" belongs to another nested model: use that model's input or output",
                  graph->layers[inputs[i]].name);
      return NULL;
    }
    layer->inputs[i] = inputs[i];
  }
  layer->input_count = input_count;
  return layer;
}

Value graph__layer_end(Graph *graph, const Layer *layer) {
  if (graph->status != STATUS_OK) return NO_VALUE;
  int64_t count = 1;
  for (int i = 0; i < layer->shape.rank; i++) {
    int64_t dim = layer->shape.dim[i];
    if (dim < 1 || dim > GRAPH_MAX_DIM || (count *= dim) > GRAPH_MAX_ELEMENTS) {
      char text[SHAPE_TEXT_CAPACITY];
      return graph__fail(graph, layer, "shape %s: dimensions must be 1..%d and fit in memory",
                         shape_format(layer->shape, text), (int)GRAPH_MAX_DIM);
    }
  }
  return (Value)(layer - graph->layers);
}

static const char *const role_names[] = {
    [PARAMETER_KERNEL] = "kernel",
    [PARAMETER_POINTWISE_KERNEL] = "pointwise_kernel",
    [PARAMETER_BIAS] = "bias",
    [PARAMETER_GAMMA] = "gamma",
    [PARAMETER_BETA] = "beta",
    [PARAMETER_MOVING_MEAN] = "moving_mean",
    [PARAMETER_MOVING_VARIANCE] = "moving_variance",
};

void graph__parameter_add(Graph *graph, Layer *layer, ParameterRole role, Shape shape,
                          Initializer initializer, double l2) {
  if (graph->status != STATUS_OK) return;
  int64_t count = 1;
  for (int i = 0; i < shape.rank; i++) {
    if (shape.dim[i] < 1 || shape.dim[i] > GRAPH_MAX_DIM ||
        (count *= shape.dim[i]) > GRAPH_MAX_ELEMENTS) {
      char text[SHAPE_TEXT_CAPACITY];
      graph__fail(graph, layer, "%s of shape %s: does not fit in memory", role_names[role],
                  shape_format(shape, text));
      return;
    }
  }
  bool depthwise = role == PARAMETER_KERNEL &&
                   (layer->kind == LAYER_DEPTHWISE_CONV2D || layer->kind == LAYER_SEPARABLE_CONV2D);
  char *path;
  Status status = memory_print_string(&path, "%s/%s", layer->name,
                                      depthwise ? "depthwise_kernel" : role_names[role]);
  if (status == STATUS_OK) {
    status = memory_reserve(&graph->parameters, &graph->parameter_capacity,
                            (size_t)graph->parameter_count + 1, sizeof *graph->parameters);
    if (status != STATUS_OK) memory_free(path);
  }
  if (status != STATUS_OK) {
    keep_status(graph, status);
    return;
  }
  graph->parameters[graph->parameter_count] = (Parameter){
      .layer = (int)(layer - graph->layers),
      .role = role,
      .path = path,
      .shape = shape,
      .initializer = initializer,
      .is_statistic = role == PARAMETER_MOVING_MEAN || role == PARAMETER_MOVING_VARIANCE,
      .decay = role == PARAMETER_KERNEL || role == PARAMETER_POINTWISE_KERNEL,
      .l2 = l2,
  };
  layer->parameters[layer->parameter_count++] = graph->parameter_count++;
}

// --- nested models -------------------------------------------------------------------------------

void graph_submodel_begin(Graph *graph, Value x, const char *name) {
  if (graph->status != STATUS_OK || !check_name(graph, name)) return;
  if (graph->open_submodel >= 0) {
    graph__fail(graph, NULL, "nested model \"%s\" begins inside \"%s\": one level only", name,
                graph->submodels[graph->open_submodel].name);
    return;
  }
  if (!is_value(graph, x) || !is_visible(graph, x)) {
    graph__fail(graph, NULL, "nested model \"%s\": its input is not a layer of the outer model",
                name);
    return;
  }
  char *copy;
  Status status = memory_copy_string(&copy, name);
  if (status == STATUS_OK) {
    status = memory_reserve(&graph->submodels, &graph->submodel_capacity,
                            (size_t)graph->submodel_count + 1, sizeof *graph->submodels);
    if (status != STATUS_OK) memory_free(copy);
  }
  if (status != STATUS_OK) {
    keep_status(graph, status);
    return;
  }
  graph->open_submodel = graph->submodel_count++;
  graph->submodels[graph->open_submodel] = (Submodel){.name = copy, .input = x, .output = NO_VALUE};
}

Value graph_submodel_end(Graph *graph, Value output) {
  if (graph->status != STATUS_OK) return NO_VALUE;
  if (graph->open_submodel < 0)
    return graph__fail(graph, NULL, "a nested model ends that never began");
  Submodel *submodel = &graph->submodels[graph->open_submodel];
  if (!is_value(graph, output) || graph->layers[output].submodel != graph->open_submodel)
    return graph__fail(graph, NULL, "nested model \"%s\": its output is not one of its layers",
                       submodel->name);
  submodel->output = output;
  graph->open_submodel = -1;
  return output;
}

// --- finishing -----------------------------------------------------------------------------------

// Every layer must lead to the output: a dangling one is a builder's slip, or a file we misread.
static void check_uses(Graph *graph) {
  for (int i = 0; i < graph->layer_count; i++) {
    Layer *layer = &graph->layers[i];
    bool used = i == graph->output;
    for (int j = i + 1; j < graph->layer_count && !used; j++)
      for (int k = 0; k < graph->layers[j].input_count; k++)
        used = used || graph->layers[j].inputs[k] == i;
    if (!used) {
      graph__fail(graph, layer, "nothing uses this layer: connect or remove it");
      return;
    }
    if (layer->kind == LAYER_ACTIVATION && layer->activation == ACTIVATION_SOFTMAX &&
        i != graph->output) {
      graph__fail(graph, layer, "softmax may only be the model's last layer");
      return;
    }
  }
}

Status graph_finish(Graph *graph, Value output) {
  if (graph->status == STATUS_OK) {
    if (graph->open_submodel >= 0)
      graph__fail(graph, NULL, "nested model \"%s\" never ends",
                  graph->submodels[graph->open_submodel].name);
    else if (!is_value(graph, output) || !is_visible(graph, output))
      graph__fail(graph, NULL, "its output is not a layer of the outer model");
    else
      graph->output = output;
  }
  if (graph->status == STATUS_OK) check_uses(graph);
  if (graph->status == STATUS_OK) return STATUS_OK;
  return status_set(graph->status, "%s", graph->error ? graph->error : "out of memory");
}

// --- questions -----------------------------------------------------------------------------------

void graph_set_trainable(Graph *graph, int submodel, bool trainable) {
  for (int i = 0; i < graph->layer_count; i++)
    if (graph->layers[i].submodel == submodel) graph->layers[i].trainable = trainable;
}

bool graph_parameter_is_trained(const Graph *graph, int parameter) {
  const Parameter *p = &graph->parameters[parameter];
  return !p->is_statistic && graph->layers[p->layer].trainable;
}

bool graph_kernel_is_standardized(const Graph *graph, int parameter) {
  const Parameter *p = &graph->parameters[parameter];
  const Layer *layer = &graph->layers[p->layer];
  return layer->kind == LAYER_CONV2D && layer->conv2d.standardize_epsilon > 0 &&
         p->role == PARAMETER_KERNEL;
}

Shape graph_shape(const Graph *graph, Value value) {
  return is_value(graph, value) ? graph->layers[value].shape : (Shape){0};
}

int64_t graph_channels(const Graph *graph, Value value) {
  return is_value(graph, value) ? shape_channels(graph->layers[value].shape) : 0;
}

int64_t graph_parameter_total(const Graph *graph, bool trained_only) {
  int64_t total = 0;
  for (int i = 0; i < graph->parameter_count; i++)
    if (!trained_only || graph_parameter_is_trained(graph, i))
      total += shape_count(graph->parameters[i].shape);
  return total;
}

double graph_mac_total(const Graph *graph) {
  double total = 0;
  for (int i = 0; i < graph->layer_count; i++) {
    const Layer *layer = &graph->layers[i];
    // A pixel of the output costs as many as its layer's kernels have elements.
    double pixels = (double)shape_count(layer->shape) / (double)shape_channels(layer->shape);
    for (int k = 0; k < layer->parameter_count; k++) {
      const Parameter *p = &graph->parameters[layer->parameters[k]];
      bool is_kernel = p->role == PARAMETER_KERNEL || p->role == PARAMETER_POINTWISE_KERNEL;
      if (is_kernel) total += pixels * (double)shape_count(p->shape);
    }
  }
  return total;
}
