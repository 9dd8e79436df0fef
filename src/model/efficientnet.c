// EfficientNet (arXiv 1905.11946) as the TPU repository builds it: the hub's efficientnet_b0 to b7,
// and the same graphs under Keras' names.
//
// Inputs normalised with ImageNet's mean and deviation, padding SAME, swish, BatchNorm with
// momentum 0.99 and epsilon 0.001, stochastic depth up to 0.2, linear in depth. Kernels start
// normal with variance 2 / fan out, uncut, but for Keras' cut at two deviations.
#include <math.h>

#include "model/blocks.h"
#include "model/family.h"

typedef struct EfficientnetOptions {
  double width, depth; // factors on channels and on repeats
  Distribution kernel;
} EfficientnetOptions;

typedef struct Stage {
  int kernel, stride, expansion, repeats, filters;
} Stage;

static const Stage stages[] = {
    {3, 1, 1, 1, 16},  {3, 2, 6, 2, 24},  {5, 2, 6, 2, 40},  {3, 2, 6, 3, 80},
    {5, 1, 6, 3, 112}, {5, 2, 6, 4, 192}, {3, 1, 6, 1, 320},
};
enum { STAGE_COUNT = sizeof stages / sizeof *stages };

static int repeats_of(const Stage *stage, const EfficientnetOptions *options) {
  return (int)ceil(options->depth * stage->repeats);
}

static Value add_stages(Net *net, Value x, const EfficientnetOptions *options, double last_rate) {
  int block_count = 0, block = 0;
  for (int s = 0; s < STAGE_COUNT; s++) block_count += repeats_of(&stages[s], options);
  for (int s = 0; s < STAGE_COUNT; s++) {
    MbconvDesc desc = {.kernel = stages[s].kernel,
                       .expansion = stages[s].expansion,
                       .filters = model__round_channels(stages[s].filters, options->width, true),
                       .squeeze = 0.25,
                       .depthwise_name = "dwconv"};
    for (int r = 0; r < repeats_of(&stages[s], options); r++, block++) {
      desc.stride = r == 0 ? stages[s].stride : 1;
      desc.drop_rate = last_rate * block / block_count;
      model__begin_repeat(net, s + 1, r);
      x = model__mbconv(net, x, &desc);
    }
  }
  return x;
}

static Value build(Graph *graph, Value image, const ModelDesc *desc, const ModelSpec *spec) {
  const EfficientnetOptions *options = desc->options;
  Initializer kernel = {INITIALIZER_VARIANCE_SCALING, 2, FAN_OUT, options->kernel};
  Net net = model__net(graph, spec, 0.99, 1e-3, kernel);
  Value x = model__imagenet_rescaling(&net, image);
  x = model__conv(&net, x,
                  (Conv2dDesc){.filters = model__round_channels(32, options->width, true),
                               .kernel_h = 3,
                               .stride_h = 2,
                               .padding = PADDING_SAME},
                  "stem_conv");
  x = model__norm(&net, x, "stem_bn");
  x = model__activation(&net, x, ACTIVATION_SWISH, "stem_activation");
  x = add_stages(&net, x, options, model__stochastic_depth(spec, 0.2));
  model__begin_block(&net, "top_");
  x = model__conv(&net, x,
                  (Conv2dDesc){.filters = model__round_channels(1280, options->width, true),
                               .kernel_h = 1,
                               .padding = PADDING_SAME},
                  "conv");
  x = model__norm(&net, x, "bn");
  x = model__activation(&net, x, ACTIVATION_SWISH, "activation");
  return graph_global_average_pooling2d(graph, x, false, "avg_pool");
}

#define ROW(name_, size_, width_, depth_, kernel_)                                                 \
  {                                                                                                \
    .name = name_, .image_size = size_, .smallest_image = 32, .build = build,                      \
    .torch = &torch_efficientnet, .options = &(const EfficientnetOptions) {                        \
      width_, depth_, kernel_                                                                      \
    }                                                                                              \
  }
#define ROWS(number, size, width, depth)                                                           \
  ROW("efficientnet_b" number, size, width, depth, DISTRIBUTION_NORMAL),                           \
      ROW("EfficientNetB" number, size, width, depth, DISTRIBUTION_TRUNCATED_NORMAL)
static const ModelDesc models[] = {
    ROWS("0", 224, 1.0, 1.0), ROWS("1", 240, 1.0, 1.1), ROWS("2", 260, 1.1, 1.2),
    ROWS("3", 300, 1.2, 1.4), ROWS("4", 380, 1.4, 1.8), ROWS("5", 456, 1.6, 2.2),
    ROWS("6", 528, 1.8, 2.6), ROWS("7", 600, 2.0, 3.1),
};
#undef ROWS
#undef ROW

const ModelFamily model__efficientnet = {models, sizeof models / sizeof *models};
