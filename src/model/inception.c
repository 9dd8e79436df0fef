// Inception v3 (arXiv 1512.00567) and Inception-ResNet v2 (arXiv 1602.07261): TF-Slim's graphs, the
// hub's, and the same ones of Keras.
//
// Inputs in [-1, 1]; each convolution is followed by BatchNorm without scale, epsilon 0.001, and
// ReLU; averages over padded windows leave the padding out. Both are a stem and a list of modules:
// parallel branches, each an optional pool and a chain of convolutions, joined along the channels.
// Layers are named MODULE_bBRANCH_NUMBER_{conv,bn,relu} after TF-Slim's modules.
#include <stdio.h>

#include "model/blocks.h"
#include "model/family.h"

enum { MAX_CONVS = 5, MAX_BRANCHES = 4, CONV_NAME_CAPACITY = 32 };

typedef struct ConvSpec {
  int filters; // 0 ends a chain
  int kernel_h, kernel_w;
} ConvSpec;

typedef struct Branch {
  bool pool; // begins with a 3x3 pool: the average, in a module of stride 2 the maximum
  ConvSpec convs[MAX_CONVS + 1];
  bool fork; // the last two convolutions stand side by side
} Branch;

typedef struct Module {
  const char *name; // NULL ends a network
  int stride;       // 2: of each branch's last layer, with padding VALID
  Branch branches[MAX_BRANCHES];
  int first, repeats; // of a residual module, which is numbered; 0: another, and just one
  double scale;       // residual: relu(x + scale * 1x1 convolution of the branches)
  bool linear;        // residual without the ReLU
} Module;

typedef struct InceptionOptions {
  const Module *modules;
  int top; // filters of a last 1x1 convolution; 0: none
  Initializer kernel;
} InceptionOptions;

static Value add_conv(Net *net, Value x, const ConvSpec *spec, int stride, Padding padding,
                      const char *name) {
  char text[CONV_NAME_CAPACITY];
  Conv2dDesc conv = {.filters = spec->filters,
                     .kernel_h = spec->kernel_h,
                     .kernel_w = spec->kernel_w,
                     .stride_h = stride,
                     .padding = padding};
  (void)snprintf(text, sizeof text, "%sconv", name);
  x = model__conv(net, x, conv, text);
  (void)snprintf(text, sizeof text, "%sbn", name);
  x = model__norm(net, x, text);
  (void)snprintf(text, sizeof text, "%srelu", name);
  return model__activation(net, x, ACTIVATION_RELU, text);
}

static int count_convs(const Branch *branch) {
  int count = 0;
  while (branch->convs[count].filters) count++;
  return count;
}

static Value add_pool(Net *net, Value x, int stride, int number) {
  char name[CONV_NAME_CAPACITY];
  (void)snprintf(name, sizeof name, "b%d_pool", number);
  PoolDesc pool = {.size_h = 3, .stride_h = stride};
  if (stride > 1) return model__max_pool(net, x, pool, name);
  pool.padding = PADDING_SAME;
  return model__average_pool(net, x, pool, name);
}

static Value add_branch(Net *net, Value x, const Branch *branch, int stride, int number) {
  char name[CONV_NAME_CAPACITY];
  Value side[2] = {NO_VALUE, NO_VALUE};
  int count = count_convs(branch);
  if (branch->pool) x = add_pool(net, x, stride, number);
  for (int i = 0; i < count; i++) {
    bool strided = stride > 1 && i == count - 1;
    bool beside = branch->fork && i >= count - 2;
    (void)snprintf(name, sizeof name, "b%d_%d_", number, i);
    Value y = add_conv(net, x, &branch->convs[i], strided ? stride : 1,
                       strided ? PADDING_VALID : PADDING_SAME, name);
    if (beside)
      side[i - (count - 2)] = y;
    else
      x = y;
  }
  if (!branch->fork) return x;
  (void)snprintf(name, sizeof name, "b%d_concat", number);
  return model__concatenate(net, side, 2, name);
}

static Value add_branches(Net *net, Value x, const Module *module, const char *name) {
  Value ends[MAX_BRANCHES];
  int count = 0;
  for (; count < MAX_BRANCHES; count++) {
    const Branch *branch = &module->branches[count];
    if (!branch->pool && !branch->convs[0].filters) break;
    ends[count] = add_branch(net, x, branch, module->stride, count);
  }
  return model__concatenate(net, ends, count, name);
}

static Value add_residual(Net *net, Value x, const Module *module) {
  Value y = add_branches(net, x, module, "mixed");
  Conv2dDesc up = {.filters = graph_channels(net->graph, x), .kernel_h = 1, .use_bias = true};
  y = model__conv(net, y, up, "conv");
  if (module->scale != 1) y = model__scale(net, y, module->scale, "scale");
  y = model__add(net, x, y, "add");
  return module->linear ? y : model__activation(net, y, ACTIVATION_RELU, "ac");
}

static Value add_modules(Net *net, Value x, const Module *module) {
  for (; module->name; module++) {
    if (module->repeats == 0) {
      model__begin_block(net, "%s_", module->name);
      x = add_branches(net, x, module, "concat");
    }
    for (int r = 0; r < module->repeats; r++) {
      model__begin_block(net, "%s_%d_", module->name, module->first + r);
      x = add_residual(net, x, module);
    }
  }
  return x;
}

static Value add_stem(Net *net, Value image) {
  PoolDesc pool = {.size_h = 3, .stride_h = 2};
  Value x = graph_rescaling(net->graph, image, &(RescalingDesc){1, {2}, {-1}}, "rescaling");
  x = add_conv(net, x, &(ConvSpec){32, 3, 3}, 2, PADDING_VALID, "conv_1a_");
  x = add_conv(net, x, &(ConvSpec){32, 3, 3}, 1, PADDING_VALID, "conv_2a_");
  x = add_conv(net, x, &(ConvSpec){64, 3, 3}, 1, PADDING_SAME, "conv_2b_");
  x = model__max_pool(net, x, pool, "pool_3a");
  x = add_conv(net, x, &(ConvSpec){80, 1, 1}, 1, PADDING_VALID, "conv_3b_");
  x = add_conv(net, x, &(ConvSpec){192, 3, 3}, 1, PADDING_VALID, "conv_4a_");
  return model__max_pool(net, x, pool, "pool_5a");
}

static Value build(Graph *graph, Value image, const ModelDesc *desc, const ModelSpec *spec) {
  const InceptionOptions *options = desc->options;
  Net net = model__net(graph, spec, 0.99, 1e-3, options->kernel);
  net.batch_norm.no_scale = true;
  Value x = add_modules(&net, add_stem(&net, image), options->modules);
  model__begin_block(&net, "conv_7b_");
  if (options->top) x = add_conv(&net, x, &(ConvSpec){options->top, 1, 1}, 1, PADDING_SAME, "");
  return graph_global_average_pooling2d(graph, x, false, "avg_pool");
}

// --- the tables ----------------------------------------------------------------------------------

#define MIXED_5(name_, pool_filters)                                                               \
  {                                                                                                \
    .name = name_, .stride = 1, .branches = {                                                      \
      {.convs = {{64, 1, 1}}},                                                                     \
      {.convs = {{48, 1, 1}, {64, 5, 5}}},                                                         \
      {.convs = {{64, 1, 1}, {96, 3, 3}, {96, 3, 3}}},                                             \
      {.pool = true, .convs = {{pool_filters, 1, 1}}},                                             \
    }                                                                                              \
  }
#define MIXED_6(name_, inner)                                                                      \
  {                                                                                                \
    .name = name_, .stride = 1, .branches = {                                                      \
      {.convs = {{192, 1, 1}}},                                                                    \
      {.convs = {{inner, 1, 1}, {inner, 1, 7}, {192, 7, 1}}},                                      \
      {.convs = {{inner, 1, 1}, {inner, 7, 1}, {inner, 1, 7}, {inner, 7, 1}, {192, 1, 7}}},        \
      {.pool = true, .convs = {{192, 1, 1}}},                                                      \
    }                                                                                              \
  }
#define MIXED_7(name_)                                                                             \
  {                                                                                                \
    .name = name_, .stride = 1, .branches = {                                                      \
      {.convs = {{320, 1, 1}}},                                                                    \
      {.convs = {{384, 1, 1}, {384, 1, 3}, {384, 3, 1}}, .fork = true},                            \
      {.convs = {{448, 1, 1}, {384, 3, 3}, {384, 1, 3}, {384, 3, 1}}, .fork = true},               \
      {.pool = true, .convs = {{192, 1, 1}}},                                                      \
    }                                                                                              \
  }
static const Module v3_modules[] = {
    MIXED_5("mixed_5b", 32),
    MIXED_5("mixed_5c", 64),
    MIXED_5("mixed_5d", 64),
    {.name = "mixed_6a",
     .stride = 2,
     .branches = {{.convs = {{384, 3, 3}}},
                  {.convs = {{64, 1, 1}, {96, 3, 3}, {96, 3, 3}}},
                  {.pool = true}}},
    MIXED_6("mixed_6b", 128),
    MIXED_6("mixed_6c", 160),
    MIXED_6("mixed_6d", 160),
    MIXED_6("mixed_6e", 192),
    {.name = "mixed_7a",
     .stride = 2,
     .branches = {{.convs = {{192, 1, 1}, {320, 3, 3}}},
                  {.convs = {{192, 1, 1}, {192, 1, 7}, {192, 7, 1}, {192, 3, 3}}},
                  {.pool = true}}},
    MIXED_7("mixed_7b"),
    MIXED_7("mixed_7c"),
    {.name = NULL},
};

#define BLOCK8                                                                                     \
  {                                                                                                \
    {.convs = {{192, 1, 1}}}, {                                                                    \
      .convs = { {192, 1, 1}, {224, 1, 3}, {256, 3, 1} }                                           \
    }                                                                                              \
  }
static const Module resnet_v2_modules[] = {
    {.name = "mixed_5b",
     .stride = 1,
     .branches = {{.convs = {{96, 1, 1}}},
                  {.convs = {{48, 1, 1}, {64, 5, 5}}},
                  {.convs = {{64, 1, 1}, {96, 3, 3}, {96, 3, 3}}},
                  {.pool = true, .convs = {{64, 1, 1}}}}},
    {.name = "block35",
     .stride = 1,
     .branches = {{.convs = {{32, 1, 1}}},
                  {.convs = {{32, 1, 1}, {32, 3, 3}}},
                  {.convs = {{32, 1, 1}, {48, 3, 3}, {64, 3, 3}}}},
     .first = 1,
     .repeats = 10,
     .scale = 0.17},
    {.name = "mixed_6a",
     .stride = 2,
     .branches = {{.convs = {{384, 3, 3}}},
                  {.convs = {{256, 1, 1}, {256, 3, 3}, {384, 3, 3}}},
                  {.pool = true}}},
    {.name = "block17",
     .stride = 1,
     .branches = {{.convs = {{192, 1, 1}}}, {.convs = {{128, 1, 1}, {160, 1, 7}, {192, 7, 1}}}},
     .first = 1,
     .repeats = 20,
     .scale = 0.1},
    {.name = "mixed_7a",
     .stride = 2,
     .branches = {{.convs = {{256, 1, 1}, {384, 3, 3}}},
                  {.convs = {{256, 1, 1}, {288, 3, 3}}},
                  {.convs = {{256, 1, 1}, {288, 3, 3}, {320, 3, 3}}},
                  {.pool = true}}},
    {.name = "block8", .stride = 1, .branches = BLOCK8, .first = 1, .repeats = 9, .scale = 0.2},
    {.name = "block8",
     .stride = 1,
     .branches = BLOCK8,
     .first = 10,
     .repeats = 1,
     .scale = 1,
     .linear = true},
    {.name = NULL},
};

// Kernels start as in the repository that the name comes from.
#define HE                                                                                         \
  { INITIALIZER_VARIANCE_SCALING, 2, FAN_IN, DISTRIBUTION_TRUNCATED_NORMAL }
#define GLOROT                                                                                     \
  { .kind = INITIALIZER_GLOROT_UNIFORM }
static const InceptionOptions v3_slim = {.modules = v3_modules, .kernel = HE};
static const InceptionOptions v3_keras = {.modules = v3_modules, .kernel = GLOROT};
static const InceptionOptions resnet_v2 = {
    .modules = resnet_v2_modules, .top = 1536, .kernel = GLOROT};

#define ROW(name_, options_, torch_)                                                               \
  {                                                                                                \
    .name = name_, .image_size = 299, .smallest_image = 75, .build = build, .options = &options_,  \
    .torch = &torch_                                                                               \
  }
static const ModelDesc models[] = {
    ROW("inception_v3", v3_slim, torch_inception_v3),
    ROW("InceptionV3", v3_keras, torch_inception_v3),
    ROW("inception_resnet_v2", resnet_v2, torch_inception_resnet_v2),
    ROW("InceptionResNetV2", resnet_v2, torch_inception_resnet_v2),
};
#undef ROW

const ModelFamily model__inception = {models, sizeof models / sizeof *models};
