// What the CUDA backend puts into a convolution, over the stand-ins: in inference the
// normalisation, the sum and the activation behind it, against the CPU backend, which runs them one
// by one; in 16 bits the sums for the statistics of the normalisation behind it, against fp32,
// which sums them in a pass of its own. Whole models of families whose convolutions are followed by
// different things.
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

enum { BATCH = 2, CLASSES = 5, SIDE = 32 };

typedef struct Family {
  const char *name;
  const char *followed_by; // what some convolution takes in, in the words of its plan
} Family;

static const Family families[] = {
    {"resnet_v1_50", " bias add relu"},
    {"mobilenet_v2_100_224", " bias add linear"},
    {"mobilenet_v3_small_075_224", " bias relu"},
};
enum { FAMILY_COUNT = sizeof families / sizeof families[0] };

// Moving statistics, scales and shifts that are no longer those of a fresh model.
static void disturb(ParameterValues *values, const Graph *graph) {
  for (int p = 0; p < values->count; p++) {
    const char *path = graph->parameters[p].path;
    bool is_positive = strstr(path, "variance") || strstr(path, "gamma");
    bool is_any = strstr(path, "mean") || strstr(path, "beta");
    int64_t count = is_positive || is_any ? shape_count(graph->parameters[p].shape) : 0;
    for (int64_t i = 0; i < count; i++) {
      float draw = (float)((i * 7919 + p * 104729) % 1000) * 1e-3f;
      values->values[p][i] = is_positive ? 0.7f + 0.6f * draw : 0.4f * (draw - 0.5f);
    }
  }
}

static void open_family(ModelFixture *model, const Family *family, const char *backend) {
  ModelSpec spec = model_fixture_spec(family->name, SIDE, CLASSES);
  assert_ok(model_build(&model->graph, &spec));
  model_fixture_open(model, backend, 1, disturb);
}

// The output of a model, or of the layers up to `last`; owned by the caller.
static float *run(const ModelFixture *model, LowerMode mode, DType dtype, Value last) {
  static const int64_t batch = BATCH;
  static uint8_t pixels[BATCH * SIDE * SIDE * 3];
  Shape shape = graph_shape(model->graph, last > 0 ? last : model->graph->output);
  float *output = calloc((size_t)(BATCH * shape_count(shape)), sizeof *output);
  float *gradients =
      model_fixture_floats(model, model->layout.reduced); // batch statistics go there
  Executor *executor;
  model_fixture_pixels(pixels, sizeof pixels);
  assert_ok(executor_create(&executor, &(ExecutorDesc){.backend = model->backend,
                                                       .device = model->device,
                                                       .graph = model->graph,
                                                       .layout = &model->layout,
                                                       .mode = mode,
                                                       .output = last,
                                                       .folds_norms = true,
                                                       .dtype = dtype,
                                                       .batches = &batch,
                                                       .batch_count = 1}));
  assert_ok(executor_allocate(executor));
  assert_ok(executor_bind(executor, model->weights, gradients));
  assert_ok(executor_forward(executor, &(ExecutorInput){.batch = BATCH, .pixels = pixels}));
  assert_ok(executor_read_output(executor, output));
  model->backend->memory_free(model->device, gradients);
  executor_free(executor);
  return output;
}

static int count_records(const ModelFixture *model, const char *words) {
  const PlanRecord *record;
  int count = 0;
  for (int i = 0; (record = model->backend->plan_record(model->device, i)); i++) {
    size_t length = strlen(record->problem), end = strlen(words);
    count += length > end && strcmp(record->problem + length - end, words) == 0;
  }
  return count;
}

// The largest difference of two outputs, relative to the largest value. Frees both.
static double distance(float *a, float *b, int64_t count) {
  double difference = 0.0, largest = 0.0;
  for (int64_t i = 0; i < count; i++) {
    assert_true(isfinite(a[i]) && isfinite(b[i]));
    difference = fmax(difference, fabs((double)a[i] - b[i]));
    largest = fmax(largest, fabs(a[i]));
  }
  free(a);
  free(b);
  assert_true(largest > 1e-3);
  return difference / largest;
}

static void test_inference(void **state) {
  (void)state;
  for (int i = 0; i < FAMILY_COUNT; i++) {
    ModelFixture cpu, gpu;
    open_family(&cpu, &families[i], "cpu");
    open_family(&gpu, &families[i], "cuda");
    double apart = distance(run(&cpu, LOWER_INFERENCE, DTYPE_F32, 0),
                            run(&gpu, LOWER_INFERENCE, DTYPE_F32, 0), BATCH * CLASSES);
    printf("%-28s folded, against one by one: %.1e\n", families[i].name, apart);
    // 50 layers of a few roundings of fp32 each, and what they do to one another.
    assert_true(apart < 2e-5);
    assert_true(count_records(&gpu, families[i].followed_by) > 0);
    model_fixture_close(&cpu);
    model_fixture_close(&gpu);
  }
}

// The first normalisation behind a third of the layers: with the few pixels of this image those
// further down have too few to normalise.
static Value early_norm(const Graph *graph) {
  for (int v = graph->layer_count / 3; v < graph->layer_count; v++)
    if (graph->layers[v].kind == LAYER_BATCH_NORMALIZATION) return v;
  return 0;
}

static void test_statistics(void **state) {
  (void)state;
  for (int i = 0; i < FAMILY_COUNT; i++) {
    ModelFixture gpu;
    open_family(&gpu, &families[i], "cuda");
    Value last = early_norm(gpu.graph);
    int64_t count = BATCH * shape_count(graph_shape(gpu.graph, last));
    float *full = run(&gpu, LOWER_TRAINING, DTYPE_F32, last);
    assert_int_equal(count_records(&gpu, " statistics"), 0);
    double apart = distance(full, run(&gpu, LOWER_TRAINING, DTYPE_F16, last), count);
    printf("%-28s fp16 with statistics, against fp32: %.1e\n", families[i].name, apart);
    assert_true(count_records(&gpu, " statistics") > 4);
    // A dozen or two roundings by 5e-4. Statistics of another layer would move it by its own size.
    assert_true(apart < 0.05);
    model_fixture_close(&gpu);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_inference),
                                     cmocka_unit_test(test_statistics)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
