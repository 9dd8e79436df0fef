// Concatenations whose inputs are written where they belong: outputs and gradients are those of a
// backend that copies, and the plan is smaller. Branches end in each kind of step, one is read by
// others too, one by a convolution (which takes no slices), one is a concatenation itself, and one
// cell has so many channels that fill no blocks that it is copied.
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
  model_fixture_open(model, "cpu", 2, NULL);
  for (int i = 0; i < BATCH * SIDE * SIDE * 3; i++)
    image[i] = (float)(i * 7919 % 1013) / 506.0f - 1.0f;
}

// What one way of running the model gave.
typedef struct Outcome {
  ExecutorConcats concats;
  size_t memory_bytes;
  float output[BATCH * CLASSES], *gradients;
} Outcome;

static Outcome run(const ModelFixture *model, const Backend *backend, LowerMode mode) {
  static const int64_t batch = BATCH;
  static const int32_t labels[BATCH] = {0, 3, 4};
  Outcome outcome = {.gradients = calloc((size_t)model->layout.reduced, sizeof(float))};
  Executor *executor;
  assert_non_null(outcome.gradients);
  assert_ok(executor_create(&executor, &(ExecutorDesc){.backend = backend,
                                                       .device = model->device,
                                                       .graph = model->graph,
                                                       .layout = &model->layout,
                                                       .mode = mode,
                                                       .dtype = DTYPE_F32,
                                                       .batches = &batch,
                                                       .batch_count = 1}));
  assert_ok(executor_allocate(executor));
  bool trains = mode == LOWER_TRAINING;
  assert_ok(executor_bind(executor, model->weights, trains ? outcome.gradients : NULL));
  assert_ok(executor_forward(executor, &(ExecutorInput){.batch = BATCH, .values = image}));
  assert_ok(executor_read_output(executor, outcome.output));
  if (trains) {
    ExecutorLoss loss = {.labels = labels, .gradient_scale = 1.0f / BATCH};
    assert_ok(executor_loss(executor, &loss));
    assert_ok(executor_backward(executor, NULL, NULL));
  }
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
  Backend copying = *backend_find("cpu");
  copying.can_slice = never;
  for (int mode = LOWER_INFERENCE; mode <= LOWER_TRAINING; mode++) {
    Outcome sliced = run(&model, backend_find("cpu"), (LowerMode)mode);
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

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(same_as_copies)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
