// Weights of files of ours: values, channel order and scaling go over as they are. What Keras'
// files say is compared with Keras in tests/keras/pretrained_check.py.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/memory.h"
#include "model/pretrained.h"
#include "model/registry.h"
#include "model/torch.h"

static Graph *build(const char *backbone) {
  ModelSpec spec = {.backbone = backbone,
                    .class_count = 3,
                    .batch_norm_momentum = -1,
                    .batch_norm_epsilon = -1,
                    .stochastic_depth = -1};
  Graph *graph;
  assert_int_equal(model_build(&graph, &spec), STATUS_OK);
  return graph;
}

static float **new_values(const Graph *graph, uint64_t seed) {
  float **values = calloc((size_t)graph->parameter_count, sizeof *values);
  for (int i = 0; i < graph->parameter_count; i++) {
    values[i] = calloc((size_t)shape_count(graph->parameters[i].shape), sizeof **values);
    graph_initialize_parameter(graph, i, seed, values[i]);
  }
  return values;
}

static void free_values(const Graph *graph, float **values) {
  for (int i = 0; i < graph->parameter_count; i++) free(values[i]);
  free(values);
}

// A file as this program writes it.
static KerasFile *save(uint8_t **bytes, const Graph *graph, float **values) {
  size_t size;
  KerasFile *file;
  KerasModel model = {.graph = graph, .values = (const float *const *)values};
  assert_int_equal(keras_save_image(bytes, &size, &model), STATUS_OK);
  assert_int_equal(keras_open_bytes(&file, *bytes, size, "own.h5"), STATUS_OK);
  return file;
}

// A file of one backbone's weights, and another backbone that may take them.
typedef struct Pair {
  Graph *source, *target;
  float **values, **read;
  uint8_t *bytes;
  KerasFile *file;
} Pair;

static Pair open_pair(const char *held, const char *wanted) {
  Pair pair = {.source = build(held), .target = build(wanted)};
  pair.values = new_values(pair.source, 1);
  pair.read = new_values(pair.target, 2);
  pair.file = save(&pair.bytes, pair.source, pair.values);
  return pair;
}

static void close_pair(Pair *pair) {
  keras_close(pair->file);
  memory_free(pair->bytes);
  free_values(pair->source, pair->values);
  free_values(pair->target, pair->read);
  graph_free(pair->source);
  graph_free(pair->target);
}

static void test_every_backbone_scales(void **state) {
  (void)state;
  for (int i = 0; i < model_count(); i++) {
    Graph *graph = build(model_at(i)->name);
    assert_ptr_equal(pretrained_scaling(graph), &graph->layers[1].rescaling);
    assert_false(pretrained_takes_bytes(graph));
    graph_free(graph);
  }
}

static void test_own_file(void **state) {
  (void)state;
  Graph *source = build("ResNet50"), *target = build("ResNet50");
  float **values = new_values(source, 1), **read = new_values(target, 2);
  *pretrained_scaling(source) = (RescalingDesc){.count = 1, .scale = {2}, .offset = {-1}};
  uint8_t *bytes;
  KerasFile *file = save(&bytes, source, values);

  // A run that goes on must scale as it did.
  assert_int_equal(pretrained_require_scaling(source, file), STATUS_OK);
  assert_int_equal(pretrained_require_scaling(target, file), STATUS_CONFIG);
  assert_non_null(strstr(status_message(), "set [model] weights to that file again"));

  // Blue-green-red is only in Keras' own files.
  PretrainedFit fit;
  assert_int_equal(pretrained_read(&fit, target, read, &(PretrainedFile){.keras = file}),
                   STATUS_OK);
  assert_true(fit.changed_scaling && !fit.swapped_red_blue && fit.weights.head_loaded);
  assert_int_equal(fit.weights.loaded, source->parameter_count);
  for (int i = 0; i < source->parameter_count; i++)
    assert_memory_equal(read[i], values[i],
                        (size_t)shape_count(source->parameters[i].shape) * sizeof **values);
  for (int c = 0; c < 3; c++) {
    assert_true(pretrained_scaling(target)->scale[c] == 2);
    assert_true(pretrained_scaling(target)->offset[c] == -1);
  }
  assert_int_equal(pretrained_require_scaling(target, file), STATUS_OK);
  keras_close(file);
  memory_free(bytes);
  free_values(source, values);
  free_values(target, read);
  graph_free(source);
  graph_free(target);
}

// Refused with the first difference and what the file fits, head or no head.
static void test_other_backbone(void **state) {
  (void)state;
  Pair pair = open_pair("efficientnet_b0", "efficientnet_b1");
  PretrainedFit fit;
  PretrainedFile held = {.keras = pair.file};
  assert_int_equal(pretrained_read(&fit, pair.target, pair.read, &held), STATUS_DATA);
  assert_non_null(strstr(status_message(), "own.h5: model_weights/efficientnet_b0/block2a_dwconv"));
  assert_non_null(strstr(status_message(), "; it fits efficientnet_b0, EfficientNetB0"));
  assert_null(strstr(status_message(), "b1,"));
  close_pair(&pair);
}

// Backbones of equal shapes that stride or pad otherwise, and names of one graph.
static void test_equal_shapes(void **state) {
  (void)state;
  static const struct {
    const char *held, *wanted, *fits; // fits NULL: one graph
  } cases[] = {
      {"resnet_v1_50", "resnet50_v1_5", "; it fits resnet_v1_50"},
      {"resnet50_v1_5", "resnet_v1_50", "; it fits resnet50_v1_5"},
      {"resnet_v2_50", "ResNet50V2", "; it fits resnet_v2_50"},
      {"NASNetMobile", "nasnet_mobile", "; it fits NASNetMobile"},
      {"efficientnetv2-b0-21k", "EfficientNetV2B0", NULL},
      {"inception_v3", "InceptionV3", NULL},
      {"mobilenet_v2_100_224", "MobileNetV2", NULL},
      {"EfficientNetB0", "efficientnet_b0", NULL},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    Pair pair = open_pair(cases[i].held, cases[i].wanted);
    PretrainedFit fit;
    Status status =
        pretrained_read(&fit, pair.target, pair.read, &(PretrainedFile){.keras = pair.file});
    if (cases[i].fits) {
      assert_int_equal(status, STATUS_DATA);
      assert_non_null(strstr(status_message(), "but its network strides or pads otherwise: "));
      assert_string_equal(strstr(status_message(), "; it fits"), cases[i].fits);
    } else {
      assert_int_equal(status, STATUS_OK);
      assert_false(fit.shapes_only);
    }
    close_pair(&pair);
  }
}

// Every layer of every backbone that torch has is in its family's table, and no two share a module.
static void test_torch_modules(void **state) {
  (void)state;
  for (int i = 0; i < model_count(); i++) {
    const ModelDesc *desc = model_at(i);
    if (!desc->torch) continue;
    Graph *graph = build(desc->name);
    char(*modules)[TORCH_NAME_CAPACITY] = calloc((size_t)graph->layer_count, sizeof *modules);
    for (int k = 0; k < graph->layer_count; k++) {
      if (graph->layers[k].parameter_count == 0) continue;
      (void)torch_module(modules[k], graph, desc->torch, &graph->layers[k]);
      if (modules[k][0] == '\0')
        fail_msg("%s: no module for %s", desc->name, graph->layers[k].name);
      for (int j = 0; j < k; j++)
        if (strcmp(modules[j], modules[k]) == 0) fail_msg("%s: %s twice", desc->name, modules[k]);
    }
    free(modules);
    graph_free(graph);
  }
}

static void test_pixels(void **state) {
  (void)state;
  static const struct {
    RescalingDesc scaling;
    double scale, offset; // afterwards, of the last channel
  } cases[] = {
      {{1, {1.0 / 255}, {0}}, 1, 0},
      {{1, {1.0 / 127.5}, {-1}}, 2, -1},
      {{3, {1 / 58.4, 1 / 57.1, 1 / 57.4}, {-2.1, -2, -1.8}}, 255 / 57.4, -1.8},
      {{1, {2}, {-1}}, 2, -1},
      {{1, {255}, {-100}}, 255, -100},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    Graph *graph;
    assert_int_equal(graph_create(&graph, "pixels"), STATUS_OK);
    Value x = graph_input(graph, SHAPE(8, 8, 3), "image");
    x = graph_rescaling(graph, x, &cases[i].scaling, "scale");
    x = graph_global_average_pooling2d(graph, x, false, "pool");
    assert_int_equal(graph_finish(graph, x), STATUS_OK);
    pretrained_take_unit(graph);
    const RescalingDesc *scaling = &graph->layers[1].rescaling;
    assert_float_equal(scaling->scale[scaling->count - 1], cases[i].scale, 1e-12);
    assert_float_equal(scaling->offset[scaling->count - 1], cases[i].offset, 1e-12);
    graph_free(graph);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_every_backbone_scales), cmocka_unit_test(test_own_file),
      cmocka_unit_test(test_other_backbone),        cmocka_unit_test(test_equal_shapes),
      cmocka_unit_test(test_torch_modules),         cmocka_unit_test(test_pixels),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
