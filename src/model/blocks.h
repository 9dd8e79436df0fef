// What the families build with: layers named after their block, the squeeze-and-excite gate, the
// mobile inverted bottleneck, and the rules that round channels.
//
// Layers carry the names of Keras' applications where those are fixed, so that weights are matched by
// name. Joins have their inputs in the original's order, which is also that of a file's weights.
#ifndef IMGCLS_MODEL_BLOCKS_H
#define IMGCLS_MODEL_BLOCKS_H

#include "graph/graph.h"
#include "model/registry.h"

// The options that all layers of a backbone share, and the block whose layers are being added.
typedef struct Net {
  Graph *graph;
  BatchNormDesc batch_norm;
  Initializer kernel; // of every convolution
  char prefix[32];    // of the names of layers, such as "block1a_"
} Net;

// A net with the family's BatchNorm unless the spec overrides it.
Net model__net(Graph *graph, const ModelSpec *spec, double momentum, double epsilon,
               Initializer kernel);

void model__begin_block(Net *net, const char *format, ...) PRINTF_LIKE(2, 3);

// The block of EfficientNets: "block1a_", stages from 1, repeats a..z, then aa..az.
void model__begin_repeat(Net *net, int stage, int repeat);

// Layers named prefix + name. Convolutions take the net's initializer.
Value model__conv(Net *net, Value x, Conv2dDesc desc, const char *name);
Value model__depthwise(Net *net, Value x, Conv2dDesc desc, const char *name);
Value model__norm(Net *net, Value x, const char *name);
Value model__group_norm(Net *net, Value x, const GroupNormDesc *desc, const char *name);
Value model__activation(Net *net, Value x, ActivationKind kind, const char *name);
Value model__relu6(Net *net, Value x, const char *name);
Value model__add(Net *net, Value a, Value b, const char *name);
Value model__multiply(Net *net, Value a, Value b, const char *name);
Value model__max_pool(Net *net, Value x, PoolDesc desc, const char *name);
Value model__average_pool(Net *net, Value x, PoolDesc desc, const char *name);
Value model__global_pool(Net *net, Value x, bool keep_dims, const char *name);
Value model__pad(Net *net, Value x, int pixels, const char *name);
Value model__concatenate(Net *net, const Value *values, int count, const char *name);
Value model__scale(Net *net, Value x, double factor, const char *name);

// Rescaling "rescaling" from [0, 1] to (x - mean) / deviation of ImageNet's channels.
Value model__imagenet_rescaling(Net *net, Value image);

// An EfficientNet block (arXiv 1801.04381 with the gate of arXiv 1709.01507; fused: 2104.00298).
typedef struct MbconvDesc {
  bool fused; // one convolution does the work of expansion and depthwise convolution
  int kernel, stride, expansion;
  int64_t filters;
  double squeeze;   // ratio of the gate's inner channels to the block's input channels; 0: none
  double drop_rate; // stochastic depth of the residual branch
  const char *depthwise_name;
} MbconvDesc;
Value model__mbconv(Net *net, Value x, const MbconvDesc *desc);

// Channels times width, rounded to the nearest multiple of 8, at least 8; with `keep_most`, never
// below nine tenths of it.
int64_t model__round_channels(double channels, double width, bool keep_most);

// Stochastic depth's last rate: the spec's, or the family's where that is negative.
double model__stochastic_depth(const ModelSpec *spec, double family_rate);

#endif
