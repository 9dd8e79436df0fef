// See cudnn_graph.h.
#include "backend/cuda/cudnn_graph.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { ALIGNMENT = 16, SPATIAL = 2 };

// --- parts ---------------------------------------------------------------------------------------

void graph_begin(GraphBuilder *b, Device *device, const GraphLabel *label) {
  *b = (GraphBuilder){.device = device, .label = *label};
  b->allows_rounding = device->options.tensor_float32;
}

static bool is_fine(const GraphBuilder *b) {
  return b->status == STATUS_OK;
}

static void check(GraphBuilder *b, cudnnStatus_t result, const char *what) {
  if (!is_fine(b) || result == CUDNN_STATUS_SUCCESS) return;
  b->status = cuda__cudnn_error(result, what);
  b->status = status_prepend(b->status, "%s, %s", b->label.layer, b->label.pass);
}

static bool has_room(GraphBuilder *b, int count, int capacity) {
  if (is_fine(b) && count >= capacity)
    b->status = status_set(STATUS_INTERNAL, "%s: a cuDNN graph of too many parts", b->label.layer);
  return is_fine(b);
}

static void say(GraphBuilder *b, const char *format, ...) PRINTF_LIKE(2, 3);
static void say(GraphBuilder *b, const char *format, ...) {
  va_list list;
  va_start(list, format);
  size_t room = sizeof b->words - b->words_length;
  int length = vsnprintf(b->words + b->words_length, room, format, list);
  va_end(list);
  if (has_room(b, length, (int)room)) b->words_length += (size_t)length;
}

static void say_list(GraphBuilder *b, const char *what, const int64_t *values, int count) {
  say(b, "%s", what);
  for (int i = 0; i < count; i++) say(b, i == 0 ? "%" PRId64 : ",%" PRId64, values[i]);
}

cudnnBackendDescriptor_t graph__make(GraphBuilder *b, cudnnBackendDescriptorType_t type) {
  cudnnBackendDescriptor_t descriptor = NULL;
  if (!has_room(b, b->descriptor_count, GRAPH_MAX_DESCRIPTORS)) return NULL;
  check(b, cudnnBackendCreateDescriptor(type, &descriptor), "cudnnBackendCreateDescriptor");
  if (is_fine(b)) b->descriptors[b->descriptor_count++] = descriptor;
  return descriptor;
}

static void set(GraphBuilder *b, cudnnBackendDescriptor_t descriptor,
                cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, int64_t count,
                const void *values) {
  if (!is_fine(b)) return;
  check(b, cudnnBackendSetAttribute(descriptor, name, type, count, values),
        "cudnnBackendSetAttribute");
}

void graph__set(GraphBuilder *b, cudnnBackendDescriptor_t descriptor,
                cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
                const void *value) {
  set(b, descriptor, name, type, 1, value);
}

static void set_tensor(GraphBuilder *b, cudnnBackendDescriptor_t descriptor,
                       cudnnBackendAttributeName_t name, GraphTensorId tensor) {
  if (!is_fine(b)) return;
  graph__set(b, descriptor, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, &b->tensors[tensor].descriptor);
  say(b, " t%d", tensor);
}

static void finish(GraphBuilder *b, cudnnBackendDescriptor_t descriptor, const char *what) {
  if (is_fine(b)) check(b, cudnnBackendFinalize(descriptor), what);
}

static size_t size_of(const GraphTensor *tensor) {
  int64_t last = 0;
  for (int i = 0; i < 4; i++) last += (tensor->dims[i] - 1) * tensor->strides[i];
  return (size_t)(last + 1) * (tensor->type == CUDNN_DATA_FLOAT ? sizeof(float) : sizeof(short));
}

GraphTensorId graph_tensor(GraphBuilder *b, const GraphTensor *tensor) {
  // 16-bit products are exact in a tensor core; fp32 ones are rounded to TF32.
  if (!tensor->is_virtual && tensor->type != CUDNN_DATA_FLOAT) b->allows_rounding = true;
  if (!has_room(b, b->tensor_count, GRAPH_MAX_TENSORS)) return 0;
  cudnnBackendDescriptor_t t = graph__make(b, CUDNN_BACKEND_TENSOR_DESCRIPTOR);
  const int64_t alignment = ALIGNMENT;
  // Tensors inside the graph are numbered behind those with memory.
  int64_t uid = tensor->is_virtual ? GRAPH_MAX_TENSORS + b->tensor_count + 1 : b->memory_count + 1;
  set(b, t, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &tensor->type);
  set(b, t, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, 4, tensor->dims);
  set(b, t, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, 4, tensor->strides);
  set(b, t, CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, 1, &uid);
  set(b, t, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, 1, &alignment);
  set(b, t, CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, 1, &tensor->is_virtual);
  finish(b, t, "tensor");
  if (!is_fine(b)) return 0;
  say(b, "t%d: type %d", b->tensor_count, (int)tensor->type);
  say_list(b, tensor->is_virtual ? " virtual " : " ", tensor->dims, 4);
  say_list(b, " strides ", tensor->strides, 4);
  say(b, "\n");
  b->tensors[b->tensor_count].descriptor = t;
  b->tensors[b->tensor_count].uid = uid;
  b->tensors[b->tensor_count].is_virtual = tensor->is_virtual;
  b->tensors[b->tensor_count].size_bytes = size_of(tensor);
  b->memory_count += !tensor->is_virtual;
  return b->tensor_count++;
}

// --- operations ----------------------------------------------------------------------------------

typedef struct PassRow {
  const char *name;
  cudnnBackendDescriptorType_t type;
  cudnnBackendAttributeName_t alpha, beta, convolution, xwy[3];
} PassRow;

static const PassRow passes[] = {
    [GRAPH_FORWARD] = {"convolution",
                       CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR,
                       CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA,
                       CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA,
                       CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC,
                       {CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X,
                        CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W,
                        CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y}},
    [GRAPH_BACKWARD_DATA] = {"data gradient",
                             CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR,
                             CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_ALPHA,
                             CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_BETA,
                             CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC,
                             {CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX,
                              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W,
                              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY}},
    [GRAPH_BACKWARD_FILTER] = {"filter gradient",
                               CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR,
                               CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_ALPHA,
                               CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_BETA,
                               CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_CONV_DESC,
                               {CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_X,
                                CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DW,
                                CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DY}},
};

static void add_operation(GraphBuilder *b, cudnnBackendDescriptor_t operation) {
  say(b, "\n");
  if (!has_room(b, b->operation_count, GRAPH_MAX_OPERATIONS)) return;
  finish(b, operation, "operation");
  if (is_fine(b)) b->operations[b->operation_count++] = operation;
}

static cudnnBackendDescriptor_t make_convolution(GraphBuilder *b,
                                                 const GraphConvolution *convolution) {
  const cudnnDataType_t compute = CUDNN_DATA_FLOAT;
  const cudnnConvolutionMode_t mode = CUDNN_CROSS_CORRELATION;
  const int64_t spatial = SPATIAL;
  const struct {
    cudnnBackendAttributeName_t name;
    const char *word;
    const int64_t *values;
  } rows[] = {
      {CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, " pads ", convolution->pads_before},
      {CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, " to ", convolution->pads_after},
      {CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, " strides ", convolution->strides},
      {CUDNN_ATTR_CONVOLUTION_DILATIONS, " dilations ", convolution->dilations},
  };
  cudnnBackendDescriptor_t c = graph__make(b, CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR);
  set(b, c, CUDNN_ATTR_CONVOLUTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &compute);
  set(b, c, CUDNN_ATTR_CONVOLUTION_CONV_MODE, CUDNN_TYPE_CONVOLUTION_MODE, 1, &mode);
  set(b, c, CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, CUDNN_TYPE_INT64, 1, &spatial);
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    set(b, c, rows[i].name, CUDNN_TYPE_INT64, SPATIAL, rows[i].values);
    say_list(b, rows[i].word, rows[i].values, SPATIAL);
  }
  finish(b, c, "convolution");
  return c;
}

void graph_convolution(GraphBuilder *b, GraphPass pass, const GraphConvolution *convolution,
                       const GraphTensorId xwy[3]) {
  const PassRow *row = &passes[pass];
  const float one = 1.0f, zero = 0.0f;
  say(b, "%s", row->name);
  cudnnBackendDescriptor_t c = make_convolution(b, convolution);
  cudnnBackendDescriptor_t operation = graph__make(b, row->type);
  set(b, operation, row->alpha, CUDNN_TYPE_FLOAT, 1, &one);
  set(b, operation, row->beta, CUDNN_TYPE_FLOAT, 1, &zero);
  set(b, operation, row->convolution, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &c);
  for (int i = 0; i < 3; i++) set_tensor(b, operation, row->xwy[i], xwy[i]);
  add_operation(b, operation);
}

void graph_pointwise(GraphBuilder *b, const GraphPointwise *pointwise, GraphTensorId a,
                     GraphTensorId second, GraphTensorId out) {
  const cudnnDataType_t compute = CUDNN_DATA_FLOAT;
  const double zero = 0.0;
  say(b, "pointwise %d to %g", (int)pointwise->mode, pointwise->upper_clip);
  cudnnBackendDescriptor_t p = graph__make(b, CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
  set(b, p, CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, &pointwise->mode);
  set(b, p, CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_TYPE_DATA_TYPE, 1, &compute);
  if (pointwise->upper_clip > 0.0) {
    set(b, p, CUDNN_ATTR_POINTWISE_RELU_LOWER_CLIP, CUDNN_TYPE_DOUBLE, 1, &zero);
    set(b, p, CUDNN_ATTR_POINTWISE_RELU_UPPER_CLIP, CUDNN_TYPE_DOUBLE, 1, &pointwise->upper_clip);
  }
  finish(b, p, "pointwise operation");
  cudnnBackendDescriptor_t operation = graph__make(b, CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
  set(b, operation, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1,
      &p);
  set_tensor(b, operation, CUDNN_ATTR_OPERATION_POINTWISE_XDESC, a);
  if (second != GRAPH_NONE) set_tensor(b, operation, CUDNN_ATTR_OPERATION_POINTWISE_BDESC, second);
  set_tensor(b, operation, CUDNN_ATTR_OPERATION_POINTWISE_YDESC, out);
  add_operation(b, operation);
}

void graph_statistics(GraphBuilder *b, GraphTensorId x, GraphTensorId sums, GraphTensorId squares) {
  const cudnnDataType_t compute = CUDNN_DATA_FLOAT;
  const cudnnGenStatsMode_t mode = CUDNN_GENSTATS_SUM_SQSUM;
  say(b, "statistics");
  cudnnBackendDescriptor_t operation =
      graph__make(b, CUDNN_BACKEND_OPERATION_GEN_STATS_DESCRIPTOR);
  set(b, operation, CUDNN_ATTR_OPERATION_GENSTATS_MODE, CUDNN_TYPE_GENSTATS_MODE, 1, &mode);
  set(b, operation, CUDNN_ATTR_OPERATION_GENSTATS_MATH_PREC, CUDNN_TYPE_DATA_TYPE, 1, &compute);
  set_tensor(b, operation, CUDNN_ATTR_OPERATION_GENSTATS_XDESC, x);
  set_tensor(b, operation, CUDNN_ATTR_OPERATION_GENSTATS_SUMDESC, sums);
  set_tensor(b, operation, CUDNN_ATTR_OPERATION_GENSTATS_SQSUMDESC, squares);
  add_operation(b, operation);
}

// --- the whole -----------------------------------------------------------------------------------

cudnnBackendDescriptor_t graph__finish(GraphBuilder *b) {
  cudnnBackendDescriptor_t graph = graph__make(b, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
  if (!b->device->model)
    set(b, graph, CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1, &b->device->cudnn);
  set(b, graph, CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, b->operation_count,
      b->operations);
  finish(b, graph, "operation graph");
  return is_fine(b) ? graph : NULL;
}

void graph__destroy(cudnnBackendDescriptor_t descriptor) {
  if (descriptor) (void)cudnnBackendDestroyDescriptor(descriptor);
}

void graph__free(GraphBuilder *b) {
  for (int i = b->descriptor_count - 1; i >= 0; i--) graph__destroy(b->descriptors[i]);
  b->descriptor_count = 0;
}

// --- running -------------------------------------------------------------------------------------

void graph_plan_destroy(GraphPlan *plan) {
  graph__destroy(plan->variant);
  *plan = (GraphPlan){0};
}

static Status bind(GraphPlan *plan, void *const *pointers, void *workspace) {
  int64_t uids[GRAPH_MAX_TENSORS];
  graph__destroy(plan->variant);
  plan->variant = NULL;
  CUDNN_TRY(cudnnBackendCreateDescriptor(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR, &plan->variant));
  for (int i = 0; i < plan->tensor_count; i++) {
    uids[i] = i + 1;
    plan->pointers[i] = pointers[i];
  }
  plan->workspace = workspace;
  CUDNN_TRY(cudnnBackendSetAttribute(plan->variant, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS,
                                     CUDNN_TYPE_INT64, plan->tensor_count, uids));
  CUDNN_TRY(cudnnBackendSetAttribute(plan->variant, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS,
                                     CUDNN_TYPE_VOID_PTR, plan->tensor_count, plan->pointers));
  CUDNN_TRY(cudnnBackendSetAttribute(plan->variant, CUDNN_ATTR_VARIANT_PACK_WORKSPACE,
                                     CUDNN_TYPE_VOID_PTR, 1, &plan->workspace));
  CUDNN_TRY(cudnnBackendFinalize(plan->variant));
  return STATUS_OK;
}

Status graph_plan_run(GraphPlan *plan, Device *device, void *const *pointers, void *workspace) {
  size_t size = (size_t)plan->tensor_count * sizeof *pointers;
  if (!plan->variant || memcmp(plan->pointers, pointers, size) != 0 || plan->workspace != workspace)
    TRY(bind(plan, pointers, workspace));
  CUDNN_TRY(cudnnBackendExecute(device->cudnn, plan->plan, plan->variant));
  return STATUS_OK;
}
