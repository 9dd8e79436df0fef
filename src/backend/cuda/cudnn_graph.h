// Small graphs of cuDNN's backend interface: built once, planned once, run often. Used by the
// convolutions.
//
//   GraphBuilder b;  graph_begin(&b, device, &(GraphLabel){...});
//   x = graph_tensor(&b, ...);  graph_convolution(&b, ...);
//   graph_plan(&b, &plan);      // frees the builder, also after an error
//
// Errors stick to the builder; graph_plan returns the first. The builder also writes down in words
// all that it is told: two graphs of the same words have the same plan (cudnn_plan.c).
#ifndef IMGCLS_BACKEND_CUDA_CUDNN_GRAPH_H
#define IMGCLS_BACKEND_CUDA_CUDNN_GRAPH_H

#include "backend/cuda/device.h"

enum {
  GRAPH_MAX_DESCRIPTORS = 40,
  GRAPH_MAX_OPERATIONS = 8,
  GRAPH_MAX_TENSORS = 16,
  GRAPH_WORDS_CAPACITY = 3072
};

// What a graph is for, in messages and lists. Borrowed.
typedef struct GraphLabel {
  const char *layer;
  const char *pass;    // "forward"
  const char *problem; // "56x56 64 -> 64, 3x3 stride 1", the batch and types aside
} GraphLabel;

typedef int GraphTensorId; // of a tensor of one builder

// dims and strides in the order N, C, H, W (or K, C, R, S), in elements.
typedef struct GraphTensor {
  cudnnDataType_t type;
  int64_t dims[4], strides[4];
  bool is_virtual; // only inside the graph: takes no memory
} GraphTensor;

typedef struct GraphBuilder {
  Device *device;
  GraphLabel label;
  Status status;
  bool allows_rounding;    // engines that round factors, or have 16-bit ones already
  bool refuses_compiled;   // engines that the library compiles at run time; set before graph_plan
  cudnnBackendDescriptor_t descriptors[GRAPH_MAX_DESCRIPTORS]; // all that it owns
  int descriptor_count;
  cudnnBackendDescriptor_t operations[GRAPH_MAX_OPERATIONS];
  int operation_count;
  struct {
    cudnnBackendDescriptor_t descriptor;
    int64_t uid; // of tensors with memory 1, 2, ... in the order of their making
    size_t size_bytes;
    bool is_virtual;
  } tensors[GRAPH_MAX_TENSORS];
  int tensor_count;
  int memory_count; // tensors with memory
  char words[GRAPH_WORDS_CAPACITY];
  size_t words_length;
} GraphBuilder;

typedef struct GraphConvolution {
  int64_t pads_before[2], pads_after[2], strides[2], dilations[2]; // H, W
} GraphConvolution;

typedef enum GraphPass { GRAPH_FORWARD, GRAPH_BACKWARD_DATA, GRAPH_BACKWARD_FILTER } GraphPass;

void graph_begin(GraphBuilder *builder, Device *device, const GraphLabel *label);

// Tensors with memory are passed to graph_plan_run in the order of their making.
GraphTensorId graph_tensor(GraphBuilder *builder, const GraphTensor *tensor);

// FORWARD: y from x and w; BACKWARD_DATA: x from y and w; BACKWARD_FILTER: w from x and y.
void graph_convolution(GraphBuilder *builder, GraphPass pass, const GraphConvolution *convolution,
                       const GraphTensorId xwy[3]);

typedef struct GraphPointwise {
  cudnnPointwiseMode_t mode;
  double upper_clip; // of a ReLU; 0: none
} GraphPointwise;

// out = pointwise(a, b); b may be GRAPH_NONE.
enum { GRAPH_NONE = -1 };
void graph_pointwise(GraphBuilder *builder, const GraphPointwise *pointwise, GraphTensorId a,
                     GraphTensorId b, GraphTensorId out);

// Sums over all but the channels of x, and of its squares; both {1, C, 1, 1} in fp32.
void graph_statistics(GraphBuilder *builder, GraphTensorId x, GraphTensorId sums,
                      GraphTensorId squares);

// One chosen engine for one graph.
typedef struct GraphPlan {
  cudnnBackendDescriptor_t plan; // the device's
  cudnnBackendDescriptor_t variant;
  size_t workspace_size;
  bool is_compiled; // at run time
  double time_us;   // measured; 0: not
  void *pointers[GRAPH_MAX_TENSORS]; // what `variant` holds
  void *workspace;
  int tensor_count;
} GraphPlan;

// Chooses an engine whose workspace is within the device's limit, as its PlanOptions say, or takes
// the one that was chosen before. cudnn_plan.c.
MUST_CHECK Status graph_plan(GraphBuilder *builder, GraphPlan *out);
void graph_plan_destroy(GraphPlan *plan);

// Enqueues. The memory of a plan does not change from call to call, so all but the first bind
// nothing.
MUST_CHECK Status graph_plan_run(GraphPlan *plan, Device *device, void *const *pointers,
                                 void *workspace);

// --- for cudnn_plan.c ---

void graph__destroy(cudnnBackendDescriptor_t descriptor); // NULL is fine

// The operation graph of what was built, owned by the builder; NULL after an error.
cudnnBackendDescriptor_t graph__finish(GraphBuilder *builder);
void graph__free(GraphBuilder *builder);

// A descriptor that the builder owns, and attributes of it. Nothing happens after an error.
cudnnBackendDescriptor_t graph__make(GraphBuilder *b, cudnnBackendDescriptorType_t type);
void graph__set(GraphBuilder *b, cudnnBackendDescriptor_t descriptor,
                cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
                const void *value);

#endif
