// Recomputation of activations: one model of each family is run with it and without, and loss,
// output, gradients and batch statistics have the same bits; the plan is smaller. Arguments: the
// backend, "cpu", and the families, where not all.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "unit/model_fixture.h"

enum { BATCH = 2, CLASSES = 5 };

typedef struct Family {
  const char *name;
  int side;
  // The part of the arena that must be saved at least. About half of what is kept otherwise are
  // results of convolutions; of residual blocks every other sum stays, and results of pools stay.
  double saved;
  bool in_16_bits; // too
} Family;

static const Family families[] = {
    {"resnet_v1_50", 64, 0.25, true},        {"resnet_v2_50", 64, 0.4, false},
    {"mobilenet_v2_100_224", 64, 0.4, true}, {"mobilenet_v3_small_100_224", 64, 0.4, false},
    {"inception_v3", 96, 0.25, false},       {"inception_resnet_v2", 96, 0.25, false},
    {"nasnet_mobile", 64, 0.25, false},      {"pnasnet_large", 64, 0.25, false},
    {"efficientnet_b0", 64, 0.5, true},      {"efficientnetv2-b0", 64, 0.4, false},
    {"bit_s-r50x1", 64, 0.4, false},
};
enum { FAMILY_COUNT = sizeof families / sizeof families[0], MAX_SIDE = 96 };

static const char *backend;
static char **names; // of the families to run; NULL: all
static int name_count;

typedef struct Outcome {
  ExecutorRecompute plan;
  float losses[BATCH], output[BATCH * CLASSES], *gradients; // batch statistics behind them
} Outcome;

static Outcome run(const ModelFixture *model, DType dtype, bool recompute) {
  static const int64_t batch = BATCH;
  static const int32_t labels[BATCH] = {0, 4};
  static uint8_t pixels[BATCH * MAX_SIDE * MAX_SIDE * 3];
  int32_t ranks[BATCH];
  size_t size = (size_t)model->layout.reduced * sizeof(float);
  Outcome outcome = {.gradients = malloc(size)};
  float *gradients = model_fixture_floats(model, model->layout.reduced);
  Executor *executor;
  model_fixture_pixels(pixels, sizeof pixels);
  assert_ok(executor_create(&executor, &(ExecutorDesc){.backend = model->backend,
                                                       .device = model->device,
                                                       .graph = model->graph,
                                                       .layout = &model->layout,
                                                       .mode = LOWER_TRAINING,
                                                       .dtype = dtype,
                                                       .recompute = recompute,
                                                       .batches = &batch,
                                                       .batch_count = 1}));
  outcome.plan = executor_recompute(executor);
  assert_ok(executor_allocate(executor));
  assert_ok(executor_bind(executor, model->weights, gradients));
  ExecutorInput input = {.batch = BATCH, .pixels = pixels, .key = {.seed = 3, .step = 1}};
  assert_ok(executor_forward(executor, &input));
  assert_ok(executor_read_output(executor, outcome.output));
  ExecutorLoss loss = {.labels = labels, .smoothing = 0.1f, .gradient_scale = 1.0f / BATCH};
  assert_ok(executor_loss(executor, &loss));
  assert_ok(executor_backward(executor, NULL, NULL));
  assert_ok(executor_read_losses(executor, outcome.losses, ranks));
  assert_ok(model->backend->copy_to_host(model->device, outcome.gradients, gradients, size));
  model->backend->memory_free(model->device, gradients);
  executor_free(executor);
  return outcome;
}

static void check_family(const Family *family, DType dtype) {
  ModelFixture model;
  ModelSpec spec = model_fixture_spec(family->name, family->side, CLASSES);
  spec.dropout = 0.2;
  assert_ok(model_build(&model.graph, &spec));
  model_fixture_open(&model, backend, 1, NULL);
  Outcome kept = run(&model, dtype, false), again = run(&model, dtype, true);
  assert_int_equal(kept.plan.rebuilt, 0);
  assert_int_equal(kept.plan.arena_bytes, again.plan.kept_bytes);
  double saved = 1.0 - (double)again.plan.arena_bytes / (double)again.plan.kept_bytes;
  printf("%-28s %s: %3d rebuilt, %6.1f of %6.1f MiB, %4.1f %% saved\n", family->name,
         dtype_name(dtype), again.plan.rebuilt, (double)again.plan.arena_bytes / (1 << 20),
         (double)again.plan.kept_bytes / (1 << 20), 100.0 * saved);
  for (int n = 0; n < BATCH; n++) assert_true(isfinite(kept.losses[n]) && kept.losses[n] > 0.0f);
  if (memcmp(kept.output, again.output, sizeof kept.output) != 0 ||
      memcmp(kept.losses, again.losses, sizeof kept.losses) != 0)
    fail_msg("%s: recomputation changed the forward pass", family->name);
  double squares = 0.0;
  for (int64_t i = 0; i < model.layout.reduced; i++) {
    squares += (double)kept.gradients[i] * kept.gradients[i];
    if (memcmp(&kept.gradients[i], &again.gradients[i], sizeof(float)) != 0)
      fail_msg("%s: gradient[%lld] is %.9g, and %.9g recomputed", family->name, (long long)i,
               (double)kept.gradients[i], (double)again.gradients[i]);
  }
  assert_true(isfinite(squares) && squares > 0.0);
  if (dtype == DTYPE_F32 && saved < family->saved)
    fail_msg("%s: only %.1f %% saved", family->name, 100.0 * saved);
  free(kept.gradients);
  free(again.gradients);
  model_fixture_close(&model);
}

static bool is_wanted(const Family *family) {
  bool wanted = name_count == 0;
  for (int i = 0; i < name_count; i++) wanted = wanted || strcmp(names[i], family->name) == 0;
  return wanted;
}

static void same_bits(void **state) {
  (void)state;
  for (int i = 0; i < FAMILY_COUNT; i++)
    if (is_wanted(&families[i])) check_family(&families[i], DTYPE_F32);
}

static void same_bits_in_16_bits(void **state) {
  (void)state;
  const Backend *row = backend_find(backend);
  Device *device;
  assert_ok(row->device_open(&device, &(DeviceDesc){.threads = 1}));
  bool multiplies = row->device_multiplies(device, DTYPE_BF16);
  row->device_close(device);
  if (!multiplies) skip();
  for (int i = 0; i < FAMILY_COUNT; i++)
    if (is_wanted(&families[i]) && families[i].in_16_bits) check_family(&families[i], DTYPE_BF16);
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(same_bits),
                                     cmocka_unit_test(same_bits_in_16_bits)};
  backend = argc > 1 ? argv[1] : "cpu";
  names = argv + 2;
  name_count = argc > 2 ? argc - 2 : 0;
  return cmocka_run_group_tests(tests, NULL, NULL);
}
