// torch's tensors into the parameters of a graph. See torch.h.
#include "model/torch.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

// --- names ---------------------------------------------------------------------------------------

enum { MAX_CAPTURES = 5, CAPTURE_CAPACITY = 32 };

// What the names in braces stand for.
typedef struct Captures {
  int count;
  char letters[MAX_CAPTURES];
  char texts[MAX_CAPTURES][CAPTURE_CAPACITY];
} Captures;

// The length of the run of digits or of letters at the start of `text`.
static size_t run_length(const char *text) {
  size_t length = 0;
  if (isdigit((unsigned char)*text))
    while (isdigit((unsigned char)text[length])) length++;
  else
    while (islower((unsigned char)text[length])) length++;
  return length;
}

static bool match(Captures *captures, const char *pattern, const char *name) {
  captures->count = 0;
  while (*pattern) {
    if (*pattern != '{') {
      if (*pattern++ != *name++) return false;
      continue;
    }
    size_t length = run_length(name);
    if (length == 0 || length >= CAPTURE_CAPACITY || captures->count == MAX_CAPTURES) return false;
    captures->letters[captures->count] = pattern[1];
    memcpy(captures->texts[captures->count], name, length);
    captures->texts[captures->count++][length] = '\0';
    name += length;
    pattern += 3; // "{s}"
  }
  return *name == '\0';
}

static const char *text_of(const Captures *captures, char letter) {
  for (int i = 0; i < captures->count; i++)
    if (captures->letters[i] == letter) return captures->texts[i];
  return "";
}

// a, b, ..., z, aa, ... from 0.
static int place_of_letters(const char *letters) {
  int place = 0;
  for (; *letters; letters++) place = 26 * place + (*letters - 'a' + 1);
  return place - 1;
}

// The entry of this number in a list that NULL ends; "" behind its end.
static const char *entry_of(const char *const *list, int number) {
  for (int i = 0; list && list[i]; i++)
    if (i == number) return list[i];
  return "";
}

static void expand(char text[TORCH_NAME_CAPACITY], const Captures *captures, const char *pattern,
                   const char *const *blocks) {
  size_t used = 0;
  for (text[0] = '\0'; *pattern && used < TORCH_NAME_CAPACITY; used = strlen(text)) {
    size_t room = TORCH_NAME_CAPACITY - used;
    if (*pattern != '{') {
      size_t length = strcspn(pattern, "{");
      (void)snprintf(text + used, room, "%.*s", (int)length, pattern);
      pattern += length;
      continue;
    }
    const char *value = text_of(captures, pattern[1]);
    switch (pattern[2]) {
    case '#':
      (void)snprintf(text + used, room, "%d", place_of_letters(value));
      break;
    case '@':
      (void)snprintf(text + used, room, "%s", entry_of(blocks, atoi(value)));
      break;
    case '+':
    case '-':
      (void)snprintf(text + used, room, "%d", atoi(value) + atoi(pattern + 2));
      break;
    default:
      (void)snprintf(text + used, room, "%s", value);
    }
    pattern += strcspn(pattern, "}") + 1;
  }
}

static bool has_layer(const Graph *graph, const char *name) {
  for (int i = 0; i < graph->layer_count; i++)
    if (strcmp(graph->layers[i].name, name) == 0) return true;
  return false;
}

static bool stands_beside(const Graph *graph, const Captures *captures, const TorchName *row) {
  char name[TORCH_NAME_CAPACITY];
  for (int i = 0; i < 2 && row->beside[i]; i++) {
    expand(name, captures, row->beside[i], NULL);
    if (!has_layer(graph, name)) return false;
  }
  return true;
}

const char *torch_module(char text[TORCH_NAME_CAPACITY], const Graph *graph,
                         const TorchNames *names, const Layer *layer) {
  Captures captures;
  text[0] = '\0';
  for (const TorchName *row = names->rows; row->layer; row++) {
    if (!match(&captures, row->layer, layer->name) || !stands_beside(graph, &captures, row))
      continue;
    expand(text, &captures, row->module, names->blocks);
    break;
  }
  return text;
}

// --- layouts -------------------------------------------------------------------------------------

// How a layer's module keeps one of its parameters.
typedef struct Layout {
  const char *tensor;       // its name in the module
  int axes[SHAPE_MAX_RANK]; // which dimension here is the i-th of torch's
} Layout;

// Parameters that lie there as they do here, by their roles.
static const Layout plain[] = {
    [PARAMETER_BIAS] = {"bias", {0}},
    [PARAMETER_GAMMA] = {"weight", {0}},
    [PARAMETER_BETA] = {"bias", {0}},
    [PARAMETER_MOVING_MEAN] = {"running_mean", {0}},
    [PARAMETER_MOVING_VARIANCE] = {"running_var", {0}},
};

// Kernels, by the kinds of their layers.
static const struct {
  LayerKind kind;
  ParameterRole role;
  Layout layout;
} kernels[] = {
    // (H, W, in, out) from (out, in, H, W)
    {LAYER_CONV2D, PARAMETER_KERNEL, {"weight", {3, 2, 0, 1}}},
    // (H, W, channels, 1) from (channels, 1, H, W)
    {LAYER_DEPTHWISE_CONV2D, PARAMETER_KERNEL, {"weight", {2, 3, 0, 1}}},
    // Both of these, as the modules of timm's NASNet and PNASNet call them.
    {LAYER_SEPARABLE_CONV2D, PARAMETER_KERNEL, {"depthwise_conv2d.weight", {2, 3, 0, 1}}},
    {LAYER_SEPARABLE_CONV2D, PARAMETER_POINTWISE_KERNEL, {"pointwise_conv2d.weight", {3, 2, 0, 1}}},
    // (in, out) from (out, in)
    {LAYER_DENSE, PARAMETER_KERNEL, {"weight", {1, 0}}},
};

static const Layout *layout_of(const Graph *graph, const Parameter *parameter) {
  LayerKind kind = graph->layers[parameter->layer].kind;
  for (size_t i = 0; i < sizeof kernels / sizeof *kernels; i++)
    if (kernels[i].kind == kind && kernels[i].role == parameter->role) return &kernels[i].layout;
  return &plain[parameter->role];
}

static Shape torch_shape(const Graph *graph, const Parameter *parameter) {
  const int *axes = layout_of(graph, parameter)->axes;
  Shape shape = {.rank = parameter->shape.rank};
  for (int i = 0; i < shape.rank; i++) shape.dim[i] = parameter->shape.dim[axes[i]];
  return shape;
}

// A 1 x 1 convolution of one pixel is a product: timm keeps some heads as such.
static bool same_but_ones(Shape held, Shape wanted) {
  while (held.rank > wanted.rank && held.dim[held.rank - 1] == 1) held.rank--;
  return shape_equal(held, wanted);
}

static void permute(float *out, const float *values, const Graph *graph,
                    const Parameter *parameter) {
  const int *axes = layout_of(graph, parameter)->axes;
  Shape shape = parameter->shape;
  int64_t steps[SHAPE_MAX_RANK] = {0}, step = 1; // in torch's array, of each dimension here
  for (int i = shape.rank; i-- > 0; step *= shape.dim[axes[i]]) steps[axes[i]] = step;
  for (int i = shape.rank; i < SHAPE_MAX_RANK; i++) shape.dim[i] = 1;
  for (int64_t a = 0; a < shape.dim[0]; a++)
    for (int64_t b = 0; b < shape.dim[1]; b++)
      for (int64_t c = 0; c < shape.dim[2]; c++)
        for (int64_t d = 0; d < shape.dim[3]; d++)
          *out++ = values[a * steps[0] + b * steps[1] + c * steps[2] + d * steps[3]];
}

// --- places --------------------------------------------------------------------------------------

typedef struct Places {
  const TensorFile *file;
  const Graph *graph;
  const TorchNames *names;
  const char *prefix; // before all names
  int *tensors;       // of each parameter, -1: none; owned
  bool *used;         // each tensor of the file; owned
  bool head_fits;
} Places;

// The first difference.
typedef struct Misfit {
  int parameter;                      // -1: none
  char name[2 * TORCH_NAME_CAPACITY]; // of its tensor
  int tensor;                         // of another shape, or too much; -1: missing
} Misfit;

static const char *tensor_name(char text[2 * TORCH_NAME_CAPACITY], const Places *places,
                               const Layer *layer, const char *suffix) {
  char module[TORCH_NAME_CAPACITY];
  (void)snprintf(text, 2 * TORCH_NAME_CAPACITY, "%s%s.%s", places->prefix,
                 torch_module(module, places->graph, places->names, layer), suffix);
  return text;
}

static const char *name_of(char text[2 * TORCH_NAME_CAPACITY], const Places *places,
                           const Parameter *parameter) {
  return tensor_name(text, places, &places->graph->layers[parameter->layer],
                     layout_of(places->graph, parameter)->tensor);
}

// How training programs wrap networks: the first of these prefixes under which the file has the
// first layer.
static const char *find_prefix(Places *places) {
  static const char *const prefixes[] = {"", "module.", "model."};
  const Graph *graph = places->graph;
  for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++) {
    char name[2 * TORCH_NAME_CAPACITY];
    places->prefix = prefixes[i];
    if (tensor_file_find(places->file, name_of(name, places, &graph->parameters[0])) >= 0)
      return prefixes[i];
  }
  return "";
}

static bool in_head(const Graph *graph, const Layer *layer) {
  return layer->submodel < 0 && graph->submodel_count > 0;
}

// Finds the tensor of a parameter. False, with `misfit` filled, where there is none.
static bool find_place(Misfit *misfit, Places *places, int parameter) {
  const Parameter *p = &places->graph->parameters[parameter];
  misfit->parameter = parameter;
  misfit->tensor = tensor_file_find(places->file, name_of(misfit->name, places, p));
  if (misfit->tensor < 0) return false;
  TensorEntry entry = tensor_file_entry(places->file, misfit->tensor);
  if (!entry.is_float || !same_but_ones(entry.shape, torch_shape(places->graph, p))) return false;
  places->tensors[parameter] = misfit->tensor;
  places->used[misfit->tensor] = true;
  return true;
}

// Norms without scale or center must not hide one that the file has.
static void use_constants(Places *places, const Layer *layer) {
  static const char *const suffix[] = {"weight", "bias"};
  char name[2 * TORCH_NAME_CAPACITY];
  if (layer->kind != LAYER_BATCH_NORMALIZATION) return;
  bool absent[] = {layer->batch_norm.no_scale, layer->batch_norm.no_center};
  for (int i = 0; i < 2; i++) {
    int tensor = tensor_file_find(places->file, tensor_name(name, places, layer, suffix[i]));
    if (absent[i] && tensor >= 0) places->used[tensor] = true;
  }
}

// The tensors of the head, where the graph has another one.
static void use_head(Places *places) {
  char name[2 * TORCH_NAME_CAPACITY];
  for (int i = 0; i < places->graph->parameter_count; i++) {
    const Parameter *p = &places->graph->parameters[i];
    const Layer *layer = &places->graph->layers[p->layer];
    int tensor = tensor_file_find(places->file, name_of(name, places, p));
    if (in_head(places->graph, layer) && tensor >= 0) places->used[tensor] = true;
  }
}

static bool is_ignored(const Places *places, const char *name) {
  size_t skip = strlen(places->prefix);
  const char *ignored = places->names->ignored;
  return ignored && strncmp(name, places->prefix, skip) == 0 &&
         strncmp(name + skip, ignored, strlen(ignored)) == 0;
}

// A tensor that the graph has no place for, -1 for none.
static int find_extra(const Places *places) {
  for (int i = 0; i < tensor_file_count(places->file); i++) {
    TensorEntry entry = tensor_file_entry(places->file, i);
    if (!places->used[i] && entry.is_float && !is_ignored(places, entry.name)) return i;
  }
  return -1;
}

// False, with the first difference, where the backbone's tensors are not all in place.
static bool find_places(Misfit *misfit, Places *places) {
  const Graph *graph = places->graph;
  places->head_fits = true;
  for (int i = 0; i < graph->parameter_count; i++) {
    const Layer *layer = &graph->layers[graph->parameters[i].layer];
    use_constants(places, layer);
    if (find_place(misfit, places, i)) continue;
    if (!in_head(graph, layer)) return false;
    places->head_fits = false;
  }
  use_head(places);
  *misfit = (Misfit){.parameter = -1, .tensor = find_extra(places)};
  return misfit->tensor < 0;
}

static Status begin_places(Places *places) {
  TRY(memory_alloc(&places->tensors, (size_t)places->graph->parameter_count,
                   sizeof *places->tensors));
  TRY(memory_alloc(&places->used, (size_t)tensor_file_count(places->file), sizeof *places->used));
  for (int i = 0; i < places->graph->parameter_count; i++) places->tensors[i] = -1;
  places->prefix = find_prefix(places);
  return STATUS_OK;
}

static void end_places(Places *places) {
  memory_free(places->tensors);
  memory_free(places->used);
}

static Status explain(const Places *places, const Misfit *misfit) {
  const char *file = tensor_file_name(places->file);
  char held[SHAPE_TEXT_CAPACITY], wanted[SHAPE_TEXT_CAPACITY];
  TensorEntry entry = {0};
  if (misfit->tensor >= 0) entry = tensor_file_entry(places->file, misfit->tensor);
  if (misfit->parameter < 0)
    return status_set(STATUS_DATA, "%s: %s of shape %s, the first that the model has no place for",
                      file, entry.name, shape_format(entry.shape, held));
  const Parameter *p = &places->graph->parameters[misfit->parameter];
  (void)shape_format(torch_shape(places->graph, p), wanted);
  if (misfit->tensor < 0)
    return status_set(STATUS_DATA, "%s: has no %s of shape %s, which is %s of the model", file,
                      misfit->name, wanted, p->path);
  if (!entry.is_float)
    return status_set(STATUS_DATA, "%s: %s holds no F32, F16 or BF16, but %s of the model needs it",
                      file, misfit->name, p->path);
  return status_set(STATUS_DATA, "%s: %s has shape %s, but %s of the model needs %s", file,
                    misfit->name, shape_format(entry.shape, held), p->path, wanted);
}

bool torch_fits(const TensorFile *file, const Graph *graph, const TorchNames *names) {
  Places places = {.file = file, .graph = graph, .names = names};
  Misfit misfit;
  bool fits = begin_places(&places) == STATUS_OK && find_places(&misfit, &places);
  end_places(&places);
  return fits;
}

// --- values --------------------------------------------------------------------------------------

static Status read_tensor(float *values, const Places *places, int tensor) {
  TensorEntry entry = tensor_file_entry(places->file, tensor);
  TRY(tensor_file_read(values, places->file, tensor));
  for (int64_t i = 0; i < shape_count(entry.shape); i++)
    if (!isfinite(values[i]))
      return status_set(STATUS_DATA,
                        "%s: %s holds %g at element %lld: it is damaged, or its training had "
                        "diverged",
                        tensor_file_name(places->file), entry.name, (double)values[i],
                        (long long)i);
  return STATUS_OK;
}

// A norm's scale of ones, or center of zeros, that the graph does without.
static Status require_constants(const Places *places, const Layer *layer, float *buffer) {
  static const char *const suffix[] = {"weight", "bias"};
  char name[2 * TORCH_NAME_CAPACITY];
  bool absent[] = {layer->batch_norm.no_scale, layer->batch_norm.no_center};
  for (int i = 0; i < 2; i++) {
    int tensor = tensor_file_find(places->file, tensor_name(name, places, layer, suffix[i]));
    if (!absent[i] || tensor < 0) continue;
    TensorEntry entry = tensor_file_entry(places->file, tensor);
    if (!shape_equal(entry.shape, SHAPE(shape_channels(layer->shape))))
      return status_set(STATUS_DATA, "%s: %s has not the shape of its norm",
                        tensor_file_name(places->file), name);
    TRY(read_tensor(buffer, places, tensor));
    for (int64_t c = 0; c < entry.shape.dim[0]; c++)
      if (buffer[c] != (float)(1 - i))
        return status_set(STATUS_DATA,
                          "%s: %s is not all %d, but %s of the model has no such parameter: its "
                          "network was trained otherwise",
                          tensor_file_name(places->file), name, 1 - i, layer->name);
  }
  return STATUS_OK;
}

// Layers of the head are taken whole or left whole.
static Status read_values(KerasFit *fit, const Places *places, float *buffer,
                          float *const *values) {
  const Graph *graph = places->graph;
  *fit = (KerasFit){.head_loaded = places->head_fits};
  for (int i = 0; i < graph->layer_count; i++)
    if (graph->layers[i].kind == LAYER_BATCH_NORMALIZATION)
      TRY(require_constants(places, &graph->layers[i], buffer));
  for (int i = 0; i < graph->parameter_count; i++) {
    const Parameter *p = &graph->parameters[i];
    if (!places->head_fits && in_head(graph, &graph->layers[p->layer])) {
      fit->left++;
      continue;
    }
    TRY(read_tensor(buffer, places, places->tensors[i]));
    permute(values[i], buffer, graph, p);
    fit->loaded++;
  }
  for (int i = 0; i < tensor_file_count(places->file); i++)
    fit->unused += tensor_file_entry(places->file, i).is_float;
  fit->unused -= fit->loaded;
  return STATUS_OK;
}

Status torch_read(KerasFit *fit, const TensorFile *file, const Graph *graph,
                  const TorchNames *names, float *const *values) {
  Status status = STATUS_OK;
  Places places = {.file = file, .graph = graph, .names = names};
  Misfit misfit;
  float *buffer = NULL;
  int64_t largest = 1;
  *fit = (KerasFit){0};
  GUARD(begin_places(&places));
  if (!find_places(&misfit, &places)) GUARD(explain(&places, &misfit));
  for (int i = 0; i < graph->parameter_count; i++)
    if (shape_count(graph->parameters[i].shape) > largest)
      largest = shape_count(graph->parameters[i].shape);
  GUARD(memory_alloc(&buffer, (size_t)largest, sizeof *buffer));
  GUARD(read_values(fit, &places, buffer, values));
out:
  memory_free(buffer);
  end_places(&places);
  return status;
}
