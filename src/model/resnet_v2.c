// ResNet v2 (arXiv 1603.05027), pre-activation bottleneck units, in the two forms whose weights
// people own. Both take inputs in [-1, 1] and have a stage's stride in the 3x3 of its last unit,
// with a 1x1 maximum pool as the shortcut beside it; the root, the projections and the last
// convolution of a unit have a bias in place of BatchNorm.
//
//   resnet_v2_50, ...  the hub's graph, built by TF-Slim: the root's pool is SAME.
//   ResNet50V2, ...    Keras' graph: the root's pool sees one pixel of zeros on every side, which
//                      matters because no ReLU stands before it.
#include "model/blocks.h"
#include "model/family.h"

// Where the two differ.
typedef struct Form {
  double epsilon;
  Initializer kernel;
  bool pad_pool; // the root's pool is padded with zeros by hand, else SAME
} Form;

static const Form slim = {
    .epsilon = 1e-5,
    .kernel = {INITIALIZER_VARIANCE_SCALING, 2, FAN_IN, DISTRIBUTION_TRUNCATED_NORMAL},
};
static const Form keras = {
    .epsilon = 1.001e-5,
    .kernel = {.kind = INITIALIZER_GLOROT_UNIFORM},
    .pad_pool = true,
};

typedef struct ResnetV2Options {
  const Form *form;
  int units[4]; // of each stage
} ResnetV2Options;

// One unit: 1x1, 3x3 and 1x1 convolutions beside a shortcut.
typedef struct Unit {
  int64_t filters; // of the first two; the last has four times as many
  int stride;
  bool project; // the shortcut is a convolution
} Unit;

static Value add_norm(Net *net, Value x, const char *norm, const char *relu) {
  return model__activation(net, model__norm(net, x, norm), ACTIVATION_RELU, relu);
}

static Value add_unit(Net *net, Value x, const Unit *unit) {
  Conv2dDesc narrow = {.filters = unit->filters, .kernel_h = 1};
  Conv2dDesc middle = {.filters = unit->filters, .kernel_h = 3, .stride_h = unit->stride};
  Conv2dDesc widen = {.filters = 4 * unit->filters, .kernel_h = 1, .use_bias = true};
  Value active = add_norm(net, x, "preact_bn", "preact_relu");
  Value y = model__conv(net, active, narrow, "1_conv");
  y = add_norm(net, y, "1_bn", "1_relu");
  y = model__pad(net, y, 1, "2_pad");
  y = model__conv(net, y, middle, "2_conv");
  y = add_norm(net, y, "2_bn", "2_relu");
  // From here on both branches advance together, as Keras lists them.
  Value shortcut = x;
  if (unit->project)
    shortcut = model__conv(net, active, widen, "0_conv");
  else if (unit->stride > 1)
    shortcut = model__max_pool(net, x, (PoolDesc){.size_h = 1, .stride_h = unit->stride}, "0_pool");
  y = model__conv(net, y, widen, "3_conv");
  return model__add(net, shortcut, y, "out");
}

static Value add_root(Net *net, Value image, const Form *form) {
  Value x = graph_rescaling(net->graph, image, &(RescalingDesc){1, {2}, {-1}}, "rescaling");
  x = model__pad(net, x, 3, "conv1_pad");
  Conv2dDesc root = {.filters = 64, .kernel_h = 7, .stride_h = 2, .use_bias = true};
  x = model__conv(net, x, root, "conv1_conv");
  PoolDesc pool = {.size_h = 3, .stride_h = 2, .padding = PADDING_SAME};
  if (form->pad_pool) {
    x = model__pad(net, x, 1, "pool1_pad");
    pool.padding = PADDING_VALID;
  }
  return model__max_pool(net, x, pool, "pool1_pool");
}

static Value build(Graph *graph, Value image, const ModelDesc *desc, const ModelSpec *spec) {
  const ResnetV2Options *options = desc->options;
  Net net = model__net(graph, spec, 0.99, options->form->epsilon, options->form->kernel);
  Value x = add_root(&net, image, options->form);
  for (int s = 0; s < 4; s++)
    for (int u = 0; u < options->units[s]; u++) {
      Unit unit = {.filters = 64 << s,
                   .stride = s < 3 && u == options->units[s] - 1 ? 2 : 1,
                   .project = u == 0};
      model__begin_block(&net, "conv%d_block%d_", s + 2, u + 1);
      x = add_unit(&net, x, &unit);
    }
  model__begin_block(&net, "post_");
  x = add_norm(&net, x, "bn", "relu");
  return graph_global_average_pooling2d(graph, x, false, "avg_pool");
}

#define ROW(name_, form_, ...)                                                                     \
  {                                                                                                \
    .name = name_, .image_size = 224, .smallest_image = 32, .build = build,                        \
    .options = &(const ResnetV2Options) {                                                          \
      .form = &form_, .units = { __VA_ARGS__ }                                                     \
    }                                                                                              \
  }
static const ModelDesc models[] = {
    ROW("resnet_v2_50", slim, 3, 4, 6, 3),   ROW("resnet_v2_101", slim, 3, 4, 23, 3),
    ROW("resnet_v2_152", slim, 3, 8, 36, 3), ROW("ResNet50V2", keras, 3, 4, 6, 3),
    ROW("ResNet101V2", keras, 3, 4, 23, 3),  ROW("ResNet152V2", keras, 3, 8, 36, 3),
};
#undef ROW

const ModelFamily model__resnet_v2 = {models, sizeof models / sizeof *models};
