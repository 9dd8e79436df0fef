// A model as an .h5 file that Keras 2 and Keras 3 open whole. train/checkpoint is the caller.
//
// Beside what Keras reads stands a group of ours, which Keras ignores: step, seed, class names, the
// caller's state, and a checksum of every array and text. docs/checkpoint-format.md describes it.
#include <string.h>

#include "base/memory.h"
#include "config/version.h"
#include "io/checksum.h"
#include "keras/keras_internal.h"

// What files say wrote them: the last Keras 2 generation, whose dialect they follow.
static const char KERAS_VERSION[] = "2.15.0";

static Status no_memory(void) {
  return status_set(STATUS_OS, "no memory for the configuration of a model");
}

// --- model_config --------------------------------------------------------------------------------
static json_t *triple(const char *name) {
  return json_pack("[s,i,i]", name, 0, 0);
}

static json_t *inbound_nodes(const KerasNet *net, const KerasNode *node) {
  if (node->input_count == 0) return json_array();
  json_t *tensors = json_array();
  for (int i = 0; i < node->input_count; i++)
    if (json_array_append_new(
            tensors, json_pack("[s,i,i,{}]", net->nodes[node->inputs[i]].name, 0, 0)) != 0) {
      json_decref(tensors);
      return NULL;
    }
  return json_pack("[o]", tensors);
}

static Status net_config(json_t **out, const Graph *graph, const KerasNet *net, const char *name);

static bool is_frozen(const Graph *graph, int submodel) {
  for (int i = 0; i < graph->layer_count; i++)
    if (graph->layers[i].submodel == submodel && graph->layers[i].trainable) return false;
  return true;
}

static Status nested_config(json_t **out, const Graph *graph, int submodel) {
  KerasNet *net;
  TRY(keras__net_create(&net, graph, submodel));
  Status status = net_config(out, graph, net, graph->submodels[submodel].name);
  keras__net_free(net);
  TRY(status);
  if (is_frozen(graph, submodel) && json_object_set_new(*out, "trainable", json_false()) != 0) {
    json_decref(*out);
    return no_memory();
  }
  return STATUS_OK;
}

static Status node_config(json_t **out, const Graph *graph, const KerasNet *net,
                          const KerasNode *node) {
  json_t *config = node->config ? json_incref(node->config) : NULL;
  if (node->submodel >= 0) TRY(nested_config(&config, graph, node->submodel));
  *out = net->sequential
             ? json_pack("{s:s, s:o}", "class_name", node->class_name, "config", config)
             : json_pack("{s:s, s:o, s:s, s:o}", "class_name", node->class_name, "config", config,
                         "name", node->name, "inbound_nodes", inbound_nodes(net, node));
  return *out ? STATUS_OK : no_memory();
}

// The "config" of a model: its layers, and for one that is no chain its ends. These are one flat
// triple each: Keras 3 turns a list of one triple into a list of one tensor.
static Status net_config(json_t **out, const Graph *graph, const KerasNet *net, const char *name) {
  Status status = STATUS_OK;
  json_t *layers = json_array();
  for (int i = 0; i < net->count; i++) {
    json_t *layer;
    GUARD(node_config(&layer, graph, net, &net->nodes[net->order[i]]));
    if (json_array_append_new(layers, layer) != 0) GUARD(no_memory());
  }
  *out = net->sequential
             ? json_pack("{s:s, s:O}", "name", name, "layers", layers)
             : json_pack("{s:s, s:b, s:O, s:o, s:o}", "name", name, "trainable", 1, "layers",
                         layers, "input_layers", triple(net->nodes[net->order[0]].name),
                         "output_layers", triple(net->nodes[net->output].name));
  if (!*out) GUARD(no_memory());
out:
  json_decref(layers);
  return status;
}

// The text of a JSON value, which is taken over; owned by the caller.
static Status dump(char **out, json_t *json) {
  if (!json) return no_memory();
  size_t size = json_dumpb(json, NULL, 0, JSON_COMPACT);
  Status status = memory_alloc(out, size + 1, 1);
  if (status == STATUS_OK) (void)json_dumpb(json, *out, size, JSON_COMPACT);
  json_decref(json);
  return status;
}

Status keras_write_config(char **json, const Graph *graph) {
  KerasNet *net;
  json_t *config = NULL;
  *json = NULL;
  TRY(keras__net_create(&net, graph, -1));
  Status status = net_config(&config, graph, net, graph->name);
  if (status == STATUS_OK)
    status = dump(json, json_pack("{s:s, s:o}", "class_name",
                                  net->sequential ? "Sequential" : "Functional", "config", config));
  keras__net_free(net);
  return status;
}

// --- training_config -----------------------------------------------------------------------------
static json_t *loss_config(const Graph *graph, const KerasTraining *training) {
  const Layer *last = &graph->layers[graph->output];
  bool is_softmax = last->kind == LAYER_ACTIVATION && last->activation == ACTIVATION_SOFTMAX;
  return json_pack("{s:s, s:{s:s, s:s, s:b, s:f, s:i}}", "class_name", "CategoricalCrossentropy",
                   "config", "reduction", "sum_over_batch_size", "name", "categorical_crossentropy",
                   "from_logits", (int)!is_softmax, "label_smoothing", training->label_smoothing,
                   "axis", -1);
}

// The options that every Keras has. Keras 3 takes learning rate and momentum only from a class of
// this name (not from Keras 2's "Custom>SGD"), and refuses the options that only Keras 2 has.
static json_t *optimizer_config(const KerasTraining *training) {
  return json_pack("{s:s, s:{s:s, s:f, s:f, s:b}}", "class_name", "SGD", "config", "name", "SGD",
                   "learning_rate", training->learning_rate, "momentum", training->momentum,
                   "nesterov", (int)training->nesterov);
}

static Status training_config(char **out, const Graph *graph, const KerasTraining *training) {
  return dump(out, json_pack("{s:o, s:[s], s:n, s:n, s:o}", "loss", loss_config(graph, training),
                             "metrics", "accuracy", "weighted_metrics", "loss_weights",
                             "optimizer_config", optimizer_config(training)));
}

// --- the file ------------------------------------------------------------------------------------
typedef struct Saver {
  const KerasModel *model;
  H5Image *image;
  const float **stored; // of each parameter, what Keras shall read; owned array
  float **standardized; // of each parameter, NULL where it is stored as it is; owned
  json_t *checksums; // path: checksum; "GROUP@NAME" for an attribute
} Saver;

static Status seal(Saver *saver, const char *key, const void *bytes, size_t size_bytes) {
  char text[CHECKSUM_TEXT_CAPACITY];
  json_t *checksum = json_string(checksum_bytes(text, bytes, size_bytes));
  return json_object_set_new(saver->checksums, key, checksum) == 0 ? STATUS_OK : no_memory();
}

static Status add_text(Saver *saver, const char *group, const char *name, const char *text) {
  char *key;
  TRY(h5_image_set_string(saver->image, group, name, text));
  TRY(memory_print_string(&key, "%s@%s", group, name));
  Status status = seal(saver, key, text, strlen(text));
  memory_free(key);
  return status;
}

static Status add_array(Saver *saver, const char *path, DType dtype, Shape shape,
                        const void *values) {
  TRY(h5_image_add_array(saver->image, path, dtype, shape, values));
  return seal(saver, path, values, (size_t)shape_count(shape) * dtype_size(dtype));
}

typedef struct ParameterList {
  int *items;
  int count;
} ParameterList;

static void append_parameters(ParameterList *list, const Graph *graph, int layer, bool trained,
                              bool others) {
  for (int i = 0; i < graph->layers[layer].parameter_count; i++) {
    int parameter = graph->layers[layer].parameters[i];
    if (graph_parameter_is_trained(graph, parameter) ? trained : others)
      list->items[list->count++] = parameter;
  }
}

// The parameters of one outer layer in Keras' order. A nested model lists those that are trained
// first, layer by layer, then all others.
static Status outer_parameters(ParameterList *list, const Graph *graph, const KerasNode *node) {
  if (node->submodel < 0) {
    append_parameters(list, graph, node->layer, true, true);
    return STATUS_OK;
  }
  KerasNet *net;
  TRY(keras__net_create(&net, graph, node->submodel));
  for (int trained = 1; trained >= 0; trained--)
    for (int i = 0; i < net->count; i++) {
      int layer = net->nodes[net->order[i]].layer;
      if (layer >= 0) append_parameters(list, graph, layer, trained, !trained);
    }
  keras__net_free(net);
  return STATUS_OK;
}

// Stores the arrays of `list` under GROUP/PREFIXname and lists the names as "weight_names", after
// `first` where it is not NULL.
static Status add_list(Saver *saver, const char *group, const char *prefix, const char *first,
                       const ParameterList *list, const float *const *values) {
  Status status = STATUS_OK;
  char **names = NULL;
  char *path = NULL;
  int64_t count = 0;
  GUARD(memory_alloc(&names, (size_t)list->count + 1, sizeof *names));
  if (first) {
    GUARD(memory_copy_string(&names[0], first));
    count++;
  }
  for (int i = 0; i < list->count; i++) {
    const Parameter *parameter = &saver->model->graph->parameters[list->items[i]];
    GUARD(memory_print_string(&names[count], "%s%s:0", prefix, parameter->path));
    count++;
    GUARD(memory_print_string(&path, "%s/%s", group, names[count - 1]));
    GUARD(add_array(saver, path, DTYPE_F32, parameter->shape, values[list->items[i]]));
    memory_free(path);
    path = NULL;
  }
  GUARD(h5_image_add_group(saver->image, group));
  GUARD(
      h5_image_set_strings(saver->image, group, "weight_names", (const char *const *)names, count));
out:
  memory_free(path);
  for (int64_t i = 0; i < count; i++) memory_free(names[i]);
  memory_free(names);
  return status;
}

// One group for each layer of the outer model, with its weights and their names.
static Status add_weights(Saver *saver, const KerasNet *net) {
  Status status = STATUS_OK;
  const Graph *graph = saver->model->graph;
  ParameterList list = {0};
  const char **names = NULL;
  char *group = NULL;
  int64_t count = 0;
  GUARD(memory_alloc(&list.items, (size_t)graph->parameter_count, sizeof *list.items));
  GUARD(memory_alloc(&names, (size_t)net->count, sizeof *names));
  for (int i = 0; i < net->count; i++) {
    const KerasNode *node = &net->nodes[net->order[i]];
    // A Sequential model does not count its InputLayer among its layers.
    if (net->sequential && node->input_count == 0) continue;
    names[count++] = node->name;
    list.count = 0;
    GUARD(outer_parameters(&list, graph, node));
    GUARD(memory_print_string(&group, "model_weights/%s", node->name));
    GUARD(add_list(saver, group, "", NULL, &list, saver->stored));
    memory_free(group);
    group = NULL;
  }
  list.count = 0;
  GUARD(add_list(saver, "model_weights/top_level_model_weights", "", NULL, &list, NULL));
  GUARD(h5_image_set_strings(saver->image, "model_weights", "layer_names", names, count));
  GUARD(h5_image_set_string(saver->image, "model_weights", "backend", "tensorflow"));
  GUARD(h5_image_set_string(saver->image, "model_weights", "keras_version", KERAS_VERSION));
out:
  memory_free(group);
  memory_free(names);
  memory_free(list.items);
  return status;
}

// The step counter and the momentum of what is trained, as Keras 2's SGD restores them.
static Status add_optimizer(Saver *saver, const KerasNet *net) {
  Status status = STATUS_OK;
  const KerasModel *model = saver->model;
  const Graph *graph = model->graph;
  ParameterList list = {0};
  GUARD(memory_alloc(&list.items, (size_t)graph->parameter_count, sizeof *list.items));
  // Keras' SGD without momentum has no such variables.
  for (int i = 0; i < net->count && model->momentum && model->training->momentum > 0; i++) {
    int start = list.count;
    GUARD(outer_parameters(&list, graph, &net->nodes[net->order[i]]));
    int kept = start;
    for (int j = start; j < list.count; j++)
      if (graph_parameter_is_trained(graph, list.items[j])) list.items[kept++] = list.items[j];
    list.count = kept;
  }
  GUARD(add_array(saver, "optimizer_weights/iteration:0", DTYPE_I64, (Shape){0}, &model->step));
  GUARD(add_list(saver, "optimizer_weights", "SGD/m/", "iteration:0", &list, model->momentum));
out:
  memory_free(list.items);
  return status;
}

// Keras has no convolution that standardises its kernel: it gets the standardised one.
static Status standardize_kernels(Saver *saver) {
  const Graph *graph = saver->model->graph;
  TRY(memory_alloc(&saver->stored, (size_t)graph->parameter_count, sizeof *saver->stored));
  TRY(memory_alloc(&saver->standardized, (size_t)graph->parameter_count,
                   sizeof *saver->standardized));
  for (int i = 0; i < graph->parameter_count; i++) {
    saver->stored[i] = saver->model->values[i];
    if (!graph_kernel_is_standardized(graph, i)) continue;
    const Parameter *p = &graph->parameters[i];
    int64_t count = shape_count(p->shape);
    TRY(memory_alloc(&saver->standardized[i], (size_t)count, sizeof **saver->standardized));
    graph_standardize_kernel(saver->standardized[i], saver->stored[i], count,
                             shape_channels(p->shape),
                             graph->layers[p->layer].conv2d.standardize_epsilon);
    saver->stored[i] = saver->standardized[i];
  }
  return STATUS_OK;
}

// The kernels as training has them; `*out` tells the epsilon of each such layer.
static Status add_raw_kernels(json_t **out, Saver *saver) {
  Status status = STATUS_OK;
  const Graph *graph = saver->model->graph;
  char *path = NULL;
  if (!(*out = json_object())) return no_memory();
  for (int i = 0; i < graph->parameter_count; i++) {
    const Parameter *p = &graph->parameters[i];
    const Layer *layer = &graph->layers[p->layer];
    if (!graph_kernel_is_standardized(graph, i)) continue;
    if (json_object_set_new(*out, layer->name, json_real(layer->conv2d.standardize_epsilon)) != 0)
      GUARD(no_memory());
    GUARD(memory_print_string(&path, KERAS_RAW_GROUP "/%s", p->path));
    GUARD(add_array(saver, path, DTYPE_F32, p->shape, saver->model->values[i]));
    memory_free(path);
    path = NULL;
  }
out:
  memory_free(path);
  return status;
}

static Status add_unaveraged(Saver *saver) {
  const KerasModel *model = saver->model;
  for (int i = 0; model->unaveraged && i < model->graph->parameter_count; i++) {
    const Parameter *p = &model->graph->parameters[i];
    if (!graph_parameter_is_trained(model->graph, i)) continue;
    char *path;
    TRY(memory_print_string(&path, KERAS_UNAVERAGED_GROUP "/%s", p->path));
    Status status = add_array(saver, path, DTYPE_F32, p->shape, model->unaveraged[i]);
    memory_free(path);
    TRY(status);
  }
  return STATUS_OK;
}

static Status class_names(json_t **out, const KerasModel *model) {
  json_t *names = json_array();
  for (int64_t i = 0; i < model->class_count; i++)
    if (json_array_append_new(names, json_string(model->class_names[i])) != 0) {
      json_decref(names);
      return status_set(STATUS_DATA, "class %lld, \"%s\": its name is no valid UTF-8; rename it",
                        (long long)i, model->class_names[i]);
    }
  *out = names;
  return STATUS_OK;
}

// The group that Keras ignores. Last, since it holds the checksums of all others.
static Status add_own(Saver *saver) {
  Status status = STATUS_OK;
  const KerasModel *model = saver->model;
  char *text = NULL, *seed = NULL;
  json_t *names = NULL, *standardized = NULL;
  char checksum[CHECKSUM_TEXT_CAPACITY];
  GUARD(h5_image_add_group(saver->image, KERAS_OWN_GROUP));
  if (model->state) GUARD(add_text(saver, KERAS_OWN_GROUP, "state", model->state));
  GUARD(class_names(&names, model));
  GUARD(add_raw_kernels(&standardized, saver));
  GUARD(add_unaveraged(saver));
  // As text, since JSON numbers are signed.
  GUARD(memory_print_string(&seed, "%llu", (unsigned long long)model->seed));
  GUARD(dump(&text, json_pack("{s:i, s:s, s:s, s:I, s:s, s:O, s:O, s:O}", "format", KERAS_FORMAT,
                              "program", "imgcls", "version", version_number(), "step",
                              (json_int_t)model->step, "seed", seed, "class_names", names,
                              "standardized", standardized, "checksums", saver->checksums)));
  GUARD(h5_image_set_string(saver->image, KERAS_OWN_GROUP, "info", text));
  GUARD(h5_image_set_string(saver->image, KERAS_OWN_GROUP, "info_xxh3",
                            checksum_bytes(checksum, text, strlen(text))));
out:
  json_decref(names);
  json_decref(standardized);
  memory_free(seed);
  memory_free(text);
  return status;
}

Status keras_save_image(uint8_t **bytes, size_t *size_bytes, const KerasModel *model) {
  Status status = STATUS_OK;
  Saver saver = {.model = model};
  KerasNet *net = NULL;
  char *text = NULL;
  *bytes = NULL;
  *size_bytes = 0;
  GUARD(keras__net_create(&net, model->graph, -1));
  GUARD(h5_image_create(&saver.image));
  if (!(saver.checksums = json_object())) GUARD(no_memory());
  GUARD(standardize_kernels(&saver));
  GUARD(h5_image_set_string(saver.image, "", "keras_version", KERAS_VERSION));
  GUARD(h5_image_set_string(saver.image, "", "backend", "tensorflow"));
  GUARD(keras_write_config(&text, model->graph));
  GUARD(add_text(&saver, "", "model_config", text));
  if (model->training) {
    memory_free(text);
    text = NULL;
    GUARD(training_config(&text, model->graph, model->training));
    GUARD(add_text(&saver, "", "training_config", text));
    GUARD(add_optimizer(&saver, net));
  }
  GUARD(add_weights(&saver, net));
  GUARD(add_own(&saver));
  GUARD(h5_image_finish(saver.image, bytes, size_bytes));
out:
  memory_free(text);
  for (int i = 0; saver.standardized && i < model->graph->parameter_count; i++)
    memory_free(saver.standardized[i]);
  memory_free(saver.standardized);
  memory_free(saver.stored);
  json_decref(saver.checksums);
  h5_image_free(saver.image);
  keras__net_free(net);
  return status;
}
