// cuDNN's backend interface, as far as imgcls uses it: descriptors hold what is set in them
// (cudnn_descriptor.c), an execution computes the operations of its graph (cudnn_graph.c). See
// standin.h.
//
// Four engines compute the same; they differ in what they say of themselves. A plan written down is
// its engine and every descriptor of its graph, so that another process can take it up.
#include <cudnn.h>

#include <stdlib.h>
#include <string.h>

#include "cudnn_descriptor.h"
#include "standin.h"

#define FAIL_WHEN_DUE()                                                                            \
  if (standin_call_fails()) return CUDNN_STATUS_INTERNAL_ERROR

// --- engines -------------------------------------------------------------------------------------

// What a heuristic proposes, best first.
typedef struct EngineRow {
  int64_t index;
  bool is_nondeterministic, is_compiled;
  int64_t workspace_size;
  double time_us;
} EngineRow;

static const EngineRow engines[] = {
    {11, true, false, 128, 30.0},
    {12, false, false, 192, 50.0},
    {13, false, false, (int64_t)1 << 40, 10.0},
    {14, false, true, 64, 20.0},
};
enum { ENGINE_COUNT = sizeof engines / sizeof engines[0] };

// --- descriptors ---------------------------------------------------------------------------------

cudnnStatus_t cudnnBackendCreateDescriptor(cudnnBackendDescriptorType_t type,
                                           cudnnBackendDescriptor_t *out) {
  FAIL_WHEN_DUE();
  Descriptor *d = calloc(1, sizeof *d);
  d->type = type;
  d->references = 1;
  *out = d;
  return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendDestroyDescriptor(cudnnBackendDescriptor_t descriptor) {
  descriptor_release(descriptor);
  return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendSetAttribute(cudnnBackendDescriptor_t descriptor,
                                       cudnnBackendAttributeName_t name,
                                       cudnnBackendAttributeType_t type, int64_t count,
                                       const void *values) {
  FAIL_WHEN_DUE();
  Descriptor *d = descriptor;
  if (d->is_final) standin_unknown("attribute %d of a finished descriptor", (int)name);
  descriptor_put(d, name, type, count, values);
  return CUDNN_STATUS_SUCCESS;
}

// --- plans in words ------------------------------------------------------------------------------

// A configuration holds engine and graph.
static char *plan_words(const Descriptor *plan) {
  return descriptor_write(
      *(Descriptor *const *)descriptor_get(plan, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG));
}

static cudnnStatus_t take_words(Descriptor *plan) {
  const Attribute *json = descriptor_find(plan, CUDNN_ATTR_EXECUTION_PLAN_JSON_REPRESENTATION);
  if (!json) return CUDNN_STATUS_SUCCESS;
  Descriptor *config = descriptor_read(json->values, (size_t)json->count);
  if (!config) return CUDNN_STATUS_BAD_PARAM;
  descriptor_put(plan, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1,
                 &config);
  descriptor_release(config);
  return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendFinalize(cudnnBackendDescriptor_t descriptor) {
  FAIL_WHEN_DUE();
  Descriptor *d = descriptor;
  d->is_final = true;
  if (!cudnn_graph_takes(d)) return CUDNN_STATUS_BAD_PARAM;
  return d->type == CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR ? take_words(d) : CUDNN_STATUS_SUCCESS;
}

// Configurations know their graph and engine.
static void propose(const Descriptor *heuristic, int64_t room, int64_t *found, void *results) {
  const void *graph = descriptor_get(heuristic, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH);
  *found = 0;
  if (!cudnn_graph_is_planned(descriptor_part(heuristic, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH)))
    return;
  for (; *found < room && *found < ENGINE_COUNT; (*found)++) {
    Descriptor *config = ((Descriptor **)results)[*found];
    descriptor_put(config, CUDNN_ATTR_ENGINE_OPERATION_GRAPH, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1,
                   graph);
    descriptor_put(config, CUDNN_ATTR_ENGINE_GLOBAL_INDEX, CUDNN_TYPE_INT64, 1,
                   &engines[*found].index);
  }
}

static const EngineRow *engine_of(const Descriptor *d) {
  if (d->type == CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR)
    d = descriptor_part(d, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG);
  int64_t index = *(const int64_t *)descriptor_get(d, CUDNN_ATTR_ENGINE_GLOBAL_INDEX);
  for (int i = 0; i < ENGINE_COUNT; i++)
    if (engines[i].index == index) return &engines[i];
  standin_unknown("engine %d", (int)index);
}

static void answer(bool is_true, int note, int64_t *count, void *values) {
  *count = is_true;
  if (is_true) memcpy(values, &note, sizeof note);
}

static void answer_number(int64_t number, int64_t *count, void *values) {
  *count = 1;
  memcpy(values, &number, sizeof number);
}

static void answer_words(const Descriptor *plan, int64_t room, int64_t *count, void *values) {
  char *text = plan_words(plan);
  *count = (int64_t)strlen(text);
  if (room > 0) memcpy(values, text, (size_t)(room < *count ? room : *count));
  free(text);
}

cudnnStatus_t cudnnBackendGetAttribute(cudnnBackendDescriptor_t const descriptor,
                                       cudnnBackendAttributeName_t name,
                                       cudnnBackendAttributeType_t type, int64_t wanted,
                                       int64_t *count, void *values) {
  FAIL_WHEN_DUE();
  (void)type;
  const Descriptor *d = descriptor;
  if (wanted < 1 && name != CUDNN_ATTR_EXECUTION_PLAN_JSON_REPRESENTATION)
    standin_unknown("attribute %d into no room", (int)name);
  switch ((int)name) {
  case CUDNN_ATTR_ENGINEHEUR_RESULTS:
    propose(d, wanted, count, values);
    break;
  case CUDNN_ATTR_ENGINECFG_ENGINE:
    descriptor_put(*(Descriptor **)values, CUDNN_ATTR_ENGINE_GLOBAL_INDEX, CUDNN_TYPE_INT64, 1,
                   descriptor_get(d, CUDNN_ATTR_ENGINE_GLOBAL_INDEX));
    *count = 1;
    break;
  case CUDNN_ATTR_ENGINE_NUMERICAL_NOTE:
    answer(engine_of(d)->is_nondeterministic, CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC, count, values);
    break;
  case CUDNN_ATTR_ENGINE_BEHAVIOR_NOTE:
    answer(engine_of(d)->is_compiled, CUDNN_BEHAVIOR_NOTE_RUNTIME_COMPILATION, count, values);
    break;
  case CUDNN_ATTR_ENGINE_GLOBAL_INDEX:
    answer_number(engine_of(d)->index, count, values);
    break;
  case CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE:
    answer_number(engine_of(d)->workspace_size, count, values);
    break;
  case CUDNN_ATTR_EXECUTION_PLAN_JSON_REPRESENTATION:
    answer_words(d, wanted, count, values);
    break;
  default:
    standin_unknown("reading attribute %d", (int)name);
  }
  return CUDNN_STATUS_SUCCESS;
}

// --- execution -----------------------------------------------------------------------------------

// What a graph keeps of an execution: finished descriptors do not change.
typedef struct Call {
  Descriptor *plan, *variant;
} Call;

static void run_call(void *argument) {
  const Call *call = argument;
  const Descriptor *v = call->variant;
  standin_touch_begin();
  const EngineRow *engine = engine_of(call->plan);
  void *workspace = *(void *const *)descriptor_get(v, CUDNN_ATTR_VARIANT_PACK_WORKSPACE);
  if (engine->workspace_size > 0 && (uintptr_t)workspace % WORKSPACE_ALIGNMENT != 0)
    standin_unknown("a workspace that is not aligned as where engines are timed");
  memset(workspace, 0xff, (size_t)engine->workspace_size);
  standin_pass_time(engine->time_us);
  const Descriptor *config = descriptor_part(call->plan, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG);
  cudnn_graph_run(descriptor_part(config, CUDNN_ATTR_ENGINE_OPERATION_GRAPH), v);
  standin_touch_end();
}

static void drop_call(void *argument) {
  Call *call = argument;
  descriptor_release(call->plan);
  descriptor_release(call->variant);
  free(call);
}

typedef struct Handle {
  cudaStream_t stream;
} Handle;

cudnnStatus_t cudnnBackendExecute(cudnnHandle_t handle, cudnnBackendDescriptor_t plan,
                                  cudnnBackendDescriptor_t variant) {
  FAIL_WHEN_DUE();
  const Handle *to = (const Handle *)handle;
  Call *call = malloc(sizeof *call);
  if (!call) return CUDNN_STATUS_ALLOC_FAILED;
  *call = (Call){plan, variant};
  if (!call->variant->is_final) standin_unknown("a variant pack that is not finished");
  call->plan->references++;
  call->variant->references++;
  if (standin_stream_takes(to->stream, run_call, drop_call, call)) return CUDNN_STATUS_SUCCESS;
  run_call(call);
  drop_call(call);
  return CUDNN_STATUS_SUCCESS;
}

// --- the handle ----------------------------------------------------------------------------------

size_t cudnnGetVersion(void) {
  return CUDNN_VERSION;
}

const char *cudnnGetErrorString(cudnnStatus_t status) {
  return status == CUDNN_STATUS_SUCCESS     ? "success"
         : status == CUDNN_STATUS_BAD_PARAM ? "bad parameter"
                                            : "internal error";
}

size_t cudnnGetCudartVersion(void) {
  return CUDART_VERSION;
}

cudnnStatus_t cudnnCreate(cudnnHandle_t *handle) {
  FAIL_WHEN_DUE();
  *handle = calloc(1, sizeof(Handle));
  return *handle ? CUDNN_STATUS_SUCCESS : CUDNN_STATUS_ALLOC_FAILED;
}

cudnnStatus_t cudnnDestroy(cudnnHandle_t handle) {
  free(handle);
  return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnSetStream(cudnnHandle_t handle, cudaStream_t stream) {
  FAIL_WHEN_DUE();
  ((Handle *)handle)->stream = stream;
  return CUDNN_STATUS_SUCCESS;
}
