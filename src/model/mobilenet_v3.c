// MobileNetV3 (arXiv 1905.02244), small and large, in the two forms whose weights people own:
//
//   mobilenet_v3_large_100_224, ...  the hub's graph, built by TF-Slim: its vector comes from the
//                                    1x1 convolution with bias and hard swish behind the pool.
//   MobileNetV3Large, ...            Keras' without its top: the vector is the pool's.
//
// Inputs in [-1, 1], padding SAME, BatchNorm with epsilon 0.001, ReLU in the early blocks and hard
// swish later, gates of hard sigmoid. (Slim's gate multiplies by 0.16667, here as in Keras by 1/6.)
#include "model/blocks.h"
#include "model/family.h"

typedef struct Block {
  int kernel, stride;
  double expansion; // of the block's input channels; 0: the block has no such convolution
  int filters;
  bool squeeze; // a gate with a quarter of the expanded channels inside
  ActivationKind activation;
} Block;

static const Block small_blocks[] = {
    {3, 2, 0, 16, true, ACTIVATION_RELU},          {3, 2, 72.0 / 16, 24, false, ACTIVATION_RELU},
    {3, 1, 88.0 / 24, 24, false, ACTIVATION_RELU}, {5, 2, 4, 40, true, ACTIVATION_HARD_SWISH},
    {5, 1, 6, 40, true, ACTIVATION_HARD_SWISH},    {5, 1, 6, 40, true, ACTIVATION_HARD_SWISH},
    {5, 1, 3, 48, true, ACTIVATION_HARD_SWISH},    {5, 1, 3, 48, true, ACTIVATION_HARD_SWISH},
    {5, 2, 6, 96, true, ACTIVATION_HARD_SWISH},    {5, 1, 6, 96, true, ACTIVATION_HARD_SWISH},
    {5, 1, 6, 96, true, ACTIVATION_HARD_SWISH},    {0},
};
static const Block large_blocks[] = {
    {3, 1, 0, 16, false, ACTIVATION_RELU},         {3, 2, 4, 24, false, ACTIVATION_RELU},
    {3, 1, 3, 24, false, ACTIVATION_RELU},         {5, 2, 3, 40, true, ACTIVATION_RELU},
    {5, 1, 3, 40, true, ACTIVATION_RELU},          {5, 1, 3, 40, true, ACTIVATION_RELU},
    {3, 2, 6, 80, false, ACTIVATION_HARD_SWISH},   {3, 1, 2.5, 80, false, ACTIVATION_HARD_SWISH},
    {3, 1, 2.3, 80, false, ACTIVATION_HARD_SWISH}, {3, 1, 2.3, 80, false, ACTIVATION_HARD_SWISH},
    {3, 1, 6, 112, true, ACTIVATION_HARD_SWISH},   {3, 1, 6, 112, true, ACTIVATION_HARD_SWISH},
    {5, 2, 6, 160, true, ACTIVATION_HARD_SWISH},   {5, 1, 6, 160, true, ACTIVATION_HARD_SWISH},
    {5, 1, 6, 160, true, ACTIVATION_HARD_SWISH},   {0},
};

typedef struct MobilenetV3Options {
  const Block *blocks; // kernel 0 ends them
  double width;        // factor on all channels but the vector's
  int64_t features;    // of the convolution behind the pool; 0: Keras' form, which has none
  double momentum;     // of BatchNorm: the hub's when fine-tuned, or Keras'
  Initializer kernel;  // as the Slim training scope, or Keras, starts convolutions
} MobilenetV3Options;

static Value add_gate(Net *net, Value x) {
  int64_t channels = graph_channels(net->graph, x);
  Conv2dDesc reduce = {.filters = model__round_channels((double)channels, 0.25, true),
                       .kernel_h = 1,
                       .padding = PADDING_SAME,
                       .use_bias = true};
  Conv2dDesc expand = reduce;
  expand.filters = channels;
  Value gate = model__global_pool(net, x, true, "squeeze_excite_avg_pool");
  gate = model__conv(net, gate, reduce, "squeeze_excite_conv");
  gate = model__activation(net, gate, ACTIVATION_RELU, "squeeze_excite_relu");
  gate = model__conv(net, gate, expand, "squeeze_excite_conv_1");
  gate = model__activation(net, gate, ACTIVATION_HARD_SIGMOID, "squeeze_excite_hard_sigmoid");
  return model__multiply(net, x, gate, "squeeze_excite_mul");
}

static Value add_block(Net *net, Value x, const Block *block, int64_t filters) {
  int64_t channels = graph_channels(net->graph, x);
  Value y = x;
  if (block->expansion != 0) {
    Conv2dDesc expand = {.filters = model__round_channels((double)channels, block->expansion, true),
                         .kernel_h = 1,
                         .padding = PADDING_SAME};
    y = model__conv(net, y, expand, "expand");
    y = model__norm(net, y, "expand_bn");
    y = model__activation(net, y, block->activation, "expand_activation");
  }
  Conv2dDesc depthwise = {
      .kernel_h = block->kernel, .stride_h = block->stride, .padding = PADDING_SAME};
  y = model__depthwise(net, y, depthwise, "depthwise");
  y = model__norm(net, y, "depthwise_bn");
  y = model__activation(net, y, block->activation, "depthwise_activation");
  if (block->squeeze) y = add_gate(net, y);
  Conv2dDesc project = {.filters = filters, .kernel_h = 1, .padding = PADDING_SAME};
  y = model__conv(net, y, project, "project");
  y = model__norm(net, y, "project_bn");
  return block->stride == 1 && channels == filters ? model__add(net, x, y, "add") : y;
}

// A convolution with BatchNorm and hard swish, as before and after the blocks.
static Value add_conv(Net *net, Value x, Conv2dDesc desc, const char *name) {
  desc.padding = PADDING_SAME;
  model__begin_block(net, "%s", name);
  x = model__conv(net, x, desc, "");
  x = model__norm(net, x, "_bn");
  return model__activation(net, x, ACTIVATION_HARD_SWISH, "_activation");
}

static Value add_features(Net *net, Value x, int64_t count) {
  model__begin_block(net, "%s", "");
  if (count == 0) return model__global_pool(net, x, false, "avg_pool");
  Conv2dDesc desc = {.filters = count, .kernel_h = 1, .padding = PADDING_SAME, .use_bias = true};
  x = model__global_pool(net, x, true, "avg_pool");
  x = model__conv(net, x, desc, "conv_2");
  x = model__activation(net, x, ACTIVATION_HARD_SWISH, "conv_2_activation");
  return graph_reshape(net->graph, x, SHAPE(count), "features");
}

static Value build(Graph *graph, Value image, const ModelDesc *desc, const ModelSpec *spec) {
  const MobilenetV3Options *options = desc->options;
  Net net = model__net(graph, spec, options->momentum, 1e-3, options->kernel);
  Value x = graph_rescaling(graph, image, &(RescalingDesc){1, {2}, {-1}}, "rescaling");
  x = add_conv(&net, x, (Conv2dDesc){.filters = 16, .kernel_h = 3, .stride_h = 2}, "conv");
  for (const Block *block = options->blocks; block->kernel; block++) {
    if (block == options->blocks)
      model__begin_block(&net, "expanded_conv_");
    else
      model__begin_block(&net, "expanded_conv_%d_", (int)(block - options->blocks));
    x = add_block(&net, x, block, model__round_channels(block->filters, options->width, true));
  }
  int64_t last = model__round_channels((double)graph_channels(graph, x), 6, true);
  x = add_conv(&net, x, (Conv2dDesc){.filters = last, .kernel_h = 1}, "conv_1");
  return add_features(&net, x, options->features);
}

#define SLIM                                                                                       \
  0.99, {                                                                                          \
    .kind = INITIALIZER_TRUNCATED_NORMAL, .scale = 0.09                                            \
  }
#define KERAS                                                                                      \
  0.999, {                                                                                         \
    .kind = INITIALIZER_GLOROT_UNIFORM                                                             \
  }
#define ROW(name_, torch_, ...)                                                                    \
  {                                                                                                \
    .name = name_, .image_size = 224, .smallest_image = 32, .build = build, .torch = torch_,       \
    .options = &(const MobilenetV3Options) {                                                       \
      __VA_ARGS__                                                                                  \
    }                                                                                              \
  }
static const ModelDesc models[] = {
    ROW("mobilenet_v3_small_100_224", &torch_mobilenet_v3_small, small_blocks, 1.0, 1024, SLIM),
    ROW("mobilenet_v3_small_075_224", &torch_mobilenet_v3_small, small_blocks, 0.75, 1024, SLIM),
    ROW("mobilenet_v3_large_100_224", &torch_mobilenet_v3_large, large_blocks, 1.0, 1280, SLIM),
    ROW("mobilenet_v3_large_075_224", &torch_mobilenet_v3_large, large_blocks, 0.75, 1280, SLIM),
    ROW("MobileNetV3Small", NULL, small_blocks, 1.0, 0, KERAS),
    ROW("MobileNetV3Large", NULL, large_blocks, 1.0, 0, KERAS),
};
#undef ROW

const ModelFamily model__mobilenet_v3 = {models, sizeof models / sizeof *models};
