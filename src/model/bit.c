// BiT, Big Transfer (arXiv 1912.11370): ResNet v2 units with group normalisation in the place of
// BatchNorm and every convolution's kernel standardised (arXiv 1903.10520), no biases. What an
// image gives depends on no other image of its batch.
//
// As google-research/big_transfer has it: inputs in [-1, 1], all padding by hand, a stage's stride
// in the 3x3 and the shortcut of its first unit, projections fed by the unit's first activation.
#include "model/blocks.h"
#include "model/family.h"

static const GroupNormDesc group_norm = {.groups = 32, .epsilon = 1e-5};
static const double standardize_epsilon = 1e-10;

typedef struct BitOptions {
  int width;    // times the filters of ResNet
  int units[4]; // of each stage
} BitOptions;

// One unit: 1x1, 3x3 and 1x1 convolutions beside a shortcut.
typedef struct Unit {
  int64_t filters; // of the first two; the last has four times as many
  int stride;
  bool project; // the shortcut is a convolution
} Unit;

static Value add_conv(Net *net, Value x, Conv2dDesc desc, const char *name) {
  desc.standardize_epsilon = standardize_epsilon;
  return model__conv(net, x, desc, name);
}

static Value add_norm(Net *net, Value x, const char *norm, const char *relu) {
  x = model__group_norm(net, x, &group_norm, norm);
  return model__activation(net, x, ACTIVATION_RELU, relu);
}

static Value add_unit(Net *net, Value x, const Unit *unit) {
  Conv2dDesc narrow = {.filters = unit->filters, .kernel_h = 1};
  Conv2dDesc middle = {.filters = unit->filters, .kernel_h = 3, .stride_h = unit->stride};
  Conv2dDesc widen = {.filters = 4 * unit->filters, .kernel_h = 1};
  Conv2dDesc match = widen;
  match.stride_h = unit->stride;
  Value active = add_norm(net, x, "preact_gn", "preact_relu");
  Value y = add_conv(net, active, narrow, "1_conv");
  y = add_norm(net, y, "1_gn", "1_relu");
  y = model__pad(net, y, 1, "2_pad");
  y = add_conv(net, y, middle, "2_conv");
  y = add_norm(net, y, "2_gn", "2_relu");
  // From here on both branches advance together, as Keras lists them.
  Value shortcut = unit->project ? add_conv(net, active, match, "0_conv") : x;
  y = add_conv(net, y, widen, "3_conv");
  return model__add(net, shortcut, y, "out");
}

static Value add_root(Net *net, Value image, int width) {
  Value x = graph_rescaling(net->graph, image, &(RescalingDesc){1, {2}, {-1}}, "rescaling");
  x = model__pad(net, x, 3, "conv1_pad");
  x = add_conv(net, x, (Conv2dDesc){.filters = 64 * width, .kernel_h = 7, .stride_h = 2},
               "conv1_conv");
  x = model__pad(net, x, 1, "pool1_pad");
  return model__max_pool(net, x, (PoolDesc){.size_h = 3, .stride_h = 2}, "pool1_pool");
}

static Value build(Graph *graph, Value image, const ModelDesc *desc, const ModelSpec *spec) {
  const BitOptions *options = desc->options;
  Net net = model__net(graph, spec, 0, 0, (Initializer){.kind = INITIALIZER_GLOROT_UNIFORM});
  Value x = add_root(&net, image, options->width);
  for (int s = 0; s < 4; s++)
    for (int u = 0; u < options->units[s]; u++) {
      Unit unit = {.filters = (64 << s) * options->width,
                   .stride = s > 0 && u == 0 ? 2 : 1,
                   .project = u == 0};
      model__begin_block(&net, "conv%d_block%d_", s + 2, u + 1);
      x = add_unit(&net, x, &unit);
    }
  model__begin_block(&net, "post_");
  x = add_norm(&net, x, "gn", "relu");
  return graph_global_average_pooling2d(graph, x, false, "avg_pool");
}

static const ModelDesc models[] = {
    {.name = "bit_s-r50x1",
     .image_size = 224,
     .smallest_image = 32,
     .build = build,
     .torch = &torch_bit,
     .options = &(const BitOptions){.width = 1, .units = {3, 4, 6, 3}}},
};

const ModelFamily model__bit = {models, sizeof models / sizeof *models};
