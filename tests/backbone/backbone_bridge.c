// The backbone oracles' hand in this program: features and gradients of one backbone for weights
// and images that Python gave. Called by backbone_check.py.
//
//   backbone_bridge BACKBONE SIDE BATCH training|inference IN OUT
//
// IN, fp32: images (BATCH, SIDE, SIDE, 3) in [0, 1], then each parameter of the backbone and of the
// layer "logits" (5 classes) behind it, in the order of the graph. OUT, fp32: features (BATCH, F),
// the gradient of the images, then that of each parameter: zeros where nothing is trained, for the
// moving statistics those of the batch. The loss is the mean cross-entropy, sample i having the
// label i % 5.
//
// Nothing stochastic is on. In `inference` each BatchNorm is frozen and uses its moving statistics.
//
// The step never computes the gradient of an image. Here the images are weights: one convolution
// with a window of SIDE x SIDE, zeros around its input, turns the one-hot vector of sample i (the
// input, one pixel) into image i, which is its kernel's channel i, upside down and left to right.
// That takes SIDE^4 sums. Beyond LARGEST_WINDOW a 1 x 1 convolution with a kernel of ones and zeros
// lets the images pass instead, and OUT has the gradient of its kernel (3, 3): the sum over all
// pixels of value times gradient, for each pair of channels.
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "exec/executor.h"
#include "model/registry.h"

enum { CLASSES = 5, CHANNELS = 3, LARGEST_WINDOW = 107 };
enum { IMAGES = 0 }; // the parameter that is the images, or lets them pass

typedef struct Run {
  int64_t side, batch;
  bool training, window;
  Graph *graph;
  Value features;
  ParameterLayout layout;
  ParameterValues values, gradients;
  const Backend *backend;
  Device *device;
  float *weight_arena, *gradient_arena;
  float *input; // of the graph, the whole batch
} Run;

static Value add_images(Run *run) {
  Conv2dDesc conv = {.filters = CHANNELS, .kernel_h = run->window ? (int)run->side : 1};
  int rim = (int)run->side - 1;
  Shape shape = run->window ? SHAPE(1, 1, run->batch) : SHAPE(run->side, run->side, CHANNELS);
  Value x = graph_input(run->graph, shape, "sample");
  if (run->window) x = graph_zero_padding2d(run->graph, x, (Pads){rim, rim, rim, rim}, "rim");
  return graph_conv2d(run->graph, x, &conv, "images");
}

static Status build_graph(Run *run, const char *name) {
  const ModelDesc *desc;
  const ModelSpec spec = {.backbone = name,
                          .class_count = CLASSES,
                          .fine_tune = true,
                          .batch_norm_momentum = -1,
                          .batch_norm_epsilon = -1,
                          .stochastic_depth = 0};
  TRY(model_find(&desc, name));
  TRY(graph_create(&run->graph, name));
  Value x = add_images(run);
  run->features = desc->build(run->graph, x, desc, &spec);
  x = graph_dense(run->graph, run->features, &(DenseDesc){.units = CLASSES}, "logits");
  TRY(graph_finish(run->graph, x));
  for (int i = 0; !run->training && i < run->graph->layer_count; i++)
    if (run->graph->layers[i].kind == LAYER_BATCH_NORMALIZATION)
      run->graph->layers[i].trainable = false;
  return STATUS_OK;
}

// Between the images (BATCH, SIDE, SIDE, 3) and the kernel (SIDE, SIDE, BATCH, 3).
static void turn_images(float *images, float *kernel, const Run *run, bool into_kernel) {
  int64_t side = run->side;
  for (int64_t b = 0; b < run->batch; b++)
    for (int64_t y = 0; y < side; y++)
      for (int64_t x = 0; x < side; x++) {
        float *pixel = images + ((b * side + y) * side + x) * CHANNELS;
        int64_t place = ((side - 1 - y) * side + (side - 1 - x)) * run->batch + b;
        float *tap = kernel + place * CHANNELS;
        memcpy(into_kernel ? tap : pixel, into_kernel ? pixel : tap, CHANNELS * sizeof(float));
      }
}

static Status take(FILE *file, float *values, int64_t count) {
  size_t got = fread(values, sizeof *values, (size_t)count, file);
  return got == (size_t)count ? STATUS_OK : status_set(STATUS_DATA, "IN is too short");
}

static Status read_images(Run *run, FILE *file) {
  float *images, *kernel = run->values.values[IMAGES];
  int64_t count = run->batch * run->side * run->side * CHANNELS;
  TRY(memory_alloc(&images, (size_t)count, sizeof *images));
  TRY(take(file, images, count));
  if (!run->window) {
    for (int c = 0; c < CHANNELS; c++) kernel[c * CHANNELS + c] = 1.0f;
    run->input = images;
    return STATUS_OK;
  }
  turn_images(images, kernel, run, true);
  memory_free(images);
  TRY(memory_alloc(&run->input, (size_t)(run->batch * run->batch), sizeof(float)));
  for (int64_t b = 0; b < run->batch; b++) run->input[b * run->batch + b] = 1.0f;
  return STATUS_OK;
}

static Status read_in(Run *run, const char *path) {
  FILE *file = fopen(path, "rb");
  if (!file) return status_set_errno(STATUS_NO_INPUT, "%s", path);
  TRY(read_images(run, file));
  for (int i = IMAGES + 1; i < run->values.count; i++)
    TRY(take(file, run->values.values[i], run->layout.counts[i]));
  bool ends = fgetc(file) == EOF;
  (void)fclose(file);
  return ends ? STATUS_OK : status_set(STATUS_DATA, "%s is too long", path);
}

static Status open_run(Run *run, const char *in) {
  void *memory;
  TRY(parameters_layout(&run->layout, run->graph));
  TRY(parameter_values_create(&run->values, run->graph));
  TRY(parameter_values_create(&run->gradients, run->graph));
  TRY(read_in(run, in));
  run->backend = backend_find("cpu");
  TRY(run->backend->device_open(&run->device, &(DeviceDesc){.threads = 2}));
  TRY(run->backend->memory_alloc(run->device, &memory, (size_t)run->layout.total * sizeof(float)));
  run->weight_arena = memory;
  TRY(run->backend->memory_alloc(run->device, &memory,
                                 (size_t)run->layout.reduced * sizeof(float)));
  run->gradient_arena = memory;
  TRY(parameters_upload(&run->layout, run->backend, run->device, run->weight_arena, &run->values,
                        false));
  return STATUS_OK;
}

static void close_run(Run *run) {
  memory_free(run->input);
  run->backend->memory_free(run->device, run->gradient_arena);
  run->backend->memory_free(run->device, run->weight_arena);
  run->backend->device_close(run->device);
  parameter_values_free(&run->gradients);
  parameter_values_free(&run->values);
  parameters_layout_deinit(&run->layout);
  graph_free(run->graph);
}

static Status open_executor(Executor **out, const Run *run, LowerMode mode, Value output) {
  TRY(executor_create(out, &(ExecutorDesc){.backend = run->backend,
                                           .device = run->device,
                                           .graph = run->graph,
                                           .layout = &run->layout,
                                           .mode = mode,
                                           .output = output,
                                           .dtype = DTYPE_F32,
                                           .batches = &run->batch,
                                           .batch_count = 1}));
  TRY(executor_allocate(*out));
  TRY(executor_bind(*out, run->weight_arena, run->gradient_arena));
  return executor_forward(*out, &(ExecutorInput){.batch = run->batch, .values = run->input});
}

static Status write_features(const Run *run, FILE *file) {
  Executor *executor;
  float *features;
  size_t count = (size_t)(run->batch * graph_channels(run->graph, run->features));
  TRY(memory_alloc(&features, count, sizeof *features));
  TRY(open_executor(&executor, run, run->training ? LOWER_TRAINING : LOWER_INFERENCE,
                    run->features));
  TRY(executor_read_output(executor, features));
  (void)fwrite(features, sizeof *features, count, file);
  executor_free(executor);
  memory_free(features);
  return STATUS_OK;
}

static Status compute_gradients(Run *run) {
  Executor *executor;
  int32_t *labels;
  TRY(memory_alloc(&labels, (size_t)run->batch, sizeof *labels));
  for (int64_t b = 0; b < run->batch; b++) labels[b] = (int32_t)(b % CLASSES);
  TRY(open_executor(&executor, run, LOWER_TRAINING, 0));
  TRY(executor_loss(executor, &(ExecutorLoss){.labels = labels,
                                              .gradient_scale = 1.0f / (float)run->batch}));
  TRY(executor_backward(executor, NULL, NULL));
  executor_free(executor);
  memory_free(labels);
  return STATUS_OK;
}

// The gradient arena has no place for what is not trained, and has statistics behind the rest.
static void collect_gradients(Run *run) {
  for (int i = 0; i < run->gradients.count; i++) {
    size_t size = (size_t)run->layout.counts[i] * sizeof(float);
    if (run->layout.offsets[i] < run->layout.reduced)
      memcpy(run->gradients.values[i], run->gradient_arena + run->layout.offsets[i], size);
    else
      memset(run->gradients.values[i], 0, size);
  }
}

static Status write_out(Run *run, const char *path) {
  FILE *file = fopen(path, "wb");
  if (!file) return status_set_errno(STATUS_CANT_CREATE, "%s", path);
  TRY(write_features(run, file));
  TRY(compute_gradients(run));
  collect_gradients(run);
  float *images = run->values.values[IMAGES], *kernel = run->gradients.values[IMAGES];
  if (run->window) turn_images(images, kernel, run, false);
  (void)fwrite(run->window ? images : kernel, sizeof(float), (size_t)run->layout.counts[IMAGES],
               file);
  for (int i = IMAGES + 1; i < run->gradients.count; i++)
    (void)fwrite(run->gradients.values[i], sizeof(float), (size_t)run->layout.counts[i], file);
  return fclose(file) == 0 ? STATUS_OK : status_set_errno(STATUS_IO, "%s", path);
}

static Status run_all(int argc, char **argv) {
  if (argc != 7)
    return status_set(STATUS_USAGE,
                      "backbone_bridge BACKBONE SIDE BATCH training|inference IN OUT");
  Run run = {
      .side = atoi(argv[2]), .batch = atoi(argv[3]), .training = strcmp(argv[4], "training") == 0};
  run.window = run.side <= LARGEST_WINDOW;
  TRY(build_graph(&run, argv[1]));
  TRY(open_run(&run, argv[5]));
  TRY(write_out(&run, argv[6]));
  close_run(&run);
  return STATUS_OK;
}

int main(int argc, char **argv) {
  Status status = run_all(argc, argv);
  if (status != STATUS_OK) (void)fprintf(stderr, "%s\n", status_message());
  return (int)status;
}
