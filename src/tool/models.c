// `imgcls models`: the list of backbones, and the layers of one. Run by main_tool.c.
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "exec/executor.h"
#include "graph/summary.h"
#include "model/model.h"
#include "model/registry.h"
#include "tool/arguments.h"
#include "tool/tool.h"

typedef struct ModelsOptions {
  CommonOptions common;
  const char *name; // NULL: list all
  int image_size;   // 0: the backbone's
  int64_t class_count;
} ModelsOptions;

// --- command line --------------------------------------------------------------------------------

enum { MAX_IMAGE_SIZE = 4096, MAX_CLASSES = 1000000, MIB = 1 << 20 };

static const struct argp_option argp_options[] = {
    {"image-size", 'i', "N", 0, "Pixels a side instead of the backbone's own", 0},
    {"classes", 'c', "N", 0, "Classes of the layer at the end (2)", 0},
    {0},
};

static error_t parse_option(int key, char *text, struct argp_state *state) {
  ArgumentsParse *parse = state->input;
  ModelsOptions *options = parse->options;
  int64_t count = 0;
  switch (key) {
  case 'i':
    parse->status = arguments_parse_count(&count, "--image-size", text, 1, MAX_IMAGE_SIZE);
    options->image_size = (int)count;
    break;
  case 'c':
    parse->status = arguments_parse_count(&options->class_count, "--classes", text, 2, MAX_CLASSES);
    break;
  case ARGP_KEY_ARG:
    if (options->name) parse->status = status_set(STATUS_USAGE, "%s: one NAME at a time", text);
    options->name = text;
    break;
  default:
    return ARGP_ERR_UNKNOWN;
  }
  return arguments_result(parse);
}

static const ArgumentsDesc arguments = {
    .name = "models",
    .takes_json = true,
    .takes_threads = true,
    .argp.options = argp_options,
    .argp.parser = parse_option,
    .argp.args_doc = "[NAME]",
    .argp.doc = "Lists the backbones with image size, feature length, parameters, "
                "multiply-accumulates of one image, and the memory that each further image of a "
                "batch takes in training on the CPU in fp32 (activations, their gradients and what "
                "steps keep); or the layers of one. "
                "JSON tells all, the layers with their options too.",
};

// --- list ----------------------------------------------------------------------------------------

static Status build_graph(Graph **out, const char *name, const ModelsOptions *options) {
  ModelSpec spec = {.backbone = name,
                    .image_h = options->image_size,
                    .image_w = options->image_size,
                    .class_count = options->class_count,
                    .dropout = 0.2,
                    .l2 = 1e-4,
                    .fine_tune = true,
                    .batch_norm_momentum = -1,
                    .batch_norm_epsilon = -1,
                    .stochastic_depth = -1};
  return model_build(out, &spec);
}

// What a row of the list says. Parameters are the backbone's, without the classifier.
typedef struct Row {
  const ModelDesc *desc;
  int64_t image_size;
  bool available; // at this image size; the rest is zero where not
  int64_t features, parameters, trained;
  double gmac;
  int64_t image_bytes;     // of training
  ExecutorConcats concats; // the same
} Row;

// Plans training. What an image more costs a batch is the slope of the plan between two sizes:
// weights, their gradients, momentum and what does not grow with the batch are not in it.
static Status plan_training(Row *out, const Graph *graph, Device *device) {
  static const int64_t batches[] = {8, 16};
  ParameterLayout layout;
  TRY(parameters_layout(&layout, graph));
  size_t bytes[2] = {0};
  Status status = STATUS_OK;
  for (int b = 0; status == STATUS_OK && b < 2; b++) {
    Executor *executor;
    status = executor_create(&executor, &(ExecutorDesc){.backend = backend_find("cpu"),
                                                        .device = device,
                                                        .graph = graph,
                                                        .layout = &layout,
                                                        .mode = LOWER_TRAINING,
                                                        .dtype = DTYPE_F32,
                                                        .batches = &batches[b],
                                                        .batch_count = 1});
    if (status == STATUS_OK) {
      bytes[b] = executor_memory_bytes(executor);
      out->concats = executor_concats(executor);
    }
    executor_free(executor);
  }
  parameters_layout_deinit(&layout);
  out->image_bytes = ((int64_t)bytes[1] - (int64_t)bytes[0]) / (batches[1] - batches[0]);
  return status;
}

static Status measure(Row *out, const ModelDesc *desc, const Graph *graph,
                      const ModelsOptions *options, Device *device) {
  int64_t features = model_feature_length(graph);
  int64_t head = (features + 1) * options->class_count;
  *out = (Row){
      .desc = desc,
      .image_size = graph->layers[0].shape.dim[0],
      .available = true,
      .features = features,
      .parameters = graph_parameter_total(graph, false) - head,
      .trained = graph_parameter_total(graph, true) - head,
      .gmac = (graph_mac_total(graph) - (double)(features * options->class_count)) / 1e9,
  };
  return plan_training(out, graph, device);
}

// A backbone that does not take the size asked for stays in the list, which says so.
static Status make_row(Row *out, const ModelDesc *desc, const ModelsOptions *options,
                       Device *device) {
  *out = (Row){.desc = desc, .image_size = options->image_size};
  if (options->image_size != 0 && options->image_size < desc->smallest_image) return STATUS_OK;
  Graph *graph;
  TRY(build_graph(&graph, desc->name, options));
  Status status = measure(out, desc, graph, options, device);
  graph_free(graph);
  return status;
}

static void print_row(const Row *row) {
  char parameters[COUNT_TEXT_CAPACITY], trained[COUNT_TEXT_CAPACITY];
  (void)printf("%-28s %5" PRId64 " ", row->desc->name, row->image_size);
  if (row->available)
    (void)printf("%8" PRId64 " %12s %12s %7.2f %9.1f\n", row->features,
                 count_format(row->parameters, parameters), count_format(row->trained, trained),
                 row->gmac, (double)row->image_bytes / MIB);
  else
    (void)printf("not available: the smallest image is %d x %d\n", row->desc->smallest_image,
                 row->desc->smallest_image);
}

// The same keys in every row; null where the backbone is not available.
static json_t *row_json(const Row *row) {
  json_t *object = json_pack("{s:s, s:I, s:i, s:b}", "name", row->desc->name, "image_size",
                             (json_int_t)row->image_size, "smallest_image",
                             row->desc->smallest_image, "available", (int)row->available);
  json_t *sizes =
      row->available
          ? json_pack("{s:I, s:I, s:I, s:f, s:I, s:i, s:i}", "feature_length",
                      (json_int_t)row->features, "parameters", (json_int_t)row->parameters,
                      "trainable", (json_int_t)row->trained, "gmac", row->gmac,
                      "training_bytes_per_image", (json_int_t)row->image_bytes, "concat_inputs",
                      row->concats.inputs, "concat_inputs_in_place", row->concats.in_place)
          : json_pack("{s:n, s:n, s:n, s:n, s:n, s:n, s:n}", "feature_length", "parameters",
                      "trainable", "gmac", "training_bytes_per_image", "concat_inputs",
                      "concat_inputs_in_place");
  (void)json_object_update(object, sizes);
  json_decref(sizes);
  return object;
}

// Prints and releases `json`; NULL means that memory was short.
static Status print_json(json_t *json) {
  if (!json) return status_set(STATUS_OS, "out of memory");
  int failed = json_dumpf(json, stdout, JSON_INDENT(1));
  json_decref(json);
  if (failed) return status_set(STATUS_IO, "cannot write to standard output");
  (void)putchar('\n');
  return STATUS_OK;
}

static Status list_models(const ModelsOptions *options, Device *device) {
  json_t *list = json_array();
  if (!options->common.json)
    (void)printf("%-28s %5s %8s %12s %12s %7s %s\n", "name", "image", "features", "parameters",
                 "trainable", "GMAC", "MiB/image");
  for (int i = 0; i < model_count(); i++) {
    Row row;
    Status status = make_row(&row, model_at(i), options, device);
    if (status != STATUS_OK) {
      json_decref(list);
      return status;
    }
    if (options->common.json)
      (void)json_array_append_new(list, row_json(&row));
    else
      print_row(&row);
  }
  if (options->common.json) return print_json(list);
  json_decref(list);
  return STATUS_OK;
}

// --- one as JSON ---------------------------------------------------------------------------------

static json_t *shape_json(Shape shape) {
  json_t *list = json_array();
  for (int i = 0; i < shape.rank; i++)
    (void)json_array_append_new(list, json_integer((json_int_t)shape.dim[i]));
  return list;
}

static json_t *numbers_json(const double *numbers, int count) {
  json_t *list = json_array();
  for (int i = 0; i < count; i++) (void)json_array_append_new(list, json_real(numbers[i]));
  return list;
}

// The options that shape a layer's sums. What has none adds nothing.
static void add_options(json_t *object, const Layer *layer) {
  const Conv2dDesc *conv = &layer->conv2d;
  const PoolDesc *pool = &layer->pool;
  const Pads *pads = &layer->pads;
  json_t *more = NULL;
  switch (layer->kind) {
  case LAYER_CONV2D:
  case LAYER_DEPTHWISE_CONV2D:
  case LAYER_SEPARABLE_CONV2D:
    more = json_pack("{s:[ii], s:[ii], s:b}", "kernel_size", conv->kernel_h, conv->kernel_w,
                     "strides", conv->stride_h, conv->stride_w, "use_bias", (int)conv->use_bias);
    break;
  case LAYER_MAX_POOLING2D:
  case LAYER_AVERAGE_POOLING2D:
    more = json_pack("{s:[ii], s:[ii]}", "pool_size", pool->size_h, pool->size_w, "strides",
                     pool->stride_h, pool->stride_w);
    break;
  case LAYER_BATCH_NORMALIZATION:
    more = json_pack("{s:f, s:f}", "momentum", layer->batch_norm.momentum, "epsilon",
                     layer->batch_norm.epsilon);
    break;
  case LAYER_DROPOUT:
    more = json_pack("{s:f, s:b}", "rate", layer->dropout.rate, "per_sample",
                     (int)layer->dropout.per_sample);
    break;
  case LAYER_ACTIVATION:
    more = json_pack("{s:s}", "activation", activation_name(layer->activation));
    break;
  case LAYER_RESCALING:
  case LAYER_NORMALIZATION:
    more = json_pack("{s:o, s:o}", "scale",
                     numbers_json(layer->rescaling.scale, layer->rescaling.count), "offset",
                     numbers_json(layer->rescaling.offset, layer->rescaling.count));
    break;
  case LAYER_RELU:
    more = json_pack("{s:f}", "max_value", layer->relu_max_value);
    break;
  default:
    break;
  }
  if (more) (void)json_object_update(object, more);
  json_decref(more);
  if (pads->top || pads->bottom || pads->left || pads->right)
    (void)json_object_set_new(
        object, "pads", json_pack("[iiii]", pads->top, pads->bottom, pads->left, pads->right));
}

static json_t *layer_json(const Graph *graph, const Layer *layer) {
  json_t *inputs = json_array(), *parameters = json_array();
  for (int i = 0; i < layer->input_count; i++)
    (void)json_array_append_new(inputs, json_string(graph->layers[layer->inputs[i]].name));
  for (int i = 0; i < layer->parameter_count; i++) {
    const Parameter *p = &graph->parameters[layer->parameters[i]];
    (void)json_array_append_new(
        parameters, json_pack("{s:s, s:o}", "path", p->path, "shape", shape_json(p->shape)));
  }
  json_t *object = json_pack("{s:s, s:s, s:b, s:o, s:o, s:o}", "name", layer->name, "class",
                             layer_kind_name(layer->kind), "nested", layer->submodel >= 0, "shape",
                             shape_json(layer->shape), "inputs", inputs, "parameters", parameters);
  if (object) add_options(object, layer);
  return object;
}

// The row of the list and, in it, the layers.
static json_t *model_json(const Row *row, const Graph *graph) {
  json_t *object = row_json(row), *layers = json_array();
  for (int i = 0; i < graph->layer_count; i++)
    (void)json_array_append_new(layers, layer_json(graph, &graph->layers[i]));
  (void)json_object_set_new(object, "layers", layers);
  return object;
}

static Status show_model(const ModelsOptions *options, Device *device) {
  const ModelDesc *desc;
  TRY(model_find(&desc, options->name));
  Graph *graph;
  TRY(build_graph(&graph, options->name, options));
  Row row;
  Status status = measure(&row, desc, graph, options, device);
  if (status == STATUS_OK && options->common.json) {
    status = print_json(model_json(&row, graph));
  } else if (status == STATUS_OK) {
    graph_print_summary(graph, stdout);
    (void)printf("Multiply-accumulates of one image: %.3f G\n", graph_mac_total(graph) / 1e9);
    (void)printf("Memory of each image in training: %.1f MiB\n", (double)row.image_bytes / MIB);
    if (row.concats.inputs > 0)
      (void)printf("Concatenated values: %d, of which %d are written in place\n",
                   row.concats.inputs, row.concats.in_place);
  }
  graph_free(graph);
  return status;
}

Status tool_models(int argc, char **argv, Log *log) {
  (void)log;
  ModelsOptions options = {.class_count = 2};
  TRY(arguments_parse(&options.common, &options, &arguments, argc, argv));
  if (options.common.help) return STATUS_OK;
  const Backend *cpu = backend_find("cpu");
  Device *device;
  int threads;
  TRY(arguments_threads(&threads, &options.common, NULL));
  TRY(cpu->device_open(&device, &(DeviceDesc){.threads = threads}));
  Status status = options.name ? show_model(&options, device) : list_models(&options, device);
  cpu->device_close(device);
  return status;
}
