// Weights and momentum from a file into the parameters of a graph.
//
// Layers find their partner by name where the file knows every name of the graph, else kind by kind
// in order: Keras numbers its default names anew in every process (`batch_normalization_93`), while
// the order of the layers of one kind is the network's. Shapes must agree either way.
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "keras/keras_internal.h"

typedef struct Match {
  const KerasFile *file;
  const Graph *graph;
  float *const *values;
  int *layers; // of the graph, with parameters, in Keras' order
  int layer_count;
  const SourceLayer **partners; // of each of `layers`; NULL: none
  bool *used;                   // each of the source's layers
} Match;

static bool in_head(const Match *match, int index) {
  return match->graph->layers[match->layers[index]].submodel < 0;
}

// A graph without nested models has no head to leave alone.
static bool has_backbone(const Graph *graph) {
  return graph->submodel_count > 0;
}

static int find_by_name(const Match *match, const char *name) {
  const Source *source = match->file->source;
  for (int i = 0; i < source->count; i++)
    if (!match->used[i] && strcmp(source->layers[i].name, name) == 0) return i;
  return -1;
}

// The last layer of a kind that is not yet used, -1 for none.
static int find_last(const Match *match, LayerKind kind) {
  const Source *source = match->file->source;
  for (int i = source->count; i-- > 0;)
    if (!match->used[i] && source->layers[i].kind == kind) return i;
  return -1;
}

static void pair(Match *match, int index, int source_layer) {
  match->partners[index] = &match->file->source->layers[source_layer];
  match->used[source_layer] = true;
}

// Pairs all layers but the optional ones by name. False, with nothing paired, where one is unknown
// or a layer of another kind.
static bool pair_by_name(Match *match, bool head_is_optional) {
  const Source *source = match->file->source;
  bool complete = true;
  for (int i = 0; i < match->layer_count && complete; i++) {
    const Layer *layer = &match->graph->layers[match->layers[i]];
    int found = find_by_name(match, layer->name);
    bool fits = found >= 0 && source->layers[found].kind == layer->kind;
    if (fits) pair(match, i, found);
    complete = fits || (head_is_optional && in_head(match, i));
  }
  // A head of another name may still be of the same classes.
  for (int i = match->layer_count; complete && i-- > 0;) {
    int last =
        match->partners[i] ? -1 : find_last(match, match->graph->layers[match->layers[i]].kind);
    if (last >= 0) pair(match, i, last);
  }
  if (complete) return true;
  memset(match->used, 0, (size_t)source->count * sizeof *match->used);
  memset(match->partners, 0, (size_t)match->layer_count * sizeof *match->partners);
  return false;
}

// Pairs the n-th layer of each kind with the n-th in the file.
static void pair_by_order(Match *match) {
  const Source *source = match->file->source;
  int next[LAYER_KIND_COUNT] = {0};
  for (int i = 0; i < match->layer_count; i++) {
    LayerKind kind = match->graph->layers[match->layers[i]].kind;
    while (next[kind] < source->count && source->layers[next[kind]].kind != kind) next[kind]++;
    if (next[kind] < source->count) pair(match, i, next[kind]++);
  }
}

static const Parameter *parameter_of(const Match *match, int index, int number) {
  return &match->graph->parameters[match->graph->layers[match->layers[index]].parameters[number]];
}

// The array of a layer's n-th parameter. Keras' order, but by role where the file tells roles:
// a BatchNormalization without scale must not take a gamma for its beta.
static const SourceArray *array_of(const SourceLayer *layer, const Parameter *parameter,
                                   int number) {
  if (number >= layer->array_count) return NULL;
  const SourceArray *array = &layer->arrays[number];
  if (!array->role) return array;
  const char *role = strrchr(parameter->path, '/') + 1;
  size_t length = strcspn(array->role, ":");
  // Keras 3 calls the depthwise kernel "kernel".
  bool both_kernels = parameter->role == PARAMETER_KERNEL && length >= 6 &&
                      strncmp(array->role + length - 6, "kernel", 6) == 0;
  bool same = strlen(role) == length && strncmp(array->role, role, length) == 0;
  return same || both_kernels ? array : NULL;
}

static bool layer_fits(const Match *match, int index) {
  const Layer *layer = &match->graph->layers[match->layers[index]];
  const SourceLayer *partner = match->partners[index];
  if (!partner || partner->array_count != layer->parameter_count) return false;
  for (int i = 0; i < layer->parameter_count; i++) {
    const Parameter *parameter = parameter_of(match, index, i);
    const SourceArray *array = array_of(partner, parameter, i);
    if (!array || !shape_equal(array->shape, parameter->shape)) return false;
  }
  return true;
}

static const char CURE[] = "the file holds another network or another width of it; set [model] "
                           "backbone to the one it was made for";

// Says which weight of a layer that does not fit is the first wrong one.
static Status explain_misfit(const Match *match, int index) {
  const Layer *layer = &match->graph->layers[match->layers[index]];
  const SourceLayer *partner = match->partners[index];
  const char *name = h5_name(match->file->h5);
  char wanted[SHAPE_TEXT_CAPACITY], held[SHAPE_TEXT_CAPACITY];
  if (!partner)
    return status_set(STATUS_DATA,
                      "%s: has no weights for layer %s (%s), the first without a partner: %s", name,
                      layer->name, layer_kind_name(layer->kind), CURE);
  for (int i = 0; i < layer->parameter_count; i++) {
    const Parameter *parameter = parameter_of(match, index, i);
    const SourceArray *array = array_of(partner, parameter, i);
    if (array && shape_equal(array->shape, parameter->shape)) continue;
    if (!array)
      return status_set(STATUS_DATA, "%s: layer %s has no weight for %s of shape %s: %s", name,
                        partner->name, parameter->path, shape_format(parameter->shape, wanted),
                        CURE);
    return status_set(STATUS_DATA, "%s: %s has shape %s, but %s of the model has %s: %s", name,
                      array->path, shape_format(array->shape, held), parameter->path,
                      shape_format(parameter->shape, wanted), CURE);
  }
  return status_set(STATUS_DATA, "%s: layer %s has %d weights, but %s of the model has %d: %s",
                    name, partner->name, partner->array_count, layer->name, layer->parameter_count,
                    CURE);
}

// Where the values of a parameter stand: a kernel that the graph standardises is taken as it was
// before, where the file keeps that too. `*out` is owned.
static Status path_of(char **out, const Match *match, const SourceLayer *partner, int parameter,
                      const SourceArray *array) {
  if (graph_kernel_is_standardized(match->graph, parameter) &&
      keras__standardize_epsilon(match->file, partner->name) > 0)
    return memory_print_string(out, KERAS_RAW_GROUP "/%s/kernel", partner->name);
  return memory_copy_string(out, array->path);
}

static Status read_layer(const Match *match, int index) {
  const Layer *layer = &match->graph->layers[match->layers[index]];
  for (int i = 0; i < layer->parameter_count; i++) {
    const Parameter *parameter = parameter_of(match, index, i);
    const SourceArray *array = array_of(match->partners[index], parameter, i);
    float *values = match->values[layer->parameters[i]];
    int64_t count = shape_count(parameter->shape);
    char *path;
    TRY(path_of(&path, match, match->partners[index], layer->parameters[i], array));
    Status status = keras__read_floats(values, match->file, path, count);
    memory_free(path);
    TRY(status);
    for (int64_t j = 0; j < count; j++)
      if (!isfinite(values[j]))
        return status_set(STATUS_DATA,
                          "%s: %s holds %g at element %lld: it is damaged, or its "
                          "training had diverged",
                          h5_name(match->file->h5), array->path, (double)values[j], (long long)j);
  }
  return STATUS_OK;
}

// A layer of the file that the graph has no place for, NULL for none. Fine are those that no
// backbone of ours has (Normalization) and, for a backbone, those at the end: the head it was
// trained with.
static const SourceLayer *find_extra(const Match *match, bool head_is_optional) {
  const Source *source = match->file->source;
  for (int i = 0; i < source->count; i++) {
    const SourceLayer *layer = &source->layers[i];
    bool is_head = layer->kind == LAYER_DENSE || layer->kind == LAYER_CONV2D;
    if (match->used[i] || layer->array_count == 0 || layer->kind == LAYER_NORMALIZATION) continue;
    if (!head_is_optional || !is_head) return layer;
  }
  return NULL;
}

static Status explain_extra(const Match *match, const SourceLayer *extra) {
  char text[SHAPE_TEXT_CAPACITY];
  return status_set(STATUS_DATA,
                    "%s: %s of shape %s, the first that the model has no place for: %s",
                    h5_name(match->file->h5), extra->arrays[0].path,
                    shape_format(extra->arrays[0].shape, text), CURE);
}

// The first layer of the graph without a partner of its shapes, -1 for none. The head's may lack
// one where it is optional, which `*head_fits` tells.
static int find_misfit(bool *head_fits, const Match *match, bool head_is_optional) {
  *head_fits = true;
  for (int i = 0; i < match->layer_count; i++) {
    if (layer_fits(match, i)) continue;
    if (!head_is_optional || !in_head(match, i)) return i;
    *head_fits = false;
  }
  return -1;
}

// Layers of the head are taken whole or left whole.
static Status read_layers(KerasFit *fit, Match *match, bool head_is_optional) {
  bool head_fits;
  int misfit = find_misfit(&head_fits, match, head_is_optional);
  if (misfit >= 0) return explain_misfit(match, misfit);
  const SourceLayer *extra = find_extra(match, head_is_optional);
  if (extra) return explain_extra(match, extra);
  *fit = (KerasFit){.head_loaded = head_fits};
  for (int i = 0; i < match->layer_count; i++) {
    int parameters = match->graph->layers[match->layers[i]].parameter_count;
    if (!head_fits && in_head(match, i)) {
      fit->left += parameters;
      for (int j = 0; j < match->file->source->count; j++)
        if (&match->file->source->layers[j] == match->partners[i]) match->used[j] = false;
      continue;
    }
    TRY(read_layer(match, i));
    fit->loaded += parameters;
  }
  for (int i = 0; i < match->file->source->count; i++)
    if (!match->used[i]) fit->unused += match->file->source->layers[i].array_count;
  return STATUS_OK;
}

static Status begin_match(Match *match, bool head_is_optional) {
  TRY(keras__weighted_layers(&match->layers, &match->layer_count, match->graph));
  TRY(memory_alloc(&match->partners, (size_t)match->layer_count, sizeof *match->partners));
  TRY(memory_alloc(&match->used, (size_t)match->file->source->count, sizeof *match->used));
  if (!pair_by_name(match, head_is_optional)) pair_by_order(match);
  return STATUS_OK;
}

static void end_match(Match *match) {
  memory_free(match->used);
  memory_free(match->partners);
  memory_free(match->layers);
}

Status keras_file_read_parameters(KerasFit *fit, const KerasFile *file, const Graph *graph,
                                  KerasScope scope, float *const *values) {
  Match match = {.file = file, .graph = graph, .values = values};
  bool head_is_optional = scope == KERAS_SCOPE_BACKBONE && has_backbone(graph);
  *fit = (KerasFit){0};
  Status status = begin_match(&match, head_is_optional);
  if (status == STATUS_OK) status = read_layers(fit, &match, head_is_optional);
  end_match(&match);
  return status;
}

bool keras_file_fits(const KerasFile *file, const Graph *graph) {
  Match match = {.file = file, .graph = graph};
  bool head_is_optional = has_backbone(graph), head_fits;
  bool fits = begin_match(&match, head_is_optional) == STATUS_OK &&
              find_misfit(&head_fits, &match, head_is_optional) < 0 &&
              !find_extra(&match, head_is_optional);
  end_match(&match);
  return fits;
}

// --- momentum ------------------------------------------------------------------------------------

// Whether the file's optimizer is SGD; others keep other things under similar names.
static Status is_sgd(bool *out, const KerasFile *file) {
  char *text;
  *out = false;
  if (!h5_has_attribute(file->h5, "", "training_config")) return STATUS_OK;
  TRY(h5_read_string(&text, file->h5, "", "training_config"));
  json_t *config = json_loads(text, 0, NULL);
  memory_free(text);
  const char *name =
      json_string_value(json_object_get(json_object_get(config, "optimizer_config"), "class_name"));
  *out = name && (strcmp(name, "SGD") == 0 || strcmp(name, "Custom>SGD") == 0);
  json_decref(config);
  return STATUS_OK;
}

static bool is_momentum_name(const char *name) {
  static const char suffix[] = "_momentum"; // Keras 3
  size_t length = strlen(name);
  if (strncmp(name, "SGD/m/", 6) == 0) return true; // Keras 2
  if (strstr(name, "/momentum:0")) return true;     // Keras 2's first optimizers
  return length > sizeof suffix && strcmp(name + length - (sizeof suffix - 1), suffix) == 0;
}

// The parameters that are trained, in the order of Keras' trainable variables.
static Status trained_parameters(int **out, int *count, const Graph *graph) {
  int *layers;
  int layer_count;
  *count = 0;
  TRY(keras__weighted_layers(&layers, &layer_count, graph));
  Status status = memory_alloc(out, (size_t)graph->parameter_count, sizeof **out);
  for (int i = 0; i < layer_count && status == STATUS_OK; i++)
    for (int j = 0; j < graph->layers[layers[i]].parameter_count; j++) {
      int parameter = graph->layers[layers[i]].parameters[j];
      if (graph_parameter_is_trained(graph, parameter)) (*out)[(*count)++] = parameter;
    }
  memory_free(layers);
  return status;
}

static Status read_one_momentum(const KerasFile *file, const char *name, const Parameter *parameter,
                                float *values) {
  char *path;
  DType dtype;
  Shape shape;
  TRY(memory_print_string(&path, "optimizer_weights/%s", name));
  Status status = h5_array_info(&dtype, &shape, file->h5, path);
  if (status == STATUS_OK && !shape_equal(shape, parameter->shape)) {
    char held[SHAPE_TEXT_CAPACITY], wanted[SHAPE_TEXT_CAPACITY];
    status = status_set(STATUS_DATA, "%s: %s has shape %s, but %s of the model has %s",
                        h5_name(file->h5), path, shape_format(shape, held), parameter->path,
                        shape_format(parameter->shape, wanted));
  }
  if (status == STATUS_OK)
    status = keras__read_floats(values, file, path, shape_count(parameter->shape));
  memory_free(path);
  return status;
}

Status keras_file_read_momentum(bool *found, const KerasFile *file, const Graph *graph,
                                float *const *momentum) {
  Status status = STATUS_OK;
  H5Strings names = {0};
  int *parameters = NULL;
  int count = 0, held = 0;
  bool sgd;
  *found = false;
  GUARD(is_sgd(&sgd, file));
  if (!sgd || h5_kind(file->h5, "optimizer_weights") != H5_KIND_GROUP) goto out;
  GUARD(h5_read_strings(&names, file->h5, "optimizer_weights", "weight_names"));
  for (int64_t i = 0; i < names.count; i++) held += is_momentum_name(names.items[i]);
  if (held == 0) goto out;
  GUARD(trained_parameters(&parameters, &count, graph));
  if (held != count) {
    status =
        status_set(STATUS_DATA,
                   "%s: keeps the momentum of %d weights, but %d are trained: another network, "
                   "or another part of it is frozen; go on with the [model] that it was saved "
                   "with, or begin anew with --resume=none or in another run folder",
                   h5_name(file->h5), held, count);
    goto out;
  }
  int next = 0;
  for (int64_t i = 0; i < names.count; i++) {
    if (!is_momentum_name(names.items[i])) continue;
    int parameter = parameters[next++];
    GUARD(read_one_momentum(file, names.items[i], &graph->parameters[parameter],
                            momentum[parameter]));
  }
  *found = true;
out:
  memory_free(parameters);
  h5_strings_free(&names);
  return status;
}

// --- weights behind an average -------------------------------------------------------------------

Status keras_file_read_unaveraged(const KerasFile *file, const Graph *graph, float *const *values) {
  if (h5_kind(file->h5, KERAS_UNAVERAGED_GROUP) != H5_KIND_GROUP) return STATUS_OK;
  for (int i = 0; i < graph->parameter_count; i++) {
    const Parameter *p = &graph->parameters[i];
    if (!graph_parameter_is_trained(graph, i)) continue;
    char *path;
    TRY(memory_print_string(&path, KERAS_UNAVERAGED_GROUP "/%s", p->path));
    Status status = keras__read_floats(values[i], file, path, shape_count(p->shape));
    memory_free(path);
    TRY(status);
  }
  return STATUS_OK;
}
