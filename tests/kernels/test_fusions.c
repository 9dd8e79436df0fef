// What the CUDA backend puts into a convolution, over the stand-ins: in inference the normalisation,
// the sum and the activation behind it, against the CPU backend, which runs them one by one; in 16
// bits the sums for the statistics of the normalisation behind it, against fp32, which sums them in a
// pass of its own. Whole models of families whose convolutions are followed by different things.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "backend/backend.h"
#include "exec/executor.h"
#include "model/model.h"

enum { BATCH = 2, CLASSES = 5, SIDE = 32 };

#define assert_ok(call)                                                                            \
  do {                                                                                             \
    if ((call) != STATUS_OK) fail_msg("%s: %s", #call, status_message());                          \
  } while (0)

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

typedef struct Model {
  const Backend *backend;
  Graph *graph;
  ParameterLayout layout;
  Device *device;
  float *weights; // on the device
} Model;

static float *device_floats(const Model *model, int64_t count) {
  void *memory;
  assert_ok(
      model->backend->memory_alloc(model->device, &memory, (size_t)count * sizeof(float)));
  return memory;
}

// Moving statistics, scales and shifts that are no longer those of a fresh model.
static void disturb(ParameterValues *values, const Graph *graph, const ParameterLayout *layout) {
  for (int p = 0; p < values->count; p++) {
    const char *path = graph->parameters[p].path;
    bool is_positive = strstr(path, "variance") || strstr(path, "gamma");
    bool is_any = strstr(path, "mean") || strstr(path, "beta");
    for (int64_t i = 0; i < layout->counts[p] && (is_positive || is_any); i++) {
      float draw = (float)((i * 7919 + p * 104729) % 1000) * 1e-3f;
      values->values[p][i] = is_positive ? 0.7f + 0.6f * draw : 0.4f * (draw - 0.5f);
    }
  }
}

static void open_model(Model *model, const char *name, const char *backend) {
  ModelSpec spec = {.backbone = name,
                    .image_h = SIDE,
                    .image_w = SIDE,
                    .class_count = CLASSES,
                    .fine_tune = true,
                    .batch_norm_momentum = -1,
                    .batch_norm_epsilon = -1,
                    .stochastic_depth = -1};
  ParameterValues values;
  model->backend = backend_find(backend);
  assert_ok(model_build(&model->graph, &spec));
  assert_ok(parameters_layout(&model->layout, model->graph));
  assert_ok(model->backend->device_open(&model->device, &(DeviceDesc){.threads = 1}));
  assert_ok(parameter_values_create(&values, model->graph));
  parameter_values_initialize(&values, model->graph, 5);
  disturb(&values, model->graph, &model->layout);
  model->weights = device_floats(model, model->layout.total);
  assert_ok(parameters_upload(&model->layout, model->backend, model->device, model->weights,
                              &values, false));
  parameter_values_free(&values);
}

static void close_model(Model *model) {
  model->backend->memory_free(model->device, model->weights);
  model->backend->device_close(model->device);
  parameters_layout_deinit(&model->layout);
  graph_free(model->graph);
}

// The output of a model, or of the layers up to `last`; owned by the caller.
static float *run(const Model *model, LowerMode mode, DType dtype, Value last) {
  static const int64_t batch = BATCH;
  static uint8_t pixels[BATCH * SIDE * SIDE * 3];
  Shape shape = graph_shape(model->graph, last > 0 ? last : model->graph->output);
  float *output = calloc((size_t)(BATCH * shape_count(shape)), sizeof *output);
  float *gradients = device_floats(model, model->layout.reduced); // batch statistics go there
  Executor *executor;
  for (size_t i = 0; i < sizeof pixels; i++) pixels[i] = (uint8_t)(i * 7919 >> 3 ^ i / 97);
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

static int count_records(const Model *model, const char *words) {
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
    Model cpu, gpu;
    open_model(&cpu, families[i].name, "cpu");
    open_model(&gpu, families[i].name, "cuda");
    double apart = distance(run(&cpu, LOWER_INFERENCE, DTYPE_F32, 0),
                            run(&gpu, LOWER_INFERENCE, DTYPE_F32, 0), BATCH * CLASSES);
    printf("%-28s folded, against one by one: %.1e\n", families[i].name, apart);
    // 50 layers of a few roundings of fp32 each, and what they do to one another.
    assert_true(apart < 2e-5);
    assert_true(count_records(&gpu, families[i].followed_by) > 0);
    close_model(&cpu);
    close_model(&gpu);
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
    Model gpu;
    open_model(&gpu, families[i].name, "cuda");
    Value last = early_norm(gpu.graph);
    int64_t count = BATCH * shape_count(graph_shape(gpu.graph, last));
    float *full = run(&gpu, LOWER_TRAINING, DTYPE_F32, last);
    assert_int_equal(count_records(&gpu, " statistics"), 0);
    double apart = distance(full, run(&gpu, LOWER_TRAINING, DTYPE_F16, last), count);
    printf("%-28s fp16 with statistics, against fp32: %.1e\n", families[i].name, apart);
    assert_true(count_records(&gpu, " statistics") > 4);
    // A dozen or two roundings by 5e-4. Statistics of another layer would move it by its own size.
    assert_true(apart < 0.05);
    close_model(&gpu);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_inference),
                                     cmocka_unit_test(test_statistics)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
