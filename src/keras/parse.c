// A model_config of Keras 2, Keras 3 or ours as a graph.
//
// Models in models become one level of submodels: what the outer model holds is a submodel, what
// that holds is laid flat into it. Hard sigmoid and hard swish, which our own files spell with
// plain layers (net.c) and Keras' MobileNetV3 with operators on tensors, are put together again.
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "keras/keras_internal.h"

enum { MAX_DEPTH = 32, MAX_NODES = 20000 };

// The layers of one model of the configuration.
typedef struct ParsedModel {
  ParsedNode *nodes;
  int count;
  int output;
  json_t *index; // name: node
} ParsedModel;

static bool is_model_class(const char *class_name) {
  return strcmp(class_name, "Functional") == 0 || strcmp(class_name, "Model") == 0 ||
         strcmp(class_name, "Sequential") == 0;
}

static Status damaged(const Parser *parser, const char *what) {
  return status_set(STATUS_DATA, "%s: its model_config is damaged: %s", h5_name(parser->file->h5),
                    what);
}

Status keras__layer_name(char **out, Parser *parser, const char *name, const char *suffix) {
  Status status = memory_print_string(out, "%s%s", name, suffix);
  // Unnested models may hold layers of one name.
  for (int i = 1; status == STATUS_OK; i++) {
    for (char *c = *out; *c; c++)
      if (*c == '/') *c = '_';
    if (!json_object_get(parser->names, *out)) break;
    memory_free(*out);
    status = memory_print_string(out, "%s%s_%d", name, suffix, i);
  }
  if (status == STATUS_OK && json_object_set_new(parser->names, *out, json_true()) != 0) {
    memory_free(*out);
    *out = NULL;
    status = status_set(STATUS_OS, "no memory for a layer's name");
  }
  return status;
}

// --- the wires between layers --------------------------------------------------------------------
static Status add_input(Parser *parser, ParsedModel *model, ParsedNode *node, const json_t *name,
                        const json_t *output_number) {
  const json_t *index =
      json_object_get(model->index, json_string_value(name) ? json_string_value(name) : "");
  if (!index || json_integer_value(output_number) != 0)
    return keras__refuse(parser, node, "is fed by \"%.100s\", which does not stand before it",
                         json_string_value(name) ? json_string_value(name) : "?");
  if (node->input_count == LAYER_MAX_INPUTS)
    return keras__refuse(parser, node, "has more than %d inputs", LAYER_MAX_INPUTS);
  int source = (int)json_integer_value(index);
  node->inputs[node->input_count++] = source;
  model->nodes[source].uses++;
  return STATUS_OK;
}

// Keras 3: tensors stand anywhere in the arguments of a call.
static Status add_tensors(Parser *parser, ParsedModel *model, ParsedNode *node, const json_t *value,
                          int depth) {
  if (depth > MAX_DEPTH) return keras__refuse(parser, node, "its inputs are nested too deep");
  for (size_t i = 0; i < json_array_size(value); i++)
    TRY(add_tensors(parser, model, node, json_array_get(value, i), depth + 1));
  if (!json_is_object(value)) return STATUS_OK;
  const char *class_name = json_string_value(json_object_get(value, "class_name"));
  const json_t *history = json_object_get(json_object_get(value, "config"), "keras_history");
  if (!class_name || strcmp(class_name, "__keras_tensor__") != 0) return STATUS_OK;
  return add_input(parser, model, node, json_array_get(history, 0), json_array_get(history, 2));
}

// Keras 2's operators on tensors: [name, call, output, options], a second tensor among the options.
static Status parse_operands(Parser *parser, ParsedModel *model, ParsedNode *node,
                             const json_t *call) {
  const json_t *second = json_object_get(json_array_get(call, 3), "y");
  TRY(add_input(parser, model, node, json_array_get(call, 0), json_array_get(call, 2)));
  if (!json_is_array(second)) return STATUS_OK;
  return add_input(parser, model, node, json_array_get(second, 0), json_array_get(second, 2));
}

static Status parse_inbound(Parser *parser, ParsedModel *model, ParsedNode *node) {
  const json_t *calls = json_object_get(node->json, "inbound_nodes");
  if (json_array_size(calls) > 1)
    return keras__refuse(parser, node,
                         "is used %zu times; layers shared between places are not "
                         "supported",
                         json_array_size(calls));
  const json_t *call = json_array_get(calls, 0);
  if (json_is_object(call))
    return add_tensors(parser, model, node, json_object_get(call, "args"), 0);
  if (json_is_string(json_array_get(call, 0))) return parse_operands(parser, model, node, call);
  for (size_t i = 0; i < json_array_size(call); i++) { // Keras 2: [name, call, output, options]
    const json_t *tensor = json_array_get(call, i);
    TRY(add_input(parser, model, node, json_array_get(tensor, 0), json_array_get(tensor, 2)));
  }
  return STATUS_OK;
}

// The layer that `input_layers` or `output_layers` names: one flat triple, or a list of one.
static Status find_end(int *out, const Parser *parser, const ParsedModel *model,
                       const json_t *config, const char *key) {
  const json_t *end = json_object_get(config, key);
  if (json_is_array(json_array_get(end, 0))) {
    if (json_array_size(end) != 1)
      return status_set(STATUS_DATA, "%s: the model has %zu %s; one is supported",
                        h5_name(parser->file->h5), json_array_size(end), key);
    end = json_array_get(end, 0);
  }
  const char *name = json_string_value(json_array_get(end, 0));
  const json_t *index = name ? json_object_get(model->index, name) : NULL;
  if (!index) return damaged(parser, "its ends are not among its layers");
  *out = (int)json_integer_value(index);
  return STATUS_OK;
}

// Fills one node, wired to the node before it in a Sequential model.
static Status parse_node(Parser *parser, ParsedModel *model, const json_t *json, bool sequential) {
  ParsedNode *node = &model->nodes[model->count];
  const json_t *config = json_object_get(json, "config");
  *node = (ParsedNode){.json = json,
                       .config = config,
                       .class_name = json_string_value(json_object_get(json, "class_name")),
                       .name = json_string_value(json_object_get(config, "name")),
                       .value = NO_VALUE};
  if (!node->class_name || !node->name || !*node->name)
    return damaged(parser, "a layer has no class or no name");
  if (!sequential) {
    TRY(parse_inbound(parser, model, node));
    TRY(keras__parse_operator(parser, node));
  } else if (model->count > 0) {
    node->inputs[node->input_count++] = model->count - 1;
    model->nodes[model->count - 1].uses++;
  }
  if (json_object_get(model->index, node->name))
    return keras__refuse(parser, node, "its name stands for two layers");
  if (json_object_set_new(model->index, node->name, json_integer(model->count)) != 0)
    return status_set(STATUS_OS, "no memory for a model's layers");
  model->count++;
  return STATUS_OK;
}

static Status parse_nodes(Parser *parser, ParsedModel *model, const json_t *json, bool sequential) {
  const json_t *config = json_object_get(json, "config");
  const json_t *layers = json_object_get(config, "layers");
  size_t count = json_array_size(layers);
  int input;
  if (count < 1 || count > MAX_NODES) return damaged(parser, "a model has no layers, or too many");
  TRY(memory_alloc(&model->nodes, count, sizeof *model->nodes));
  if (!(model->index = json_object())) return status_set(STATUS_OS, "no memory for a model");
  for (size_t i = 0; i < count; i++)
    TRY(parse_node(parser, model, json_array_get(layers, i), sequential));
  model->output = model->count - 1;
  if (!sequential) {
    TRY(find_end(&input, parser, model, config, "input_layers"));
    TRY(find_end(&model->output, parser, model, config, "output_layers"));
  }
  model->nodes[model->output].uses++;
  return STATUS_OK;
}

// --- activations that are spelled with several layers --------------------------------------------
static bool is_rescaling(const ParsedNode *node, double scale, double offset) {
  if (node->is_affine) return fabs(node->scale - scale) < 1e-12 && node->offset == offset;
  const json_t *s = json_object_get(node->config, "scale");
  const json_t *o = json_object_get(node->config, "offset");
  return strcmp(node->class_name, "Rescaling") == 0 && json_is_number(s) && json_is_number(o) &&
         fabs(json_number_value(s) - scale) < 1e-12 && json_number_value(o) == offset;
}

static bool is_relu6(const ParsedNode *node) {
  return strcmp(node->class_name, "ReLU") == 0 &&
         json_number_value(json_object_get(node->config, "max_value")) == 6 &&
         json_number_value(json_object_get(node->config, "negative_slope")) == 0 &&
         json_number_value(json_object_get(node->config, "threshold")) == 0;
}

static void find_hard_sigmoid(ParsedModel *model, ParsedNode *last) {
  if (last->input_count != 1 || !is_rescaling(last, 1.0 / 6.0, 0)) return;
  ParsedNode *middle = &model->nodes[last->inputs[0]];
  if (middle->input_count != 1 || middle->uses != 1 || !is_relu6(middle)) return;
  ParsedNode *first = &model->nodes[middle->inputs[0]];
  if (first->input_count != 1 || first->uses != 1 || !is_rescaling(first, 1, 3)) return;
  first->role = middle->role = PARSED_PART;
  last->role = PARSED_HARD_SIGMOID;
  last->origin = first->inputs[0];
}

static void find_hard_swish(ParsedModel *model, ParsedNode *node) {
  if (node->input_count != 2 || strcmp(node->class_name, "Multiply") != 0) return;
  for (int i = 0; i < 2; i++) {
    ParsedNode *gate = &model->nodes[node->inputs[i]];
    int other = node->inputs[1 - i];
    if (gate->role != PARSED_HARD_SIGMOID || gate->uses != 1 || gate->origin != other) continue;
    gate->role = PARSED_PART;
    node->role = PARSED_HARD_SWISH;
    node->origin = other;
    return;
  }
}

// --- building ------------------------------------------------------------------------------------
static Status build_model(Value *out, Parser *parser, const json_t *json, Value input, int depth);

// The shape of the outer model's input, which Keras keeps at the InputLayer, or at the first layer
// or the model where a Sequential has none.
static const json_t *input_shape(const ParsedNode *node) {
  const json_t *shape = json_object_get(node->config, "batch_input_shape");
  return shape ? shape : json_object_get(node->config, "batch_shape");
}

static Status build_input(Value *out, Parser *parser, const ParsedNode *node, const json_t *shape) {
  Shape parsed;
  char *name;
  if (parser->graph->layer_count > 0)
    return keras__refuse(parser, node, "is a second input; one is supported");
  TRY(keras__parse_shape(&parsed, parser, node, shape));
  bool is_input = strcmp(node->class_name, "InputLayer") == 0;
  TRY(keras__layer_name(&name, parser, node->name, is_input ? "" : "_input"));
  *out = graph_input(parser->graph, parsed, name);
  memory_free(name);
  return STATUS_OK;
}

static bool holds_only_identities(const json_t *json) {
  const json_t *layers = json_object_get(json_object_get(json, "config"), "layers");
  for (size_t i = 0; i < json_array_size(layers); i++) {
    const char *name = json_string_value(json_object_get(json_array_get(layers, i), "class_name"));
    if (!name || (strcmp(name, "InputLayer") != 0 && !keras__is_identity(name))) return false;
  }
  return true;
}

static Status build_nested(Value *out, Parser *parser, const ParsedNode *node, Value input,
                           int depth) {
  bool opens = !parser->in_nested && !holds_only_identities(node->json);
  char *name = NULL;
  if (node->input_count > 1) return keras__refuse(parser, node, "has several inputs");
  if (opens) {
    TRY(keras__layer_name(&name, parser, node->name, ""));
    graph_submodel_begin(parser->graph, input, name);
    memory_free(name);
    parser->in_nested = true;
  }
  TRY(build_model(out, parser, node->json, input, depth + 1));
  if (opens) {
    *out = graph_submodel_end(parser->graph, *out);
    parser->in_nested = false;
  }
  return STATUS_OK;
}

static Status build_affine(Parser *parser, ParsedNode *node, Value input) {
  RescalingDesc desc = {.count = 1, .scale = {node->scale}, .offset = {node->offset}};
  char *name;
  TRY(keras__layer_name(&name, parser, node->name, ""));
  node->value = graph_rescaling(parser->graph, input, &desc, name);
  memory_free(name);
  return STATUS_OK;
}

static Status build_node(Parser *parser, ParsedModel *model, ParsedNode *node, Value input,
                         int depth) {
  Value inputs[LAYER_MAX_INPUTS];
  for (int i = 0; i < node->input_count; i++) inputs[i] = model->nodes[node->inputs[i]].value;
  if (node->role == PARSED_HARD_SIGMOID || node->role == PARSED_HARD_SWISH) {
    char *name;
    TRY(keras__layer_name(&name, parser, node->name, ""));
    node->value = graph_activation(
        parser->graph, model->nodes[node->origin].value,
        node->role == PARSED_HARD_SWISH ? ACTIVATION_HARD_SWISH : ACTIVATION_HARD_SIGMOID, name);
    memory_free(name);
    return STATUS_OK;
  }
  if (node->is_affine) return build_affine(parser, node, inputs[0]);
  if (strcmp(node->class_name, "InputLayer") == 0) {
    node->value = input;
    return input == NO_VALUE ? build_input(&node->value, parser, node, input_shape(node))
                             : STATUS_OK;
  }
  if (node->input_count == 0) { // the first layer of a Sequential without InputLayer
    if (input == NO_VALUE) {
      const json_t *shape = input_shape(node);
      TRY(build_input(&input, parser, node, shape));
    }
    inputs[node->input_count++] = input;
  }
  if (is_model_class(node->class_name))
    return build_nested(&node->value, parser, node, inputs[0], depth);
  return keras__build_layer(&node->value, parser, node, inputs);
}

// Layers that are frozen, alone or with the model that holds them.
static void freeze(Graph *graph, int first, const json_t *config) {
  if (!json_is_false(json_object_get(config, "trainable"))) return;
  for (int i = first; i < graph->layer_count; i++) graph->layers[i].trainable = false;
}

static Status build_nodes(Parser *parser, ParsedModel *model, Value input, int depth) {
  for (int i = 0; i < model->count; i++) find_hard_sigmoid(model, &model->nodes[i]);
  for (int i = 0; i < model->count; i++) find_hard_swish(model, &model->nodes[i]);
  for (int i = 0; i < model->count; i++) {
    ParsedNode *node = &model->nodes[i];
    if (node->role == PARSED_PART) continue;
    int first = parser->graph->layer_count;
    TRY(build_node(parser, model, node, input, depth));
    freeze(parser->graph, first, node->config);
    if (parser->graph->status != STATUS_OK)
      return status_set(STATUS_DATA, "%s: %s", h5_name(parser->file->h5), parser->graph->error);
  }
  return STATUS_OK;
}

// Builds a model fed by `input`; NO_VALUE: the outer model, which has an input of its own.
static Status build_model(Value *out, Parser *parser, const json_t *json, Value input, int depth) {
  Status status = STATUS_OK;
  ParsedModel model = {0};
  const char *class_name = json_string_value(json_object_get(json, "class_name"));
  if (depth > MAX_DEPTH) return damaged(parser, "models are nested too deep");
  if (!class_name || !is_model_class(class_name))
    return status_set(STATUS_DATA,
                      "%s: a model of class %.100s; Functional and Sequential are supported",
                      h5_name(parser->file->h5), class_name ? class_name : "?");
  GUARD(parse_nodes(parser, &model, json, strcmp(class_name, "Sequential") == 0));
  GUARD(build_nodes(parser, &model, input, depth));
  *out = model.nodes[model.output].value;
out:
  memory_free(model.nodes);
  json_decref(model.index);
  return status;
}

Status keras__graph_from_config(Graph **out, const KerasFile *file, int64_t open_side) {
  Status status = STATUS_OK;
  Value output = NO_VALUE;
  Parser parser = {.file = file,
                   .is_keras3 = strncmp(file->info.keras_version, "3.", 2) == 0,
                   .open_side = open_side};
  const json_t *config = json_object_get(file->config, "config");
  const char *name = json_string_value(json_object_get(config, "name"));
  char *graph_name = NULL;
  *out = NULL;
  if (!(parser.names = json_object())) return status_set(STATUS_OS, "no memory for a model");
  GUARD(keras__layer_name(&graph_name, &parser, name && *name ? name : "model", ""));
  json_object_clear(parser.names); // a layer may share the model's name
  GUARD(graph_create(&parser.graph, graph_name));
  GUARD(build_model(&output, &parser, file->config, NO_VALUE, 0));
  freeze(parser.graph, 0, config);
  status = graph_finish(parser.graph, output);
  if (status != STATUS_OK) {
    status = status_prepend(STATUS_DATA, "%s", h5_name(file->h5));
    goto out;
  }
  *out = parser.graph;
  parser.graph = NULL;
out:
  memory_free(graph_name);
  graph_free(parser.graph);
  json_decref(parser.names);
  return status;
}

Status keras_file_graph(Graph **out, const KerasFile *file, int64_t open_side) {
  *out = NULL;
  if (file->info.kind != KERAS_FILE_MODEL)
    return status_set(STATUS_DATA,
                      "%s: holds weights only; name the backbone in the configuration and give the "
                      "file as [model] weights",
                      h5_name(file->h5));
  return keras__graph_from_config(out, file, open_side);
}
