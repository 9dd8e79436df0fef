// ResNet v1 (arXiv 1512.03385) with bottleneck units, in the three forms whose weights people own:
//
//   resnet_v1_50, ...    the hub's graph, built by TF-Slim: inputs in [-1, 1], convolutions without
//                        bias, a stage's stride in the 3x3 of its last unit, padded by one pixel on
//                        every side, with a 1x1 maximum pool as the shortcut beside it.
//   ResNet50, ...        Keras' graph: convolutions with bias, a stage's stride in the first 1x1 of
//                        its first unit. Its public weights take 0..255 blue-green-red minus
//                        ImageNet's mean; here the mean is taken off red-green-blue, and who loads
//                        those weights swaps the first kernel (model_swap_red_blue).
//   resnet50_v1_5, ...   MLPerf's, torchvision's and timm's: convolutions without bias, a stage's
//                        stride in the 3x3 of its first unit, inputs normalised with ImageNet's
//                        mean and deviation.
#include "model/blocks.h"
#include "model/family.h"

// Where the three differ.
typedef struct Form {
  RescalingDesc rescaling; // count 0: ImageNet's mean and deviation
  double momentum, epsilon;
  Initializer kernel;
  bool use_bias;
  bool stride_last;   // a stage's stride is in its last unit, else in the first
  bool stride_middle; // a unit's stride is in its 3x3, padded by hand, else in its first 1x1
  bool pad_pool;      // the root's pool is padded by hand, else SAME
} Form;

static const Form slim = {
    .rescaling = {1, {2}, {-1}},
    .momentum = 0.99,
    .epsilon = 1e-5,
    .kernel = {INITIALIZER_VARIANCE_SCALING, 2, FAN_IN, DISTRIBUTION_TRUNCATED_NORMAL},
    .stride_last = true,
    .stride_middle = true,
};
static const Form keras = {
    .rescaling = {3, {255, 255, 255}, {-123.68, -116.779, -103.939}},
    .momentum = 0.99,
    .epsilon = 1.001e-5,
    .kernel = {.kind = INITIALIZER_GLOROT_UNIFORM},
    .use_bias = true,
    .pad_pool = true,
};
static const Form v1_5 = {
    .momentum = 0.9,
    .epsilon = 1e-5,
    .kernel = {INITIALIZER_VARIANCE_SCALING, 2, FAN_OUT, DISTRIBUTION_NORMAL},
    .stride_middle = true,
    .pad_pool = true,
};

typedef struct ResnetV1Options {
  const Form *form;
  int units[4]; // of each stage
} ResnetV1Options;

// One unit: 1x1, 3x3 and 1x1 convolutions beside a shortcut.
typedef struct Unit {
  const Form *form;
  int64_t filters; // of the first two; the last has four times as many
  int stride;
  bool project; // the shortcut is a convolution
} Unit;

static Value add_conv(Net *net, Value x, const Unit *unit, Conv2dDesc desc, const char *name) {
  desc.use_bias = unit->form->use_bias;
  return model__conv(net, x, desc, name);
}

static Value add_middle(Net *net, Value x, const Unit *unit) {
  Conv2dDesc desc = {.filters = unit->filters, .kernel_h = 3, .padding = PADDING_SAME};
  if (unit->form->stride_middle && unit->stride > 1) {
    x = model__pad(net, x, 1, "2_pad");
    desc.padding = PADDING_VALID;
    desc.stride_h = unit->stride;
  }
  return add_conv(net, x, unit, desc, "2_conv");
}

static Value add_unit(Net *net, Value x, const Unit *unit) {
  int first_stride = unit->form->stride_middle ? 1 : unit->stride;
  Conv2dDesc narrow = {.filters = unit->filters, .kernel_h = 1, .stride_h = first_stride};
  Conv2dDesc widen = {.filters = 4 * unit->filters, .kernel_h = 1};
  Value y = add_conv(net, x, unit, narrow, "1_conv");
  y = model__norm(net, y, "1_bn");
  y = model__activation(net, y, ACTIVATION_RELU, "1_relu");
  y = add_middle(net, y, unit);
  y = model__norm(net, y, "2_bn");
  y = model__activation(net, y, ACTIVATION_RELU, "2_relu");
  // From here on both branches advance together, as Keras lists them.
  Value shortcut = x;
  if (unit->project) {
    Conv2dDesc match = widen;
    match.stride_h = unit->stride;
    shortcut = add_conv(net, x, unit, match, "0_conv");
  }
  y = add_conv(net, y, unit, widen, "3_conv");
  if (unit->project) {
    shortcut = model__norm(net, shortcut, "0_bn");
  } else if (unit->stride > 1) {
    PoolDesc pool = {.size_h = 1, .stride_h = unit->stride};
    shortcut = model__max_pool(net, x, pool, "0_pool");
  }
  y = model__norm(net, y, "3_bn");
  y = model__add(net, shortcut, y, "add");
  return model__activation(net, y, ACTIVATION_RELU, "out");
}

static Value add_root(Net *net, Value image, const Form *form) {
  Value x = form->rescaling.count
                ? graph_rescaling(net->graph, image, &form->rescaling, "rescaling")
                : model__imagenet_rescaling(net, image);
  x = model__pad(net, x, 3, "conv1_pad");
  Conv2dDesc root = {.filters = 64, .kernel_h = 7, .stride_h = 2, .use_bias = form->use_bias};
  x = model__conv(net, x, root, "conv1_conv");
  x = model__norm(net, x, "conv1_bn");
  x = model__activation(net, x, ACTIVATION_RELU, "conv1_relu");
  PoolDesc pool = {.size_h = 3, .stride_h = 2, .padding = PADDING_SAME};
  if (form->pad_pool) {
    x = model__pad(net, x, 1, "pool1_pad");
    pool.padding = PADDING_VALID;
  }
  return model__max_pool(net, x, pool, "pool1_pool");
}

static Value build(Graph *graph, Value image, const ModelDesc *desc, const ModelSpec *spec) {
  const ResnetV1Options *options = desc->options;
  const Form *form = options->form;
  Net net = model__net(graph, spec, form->momentum, form->epsilon, form->kernel);
  Value x = add_root(&net, image, form);
  for (int s = 0; s < 4; s++) {
    // The image is halved by three of the four stages.
    int stride = s == (form->stride_last ? 3 : 0) ? 1 : 2;
    int strided = form->stride_last ? options->units[s] - 1 : 0;
    for (int u = 0; u < options->units[s]; u++) {
      Unit unit = {
          .form = form, .filters = 64 << s, .stride = u == strided ? stride : 1, .project = u == 0};
      model__begin_block(&net, "conv%d_block%d_", s + 2, u + 1);
      x = add_unit(&net, x, &unit);
    }
  }
  return graph_global_average_pooling2d(graph, x, false, "avg_pool");
}

#define ROW(name_, form_, ...)                                                                     \
  {                                                                                                \
    .name = name_, .image_size = 224, .smallest_image = 32, .build = build,                        \
    .options = &(const ResnetV1Options){.form = &form_, .units = {__VA_ARGS__}},                   \
    .torch = &form_ == &v1_5 ? &torch_resnet : NULL, .public_weights_take_bgr = &form_ == &keras   \
  }
static const ModelDesc models[] = {
    ROW("resnet_v1_50", slim, 3, 4, 6, 3),    ROW("resnet_v1_101", slim, 3, 4, 23, 3),
    ROW("resnet_v1_152", slim, 3, 8, 36, 3),  ROW("ResNet50", keras, 3, 4, 6, 3),
    ROW("ResNet101", keras, 3, 4, 23, 3),     ROW("ResNet152", keras, 3, 8, 36, 3),
    ROW("resnet50_v1_5", v1_5, 3, 4, 6, 3),   ROW("resnet101_v1_5", v1_5, 3, 4, 23, 3),
    ROW("resnet152_v1_5", v1_5, 3, 8, 36, 3),
};
#undef ROW

const ModelFamily model__resnet_v1 = {models, sizeof models / sizeof *models};
