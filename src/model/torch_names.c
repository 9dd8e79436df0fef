// Where torch's networks keep the weights of each layer: torchvision's and timm's names. See
// torch.h.
#include "model/torch.h"

#define ROW(layer_, module_)                                                                       \
  { .layer = layer_, .module = module_ }
#define BESIDE(layer_, module_, ...)                                                               \
  {                                                                                                \
    .layer = layer_, .module = module_, .beside = { __VA_ARGS__ }                                  \
  }

// torchvision's and timm's resnet50, 101, 152.
static const TorchName resnet_rows[] = {
    ROW("conv1_conv", "conv1"),
    ROW("conv1_bn", "bn1"),
    ROW("conv{s}_block{u}_0_conv", "layer{s-1}.{u-1}.downsample.0"),
    ROW("conv{s}_block{u}_0_bn", "layer{s-1}.{u-1}.downsample.1"),
    ROW("conv{s}_block{u}_{k}_conv", "layer{s-1}.{u-1}.conv{k}"),
    ROW("conv{s}_block{u}_{k}_bn", "layer{s-1}.{u-1}.bn{k}"),
    ROW("logits", "fc"),
    {0},
};
const TorchNames torch_resnet = {.network = "torchvision's resnet*", .rows = resnet_rows};

// timm's resnetv2_50x1_bit.
static const TorchName bit_rows[] = {
    ROW("conv1_conv", "stem.conv"),
    ROW("conv{s}_block{u}_preact_gn", "stages.{s-2}.blocks.{u-1}.norm1"),
    ROW("conv{s}_block{u}_0_conv", "stages.{s-2}.blocks.{u-1}.downsample.conv"),
    ROW("conv{s}_block{u}_{k}_conv", "stages.{s-2}.blocks.{u-1}.conv{k}"),
    ROW("conv{s}_block{u}_{k}_gn", "stages.{s-2}.blocks.{u-1}.norm{k+1}"),
    ROW("post_gn", "norm"),
    ROW("logits", "head.fc"),
    {0},
};
const TorchNames torch_bit = {.network = "timm's resnetv2_*_bit*", .rows = bit_rows};

// timm's tf_efficientnet_b0 to b8 and tf_efficientnetv2_*. The norms of a block are counted, so
// their numbers depend on what else it has: an expansion, a depthwise convolution.
#define BLOCK(name) "block{s}{r}_" name
#define MODULE(name) "blocks.{s-1}.{r#}." name
static const TorchName efficientnet_rows[] = {
    ROW("stem_conv", "conv_stem"),
    ROW("stem_bn", "bn1"),
    BESIDE(BLOCK("expand_conv"), MODULE("conv_pw"), BLOCK("bn")),
    ROW(BLOCK("expand_conv"), MODULE("conv_exp")),
    ROW(BLOCK("expand_bn"), MODULE("bn1")),
    ROW(BLOCK("dwconv"), MODULE("conv_dw")),
    ROW(BLOCK("dwconv2"), MODULE("conv_dw")),
    BESIDE(BLOCK("bn"), MODULE("bn2"), BLOCK("expand_bn")),
    ROW(BLOCK("bn"), MODULE("bn1")),
    ROW(BLOCK("se_reduce"), MODULE("se.conv_reduce")),
    ROW(BLOCK("se_expand"), MODULE("se.conv_expand")),
    BESIDE(BLOCK("project_conv"), MODULE("conv_pwl"), BLOCK("expand_bn")),
    BESIDE(BLOCK("project_conv"), MODULE("conv_pw"), BLOCK("bn")),
    ROW(BLOCK("project_conv"), MODULE("conv")),
    BESIDE(BLOCK("project_bn"), MODULE("bn3"), BLOCK("expand_bn"), BLOCK("bn")),
    BESIDE(BLOCK("project_bn"), MODULE("bn2"), BLOCK("expand_bn")),
    BESIDE(BLOCK("project_bn"), MODULE("bn2"), BLOCK("bn")),
    ROW(BLOCK("project_bn"), MODULE("bn1")),
    ROW("top_conv", "conv_head"),
    ROW("top_bn", "bn2"),
    ROW("logits", "classifier"),
    {0},
};
#undef MODULE
#undef BLOCK
const TorchNames torch_efficientnet = {
    .network = "timm's tf_efficientnet*, not efficientnet*, which pads otherwise",
    .rows = efficientnet_rows};

// timm's tf_mobilenetv3_large_* and tf_mobilenetv3_small_*: blocks are counted stage by stage
// there, through all stages here. The convolution behind the blocks is a stage of its own.
#define MOBILENET_V3_ROWS(last)                                                                    \
  {                                                                                                \
    ROW("conv", "conv_stem"), ROW("conv_bn", "bn1"),                                               \
        ROW("expanded_conv_depthwise", "blocks.0.0.conv_dw"),                                      \
        ROW("expanded_conv_depthwise_bn", "blocks.0.0.bn1"),                                       \
        ROW("expanded_conv_squeeze_excite_conv", "blocks.0.0.se.conv_reduce"),                     \
        ROW("expanded_conv_squeeze_excite_conv_1", "blocks.0.0.se.conv_expand"),                   \
        ROW("expanded_conv_project", "blocks.0.0.conv_pw"),                                        \
        ROW("expanded_conv_project_bn", "blocks.0.0.bn2"),                                         \
        ROW("expanded_conv_{n}_expand", "blocks.{n@}.conv_pw"),                                    \
        ROW("expanded_conv_{n}_expand_bn", "blocks.{n@}.bn1"),                                     \
        ROW("expanded_conv_{n}_depthwise", "blocks.{n@}.conv_dw"),                                 \
        ROW("expanded_conv_{n}_depthwise_bn", "blocks.{n@}.bn2"),                                  \
        ROW("expanded_conv_{n}_squeeze_excite_conv", "blocks.{n@}.se.conv_reduce"),                \
        ROW("expanded_conv_{n}_squeeze_excite_conv_1", "blocks.{n@}.se.conv_expand"),              \
        ROW("expanded_conv_{n}_project", "blocks.{n@}.conv_pwl"),                                  \
        ROW("expanded_conv_{n}_project_bn", "blocks.{n@}.bn3"),                                    \
        ROW("conv_1", "blocks." last ".conv"), ROW("conv_1_bn", "blocks." last ".bn1"),            \
        ROW("conv_2", "conv_head"), ROW("logits", "classifier"), {0},                              \
  }
static const TorchName mobilenet_v3_large_rows[] = MOBILENET_V3_ROWS("6.0");
static const char *const mobilenet_v3_large_blocks[] = {"0.0", "1.0", "1.1", "2.0", "2.1", "2.2",
                                                        "3.0", "3.1", "3.2", "3.3", "4.0", "4.1",
                                                        "5.0", "5.1", "5.2", NULL};
static const TorchName mobilenet_v3_small_rows[] = MOBILENET_V3_ROWS("5.0");
static const char *const mobilenet_v3_small_blocks[] = {"0.0", "1.0", "1.1", "2.0", "2.1", "2.2",
                                                        "3.0", "3.1", "4.0", "4.1", "4.2", NULL};
#undef MOBILENET_V3_ROWS
#define NETWORK "timm's tf_mobilenetv3*, not mobilenetv3*, which pads otherwise"
const TorchNames torch_mobilenet_v3_large = {
    .network = NETWORK, .rows = mobilenet_v3_large_rows, .blocks = mobilenet_v3_large_blocks};
const TorchNames torch_mobilenet_v3_small = {
    .network = NETWORK, .rows = mobilenet_v3_small_rows, .blocks = mobilenet_v3_small_blocks};
#undef NETWORK

// timm's inception_v3 with the weights of TF-Slim, whose norms have no scale.
static const TorchName inception_v3_rows[] = {
    ROW("conv_1a_{k}", "Conv2d_1a_3x3.{k}"),
    ROW("conv_2a_{k}", "Conv2d_2a_3x3.{k}"),
    ROW("conv_2b_{k}", "Conv2d_2b_3x3.{k}"),
    ROW("conv_3b_{k}", "Conv2d_3b_1x1.{k}"),
    ROW("conv_4a_{k}", "Conv2d_4a_3x3.{k}"),
    ROW("mixed_5{m}_b0_0_{k}", "Mixed_5{m}.branch1x1.{k}"),
    ROW("mixed_5{m}_b1_{n}_{k}", "Mixed_5{m}.branch5x5_{n+1}.{k}"),
    ROW("mixed_5{m}_b2_{n}_{k}", "Mixed_5{m}.branch3x3dbl_{n+1}.{k}"),
    ROW("mixed_5{m}_b3_0_{k}", "Mixed_5{m}.branch_pool.{k}"),
    ROW("mixed_6a_b0_0_{k}", "Mixed_6a.branch3x3.{k}"),
    ROW("mixed_6a_b1_{n}_{k}", "Mixed_6a.branch3x3dbl_{n+1}.{k}"),
    ROW("mixed_6{m}_b0_0_{k}", "Mixed_6{m}.branch1x1.{k}"),
    ROW("mixed_6{m}_b1_{n}_{k}", "Mixed_6{m}.branch7x7_{n+1}.{k}"),
    ROW("mixed_6{m}_b2_{n}_{k}", "Mixed_6{m}.branch7x7dbl_{n+1}.{k}"),
    ROW("mixed_6{m}_b3_0_{k}", "Mixed_6{m}.branch_pool.{k}"),
    ROW("mixed_7a_b0_{n}_{k}", "Mixed_7a.branch3x3_{n+1}.{k}"),
    ROW("mixed_7a_b1_{n}_{k}", "Mixed_7a.branch7x7x3_{n+1}.{k}"),
    ROW("mixed_7{m}_b0_0_{k}", "Mixed_7{m}.branch1x1.{k}"),
    ROW("mixed_7{m}_b1_0_{k}", "Mixed_7{m}.branch3x3_1.{k}"),
    ROW("mixed_7{m}_b1_1_{k}", "Mixed_7{m}.branch3x3_2a.{k}"),
    ROW("mixed_7{m}_b1_2_{k}", "Mixed_7{m}.branch3x3_2b.{k}"),
    ROW("mixed_7{m}_b2_2_{k}", "Mixed_7{m}.branch3x3dbl_3a.{k}"),
    ROW("mixed_7{m}_b2_3_{k}", "Mixed_7{m}.branch3x3dbl_3b.{k}"),
    ROW("mixed_7{m}_b2_{n}_{k}", "Mixed_7{m}.branch3x3dbl_{n+1}.{k}"),
    ROW("mixed_7{m}_b3_0_{k}", "Mixed_7{m}.branch_pool.{k}"),
    ROW("logits", "fc"),
    {0},
};
const TorchNames torch_inception_v3 = {
    .network = "timm's inception_v3*, of TensorFlow, not torchvision's, whose images are scaled otherwise",
    .rows = inception_v3_rows,
    .ignored = "AuxLogits."};

// timm's inception_resnet_v2 with the weights of TF-Slim.
static const TorchName inception_resnet_v2_rows[] = {
    ROW("conv_{n}{m}_{k}", "conv2d_{n}{m}.{k}"),
    ROW("mixed_5b_b0_0_{k}", "mixed_5b.branch0.{k}"),
    ROW("mixed_5b_b3_0_{k}", "mixed_5b.branch3.1.{k}"), // behind the pool, which is counted
    ROW("mixed_6a_b0_0_{k}", "mixed_6a.branch0.{k}"),
    ROW("mixed_{n}{m}_b{b}_{i}_{k}", "mixed_{n}{m}.branch{b}.{i}.{k}"),
    ROW("block35_{n}_b0_0_{k}", "repeat.{n-1}.branch0.{k}"),
    ROW("block35_{n}_b{b}_{i}_{k}", "repeat.{n-1}.branch{b}.{i}.{k}"),
    ROW("block35_{n}_conv", "repeat.{n-1}.conv2d"),
    ROW("block17_{n}_b0_0_{k}", "repeat_1.{n-1}.branch0.{k}"),
    ROW("block17_{n}_b{b}_{i}_{k}", "repeat_1.{n-1}.branch{b}.{i}.{k}"),
    ROW("block17_{n}_conv", "repeat_1.{n-1}.conv2d"),
    ROW("block8_10_b0_0_{k}", "block8.branch0.{k}"), // the last, without a ReLU, stands apart
    ROW("block8_10_b{b}_{i}_{k}", "block8.branch{b}.{i}.{k}"),
    ROW("block8_10_conv", "block8.conv2d"),
    ROW("block8_{n}_b0_0_{k}", "repeat_2.{n-1}.branch0.{k}"),
    ROW("block8_{n}_b{b}_{i}_{k}", "repeat_2.{n-1}.branch{b}.{i}.{k}"),
    ROW("block8_{n}_conv", "repeat_2.{n-1}.conv2d"),
    ROW("logits", "classif"),
    {0},
};
const TorchNames torch_inception_resnet_v2 = {.network = "timm's inception_resnet_v2*",
                                              .rows = inception_resnet_v2_rows};

// timm's nasnetalarge and pnasnet5large. Pairs of a cell are counted from 0 there, from 1 here.
// `cell` is the cell's name in layers, `id` its number there, `there` its module.
#define CELL_ROWS(cell, id, there)                                                                 \
  ROW("separable_conv_{k}_" cell "_{m}{i}_" id, there ".comb_iter_{i-1}_{m}.separable_{k}"),       \
      ROW("separable_conv_{k}_bn_" cell "_{m}{i}_" id, there ".comb_iter_{i-1}_{m}.bn_sep_{k}"),   \
      ROW(cell "_conv_1_" id, there ".conv_1x1.conv"), ROW(cell "_bn_1_" id, there ".conv_1x1.bn")
// What brings the output of the cell before the last to the cell's filters.
#define PROJECTION_ROWS(id, there)                                                                 \
  ROW("adjust_conv_projection_" id, there ".conv_prev_1x1.conv"),                                  \
      ROW("adjust_bn_" id, there ".conv_prev_1x1.bn")
// And what halves it too, for the cells that have these layers.
#define HALVING_ROWS(id, there)                                                                    \
  ROW("adjust_conv_1_" id, there ".path_1.conv"), ROW("adjust_conv_2_" id, there ".path_2.conv"),  \
      BESIDE("adjust_bn_" id, there ".final_path_bn", "adjust_conv_1_" id)
// The fourth pair of a reduction has no separable convolution: the fifth's has the fourth's name.
#define REDUCTION_ROWS(id, there)                                                                  \
  ROW("separable_conv_{k}_reduction_left4_" id, there ".comb_iter_4_left.separable_{k}"),          \
      ROW("separable_conv_{k}_bn_reduction_left4_" id, there ".comb_iter_4_left.bn_sep_{k}"),      \
      CELL_ROWS("reduction", id, there)
// Cells by their numbers here, where the first reduction takes one from the normal cells.
static const char *const nasnet_cells[] = {"0",  "1",  "2",  "3",  "4",  "5",  "",
                                           "6",  "7",  "8",  "9",  "10", "11", "12",
                                           "13", "14", "15", "16", "17", NULL};
static const TorchName nasnet_rows[] = {
    ROW("stem_conv1", "conv0.conv"),
    ROW("stem_bn1", "conv0.bn"),
    REDUCTION_ROWS("stem_{n}", "cell_stem_{n-1}"),
    REDUCTION_ROWS("reduce_6", "reduction_cell_0"),
    REDUCTION_ROWS("reduce_12", "reduction_cell_1"),
    CELL_ROWS("normal", "{n}", "cell_{n@}"),
    HALVING_ROWS("stem_{n}", "cell_stem_{n-1}"),
    HALVING_ROWS("{n}", "cell_{n@}"),
    PROJECTION_ROWS("reduce_6", "reduction_cell_0"),
    PROJECTION_ROWS("reduce_12", "reduction_cell_1"),
    PROJECTION_ROWS("{n}", "cell_{n@}"),
    ROW("logits", "last_linear"),
    {0},
};
const TorchNames torch_nasnet = {
    .network = "timm's nasnetalarge*", .rows = nasnet_rows, .blocks = nasnet_cells};

#define PNASNET_ROWS(id, there)                                                                    \
  CELL_ROWS("cell", id, there), HALVING_ROWS(id, there ".conv_prev_1x1"),                          \
      PROJECTION_ROWS(id, there), ROW("cell_{m}{i}_conv_" id, there ".comb_iter_{i-1}_{m}.conv"),  \
      ROW("cell_{m}{i}_bn_" id, there ".comb_iter_{i-1}_{m}.bn")
static const TorchName pnasnet_rows[] = {
    ROW("stem_conv1", "conv_0.conv"),
    ROW("stem_bn1", "conv_0.bn"),
    PNASNET_ROWS("stem_{n}", "cell_stem_{n-1}"),
    PNASNET_ROWS("{n}", "cell_{n}"),
    ROW("logits", "last_linear"),
    {0},
};
const TorchNames torch_pnasnet = {.network = "timm's pnasnet5large*", .rows = pnasnet_rows};
#undef PNASNET_ROWS
#undef REDUCTION_ROWS
#undef HALVING_ROWS
#undef PROJECTION_ROWS
#undef CELL_ROWS
