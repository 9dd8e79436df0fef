// Building blocks shared by the families. See blocks.h.
#include "model/blocks.h"

#include <stdarg.h>
#include <stdio.h>

enum { NAME_CAPACITY = 96 };

Net model__net(Graph *graph, const ModelSpec *spec, double momentum, double epsilon,
               Initializer kernel) {
  return (Net){
      .graph = graph,
      .batch_norm = {.momentum =
                         spec->batch_norm_momentum < 0 ? momentum : spec->batch_norm_momentum,
                     .epsilon = spec->batch_norm_epsilon < 0 ? epsilon : spec->batch_norm_epsilon},
      .kernel = kernel,
  };
}

void model__begin_block(Net *net, const char *format, ...) {
  va_list args;
  va_start(args, format);
  (void)vsnprintf(net->prefix, sizeof net->prefix, format, args);
  va_end(args);
}

void model__begin_repeat(Net *net, int stage, int repeat) {
  model__begin_block(net, "block%d%s%c_", stage, repeat < 26 ? "" : "a", 'a' + repeat % 26);
}

static const char *join_name(const Net *net, const char *name, char text[NAME_CAPACITY]) {
  (void)snprintf(text, NAME_CAPACITY, "%s%s", net->prefix, name);
  return text;
}

// --- single layers -------------------------------------------------------------------------------

Value model__conv(Net *net, Value x, Conv2dDesc desc, const char *name) {
  char text[NAME_CAPACITY];
  desc.initializer = net->kernel;
  return graph_conv2d(net->graph, x, &desc, join_name(net, name, text));
}

Value model__depthwise(Net *net, Value x, Conv2dDesc desc, const char *name) {
  char text[NAME_CAPACITY];
  desc.initializer = net->kernel;
  return graph_depthwise_conv2d(net->graph, x, &desc, join_name(net, name, text));
}

Value model__norm(Net *net, Value x, const char *name) {
  char text[NAME_CAPACITY];
  return graph_batch_normalization(net->graph, x, &net->batch_norm, join_name(net, name, text));
}

Value model__group_norm(Net *net, Value x, const GroupNormDesc *desc, const char *name) {
  char text[NAME_CAPACITY];
  return graph_group_normalization(net->graph, x, desc, join_name(net, name, text));
}

Value model__activation(Net *net, Value x, ActivationKind kind, const char *name) {
  char text[NAME_CAPACITY];
  return graph_activation(net->graph, x, kind, join_name(net, name, text));
}

Value model__relu6(Net *net, Value x, const char *name) {
  char text[NAME_CAPACITY];
  return graph_relu(net->graph, x, 6, join_name(net, name, text));
}

Value model__add(Net *net, Value a, Value b, const char *name) {
  char text[NAME_CAPACITY];
  return graph_add(net->graph, a, b, join_name(net, name, text));
}

Value model__multiply(Net *net, Value a, Value b, const char *name) {
  char text[NAME_CAPACITY];
  return graph_multiply(net->graph, a, b, join_name(net, name, text));
}

Value model__global_pool(Net *net, Value x, bool keep_dims, const char *name) {
  char text[NAME_CAPACITY];
  return graph_global_average_pooling2d(net->graph, x, keep_dims, join_name(net, name, text));
}

Value model__max_pool(Net *net, Value x, PoolDesc desc, const char *name) {
  char text[NAME_CAPACITY];
  return graph_max_pooling2d(net->graph, x, &desc, join_name(net, name, text));
}

Value model__average_pool(Net *net, Value x, PoolDesc desc, const char *name) {
  char text[NAME_CAPACITY];
  return graph_average_pooling2d(net->graph, x, &desc, join_name(net, name, text));
}

Value model__pad(Net *net, Value x, int pixels, const char *name) {
  char text[NAME_CAPACITY];
  return graph_zero_padding2d(net->graph, x, (Pads){pixels, pixels, pixels, pixels},
                              join_name(net, name, text));
}

Value model__concatenate(Net *net, const Value *values, int count, const char *name) {
  char text[NAME_CAPACITY];
  return graph_concatenate(net->graph, values, count, join_name(net, name, text));
}

Value model__scale(Net *net, Value x, double factor, const char *name) {
  char text[NAME_CAPACITY];
  return graph_rescaling(net->graph, x, &(RescalingDesc){1, {factor}, {0}},
                         join_name(net, name, text));
}

Value model__imagenet_rescaling(Net *net, Value image) {
  static const double mean[] = {0.485, 0.456, 0.406}, deviation[] = {0.229, 0.224, 0.225};
  RescalingDesc desc = {.count = 3};
  for (int c = 0; c < 3; c++) {
    desc.scale[c] = 1 / deviation[c];
    desc.offset[c] = -mean[c] / deviation[c];
  }
  return graph_rescaling(net->graph, image, &desc, "rescaling");
}

// --- the mobile inverted bottleneck --------------------------------------------------------------

static Value excite(Net *net, Value x, int64_t inner) {
  Value gate = model__global_pool(net, x, true, "se_squeeze");
  Conv2dDesc reduce = {.filters = inner, .kernel_h = 1, .padding = PADDING_SAME, .use_bias = true};
  gate = model__conv(net, gate, reduce, "se_reduce");
  gate = model__activation(net, gate, ACTIVATION_SWISH, "se_reduce_activation");
  Conv2dDesc expand = reduce;
  expand.filters = graph_channels(net->graph, x);
  gate = model__conv(net, gate, expand, "se_expand");
  gate = model__activation(net, gate, ACTIVATION_SIGMOID, "se_expand_activation");
  return model__multiply(net, x, gate, "se_excite");
}

// Widens the channels: with the stride and window of the block where it is fused.
static Value expand(Net *net, Value x, const MbconvDesc *desc) {
  x = model__conv(net, x,
                  (Conv2dDesc){.filters = graph_channels(net->graph, x) * desc->expansion,
                               .kernel_h = desc->fused ? desc->kernel : 1,
                               .stride_h = desc->fused ? desc->stride : 1,
                               .padding = PADDING_SAME},
                  "expand_conv");
  x = model__norm(net, x, "expand_bn");
  return model__activation(net, x, ACTIVATION_SWISH, "expand_activation");
}

// Back to the block's filters. A fused block without expansion has this one convolution only.
static Value project(Net *net, Value x, const MbconvDesc *desc) {
  bool alone = desc->fused && desc->expansion == 1;
  x = model__conv(net, x,
                  (Conv2dDesc){.filters = desc->filters,
                               .kernel_h = alone ? desc->kernel : 1,
                               .stride_h = alone ? desc->stride : 1,
                               .padding = PADDING_SAME},
                  "project_conv");
  x = model__norm(net, x, "project_bn");
  return alone ? model__activation(net, x, ACTIVATION_SWISH, "project_activation") : x;
}

Value model__mbconv(Net *net, Value x, const MbconvDesc *desc) {
  int64_t channels = graph_channels(net->graph, x);
  Value y = desc->expansion == 1 ? x : expand(net, x, desc);
  if (!desc->fused) {
    y = model__depthwise(
        net, y,
        (Conv2dDesc){.kernel_h = desc->kernel, .stride_h = desc->stride, .padding = PADDING_SAME},
        desc->depthwise_name);
    y = model__norm(net, y, "bn");
    y = model__activation(net, y, ACTIVATION_SWISH, "activation");
  }
  if (desc->squeeze > 0) {
    int64_t inner = (int64_t)((double)channels * desc->squeeze);
    y = excite(net, y, inner > 1 ? inner : 1);
  }
  y = project(net, y, desc);
  if (desc->stride != 1 || channels != desc->filters) return y;
  if (desc->drop_rate != 0) {
    char text[NAME_CAPACITY];
    DropoutDesc drop = {.rate = desc->drop_rate, .per_sample = true};
    y = graph_dropout(net->graph, y, &drop, join_name(net, "drop", text));
  }
  return model__add(net, y, x, "add");
}

// --- rules ---------------------------------------------------------------------------------------

int64_t model__round_channels(double channels, double width, bool keep_most) {
  double wanted = channels * width;
  int64_t rounded = (int64_t)(wanted + 4) / 8 * 8;
  if (rounded < 8) rounded = 8;
  if (keep_most && (double)rounded < 0.9 * wanted) rounded += 8;
  return rounded;
}

double model__stochastic_depth(const ModelSpec *spec, double family_rate) {
  return spec->stochastic_depth < 0 ? family_rate : spec->stochastic_depth;
}
