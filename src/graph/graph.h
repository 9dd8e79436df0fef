// The network as Keras describes it: layers with the names and options of Keras' own, their shapes
// and their parameters. No device code.
//
// Model builders add layers; keras/ writes and reads the same layers as `model_config`; exec/
// lowers them to steps. Every layer has one output, so a Value is the index of its layer, and
// layers stand in topological order; keras/ sorts them as Keras does where files are read or
// written. The first error sticks to the graph: later calls return NO_VALUE and do nothing, and
// graph_finish returns it, so that builders need no checks.
#ifndef IMGCLS_GRAPH_GRAPH_H
#define IMGCLS_GRAPH_GRAPH_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "tensor/tensor.h"

typedef int Value;
enum { NO_VALUE = -1, LAYER_MAX_INPUTS = 8, LAYER_MAX_PARAMETERS = 4, RESCALING_MAX_CHANNELS = 4 };

typedef enum LayerKind {
  LAYER_INPUT,
  LAYER_CONV2D,
  LAYER_DEPTHWISE_CONV2D,
  LAYER_SEPARABLE_CONV2D, // a depthwise convolution, then one of 1 x 1
  LAYER_DENSE,
  LAYER_BATCH_NORMALIZATION,
  LAYER_GROUP_NORMALIZATION,
  LAYER_ACTIVATION,
  LAYER_RELU,
  LAYER_ADD,
  LAYER_MULTIPLY,    // two inputs; one may be 1 x 1 x C
  LAYER_CONCATENATE, // along the channels
  LAYER_RESCALING,
  LAYER_NORMALIZATION, // Keras' preprocessing layer, met in files only
  LAYER_DROPOUT,
  LAYER_ZERO_PADDING2D,
  LAYER_CROPPING2D,
  LAYER_MAX_POOLING2D,
  LAYER_AVERAGE_POOLING2D,
  LAYER_GLOBAL_AVERAGE_POOLING2D,
  LAYER_RESHAPE,
  LAYER_FLATTEN,
  LAYER_KIND_COUNT
} LayerKind;

typedef enum ActivationKind {
  ACTIVATION_LINEAR,
  ACTIVATION_RELU,
  ACTIVATION_RELU6,
  ACTIVATION_SWISH,
  ACTIVATION_SIGMOID,
  ACTIVATION_HARD_SIGMOID, // relu6(x + 3) / 6
  ACTIVATION_HARD_SWISH,   // x relu6(x + 3) / 6
  ACTIVATION_SOFTMAX,      // over the last dimension; a model's last layer only
  ACTIVATION_TANH,
  ACTIVATION_KIND_COUNT
} ActivationKind;

typedef enum Padding {
  PADDING_VALID,
  PADDING_SAME // TensorFlow's: the odd pixel after
} Padding;

typedef enum InitializerKind {
  INITIALIZER_ZEROS,
  INITIALIZER_ONES,
  INITIALIZER_GLOROT_UNIFORM,   // Glorot and Bengio 2010; fans as Keras' compute_fans
  INITIALIZER_VARIANCE_SCALING, // scale, mode and distribution below
  INITIALIZER_TRUNCATED_NORMAL, // Keras' TruncatedNormal: scale is the deviation before the cut
} InitializerKind;

typedef enum FanMode { FAN_IN, FAN_OUT, FAN_AVERAGE } FanMode;
typedef enum Distribution {
  DISTRIBUTION_TRUNCATED_NORMAL, // redrawn beyond two deviations, as Keras' "truncated_normal"
  DISTRIBUTION_NORMAL,           // Keras' "untruncated_normal"
  DISTRIBUTION_UNIFORM
} Distribution;

typedef struct Initializer {
  InitializerKind kind;
  double scale;
  FanMode mode;
  Distribution distribution;
} Initializer;

// Pixels added before and after each spatial dimension.
typedef struct Pads {
  int top, bottom, left, right;
} Pads;

// Also depthwise, where filters and groups are the channels, and separable, where kernel, strides
// and dilation are those of the depthwise part and filters those of the other.
typedef struct Conv2dDesc {
  int64_t filters;
  int kernel_h, kernel_w; // kernel_w 0: square
  int stride_h, stride_w; // 0: 1, or stride_h
  int dilation;           // 0: 1
  int groups;             // 0: 1
  Padding padding;
  bool use_bias;
  // Above 0, and Conv2D only: the kernel is standardised, each filter to mean 0 and deviation 1
  // with this epsilon beside the variance, whenever it is used (arXiv 1903.10520).
  double standardize_epsilon;
  Initializer initializer; // of the kernel; kind 0 (zeros) stands for Glorot uniform
  double l2; // Keras' kernel_regularizer L2: l2 * sum(W^2) joins the loss; of both kernels
} Conv2dDesc;

typedef struct GroupNormDesc { // over H, W and the channels of a group (arXiv 1803.08494)
  int groups;
  double epsilon;
  bool no_scale, no_center;
} GroupNormDesc;

typedef struct DenseDesc {
  int64_t units;
  bool no_bias;
  Initializer initializer; // kind 0 stands for Glorot uniform
  double l2;
} DenseDesc;

typedef struct BatchNormDesc {
  double momentum, epsilon; // of the moving average: m = momentum m + (1 - momentum) batch
  bool no_scale, no_center;
} BatchNormDesc;

typedef struct PoolDesc {
  int size_h, size_w;     // size_w 0: square
  int stride_h, stride_w; // 0: the size
  Padding padding;        // SAME: padding takes no part in maximum or average
} PoolDesc;

typedef struct DropoutDesc {
  double rate;
  bool per_sample; // one draw a sample: stochastic depth, Keras' noise_shape (None, 1, 1, 1)
} DropoutDesc;

// y = x scale + offset, per channel where count is the number of channels, one value for 1.
typedef struct RescalingDesc {
  int count;
  double scale[RESCALING_MAX_CHANNELS], offset[RESCALING_MAX_CHANNELS];
} RescalingDesc;

typedef struct Layer {
  LayerKind kind;
  char *name;   // unique in the graph, without '/'; owned
  int submodel; // index into Graph.submodels, -1 for the outer model
  int input_count;
  Value inputs[LAYER_MAX_INPUTS];
  Shape shape;    // of the output, without the batch: (H, W, C) or (C,)
  bool trainable; // Keras' layer.trainable: false freezes its weights and its BatchNorm statistics
  int parameter_count;
  // kernel, bias; depthwise kernel, pointwise kernel, bias; gamma, beta, mean, variance
  int parameters[LAYER_MAX_PARAMETERS];
  Pads pads; // of convolutions and pools as padding and strides give them, of ZeroPadding2D,
             // Cropping2D
  union {
    Conv2dDesc conv2d; // filled in: no zeros that stand for defaults
    DenseDesc dense;
    BatchNormDesc batch_norm;
    GroupNormDesc group_norm;
    PoolDesc pool;
    DropoutDesc dropout;
    RescalingDesc rescaling;
    ActivationKind activation;
    double relu_max_value; // 0: none
    bool keep_dims;        // global average pooling: (1, 1, C) instead of (C,)
  };
} Layer;

typedef enum ParameterRole {
  PARAMETER_KERNEL,           // of a depthwise part too
  PARAMETER_POINTWISE_KERNEL, // of a separable convolution
  PARAMETER_BIAS,
  PARAMETER_GAMMA,
  PARAMETER_BETA,
  PARAMETER_MOVING_MEAN,
  PARAMETER_MOVING_VARIANCE
} ParameterRole;

typedef struct Parameter {
  int layer;
  ParameterRole role;
  char *path;  // "LAYER/kernel", "LAYER/moving_mean", ...: Keras' names; owned
  Shape shape; // as Keras stores it: kernels (kh, kw, in, out), depthwise (kh, kw, in, 1)
  Initializer initializer;
  bool is_statistic; // moving mean or variance: never updated by a gradient
  bool decay;        // weight decay applies: kernels
  double l2;         // of the loss
} Parameter;

// A model nested in the outer one: the backbone. Keras writes it as one Functional layer.
typedef struct Submodel {
  char *name;   // owned
  Value input;  // the value of the outer model that it takes
  Value output; // its last layer
} Submodel;

typedef struct Graph {
  char *name; // owned
  Layer *layers;
  int layer_count;
  Parameter *parameters;
  int parameter_count;
  Submodel *submodels;
  int submodel_count;
  int open_submodel; // -1 outside
  Value output;
  Status status; // of the first error; its message is kept in `error`
  char *error;
  size_t layer_capacity, parameter_capacity, submodel_capacity;
} Graph;

// An empty graph, owned by the caller. `name` becomes the Keras model's name.
MUST_CHECK Status graph_create(Graph **out, const char *name);
void graph_free(Graph *graph);

// Ends building: `output` is the model's output. Returns the first error of any builder call, with
// the name of the layer; an error too: a layer that nothing uses, a softmax that is not the output.
MUST_CHECK Status graph_finish(Graph *graph, Value output);

// Layers made between the two belong to a nested model fed by `x`; `end` names its output and
// returns it.
void graph_submodel_begin(Graph *graph, Value x, const char *name);
Value graph_submodel_end(Graph *graph, Value output);

// Each adds one layer. `name` is copied; it must be new to the graph and without '/'. Descs are
// copied. Shapes that do not fit are errors that name the layer, the shapes and the cure.
Value graph_input(Graph *graph, Shape shape, const char *name);
Value graph_conv2d(Graph *graph, Value x, const Conv2dDesc *desc, const char *name);
Value graph_depthwise_conv2d(Graph *graph, Value x, const Conv2dDesc *desc, const char *name);
Value graph_separable_conv2d(Graph *graph, Value x, const Conv2dDesc *desc, const char *name);
Value graph_dense(Graph *graph, Value x, const DenseDesc *desc, const char *name);
Value graph_batch_normalization(Graph *graph, Value x, const BatchNormDesc *desc, const char *name);
Value graph_group_normalization(Graph *graph, Value x, const GroupNormDesc *desc, const char *name);
Value graph_activation(Graph *graph, Value x, ActivationKind kind, const char *name);
Value graph_relu(Graph *graph, Value x, double max_value, const char *name);
Value graph_add(Graph *graph, Value a, Value b, const char *name);
Value graph_multiply(Graph *graph, Value a, Value b, const char *name);
Value graph_concatenate(Graph *graph, const Value *values, int count, const char *name);
Value graph_rescaling(Graph *graph, Value x, const RescalingDesc *desc, const char *name);
Value graph_normalization(Graph *graph, Value x, const RescalingDesc *desc, const char *name);
Value graph_dropout(Graph *graph, Value x, const DropoutDesc *desc, const char *name);
Value graph_zero_padding2d(Graph *graph, Value x, Pads pads, const char *name);
Value graph_cropping2d(Graph *graph, Value x, Pads pads, const char *name);
Value graph_max_pooling2d(Graph *graph, Value x, const PoolDesc *desc, const char *name);
Value graph_average_pooling2d(Graph *graph, Value x, const PoolDesc *desc, const char *name);
Value graph_global_average_pooling2d(Graph *graph, Value x, bool keep_dims, const char *name);
Value graph_reshape(Graph *graph, Value x, Shape shape, const char *name);
Value graph_flatten(Graph *graph, Value x, const char *name);

// Freezes or frees every layer of a submodel (-1: of the outer model).
void graph_set_trainable(Graph *graph, int submodel, bool trainable);

// Whether training changes this parameter by a gradient: its layer is trainable, it no statistic.
bool graph_parameter_is_trained(const Graph *graph, int parameter);

Shape graph_shape(const Graph *graph, Value value);                   // rank 0 for NO_VALUE
int64_t graph_channels(const Graph *graph, Value value);              // 0 for NO_VALUE
const char *layer_kind_name(LayerKind kind);                          // Keras' class name, "Conv2D"
const char *activation_name(ActivationKind kind);                     // Keras' string, "swish"
int64_t graph_parameter_total(const Graph *graph, bool trained_only); // elements
double graph_mac_total(const Graph *graph); // multiply-accumulates of one image, forward

// Fills `values` (shape_count elements, Keras' order) from the parameter's initializer: element i
// is a function of (seed, parameter path, i), so that a classifier starts the same with and without
// its backbone. Keras' fans: kernel area times channels in and out, also for depthwise kernels.
void graph_initialize_parameter(const Graph *graph, int parameter, uint64_t seed, float *values);

// Whether this is the kernel of a convolution that standardises it (Conv2dDesc).
bool graph_kernel_is_standardized(const Graph *graph, int parameter);

// Standardises a kernel (..., filters) of `count` elements; the two may be the same memory.
void graph_standardize_kernel(float *out, const float *kernel, int64_t count, int64_t filters,
                              double epsilon);

#endif
