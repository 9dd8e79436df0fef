// See cudnn_graph.h.
#include "backend/cuda/cudnn_graph.h"

#include <string.h>

enum { ENGINES_MAX = 64, NOTES_MAX = 16, ALIGNMENT = 16 };

// --- building -------------------------------------------------------------------------------------

void graph_begin(GraphBuilder *b, Device *device, const char *name) {
  *b = (GraphBuilder){.device = device, .name = name};
  b->allows_rounding = device->tensor_float32;
}

static bool is_fine(const GraphBuilder *b) { return b->status == STATUS_OK; }

static void check(GraphBuilder *b, cudnnStatus_t result, const char *what) {
  if (is_fine(b) && result != CUDNN_STATUS_SUCCESS) {
    b->status = cuda__cudnn_error(result, what);
    b->status = status_prepend(b->status, "%s", b->name);
  }
}

static cudnnBackendDescriptor_t make(GraphBuilder *b, cudnnBackendDescriptorType_t type) {
  cudnnBackendDescriptor_t descriptor = NULL;
  if (!is_fine(b)) return NULL;
  if (b->descriptor_count == GRAPH_MAX_DESCRIPTORS) {
    b->status = status_set(STATUS_INTERNAL, "%s: a cuDNN graph of too many parts", b->name);
    return NULL;
  }
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

static void set_descriptor(GraphBuilder *b, cudnnBackendDescriptor_t descriptor,
                           cudnnBackendAttributeName_t name, cudnnBackendDescriptor_t value) {
  set(b, descriptor, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &value);
}

static void finish(GraphBuilder *b, cudnnBackendDescriptor_t descriptor, const char *what) {
  if (is_fine(b)) check(b, cudnnBackendFinalize(descriptor), what);
}

cudnnBackendDescriptor_t graph_tensor(GraphBuilder *b, const GraphTensor *tensor) {
  // 16-bit products are exact in a tensor core; fp32 ones are rounded to TF32.
  if (!tensor->is_virtual && tensor->type != CUDNN_DATA_FLOAT) b->allows_rounding = true;
  cudnnBackendDescriptor_t t = make(b, CUDNN_BACKEND_TENSOR_DESCRIPTOR);
  const int64_t alignment = ALIGNMENT;
  // Tensors inside the graph are numbered behind those with memory.
  int64_t uid = tensor->is_virtual ? 100 + b->descriptor_count : b->tensor_count + 1;
  set(b, t, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &tensor->type);
  set(b, t, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, 4, tensor->dims);
  set(b, t, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, 4, tensor->strides);
  set(b, t, CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, 1, &uid);
  set(b, t, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, 1, &alignment);
  set(b, t, CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, 1, &tensor->is_virtual);
  finish(b, t, "tensor");
  if (is_fine(b) && !tensor->is_virtual) b->uids[b->tensor_count++] = uid;
  return t;
}

typedef struct PassRow {
  cudnnBackendDescriptorType_t type;
  cudnnBackendAttributeName_t alpha, beta, convolution, x, w, y;
} PassRow;

static const PassRow passes[] = {
    [GRAPH_FORWARD] = {CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR,
                       CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA,
                       CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA,
                       CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC,
                       CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X,
                       CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W,
                       CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y},
    [GRAPH_BACKWARD_DATA] = {CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR,
                             CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_ALPHA,
                             CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_BETA,
                             CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC,
                             CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX,
                             CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W,
                             CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY},
    [GRAPH_BACKWARD_FILTER] = {CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR,
                               CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_ALPHA,
                               CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_BETA,
                               CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_CONV_DESC,
                               CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_X,
                               CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DW,
                               CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DY},
};

static void add_operation(GraphBuilder *b, cudnnBackendDescriptor_t operation) {
  finish(b, operation, "operation");
  if (is_fine(b)) b->operations[b->operation_count++] = operation;
}

void graph_convolution(GraphBuilder *b, GraphPass pass, const GraphConvolution *convolution,
                       cudnnBackendDescriptor_t x, cudnnBackendDescriptor_t w,
                       cudnnBackendDescriptor_t y) {
  const PassRow *row = &passes[pass];
  const cudnnDataType_t compute = CUDNN_DATA_FLOAT;
  const cudnnConvolutionMode_t mode = CUDNN_CROSS_CORRELATION;
  const int64_t spatial = 2;
  const float one = 1.0f, zero = 0.0f;
  cudnnBackendDescriptor_t c = make(b, CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR);
  set(b, c, CUDNN_ATTR_CONVOLUTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &compute);
  set(b, c, CUDNN_ATTR_CONVOLUTION_CONV_MODE, CUDNN_TYPE_CONVOLUTION_MODE, 1, &mode);
  set(b, c, CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, CUDNN_TYPE_INT64, 1, &spatial);
  set(b, c, CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, CUDNN_TYPE_INT64, 2, convolution->pads_before);
  set(b, c, CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, CUDNN_TYPE_INT64, 2, convolution->pads_after);
  set(b, c, CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, CUDNN_TYPE_INT64, 2, convolution->strides);
  set(b, c, CUDNN_ATTR_CONVOLUTION_DILATIONS, CUDNN_TYPE_INT64, 2, convolution->dilations);
  finish(b, c, "convolution");
  cudnnBackendDescriptor_t operation = make(b, row->type);
  set(b, operation, row->alpha, CUDNN_TYPE_FLOAT, 1, &one);
  set(b, operation, row->beta, CUDNN_TYPE_FLOAT, 1, &zero);
  set_descriptor(b, operation, row->convolution, c);
  set_descriptor(b, operation, row->x, x);
  set_descriptor(b, operation, row->w, w);
  set_descriptor(b, operation, row->y, y);
  add_operation(b, operation);
}

void graph_pointwise(GraphBuilder *b, cudnnPointwiseMode_t mode, cudnnBackendDescriptor_t a,
                     cudnnBackendDescriptor_t second, cudnnBackendDescriptor_t out) {
  const cudnnDataType_t compute = CUDNN_DATA_FLOAT;
  cudnnBackendDescriptor_t p = make(b, CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
  set(b, p, CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, &mode);
  set(b, p, CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_TYPE_DATA_TYPE, 1, &compute);
  finish(b, p, "pointwise operation");
  cudnnBackendDescriptor_t operation = make(b, CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
  set_descriptor(b, operation, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, p);
  set_descriptor(b, operation, CUDNN_ATTR_OPERATION_POINTWISE_XDESC, a);
  if (second) set_descriptor(b, operation, CUDNN_ATTR_OPERATION_POINTWISE_BDESC, second);
  set_descriptor(b, operation, CUDNN_ATTR_OPERATION_POINTWISE_YDESC, out);
  add_operation(b, operation);
}

// --- choosing an engine ---------------------------------------------------------------------------

static void destroy(cudnnBackendDescriptor_t descriptor) {
  if (descriptor) (void)cudnnBackendDestroyDescriptor(descriptor);
}

// Whether the engine of this configuration computes what is asked of it.
static bool engine_fits(const GraphBuilder *b, cudnnBackendDescriptor_t config) {
  cudnnBackendDescriptor_t engine = NULL;
  cudnnBackendNumericalNote_t notes[NOTES_MAX];
  int64_t count = 0, note_count = 0;
  if (cudnnBackendCreateDescriptor(CUDNN_BACKEND_ENGINE_DESCRIPTOR, &engine) !=
      CUDNN_STATUS_SUCCESS)
    return false;
  bool fits =
      cudnnBackendGetAttribute(config, CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1,
                               &count, &engine) == CUDNN_STATUS_SUCCESS &&
      cudnnBackendGetAttribute(engine, CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, CUDNN_TYPE_NUMERICAL_NOTE,
                               NOTES_MAX, &note_count, notes) == CUDNN_STATUS_SUCCESS;
  for (int64_t i = 0; fits && i < note_count && i < NOTES_MAX; i++) {
    bool is_rounded = notes[i] == CUDNN_NUMERICAL_NOTE_TENSOR_CORE ||
                  notes[i] == CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS;
    fits = notes[i] != CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC &&
           (b->allows_rounding || !is_rounded);
  }
  destroy(engine);
  return fits;
}

// A plan of one configuration, where the library makes one within the limit.
static bool try_config(const GraphBuilder *b, cudnnBackendDescriptor_t config, GraphPlan *out) {
  cudnnBackendDescriptor_t plan = NULL;
  int64_t workspace = 0, count = 0;
  if (cudnnBackendCreateDescriptor(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR, &plan) !=
      CUDNN_STATUS_SUCCESS)
    return false;
  const Device *device = b->device;
  cudnnStatus_t placed =
      device->model ? cudnnBackendSetAttribute(plan, CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP,
                                               CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &device->model)
                    : cudnnBackendSetAttribute(plan, CUDNN_ATTR_EXECUTION_PLAN_HANDLE,
                                               CUDNN_TYPE_HANDLE, 1, &device->cudnn);
  bool made =
      placed == CUDNN_STATUS_SUCCESS &&
      cudnnBackendSetAttribute(plan, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG,
                               CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &config) == CUDNN_STATUS_SUCCESS &&
      cudnnBackendFinalize(plan) == CUDNN_STATUS_SUCCESS &&
      cudnnBackendGetAttribute(plan, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64, 1,
                               &count, &workspace) == CUDNN_STATUS_SUCCESS &&
      (size_t)workspace <= device->workspace_limit;
  if (!made) {
    destroy(plan);
    return false;
  }
  out->plan = plan;
  out->workspace_size = (size_t)workspace;
  return true;
}

// Goes through what one heuristic proposes, best first.
static bool try_mode(GraphBuilder *b, cudnnBackendDescriptor_t graph, cudnnBackendHeurMode_t mode,
                     GraphPlan *out) {
  cudnnBackendDescriptor_t heuristic = make(b, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
  cudnnBackendDescriptor_t configs[ENGINES_MAX] = {0};
  int64_t count = 0;
  set_descriptor(b, heuristic, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph);
  if (b->device->model)
    set_descriptor(b, heuristic, CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, b->device->model);
  set(b, heuristic, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode);
  if (!is_fine(b) || cudnnBackendFinalize(heuristic) != CUDNN_STATUS_SUCCESS) return false;
  for (int i = 0; i < ENGINES_MAX; i++)
    check(b, cudnnBackendCreateDescriptor(CUDNN_BACKEND_ENGINECFG_DESCRIPTOR, &configs[i]),
          "cudnnBackendCreateDescriptor");
  if (is_fine(b) &&
      cudnnBackendGetAttribute(heuristic, CUDNN_ATTR_ENGINEHEUR_RESULTS,
                               CUDNN_TYPE_BACKEND_DESCRIPTOR, ENGINES_MAX, &count,
                               configs) != CUDNN_STATUS_SUCCESS)
    count = 0;
  bool found = false;
  for (int64_t i = 0; i < count && i < ENGINES_MAX && !found; i++)
    found = engine_fits(b, configs[i]) && try_config(b, configs[i], out);
  for (int i = 0; i < ENGINES_MAX; i++) destroy(configs[i]);
  return found;
}

static void builder_free(GraphBuilder *b) {
  for (int i = b->descriptor_count - 1; i >= 0; i--) destroy(b->descriptors[i]);
  b->descriptor_count = 0;
}

static Status make_variant(GraphPlan *plan) {
  CUDNN_TRY(cudnnBackendCreateDescriptor(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR, &plan->variant));
  return STATUS_OK;
}

Status graph_plan(GraphBuilder *b, GraphPlan *out) {
  *out = (GraphPlan){.tensor_count = b->tensor_count};
  memcpy(out->uids, b->uids, sizeof out->uids);
  cudnnBackendDescriptor_t graph = make(b, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
  if (!b->device->model)
    set(b, graph, CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1, &b->device->cudnn);
  set(b, graph, CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, b->operation_count,
      b->operations);
  finish(b, graph, "operation graph");
  bool found = is_fine(b) && (try_mode(b, graph, CUDNN_HEUR_MODE_A, out) ||
                              try_mode(b, graph, CUDNN_HEUR_MODE_FALLBACK, out));
  if (is_fine(b) && !found)
    b->status = status_set(STATUS_OS,
                           "%s: cuDNN has no deterministic engine within a workspace of %zu MiB",
                           b->name, b->device->workspace_limit >> 20);
  if (is_fine(b)) b->status = make_variant(out);
  Status status = b->status;
  builder_free(b);
  if (status != STATUS_OK) graph_plan_destroy(out);
  return status;
}

void graph_plan_destroy(GraphPlan *plan) {
  destroy(plan->variant);
  destroy(plan->plan);
  *plan = (GraphPlan){0};
}

// --- running --------------------------------------------------------------------------------------

static Status bind(GraphPlan *plan, void *const *pointers, void *workspace) {
  destroy(plan->variant);
  plan->variant = NULL;
  TRY(make_variant(plan));
  size_t size = (size_t)plan->tensor_count * sizeof *pointers;
  memcpy(plan->pointers, pointers, size);
  plan->workspace = workspace;
  CUDNN_TRY(cudnnBackendSetAttribute(plan->variant, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS,
                                     CUDNN_TYPE_INT64, plan->tensor_count, plan->uids));
  CUDNN_TRY(cudnnBackendSetAttribute(plan->variant, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS,
                                     CUDNN_TYPE_VOID_PTR, plan->tensor_count, plan->pointers));
  CUDNN_TRY(cudnnBackendSetAttribute(plan->variant, CUDNN_ATTR_VARIANT_PACK_WORKSPACE,
                                     CUDNN_TYPE_VOID_PTR, 1, &plan->workspace));
  CUDNN_TRY(cudnnBackendFinalize(plan->variant));
  return STATUS_OK;
}

Status graph_plan_run(GraphPlan *plan, Device *device, void *const *pointers, void *workspace) {
  size_t size = (size_t)plan->tensor_count * sizeof *pointers;
  if (memcmp(plan->pointers, pointers, size) != 0 || plan->workspace != workspace)
    TRY(bind(plan, pointers, workspace));
  CUDNN_TRY(cudnnBackendExecute(device->cudnn, plan->plan, plan->variant));
  return STATUS_OK;
}
