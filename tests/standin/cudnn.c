// cuDNN's backend interface, as far as imgcls uses it: descriptors hold what is set in them, an
// execution computes the operations of its graph one after another, in fp32 tensors with sums in
// double. See standin.h.
//
// Four engines compute the same; they differ in what they say of themselves. A plan written down is its
// engine and every descriptor of its graph, so that another process can take it up.
//
// A tensor without memory gets some for the time of an execution. What an operation reads must have
// been written, so a graph whose operations stand in a wrong order is refused.
#include <cudnn.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "standin.h"

enum { ATTRIBUTES_MAX = 16 };

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

typedef struct Attribute {
  cudnnBackendAttributeName_t name;
  cudnnBackendAttributeType_t type;
  int64_t count;
  void *values;
} Attribute;

typedef struct Descriptor {
  cudnnBackendDescriptorType_t type;
  int references; // of its maker and of descriptors that hold it, as in the library
  bool is_final;
  int attribute_count;
  Attribute attributes[ATTRIBUTES_MAX];
} Descriptor;

#define FAIL_WHEN_DUE()                                                                            \
  if (standin_call_fails()) return CUDNN_STATUS_INTERNAL_ERROR

// --- descriptors ----------------------------------------------------------------------------------

static size_t size_of_type(cudnnBackendAttributeType_t type) {
  switch (type) {
  case CUDNN_TYPE_HANDLE:
  case CUDNN_TYPE_VOID_PTR:
  case CUDNN_TYPE_BACKEND_DESCRIPTOR: return sizeof(void *);
  case CUDNN_TYPE_INT64: return sizeof(int64_t);
  case CUDNN_TYPE_BOOLEAN: return sizeof(bool);
  case CUDNN_TYPE_FLOAT: return sizeof(float);
  case CUDNN_TYPE_DATA_TYPE:
  case CUDNN_TYPE_CONVOLUTION_MODE:
  case CUDNN_TYPE_POINTWISE_MODE:
  case CUDNN_TYPE_HEUR_MODE:
  case CUDNN_TYPE_GENSTATS_MODE:
  case CUDNN_TYPE_BEHAVIOR_NOTE:
  case CUDNN_TYPE_NUMERICAL_NOTE: return sizeof(int);
  case CUDNN_TYPE_DOUBLE: return sizeof(double);
  case CUDNN_TYPE_CHAR: return 1;
  default: standin_unknown("an attribute of type %d", (int)type);
  }
}

static const Attribute *find(const Descriptor *d, cudnnBackendAttributeName_t name) {
  for (int i = 0; i < d->attribute_count; i++)
    if (d->attributes[i].name == name) return &d->attributes[i];
  return NULL;
}

static const void *get(const Descriptor *d, cudnnBackendAttributeName_t name) {
  const Attribute *attribute = find(d, name);
  if (!attribute) standin_unknown("descriptor %d lacks attribute %d", (int)d->type, (int)name);
  return attribute->values;
}

static const Descriptor *get_descriptor(const Descriptor *d, cudnnBackendAttributeName_t name) {
  return *(Descriptor *const *)get(d, name);
}

cudnnStatus_t cudnnBackendCreateDescriptor(cudnnBackendDescriptorType_t type,
                                           cudnnBackendDescriptor_t *out) {
  FAIL_WHEN_DUE();
  Descriptor *d = calloc(1, sizeof *d);
  d->type = type;
  d->references = 1;
  *out = d;
  return CUDNN_STATUS_SUCCESS;
}

static void hold(const Attribute *attribute, int change);

static void release(Descriptor *d) {
  if (--d->references > 0) return;
  for (int i = 0; i < d->attribute_count; i++) {
    hold(&d->attributes[i], -1);
    free(d->attributes[i].values);
  }
  free(d);
}

// An attribute of descriptors keeps them, or lets them go.
static void hold(const Attribute *attribute, int change) {
  if (attribute->type != CUDNN_TYPE_BACKEND_DESCRIPTOR) return;
  for (int64_t i = 0; i < attribute->count; i++) {
    Descriptor *d = ((Descriptor *const *)attribute->values)[i];
    if (change > 0) d->references++;
    else release(d);
  }
}

cudnnStatus_t cudnnBackendDestroyDescriptor(cudnnBackendDescriptor_t descriptor) {
  release(descriptor);
  return CUDNN_STATUS_SUCCESS;
}

static void put(Descriptor *d, cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
                int64_t count, const void *values) {
  if (d->attribute_count == ATTRIBUTES_MAX || find(d, name))
    standin_unknown("attribute %d, one too many or twice", (int)name);
  size_t size = size_of_type(type) * (size_t)count;
  Attribute *attribute = &d->attributes[d->attribute_count++];
  *attribute = (Attribute){name, type, count, malloc(size ? size : 1)};
  memcpy(attribute->values, values, size);
  hold(attribute, 1);
}

cudnnStatus_t cudnnBackendSetAttribute(cudnnBackendDescriptor_t descriptor,
                                       cudnnBackendAttributeName_t name,
                                       cudnnBackendAttributeType_t type, int64_t count,
                                       const void *values) {
  FAIL_WHEN_DUE();
  Descriptor *d = descriptor;
  if (d->is_final) standin_unknown("attribute %d of a finished descriptor", (int)name);
  put(d, name, type, count, values);
  return CUDNN_STATUS_SUCCESS;
}

// --- plans in words -------------------------------------------------------------------------------

enum { KNOWN_MAX = 64 };

typedef struct Words {
  FILE *stream;
  Descriptor *known[KNOWN_MAX]; // in the order of their first mention
  int known_count;
} Words;

static void write_words(Words *w, Descriptor *d) {
  for (int i = 0; i < w->known_count; i++)
    if (w->known[i] == d) {
      fprintf(w->stream, "= %d ", i);
      return;
    }
  if (w->known_count == KNOWN_MAX) standin_unknown("a graph of many descriptors");
  w->known[w->known_count++] = d;
  fprintf(w->stream, "d %d %d ", (int)d->type, d->attribute_count);
  for (int a = 0; a < d->attribute_count; a++) {
    const Attribute *attribute = &d->attributes[a];
    fprintf(w->stream, "%d %d %d ", (int)attribute->name, (int)attribute->type,
            (int)attribute->count);
    bool is_handle = attribute->type == CUDNN_TYPE_HANDLE; // of this process alone
    for (int64_t i = 0; i < attribute->count; i++) {
      if (attribute->type == CUDNN_TYPE_BACKEND_DESCRIPTOR)
        write_words(w, ((Descriptor **)attribute->values)[i]);
      for (size_t k = 0; attribute->type != CUDNN_TYPE_BACKEND_DESCRIPTOR &&
                         k < size_of_type(attribute->type); k++) {
        size_t at = (size_t)i * size_of_type(attribute->type) + k;
        fprintf(w->stream, "%d ", is_handle ? 0 : ((uint8_t *)attribute->values)[at]);
      }
    }
  }
}

// NULL where the words are not of write_words.
static Descriptor *read_words(Words *w) {
  char kind;
  int a = 0, b = 0;
  if (fscanf(w->stream, " %c %d", &kind, &a) != 2) return NULL;
  if (kind == '=') {
    if (a < 0 || a >= w->known_count) return NULL;
    w->known[a]->references++;
    return w->known[a];
  }
  if (kind != 'd' || fscanf(w->stream, "%d", &b) != 1 || w->known_count == KNOWN_MAX) return NULL;
  Descriptor *d = calloc(1, sizeof *d);
  *d = (Descriptor){.type = a, .references = 1, .is_final = true};
  w->known[w->known_count++] = d;
  for (int i = 0; i < b; i++) {
    int name, type, count;
    if (fscanf(w->stream, "%d %d %d", &name, &type, &count) != 3) return NULL;
    size_t size = size_of_type(type);
    uint8_t *values = calloc((size_t)count + 1, size);
    for (int k = 0; k < count; k++) {
      if (type == CUDNN_TYPE_BACKEND_DESCRIPTOR) {
        Descriptor *part = read_words(w);
        if (!part) return NULL;
        memcpy(values + (size_t)k * size, &part, size);
      }
      for (size_t j = 0; type != CUDNN_TYPE_BACKEND_DESCRIPTOR && j < size; j++)
        if (fscanf(w->stream, "%hhu", &values[(size_t)k * size + j]) != 1) return NULL;
    }
    put(d, name, type, count, values);
    for (int k = 0; type == CUDNN_TYPE_BACKEND_DESCRIPTOR && k < count; k++)
      release(((Descriptor **)(void *)values)[k]); // put holds them now
    free(values);
  }
  return d;
}

// "stand-in plan CONFIG": the configuration holds engine and graph.
static char *plan_words(const Descriptor *plan) {
  char *text = NULL;
  size_t size = 0;
  Words words = {.stream = open_memstream(&text, &size)};
  fprintf(words.stream, "stand-in plan ");
  write_words(&words, *(Descriptor *const *)get(plan, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG));
  fclose(words.stream);
  return text;
}

static cudnnStatus_t take_words(Descriptor *plan) {
  const Attribute *json = find(plan, CUDNN_ATTR_EXECUTION_PLAN_JSON_REPRESENTATION);
  if (!json) return CUDNN_STATUS_SUCCESS;
  Words words = {.stream = fmemopen(json->values, (size_t)json->count, "r")};
  int start = 0;
  Descriptor *config = fscanf(words.stream, "stand-in plan%n", &start) == 0 && start > 0
                           ? read_words(&words)
                           : NULL;
  fclose(words.stream);
  if (!config) return CUDNN_STATUS_BAD_PARAM;
  put(plan, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &config);
  release(config);
  return CUDNN_STATUS_SUCCESS;
}

// --- engines --------------------------------------------------------------------------------------

cudnnStatus_t cudnnBackendFinalize(cudnnBackendDescriptor_t descriptor) {
  FAIL_WHEN_DUE();
  Descriptor *d = descriptor;
  d->is_final = true;
  return d->type == CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR ? take_words(d) : CUDNN_STATUS_SUCCESS;
}

// Configurations know their graph and engine.
static void propose(const Descriptor *heuristic, int64_t room, int64_t *found, void *results) {
  const void *graph = get(heuristic, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH);
  for (*found = 0; *found < room && *found < ENGINE_COUNT; (*found)++) {
    Descriptor *config = ((Descriptor **)results)[*found];
    put(config, CUDNN_ATTR_ENGINE_OPERATION_GRAPH, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, graph);
    put(config, CUDNN_ATTR_ENGINE_GLOBAL_INDEX, CUDNN_TYPE_INT64, 1, &engines[*found].index);
  }
}

static const EngineRow *engine_of(const Descriptor *d) {
  if (d->type == CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR)
    d = get_descriptor(d, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG);
  int64_t index = *(const int64_t *)get(d, CUDNN_ATTR_ENGINE_GLOBAL_INDEX);
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
  case CUDNN_ATTR_ENGINEHEUR_RESULTS: propose(d, wanted, count, values); break;
  case CUDNN_ATTR_ENGINECFG_ENGINE:
    put(*(Descriptor **)values, CUDNN_ATTR_ENGINE_GLOBAL_INDEX, CUDNN_TYPE_INT64, 1,
        get(d, CUDNN_ATTR_ENGINE_GLOBAL_INDEX));
    *count = 1;
    break;
  case CUDNN_ATTR_ENGINE_NUMERICAL_NOTE:
    answer(engine_of(d)->is_nondeterministic, CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC, count, values);
    break;
  case CUDNN_ATTR_ENGINE_BEHAVIOR_NOTE:
    answer(engine_of(d)->is_compiled, CUDNN_BEHAVIOR_NOTE_RUNTIME_COMPILATION, count, values);
    break;
  case CUDNN_ATTR_ENGINE_GLOBAL_INDEX: answer_number(engine_of(d)->index, count, values); break;
  case CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE:
    answer_number(engine_of(d)->workspace_size, count, values);
    break;
  case CUDNN_ATTR_EXECUTION_PLAN_JSON_REPRESENTATION: answer_words(d, wanted, count, values); break;
  default: standin_unknown("reading attribute %d", (int)name);
  }
  return CUDNN_STATUS_SUCCESS;
}

// --- tensors --------------------------------------------------------------------------------------

typedef struct Tensor {
  const Descriptor *descriptor;
  cudnnDataType_t type;
  const int64_t *dims, *strides;
  void *memory; // owned by the execution where virtual
  bool is_virtual, is_written;
} Tensor;

enum { TENSORS_MAX = 16 };

typedef struct Execution {
  Tensor tensors[TENSORS_MAX];
  int tensor_count;
  const Descriptor *variant;
} Execution;

static void *pointer_of(const Descriptor *variant, int64_t uid) {
  const Attribute *uids = find(variant, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS);
  const Attribute *pointers = find(variant, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS);
  for (int64_t i = 0; i < uids->count; i++)
    if (((const int64_t *)uids->values)[i] == uid) return ((void *const *)pointers->values)[i];
  standin_unknown("tensor %d has no memory", (int)uid);
}

static bool is_known_type(cudnnDataType_t type) {
  return type == CUDNN_DATA_FLOAT || type == CUDNN_DATA_BFLOAT16 || type == CUDNN_DATA_HALF;
}

static size_t element_size(cudnnDataType_t type) { return type == CUDNN_DATA_FLOAT ? 4 : 2; }

static Tensor *tensor_of(Execution *e, const Descriptor *descriptor) {
  for (int i = 0; i < e->tensor_count; i++)
    if (e->tensors[i].descriptor == descriptor) return &e->tensors[i];
  Tensor *t = &e->tensors[e->tensor_count++];
  *t = (Tensor){.descriptor = descriptor,
                .type = *(const cudnnDataType_t *)get(descriptor, CUDNN_ATTR_TENSOR_DATA_TYPE),
                .dims = get(descriptor, CUDNN_ATTR_TENSOR_DIMENSIONS),
                .strides = get(descriptor, CUDNN_ATTR_TENSOR_STRIDES),
                .is_virtual = *(const bool *)get(descriptor, CUDNN_ATTR_TENSOR_IS_VIRTUAL)};
  if (!is_known_type(t->type)) standin_unknown("a tensor of type %d", (int)t->type);
  int64_t last = 0;
  for (int i = 0; i < 4; i++) last += (t->dims[i] - 1) * t->strides[i];
  if (t->is_virtual) t->memory = malloc((size_t)(last + 1) * element_size(t->type));
  else {
    t->memory = pointer_of(e->variant, *(const int64_t *)get(descriptor, CUDNN_ATTR_TENSOR_UNIQUE_ID));
    if ((uintptr_t)t->memory % 16 != 0) standin_unknown("a tensor that is not aligned");
  }
  return t;
}

static int64_t place(const Tensor *t, int64_t n, int64_t c, int64_t h, int64_t w) {
  return n * t->strides[0] + c * t->strides[1] + h * t->strides[2] + w * t->strides[3];
}

static float read_at(const Tensor *t, int64_t at) {
  if (t->type == CUDNN_DATA_FLOAT) return ((const float *)t->memory)[at];
  if (t->type == CUDNN_DATA_HALF) return (float)((const _Float16 *)t->memory)[at];
  uint32_t bits = (uint32_t)((const uint16_t *)t->memory)[at] << 16;
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

static void write_at(Tensor *t, int64_t at, float value) {
  if (t->type == CUDNN_DATA_FLOAT) {
    ((float *)t->memory)[at] = value;
    return;
  }
  if (t->type == CUDNN_DATA_HALF) {
    ((_Float16 *)t->memory)[at] = (_Float16)value;
    return;
  }
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  ((uint16_t *)t->memory)[at] = (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static const Tensor *input(Execution *e, const Descriptor *operation,
                           cudnnBackendAttributeName_t name) {
  const Tensor *t = tensor_of(e, get_descriptor(operation, name));
  if (t->is_virtual && !t->is_written) standin_unknown("a graph in a wrong order");
  return t;
}

static Tensor *output(Execution *e, const Descriptor *operation, cudnnBackendAttributeName_t name) {
  Tensor *t = tensor_of(e, get_descriptor(operation, name));
  t->is_written = true;
  return t;
}

// --- operations -----------------------------------------------------------------------------------

typedef struct Window {
  const int64_t *before, *after, *strides, *dilations;
} Window;

static Window window_of(const Descriptor *c) {
  return (Window){get(c, CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS),
                  get(c, CUDNN_ATTR_CONVOLUTION_POST_PADDINGS),
                  get(c, CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES),
                  get(c, CUDNN_ATTR_CONVOLUTION_DILATIONS)};
}

static void check_sizes(const Window *win, const Tensor *x, const Tensor *w, const Tensor *y) {
  for (int i = 0; i < 2; i++) {
    int64_t span = (w->dims[2 + i] - 1) * win->dilations[i] + 1;
    int64_t size = (x->dims[2 + i] + win->before[i] + win->after[i] - span) / win->strides[i] + 1;
    if (size != y->dims[2 + i])
      standin_unknown("a convolution to %d pixels that gives %d", (int)y->dims[2 + i], (int)size);
  }
  if (x->dims[1] % w->dims[1] != 0 || w->dims[0] != y->dims[1] || x->dims[0] != y->dims[0] ||
      y->dims[1] % (x->dims[1] / w->dims[1]) != 0)
    standin_unknown("a convolution whose channels do not fit");
}

// Calls `visit` for every product x w that adds to y.
typedef void Visit(void *context, int64_t x, int64_t w, int64_t y);

static void for_every_product(const Window *win, const Tensor *x, const Tensor *w, const Tensor *y,
                              Visit *visit, void *context) {
  int64_t group_out = y->dims[1] / (x->dims[1] / w->dims[1]);
  for (int64_t n = 0; n < y->dims[0]; n++)
    for (int64_t k = 0; k < y->dims[1]; k++)
      for (int64_t p = 0; p < y->dims[2]; p++)
        for (int64_t q = 0; q < y->dims[3]; q++)
          for (int64_t r = 0; r < w->dims[2]; r++)
            for (int64_t s = 0; s < w->dims[3]; s++) {
              int64_t i = p * win->strides[0] - win->before[0] + r * win->dilations[0];
              int64_t j = q * win->strides[1] - win->before[1] + s * win->dilations[1];
              if (i < 0 || i >= x->dims[2] || j < 0 || j >= x->dims[3]) continue;
              for (int64_t c = 0; c < w->dims[1]; c++)
                visit(context, place(x, n, k / group_out * w->dims[1] + c, i, j),
                      place(w, k, c, r, s), place(y, n, k, p, q));
            }
}

typedef struct Sums {
  const Tensor *a, *b;
  double *sums; // of each element of the result's memory
} Sums;

static void add_forward(void *context, int64_t x, int64_t w, int64_t y) {
  Sums *s = context;
  s->sums[y] += (double)read_at(s->a, x) * read_at(s->b, w);
}
static void add_data(void *context, int64_t x, int64_t w, int64_t y) {
  Sums *s = context;
  s->sums[x] += (double)read_at(s->a, w) * read_at(s->b, y);
}
static void add_filter(void *context, int64_t x, int64_t w, int64_t y) {
  Sums *s = context;
  s->sums[w] += (double)read_at(s->a, x) * read_at(s->b, y);
}

static void write_sums(Tensor *t, const double *sums) {
  for (int64_t n = 0; n < t->dims[0]; n++)
    for (int64_t c = 0; c < t->dims[1]; c++)
      for (int64_t h = 0; h < t->dims[2]; h++)
        for (int64_t w = 0; w < t->dims[3]; w++)
          write_at(t, place(t, n, c, h, w), (float)sums[place(t, n, c, h, w)]);
}

static double *sums_for(const Tensor *t) {
  int64_t last = 0;
  for (int i = 0; i < 4; i++) last += (t->dims[i] - 1) * t->strides[i];
  return calloc((size_t)last + 1, sizeof(double));
}

static void check_scales(const Descriptor *operation, cudnnBackendAttributeName_t alpha,
                         cudnnBackendAttributeName_t beta) {
  if (*(const float *)get(operation, alpha) != 1.0f || *(const float *)get(operation, beta) != 0.0f)
    standin_unknown("a convolution that scales or adds");
}

static void run_forward(Execution *e, const Descriptor *op) {
  check_scales(op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA,
               CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA);
  Window win = window_of(get_descriptor(op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC));
  const Tensor *x = input(e, op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X);
  const Tensor *w = input(e, op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W);
  Tensor *y = output(e, op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y);
  check_sizes(&win, x, w, y);
  Sums sums = {x, w, sums_for(y)};
  for_every_product(&win, x, w, y, add_forward, &sums);
  write_sums(y, sums.sums);
  free(sums.sums);
}

static void run_data(Execution *e, const Descriptor *op) {
  check_scales(op, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_ALPHA,
               CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_BETA);
  Window win = window_of(get_descriptor(op, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC));
  const Tensor *w = input(e, op, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W);
  const Tensor *dy = input(e, op, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY);
  Tensor *dx = output(e, op, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX);
  check_sizes(&win, dx, w, dy);
  Sums sums = {w, dy, sums_for(dx)};
  for_every_product(&win, dx, w, dy, add_data, &sums);
  write_sums(dx, sums.sums);
  free(sums.sums);
}

static void run_filter(Execution *e, const Descriptor *op) {
  check_scales(op, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_ALPHA,
               CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_BETA);
  Window win = window_of(get_descriptor(op, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_CONV_DESC));
  const Tensor *x = input(e, op, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_X);
  const Tensor *dy = input(e, op, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DY);
  Tensor *dw = output(e, op, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DW);
  check_sizes(&win, x, dw, dy);
  Sums sums = {x, dy, sums_for(dw)};
  for_every_product(&win, x, dw, dy, add_filter, &sums);
  write_sums(dw, sums.sums);
  free(sums.sums);
}

// Element (n, c, h, w) of a tensor that may be one channel row for all.
static float read_broadcast(const Tensor *t, int64_t n, int64_t c, int64_t h, int64_t w) {
  return read_at(t, place(t, t->dims[0] > 1 ? n : 0, t->dims[1] > 1 ? c : 0, t->dims[2] > 1 ? h : 0,
                          t->dims[3] > 1 ? w : 0));
}

static float apply(const Descriptor *pointwise, float a, float b) {
  int mode = *(const int *)get(pointwise, CUDNN_ATTR_POINTWISE_MODE);
  const Attribute *upper = find(pointwise, CUDNN_ATTR_POINTWISE_RELU_UPPER_CLIP);
  switch (mode) {
  case CUDNN_POINTWISE_IDENTITY: return a;
  case CUDNN_POINTWISE_ADD: return a + b;
  case CUDNN_POINTWISE_RELU_FWD:
    a = a > 0.0f ? a : 0.0f;
    return upper && a > *(const double *)upper->values ? (float)*(const double *)upper->values : a;
  case CUDNN_POINTWISE_SWISH_FWD: return (float)(a / (1.0 + exp(-(double)a)));
  case CUDNN_POINTWISE_TANH_FWD: return (float)tanh(a);
  default: standin_unknown("pointwise mode %d", mode);
  }
}

static void run_pointwise(Execution *e, const Descriptor *op) {
  const Descriptor *pointwise = get_descriptor(op, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR);
  int mode = *(const int *)get(pointwise, CUDNN_ATTR_POINTWISE_MODE);
  const Tensor *a = input(e, op, CUDNN_ATTR_OPERATION_POINTWISE_XDESC);
  const Tensor *b =
      mode == CUDNN_POINTWISE_ADD ? input(e, op, CUDNN_ATTR_OPERATION_POINTWISE_BDESC) : NULL;
  Tensor *y = output(e, op, CUDNN_ATTR_OPERATION_POINTWISE_YDESC);
  for (int64_t n = 0; n < y->dims[0]; n++)
    for (int64_t c = 0; c < y->dims[1]; c++)
      for (int64_t h = 0; h < y->dims[2]; h++)
        for (int64_t w = 0; w < y->dims[3]; w++) {
          float second = b ? read_broadcast(b, n, c, h, w) : 0.0f;
          write_at(y, place(y, n, c, h, w),
                   apply(pointwise, read_broadcast(a, n, c, h, w), second));
        }
}

// As the library: of what is stored.
static void run_statistics(Execution *e, const Descriptor *op) {
  if (*(const int *)get(op, CUDNN_ATTR_OPERATION_GENSTATS_MODE) != CUDNN_GENSTATS_SUM_SQSUM)
    standin_unknown("statistics of another mode");
  const Tensor *x = input(e, op, CUDNN_ATTR_OPERATION_GENSTATS_XDESC);
  Tensor *sums = output(e, op, CUDNN_ATTR_OPERATION_GENSTATS_SUMDESC);
  Tensor *squares = output(e, op, CUDNN_ATTR_OPERATION_GENSTATS_SQSUMDESC);
  if (sums->type != CUDNN_DATA_FLOAT || squares->type != CUDNN_DATA_FLOAT)
    standin_unknown("statistics that are not fp32");
  for (int64_t c = 0; c < x->dims[1]; c++) {
    double sum = 0.0, square = 0.0;
    for (int64_t n = 0; n < x->dims[0]; n++)
      for (int64_t h = 0; h < x->dims[2]; h++)
        for (int64_t w = 0; w < x->dims[3]; w++) {
          double value = read_at(x, place(x, n, c, h, w));
          sum += value;
          square += value * value;
        }
    write_at(sums, place(sums, 0, c, 0, 0), (float)sum);
    write_at(squares, place(squares, 0, c, 0, 0), (float)square);
  }
}

// What a graph keeps of an execution: finished descriptors do not change.
typedef struct Call {
  Descriptor *plan, *variant;
} Call;

static void run_call(void *argument) {
  const Call *call = argument;
  const Descriptor *v = call->variant;
  standin_touch_begin();
  const EngineRow *engine = engine_of(call->plan);
  void *workspace = *(void *const *)get(v, CUDNN_ATTR_VARIANT_PACK_WORKSPACE);
  if (engine->workspace_size > 0 && (uintptr_t)workspace % WORKSPACE_ALIGNMENT != 0)
    standin_unknown("a workspace that is not aligned as where engines are timed");
  memset(workspace, 0xff, (size_t)engine->workspace_size);
  standin_pass_time(engine->time_us);
  const Descriptor *graph =
      get_descriptor(get_descriptor(call->plan, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG),
                     CUDNN_ATTR_ENGINE_OPERATION_GRAPH);
  const Attribute *operations = find(graph, CUDNN_ATTR_OPERATIONGRAPH_OPS);
  Execution e = {.variant = v};
  for (int64_t i = 0; i < operations->count; i++) {
    const Descriptor *op = ((Descriptor *const *)operations->values)[i];
    switch ((int)op->type) {
    case CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR: run_forward(&e, op); break;
    case CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR: run_data(&e, op); break;
    case CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR: run_filter(&e, op); break;
    case CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR: run_pointwise(&e, op); break;
    case CUDNN_BACKEND_OPERATION_GEN_STATS_DESCRIPTOR: run_statistics(&e, op); break;
    default: standin_unknown("operation %d", (int)op->type);
    }
  }
  for (int i = 0; i < e.tensor_count; i++)
    if (e.tensors[i].is_virtual) free(e.tensors[i].memory);
  standin_touch_end();
}

static void drop_call(void *argument) {
  Call *call = argument;
  release(call->plan);
  release(call->variant);
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
  if (standin_stream_takes(to->stream, run_call, drop_call, call))
    return CUDNN_STATUS_SUCCESS;
  run_call(call);
  drop_call(call);
  return CUDNN_STATUS_SUCCESS;
}

// --- the handle -----------------------------------------------------------------------------------

size_t cudnnGetVersion(void) { return CUDNN_VERSION; }

const char *cudnnGetErrorString(cudnnStatus_t status) {
  return status == CUDNN_STATUS_SUCCESS ? "success" : "internal error";
}

size_t cudnnGetCudartVersion(void) { return CUDART_VERSION; }

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
