// A network with weights on a device of its own, for tests that run executors themselves. Include
// after cmocka.h.
#ifndef IMGCLS_TESTS_MODEL_FIXTURE_H
#define IMGCLS_TESTS_MODEL_FIXTURE_H

#include "backend/backend.h"
#include "exec/executor.h"
#include "model/model.h"

#define assert_ok(call)                                                                            \
  do {                                                                                             \
    if ((call) != STATUS_OK) fail_msg("%s: %s", #call, status_message());                          \
  } while (0)

typedef struct ModelFixture {
  const Backend *backend;
  Graph *graph;
  ParameterLayout layout;
  Device *device;
  float *weights; // on the device
} ModelFixture;

static inline float *model_fixture_floats(const ModelFixture *model, int64_t count) {
  void *memory;
  assert_ok(model->backend->memory_alloc(model->device, &memory, (size_t)count * sizeof(float)));
  return memory;
}

// Opens a device of `backend` for model->graph, which is finished, with fresh weights, as `change`
// leaves them (NULL: as they are).
static inline void model_fixture_open(ModelFixture *model, const char *backend, int threads,
                                      void (*change)(ParameterValues *values, const Graph *graph)) {
  ParameterValues values;
  model->backend = backend_find(backend);
  assert_non_null(model->backend);
  assert_ok(parameters_layout(&model->layout, model->graph));
  assert_ok(model->backend->device_open(&model->device, &(DeviceDesc){.threads = threads}));
  assert_ok(parameter_values_create(&values, model->graph));
  parameter_values_initialize(&values, model->graph, 5);
  if (change) change(&values, model->graph);
  model->weights = model_fixture_floats(model, model->layout.total);
  assert_ok(parameters_upload(&model->layout, model->backend, model->device, model->weights,
                              &values, false));
  parameter_values_free(&values);
}

// Of a square image, trained as a whole, with the graph's own norms and stochastic depth.
static inline ModelSpec model_fixture_spec(const char *backbone, int side, int64_t classes) {
  return (ModelSpec){.backbone = backbone,
                     .image_h = side,
                     .image_w = side,
                     .class_count = classes,
                     .fine_tune = true,
                     .batch_norm_momentum = -1,
                     .batch_norm_epsilon = -1,
                     .stochastic_depth = -1};
}

static inline void model_fixture_close(ModelFixture *model) {
  model->backend->memory_free(model->device, model->weights);
  model->backend->device_close(model->device);
  parameters_layout_deinit(&model->layout);
  graph_free(model->graph);
}

static inline void model_fixture_pixels(uint8_t *pixels, size_t count) {
  for (size_t i = 0; i < count; i++) pixels[i] = (uint8_t)(i * 7919 >> 3 ^ i / 97);
}

#endif
