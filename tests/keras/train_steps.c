// The training oracle's hand in this program: trains a Keras model on batches that Python wrote and
// says every loss. Called by train_steps.py.
//
//   train_steps make BACKBONE MODEL.h5                     with a head of 5 classes, no dropout
//   train_steps train MODEL.h5 DATA STEPS HOW RATE OUT.h5  prints the losses of the steps
//   train_steps predict MODEL.h5 DATA OUT                  logits of the first batch, raw fp32
//
// DATA holds the labels of STEPS batches of 16 (int32) and as many images (uint8). HOW is THREADS,
// THREADSn with Nesterov, THREADSe with averaged weights. The learning rate of step i is
// RATE (i + 1) / STEPS.
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "dist/world.h"
#include "io/file.h"
#include "keras/keras.h"
#include "model/model.h"
#include "train/inference.h"
#include "train/optimizer.h"
#include "train/workers.h"

enum { BATCH = 16 };
static const double smoothing = 0.1;
static const int64_t batch_size = BATCH;

typedef struct Training {
  Graph *graph;
  ParameterLayout layout;
  ParameterValues values;
  const Backend *backend;
  Device *device;
  World *world;
  GradSync *sync;
  Workers *workers;
  float *weights, *velocity, *averaged;
  OptimizerConfig optimizer;
  int64_t steps;
  double peak_rate, learning_rate;
  UpdateState state;
} Training;

static Status save_model(const char *path, const Graph *graph, const ParameterValues *values,
                         const ParameterValues *momentum, const KerasTraining *training) {
  KerasModel model = {.graph = graph,
                      .values = (const float *const *)values->values,
                      .momentum = momentum ? (const float *const *)momentum->values : NULL,
                      .training = training,
                      .step = 1};
  uint8_t *bytes;
  size_t size;
  TRY(keras_save_image(&bytes, &size, &model));
  Status status = file_replace_unsynced(path, bytes, size);
  memory_free(bytes);
  return status;
}

static Status make(const char *backbone, const char *path) {
  ModelSpec spec = {.backbone = backbone,
                    .image_h = 64,
                    .image_w = 64,
                    .class_count = 5,
                    .l2 = 1e-4,
                    .fine_tune = true,
                    .batch_norm_momentum = 0.9,
                    .batch_norm_epsilon = -1};
  Graph *graph;
  ParameterValues values;
  TRY(model_build(&graph, &spec));
  TRY(parameter_values_create(&values, graph));
  parameter_values_initialize(&values, graph, 3);
  Status status = save_model(path, graph, &values, NULL, NULL);
  parameter_values_free(&values);
  graph_free(graph);
  return status;
}

static Status open_training(Training *training, const char *path, int threads) {
  KerasFile *file;
  KerasFit fit;
  TRY(keras_open(&file, path));
  TRY(keras_file_graph(&training->graph, file, 0));
  TRY(parameters_layout(&training->layout, training->graph));
  TRY(parameter_values_create(&training->values, training->graph));
  TRY(keras_file_read_parameters(&fit, file, training->graph, KERAS_SCOPE_MODEL,
                                 training->values.values));
  keras_close(file);
  const Backend *backend = training->backend = backend_find("cpu");
  TRY(backend->device_open(&training->device, &(DeviceDesc){.threads = threads}));
  void *memory;
  TRY(backend->memory_alloc(training->device, &memory,
                            (size_t)training->layout.total * sizeof(float)));
  training->weights = memory;
  TRY(backend->memory_alloc(training->device, &memory,
                            (size_t)training->layout.trained * sizeof(float)));
  training->velocity = memory;
  if (training->optimizer.use_ema) {
    TRY(backend->memory_alloc(training->device, &memory,
                              (size_t)training->layout.total * sizeof(float)));
    training->averaged = memory;
    TRY(parameters_upload(&training->layout, backend, training->device, training->averaged,
                          &training->values, false));
  }
  TRY(parameters_upload(&training->layout, backend, training->device, training->weights,
                        &training->values, false));
  TRY(gradsync_create(&training->sync, &(GradSyncDesc){.world = training->world,
                                                       .backend = backend,
                                                       .device = training->device,
                                                       .layout = &training->layout,
                                                       .virtual_workers = 1}));
  TRY(workers_create(&training->workers, &(WorkersDesc){.backend = backend,
                                                        .device = training->device,
                                                        .graph = training->graph,
                                                        .layout = &training->layout,
                                                        .dtype = DTYPE_F32,
                                                        .threads = threads,
                                                        .virtual_workers = 1,
                                                        .count = 1,
                                                        .batches = &batch_size,
                                                        .batch_count = 1}));
  return workers_allocate(training->workers, training->weights);
}

static void close_training(Training *training) {
  workers_free(training->workers);
  gradsync_free(training->sync);
  training->backend->memory_free(training->device, training->weights);
  training->backend->memory_free(training->device, training->velocity);
  training->backend->memory_free(training->device, training->averaged);
  training->backend->device_close(training->device);
  parameter_values_free(&training->values);
  parameters_layout_deinit(&training->layout);
  graph_free(training->graph);
}

// The loss is that before the update, the L2 term included, as Keras' model.losses.
static Status run_step(Training *training, int64_t step, const int32_t *labels,
                       const uint8_t *pixels) {
  float losses[BATCH];
  int32_t ranks[BATCH];
  WorkersTimes times;
  double sum = 0.0, *terms;
  training->learning_rate = training->peak_rate * (double)(step + 1) / (double)training->steps;
  float rate = (float)training->learning_rate;
  OptimizerArgs update = {.backend = training->backend,
                          .device = training->device,
                          .layout = &training->layout,
                          .config = &training->optimizer,
                          .weights = training->weights,
                          .velocity = training->velocity,
                          .gradients = gradsync_gradients(training->sync),
                          .averaged = training->averaged,
                          .learning_rate = &rate,
                          .state = &training->state};
  WorkersBatch batch = {.global_batch = BATCH,
                        .pixels = pixels,
                        .sample_size = (size_t)shape_count(training->graph->layers[0].shape),
                        .labels = labels,
                        .keys = &(StepKey){.step = step},
                        .smoothing = (float)smoothing,
                        .losses = losses,
                        .ranks = ranks};
  TRY(memory_alloc(&terms, (size_t)optimizer_penalty_terms(&training->layout) + 1, sizeof *terms));
  TRY(optimizer_find_penalty(&update, terms));
  double penalty = optimizer_penalty(&training->layout, terms);
  memory_free(terms);
  TRY(workers_run(training->workers, &batch, training->sync, &times));
  TRY(gradsync_finish(training->sync));
  TRY(optimizer_step(&update));
  for (int64_t i = 0; i < BATCH; i++) sum += losses[i];
  (void)printf("%.9g\n", sum / BATCH + penalty);
  return STATUS_OK;
}

static Status check_data(const Bytes *data, size_t samples, size_t sample_size) {
  return data->size == samples * (sizeof(int32_t) + sample_size)
             ? STATUS_OK
             : status_set(STATUS_DATA, "the data have %zu bytes", data->size);
}

static Status train(World *world, char **arguments) {
  const char *how = arguments[3];
  Training training = {.world = world,
                       .steps = atoi(arguments[2]),
                       .peak_rate = atof(arguments[4]),
                       .state = {.loss_scale = 1.0},
                       .optimizer = {.momentum = 0.9,
                                     .nesterov = strchr(how, 'n') != NULL,
                                     .use_ema = strchr(how, 'e') != NULL,
                                     .ema_momentum = 0.9}};
  Bytes data = {0};
  TRY(file_read(&data, arguments[1], SIZE_MAX));
  TRY(open_training(&training, arguments[0], atoi(how)));
  size_t size = (size_t)shape_count(training.graph->layers[0].shape);
  size_t samples = (size_t)(training.steps * BATCH);
  TRY(check_data(&data, samples, size));
  const int32_t *labels = (const int32_t *)(const void *)data.data;
  const uint8_t *pixels = data.data + samples * sizeof(int32_t);
  for (int64_t step = 0; step < training.steps; step++) {
    size_t first = (size_t)(step * BATCH);
    TRY(run_step(&training, step, labels + first, pixels + first * size));
  }
  ParameterValues momentum;
  TRY(parameter_values_create(&momentum, training.graph));
  TRY(parameters_download(&training.layout, training.backend, training.device, &training.values,
                          training.weights, false));
  if (training.averaged)
    TRY(parameters_download(&training.layout, training.backend, training.device, &training.values,
                            training.averaged, true));
  TRY(parameters_download(&training.layout, training.backend, training.device, &momentum,
                          training.velocity, true));
  KerasTraining state = {.learning_rate = training.learning_rate,
                         .momentum = training.optimizer.momentum,
                         .nesterov = training.optimizer.nesterov,
                         .label_smoothing = smoothing};
  TRY(save_model(arguments[5], training.graph, &training.values, &momentum, &state));
  parameter_values_free(&momentum);
  bytes_deinit(&data);
  close_training(&training);
  return STATUS_OK;
}

static Status predict(char **arguments) {
  Inference inference = {0};
  Bytes data = {0};
  float *logits;
  TRY(file_read(&data, arguments[1], SIZE_MAX));
  TRY(inference_open(&inference, &(InferenceDesc){.path = arguments[0], .threads = 2}));
  TRY(inference_prepare(&inference, BATCH));
  size_t size = (size_t)shape_count(inference.graph->layers[0].shape);
  size_t samples = data.size / (sizeof(int32_t) + size);
  TRY(check_data(&data, samples, size));
  if (samples < BATCH) return status_set(STATUS_DATA, "%zu images are no batch", samples);
  size_t count = (size_t)(BATCH * inference.classes);
  TRY(memory_alloc(&logits, count, sizeof *logits));
  ExecutorInput input = {.batch = BATCH, .pixels = data.data + samples * sizeof(int32_t)};
  TRY(executor_forward(inference.executor, &input));
  TRY(executor_read_output(inference.executor, logits));
  TRY(file_replace_unsynced(arguments[2], logits, count * sizeof *logits));
  memory_free(logits);
  bytes_deinit(&data);
  inference_close(&inference);
  return STATUS_OK;
}

static Status run(World *world, int argc, char **argv) {
  if (argc == 4 && strcmp(argv[1], "make") == 0) return make(argv[2], argv[3]);
  if (argc == 8 && strcmp(argv[1], "train") == 0) return train(world, argv + 2);
  if (argc == 5 && strcmp(argv[1], "predict") == 0) return predict(argv + 2);
  return status_set(STATUS_USAGE, "usage: train_steps make|train|predict ...");
}

int main(int argc, char **argv) {
  World *world = NULL;
  Status status = world_open(&world, &argc, &argv);
  if (status == STATUS_OK) status = run(world, argc, argv);
  if (status != STATUS_OK) (void)fprintf(stderr, "%s\n", status_message());
  world_close(world);
  return (int)status;
}
