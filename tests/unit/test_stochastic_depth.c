// Stochastic depth as it runs in whole backbones: which samples a branch drops, how often, that
// each branch and step draws anew, and that what stays is scaled by 1 / (1 - rate).
//
// A branch is watched through parts of the graph: its dropout's output beside its input, of the
// same draw. The schedule over depth is compared with Keras' and TF-Slim's in tests/backbone.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/memory.h"
#include "unit/model_fixture.h"

enum { SIDE = 32, MAX_WATCHED = 16 };

typedef struct Watch {
  const char *backbone;
  int64_t batch, steps;
  int first;       // of the first so many; 0: of all
  int layer_count; // dropouts watched, spread evenly
  ModelFixture model;
  float *gradients;
  uint8_t *pixels;
} Watch;

static void open_watch(Watch *watch) {
  ModelSpec spec = model_fixture_spec(watch->backbone, SIDE, 2);
  size_t size = (size_t)watch->batch * SIDE * SIDE * 3;
  assert_ok(model_build(&watch->model.graph, &spec));
  model_fixture_open(&watch->model, "cpu", 2, NULL);
  watch->gradients = model_fixture_floats(&watch->model, watch->model.layout.reduced);
  assert_ok(memory_alloc(&watch->pixels, size, 1));
  model_fixture_pixels(watch->pixels, size);
}

static void close_watch(Watch *watch) {
  memory_free(watch->pixels);
  watch->model.backend->memory_free(watch->model.device, watch->gradients);
  model_fixture_close(&watch->model);
}

// The value of a layer at every step: (steps, batch, elements).
static float *run_to(const Watch *watch, Value layer, int64_t elements) {
  Executor *executor;
  float *out;
  int64_t count = watch->batch * elements;
  assert_ok(memory_alloc(&out, (size_t)(watch->steps * count), sizeof(float)));
  assert_ok(executor_create(&executor, &(ExecutorDesc){.backend = watch->model.backend,
                                                       .device = watch->model.device,
                                                       .graph = watch->model.graph,
                                                       .layout = &watch->model.layout,
                                                       .mode = LOWER_TRAINING,
                                                       .output = layer,
                                                       .dtype = DTYPE_F32,
                                                       .batches = &watch->batch,
                                                       .batch_count = 1}));
  assert_ok(executor_allocate(executor));
  assert_ok(executor_bind(executor, watch->model.weights, watch->gradients));
  for (int64_t step = 0; step < watch->steps; step++) {
    assert_ok(executor_forward(
        executor,
        &(ExecutorInput){.batch = watch->batch, .pixels = watch->pixels, .key = {11, step, 0}}));
    assert_ok(executor_read_output(executor, out + step * count));
  }
  executor_free(executor);
  return out;
}

// A sample's branch is dropped whole, or kept whole and scaled; says which.
static bool is_dropped(const float *out, const float *in, int64_t elements, double rate) {
  bool dropped = true;
  for (int64_t i = 0; i < elements && dropped; i++) dropped = out[i] == 0.0f;
  if (dropped) return true;
  for (int64_t i = 0; i < elements; i++) {
    double kept = in[i] / (1.0 - rate);
    if (fabs(out[i] - kept) > 1e-6 * fabs(kept))
      fail_msg("element %d is %g, of %g at rate %g", (int)i, out[i], in[i], rate);
  }
  return false;
}

// Fills `dropped` (steps x batch) and checks how many are: within 4.5 deviations of the rate, what
// chance exceeds once in 150,000 times. A branch of zeros only would look dropped.
static void watch_layer(bool *dropped, const Watch *watch, int index) {
  const Layer *layer = &watch->model.graph->layers[index];
  int64_t elements = shape_count(layer->shape), samples = watch->steps * watch->batch, count = 0;
  float *in = run_to(watch, layer->inputs[0], elements), *out = run_to(watch, index, elements);
  double rate = layer->dropout.rate;
  for (int64_t s = 0; s < samples; s++) {
    dropped[s] = is_dropped(out + s * elements, in + s * elements, elements, rate);
    count += dropped[s];
  }
  double deviation = sqrt(rate * (1.0 - rate) * (double)samples);
  if (fabs((double)count - rate * (double)samples) > 4.5 * deviation)
    fail_msg("%s: dropped in %d of %d samples at rate %g", layer->name, (int)count, (int)samples,
             rate);
  memory_free(in);
  memory_free(out);
}

// Two branches, or one at two steps, that drop together as often as chance has it.
static void assert_independent(const bool *a, const bool *b, int64_t count, const char *what) {
  double both = 0, of_a = 0, of_b = 0, n = (double)count;
  for (int64_t i = 0; i < count; i++) {
    both += a[i] && b[i];
    of_a += a[i];
    of_b += b[i];
  }
  of_a /= n, of_b /= n;
  double deviation = sqrt(of_a * (1 - of_a) * of_b * (1 - of_b) / n);
  if (fabs(both / n - of_a * of_b) > 4.5 * deviation)
    fail_msg("%s: %g drop together, %g and %g alone", what, both / n, of_a, of_b);
}

static int list_dropouts(int *out, const Watch *watch) {
  int all[512], count = 0;
  for (int i = 0; i < watch->model.graph->layer_count; i++)
    if (watch->model.graph->layers[i].kind == LAYER_DROPOUT) all[count++] = i;
  if (watch->first) count = watch->first;
  int watched = count < watch->layer_count ? count : watch->layer_count;
  for (int i = 0; i < watched; i++) out[i] = all[(i + 1) * count / watched - 1];
  return watched;
}

static void check_backbone(Watch watch) {
  int layers[MAX_WATCHED];
  bool *dropped[MAX_WATCHED];
  open_watch(&watch);
  int count = list_dropouts(layers, &watch);
  int64_t samples = watch.steps * watch.batch;
  assert_true(count >= 3);
  for (int i = 0; i < count; i++) {
    assert_true(watch.model.graph->layers[layers[i]].dropout.per_sample);
    assert_ok(memory_alloc(&dropped[i], (size_t)samples, sizeof(bool)));
    watch_layer(dropped[i], &watch, layers[i]);
    const char *name = watch.model.graph->layers[layers[i]].name;
    for (int k = 0; k < i; k++) assert_independent(dropped[i], dropped[k], samples, name);
    // Each step beside the one before it.
    assert_independent(dropped[i], dropped[i] + watch.batch, samples - watch.batch, name);
  }
  for (int i = 0; i < count; i++) memory_free(dropped[i]);
  close_watch(&watch);
}

static void efficientnet_drops_branches(void **state) {
  (void)state;
  check_backbone(
      (Watch){.backbone = "efficientnet_b0", .batch = 16, .steps = 16, .layer_count = 3});
}

static void efficientnet_v2_drops_branches(void **state) {
  (void)state;
  check_backbone(
      (Watch){.backbone = "efficientnetv2-b0", .batch = 16, .steps = 16, .layer_count = 3});
}

// The first cells, where an image is cheap: the draws are the same ones.
static void searched_cells_drop_paths(void **state) {
  (void)state;
  check_backbone(
      (Watch){.backbone = "pnasnet_large", .batch = 16, .steps = 8, .layer_count = 3, .first = 9});
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(efficientnet_drops_branches),
      cmocka_unit_test(efficientnet_v2_drops_branches),
      cmocka_unit_test(searched_cells_drop_paths),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
