// A graph as the layers that Keras 2 and Keras 3 both have, in Keras' own order. save.c writes the
// configuration and the weights from it, load.c orders weights by it.
//
// What only one generation knows is spelled with plain layers: hard sigmoid is Rescaling(1, 3),
// ReLU(6), Rescaling(1/6), and hard swish multiplies by that; parse.c recognises both. Keras loads
// weights by the order of a model's layers, and it sorts them by distance from the output
// (`map_graph_network` in both generations), so the same sort is done here.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "keras/keras_internal.h"

typedef struct NetBuilder {
  const Graph *graph;
  KerasNet *net;
  int *node_of; // the node whose output is that of a graph layer; -1 where none yet
} NetBuilder;

static Status add_node(KerasNode **out, KerasNet *net, const char *class_name, char *name) {
  Status status =
      memory_reserve(&net->nodes, &net->capacity, (size_t)net->count + 1, sizeof *net->nodes);
  if (status != STATUS_OK) {
    memory_free(name);
    return status;
  }
  *out = &net->nodes[net->count++];
  **out = (KerasNode){.class_name = class_name, .name = name, .layer = -1, .submodel = -1};
  return STATUS_OK;
}

// One node made for the layer `index` of the graph, named after it and `suffix`. `config` is taken
// over; a config without a name gets it.
static Status add_layer_node(NetBuilder *builder, int index, const char *class_name,
                             const char *suffix, json_t *config, int input_count,
                             const int *inputs) {
  char *name = NULL;
  KerasNode *node;
  Status status = memory_print_string(&name, "%s%s", builder->graph->layers[index].name, suffix);
  if (status == STATUS_OK && (!config || json_object_set_new(config, "name", json_string(name)))) {
    memory_free(name);
    status = status_set(STATUS_OS, "no memory for the configuration of a model");
  }
  if (status == STATUS_OK) status = add_node(&node, builder->net, class_name, name);
  if (status != STATUS_OK) {
    json_decref(config);
    return status;
  }
  node->config = config;
  node->layer = index;
  node->input_count = input_count;
  memcpy(node->inputs, inputs, (size_t)input_count * sizeof *inputs);
  return STATUS_OK;
}

// Rescaling(1, 3), ReLU(6), Rescaling(1/6), named so that the last carries `suffix`.
static Status add_hard_sigmoid(NetBuilder *builder, int index, int input, const char *suffix) {
  int *last = &builder->net->count;
  TRY(add_layer_node(builder, index, "Rescaling", "_shift",
                     json_pack("{s:f, s:f}", "scale", 1.0, "offset", 3.0), 1, &input));
  TRY(add_layer_node(builder, index, "ReLU", "_relu6", json_pack("{s:f}", "max_value", 6.0), 1,
                     (int[]){*last - 1}));
  return add_layer_node(builder, index, "Rescaling", suffix,
                        json_pack("{s:f, s:f}", "scale", 1.0 / 6.0, "offset", 0.0), 1,
                        (int[]){*last - 1});
}

static Status add_activation(NetBuilder *builder, int index, int input) {
  const Layer *layer = &builder->graph->layers[index];
  switch (layer->activation) {
  case ACTIVATION_HARD_SIGMOID:
    return add_hard_sigmoid(builder, index, input, "");
  case ACTIVATION_HARD_SWISH:
    TRY(add_hard_sigmoid(builder, index, input, "_gate"));
    return add_layer_node(builder, index, "Multiply", "", json_object(), 2,
                          (int[]){input, builder->net->count - 1});
  case ACTIVATION_RELU6: // Keras 2 has no activation of this name
    return add_layer_node(builder, index, "ReLU", "", json_pack("{s:f}", "max_value", 6.0), 1,
                          &input);
  default:
    return add_layer_node(builder, index, "Activation", "", keras__layer_config(layer, layer->name),
                          1, &input);
  }
}

static Status add_layer(NetBuilder *builder, int index) {
  const Layer *layer = &builder->graph->layers[index];
  int inputs[LAYER_MAX_INPUTS];
  for (int i = 0; i < layer->input_count; i++) inputs[i] = builder->node_of[layer->inputs[i]];
  if (layer->kind == LAYER_ACTIVATION)
    TRY(add_activation(builder, index, inputs[0]));
  else
    // Per-channel statistics are constants of the graph: Rescaling carries them in its config.
    TRY(add_layer_node(builder, index,
                       layer->kind == LAYER_NORMALIZATION ? "Rescaling"
                                                          : layer_kind_name(layer->kind),
                       "", keras__layer_config(layer, layer->name), layer->input_count, inputs));
  builder->node_of[index] = builder->net->count - 1;
  return STATUS_OK;
}

// The outer model sees a nested one as a single layer.
static Status add_nested(NetBuilder *builder, int submodel) {
  const Submodel *nested = &builder->graph->submodels[submodel];
  char *name;
  KerasNode *node;
  TRY(memory_copy_string(&name, nested->name));
  TRY(add_node(&node, builder->net, "Functional", name));
  node->submodel = submodel;
  node->input_count = 1;
  node->inputs[0] = builder->node_of[nested->input];
  builder->node_of[nested->output] = builder->net->count - 1;
  return STATUS_OK;
}

// A nested model begins with an InputLayer of its own.
static Status add_nested_input(NetBuilder *builder, int submodel) {
  const Submodel *nested = &builder->graph->submodels[submodel];
  Layer input = {.kind = LAYER_INPUT, .shape = builder->graph->layers[nested->input].shape};
  char *name;
  KerasNode *node;
  TRY(memory_print_string(&name, "%s_input", nested->name));
  TRY(add_node(&node, builder->net, "InputLayer", name));
  node->config = keras__layer_config(&input, name);
  if (!node->config) return status_set(STATUS_OS, "no memory for the configuration of a model");
  builder->node_of[nested->input] = builder->net->count - 1;
  return STATUS_OK;
}

static Status add_all(NetBuilder *builder, int submodel) {
  const Graph *graph = builder->graph;
  if (submodel >= 0) TRY(add_nested_input(builder, submodel));
  for (int i = 0; i < graph->layer_count; i++) {
    int owner = graph->layers[i].submodel;
    if (owner == submodel)
      TRY(add_layer(builder, i));
    else if (submodel < 0 && graph->submodels[owner].output == i)
      TRY(add_nested(builder, owner));
  }
  Value output = submodel < 0 ? graph->output : graph->submodels[submodel].output;
  builder->net->output = builder->node_of[output];
  return STATUS_OK;
}

static bool is_chain(const KerasNet *net) {
  for (int i = 1; i < net->count; i++)
    if (net->nodes[i].input_count != 1 || net->nodes[i].inputs[0] != i - 1) return false;
  return net->output == net->count - 1;
}

typedef struct SortKey {
  int node, depth, visit;
} SortKey;

static int compare_keys(const void *a, const void *b) {
  const SortKey *x = a, *y = b;
  if (x->depth != y->depth) return x->depth > y->depth ? -1 : 1;
  return (x->visit > y->visit) - (x->visit < y->visit);
}

typedef struct Call {
  int node, depth;
} Call;

// Numbers the nodes as Keras' walk from the output meets them: depth first, inputs in order.
// `*deepest` is how many calls of its recursion are open at most.
static Status visit_nodes(SortKey *keys, int *deepest, const KerasNet *net) {
  Call *stack;
  int top = 0, visits = 0;
  TRY(memory_alloc(&stack, (size_t)net->count * LAYER_MAX_INPUTS + 1, sizeof *stack));
  *deepest = 0;
  for (int i = 0; i < net->count; i++) keys[i] = (SortKey){.node = i, .visit = -1};
  stack[top++] = (Call){net->output, 1};
  while (top > 0) {
    Call call = stack[--top];
    const KerasNode *node = &net->nodes[call.node];
    if (keys[call.node].visit >= 0) continue;
    keys[call.node].visit = visits++;
    if (*deepest < call.depth) *deepest = call.depth;
    for (int i = node->input_count; i-- > 0;)
      stack[top++] = (Call){node->inputs[i], call.depth + 1};
  }
  memory_free(stack);
  for (int i = 0; i < net->count; i++)
    if (keys[i].visit < 0)
      return status_set(STATUS_DATA,
                        "layer %s does not lead to the model's output: Keras would drop it",
                        net->nodes[i].name);
  return STATUS_OK;
}

// A walk that goes down the shortcut of a residual block first has one call open for each block,
// not for each layer. A sum is the same either way, but Keras' own models name the branch first.
static void put_shortcuts_first(KerasNet *net) {
  for (int i = 0; i < net->count; i++) {
    KerasNode *node = &net->nodes[i];
    if (strcmp(node->class_name, "Add") != 0 || node->input_count != 2) continue;
    int branch = node->inputs[0], shortcut = node->inputs[1];
    if (shortcut > branch) continue;
    node->inputs[0] = shortcut;
    node->inputs[1] = branch;
  }
}

static Status sort_nodes(KerasNet *net) {
  enum { OPEN_CALLS_MAX = 900 }; // Python allows 1000, of which some are the caller's
  int deepest;
  Status status = STATUS_OK;
  SortKey *keys = NULL;
  GUARD(memory_alloc(&keys, (size_t)net->count, sizeof *keys));
  GUARD(visit_nodes(keys, &deepest, net));
  if (deepest > OPEN_CALLS_MAX) {
    put_shortcuts_first(net);
    GUARD(visit_nodes(keys, &deepest, net));
  }
  // The longest way to the output; nodes stand before what they feed.
  for (int i = net->count; i-- > 0;)
    for (int j = 0; j < net->nodes[i].input_count; j++) {
      SortKey *input = &keys[net->nodes[i].inputs[j]];
      if (input->depth < keys[i].depth + 1) input->depth = keys[i].depth + 1;
    }
  qsort(keys, (size_t)net->count, sizeof *keys, compare_keys);
  GUARD(memory_alloc(&net->order, (size_t)net->count, sizeof *net->order));
  for (int i = 0; i < net->count; i++) net->order[i] = keys[i].node;
out:
  memory_free(keys);
  return status;
}

Status keras__net_create(KerasNet **out, const Graph *graph, int submodel) {
  Status status = STATUS_OK;
  NetBuilder builder = {.graph = graph};
  *out = NULL;
  GUARD(memory_alloc(&builder.net, 1, sizeof *builder.net));
  GUARD(memory_alloc(&builder.node_of, (size_t)graph->layer_count, sizeof *builder.node_of));
  GUARD(add_all(&builder, submodel));
  GUARD(sort_nodes(builder.net));
  builder.net->sequential = submodel < 0 && is_chain(builder.net);
  *out = builder.net;
  builder.net = NULL;
out:
  keras__net_free(builder.net);
  memory_free(builder.node_of);
  return status;
}

void keras__net_free(KerasNet *net) {
  if (!net) return;
  for (int i = 0; i < net->count; i++) {
    memory_free(net->nodes[i].name);
    json_decref(net->nodes[i].config);
  }
  memory_free(net->nodes);
  memory_free(net->order);
  memory_free(net);
}

static Status append_weighted(int *layers, int *count, const Graph *graph, int submodel) {
  KerasNet *net;
  TRY(keras__net_create(&net, graph, submodel));
  Status status = STATUS_OK;
  for (int i = 0; i < net->count && status == STATUS_OK; i++) {
    const KerasNode *node = &net->nodes[net->order[i]];
    if (node->submodel >= 0)
      status = append_weighted(layers, count, graph, node->submodel);
    else if (node->layer >= 0 && graph->layers[node->layer].parameter_count > 0)
      layers[(*count)++] = node->layer;
  }
  keras__net_free(net);
  return status;
}

Status keras__weighted_layers(int **layers, int *count, const Graph *graph) {
  *count = 0;
  TRY(memory_alloc(layers, (size_t)graph->layer_count, sizeof **layers));
  Status status = append_weighted(*layers, count, graph, -1);
  if (status != STATUS_OK) {
    memory_free(*layers);
    *layers = NULL;
  }
  return status;
}
