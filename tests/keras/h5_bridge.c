// The keras oracles' hand in this program: writes graphs as .h5, reads .h5 of Keras, and lays the
// values it gave or got beside them for Python to compare.
//
//   h5_bridge write GRAPH FILE.h5 OUT        a graph as a whole model, with momentum
//   h5_bridge read FILE.h5 OUT               graph and values of a whole model
//   h5_bridge weights MODEL.h5 FILE OUT      the graph of MODEL.h5, the values of FILE
//   h5_bridge backbone MODEL.h5 FILE OUT     the same, the head only where it fits
//   h5_bridge pretrained BACKBONE FILE OUT   the values that a run from [model] weights = FILE has
//   h5_bridge flip GRAPH FILE.h5 DAMAGED.h5  flips one bit of the first parameter's values
//
// GRAPH is one of every_layer.h, or a backbone with a head of 5 classes; ":frozen" freezes it.
// OUT.json lists path, shape and offset (in floats) of each parameter in OUT.bin.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "every_layer.h"
#include "io/file.h"
#include "keras/keras.h"
#include "model/model.h"
#include "model/pretrained.h"
#include "model/registry.h"

typedef struct Dump {
  FILE *json, *bin;
  long offset;
} Dump;

static FILE *open_out(const char *name, const char *suffix) {
  char path[512];
  (void)snprintf(path, sizeof path, "%s.%s", name, suffix);
  return fopen(path, "wb");
}

static void dump_arrays(Dump *dump, const char *key, const Graph *graph, float *const *values) {
  (void)fprintf(dump->json, ", \"%s\": [", key);
  for (int i = 0; values && i < graph->parameter_count; i++) {
    const Parameter *parameter = &graph->parameters[i];
    bool standardized = graph_kernel_is_standardized(graph, i);
    (void)fprintf(dump->json,
                  "%s{\"path\": \"%s\", \"trained\": %s, \"standardize\": %g, \"offset\": %ld, "
                  "\"shape\": [",
                  i ? ",\n" : "", parameter->path,
                  graph_parameter_is_trained(graph, i) ? "true" : "false",
                  standardized ? graph->layers[parameter->layer].conv2d.standardize_epsilon : 0.0,
                  dump->offset);
    for (int j = 0; j < parameter->shape.rank; j++)
      (void)fprintf(dump->json, "%s%lld", j ? ", " : "", (long long)parameter->shape.dim[j]);
    (void)fprintf(dump->json, "]}");
    size_t count = (size_t)shape_count(parameter->shape);
    (void)fwrite(values[i], sizeof(float), count, dump->bin);
    dump->offset += (long)count;
  }
  (void)fprintf(dump->json, "]");
}

static Status dump_all(const char *out, const Graph *graph, float *const *values,
                       float *const *momentum, const KerasFit *fit) {
  Dump dump = {open_out(out, "json"), open_out(out, "bin"), 0};
  if (!dump.json || !dump.bin) return status_set_errno(STATUS_CANT_CREATE, "%s", out);
  (void)fprintf(dump.json, "{\"loaded\": %lld, \"left\": %lld, \"unused\": %lld, \"head\": %s",
                (long long)fit->loaded, (long long)fit->left, (long long)fit->unused,
                fit->head_loaded ? "true" : "false");
  (void)fprintf(dump.json, ", \"layers\": %d", graph->layer_count);
  dump_arrays(&dump, "values", graph, values);
  dump_arrays(&dump, "momentum", graph, momentum);
  (void)fprintf(dump.json, "}\n");
  return fclose(dump.json) == 0 && fclose(dump.bin) == 0 ? STATUS_OK
                                                         : status_set_errno(STATUS_IO, "%s", out);
}

enum { IMAGE_SIZE = 64, PATCH = 8, CLASSES = 5 };

// As whole_model_check.py: 64 pixels, or the smallest multiple of 8 that the backbone takes.
static int side_of(const ModelDesc *desc) {
  int smallest = (desc->smallest_image + PATCH - 1) / PATCH * PATCH;
  return smallest > IMAGE_SIZE ? smallest : IMAGE_SIZE;
}

static Status make_graph(Graph **out, const char *name) {
  *out = every_layer_graph(name);
  if (*out) return STATUS_OK;
  char backbone[64];
  (void)snprintf(backbone, sizeof backbone, "%.*s", (int)strcspn(name, ":"), name);
  const ModelDesc *desc;
  TRY(model_find(&desc, backbone));
  ModelSpec spec = {.backbone = backbone,
                    .image_h = side_of(desc),
                    .image_w = side_of(desc),
                    .class_count = CLASSES,
                    .dropout = 0.2,
                    .l2 = 1e-4,
                    .fine_tune = !strstr(name, ":frozen"),
                    .batch_norm_momentum = -1,
                    .batch_norm_epsilon = -1,
                    .stochastic_depth = -1};
  return model_build(out, &spec);
}

static Status write_graph(const char *name, const char *path, const char *out) {
  static const KerasTraining training = {0.05, 0.9, false, 0.1};
  Graph *graph;
  TRY(make_graph(&graph, name));
  float **values = every_layer_values(graph, 1), **momentum = every_layer_values(graph, 2);
  KerasModel model = {.graph = graph,
                      .values = (const float *const *)values,
                      .momentum = (const float *const *)momentum,
                      .training = &training,
                      .step = 42};
  uint8_t *bytes;
  size_t size;
  TRY(keras_save_image(&bytes, &size, &model));
  TRY(file_replace(path, bytes, size));
  memory_free(bytes);
  Status status = dump_all(out, graph, values, momentum, &(KerasFit){0});
  every_layer_values_free(graph, values);
  every_layer_values_free(graph, momentum);
  graph_free(graph);
  return status;
}

// The graph of `model_path`, the values of `path`.
static Status read_file(const char *model_path, const char *path, const char *out,
                        KerasScope scope) {
  KerasFile *file;
  Graph *graph;
  KerasFit fit;
  bool found = false;
  TRY(keras_open(&file, model_path));
  TRY(keras_file_graph(&graph, file, 0));
  float **values = every_layer_values(graph, 3), **momentum = every_layer_values(graph, 4);
  if (strcmp(model_path, path) != 0) {
    keras_close(file);
    TRY(keras_open(&file, path));
  } else {
    TRY(keras_file_read_momentum(&found, file, graph, momentum));
  }
  TRY(keras_file_read_parameters(&fit, file, graph, scope, values));
  TRY(dump_all(out, graph, values, found ? momentum : NULL, &fit));
  every_layer_values_free(graph, values);
  every_layer_values_free(graph, momentum);
  graph_free(graph);
  keras_close(file);
  return STATUS_OK;
}

static Status read_pretrained(const char *name, const char *path, const char *out) {
  PretrainedFile file;
  Graph *graph;
  PretrainedFit fit;
  TRY(make_graph(&graph, name));
  float **values = every_layer_values(graph, 3);
  TRY(pretrained_open(&file, path));
  TRY(pretrained_read(&fit, graph, values, &file));
  TRY(dump_all(out, graph, values, NULL, &fit.weights));
  every_layer_values_free(graph, values);
  graph_free(graph);
  pretrained_close(&file);
  return STATUS_OK;
}

static Status flip(const char *name, const char *path, const char *damaged) {
  Bytes bytes = {0};
  Graph *graph;
  TRY(make_graph(&graph, name));
  TRY(file_read(&bytes, path, SIZE_MAX));
  float **values = every_layer_values(graph, 1);
  size_t size = (size_t)shape_count(graph->parameters[0].shape) * sizeof **values;
  uint8_t *place = memmem(bytes.data, bytes.size, values[0], size);
  if (!place) return status_set(STATUS_DATA, "%s: has no values of %s", path, name);
  place[size / 2] ^= 1;
  TRY(file_replace(damaged, bytes.data, bytes.size));
  every_layer_values_free(graph, values);
  graph_free(graph);
  bytes_deinit(&bytes);
  return STATUS_OK;
}

static Status run(int argc, char **argv) {
  if (argc == 5 && strcmp(argv[1], "write") == 0) return write_graph(argv[2], argv[3], argv[4]);
  if (argc == 4 && strcmp(argv[1], "read") == 0)
    return read_file(argv[2], argv[2], argv[3], KERAS_SCOPE_MODEL);
  if (argc == 5 && strcmp(argv[1], "weights") == 0)
    return read_file(argv[2], argv[3], argv[4], KERAS_SCOPE_MODEL);
  if (argc == 5 && strcmp(argv[1], "backbone") == 0)
    return read_file(argv[2], argv[3], argv[4], KERAS_SCOPE_BACKBONE);
  if (argc == 5 && strcmp(argv[1], "pretrained") == 0)
    return read_pretrained(argv[2], argv[3], argv[4]);
  if (argc == 5 && strcmp(argv[1], "flip") == 0) return flip(argv[2], argv[3], argv[4]);
  return status_set(STATUS_USAGE, "h5_bridge write|read|weights|backbone|pretrained|flip ...");
}

int main(int argc, char **argv) {
  Status status = run(argc, argv);
  if (status != STATUS_OK) (void)fprintf(stderr, "%s\n", status_message());
  return (int)status;
}
