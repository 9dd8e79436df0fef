// A model run in two parts, backbone and head, against the model run as a whole: outputs, losses,
// gradients and dropout are those of the whole. Cached features rest on it.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/memory.h"
#include "unit/model_fixture.h"

enum { BATCH = 3, SIDE = 32, CLASSES = 5 };

static uint8_t pixels[BATCH * SIDE * SIDE * 3];

static void open_model(ModelFixture *model, const char *backbone, double dropout) {
  ModelSpec spec = model_fixture_spec(backbone, SIDE, CLASSES);
  spec.dropout = dropout;
  spec.fine_tune = false;
  assert_ok(model_build(&model->graph, &spec));
  model_fixture_open(model, "cpu", 1, NULL);
  model_fixture_pixels(pixels, sizeof pixels);
}

static Executor *open_part(const ModelFixture *model, LowerMode mode, Value input, Value output,
                           float *gradients) {
  static const int64_t batch = BATCH;
  Executor *executor;
  assert_ok(executor_create(&executor, &(ExecutorDesc){.backend = model->backend,
                                                       .device = model->device,
                                                       .graph = model->graph,
                                                       .layout = &model->layout,
                                                       .mode = mode,
                                                       .input = input,
                                                       .output = output,
                                                       .dtype = DTYPE_F32,
                                                       .batches = &batch,
                                                       .batch_count = 1}));
  assert_ok(executor_allocate(executor));
  assert_ok(executor_bind(executor, model->weights, gradients));
  return executor;
}

static void compute_features(float **out, const ModelFixture *model) {
  Value features = model_features(model->graph);
  assert_ok(memory_alloc(out, BATCH * (size_t)model_feature_length(model->graph), sizeof(float)));
  Executor *backbone = open_part(model, LOWER_INFERENCE, 0, features, NULL);
  assert_ok(executor_forward(backbone, &(ExecutorInput){.batch = BATCH, .pixels = pixels}));
  assert_ok(executor_read_output(backbone, *out));
  executor_free(backbone);
}

typedef struct Outcome {
  float logits[BATCH * CLASSES], losses[BATCH], *gradients;
} Outcome;

static void run_step(Outcome *out, const ModelFixture *model, Value input, const float *features) {
  static const int32_t labels[BATCH] = {4, 0, 2};
  int32_t ranks[BATCH];
  assert_ok(memory_alloc(&out->gradients, (size_t)model->layout.reduced, sizeof(float)));
  Executor *executor = open_part(model, LOWER_TRAINING, input, 0, out->gradients);
  assert_ok(executor_forward(executor, &(ExecutorInput){.batch = BATCH,
                                                        .pixels = features ? NULL : pixels,
                                                        .values = features,
                                                        .key = {11, 3, 8}}));
  assert_ok(executor_read_output(executor, out->logits));
  assert_ok(executor_loss(executor, &(ExecutorLoss){.labels = labels,
                                                    .smoothing = 0.1f,
                                                    .gradient_scale = 1.0f / BATCH}));
  assert_ok(executor_backward(executor, NULL, NULL));
  assert_ok(executor_read_losses(executor, out->losses, ranks));
  executor_free(executor);
}

// The same batch size runs the same kernels: not one bit may differ.
static void parts_are_the_whole(void **state) {
  (void)state;
  static const char *const backbones[] = {"mobilenet_v2_100_224", "ResNet50", "efficientnet_b0"};
  for (size_t b = 0; b < sizeof backbones / sizeof *backbones; b++) {
    ModelFixture model;
    float *features;
    Outcome whole, head;
    open_model(&model, backbones[b], 0.4);
    compute_features(&features, &model);
    run_step(&whole, &model, 0, NULL);
    run_step(&head, &model, model_features(model.graph), features);
    assert_true(model.layout.reduced > 0);
    assert_memory_equal(whole.logits, head.logits, sizeof whole.logits);
    assert_memory_equal(whole.losses, head.losses, sizeof whole.losses);
    assert_memory_equal(whole.gradients, head.gradients,
                        (size_t)model.layout.reduced * sizeof(float));
    float largest = 0.0f;
    for (int64_t i = 0; i < model.layout.reduced; i++)
      largest = fmaxf(largest, fabsf(head.gradients[i]));
    assert_true(largest > 0.0f);
    memory_free(whole.gradients);
    memory_free(head.gradients);
    memory_free(features);
    model_fixture_close(&model);
  }
}

// A part that would need a value from before its input is our own mistake, and named.
static void a_part_has_one_input(void **state) {
  (void)state;
  ModelFixture model;
  open_model(&model, "mobilenet_v2_100_224", 0.0);
  Value add = 0; // its inputs lie before it; the layer before it is one of them only
  while (model.graph->layers[add].kind != LAYER_ADD) add++;
  Program *program;
  assert_int_equal(program_create(&program, &(ProgramDesc){.graph = model.graph, .input = add - 1}),
                   STATUS_INTERNAL);
  assert_non_null(strstr(status_message(), model.graph->layers[add].name));
  model_fixture_close(&model);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(parts_are_the_whole),
      cmocka_unit_test(a_part_has_one_input),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
