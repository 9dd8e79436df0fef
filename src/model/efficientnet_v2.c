// EfficientNetV2 (arXiv 2104.00298) as google/automl builds it: the hub's efficientnetv2 modules,
// and the same graphs under Keras' names. Names with -21k and -21k-ft1k are the plain name's graph:
// they tell on what the hub's weights were trained.
//
// Early stages have fused blocks without a gate. b0 to b3 take inputs normalised with ImageNet's
// mean and deviation, s to xl take (255 x - 128) / 128. Padding SAME, swish, BatchNorm with
// momentum 0.9 and epsilon 0.001, stochastic depth up to 0.2 (survival 0.8), linear in depth.
// Kernels start normal with variance 2 / fan out, uncut, but for Keras' cut at two deviations.
// Keras' rates of B1 to B3 pass 0.2: it divides by the blocks before they are multiplied for depth.
#include <math.h>

#include "model/blocks.h"
#include "model/family.h"

typedef struct Stage {
  bool fused; // and then without a gate
  int kernel, stride, expansion, repeats, filters;
} Stage;

typedef struct EfficientnetV2Options {
  double width, depth; // factors on channels and on repeats
  bool imagenet_rescaling;
  int stem_filters;
  const Stage *stages; // repeats 0 ends them
  bool is_keras;       // as keras.applications has it
} EfficientnetV2Options;

static const Stage base_stages[] = {
    {true, 3, 1, 1, 1, 16},
    {true, 3, 2, 4, 2, 32},
    {true, 3, 2, 4, 2, 48},
    {false, 3, 2, 4, 3, 96},
    {false, 3, 1, 6, 5, 112},
    {false, 3, 2, 6, 8, 192},
    {0},
};
static const Stage s_stages[] = {
    {true, 3, 1, 1, 2, 24},
    {true, 3, 2, 4, 4, 48},
    {true, 3, 2, 4, 4, 64},
    {false, 3, 2, 4, 6, 128},
    {false, 3, 1, 6, 9, 160},
    {false, 3, 2, 6, 15, 256},
    {0},
};
static const Stage m_stages[] = {
    {true, 3, 1, 1, 3, 24},    {true, 3, 2, 4, 5, 48},
    {true, 3, 2, 4, 5, 80},    {false, 3, 2, 4, 7, 160},
    {false, 3, 1, 6, 14, 176}, {false, 3, 2, 6, 18, 304},
    {false, 3, 1, 6, 5, 512},  {0},
};
static const Stage l_stages[] = {
    {true, 3, 1, 1, 4, 32},    {true, 3, 2, 4, 7, 64},
    {true, 3, 2, 4, 7, 96},    {false, 3, 2, 4, 10, 192},
    {false, 3, 1, 6, 19, 224}, {false, 3, 2, 6, 25, 384},
    {false, 3, 1, 6, 7, 640},  {0},
};
static const Stage xl_stages[] = {
    {true, 3, 1, 1, 4, 32},    {true, 3, 2, 4, 8, 64},
    {true, 3, 2, 4, 8, 96},    {false, 3, 2, 4, 16, 192},
    {false, 3, 1, 6, 24, 256}, {false, 3, 2, 6, 32, 512},
    {false, 3, 1, 6, 8, 640},  {0},
};

static int repeats_of(const Stage *stage, const EfficientnetV2Options *options) {
  return (int)ceil(options->depth * stage->repeats);
}

// A rate that is asked for is the last block's, as in every family.
static double last_rate_of(const EfficientnetV2Options *options, const ModelSpec *spec) {
  int before = 0, blocks = 0;
  for (const Stage *s = options->stages; s->repeats; s++) {
    before += s->repeats;
    blocks += repeats_of(s, options);
  }
  return model__stochastic_depth(spec, options->is_keras ? 0.2 * blocks / before : 0.2);
}

static Value add_stages(Net *net, Value x, const EfficientnetV2Options *options, double last_rate) {
  int block_count = 0, block = 0;
  for (const Stage *s = options->stages; s->repeats; s++) block_count += repeats_of(s, options);
  for (const Stage *s = options->stages; s->repeats; s++) {
    MbconvDesc desc = {.fused = s->fused,
                       .kernel = s->kernel,
                       .expansion = s->expansion,
                       .filters = model__round_channels(s->filters, options->width, false),
                       .squeeze = s->fused ? 0 : 0.25,
                       .depthwise_name = "dwconv2"};
    for (int r = 0; r < repeats_of(s, options); r++, block++) {
      desc.stride = r == 0 ? s->stride : 1;
      desc.drop_rate = last_rate * block / block_count;
      model__begin_repeat(net, (int)(s - options->stages) + 1, r);
      x = model__mbconv(net, x, &desc);
    }
  }
  return x;
}

static Value build(Graph *graph, Value image, const ModelDesc *desc, const ModelSpec *spec) {
  const EfficientnetV2Options *options = desc->options;
  Distribution cut = options->is_keras ? DISTRIBUTION_TRUNCATED_NORMAL : DISTRIBUTION_NORMAL;
  Initializer kernel = {INITIALIZER_VARIANCE_SCALING, 2, FAN_OUT, cut};
  Net net = model__net(graph, spec, 0.9, 1e-3, kernel);
  RescalingDesc plain = {1, {255.0 / 128}, {-1}};
  Value x = options->imagenet_rescaling ? model__imagenet_rescaling(&net, image)
                                        : graph_rescaling(graph, image, &plain, "rescaling");
  int64_t stem = model__round_channels(options->stem_filters, options->width, false);
  x = model__conv(
      &net, x, (Conv2dDesc){.filters = stem, .kernel_h = 3, .stride_h = 2, .padding = PADDING_SAME},
      "stem_conv");
  x = model__norm(&net, x, "stem_bn");
  x = model__activation(&net, x, ACTIVATION_SWISH, "stem_activation");
  x = add_stages(&net, x, options, last_rate_of(options, spec));
  model__begin_block(&net, "top_");
  int64_t top = model__round_channels(1280, options->width, false);
  x = model__conv(&net, x, (Conv2dDesc){.filters = top, .kernel_h = 1, .padding = PADDING_SAME},
                  "conv");
  x = model__norm(&net, x, "bn");
  x = model__activation(&net, x, ACTIVATION_SWISH, "activation");
  return graph_global_average_pooling2d(graph, x, false, "avg_pool");
}

#define ROW(name_, size_, ...)                                                                     \
  {                                                                                                \
    .name = name_, .image_size = size_, .smallest_image = 32, .build = build,                      \
    .torch = &torch_efficientnet, .options = &(const EfficientnetV2Options) {                      \
      __VA_ARGS__                                                                                  \
    }                                                                                              \
  }
#define HUB_ROWS(name, ...)                                                                        \
  ROW(name "-21k", __VA_ARGS__, false), ROW(name "-21k-ft1k", __VA_ARGS__, false)
#define ROWS(name, keras_name, ...)                                                                \
  ROW(name, __VA_ARGS__, false), HUB_ROWS(name, __VA_ARGS__), ROW(keras_name, __VA_ARGS__, true)
static const ModelDesc models[] = {
    ROWS("efficientnetv2-b0", "EfficientNetV2B0", 224, 1.0, 1.0, true, 32, base_stages),
    ROWS("efficientnetv2-b1", "EfficientNetV2B1", 240, 1.0, 1.1, true, 32, base_stages),
    ROWS("efficientnetv2-b2", "EfficientNetV2B2", 260, 1.1, 1.2, true, 32, base_stages),
    ROWS("efficientnetv2-b3", "EfficientNetV2B3", 300, 1.2, 1.4, true, 32, base_stages),
    ROWS("efficientnetv2-s", "EfficientNetV2S", 384, 1.0, 1.0, false, 24, s_stages),
    ROWS("efficientnetv2-m", "EfficientNetV2M", 480, 1.0, 1.0, false, 24, m_stages),
    ROWS("efficientnetv2-l", "EfficientNetV2L", 480, 1.0, 1.0, false, 32, l_stages),
    HUB_ROWS("efficientnetv2-xl", 512, 1.0, 1.0, false, 32, xl_stages),
};
#undef ROWS
#undef HUB_ROWS
#undef ROW

const ModelFamily model__efficientnet_v2 = {models, sizeof models / sizeof *models};
