// The one file that creates things of oneDNN: descriptors, primitives, memory objects. Written for
// version 3 of the library; dnnl_v2.h makes version 2 look alike.
#include "backend/cpu/dnnl_util.h"

#include <assert.h>

#if DNNL_VERSION_MAJOR >= 3
typedef dnnl_memory_desc_t MemoryDesc;
typedef const_dnnl_memory_desc_t MemoryDescRef;
static inline MemoryDescRef memory_desc_ref(const MemoryDesc *desc) {
  return *desc;
}
static inline void memory_desc_deinit(MemoryDesc *desc) {
  dnnl_memory_desc_destroy(*desc);
}
#else
#include "backend/cpu/dnnl_v2.h"
#endif

Status dnnl_util_status(dnnl_status_t result, const char *call) {
  switch (result) {
  case dnnl_success:
    return STATUS_OK;
  case dnnl_out_of_memory:
    return status_set(STATUS_OS, "oneDNN: out of memory in %s", call);
  case dnnl_unimplemented:
    return status_set(STATUS_CONFIG, "oneDNN cannot do this on this processor: %s", call);
  default:
    return status_set(STATUS_INTERNAL, "oneDNN: error %d in %s", (int)result, call);
  }
}

// --- tensors -------------------------------------------------------------------------------------

TensorDesc tensor_desc_dense(DType dtype, int rank, const int64_t *dim) {
  TensorDesc desc = {.rank = rank, .dtype = dtype, .layout = TENSOR_STRIDED};
  int64_t stride = 1;
  for (int i = rank - 1; i >= 0; i--) {
    desc.dim[i] = dim[i];
    desc.stride[i] = stride;
    stride *= dim[i];
  }
  return desc;
}

TensorDesc tensor_desc_value(const Device *device, Shape shape, int64_t batch, DType dtype,
                             bool whole_blocks) {
  if (shape.rank == 1) return tensor_desc_dense(DTYPE_F32, 2, (int64_t[]){batch, shape.dim[0]});
  int64_t channels = whole_blocks ? cpu_value_planes(device, shape) * cpu_value_block(device, shape)
                                  : shape.dim[2];
  TensorDesc desc =
      tensor_desc_dense(dtype, 4, (int64_t[]){batch, channels, shape.dim[0], shape.dim[1]});
  if (cpu_value_is_blocked(shape))
    desc.layout = device->block == 16 ? TENSOR_BLOCKED_16 : TENSOR_BLOCKED_8;
  return desc;
}

static Status memory_desc_init(MemoryDesc *out, const TensorDesc *tensor) {
  static const dnnl_data_type_t types[DTYPE_COUNT] = {
      [DTYPE_F32] = dnnl_f32, [DTYPE_BF16] = dnnl_bf16};
  static const dnnl_format_tag_t tags[] = {[TENSOR_ANY] = dnnl_format_tag_any,
                                           [TENSOR_BLOCKED_8] = dnnl_nChw8c,
                                           [TENSOR_BLOCKED_16] = dnnl_nChw16c};
  if (tensor->rank == 0) return STATUS_OK;
  dnnl_data_type_t type = types[tensor->dtype];
  if (type == dnnl_data_type_undef)
    return status_set(STATUS_CONFIG, "the CPU computes in fp32 and bf16, not in %s",
                      dtype_name(tensor->dtype));
  if (tensor->layout == TENSOR_STRIDED)
    return DNNL_STATUS(
        dnnl_memory_desc_create_with_strides(out, tensor->rank, tensor->dim, type, tensor->stride));
  return DNNL_STATUS(
      dnnl_memory_desc_create_with_tag(out, tensor->rank, tensor->dim, type, tags[tensor->layout]));
}

enum { TENSOR_LIST_CAPACITY = 5 };

// Descriptors of several tensors, for the time of one creating function.
typedef struct TensorList {
  MemoryDesc desc[TENSOR_LIST_CAPACITY];
  MemoryDescRef ref[TENSOR_LIST_CAPACITY];
  int count;
} TensorList;

static void tensor_list_deinit(TensorList *list) {
  for (int i = 0; i < list->count; i++) memory_desc_deinit(&list->desc[i]);
}

// Takes over none; `list` starts zeroed and is to be deinited whatever comes.
static Status tensor_list_init(TensorList *list, int count, const TensorDesc *const *tensors) {
  list->count = count;
  for (int i = 0; i < count; i++) {
    TRY(memory_desc_init(&list->desc[i], tensors[i]));
    list->ref[i] = tensors[i]->rank ? memory_desc_ref(&list->desc[i]) : NULL;
  }
  return STATUS_OK;
}

// --- ops -----------------------------------------------------------------------------------------

void dnnl_op_deinit(DnnlOp *op) {
  for (int i = 0; i < op->count; i++) dnnl_memory_destroy(op->args[i].memory);
  if (op->primitive) dnnl_primitive_destroy(op->primitive);
  if (op->desc) dnnl_primitive_desc_destroy(op->desc);
  *op = (DnnlOp){0};
}

static int op_find(const DnnlOp *op, int arg) {
  int i = 0;
  while (i < op->count && op->args[i].arg != arg) i++;
  return i;
}

static Status op_get_desc(MemoryDescRef *out, const DnnlOp *op, int arg) {
  int i = op_find(op, arg);
  assert(i < op->count);
  return DNNL_STATUS(dnnl_memory_get_memory_desc(op->args[i].memory, out));
}

size_t dnnl_op_size(const DnnlOp *op, int arg) {
  MemoryDescRef desc;
  if (op_find(op, arg) == op->count || op_get_desc(&desc, op, arg) != STATUS_OK) return 0;
  return dnnl_memory_desc_get_size(desc);
}

bool dnnl_op_same_layout(const DnnlOp *a, int arg_a, const DnnlOp *b, int arg_b) {
  MemoryDescRef desc_a, desc_b;
  if (op_get_desc(&desc_a, a, arg_a) != STATUS_OK || op_get_desc(&desc_b, b, arg_b) != STATUS_OK)
    return false;
  return dnnl_memory_desc_equal(desc_a, desc_b);
}

void dnnl_op_bind(DnnlOp *op, int arg, const void *memory) {
  int i = op_find(op, arg);
  if (i == op->count || op->bound[i] == memory) return;
  dnnl_status_t result = dnnl_memory_set_data_handle(op->args[i].memory, (void *)memory);
  assert(result == dnnl_success);
  (void)result;
  op->bound[i] = memory;
}

Status dnnl_op_execute(DnnlOp *op, const Device *device) {
  if (!op->primitive) DNNL_TRY(dnnl_primitive_create(&op->primitive, op->desc));
  return DNNL_STATUS(dnnl_primitive_execute(op->primitive, device->stream, op->count, op->args));
}

// Makes the op of a primitive descriptor, with the arguments of a list that ends with 0 and the
// scratchpad; those the primitive does not have are left out.
static Status op_init(DnnlOp *op, const Device *device, const_dnnl_primitive_desc_t pd,
                      const int *args) {
  *op = (DnnlOp){0};
  DNNL_TRY(dnnl_primitive_desc_clone(&op->desc, pd));
  for (bool more = true; more; args++) {
    more = *args != 0;
    int arg = more ? *args : DNNL_ARG_SCRATCHPAD;
    MemoryDescRef desc = dnnl_primitive_desc_query_md(pd, dnnl_query_exec_arg_md, arg);
    if (!desc || dnnl_memory_desc_get_size(desc) == 0) continue;
    assert(op->count < DNNL_OP_MAX_ARGS);
    dnnl_exec_arg_t *slot = &op->args[op->count];
    DNNL_TRY(dnnl_memory_create(&slot->memory, desc, device->engine, DNNL_MEMORY_NONE));
    slot->arg = arg;
    op->count++;
  }
  return STATUS_OK;
}

static Status attributes_create(dnnl_primitive_attr_t *out) {
  DNNL_TRY(dnnl_primitive_attr_create(out));
  return DNNL_STATUS(dnnl_primitive_attr_set_scratchpad_mode(*out, dnnl_scratchpad_mode_user));
}

// What the creating functions below hold on their way.
typedef struct Making {
  TensorList tensors;
  dnnl_primitive_attr_t attr;
  dnnl_primitive_desc_t forward, backward;
} Making;

static Status making_init(Making *making, int count, const TensorDesc *const *tensors) {
  *making = (Making){0};
  TRY(tensor_list_init(&making->tensors, count, tensors));
  return attributes_create(&making->attr);
}

static void making_deinit(Making *making) {
  if (making->backward) dnnl_primitive_desc_destroy(making->backward);
  if (making->forward) dnnl_primitive_desc_destroy(making->forward);
  if (making->attr) dnnl_primitive_attr_destroy(making->attr);
  tensor_list_deinit(&making->tensors);
}

// Makes the op of `backward` and frees the descriptor for the next one.
static Status making_finish_backward(Making *making, DnnlOp *op, const Device *device,
                                     const int *args) {
  TRY(op_init(op, device, making->backward, args));
  dnnl_primitive_desc_destroy(making->backward);
  making->backward = NULL;
  return STATUS_OK;
}

static const int forward_args[] = {DNNL_ARG_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_BIAS, DNNL_ARG_DST, 0};
static const int backward_data_args[] = {DNNL_ARG_DIFF_DST, DNNL_ARG_WEIGHTS, DNNL_ARG_DIFF_SRC, 0};
static const int backward_weights_args[] = {DNNL_ARG_SRC, DNNL_ARG_DIFF_DST, DNNL_ARG_DIFF_WEIGHTS,
                                            DNNL_ARG_DIFF_BIAS, 0};
static const int reorder_args[] = {DNNL_ARG_FROM, DNNL_ARG_TO, 0};

Window window_of_step(const StepDesc *desc) {
  return (Window){.stride_h = desc->stride_h,
                  .stride_w = desc->stride_w,
                  .dilation = desc->dilation > 0 ? desc->dilation : 1,
                  .pads = desc->pads};
}

// oneDNN counts dilation from 0.
typedef struct Spatial {
  dnnl_dims_t strides, dilates, before, after;
} Spatial;

static Spatial spatial_of(const Window *window) {
  return (Spatial){.strides = {window->stride_h, window->stride_w},
                   .dilates = {window->dilation - 1, window->dilation - 1},
                   .before = {window->pads.top, window->pads.left},
                   .after = {window->pads.bottom, window->pads.right}};
}

Status dnnl_op_convolution(DnnlOp *forward, DnnlOp *backward_data, DnnlOp *backward_weights,
                           const Device *device, const ConvolutionDesc *desc) {
  Status status;
  Making making;
  const Spatial s = spatial_of(&desc->window);
  const dnnl_alg_kind_t alg = dnnl_convolution_direct;
  bool training = backward_data || backward_weights;
  GUARD(making_init(
      &making, 5,
      (const TensorDesc *[]){&desc->x, &desc->weights, &desc->bias, &desc->y, &desc->dweights}));
  const MemoryDescRef *t = making.tensors.ref;
  GUARD(DNNL_STATUS(dnnl_convolution_forward_primitive_desc_create(
      &making.forward, device->engine, training ? dnnl_forward_training : dnnl_forward_inference,
      alg, t[0], t[1], t[2], t[3], s.strides, s.dilates, s.before, s.after, making.attr)));
  GUARD(op_init(forward, device, making.forward, forward_args));
  if (backward_data) {
    GUARD(DNNL_STATUS(dnnl_convolution_backward_data_primitive_desc_create(
        &making.backward, device->engine, alg, t[0], t[1], t[3], s.strides, s.dilates, s.before,
        s.after, making.forward, making.attr)));
    GUARD(making_finish_backward(&making, backward_data, device, backward_data_args));
  }
  if (backward_weights) {
    GUARD(DNNL_STATUS(dnnl_convolution_backward_weights_primitive_desc_create(
        &making.backward, device->engine, alg, t[0], t[4], t[2], t[3], s.strides, s.dilates,
        s.before, s.after, making.forward, making.attr)));
    GUARD(making_finish_backward(&making, backward_weights, device, backward_weights_args));
  }
out:
  making_deinit(&making);
  return status;
}

Status dnnl_op_inner_product(DnnlOp *forward, DnnlOp *backward_data, DnnlOp *backward_weights,
                             const Device *device, const InnerProductDesc *desc) {
  Status status;
  Making making;
  bool training = backward_data || backward_weights;
  GUARD(making_init(&making, 4,
                    (const TensorDesc *[]){&desc->x, &desc->weights, &desc->bias, &desc->y}));
  const MemoryDescRef *t = making.tensors.ref;
  GUARD(DNNL_STATUS(dnnl_inner_product_forward_primitive_desc_create(
      &making.forward, device->engine, training ? dnnl_forward_training : dnnl_forward_inference,
      t[0], t[1], t[2], t[3], making.attr)));
  GUARD(op_init(forward, device, making.forward, forward_args));
  if (backward_data) {
    GUARD(DNNL_STATUS(dnnl_inner_product_backward_data_primitive_desc_create(
        &making.backward, device->engine, t[0], t[1], t[3], making.forward, making.attr)));
    GUARD(making_finish_backward(&making, backward_data, device, backward_data_args));
  }
  if (backward_weights) {
    GUARD(DNNL_STATUS(dnnl_inner_product_backward_weights_primitive_desc_create(
        &making.backward, device->engine, t[0], t[1], t[2], t[3], making.forward, making.attr)));
    GUARD(making_finish_backward(&making, backward_weights, device, backward_weights_args));
  }
out:
  making_deinit(&making);
  return status;
}

static Status reorder_init(DnnlOp *op, const Device *device, MemoryDescRef from, MemoryDescRef to) {
  Status status;
  dnnl_primitive_attr_t attr = NULL;
  dnnl_primitive_desc_t pd = NULL;
  GUARD(attributes_create(&attr));
  GUARD(DNNL_STATUS(
      dnnl_reorder_primitive_desc_create(&pd, from, device->engine, to, device->engine, attr)));
  GUARD(op_init(op, device, pd, reorder_args));
out:
  if (pd) dnnl_primitive_desc_destroy(pd);
  if (attr) dnnl_primitive_attr_destroy(attr);
  return status;
}

Status dnnl_op_reorder_in(DnnlOp *reorder, const Device *device, const TensorDesc *from,
                          const DnnlOp *to, int to_arg) {
  Status status;
  MemoryDescRef to_desc;
  TensorList tensors = {0};
  GUARD(op_get_desc(&to_desc, to, to_arg));
  GUARD(tensor_list_init(&tensors, 1, &from));
  GUARD(reorder_init(reorder, device, tensors.ref[0], to_desc));
out:
  tensor_list_deinit(&tensors);
  return status;
}

Status dnnl_op_reorder_out(DnnlOp *reorder, const Device *device, const DnnlOp *from, int from_arg,
                           const TensorDesc *to) {
  Status status;
  MemoryDescRef from_desc;
  TensorList tensors = {0};
  GUARD(op_get_desc(&from_desc, from, from_arg));
  GUARD(tensor_list_init(&tensors, 1, &to));
  GUARD(reorder_init(reorder, device, from_desc, tensors.ref[0]));
out:
  tensor_list_deinit(&tensors);
  return status;
}
