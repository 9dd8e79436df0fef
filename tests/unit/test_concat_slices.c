// Concatenations whose inputs are written where they belong: outputs and gradients are those of a
// backend that copies, and the plan is smaller. Branches end in each kind of step, one is read by
// others too, one by a convolution (which takes no slices), one is a concatenation itself, and one
// cell has so many channels that fill no blocks that it is copied. Then how much of the backbones
// that concatenate lies in place.
//
// usage: test_unit_concat_slices [BACKEND]
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "unit/model_fixture.h"

enum { BATCH = 3, SIDE = 12, CLASSES = 5, INPUTS = 16, SLICES = 7 };

static const char *backend_name = "cpu";

static Value named_conv(Graph *g, Value x, int64_t filters, int kernel, const char *block,
                        const char *branch, bool normed) {
  char name[64];
  Conv2dDesc conv = {.filters = filters, .kernel_h = kernel, .padding = PADDING_SAME};
  (void)snprintf(name, sizeof name, "%s_%s", block, branch);
  x = graph_conv2d(g, x, &conv, name);
  (void)snprintf(name, sizeof name, "%s_%s_bn", block, branch);
  if (normed)
    x = graph_batch_normalization(g, x, &(BatchNormDesc){.momentum = 0.9, .epsilon = 1e-3}, name);
  (void)snprintf(name, sizeof name, "%s_%s_act", block, branch);
  return graph_activation(g, x, normed ? ACTIVATION_RELU : ACTIVATION_SWISH, name);
}

// Eight values side by side. `width` of the second: 16 fills a block of channels, 12 none.
static Value cell(Graph *g, Value x, int64_t width, const char *block) {
  char name[64];
#define NAME(text) ((void)snprintf(name, sizeof name, "%s_%s", block, text), name)
  PoolDesc pool = {.size_h = 3, .stride_h = 1, .padding = PADDING_SAME};
  Value p = named_conv(g, x, 32, 1, block, "p", true);
  Value a = named_conv(g, x, width, 1, block, "a", true);
  Value inner[] = {named_conv(g, a, 16, 3, block, "inner0", true),
                   named_conv(g, x, 16, 1, block, "inner1", false)};
  Value both = graph_concatenate(g, inner, 2, NAME("inner"));
  Value b = graph_max_pooling2d(g, x, &pool, NAME("max"));
  b = graph_rescaling(g, b, &(RescalingDesc){1, {0.5}, {0.25}}, NAME("rescale"));
  Value c = graph_average_pooling2d(g, p, &pool, NAME("average"));
  c = graph_add(g, c, p, NAME("add"));
  Value d = graph_average_pooling2d(g, c, &pool, NAME("average2"));
  Value e = named_conv(g, x, 7, 1, block, "e", true);
  return graph_concatenate(g, (Value[]){p, both, a, b, c, d, e}, 7, NAME("concat"));
}

static float image[BATCH * SIDE * SIDE * 3];

static void open_cells(ModelFixture *model) {
  assert_ok(graph_create(&model->graph, "cells"));
  Value x = graph_input(model->graph, SHAPE(SIDE, SIDE, 3), "image");
  x = named_conv(model->graph, x, 32, 3, "stem", "conv", true);
  x = cell(model->graph, x, 16, "whole");
  x = cell(model->graph, x, 12, "broken");
  x = graph_global_average_pooling2d(model->graph, x, false, "pool");
  x = graph_dense(model->graph, x, &(DenseDesc){.units = CLASSES}, "dense");
  assert_ok(graph_finish(model->graph, x));
  model_fixture_open(model, backend_name, 2, NULL);
  for (int i = 0; i < BATCH * SIDE * SIDE * 3; i++)
    image[i] = (float)(i * 7919 % 1013) / 506.0f - 1.0f;
}

// What one way of running the model gave.
typedef struct Outcome {
  ExecutorConcats concats;
  size_t memory_bytes;
  float output[BATCH * CLASSES], *gradients;
} Outcome;

static Executor *plan(const ModelFixture *model, const Backend *backend, LowerMode mode) {
  static const int64_t batch = BATCH;
  Executor *executor;
  assert_ok(executor_create(&executor, &(ExecutorDesc){.backend = backend,
                                                       .device = model->device,
                                                       .graph = model->graph,
                                                       .layout = &model->layout,
                                                       .mode = mode,
                                                       .dtype = DTYPE_F32,
                                                       .batches = &batch,
                                                       .batch_count = 1}));
  return executor;
}

static Outcome run(const ModelFixture *model, const Backend *backend, LowerMode mode) {
  static const int32_t labels[BATCH] = {0, 3, 4};
  int64_t count = model->layout.reduced;
  Outcome outcome = {.gradients = calloc((size_t)count, sizeof(float))};
  float *gradients = model_fixture_floats(model, count); // batch statistics go there
  assert_non_null(outcome.gradients);
  Executor *executor = plan(model, backend, mode);
  assert_ok(executor_allocate(executor));
  bool trains = mode == LOWER_TRAINING;
  assert_ok(executor_bind(executor, model->weights, gradients));
  assert_ok(executor_forward(executor, &(ExecutorInput){.batch = BATCH, .values = image}));
  assert_ok(executor_read_output(executor, outcome.output));
  if (trains) {
    ExecutorLoss loss = {.labels = labels, .gradient_scale = 1.0f / BATCH};
    assert_ok(executor_loss(executor, &loss));
    assert_ok(executor_backward(executor, NULL, NULL));
    assert_ok(backend->copy_to_host(model->device, outcome.gradients, gradients,
                                    (size_t)count * sizeof(float)));
  }
  backend->memory_free(model->device, gradients);
  outcome.concats = executor_concats(executor);
  outcome.memory_bytes = executor_memory_bytes(executor);
  executor_free(executor);
  return outcome;
}

static bool never(const Device *device, Shape shape, Slice slice) {
  (void)device, (void)shape, (void)slice;
  return false;
}

static void compare(const float *a, const float *b, int64_t count, const char *what) {
  float largest = 0.0f;
  for (int64_t i = 0; i < count; i++) largest = fmaxf(largest, fabsf(b[i]));
  // Gradients of a value with several readers are summed in another order.
  for (int64_t i = 0; i < count; i++)
    if (!(fabsf(a[i] - b[i]) <= 1e-5f * largest))
      fail_msg("%s[%lld]: %g in place, %g copied", what, (long long)i, (double)a[i], (double)b[i]);
}

static void same_as_copies(void **state) {
  (void)state;
  ModelFixture model;
  open_cells(&model);
  Backend copying = *backend_find(backend_name);
  copying.can_slice = never;
  for (int mode = LOWER_INFERENCE; mode <= LOWER_TRAINING; mode++) {
    Outcome sliced = run(&model, backend_find(backend_name), (LowerMode)mode);
    Outcome copied = run(&model, &copying, (LowerMode)mode);
    compare(sliced.output, copied.output, BATCH * CLASSES, "output");
    compare(sliced.gradients, copied.gradients, model.layout.reduced, "gradient");
    assert_int_equal(sliced.concats.inputs, INPUTS);
    assert_int_equal(sliced.concats.in_place, SLICES);
    assert_int_equal(copied.concats.in_place, 0);
    assert_true(sliced.concats.copied_bytes < copied.concats.copied_bytes);
    assert_true(sliced.memory_bytes <= copied.memory_bytes);
    free(sliced.gradients);
    free(copied.gradients);
  }
  model_fixture_close(&model);
}

// Of a whole backbone in training. All of it lies in place but channels that end inside a block,
// and the convolutions that meet in a concatenation without a norm: two in each of NASNet's four
// factorized reductions.
typedef struct Backbone {
  const char *name;
  int inputs, by_8, by_16; // in place where a block has 8 channels, or 16
} Backbone;
static const Backbone backbones[] = {
    {"InceptionV3", 46, 46, 46},
    {"inception_resnet_v2", 101, 101, 101},
    // Cells of 44, 88 and 176 channels, stems of 11 and 22.
    {"nasnet_mobile", 96, 56, 28},
    {"NASNetMobile", 96, 56, 28},
    // 168, 336 and 672; 42 and 84.
    {"nasnet_large", 132, 116, 80},
    {"NASNetLarge", 132, 116, 80},
    // 216, 432 and 864; 54 and 108.
    {"pnasnet_large", 78, 60, 40},
};
enum { BACKBONE_COUNT = sizeof backbones / sizeof backbones[0] };

static void share_of_backbones(void **state) {
  (void)state;
  const Backend *backend = backend_find(backend_name);
  for (int i = 0; i < BACKBONE_COUNT; i++) {
    const Backbone *backbone = &backbones[i];
    ModelFixture model = {.backend = backend};
    ModelSpec spec = model_fixture_spec(backbone->name, 75, CLASSES);
    assert_ok(model_build(&model.graph, &spec));
    assert_ok(parameters_layout(&model.layout, model.graph));
    assert_ok(backend->device_open(&model.device, &(DeviceDesc){.threads = 1}));
    Executor *executor = plan(&model, backend, LOWER_TRAINING);
    ExecutorConcats concats = executor_concats(executor);
    bool by_8 = backend->can_slice(model.device, SHAPE(1, 1, 8), (Slice){.channels = 16});
    int in_place = by_8 ? backbone->by_8 : backbone->by_16;
    if (concats.inputs != backbone->inputs || concats.in_place != in_place)
      fail_msg("%s: %d of %d in place, not %d of %d", backbone->name, concats.in_place,
               concats.inputs, in_place, backbone->inputs);
    executor_free(executor);
    model_fixture_close(&model);
  }
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(same_as_copies),
                                     cmocka_unit_test(share_of_backbones)};
  if (argc > 1) backend_name = argv[1];
  return cmocka_run_group_tests(tests, NULL, NULL);
}
