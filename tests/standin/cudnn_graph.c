// What the operations of a cuDNN graph compute, one after another, in fp32 tensors with sums in
// double. See cudnn_descriptor.h.
//
// A tensor without memory gets some for the time of an execution. What an operation reads must have
// been written, so a graph whose operations stand in a wrong order is refused.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cudnn_descriptor.h"
#include "standin.h"

// --- tensors -------------------------------------------------------------------------------------

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
  const Attribute *uids = descriptor_find(variant, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS);
  const Attribute *pointers = descriptor_find(variant, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS);
  for (int64_t i = 0; i < uids->count; i++)
    if (((const int64_t *)uids->values)[i] == uid) return ((void *const *)pointers->values)[i];
  standin_unknown("tensor %d has no memory", (int)uid);
}

static bool is_known_type(cudnnDataType_t type) {
  return type == CUDNN_DATA_FLOAT || type == CUDNN_DATA_BFLOAT16 || type == CUDNN_DATA_HALF;
}

static size_t element_size(cudnnDataType_t type) {
  return type == CUDNN_DATA_FLOAT ? 4 : 2;
}

static Tensor *tensor_of(Execution *e, const Descriptor *descriptor) {
  for (int i = 0; i < e->tensor_count; i++)
    if (e->tensors[i].descriptor == descriptor) return &e->tensors[i];
  Tensor *t = &e->tensors[e->tensor_count++];
  *t = (Tensor){
      .descriptor = descriptor,
      .type = *(const cudnnDataType_t *)descriptor_get(descriptor, CUDNN_ATTR_TENSOR_DATA_TYPE),
      .dims = descriptor_get(descriptor, CUDNN_ATTR_TENSOR_DIMENSIONS),
      .strides = descriptor_get(descriptor, CUDNN_ATTR_TENSOR_STRIDES),
      .is_virtual = *(const bool *)descriptor_get(descriptor, CUDNN_ATTR_TENSOR_IS_VIRTUAL)};
  if (!is_known_type(t->type)) standin_unknown("a tensor of type %d", (int)t->type);
  int64_t last = 0;
  for (int i = 0; i < 4; i++) last += (t->dims[i] - 1) * t->strides[i];
  if (t->is_virtual)
    t->memory = malloc((size_t)(last + 1) * element_size(t->type));
  else {
    t->memory = pointer_of(
        e->variant, *(const int64_t *)descriptor_get(descriptor, CUDNN_ATTR_TENSOR_UNIQUE_ID));
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
  const Tensor *t = tensor_of(e, descriptor_part(operation, name));
  if (t->is_virtual && !t->is_written) standin_unknown("a graph in a wrong order");
  return t;
}

static Tensor *output(Execution *e, const Descriptor *operation, cudnnBackendAttributeName_t name) {
  Tensor *t = tensor_of(e, descriptor_part(operation, name));
  t->is_written = true;
  return t;
}

// --- operations ----------------------------------------------------------------------------------

typedef struct Window {
  const int64_t *before, *after, *strides, *dilations;
} Window;

static Window window_of(const Descriptor *c) {
  return (Window){descriptor_get(c, CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS),
                  descriptor_get(c, CUDNN_ATTR_CONVOLUTION_POST_PADDINGS),
                  descriptor_get(c, CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES),
                  descriptor_get(c, CUDNN_ATTR_CONVOLUTION_DILATIONS)};
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
  if (*(const float *)descriptor_get(operation, alpha) != 1.0f ||
      *(const float *)descriptor_get(operation, beta) != 0.0f)
    standin_unknown("a convolution that scales or adds");
}

enum { X, W, Y };

typedef struct Pass {
  cudnnBackendAttributeName_t alpha, beta, convolution, xwy[3];
  int result; // of X, W and Y: what the two others give
  Visit *add;
} Pass;

static const Pass forward = {CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA,
                             CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA,
                             CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC,
                             {CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X,
                              CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W,
                              CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y},
                             Y,
                             add_forward};
static const Pass data_gradient = {CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_ALPHA,
                                   CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_BETA,
                                   CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC,
                                   {CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX,
                                    CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W,
                                    CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY},
                                   X,
                                   add_data};
static const Pass filter_gradient = {CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_ALPHA,
                                     CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_BETA,
                                     CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_CONV_DESC,
                                     {CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_X,
                                      CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DW,
                                      CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DY},
                                     W,
                                     add_filter};

static void run_convolution(Execution *e, const Descriptor *op, const Pass *pass) {
  check_scales(op, pass->alpha, pass->beta);
  Window win = window_of(descriptor_part(op, pass->convolution));
  const Tensor *xwy[3];
  for (int i = 0; i < 3; i++)
    if (i != pass->result) xwy[i] = input(e, op, pass->xwy[i]);
  Tensor *result = output(e, op, pass->xwy[pass->result]);
  xwy[pass->result] = result;
  check_sizes(&win, xwy[X], xwy[W], xwy[Y]);
  Sums sums = {xwy[pass->result == X ? W : X], xwy[pass->result == Y ? W : Y], sums_for(result)};
  for_every_product(&win, xwy[X], xwy[W], xwy[Y], pass->add, &sums);
  write_sums(result, sums.sums);
  free(sums.sums);
}

// Element (n, c, h, w) of a tensor that may be one channel row for all.
static float read_broadcast(const Tensor *t, int64_t n, int64_t c, int64_t h, int64_t w) {
  return read_at(t, place(t, t->dims[0] > 1 ? n : 0, t->dims[1] > 1 ? c : 0, t->dims[2] > 1 ? h : 0,
                          t->dims[3] > 1 ? w : 0));
}

static float apply(const Descriptor *pointwise, float a, float b) {
  int mode = *(const int *)descriptor_get(pointwise, CUDNN_ATTR_POINTWISE_MODE);
  const Attribute *upper = descriptor_find(pointwise, CUDNN_ATTR_POINTWISE_RELU_UPPER_CLIP);
  switch (mode) {
  case CUDNN_POINTWISE_IDENTITY:
    return a;
  case CUDNN_POINTWISE_ADD:
    return a + b;
  case CUDNN_POINTWISE_RELU_FWD:
    a = a > 0.0f ? a : 0.0f;
    return upper && a > *(const double *)upper->values ? (float)*(const double *)upper->values : a;
  case CUDNN_POINTWISE_SWISH_FWD:
    return (float)(a / (1.0 + exp(-(double)a)));
  case CUDNN_POINTWISE_TANH_FWD:
    return (float)tanh(a);
  default:
    standin_unknown("pointwise mode %d", mode);
  }
}

static void run_pointwise(Execution *e, const Descriptor *op) {
  const Descriptor *pointwise = descriptor_part(op, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR);
  int mode = *(const int *)descriptor_get(pointwise, CUDNN_ATTR_POINTWISE_MODE);
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
  if (*(const int *)descriptor_get(op, CUDNN_ATTR_OPERATION_GENSTATS_MODE) !=
      CUDNN_GENSTATS_SUM_SQSUM)
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

// --- what is refused -----------------------------------------------------------------------------

static const Pass *pass_of(const Descriptor *d) {
  switch ((int)d->type) {
  case CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR:
    return &forward;
  case CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR:
    return &data_gradient;
  case CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR:
    return &filter_gradient;
  default:
    return NULL;
  }
}

// A filter must have no gaps.
bool cudnn_graph_takes(const Descriptor *operation) {
  const Pass *pass = pass_of(operation);
  if (!pass) return true;
  const Descriptor *w = descriptor_part(operation, pass->xwy[W]);
  const int64_t *dims = descriptor_get(w, CUDNN_ATTR_TENSOR_DIMENSIONS);
  const int64_t *strides = descriptor_get(w, CUDNN_ATTR_TENSOR_STRIDES);
  int64_t last = 0, count = 1;
  for (int i = 0; i < 4; i++) {
    last += (dims[i] - 1) * strides[i];
    count *= dims[i];
  }
  return last + 1 == count;
}

static const void *of_part(const Descriptor *operation, const Pass *pass, int part,
                           cudnnBackendAttributeName_t name) {
  return descriptor_get(descriptor_part(operation, pass->xwy[part]), name);
}

// Of several groups, filter gradients of another type than the values are not, converted or not;
// and in bf16 nothing is that follows a convolution of one channel to a group.
bool cudnn_graph_is_planned(const Descriptor *graph) {
  const Attribute *operations = descriptor_find(graph, CUDNN_ATTR_OPERATIONGRAPH_OPS);
  for (int64_t i = 0; i < operations->count; i++) {
    const Descriptor *operation = ((Descriptor *const *)operations->values)[i];
    const Pass *pass = pass_of(operation);
    if (!pass) continue;
    const int64_t *x = of_part(operation, pass, X, CUDNN_ATTR_TENSOR_DIMENSIONS);
    const int64_t *w = of_part(operation, pass, W, CUDNN_ATTR_TENSOR_DIMENSIONS);
    const int *type = of_part(operation, pass, X, CUDNN_ATTR_TENSOR_DATA_TYPE);
    const int *result = of_part(operation, pass, W, CUDNN_ATTR_TENSOR_DATA_TYPE);
    if (x[1] == w[1]) continue;
    if (pass == &filter_gradient && *type != *result) return false;
    if (operations->count > 1 && w[1] == 1 && *type == CUDNN_DATA_BFLOAT16) return false;
  }
  return true;
}

// --- the whole -----------------------------------------------------------------------------------

static void run(Execution *e, const Descriptor *operation) {
  const Pass *pass = pass_of(operation);
  if (pass) return run_convolution(e, operation, pass);
  switch ((int)operation->type) {
  case CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR:
    run_pointwise(e, operation);
    break;
  case CUDNN_BACKEND_OPERATION_GEN_STATS_DESCRIPTOR:
    run_statistics(e, operation);
    break;
  default:
    standin_unknown("operation %d", (int)operation->type);
  }
}

void cudnn_graph_run(const Descriptor *graph, const Descriptor *variant) {
  const Attribute *operations = descriptor_find(graph, CUDNN_ATTR_OPERATIONGRAPH_OPS);
  Execution e = {.variant = variant};
  for (int64_t i = 0; i < operations->count; i++)
    run(&e, ((Descriptor *const *)operations->values)[i]);
  for (int i = 0; i < e.tensor_count; i++)
    if (e.tensors[i].is_virtual) free(e.tensors[i].memory);
}
