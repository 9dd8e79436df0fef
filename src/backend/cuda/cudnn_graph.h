// Small graphs of cuDNN's backend interface: built once, planned once, run often. Used by the
// convolutions.
//
//   GraphBuilder b;  graph_begin(&b, device, name);
//   x = graph_tensor(&b, ...);  graph_convolution(&b, ...);
//   graph_plan(&b, &plan);      // frees the builder, also after an error
//
// Errors stick to the builder; graph_plan returns the first. Plans are deterministic: engines that
// say they are not are left out.
#ifndef IMGCLS_BACKEND_CUDA_CUDNN_GRAPH_H
#define IMGCLS_BACKEND_CUDA_CUDNN_GRAPH_H

#include "backend/cuda/device.h"

enum { GRAPH_MAX_DESCRIPTORS = 16, GRAPH_MAX_OPERATIONS = 4, GRAPH_MAX_TENSORS = 8 };

typedef struct GraphBuilder {
  Device *device;
  const char *name; // of the layer, for messages; borrowed
  Status status;
  bool allows_rounding; // engines that round factors, or have 16-bit ones already
  cudnnBackendDescriptor_t descriptors[GRAPH_MAX_DESCRIPTORS]; // all that it owns
  int descriptor_count;
  cudnnBackendDescriptor_t operations[GRAPH_MAX_OPERATIONS];
  int operation_count;
  int64_t uids[GRAPH_MAX_TENSORS]; // of tensors with memory: 1, 2, ... in the order of their making
  int tensor_count;
} GraphBuilder;

// dims and strides in the order N, C, H, W (or K, C, R, S), in elements.
typedef struct GraphTensor {
  cudnnDataType_t type;
  int64_t dims[4], strides[4];
  bool is_virtual; // only inside the graph: takes no memory
} GraphTensor;

typedef struct GraphConvolution {
  int64_t pads_before[2], pads_after[2], strides[2], dilations[2]; // H, W
} GraphConvolution;

typedef enum GraphPass { GRAPH_FORWARD, GRAPH_BACKWARD_DATA, GRAPH_BACKWARD_FILTER } GraphPass;

void graph_begin(GraphBuilder *builder, Device *device, const char *name);

// Tensors with memory are passed to plan_run in the order of their making.
cudnnBackendDescriptor_t graph_tensor(GraphBuilder *builder, const GraphTensor *tensor);

// FORWARD: y from x and w; BACKWARD_DATA: x from y and w; BACKWARD_FILTER: w from x and y.
void graph_convolution(GraphBuilder *builder, GraphPass pass, const GraphConvolution *convolution,
                       cudnnBackendDescriptor_t x, cudnnBackendDescriptor_t w,
                       cudnnBackendDescriptor_t y);

// out = mode(a, b); b may be NULL.
void graph_pointwise(GraphBuilder *builder, cudnnPointwiseMode_t mode, cudnnBackendDescriptor_t a,
                     cudnnBackendDescriptor_t b, cudnnBackendDescriptor_t out);

// One chosen engine for one graph.
typedef struct GraphPlan {
  cudnnBackendDescriptor_t plan, variant;
  size_t workspace_size;
  int64_t uids[GRAPH_MAX_TENSORS];
  void *pointers[GRAPH_MAX_TENSORS]; // what `variant` holds
  void *workspace;
  int tensor_count;
} GraphPlan;

// Chooses an engine whose workspace is within the device's limit.
MUST_CHECK Status graph_plan(GraphBuilder *builder, GraphPlan *out);
void graph_plan_destroy(GraphPlan *plan);

// Enqueues. The memory of a plan does not change from call to call, so all but the first bind
// nothing.
MUST_CHECK Status graph_plan_run(GraphPlan *plan, Device *device, void *const *pointers,
                                 void *workspace);

#endif
