// The backbones: sizes against published counts, options of the configuration, sizes of images.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "model/model.h"
#include "model/registry.h"

static ModelSpec new_spec(const char *backbone) {
  return (ModelSpec){.backbone = backbone,
                     .class_count = 1000,
                     .dropout = 0.2,
                     .l2 = 1e-4,
                     .fine_tune = true,
                     .batch_norm_momentum = -1,
                     .batch_norm_epsilon = -1,
                     .stochastic_depth = -1};
}

static Graph *new_model(const ModelSpec *spec) {
  Graph *graph;
  if (model_build(&graph, spec) != STATUS_OK) fail_msg("%s", status_message());
  return graph;
}

static const Layer *layer_named(const Graph *graph, const char *name) {
  for (int i = 0; i < graph->layer_count; i++)
    if (strcmp(graph->layers[i].name, name) == 0) return &graph->layers[i];
  fail_msg("no layer %s", name);
  return NULL;
}

static int count_kind(const Graph *graph, LayerKind kind) {
  int count = 0;
  for (int i = 0; i < graph->layer_count; i++) count += graph->layers[i].kind == kind;
  return count;
}

// Parameters without classifier and GMAC with one of 1000 classes, as counted from the graphs'
// definitions in keras.applications, timm and TF-Slim.
typedef struct Counts {
  const char *names[4]; // of one size
  int image_size;
  int64_t features, parameters, trained;
  double gmac; // rounded to two places; 0: not known
} Counts;

#define V2(name, keras_name)                                                                       \
  {                                                                                                \
    "efficientnetv2-" name, "efficientnetv2-" name "-21k", "efficientnetv2-" name "-21k-ft1k",     \
        keras_name                                                                                 \
  }
static const Counts published[] = {
    {{"mobilenet_v2_100_224", "MobileNetV2"}, 224, 1280, 2257984, 2223872, 0.30},
    {{"mobilenet_v2_130_224"}, 224, 1664, 3766048, 3721792, 0.51},
    {{"mobilenet_v2_140_224"}, 224, 1792, 4363712, 4315776, 0.58},
    {{"mobilenet_v3_small_100_224"}, 224, 1024, 1529968, 1517856, 0.06},
    {{"mobilenet_v3_small_075_224"}, 224, 1024, 1026552, 1016872, 0.04},
    {{"mobilenet_v3_large_100_224"}, 224, 1280, 4226432, 4202032, 0.22},
    {{"mobilenet_v3_large_075_224"}, 224, 1280, 2731616, 2712528, 0.15},
    {{"MobileNetV3Small"}, 224, 576, 939120, 927008, 0.06},
    {{"MobileNetV3Large"}, 224, 960, 2996352, 2971952, 0.22},
    {{"resnet_v1_50", "resnet50_v1_5"}, 224, 2048, 23561152, 23508032, 0},
    {{"resnet_v1_101", "resnet101_v1_5"}, 224, 2048, 42605504, 42500160, 0},
    {{"resnet_v1_152", "resnet152_v1_5"}, 224, 2048, 58295232, 58143808, 0},
    {{"ResNet50"}, 224, 2048, 23587712, 23534592, 3.86},
    {{"ResNet101"}, 224, 2048, 42658176, 42552832, 0},
    {{"ResNet152"}, 224, 2048, 58370944, 58219520, 0},
    {{"resnet_v2_50", "ResNet50V2"}, 224, 2048, 23564800, 23519360, 3.48},
    {{"resnet_v2_101", "ResNet101V2"}, 224, 2048, 42626560, 42528896, 7.19},
    {{"resnet_v2_152", "ResNet152V2"}, 224, 2048, 58331648, 58187904, 0},
    {{"bit_s-r50x1"}, 224, 2048, 23500352, 23500352, 0},
    {{"inception_v3", "InceptionV3"}, 299, 2048, 21802784, 21768352, 5.71},
    {{"inception_resnet_v2", "InceptionResNetV2"}, 299, 1536, 54336736, 54276192, 0},
    {{"nasnet_mobile", "NASNetMobile"}, 224, 1056, 4269716, 4232978, 0.56},
    {{"nasnet_large", "NASNetLarge"}, 331, 4032, 84916818, 84720150, 0},
    {{"pnasnet_large"}, 331, 4320, 81913656, 81736668, 0},
    {{"efficientnet_b0", "EfficientNetB0"}, 224, 1280, 4049564, 4007548, 0.39},
    {{"efficientnet_b1", "EfficientNetB1"}, 240, 1280, 6575232, 6513184, 0.69},
    {{"efficientnet_b2", "EfficientNetB2"}, 260, 1408, 7768562, 7700994, 0.99},
    {{"efficientnet_b3", "EfficientNetB3"}, 300, 1536, 10783528, 10696232, 1.83},
    {{"efficientnet_b4", "EfficientNetB4"}, 380, 1792, 17673816, 17548616, 4.39},
    {{"efficientnet_b5", "EfficientNetB5"}, 456, 2048, 28513520, 28340784, 0},
    {{"efficientnet_b6", "EfficientNetB6"}, 528, 2304, 40960136, 40735704, 0},
    {{"efficientnet_b7", "EfficientNetB7"}, 600, 2560, 64097680, 63786960, 0},
    {V2("b0", "EfficientNetV2B0"), 224, 1280, 5919312, 5858704, 0.72},
    {V2("b1", "EfficientNetV2B1"), 240, 1280, 6931124, 6860052, 1.20},
    {V2("b2", "EfficientNetV2B2"), 260, 1408, 8769374, 8687086, 1.70},
    {V2("b3", "EfficientNetV2B3"), 300, 1536, 12930622, 12821406, 3.01},
    {V2("s", "EfficientNetV2S"), 384, 1280, 20331360, 20177488, 8.37},
    {V2("m", "EfficientNetV2M"), 480, 1280, 53150388, 52858356, 0},
    {V2("l", "EfficientNetV2L"), 480, 1280, 117746848, 117234272, 0},
    {{"efficientnetv2-xl-21k", "efficientnetv2-xl-21k-ft1k"}, 512, 1280, 207615832, 206838808, 0},
};
enum { PUBLISHED_COUNT = sizeof published / sizeof *published };

static void check_counts(const Counts *row, const char *name) {
  ModelSpec spec = new_spec(name);
  Graph *g = new_model(&spec);
  int64_t head = (row->features + 1) * 1000;
  assert_int_equal(layer_named(g, "image")->shape.dim[0], row->image_size);
  assert_int_equal(model_feature_length(g), row->features);
  assert_int_equal(graph_parameter_total(g, false), row->parameters + head);
  assert_int_equal(graph_parameter_total(g, true), row->trained + head);
  // Half a unit of the last printed place.
  if (row->gmac > 0) assert_true(fabs(graph_mac_total(g) / 1e9 - row->gmac) <= 0.005 + 1e-9);
  graph_free(g);
}

static void test_published_counts(void **state) {
  (void)state;
  int names = 0;
  for (int i = 0; i < PUBLISHED_COUNT; i++)
    for (int k = 0; k < 4 && published[i].names[k]; k++, names++)
      check_counts(&published[i], published[i].names[k]);
  assert_int_equal(model_count(), names); // no row without counts
}

static void test_names(void **state) {
  (void)state;
  for (int i = 0; i < model_count(); i++) {
    const ModelDesc *desc;
    assert_int_equal(model_find(&desc, model_at(i)->name), STATUS_OK);
    assert_ptr_equal(desc, model_at(i)); // no name twice
  }
  assert_null(model_at(model_count()));
  const ModelDesc *desc;
  assert_int_equal(model_find(&desc, "mobilenetv2_100_224"), STATUS_CONFIG);
  assert_non_null(strstr(status_message(), "\"mobilenet_v2_100_224\""));
  assert_int_equal(model_find(&desc, "Resnet50"), STATUS_CONFIG);
  assert_non_null(strstr(status_message(), "\"ResNet50\""));
  assert_null(desc);
}

// Every size from the smallest on, odd ones and oblong ones too; the next smaller one is refused.
static void test_image_sizes(void **state) {
  (void)state;
  static const char *const names[] = {
      "mobilenet_v2_100_224", "resnet_v1_50", "ResNet50",        "resnet50_v1_5",    "resnet_v2_50",
      "ResNet50V2",           "bit_s-r50x1",  "efficientnet_b0", "efficientnetv2-b0"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    ModelSpec spec = new_spec(names[i]);
    for (int size = 32; size <= 130; size++) {
      spec.image_h = size;
      spec.image_w = 162 - size;
      Graph *g = new_model(&spec);
      assert_true(shape_equal(layer_named(g, "image")->shape, SHAPE(size, 162 - size, 3)));
      // Five halvings, each rounding up: what global pooling averages over.
      const Layer *pool = layer_named(g, "avg_pool");
      Shape last = graph_shape(g, pool->inputs[0]);
      assert_int_equal(last.dim[0], (size + 31) / 32);
      assert_int_equal(last.dim[1], (162 - size + 31) / 32);
      graph_free(g);
    }
    spec.image_h = spec.image_w = 31;
    Graph *g;
    assert_int_equal(model_build(&g, &spec), STATUS_CONFIG);
    assert_non_null(strstr(status_message(), "31 x 31"));
    assert_non_null(strstr(status_message(), "smallest is 32 x 32"));
    assert_null(g);
  }
}

// Inception's unpadded windows need more pixels.
static void test_inception_sizes(void **state) {
  (void)state;
  static const char *const names[] = {"inception_v3", "inception_resnet_v2"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    ModelSpec spec = new_spec(names[i]);
    for (int size = 75; size <= 140; size++) {
      spec.image_h = size;
      spec.image_w = 215 - size;
      Graph *g = new_model(&spec);
      assert_int_equal(graph_channels(g, layer_named(g, "avg_pool")->inputs[0]),
                       model_feature_length(g));
      graph_free(g);
    }
    spec.image_h = 74;
    spec.image_w = 75;
    Graph *g;
    assert_int_equal(model_build(&g, &spec), STATUS_CONFIG);
    assert_non_null(strstr(status_message(), "smallest is 75 x 75"));
  }
}

static void test_options(void **state) {
  (void)state;
  ModelSpec spec = new_spec("efficientnet_b0");
  Graph *g = new_model(&spec);
  assert_true(layer_named(g, "stem_bn")->batch_norm.momentum == 0.99);
  assert_true(layer_named(g, "stem_bn")->batch_norm.epsilon == 1e-3);
  // Block 15 of 16 (counted from 0) is the last residual one of stage 6; stage 7 has none.
  assert_float_equal(layer_named(g, "block6d_drop")->dropout.rate, 0.2 * 14 / 16, 1e-12);
  assert_float_equal(layer_named(g, "block2b_drop")->dropout.rate, 0.2 * 2 / 16, 1e-12);
  assert_true(layer_named(g, "block2b_drop")->dropout.per_sample);
  assert_false(layer_named(g, "dropout")->dropout.per_sample);
  assert_true(g->parameters[g->parameter_count - 2].l2 == 1e-4);
  assert_true(g->parameters[0].l2 == 0);
  graph_free(g);

  spec.batch_norm_momentum = 0.5;
  spec.batch_norm_epsilon = 0.25;
  spec.stochastic_depth = 0.4;
  spec.dropout = 0;
  g = new_model(&spec);
  assert_true(layer_named(g, "top_bn")->batch_norm.momentum == 0.5);
  assert_true(layer_named(g, "top_bn")->batch_norm.epsilon == 0.25);
  assert_float_equal(layer_named(g, "block6d_drop")->dropout.rate, 0.4 * 14 / 16, 1e-12);
  assert_int_equal(count_kind(g, LAYER_DROPOUT), 9); // the residual blocks alone
  graph_free(g);

  spec.stochastic_depth = 0;
  g = new_model(&spec);
  assert_int_equal(count_kind(g, LAYER_DROPOUT), 0);
  graph_free(g);

  // Keras' own rates of B3 pass 0.2; a rate that is asked for is never passed.
  spec = new_spec("EfficientNetV2B3");
  g = new_model(&spec);
  assert_true(layer_named(g, "block6l_drop")->dropout.rate > 0.29);
  graph_free(g);
  spec.stochastic_depth = 0.9;
  g = new_model(&spec);
  assert_float_equal(layer_named(g, "block6l_drop")->dropout.rate, 0.9 * 31 / 32, 1e-12);
  graph_free(g);

  spec = new_spec("efficientnet_b0");
  spec.fine_tune = false;
  g = new_model(&spec);
  assert_int_equal(count_kind(g, LAYER_DROPOUT), 1);
  assert_int_equal(graph_parameter_total(g, true), 1281 * 1000);
  assert_int_equal(graph_parameter_total(g, false), 4049564 + 1281 * 1000);
  graph_free(g);

  spec.dropout = 1;
  assert_int_equal(model_build(&g, &spec), STATUS_CONFIG);
  assert_non_null(strstr(status_message(), "\"dropout\""));
  spec = new_spec("efficientnet_b0");
  spec.class_count = 1;
  assert_int_equal(model_build(&g, &spec), STATUS_CONFIG);
  assert_non_null(strstr(status_message(), "two or more"));
}

// The hub's ResNet strides where TF-Slim does: in a stage's last unit, padded by hand.
static void test_slim_resnet_strides(void **state) {
  (void)state;
  ModelSpec spec = new_spec("resnet_v1_50");
  Graph *g = new_model(&spec);
  static const struct {
    const char *name;
    int size;
  } outputs[] = {{"conv1_conv", 112},      {"pool1_pool", 56},       {"conv2_block2_out", 56},
                 {"conv2_block3_out", 28}, {"conv3_block3_out", 28}, {"conv3_block4_out", 14},
                 {"conv4_block5_out", 14}, {"conv4_block6_out", 7},  {"conv5_block3_out", 7}};
  for (size_t i = 0; i < sizeof outputs / sizeof *outputs; i++)
    assert_int_equal(layer_named(g, outputs[i].name)->shape.dim[0], outputs[i].size);
  const Layer *pad = layer_named(g, "conv2_block3_2_pad");
  assert_true(pad->pads.top == 1 && pad->pads.bottom == 1);
  const Layer *conv = layer_named(g, "conv2_block3_2_conv");
  assert_true(conv->conv2d.stride_h == 2 && conv->pads.top == 0 && !conv->conv2d.use_bias);
  const Layer *pool = layer_named(g, "conv2_block3_0_pool");
  assert_true(pool->pool.size_h == 1 && pool->pool.stride_h == 2);
  const Layer *root = layer_named(g, "pool1_pool"); // SAME, as slim's arg_scope has it
  assert_true(root->pads.top == 0 && root->pads.bottom == 1);
  assert_int_equal(count_kind(g, LAYER_MAX_POOLING2D), 4);
  graph_free(g);
}

// TF-Slim's drop-path: linear in depth over all cells, after every operation but identities.
static void test_drop_path(void **state) {
  (void)state;
  ModelSpec spec = new_spec("nasnet_large");
  Graph *g = new_model(&spec);
  // 2 stems, 18 normal cells, 2 reductions; keep 0.7 at the end.
  assert_float_equal(layer_named(g, "separable_reduction_left1_drop_stem_1")->dropout.rate,
                     0.3 * 1 / 22, 1e-12);
  assert_float_equal(layer_named(g, "reduction_left2_drop_reduce_6")->dropout.rate, 0.3 * 9 / 22,
                     1e-12);
  assert_float_equal(layer_named(g, "separable_normal_left5_drop_18")->dropout.rate, 0.3, 1e-12);
  assert_true(layer_named(g, "normal_left3_drop_18")->dropout.per_sample);
  assert_int_equal(count_kind(g, LAYER_DROPOUT), 18 * 8 + 4 * 9 + 1);
  graph_free(g);
  spec = new_spec("pnasnet_large");
  g = new_model(&spec);
  assert_float_equal(layer_named(g, "separable_cell_left1_drop_4")->dropout.rate, 0.4 * 7 / 14,
                     1e-12);
  assert_int_equal(count_kind(g, LAYER_DROPOUT), 14 * 9 + 1);
  graph_free(g);
  static const char *const without[] = {"nasnet_mobile", "NASNetMobile", "NASNetLarge"};
  for (size_t i = 0; i < 3; i++) {
    spec = new_spec(without[i]);
    g = new_model(&spec);
    assert_int_equal(count_kind(g, LAYER_DROPOUT), 1);
    graph_free(g);
  }
}

static void test_swap_red_blue(void **state) {
  (void)state;
  ModelSpec spec = new_spec("ResNet50");
  Graph *g = new_model(&spec);
  assert_string_equal(g->parameters[0].path, "conv1_conv/kernel");
  size_t count = 7 * 7 * 3 * 64;
  float *kernel = malloc(sizeof *kernel * count);
  for (size_t i = 0; i < count; i++) kernel[i] = (float)i;
  float **values = calloc((size_t)g->parameter_count, sizeof *values);
  values[0] = kernel; // the others are not touched
  model_swap_red_blue(g, values);
  for (size_t i = 0; i < count; i++) {
    size_t tap = i / 192, channel = i / 64 % 3, filter = i % 64;
    assert_true(kernel[i] == (float)(tap * 192 + (2 - channel) * 64 + filter));
  }
  const ModelDesc *desc;
  assert_int_equal(model_find(&desc, "ResNet50"), STATUS_OK);
  assert_true(desc->public_weights_take_bgr);
  assert_int_equal(model_find(&desc, "resnet_v1_50"), STATUS_OK);
  assert_false(desc->public_weights_take_bgr);
  free(values);
  free(kernel);
  graph_free(g);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_published_counts), cmocka_unit_test(test_names),
      cmocka_unit_test(test_image_sizes),      cmocka_unit_test(test_inception_sizes),
      cmocka_unit_test(test_options),          cmocka_unit_test(test_slim_resnet_strides),
      cmocka_unit_test(test_swap_red_blue),    cmocka_unit_test(test_drop_path),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
