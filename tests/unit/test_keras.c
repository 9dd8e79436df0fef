// keras/: graphs and values survive the way through a file, damage is found, what does not fit is
// named. That Keras reads the same is shown by tests/keras.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/memory.h"
#include "base/rng.h"
#include "io/h5.h"
#include "keras/every_layer.h"
#include "keras/keras.h"

static void expect_ok(Status status) {
  if (status != STATUS_OK) fail_msg("%s", status_message());
}

static void expect_message(Status status, const char *words) {
  assert_int_equal(status, STATUS_DATA);
  if (!strstr(status_message(), words)) fail_msg("\"%s\" lacks \"%s\"", status_message(), words);
}

static const KerasTraining TRAINING = {0.05, 0.9, true, 0.1};
static const char *const CLASSES[] = {"Äpfel", "birds", "cats", "dogs", "\"eels\""};

typedef struct Saved {
  Graph *graph;
  float **values, **momentum;
  uint8_t *bytes;
  size_t size;
} Saved;

static Saved save_classes(const char *name, const char *const classes[5]) {
  Saved saved = {.graph = every_layer_graph(name)};
  assert_non_null(saved.graph);
  saved.values = every_layer_values(saved.graph, 1);
  saved.momentum = every_layer_values(saved.graph, 2);
  KerasModel model = {.graph = saved.graph,
                      .values = (const float *const *)saved.values,
                      .momentum = (const float *const *)saved.momentum,
                      .training = &TRAINING,
                      .class_names = classes,
                      .class_count = 5,
                      .step = 1234567890123,
                      .seed = UINT64_MAX - 1,
                      .state = "{\"epoch\": 7}"};
  expect_ok(keras_save_image(&saved.bytes, &saved.size, &model));
  return saved;
}

static Saved save(const char *name) {
  return save_classes(name, CLASSES);
}

static void saved_free(Saved *saved) {
  every_layer_values_free(saved->graph, saved->values);
  every_layer_values_free(saved->graph, saved->momentum);
  graph_free(saved->graph);
  memory_free(saved->bytes);
}

static const Layer *layer_named(const Graph *graph, const char *name) {
  for (int i = 0; i < graph->layer_count; i++)
    if (strcmp(graph->layers[i].name, name) == 0) return &graph->layers[i];
  fail_msg("no layer %s", name);
  return NULL;
}

// ReLU of 6 is spelled as the layer of that name; statistics as constants.
static LayerKind kind_in_file(const Layer *layer) {
  if (layer->kind == LAYER_NORMALIZATION) return LAYER_RESCALING;
  if (layer->kind == LAYER_ACTIVATION && layer->activation == ACTIVATION_RELU6) return LAYER_RELU;
  return layer->kind;
}

static void compare_options(const Layer *a, const Layer *b) {
  switch (kind_in_file(a)) {
  case LAYER_CONV2D:
  case LAYER_DEPTHWISE_CONV2D:
  case LAYER_SEPARABLE_CONV2D:
    assert_int_equal(a->conv2d.kernel_h, b->conv2d.kernel_h);
    assert_int_equal(a->conv2d.kernel_w, b->conv2d.kernel_w);
    assert_int_equal(a->conv2d.stride_h, b->conv2d.stride_h);
    assert_int_equal(a->conv2d.stride_w, b->conv2d.stride_w);
    assert_int_equal(a->conv2d.dilation, b->conv2d.dilation);
    assert_int_equal(a->conv2d.groups, b->conv2d.groups);
    assert_int_equal(a->conv2d.padding, b->conv2d.padding);
    assert_int_equal(a->conv2d.use_bias, b->conv2d.use_bias);
    assert_true(a->conv2d.l2 == b->conv2d.l2);
    assert_true(a->conv2d.standardize_epsilon == b->conv2d.standardize_epsilon);
    break;
  case LAYER_DENSE:
    assert_int_equal(a->dense.units, b->dense.units);
    assert_true(a->dense.l2 == b->dense.l2);
    break;
  case LAYER_BATCH_NORMALIZATION:
    assert_true(a->batch_norm.momentum == b->batch_norm.momentum);
    assert_true(a->batch_norm.epsilon == b->batch_norm.epsilon);
    break;
  case LAYER_GROUP_NORMALIZATION:
    assert_int_equal(a->group_norm.groups, b->group_norm.groups);
    assert_true(a->group_norm.epsilon == b->group_norm.epsilon);
    break;
  case LAYER_ACTIVATION:
    assert_int_equal(a->activation, b->activation);
    break;
  case LAYER_RELU:
    assert_true(b->relu_max_value == (a->kind == LAYER_RELU ? a->relu_max_value : 6));
    break;
  case LAYER_RESCALING:
    assert_int_equal(a->rescaling.count, b->rescaling.count);
    for (int i = 0; i < a->rescaling.count; i++) {
      assert_true(a->rescaling.scale[i] == b->rescaling.scale[i]);
      assert_true(a->rescaling.offset[i] == b->rescaling.offset[i]);
    }
    break;
  case LAYER_DROPOUT:
    assert_true(a->dropout.rate == b->dropout.rate);
    assert_int_equal(a->dropout.per_sample, b->dropout.per_sample);
    break;
  case LAYER_GLOBAL_AVERAGE_POOLING2D:
    assert_int_equal(a->keep_dims, b->keep_dims);
    break;
  default:
    break; // shapes and pads say the rest
  }
}

static void compare_graphs(const Graph *a, const Graph *b) {
  assert_string_equal(a->name, b->name);
  assert_int_equal(a->layer_count, b->layer_count);
  assert_int_equal(a->parameter_count, b->parameter_count);
  assert_int_equal(a->submodel_count, b->submodel_count);
  for (int i = 0; i < a->layer_count; i++) {
    const Layer *x = &a->layers[i], *y = layer_named(b, x->name);
    assert_int_equal(kind_in_file(x), y->kind);
    assert_int_equal(x->submodel, y->submodel);
    assert_true(shape_equal(x->shape, y->shape));
    assert_int_equal(x->trainable, y->trainable);
    assert_memory_equal(&x->pads, &y->pads, sizeof x->pads);
    assert_int_equal(x->input_count, y->input_count);
    for (int j = 0; j < x->input_count; j++)
      assert_string_equal(a->layers[x->inputs[j]].name, b->layers[y->inputs[j]].name);
    assert_int_equal(x->parameter_count, y->parameter_count);
    compare_options(x, y);
  }
  assert_string_equal(a->layers[a->output].name, b->layers[b->output].name);
}

// Parameters of two graphs have the same values; their numbers may differ.
static void compare_values(const Graph *a, float **x, const Graph *b, float **y,
                           bool trained_only) {
  for (int i = 0; i < a->parameter_count; i++) {
    if (trained_only && !graph_parameter_is_trained(a, i)) continue;
    int j = 0;
    while (strcmp(b->parameters[j].path, a->parameters[i].path) != 0) j++;
    assert_true(shape_equal(a->parameters[i].shape, b->parameters[j].shape));
    assert_memory_equal(x[i], y[j], (size_t)shape_count(a->parameters[i].shape) * sizeof(float));
  }
}

static void a_model_survives(const char *name) {
  Saved saved = save(name);
  KerasFile *file;
  Graph *graph;
  KerasFit fit;
  bool found;
  int64_t checked;
  expect_ok(keras_open_bytes(&file, saved.bytes, saved.size, name));
  const KerasInfo *info = keras_file_info(file);
  assert_true(info->is_ours && info->kind == KERAS_FILE_MODEL);
  assert_true(info->step == 1234567890123 && info->seed == UINT64_MAX - 1);
  assert_string_equal(info->state, "{\"epoch\": 7}");
  assert_int_equal(info->class_count, 5);
  for (int i = 0; i < 5; i++) assert_string_equal(info->class_names[i], CLASSES[i]);
  expect_ok(keras_file_verify(&checked, file));
  assert_true(checked > saved.graph->parameter_count);
  expect_ok(keras_file_graph(&graph, file, 0));
  compare_graphs(saved.graph, graph);
  float **values = every_layer_values(graph, 3), **momentum = every_layer_values(graph, 4);
  expect_ok(keras_file_read_parameters(&fit, file, graph, KERAS_SCOPE_MODEL, values));
  assert_int_equal(fit.loaded, graph->parameter_count);
  assert_true(fit.head_loaded && fit.left == 0 && fit.unused == 0);
  compare_values(saved.graph, saved.values, graph, values, false);
  expect_ok(keras_file_read_momentum(&found, file, graph, momentum));
  assert_true(found);
  compare_values(saved.graph, saved.momentum, graph, momentum, true);
  every_layer_values_free(graph, values);
  every_layer_values_free(graph, momentum);
  graph_free(graph);
  keras_close(file);
  saved_free(&saved);
}

static void models_survive(void **state) {
  (void)state;
  a_model_survives("nested");
  a_model_survives("frozen");
  a_model_survives("partly");
  a_model_survives("flat");
  a_model_survives("long");
}

static void equal_models_give_equal_bytes(void **state) {
  (void)state;
  Saved a = save("nested"), b = save("nested");
  assert_int_equal(a.size, b.size);
  assert_memory_equal(a.bytes, b.bytes, a.size);
  saved_free(&a);
  saved_free(&b);
}

// One flipped bit in the values of an array is found by its checksum and named.
// Class names are printed: a file from elsewhere must not write on a terminal what it likes.
static void class_names_can_be_shown(void **state) {
  (void)state;
  static const char *const names[] = {"a", "b", "\x1b]0;c\a", "d", "e"};
  Saved saved = save_classes("flat", names);
  KerasFile *file;
  expect_message(keras_open_bytes(&file, saved.bytes, saved.size, "m"),
                 "m: class 2 has no name that can be shown");
  keras_close(file);
  saved_free(&saved);
}

static void a_flipped_bit_is_found(void **state) {
  (void)state;
  Saved saved = save("nested");
  int kernel = layer_named(saved.graph, "grouped")->parameters[0];
  size_t size = (size_t)shape_count(saved.graph->parameters[kernel].shape) * sizeof(float);
  uint8_t *place = memmem(saved.bytes, saved.size, saved.values[kernel], size);
  assert_non_null(place);
  place[size / 2] ^= 0x10;
  KerasFile *file;
  KerasFit fit;
  int64_t checked;
  expect_ok(keras_open_bytes(&file, saved.bytes, saved.size, "flipped"));
  expect_message(keras_file_verify(&checked, file), "grouped/kernel:0 is damaged");
  expect_message(
      keras_file_read_parameters(&fit, file, saved.graph, KERAS_SCOPE_MODEL, saved.values),
      "grouped/kernel:0 is damaged");
  keras_close(file);
  place = memmem(saved.bytes, saved.size, "\"epsilon\":0.001", 15);
  assert_non_null(place);
  place[14] ^= 2;
  expect_message(keras_open_bytes(&file, saved.bytes, saved.size, "flipped"),
                 "model_config is damaged");
  saved_free(&saved);
}

static Graph *small_graph(int64_t filters, int64_t classes, const char *suffix) {
  Graph *g;
  char name[64];
  expect_ok(graph_create(&g, "small"));
  Value x = graph_input(g, SHAPE(8, 8, 3), "image");
  graph_submodel_begin(g, x, "body");
  for (int i = 0; i < 2; i++) {
    (void)snprintf(name, sizeof name, "conv%d%s", i, suffix);
    x = graph_conv2d(g, x, &(Conv2dDesc){.filters = i ? filters : 4, .kernel_h = 3}, name);
    (void)snprintf(name, sizeof name, "bn%d%s", i, suffix);
    x = graph_batch_normalization(g, x, &(BatchNormDesc){.9, 1e-3, 0, 0}, name);
  }
  x = graph_global_average_pooling2d(g, x, false, "pool");
  x = graph_submodel_end(g, x);
  (void)snprintf(name, sizeof name, "dense%s", suffix);
  x = graph_dense(g, x, &(DenseDesc){.units = classes}, name);
  expect_ok(graph_finish(g, x));
  return g;
}

static KerasFile *open_small(const Graph *graph, float **values) {
  uint8_t *bytes;
  size_t size;
  KerasFile *file;
  KerasModel model = {.graph = graph, .values = (const float *const *)values};
  expect_ok(keras_save_image(&bytes, &size, &model));
  expect_ok(keras_open_bytes(&file, bytes, size, "small.h5"));
  memory_free(bytes);
  return file;
}

static void weights_go_where_they_fit(void **state) {
  (void)state;
  Graph *source = small_graph(6, 10, "");
  float **values = every_layer_values(source, 1);
  KerasFile *file = open_small(source, values);
  KerasFit fit;
  bool found;
  // Another class count: the head stays as it was; names may differ.
  for (int renamed = 0; renamed < 2; renamed++) {
    Graph *target = small_graph(6, 7, renamed ? "_x" : "");
    float **read = every_layer_values(target, 2);
    float head = read[target->parameter_count - 1][0];
    expect_ok(keras_file_read_parameters(&fit, file, target, KERAS_SCOPE_BACKBONE, read));
    assert_false(fit.head_loaded);
    assert_int_equal(fit.loaded, 10);
    assert_int_equal(fit.left, 2);
    assert_int_equal(fit.unused, 2);
    for (int i = 0; i < 10; i++)
      assert_memory_equal(read[i], values[i],
                          (size_t)shape_count(source->parameters[i].shape) * sizeof(float));
    assert_true(read[target->parameter_count - 1][0] == head);
    expect_message(keras_file_read_parameters(&fit, file, target, KERAS_SCOPE_MODEL, read),
                   "has shape (6, 10), but dense");
    expect_ok(keras_file_read_momentum(&found, file, target, read));
    assert_false(found);
    every_layer_values_free(target, read);
    graph_free(target);
  }
  // The same class count: the head too.
  Graph *target = small_graph(6, 10, "_x");
  float **read = every_layer_values(target, 2);
  expect_ok(keras_file_read_parameters(&fit, file, target, KERAS_SCOPE_BACKBONE, read));
  assert_true(fit.head_loaded && fit.loaded == 12 && fit.unused == 0);
  every_layer_values_free(target, read);
  graph_free(target);
  // Another width: refused, with both names and shapes.
  target = small_graph(5, 10, "");
  read = every_layer_values(target, 2);
  expect_message(
      keras_file_read_parameters(&fit, file, target, KERAS_SCOPE_BACKBONE, read),
      "model_weights/body/conv1/kernel:0 has shape (3, 3, 4, 6), but conv1/kernel of the "
      "model has (3, 3, 4, 5)");
  every_layer_values_free(target, read);
  graph_free(target);
  keras_close(file);
  every_layer_values_free(source, values);
  graph_free(source);
}

static void values_that_are_no_numbers_are_refused(void **state) {
  (void)state;
  Graph *graph = small_graph(6, 10, "");
  float **values = every_layer_values(graph, 1);
  values[3][1] = 0.0f / 0.0f;
  KerasFile *file = open_small(graph, values);
  KerasFit fit;
  expect_message(keras_file_read_parameters(&fit, file, graph, KERAS_SCOPE_MODEL, values),
                 "nan at element 1");
  keras_close(file);
  every_layer_values_free(graph, values);
  graph_free(graph);
}

// --- configurations of others --------------------------------------------------------------------
#define CONV(more)                                                                                 \
  "{\"class_name\":\"Conv2D\",\"config\":{\"name\":\"c\",\"filters\":2,\"kernel_size\":[3,3]" more \
  "}}"
#define INPUT(shape)                                                                               \
  "{\"class_name\":\"InputLayer\",\"config\":{\"name\":\"i\",\"batch_input_shape\":" shape "}}"
#define SEQUENTIAL(layers)                                                                         \
  "{\"class_name\":\"Sequential\",\"config\":{\"name\":\"m\",\"layers\":[" layers "]}}"
#define IMAGE INPUT("[null,8,8,3]")

static Status read_config(Graph **graph, const char *config, const char *version) {
  H5Image *image;
  uint8_t *bytes;
  size_t size;
  KerasFile *file;
  *graph = NULL;
  expect_ok(h5_image_create(&image));
  expect_ok(h5_image_set_string(image, "", "model_config", config));
  expect_ok(h5_image_set_string(image, "", "keras_version", version));
  expect_ok(h5_image_add_group(image, "model_weights"));
  expect_ok(h5_image_set_strings(image, "model_weights", "layer_names", NULL, 0));
  expect_ok(h5_image_finish(image, &bytes, &size));
  h5_image_free(image);
  Status status = keras_open_bytes(&file, bytes, size, "m.h5");
  memory_free(bytes);
  if (status != STATUS_OK) return status;
  status = keras_file_graph(graph, file, 0);
  keras_close(file);
  return status;
}

static void activations_are_split_off(void **state) {
  (void)state;
  Graph *graph;
  expect_ok(read_config(&graph, SEQUENTIAL(IMAGE "," CONV(",\"activation\":\"swish\"")), "2.9"));
  assert_int_equal(graph->layer_count, 3);
  assert_int_equal(graph->layers[2].activation, ACTIVATION_SWISH);
  assert_string_equal(graph->layers[2].name, "c_activation");
  graph_free(graph);
  expect_ok(
      read_config(&graph, SEQUENTIAL(IMAGE "," CONV(",\"activation\":\"hard_sigmoid\"")), "3.1"));
  assert_int_equal(graph->layers[2].activation, ACTIVATION_HARD_SIGMOID);
  graph_free(graph);
}

// A model of one operator on its image.
#define OPERATOR(class_name, config, call)                                                         \
  "{\"class_name\":\"Functional\",\"config\":{\"name\":\"m\",\"layers\":[{\"class_name\":"              \
  "\"InputLayer\",\"config\":{\"name\":\"i\",\"batch_input_shape\":[null,8,8,3]},\"inbound_nodes\":"  \
  "[]},{\"class_name\":\"" class_name "\",\"config\":{\"name\":\"o\"" config "},\"inbound_nodes\":["  \
  call "]}],\"input_layers\":[\"i\",0,0],\"output_layers\":[\"o\",0,0]}}"
#define FUNCTION(name, options)                                                                    \
  OPERATOR("TFOpLambda", ",\"function\":\"" name "\"", "[\"i\",0,0,{" options "}]")
#define TENSOR                                                                                     \
  "{\"class_name\":\"__keras_tensor__\",\"config\":{\"shape\":[null,8,8,3],\"dtype\":\"float32\","     \
  "\"keras_history\":[\"i\",0,0]}}"
#define OPERATION(class_name, operands)                                                            \
  OPERATOR(class_name, "", "{\"args\":[" operands "],\"kwargs\":{}}")

static void operators_on_tensors_are_layers(void **state) {
  (void)state;
  static const struct {
    const char *config;
    LayerKind kind;
    double scale, offset;
  } cases[] = {
      {FUNCTION("__operators__.add", "\"y\":3.0,\"name\":null"), LAYER_RESCALING, 1, 3},
      {FUNCTION("math.subtract", "\"y\":3"), LAYER_RESCALING, 1, -3},
      {FUNCTION("math.multiply", "\"y\":0.5"), LAYER_RESCALING, 0.5, 0},
      {FUNCTION("math.truediv", "\"y\":4"), LAYER_RESCALING, 0.25, 0},
      {FUNCTION("__operators__.add", "\"y\":[\"i\",0,0]"), LAYER_ADD, 0, 0},
      {FUNCTION("math.multiply", "\"y\":[\"i\",0,0]"), LAYER_MULTIPLY, 0, 0},
      {OPERATION("Add", TENSOR ",3.0"), LAYER_RESCALING, 1, 3},
      {OPERATION("Add", "3," TENSOR), LAYER_RESCALING, 1, 3},
      {OPERATION("Subtract", TENSOR ",3"), LAYER_RESCALING, 1, -3},
      {OPERATION("Multiply", TENSOR ",0.5"), LAYER_RESCALING, 0.5, 0},
      {OPERATION("TrueDivide", TENSOR ",4"), LAYER_RESCALING, 0.25, 0},
      {OPERATION("Divide", TENSOR ",4"), LAYER_RESCALING, 0.25, 0},
      {OPERATION("Add", TENSOR "," TENSOR), LAYER_ADD, 0, 0},
      {OPERATION("Multiply", "[" TENSOR "," TENSOR "]"), LAYER_MULTIPLY, 0, 0},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    Graph *graph;
    expect_ok(read_config(&graph, cases[i].config, "3.1"));
    const Layer *layer = &graph->layers[graph->output];
    assert_int_equal(layer->kind, cases[i].kind);
    if (layer->kind == LAYER_RESCALING) {
      assert_true(layer->rescaling.scale[0] == cases[i].scale);
      assert_true(layer->rescaling.offset[0] == cases[i].offset);
    }
    graph_free(graph);
  }
}

static void what_is_not_supported_is_named(void **state) {
  (void)state;
  static const struct {
    const char *config, *words;
  } cases[] = {
      {"{", "no JSON"},
      {"[]", "a model of class ?"},
      {"{\"class_name\":\"MyModel\",\"config\":{}}", "class MyModel"},
      {SEQUENTIAL(""), "no layers"},
      {SEQUENTIAL(IMAGE ",{\"class_name\":\"Lambda\",\"config\":{\"name\":\"f\"}}"),
       "layer f (Lambda)"},
      {SEQUENTIAL(IMAGE ",{\"class_name\":\"Conv2D\"}"), "no class or no name"},
      {SEQUENTIAL(INPUT("[null,null,null,3]") "," CONV("")), "input size is open"},
      {SEQUENTIAL(INPUT("7") "," CONV("")), "0 dimensions"},
      {SEQUENTIAL(IMAGE "," CONV("") "," CONV("")), "stands for two layers"},
      {SEQUENTIAL(IMAGE "," CONV(",\"strides\":0")), "strides must be"},
      {SEQUENTIAL(IMAGE "," CONV(",\"strides\":[70000,1]")), "strides must be"},
      {SEQUENTIAL(IMAGE "," CONV(",\"padding\":\"causal\"")), "padding \"causal\""},
      {SEQUENTIAL(IMAGE "," CONV(",\"data_format\":\"channels_first\"")), "channels_last"},
      {SEQUENTIAL(IMAGE "," CONV(",\"activation\":\"hard_sigmoid\"")), "Keras 2's hard_sigmoid"},
      {SEQUENTIAL(IMAGE "," CONV(",\"activation\":\"gelu\"")), "activation \"gelu\""},
      {SEQUENTIAL(IMAGE "," CONV(",\"kernel_regularizer\":{\"class_name\":\"L1\",\"config\":{}}")),
       "only L2"},
      {SEQUENTIAL(IMAGE ",{\"class_name\":\"BatchNormalization\",\"config\":{\"name\":\"b\","
                        "\"axis\":1}}"),
       "axis 1"},
      {SEQUENTIAL(IMAGE ",{\"class_name\":\"Dropout\",\"config\":{\"name\":\"d\",\"rate\":1.5}}"),
       "rate 1.5"},
      {SEQUENTIAL(IMAGE ",{\"class_name\":\"Reshape\",\"config\":{\"name\":\"r\","
                        "\"target_shape\":[7,-1]}}"),
       "m.h5: "},
      {SEQUENTIAL(IMAGE ",{\"class_name\":\"Dense\",\"config\":{\"name\":\"d\",\"units\":"
                        "4000000000}}"),
       "units = 4000000000"},
      {SEQUENTIAL(IMAGE ",{\"class_name\":\"Add\",\"config\":{\"name\":\"a\"}}"), "at least 2"},
      {"{\"class_name\":\"Functional\",\"config\":{\"name\":\"m\",\"layers\":[{\"class_name\":"
       "\"Flatten\",\"config\":{\"name\":\"f\"},\"inbound_nodes\":[[[\"f\",0,0,{}]]]}]}}",
       "does not stand before it"},
      {"{\"class_name\":\"Functional\",\"config\":{\"name\":\"m\",\"layers\":[{\"class_name\":"
       "\"Flatten\",\"config\":{\"name\":\"f\"},\"inbound_nodes\":[]}],\"input_layers\":[[\"x\",0,"
       "0]],\"output_layers\":[\"f\",0,0]}}",
       "ends are not among"},
      {SEQUENTIAL(IMAGE ",{\"class_name\":\"Normalization\",\"config\":{\"name\":\"n\"}}"),
       "before `adapt`"},
      {FUNCTION("math.erf", ""), "operators on tensors other than"},
      {FUNCTION("math.truediv", "\"y\":0"), "divides by 0"},
      {FUNCTION("math.subtract", "\"y\":[\"i\",0,0]"), "a tensor and then a number"},
      {FUNCTION("math.multiply", "\"y\":[0.5,2]"), "does not stand before it"},
      {FUNCTION("math.multiply", ""), "a tensor and then a number"},
      {OPERATION("Subtract", "3," TENSOR), "a tensor and then a number"},
      {OPERATION("Subtract", TENSOR "," TENSOR), "not supported"},
      {OPERATION("Erf", TENSOR), "not supported"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    Graph *graph;
    Status status = read_config(&graph, cases[i].config, "2.15.0");
    assert_null(graph);
    expect_message(status, cases[i].words);
  }
}

// Configurations with some bytes changed: a graph or a message, never harm.
static void changed_configurations_do_no_harm(void **state) {
  (void)state;
  enum { TRIALS = 1000 };
  static const char characters[] = "0123456789-.,:[]{}\"aeinrst ";
  int read = 0;
  for (int i = 0; i < TRIALS; i++) {
    Graph *source = every_layer_graph(i % 2 ? "flat" : "nested"), *graph;
    char *config;
    expect_ok(keras_write_config(&config, source));
    size_t size = strlen(config);
    for (uint32_t j = 0; j < 1 + (uint32_t)i % 3; j++) {
      RngWords words = rng_draw(5, RNG_SYNTHETIC, (uint64_t)i, j, 0);
      config[words.word[0] % size] = characters[words.word[1] % (sizeof characters - 1)];
    }
    Status status = read_config(&graph, config, i % 3 ? "2.15.0" : "3.9");
    if (status != STATUS_OK && status != STATUS_DATA) fail_msg("%d: %s", status, status_message());
    assert_true((status == STATUS_OK) == (graph != NULL));
    if (status == STATUS_OK) read++;
    if (status == STATUS_DATA) assert_non_null(strstr(status_message(), "m.h5"));
    graph_free(graph);
    memory_free(config);
    graph_free(source);
  }
  assert_true(read > 0 && read < TRIALS);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(models_survive),
      cmocka_unit_test(equal_models_give_equal_bytes),
      cmocka_unit_test(class_names_can_be_shown),
      cmocka_unit_test(a_flipped_bit_is_found),
      cmocka_unit_test(weights_go_where_they_fit),
      cmocka_unit_test(values_that_are_no_numbers_are_refused),
      cmocka_unit_test(activations_are_split_off),
      cmocka_unit_test(operators_on_tensors_are_layers),
      cmocka_unit_test(what_is_not_supported_is_named),
      cmocka_unit_test(changed_configurations_do_no_harm),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
