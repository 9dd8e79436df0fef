// Keras' names of layers and activations. Used by messages, summaries and keras/.
#include "graph/graph.h"

const char *layer_kind_name(LayerKind kind) {
  static const char *const names[LAYER_KIND_COUNT] = {
      [LAYER_INPUT] = "InputLayer",
      [LAYER_CONV2D] = "Conv2D",
      [LAYER_DEPTHWISE_CONV2D] = "DepthwiseConv2D",
      [LAYER_SEPARABLE_CONV2D] = "SeparableConv2D",
      [LAYER_DENSE] = "Dense",
      [LAYER_BATCH_NORMALIZATION] = "BatchNormalization",
      [LAYER_GROUP_NORMALIZATION] = "GroupNormalization",
      [LAYER_ACTIVATION] = "Activation",
      [LAYER_RELU] = "ReLU",
      [LAYER_ADD] = "Add",
      [LAYER_MULTIPLY] = "Multiply",
      [LAYER_CONCATENATE] = "Concatenate",
      [LAYER_RESCALING] = "Rescaling",
      [LAYER_NORMALIZATION] = "Normalization",
      [LAYER_DROPOUT] = "Dropout",
      [LAYER_ZERO_PADDING2D] = "ZeroPadding2D",
      [LAYER_CROPPING2D] = "Cropping2D",
      [LAYER_MAX_POOLING2D] = "MaxPooling2D",
      [LAYER_AVERAGE_POOLING2D] = "AveragePooling2D",
      [LAYER_GLOBAL_AVERAGE_POOLING2D] = "GlobalAveragePooling2D",
      [LAYER_RESHAPE] = "Reshape",
      [LAYER_FLATTEN] = "Flatten",
  };
  return names[kind];
}

const char *activation_name(ActivationKind kind) {
  static const char *const names[ACTIVATION_KIND_COUNT] = {
      [ACTIVATION_LINEAR] = "linear",
      [ACTIVATION_RELU] = "relu",
      [ACTIVATION_RELU6] = "relu6",
      [ACTIVATION_SWISH] = "swish",
      [ACTIVATION_SIGMOID] = "sigmoid",
      [ACTIVATION_HARD_SIGMOID] = "hard_sigmoid",
      [ACTIVATION_HARD_SWISH] = "hard_swish",
      [ACTIVATION_SOFTMAX] = "softmax",
      [ACTIVATION_TANH] = "tanh",
  };
  return names[kind];
}
