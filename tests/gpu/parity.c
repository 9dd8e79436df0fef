// A backbone on the GPU against the same on the CPU in fp32: loss of a batch, gradient of every
// tensor, and 20 training steps.
//
//   parity BACKBONE SIDE fp32|bf16|fp16 [PLANS]   a line of JSON; exit 1 where they differ, 77: no
//                                                 GPU. PLANS: the folder where plans are kept
//
// How far they may lie apart is measured, not guessed: a third network on the CPU starts from
// weights that are off by one rounding of the GPU's type, each by lot. What that does to loss and
// gradient is what rounding can do in this network, and a correct GPU is within a small multiple of
// it, in every step. All three take the same images, draws and learning rates (Polyak's, of the
// CPU).
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/rng.h"
#include "exec/executor.h"
#include "model/model.h"
#include "train/optimizer.h"

enum { BATCH = 8, CLASSES = 8, STEPS = 20, LOTS = 3, CHANNELS = 3, THREADS = 8 };
static const double multiple = 16.0;    // of what one rounding of the weights does
static const double least_noise = 1e-6; // of a loss, where that is next to nothing
static const double shortening = 0.2;   // of Polyak's step

typedef enum Role { ON_CPU, NOISY, ON_GPU, ROLES } Role;

typedef struct Network {
  const Backend *backend;
  Device *device;
  Executor *executor;
  float *weights, *velocity, *gradients; // of the device
  float *found;                          // the gradient, on the host
} Network;

typedef struct Run {
  Graph *graph;
  ParameterLayout layout;
  DType dtype;       // of the GPU
  const char *plans; // folder
  int64_t side;
  uint8_t *pixels;
  int32_t labels[BATCH];
  Network networks[ROLES];
} Run;

static Status arena(const Network *network, float **out, int64_t count) {
  void *memory;
  TRY(network->backend->memory_alloc(network->device, &memory, (size_t)count * sizeof(float)));
  *out = memory;
  return STATUS_OK;
}

// Off by one rounding of `dtype`, up or down.
static void disturb(ParameterValues *values, const Graph *graph, DType dtype) {
  double unit = dtype == DTYPE_F32 ? 0x1p-23 : dtype == DTYPE_F16 ? 0x1p-11 : 0x1p-8;
  for (int p = 0; p < values->count; p++)
    for (int64_t i = 0; i < shape_count(graph->parameters[p].shape); i++) {
      RngWords words = rng_draw(9, RNG_SYNTHETIC, (uint64_t)p, (uint64_t)i, 0);
      values->values[p][i] *= (float)(1.0 + (words.word[0] & 1 ? unit : -unit));
    }
}

static Status open_network(Run *run, Role role) {
  Network *network = &run->networks[role];
  network->backend = backend_find(role == ON_GPU ? "cuda" : "cpu");
  const DeviceDesc device = {.threads = THREADS, .plans.cache = run->plans};
  TRY(network->backend->device_open(&network->device, &device));
  TRY(arena(network, &network->weights, run->layout.total));
  TRY(arena(network, &network->velocity, run->layout.trained));
  TRY(arena(network, &network->gradients, run->layout.reduced));
  TRY(memory_alloc(&network->found, (size_t)run->layout.reduced, sizeof(float)));
  ParameterValues values;
  TRY(parameter_values_create(&values, run->graph));
  parameter_values_initialize(&values, run->graph, 7);
  if (role == NOISY) disturb(&values, run->graph, run->dtype);
  TRY(parameters_upload(&run->layout, network->backend, network->device, network->weights, &values,
                        false));
  parameter_values_free(&values);
  const int64_t batch = BATCH;
  TRY(executor_create(&network->executor,
                      &(ExecutorDesc){.backend = network->backend,
                                      .device = network->device,
                                      .graph = run->graph,
                                      .layout = &run->layout,
                                      .mode = LOWER_TRAINING,
                                      .dtype = role == ON_GPU ? run->dtype : DTYPE_F32,
                                      .batches = &batch,
                                      .batch_count = 1}));
  TRY(executor_allocate(network->executor));
  return executor_bind(network->executor, network->weights, network->gradients);
}

static Status open_run(Run *run, const char *name) {
  const ModelSpec spec = {.backbone = name,
                          .image_h = (int)run->side,
                          .image_w = (int)run->side,
                          .class_count = CLASSES,
                          .dropout = 0.2,
                          .fine_tune = true,
                          .batch_norm_momentum = -1,
                          .batch_norm_epsilon = -1,
                          .stochastic_depth = -1};
  TRY(model_build(&run->graph, &spec));
  TRY(parameters_layout(&run->layout, run->graph));
  TRY(memory_alloc(&run->pixels, (size_t)(BATCH * run->side * run->side), CHANNELS));
  for (int64_t i = 0; i < BATCH * run->side * run->side * CHANNELS; i++)
    run->pixels[i] = (uint8_t)rng_draw(1, RNG_SYNTHETIC, (uint64_t)i, 1, 0).word[0];
  for (int i = 0; i < BATCH; i++) run->labels[i] = i % CLASSES;
  for (Role role = 0; role < ROLES; role++) TRY(open_network(run, role));
  return STATUS_OK;
}

static void close_run(Run *run) {
  for (Role role = 0; role < ROLES; role++) {
    Network *network = &run->networks[role];
    if (!network->device) continue;
    executor_free(network->executor);
    network->backend->memory_free(network->device, network->weights);
    network->backend->memory_free(network->device, network->velocity);
    network->backend->memory_free(network->device, network->gradients);
    network->backend->device_close(network->device);
    memory_free(network->found);
  }
  memory_free(run->pixels);
  parameters_layout_deinit(&run->layout);
  graph_free(run->graph);
}

// Loss of the batch by the weights of now, and its gradient.
static Status find_gradient(const Run *run, Network *network, double *loss) {
  float losses[BATCH];
  int32_t ranks[BATCH];
  executor_weights_changed(network->executor);
  TRY(executor_forward(network->executor, &(ExecutorInput){.batch = BATCH, .pixels = run->pixels}));
  TRY(executor_loss(network->executor,
                    &(ExecutorLoss){.labels = run->labels, .gradient_scale = 1.0f / BATCH}));
  TRY(executor_backward(network->executor, NULL, NULL));
  TRY(executor_read_losses(network->executor, losses, ranks));
  *loss = 0.0;
  for (int i = 0; i < BATCH; i++) *loss += (double)losses[i] / BATCH;
  return network->backend->copy_to_host(network->device, network->found, network->gradients,
                                        (size_t)run->layout.reduced * sizeof(float));
}

// |a - b| of the numbers from `first` on.
static double distance(const float *a, const float *b, int64_t first, int64_t count) {
  double apart = 0.0;
  for (int64_t i = first; i < first + count; i++)
    apart += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
  return sqrt(apart);
}

static double norm_of(const float *values, int64_t count) {
  double sum = 0.0;
  for (int64_t i = 0; i < count; i++) sum += (double)values[i] * values[i];
  return sqrt(sum);
}

typedef struct Figures {
  double losses[ROLES][STEPS];
  double gradient, gradient_noise; // relative differences from the CPU, of all tensors together
  double worst;                    // of a tensor: its difference by the noise of that tensor
  char worst_name[160];
  bool differs;
} Figures;

// A tensor may be off by its own noise, or by its share of the noise of all: noise is by lot.
static void compare_gradients(const Run *run, Figures *figures) {
  const float *cpu = run->networks[ON_CPU].found, *noisy = run->networks[NOISY].found;
  const float *gpu = run->networks[ON_GPU].found;
  double size = norm_of(cpu, run->layout.trained);
  double all = distance(noisy, cpu, 0, run->layout.trained);
  figures->gradient_noise = all / size;
  figures->gradient = distance(gpu, cpu, 0, run->layout.trained) / size;
  for (int p = 0; p < run->layout.parameter_count; p++) {
    int64_t first = run->layout.offsets[p], count = run->layout.counts[p];
    if (first >= run->layout.trained) continue;
    double noise = distance(noisy, cpu, first, count);
    double share = all * sqrt((double)count / (double)run->layout.trained);
    double off = distance(gpu, cpu, first, count) / (noise + share + 1e-30);
    if (off <= figures->worst) continue;
    figures->worst = off;
    (void)snprintf(figures->worst_name, sizeof figures->worst_name, "%s",
                   run->graph->parameters[p].path);
  }
  figures->differs |=
      !(figures->gradient <= multiple * figures->gradient_noise) || !(figures->worst <= multiple);
}

static Status update(const Run *run, const Network *network, double learning_rate) {
  struct {
    UpdateState state;
    float rate;
  } numbers = {{.loss_scale = 1.0}, (float)learning_rate};
  void *memory;
  TRY(network->backend->memory_alloc(network->device, &memory, sizeof numbers));
  Status status =
      network->backend->copy_to_device(network->device, memory, &numbers, sizeof numbers);
  const OptimizerArgs args = {.backend = network->backend,
                              .device = network->device,
                              .layout = &run->layout,
                              .config = &(OptimizerConfig){0},
                              .weights = network->weights,
                              .velocity = network->velocity,
                              .gradients = network->gradients,
                              .learning_rate = (float *)(void *)((UpdateState *)memory + 1),
                              .state = memory};
  if (status == STATUS_OK) status = optimizer_step(&args);
  network->backend->memory_free(network->device, memory);
  return status;
}

static Status train(Run *run, Figures *figures) {
  for (int step = 0; step < STEPS; step++) {
    for (Role role = 0; role < ROLES; role++)
      TRY(find_gradient(run, &run->networks[role], &figures->losses[role][step]));
    if (step == 0) compare_gradients(run, figures);
    double norm = norm_of(run->networks[ON_CPU].found, run->layout.trained);
    double rate = shortening * figures->losses[ON_CPU][step] / (norm * norm);
    for (Role role = 0; role < ROLES; role++) TRY(update(run, &run->networks[role], rate));
  }
  return STATUS_OK;
}

static double noise_of(const Figures *figures, int step) {
  double cpu = figures->losses[ON_CPU][step];
  return fabs(figures->losses[NOISY][step] - cpu) + least_noise * cpu;
}

// Noise grows from step to step, so each is held to the most there was until then, and the first
// ones to that of the first few: a single lot may come to next to nothing.
static void compare_losses(Figures *figures) {
  double noise = 0.0;
  for (int step = 0; step < LOTS; step++) noise = fmax(noise, noise_of(figures, step));
  for (int step = 0; step < STEPS; step++) {
    noise = fmax(noise, noise_of(figures, step));
    double off = fabs(figures->losses[ON_GPU][step] - figures->losses[ON_CPU][step]);
    figures->differs |= !(off <= multiple * noise);
  }
}

static void print_figures(const char *name, DType dtype, const Figures *figures) {
  (void)printf("{\"name\": \"%s\", \"precision\": \"%s\", \"differs\": %s, \"gradient\": %.3g, "
               "\"gradient_noise\": %.3g, \"worst_tensor\": \"%s\", \"worst_by_noise\": %.3g",
               name, dtype_name(dtype), figures->differs ? "true" : "false", figures->gradient,
               figures->gradient_noise, figures->worst_name, figures->worst);
  static const char *const keys[ROLES] = {"cpu", "noisy", "gpu"};
  for (Role role = 0; role < ROLES; role++) {
    (void)printf(", \"%s\": [", keys[role]);
    for (int step = 0; step < STEPS; step++)
      (void)printf("%s%.6g", step ? ", " : "", figures->losses[role][step]);
    (void)printf("]");
  }
  (void)printf("}\n");
}

static bool parse_dtype(DType *out, const char *text) {
  static const DType types[] = {DTYPE_F32, DTYPE_BF16, DTYPE_F16};
  for (int i = 0; i < 3; i++)
    if (strcmp(text, dtype_name(types[i])) == 0) return *out = types[i], true;
  return false;
}

int main(int argc, char **argv) {
  Run run = {0};
  Figures figures = {0};
  if (argc < 4 || argc > 5 || !parse_dtype(&run.dtype, argv[3])) {
    (void)fprintf(stderr, "usage: parity BACKBONE SIDE fp32|bf16|fp16 [PLANS]\n");
    return 64;
  }
  run.plans = argc > 4 ? argv[4] : NULL;
  const Backend *cuda = backend_find("cuda");
  DeviceCount devices = {0};
  if (!cuda || cuda->device_count(&devices) != STATUS_OK || devices.count == 0) {
    (void)printf("%s\n", !cuda ? "this program was built without CUDA" : devices.why_none);
    return 77;
  }
  run.side = atoi(argv[2]);
  Status status = open_run(&run, argv[1]);
  if (status == STATUS_OK) status = train(&run, &figures);
  if (status != STATUS_OK) {
    (void)fprintf(stderr, "%s: %s\n", argv[1], status_message());
    return 1;
  }
  compare_losses(&figures);
  print_figures(argv[1], run.dtype, &figures);
  close_run(&run);
  return figures.differs;
}
