// Weights and the input they expect. See pretrained.h.
//
// What keras.applications' preprocess_input and first layers do to pixels, the graphs here do in
// their "rescaling" layer. A whole model that scales its input says how. Weights alone, and models
// whose pixels were scaled outside, are taken for public ones, with two things to do:
//   - ResNet's public weights take blue, green, red: the first kernel is turned round.
//   - EfficientNet's Normalization layer keeps its statistics among the weights. The public ones
//     hold the deviation in the place of the variance, and Keras divides by its root once more
//     (tensorflow/tensorflow issue 49930): together that is the graph's own rescaling. Any others,
//     such as the 0 and 1 of a network that was trained from random weights, replace it.
#include "model/pretrained.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "graph/sampling.h"
#include "io/file.h"
#include "model/model.h"
#include "model/registry.h"
#include "model/torch.h"

enum { COLORS = 3 };

// --- what a graph does to pixels -----------------------------------------------------------------

static bool scales(const Layer *layer) {
  return layer->kind == LAYER_RESCALING || layer->kind == LAYER_NORMALIZATION;
}

// The layer that takes the value; NULL where none or several do.
static Layer *only_user(const Graph *graph, Value value) {
  Layer *user = NULL;
  for (int i = value + 1; i < graph->layer_count; i++)
    for (int j = 0; j < graph->layers[i].input_count; j++) {
      if (graph->layers[i].inputs[j] != value) continue;
      if (user) return NULL;
      user = &graph->layers[i];
    }
  return user;
}

RescalingDesc *pretrained_scaling(Graph *graph) {
  Layer *first = only_user(graph, 0);
  assert(first && first->kind == LAYER_RESCALING);
  return &first->rescaling;
}

bool pretrained_takes_bytes(const Graph *graph) {
  // Scales of 0..255 are 1/255, 1/127.5 or 1/58; those of 0..1 are 1, 2 or 1/0.229.
  static const double smallest_of_unit = 0.05;
  const Layer *first = only_user(graph, 0);
  return first && scales(first) && fabs(first->rescaling.scale[0]) < smallest_of_unit;
}

void pretrained_take_unit(Graph *graph) {
  if (!pretrained_takes_bytes(graph)) return;
  RescalingDesc *scaling = &only_user(graph, 0)->rescaling;
  for (int c = 0; c < scaling->count; c++) scaling->scale[c] *= 255;
}

static double of_channel(const double *values, const RescalingDesc *desc, int channel) {
  return values[desc->count == 1 ? 0 : channel];
}

// All scaling in front of the first other layer as one, of pixels in 0..1. False for none, or where
// the input has not three channels.
static bool compose_scaling(RescalingDesc *out, Graph *graph) {
  bool found = false;
  *out = (RescalingDesc){.count = COLORS, .scale = {1, 1, 1}};
  if (shape_channels(graph->layers[0].shape) != COLORS) return false;
  pretrained_take_unit(graph);
  const Layer *layer = only_user(graph, 0);
  for (; layer && scales(layer); layer = only_user(graph, (Value)(layer - graph->layers))) {
    found = true;
    for (int c = 0; c < COLORS; c++) {
      double scale = of_channel(layer->rescaling.scale, &layer->rescaling, c);
      out->scale[c] *= scale;
      out->offset[c] =
          out->offset[c] * scale + of_channel(layer->rescaling.offset, &layer->rescaling, c);
    }
  }
  return found;
}

// Alike but for what fp32 makes of the numbers.
static bool same_scaling(const RescalingDesc *a, const RescalingDesc *b) {
  for (int c = 0; c < COLORS; c++) {
    double scale = of_channel(b->scale, b, c), offset = of_channel(b->offset, b, c);
    if (fabs(of_channel(a->scale, a, c) - scale) > 1e-5 * fabs(scale) ||
        fabs(of_channel(a->offset, a, c) - offset) > 1e-5 * (fabs(scale) + fabs(offset)))
      return false;
  }
  return true;
}

// --- what a file says about its pixels -----------------------------------------------------------

// The network that a file describes, owned by the caller; NULL for weights alone, and for layers
// that this program has not, for weights are read from such models too.
static Status graph_of_file(Graph **out, const KerasFile *file, int open_side) {
  *out = NULL;
  if (keras_file_info(file)->kind != KERAS_FILE_MODEL) return STATUS_OK;
  Status status = keras_file_graph(out, file, open_side);
  return status == STATUS_DATA ? STATUS_OK : status;
}

// Mean and variance of a Normalization layer: its first two arrays.
static Status read_statistics(bool *found, float mean[COLORS], float variance[COLORS],
                              const KerasFile *file) {
  *found = false;
  int64_t count = keras_file_array_count(file);
  for (int64_t i = 0; i + 1 < count && !*found; i++) {
    KerasArray first = keras_file_array(file, i), second = keras_file_array(file, i + 1);
    if (strcmp(first.class_name, layer_kind_name(LAYER_NORMALIZATION)) != 0) continue;
    if (shape_count(first.shape) != COLORS || shape_count(second.shape) != COLORS) break;
    TRY(keras_file_read_array(mean, file, i));
    TRY(keras_file_read_array(variance, file, i + 1));
    *found = true;
  }
  return STATUS_OK;
}

// Not found where the statistics are the public ones, or none.
static Status scaling_of_statistics(bool *found, RescalingDesc *out, const KerasFile *file) {
  static const float public_mean[COLORS] = {0.485F, 0.456F, 0.406F};
  static const float public_deviation[COLORS] = {0.229F, 0.224F, 0.225F};
  static const float close = 1e-4F;
  float mean[COLORS], variance[COLORS];
  bool is_public = true;
  TRY(read_statistics(found, mean, variance, file));
  if (!*found) return STATUS_OK;
  *out = (RescalingDesc){.count = COLORS};
  for (int c = 0; c < COLORS; c++) {
    if (!(variance[c] > 0) || !isfinite(variance[c]) || !isfinite(mean[c]))
      return status_set(STATUS_DATA,
                        "Normalization has mean %g and variance %g for channel %d: the file is "
                        "damaged",
                        (double)mean[c], (double)variance[c], c);
    out->scale[c] = 1 / sqrt((double)variance[c]);
    out->offset[c] = -(double)mean[c] * out->scale[c];
    is_public = is_public && fabsf(mean[c] - public_mean[c]) < close &&
                fabsf(variance[c] - public_deviation[c]) < close;
  }
  *found = !is_public;
  return STATUS_OK;
}

// Whether weights alone come from a graph of this program, which Keras had opened: such a one
// stands in the file under the backbone's name, or with its rescaling.
static bool is_own_graph(const KerasFile *file, const ModelDesc *desc) {
  return keras_file_has_layer(file, desc->name) || keras_file_has_layer(file, "rescaling");
}

// Scales images as the file's network does, which is `held`, or NULL where the file does not tell.
static Status take_scaling(PretrainedFit *fit, Graph *graph, float *const *values,
                           const KerasFile *file, Graph *held) {
  const ModelDesc *desc;
  RescalingDesc wanted, *scaling = pretrained_scaling(graph);
  TRY(model_find(&desc, graph->submodels[0].name));
  bool found = held && compose_scaling(&wanted, held);
  if (!found) {
    fit->swapped_red_blue = desc->public_weights_take_bgr && !is_own_graph(file, desc);
    if (fit->swapped_red_blue) model_swap_red_blue(graph, values);
    TRY(scaling_of_statistics(&found, &wanted, file));
  }
  fit->changed_scaling = found && !same_scaling(&wanted, scaling);
  if (fit->changed_scaling) *scaling = wanted;
  return STATUS_OK;
}

// --- whose weights they are ----------------------------------------------------------------------

// A backbone at an image size; its head takes no part.
static Status build_at(Graph **out, const ModelDesc *desc, int height, int width) {
  return model_build(out, &(ModelSpec){.backbone = desc->name,
                                       .image_h = height,
                                       .image_w = width,
                                       .class_count = 2,
                                       .fine_tune = true,
                                       .batch_norm_momentum = -1,
                                       .batch_norm_epsilon = -1,
                                       .stochastic_depth = -1});
}

// Whether the network of a file strides and pads as the backbone does. `*unlike` names the first
// layer of the backbone that stands elsewhere, "" for none. Networks of images that the backbone
// does not take are not compared.
static Status compare_graphs(bool *compared, char **unlike, const ModelDesc *desc,
                             const Graph *held) {
  const Shape *image = &held->layers[0].shape;
  const Layer *layer;
  Graph *graph;
  *compared = image->rank == 3 && image->dim[0] >= desc->smallest_image &&
              image->dim[1] >= desc->smallest_image;
  if (!*compared) return memory_copy_string(unlike, "");
  TRY(build_at(&graph, desc, (int)image->dim[0], (int)image->dim[1]));
  Status status = graph_find_unlike(&layer, graph, 0, held);
  if (status == STATUS_OK) status = memory_copy_string(unlike, layer ? layer->name : "");
  graph_free(graph);
  return status;
}

static Status require_same_graph(PretrainedFit *fit, const KerasFile *file, const ModelDesc *desc,
                                 const Graph *held) {
  bool compared;
  char *unlike;
  TRY(compare_graphs(&compared, &unlike, desc, held));
  Status status = STATUS_OK;
  if (unlike[0] != '\0')
    status =
        status_set(STATUS_DATA,
                   "%s: its weights have the shapes of backbone %s, but its network strides or "
                   "pads otherwise: %s has no partner in it",
                   keras_file_name(file), desc->name, unlike);
  fit->shapes_only = !compared;
  memory_free(unlike);
  return status;
}

// --- files ---------------------------------------------------------------------------------------

// By what the file holds; one that is neither is judged by its name.
static bool is_safetensors(const uint8_t *head, size_t size, const char *path) {
  const char *suffix = strrchr(path, '.');
  return tensor_file_is_safetensors(head, size) ||
         (suffix && strcmp(suffix, ".safetensors") == 0 && !h5_recognizes(head, size));
}

Status pretrained_open(PretrainedFile *out, const char *path) {
  uint8_t head[16];
  size_t size;
  H5File *h5;
  *out = (PretrainedFile){0};
  TRY(file_read_head(head, &size, sizeof head, path));
  if (is_safetensors(head, size, path)) return tensor_file_open(&out->torch, path);
  TRY(h5_open(&h5, path));
  return keras_recognizes(h5) ? keras_open_h5(&out->keras, h5)
                              : tensor_file_open_h5(&out->torch, h5);
}

void pretrained_close(PretrainedFile *file) {
  keras_close(file->keras);
  tensor_file_close(file->torch);
  *file = (PretrainedFile){0};
}

// Whether the file fits a backbone; `held` is the network that it describes, NULL where it does
// not.
static Status fits_backbone(bool *out, const PretrainedFile *file, const ModelDesc *desc,
                            const Graph *held) {
  bool compared;
  char *unlike;
  Graph *graph;
  TRY(build_at(&graph, desc, desc->smallest_image, desc->smallest_image));
  *out = file->keras ? keras_file_fits(file->keras, graph)
                     : desc->torch && torch_fits(file->torch, graph, desc->torch);
  graph_free(graph);
  if (!*out || !held) return STATUS_OK;
  TRY(compare_graphs(&compared, &unlike, desc, held));
  *out = unlike[0] == '\0';
  memory_free(unlike);
  return STATUS_OK;
}

// Adds to the message of a file that does not fit backbone `wanted` which ones it does fit. One
// that fits it is wrong in another way.
static Status name_fitting(const PretrainedFile *file, const ModelDesc *wanted, const Graph *held) {
  enum { MAX_NAMED = 8 };
  Status status = STATUS_OK;
  char *message = NULL, *names = NULL;
  bool fits_wanted = false;
  int found = 0;
  GUARD(memory_copy_string(&message, status_message()));
  GUARD(memory_copy_string(&names, ""));
  for (int i = 0; i < model_count(); i++) {
    const ModelDesc *desc = model_at(i);
    bool fitting;
    char *longer;
    GUARD(fits_backbone(&fitting, file, desc, held));
    fits_wanted = fits_wanted || (fitting && desc == wanted);
    if (!fitting || ++found > MAX_NAMED) continue;
    GUARD(memory_print_string(&longer, "%s%s%s", names, found > 1 ? ", " : "", desc->name));
    memory_free(names);
    names = longer;
  }
  if (fits_wanted)
    status = status_set(STATUS_DATA, "%s", message);
  else if (found == 0)
    status = status_set(STATUS_DATA, "%s; it fits no backbone of `imgcls models`", message);
  else if (found > MAX_NAMED)
    status =
        status_set(STATUS_DATA, "%s; it fits %s and %d more", message, names, found - MAX_NAMED);
  else
    status = status_set(STATUS_DATA, "%s; it fits %s", message, names);
out:
  memory_free(names);
  memory_free(message);
  return status;
}

static Status read_torch(PretrainedFit *fit, const Graph *graph, float *const *values,
                         const TensorFile *file, const ModelDesc *desc) {
  if (desc->torch) return torch_read(&fit->weights, file, graph, desc->torch, values);
  if (desc->unlike_torch)
    return status_set(STATUS_DATA,
                      "%s: is no file of Keras, and torch's networks are not backbone %s: %s",
                      tensor_file_name(file), desc->name, desc->unlike_torch);
  return status_set(STATUS_DATA,
                    "%s: is no file of Keras, and of backbone %s no network of torch is known",
                    tensor_file_name(file), desc->name);
}

// `held` is the network that the file describes, NULL where it does not.
static Status read_keras(PretrainedFit *fit, Graph *graph, float *const *values,
                         const KerasFile *file, Graph *held) {
  const ModelDesc *desc;
  TRY(model_find(&desc, graph->submodels[0].name));
  TRY(keras_file_read_parameters(&fit->weights, file, graph, KERAS_SCOPE_BACKBONE, values));
  if (held) TRY(require_same_graph(fit, file, desc, held));
  return take_scaling(fit, graph, values, file, held);
}

Status pretrained_read(PretrainedFit *fit, Graph *graph, float *const *values,
                       const PretrainedFile *file) {
  const ModelDesc *desc;
  Graph *held = NULL;
  *fit = (PretrainedFit){0};
  TRY(model_find(&desc, graph->submodels[0].name));
  if (file->keras) TRY(graph_of_file(&held, file->keras, desc->image_size));
  fit->shapes_only = !held;
  fit->taken_for = file->torch && desc->torch ? desc->torch->network : NULL;
  Status status = file->keras ? read_keras(fit, graph, values, file->keras, held)
                              : read_torch(fit, graph, values, file->torch, desc);
  if (status == STATUS_DATA) status = name_fitting(file, desc, held);
  graph_free(held);
  return status;
}

Status pretrained_require_scaling(Graph *graph, const KerasFile *checkpoint) {
  RescalingDesc scaling;
  Graph *held;
  TRY(graph_of_file(&held, checkpoint, 0));
  bool same = !held || !compose_scaling(&scaling, held) ||
              same_scaling(&scaling, pretrained_scaling(graph));
  graph_free(held);
  if (same) return STATUS_OK;
  return status_set(STATUS_CONFIG,
                    "scales images otherwise than backbone %s: the run had started from the "
                    "weights of a file; set [model] weights to that file again",
                    graph->submodels[0].name);
}
