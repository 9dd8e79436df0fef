// Trains a backbone on 8 images, one a class, and tells whether its gradients do what gradients
// should. Run by test_every_name.py under mpirun, each rank on one thread with its own share of the
// images and its own BatchNorm statistics.
//
//   overfit BACKBONE SIDE     a line of JSON
//
// Draws of dropout and stochastic depth are those of step 0 in every step, so that the loss is one
// function of the weights.
//
// Slopes: in each tensor a step along its gradient is chosen that should change the loss by EFFECT
// (by less where the tensor would move by more than STRETCH of its length: where its gradient is
// next to nothing). Groups of tensors take theirs at once, each forward or back by lot, and the
// central difference of the loss must be the sum of the effects. A tensor whose gradient is wrong
// by half of itself or more puts its group EFFECT / 2 off, and a group may be off by TOLERANCE. A
// group that is off by more is measured with steps four times as long: what rounding makes of the
// loss of a very deep network is a quarter of the effect then, a wrong gradient's part of it stays.
//
// Overfitting: the loss before each of STEPS steps, and after them.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/memory.h"
#include "base/process.h"
#include "base/rng.h"
#include "dist/world.h"
#include "exec/executor.h"
#include "model/model.h"
#include "train/gradsync.h"
#include "train/optimizer.h"

enum { BATCH = 8, CLASSES = 8, STEPS = 30, GROUP = 16, CHANNELS = 3 };
// Rounding and the kinks of activations leave 5e-5 of the worst groups.
static const double effect = 5e-4, tolerance = 1.5e-4, stretch = 0.002, shortening = 0.2;

typedef struct Run {
  World *world;
  int64_t side, share; // images of this rank
  Graph *graph;
  ParameterLayout layout;
  const Backend *backend;
  Device *device;
  Executor *executor;
  GradSync *sync;
  float *weights, *velocity, *gradients;
  uint8_t *pixels; // of this rank
  int32_t labels[BATCH];
} Run;

// Each class has stripes of a direction and a colour of its own, under noise.
static void draw_images(Run *run) {
  int64_t first = run->world->rank * run->share, row = run->side * CHANNELS;
  for (int64_t i = 0; i < run->share; i++) {
    int label = (int)(first + i);
    double angle = 0.39 * label, frequency = 12.0 / (double)run->side;
    run->labels[i] = label;
    for (int64_t k = 0; k < run->side * row; k++) {
      double x = (double)(k % row / CHANNELS), y = (double)(k / row);
      double wave =
          sin(frequency * (x * cos(angle) + y * sin(angle)) + (double)(k % CHANNELS) * label);
      RngWords words = rng_draw(1, RNG_SYNTHETIC, (uint64_t)label, (uint64_t)k, 0);
      run->pixels[i * run->side * row + k] =
          (uint8_t)(128.0 + 80.0 * wave + 40.0 * (rng_unit(words.word[0]) - 0.5));
    }
  }
}

static Status place_weights(Run *run) {
  ParameterValues values;
  void *memory;
  TRY(run->backend->memory_alloc(run->device, &memory, (size_t)run->layout.total * sizeof(float)));
  run->weights = memory;
  TRY(run->backend->memory_alloc(run->device, &memory,
                                 (size_t)run->layout.trained * sizeof(float)));
  run->velocity = memory;
  TRY(run->backend->memory_alloc(run->device, &memory,
                                 (size_t)run->layout.reduced * sizeof(float)));
  run->gradients = memory;
  TRY(parameter_values_create(&values, run->graph));
  parameter_values_initialize(&values, run->graph, 7);
  TRY(parameters_upload(&run->layout, run->backend, run->device, run->weights, &values, false));
  parameter_values_free(&values);
  return STATUS_OK;
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
  run->backend = backend_find("cpu");
  TRY(run->backend->device_open(&run->device, &(DeviceDesc){.threads = 1}));
  TRY(place_weights(run));
  TRY(gradsync_create(&run->sync, &(GradSyncDesc){.world = run->world,
                                                  .backend = run->backend,
                                                  .device = run->device,
                                                  .layout = &run->layout,
                                                  .virtual_workers = run->world->size}));
  TRY(executor_create(&run->executor, &(ExecutorDesc){.backend = run->backend,
                                                      .device = run->device,
                                                      .graph = run->graph,
                                                      .layout = &run->layout,
                                                      .mode = LOWER_TRAINING,
                                                      .dtype = DTYPE_F32,
                                                      .batches = &run->share,
                                                      .batch_count = 1}));
  TRY(executor_allocate(run->executor));
  TRY(executor_bind(run->executor, run->weights, run->gradients));
  TRY(memory_alloc(&run->pixels, (size_t)(run->share * run->side * run->side), CHANNELS));
  draw_images(run);
  return STATUS_OK;
}

static void close_run(Run *run) {
  executor_free(run->executor);
  gradsync_free(run->sync);
  run->backend->memory_free(run->device, run->weights);
  run->backend->memory_free(run->device, run->velocity);
  run->backend->memory_free(run->device, run->gradients);
  run->backend->device_close(run->device);
  memory_free(run->pixels);
  parameters_layout_deinit(&run->layout);
  graph_free(run->graph);
}

// The mean loss over all ranks by the weights of now.
static Status find_loss(Run *run, double *loss) {
  float losses[BATCH];
  int32_t ranks[BATCH];
  const ExecutorInput input = {.batch = run->share,
                               .pixels = run->pixels,
                               .key.first_sample = run->world->rank * run->share};
  executor_weights_changed(run->executor);
  TRY(executor_forward(run->executor, &input));
  TRY(executor_loss(run->executor,
                    &(ExecutorLoss){.labels = run->labels, .gradient_scale = 1.0f / BATCH}));
  TRY(executor_read_losses(run->executor, losses, ranks));
  *loss = 0.0;
  for (int64_t i = 0; i < run->share; i++) *loss += (double)losses[i] / BATCH;
  return world_reduce_f64(run->world, WORLD_SUM, loss, 1);
}

static Status find_gradient(Run *run, double *loss) {
  gradsync_begin_last(run->sync, run->gradients);
  TRY(find_loss(run, loss));
  TRY(executor_backward(run->executor, gradsync_ready, run->sync));
  return gradsync_finish(run->sync);
}

// --- slopes ---

// The step of one tensor: `length` times its gradient, changing the loss by `effect`.
typedef struct Slope {
  int parameter;
  double length, effect;
} Slope;

static double norm_of(const float *values, int64_t count) {
  double sum = 0.0;
  for (int64_t i = 0; i < count; i++) sum += (double)values[i] * values[i];
  return sqrt(sum);
}

// A tensor that begins with zeros is measured as if of ones.
static Slope find_slope(const Run *run, int parameter) {
  const float *gradients = gradsync_gradients(run->sync); // of all ranks
  int64_t first = run->layout.offsets[parameter], count = run->layout.counts[parameter];
  double g = norm_of(gradients + first, count), w = norm_of(run->weights + first, count);
  if (g == 0.0) return (Slope){.parameter = parameter};
  double most = stretch * (w > 0.0 ? w : sqrt((double)count)), move = fmin(effect / g, most);
  bool back = rng_draw(2, RNG_SYNTHETIC, (uint64_t)parameter, 0, 0).word[0] & 1;
  return (Slope){parameter, (back ? -move : move) / g, back ? -move * g : move * g};
}

// Puts a tensor's step, taken `factor` times, on its weights in `kept`, and adds to `effect` what
// that should change the loss by: from the weights as they were rounded.
static void move_weights(Run *run, const float *kept, const Slope *slope, double factor,
                         double *effect_sum) {
  const float *gradients = gradsync_gradients(run->sync);
  int64_t first = run->layout.offsets[slope->parameter];
  for (int64_t i = first; i < first + run->layout.counts[slope->parameter]; i++) {
    run->weights[i] = (float)(kept[i] + factor * slope->length * gradients[i]);
    *effect_sum += ((double)run->weights[i] - kept[i]) * gradients[i];
  }
}

typedef struct Figures {
  double losses[STEPS + 1];
  int tensors, sharp; // trained, and those whose slope is the full effect
  int dead;           // whose gradient is exactly zero
  double worst;       // difference of a group's slope from the sum of its effects
} Figures;

// All steps are taken `part` times; the difference is put down to whole ones.
static Status check_group(Run *run, const float *kept, const Slope *slopes, int count, double part,
                          double *difference) {
  double losses[2], effects[2] = {0};
  for (int side = 0; side < 2; side++) {
    for (int i = 0; i < count; i++)
      move_weights(run, kept, &slopes[i], side ? -part : part, &effects[side]);
    TRY(find_loss(run, &losses[side]));
  }
  double nothing = 0.0;
  for (int i = 0; i < count; i++) move_weights(run, kept, &slopes[i], 0.0, &nothing);
  *difference = fabs(losses[0] - losses[1] - (effects[0] - effects[1])) / 2.0 / part;
  return STATUS_OK;
}

static Status check_slopes(Run *run, Figures *figures) {
  double loss;
  Slope *slopes;
  float *kept;
  TRY(find_gradient(run, &loss));
  TRY(memory_alloc(&kept, (size_t)run->layout.trained, sizeof *kept));
  memcpy(kept, run->weights, (size_t)run->layout.trained * sizeof *kept);
  TRY(memory_alloc(&slopes, (size_t)run->layout.parameter_count, sizeof *slopes));
  for (int p = 0; p < run->layout.parameter_count; p++) {
    if (run->layout.offsets[p] >= run->layout.trained) continue;
    Slope *slope = &slopes[figures->tensors++];
    *slope = find_slope(run, p);
    figures->sharp += fabs(slope->effect) > 0.99 * effect;
    figures->dead += slope->length == 0.0;
  }
  for (int first = 0; first < figures->tensors; first += GROUP) {
    int count = figures->tensors - first < GROUP ? figures->tensors - first : GROUP;
    double difference;
    TRY(check_group(run, kept, slopes + first, count, 1.0, &difference));
    if (difference > tolerance)
      TRY(check_group(run, kept, slopes + first, count, 4.0, &difference));
    figures->worst = fmax(figures->worst, difference);
  }
  memory_free(kept);
  memory_free(slopes);
  return STATUS_OK;
}

// --- training ---

// Polyak's step for a function whose least value is 0, shortened: loss / |gradient|^2 would bring a
// linear one to 0 at once. It suits every network alike, whatever the size of its gradients.
static Status overfit(Run *run, Figures *figures) {
  UpdateState state = {.loss_scale = 1.0};
  float rate;
  OptimizerArgs update = {.backend = run->backend,
                          .device = run->device,
                          .layout = &run->layout,
                          .config = &(OptimizerConfig){0},
                          .weights = run->weights,
                          .velocity = run->velocity,
                          .gradients = gradsync_gradients(run->sync),
                          .learning_rate = &rate,
                          .state = &state};
  for (int step = 0; step < STEPS; step++) {
    TRY(find_gradient(run, &figures->losses[step]));
    double norm = norm_of(update.gradients, run->layout.trained);
    rate = (float)(shortening * figures->losses[step] / (norm * norm));
    TRY(optimizer_step(&update));
  }
  return find_loss(run, &figures->losses[STEPS]);
}

static void print_figures(const char *name, const Figures *figures) {
  (void)printf("{\"name\": \"%s\", \"tensors\": %d, \"sharp\": %d, \"dead\": %d, \"worst\": %.3g, "
               "\"tolerance\": %g, \"processor_s\": %.1f, \"memory_mib\": %zu, \"losses\": [",
               name, figures->tensors, figures->sharp, figures->dead, figures->worst, tolerance,
               (double)clock() / CLOCKS_PER_SEC, process_memory_peak() >> 20);
  for (int i = 0; i <= STEPS; i++) (void)printf("%s%.4f", i ? ", " : "", figures->losses[i]);
  (void)printf("]}\n");
  (void)fflush(stdout);
}

static Status run_name(World *world, const char *name, int64_t side) {
  Run run = {.world = world, .side = side, .share = BATCH / world->size};
  Figures figures = {0};
  TRY(open_run(&run, name));
  TRY(check_slopes(&run, &figures));
  TRY(overfit(&run, &figures));
  close_run(&run);
  if (world->rank == 0) print_figures(name, &figures);
  return STATUS_OK;
}

int main(int argc, char **argv) {
  World *world = NULL;
  Status status = world_open(&world, &argc, &argv);
  if (status == STATUS_OK)
    status = argc == 3 ? run_name(world, argv[1], atoi(argv[2]))
                       : status_set(STATUS_USAGE, "usage: overfit BACKBONE SIDE");
  if (status != STATUS_OK) {
    (void)fprintf(stderr, "%s\n", status_message());
    world_abort(world, (int)status);
  }
  world_close(world);
  return 0;
}
