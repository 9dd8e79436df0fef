// MobileNetV2 (arXiv 1801.04381) as TF-Slim builds it: the graph of the hub's mobilenet_v2 modules,
// and the same graph under Keras' name.
//
// Inputs in [-1, 1], padding SAME, ReLU6, BatchNorm with epsilon 0.001. The hub's modules use the
// momentum 0.99 when they are fine-tuned and start kernels from a normal distribution of deviation
// 0.09 cut at two deviations, as in the Slim training scope; Keras has 0.999 and Glorot's.
#include "model/blocks.h"
#include "model/family.h"

typedef struct MobilenetV2Options {
  double width; // factor on all channels; on the last convolution's only above 1
  double momentum;
  Initializer kernel;
} MobilenetV2Options;

typedef struct Stage {
  int expansion, filters, repeats, stride;
} Stage;

static const Stage stages[] = {
    {1, 16, 1, 1}, {6, 24, 2, 2},  {6, 32, 3, 2},  {6, 64, 4, 2},
    {6, 96, 3, 1}, {6, 160, 3, 2}, {6, 320, 1, 1},
};

static Value add_block(Net *net, Value x, const Stage *stage, int stride, int64_t filters) {
  int64_t channels = graph_channels(net->graph, x);
  Value y = x;
  if (stage->expansion != 1) {
    y = model__conv(net, y,
                    (Conv2dDesc){.filters = channels * stage->expansion,
                                 .kernel_h = 1,
                                 .padding = PADDING_SAME},
                    "expand");
    y = model__norm(net, y, "expand_BN");
    y = model__relu6(net, y, "expand_relu");
  }
  y = model__depthwise(net, y,
                       (Conv2dDesc){.kernel_h = 3, .stride_h = stride, .padding = PADDING_SAME},
                       "depthwise");
  y = model__norm(net, y, "depthwise_BN");
  y = model__relu6(net, y, "depthwise_relu");
  y = model__conv(net, y, (Conv2dDesc){.filters = filters, .kernel_h = 1, .padding = PADDING_SAME},
                  "project");
  y = model__norm(net, y, "project_BN");
  return stride == 1 && channels == filters ? model__add(net, x, y, "add") : y;
}

static Value build(Graph *graph, Value image, const ModelDesc *desc, const ModelSpec *spec) {
  const MobilenetV2Options *options = desc->options;
  Net net = model__net(graph, spec, options->momentum, 1e-3, options->kernel);
  Value x = graph_rescaling(graph, image, &(RescalingDesc){1, {2}, {-1}}, "rescaling");
  x = model__conv(&net, x,
                  (Conv2dDesc){.filters = model__round_channels(32, options->width, true),
                               .kernel_h = 3,
                               .stride_h = 2,
                               .padding = PADDING_SAME},
                  "Conv1");
  x = model__norm(&net, x, "bn_Conv1");
  x = model__relu6(&net, x, "Conv1_relu");
  int block = 0;
  for (size_t s = 0; s < sizeof stages / sizeof *stages; s++) {
    int64_t filters = model__round_channels(stages[s].filters, options->width, true);
    for (int r = 0; r < stages[s].repeats; r++, block++) {
      if (block == 0)
        model__begin_block(&net, "expanded_conv_");
      else
        model__begin_block(&net, "block_%d_", block);
      x = add_block(&net, x, &stages[s], r == 0 ? stages[s].stride : 1, filters);
    }
  }
  model__begin_block(&net, "%s", "");
  double last_width = options->width > 1 ? options->width : 1;
  x = model__conv(&net, x,
                  (Conv2dDesc){.filters = model__round_channels(1280, last_width, true),
                               .kernel_h = 1,
                               .padding = PADDING_SAME},
                  "Conv_1");
  x = model__norm(&net, x, "Conv_1_bn");
  x = model__relu6(&net, x, "out_relu");
  return graph_global_average_pooling2d(graph, x, false, "avg_pool");
}

#define HUB                                                                                        \
  { .kind = INITIALIZER_TRUNCATED_NORMAL, .scale = 0.09 }
#define GLOROT                                                                                     \
  { .kind = INITIALIZER_GLOROT_UNIFORM }
#define ROW(name_, ...)                                                                            \
  {                                                                                                \
    .name = name_, .image_size = 224, .smallest_image = 32, .build = build,                        \
    .unlike_torch = "they pad by a pixel on each side where they stride, add 1e-5 to variances, "  \
                    "and scale images otherwise: take weights of Keras' MobileNetV2",              \
    .options = &(const MobilenetV2Options) {                                                       \
      __VA_ARGS__                                                                                  \
    }                                                                                              \
  }
static const ModelDesc models[] = {
    ROW("mobilenet_v2_100_224", 1.0, 0.99, HUB),
    ROW("mobilenet_v2_130_224", 1.3, 0.99, HUB),
    ROW("mobilenet_v2_140_224", 1.4, 0.99, HUB),
    ROW("MobileNetV2", 1.0, 0.999, GLOROT),
};
#undef ROW

const ModelFamily model__mobilenet_v2 = {models, sizeof models / sizeof *models};
