// A model file made ready to classify images. See inference.h.
#include "train/inference.h"

#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>

#include "base/memory.h"
#include "model/pretrained.h"
#include "train/placement.h"

// Takes a softmax off the model's end. What else may end a classifier keeps its place.
static Status end_in_logits(Inference *inference) {
  Graph *graph = inference->graph;
  Layer *last = &graph->layers[graph->output];
  if (last->kind != LAYER_ACTIVATION) return STATUS_OK;
  if (last->activation == ACTIVATION_SIGMOID)
    return status_set(
        STATUS_DATA,
        "%s: its last layer '%s' is a sigmoid, so its scores are no distribution over "
        "classes; use a model that ends in softmax or logits",
        inference->path, last->name);
  if (last->activation == ACTIVATION_SOFTMAX) last->activation = ACTIVATION_LINEAR;
  return STATUS_OK;
}

static Status check_shapes(Inference *inference) {
  const Graph *graph = inference->graph;
  char text[SHAPE_TEXT_CAPACITY];
  Shape in = graph->layers[0].shape, out = graph_shape(graph, graph->output);
  if (in.rank != 3 || shape_channels(in) != 3)
    return status_set(STATUS_DATA,
                      "%s: takes input of shape %s, not RGB images (height, width, 3); use a model "
                      "of images",
                      inference->path, shape_format(in, text));
  if (shape_count(out) != shape_channels(out) || shape_count(out) < 2)
    return status_set(STATUS_DATA,
                      "%s: gives output of shape %s, not one score for each of 2 or more classes; "
                      "use a classifier, with its last layer",
                      inference->path, shape_format(out, text));
  inference->classes = shape_count(out);
  inference->target.height = in.dim[0];
  inference->target.width = in.dim[1];
  return STATUS_OK;
}

// How training resized its images; other programs' files do not say.
static ResizeOptions read_resize_options(const char *state) {
  json_t *root = state ? json_loads(state, 0, NULL) : NULL;
  ResizeOptions options = {.antialias = json_is_true(json_object_get(root, "antialias")),
                           .keep_aspect = json_is_true(json_object_get(root, "keep_aspect"))};
  json_decref(root);
  return options;
}

static Status read_class_names(Inference *inference) {
  const KerasInfo *info = keras_file_info(inference->file);
  if (info->class_count == 0) return STATUS_OK;
  if (info->class_count != inference->classes)
    return status_set(STATUS_DATA,
                      "%s: %" PRId64 " class names for the %" PRId64
                      " scores of its last layer; the file is damaged, use another",
                      inference->path, info->class_count, inference->classes);
  inference->class_names = info->class_names;
  return STATUS_OK;
}

static Status load_weights(Inference *inference) {
  ParameterValues values = {0};
  KerasFit fit;
  void *memory;
  Status status = STATUS_OK;
  GUARD(parameters_layout(&inference->layout, inference->graph));
  GUARD(parameter_values_create(&values, inference->graph));
  GUARD(keras_file_read_parameters(&fit, inference->file, inference->graph, KERAS_SCOPE_MODEL,
                                   values.values));
  GUARD(inference->backend->memory_alloc(inference->device, &memory,
                                         (size_t)inference->layout.total * sizeof(float)));
  inference->weights = memory;
  GUARD(parameters_upload(&inference->layout, inference->backend, inference->device,
                          inference->weights, &values, false));
out:
  parameter_values_free(&values);
  return status;
}

Status inference_open(Inference *out, const InferenceDesc *desc) {
  out->path = desc->path;
  Placement placement;
  TRY(placement_find(&placement, &(PlacementDesc){.device = desc->device}));
  out->backend = placement.backend;
  out->threads = desc->threads;
  TRY(keras_open(&out->file, desc->path));
  const KerasInfo *info = keras_file_info(out->file);
  if (info->kind != KERAS_FILE_MODEL)
    return status_set(STATUS_DATA,
                      "%s: holds weights without a model; save the whole model (model.save in "
                      "Keras)",
                      desc->path);
  TRY(keras_file_graph(&out->graph, out->file, 0));
  pretrained_take_unit(out->graph);
  TRY(end_in_logits(out));
  TRY(check_shapes(out));
  TRY(read_class_names(out));
  out->target.resize = read_resize_options(info->state);
  TRY(out->backend->device_open(
      &out->device, &(DeviceDesc){.threads = out->threads,
                                  .index = placement.index,
                                  .plans = {.cache = "auto", .deterministic = true}}));
  return load_weights(out);
}

void inference_close(Inference *inference) {
  executor_free(inference->executor);
  if (inference->device) {
    inference->backend->memory_free(inference->device, inference->weights);
    inference->backend->device_close(inference->device);
  }
  parameters_layout_deinit(&inference->layout);
  graph_free(inference->graph);
  keras_close(inference->file);
  *inference = (Inference){0};
}

Status inference_prepare(Inference *inference, int64_t batch) {
  TRY(executor_create(&inference->executor, &(ExecutorDesc){.backend = inference->backend,
                                                            .device = inference->device,
                                                            .graph = inference->graph,
                                                            .layout = &inference->layout,
                                                            .mode = LOWER_INFERENCE,
                                                            .folds_norms = true,
                                                            .dtype = DTYPE_F32,
                                                            .batches = &batch,
                                                            .batch_count = 1}));
  inference->batch = batch;
  TRY(executor_allocate(inference->executor));
  return executor_bind(inference->executor, inference->weights, NULL);
}

Status inference_run(Inference *inference, const uint8_t *pixels, float *probabilities) {
  TRY(executor_forward(inference->executor,
                       &(ExecutorInput){.batch = inference->batch, .pixels = pixels}));
  TRY(executor_read_output(inference->executor, probabilities));
  for (int64_t i = 0; i < inference->batch; i++) {
    float *row = probabilities + i * inference->classes;
    TRY(inference_softmax(inference, row, row));
  }
  return STATUS_OK;
}

Status inference_softmax(const Inference *inference, float *probabilities, const float *logits) {
  float top = -INFINITY;
  double sum = 0.0;
  for (int64_t k = 0; k < inference->classes; k++) {
    if (!isfinite(logits[k]))
      return status_set(STATUS_DATA,
                        "%s: the model's scores are not finite; its training diverged, use an "
                        "earlier checkpoint",
                        inference->path);
    top = fmaxf(top, logits[k]);
  }
  for (int64_t k = 0; k < inference->classes; k++) {
    probabilities[k] = expf(logits[k] - top);
    sum += probabilities[k];
  }
  for (int64_t k = 0; k < inference->classes; k++)
    probabilities[k] = (float)(probabilities[k] / sum);
  return STATUS_OK;
}

const char *inference_class_name(const Inference *inference, int64_t label,
                                 char text[CLASS_TEXT_CAPACITY]) {
  if (inference->class_names) return inference->class_names[label];
  (void)snprintf(text, CLASS_TEXT_CAPACITY, "%" PRId64, label);
  return text;
}
