// The torch oracle's hand in this program: the features of a backbone with the weights of a file.
//
//   torch_bridge BACKBONE FILE SIDE PIXELS OUT
//
// PIXELS holds images of SIDE x SIDE (uint8, RGB). OUT gets their features (fp32), then kernel and
// bias of a head of 5 classes. How the file fitted goes to stdout as JSON.
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "io/file.h"
#include "model/model.h"
#include "model/pretrained.h"
#include "train/extractor.h"

enum { CLASSES = 5, THREADS = 2 };

typedef struct Network {
  Graph *graph;
  ParameterLayout layout;
  ParameterValues values;
  const Backend *backend;
  Device *device;
  float *weights;
} Network;

static Status load(Network *net, const char *backbone, const char *path, int side) {
  ModelSpec spec = {.backbone = backbone,
                    .image_h = side,
                    .image_w = side,
                    .class_count = CLASSES,
                    .batch_norm_momentum = -1,
                    .batch_norm_epsilon = -1};
  PretrainedFile file;
  PretrainedFit fit;
  TRY(model_build(&net->graph, &spec));
  TRY(parameters_layout(&net->layout, net->graph));
  TRY(parameter_values_create(&net->values, net->graph));
  parameter_values_initialize(&net->values, net->graph, 1);
  TRY(pretrained_open(&file, path));
  Status status = pretrained_read(&fit, net->graph, net->values.values, &file);
  pretrained_close(&file);
  TRY(status);
  printf("{\"loaded\": %" PRId64 ", \"left\": %" PRId64 ", \"unused\": %" PRId64
         ", \"head\": %s}\n",
         fit.weights.loaded, fit.weights.left, fit.weights.unused,
         fit.weights.head_loaded ? "true" : "false");
  return STATUS_OK;
}

static Status upload(Network *net) {
  void *memory;
  net->backend = backend_find("cpu");
  TRY(net->backend->device_open(&net->device, &(DeviceDesc){.threads = THREADS}));
  TRY(net->backend->memory_alloc(net->device, &memory, (size_t)net->layout.total * sizeof(float)));
  net->weights = memory;
  return parameters_upload(&net->layout, net->backend, net->device, net->weights, &net->values,
                           false);
}

static Status write_floats(FILE *file, const float *values, int64_t count) {
  return fwrite(values, sizeof *values, (size_t)count, file) == (size_t)count
             ? STATUS_OK
             : status_set_errno(STATUS_IO, "writing failed");
}

static Status write_features(const Network *net, const Bytes *pixels, int side, const char *path) {
  Extractor *extractor;
  int64_t count = (int64_t)pixels->size / (3 * side * side);
  TRY(extractor_create(&extractor, &(ExtractorDesc){.backend = net->backend,
                                                    .device = net->device,
                                                    .graph = net->graph,
                                                    .layout = &net->layout,
                                                    .dtype = DTYPE_F32,
                                                    .threads = THREADS}));
  TRY(extractor_allocate(extractor, net->weights));
  int64_t length = extractor_length(extractor);
  float *features = calloc((size_t)(count * length), sizeof *features);
  TRY(extractor_run(extractor, features, pixels->data, count));
  FILE *file = fopen(path, "wb");
  if (!file) return status_set_errno(STATUS_CANT_CREATE, "%s", path);
  TRY(write_floats(file, features, count * length));
  for (int i = net->graph->parameter_count - 2; i < net->graph->parameter_count; i++)
    TRY(write_floats(file, net->values.values[i], shape_count(net->graph->parameters[i].shape)));
  free(features);
  extractor_free(extractor);
  return fclose(file) == 0 ? STATUS_OK : status_set_errno(STATUS_IO, "%s", path);
}

static Status run(char **argv) {
  Network net = {0};
  Bytes pixels = {0};
  int side = atoi(argv[3]);
  TRY(load(&net, argv[1], argv[2], side));
  TRY(file_read(&pixels, argv[4], SIZE_MAX));
  TRY(upload(&net));
  TRY(write_features(&net, &pixels, side, argv[5]));
  net.backend->memory_free(net.device, net.weights);
  net.backend->device_close(net.device);
  bytes_deinit(&pixels);
  parameter_values_free(&net.values);
  parameters_layout_deinit(&net.layout);
  graph_free(net.graph);
  return STATUS_OK;
}

int main(int argc, char **argv) {
  Status status = argc == 6
                      ? run(argv)
                      : status_set(STATUS_USAGE, "torch_bridge BACKBONE FILE SIDE PIXELS OUT");
  if (status != STATUS_OK) (void)fprintf(stderr, "%s\n", status_message());
  return (int)status;
}
