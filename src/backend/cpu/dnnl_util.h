// oneDNN as the steps of this folder use it: tensors are described by a plain struct, a DnnlOp is
// one primitive with the memory objects of its arguments. Everything that differs between versions
// of the library is in dnnl_util.c.
//
// An op is created when a step is planned, and compiled when it is first executed, so that a dry
// run pays for no code; afterwards it is only bound to pointers and executed, which allocates
// nothing. Scratchpads are the caller's: bind DNNL_ARG_SCRATCHPAD like the rest.
#ifndef IMGCLS_BACKEND_CPU_DNNL_UTIL_H
#define IMGCLS_BACKEND_CPU_DNNL_UTIL_H

#include "backend/cpu/device.h"

// The Status of a call into oneDNN, with a message that names the call.
#define DNNL_STATUS(call) dnnl_util_status((call), #call)
#define DNNL_TRY(call) TRY(DNNL_STATUS(call))

Status dnnl_util_status(dnnl_status_t result, const char *call);

typedef enum TensorLayout {
  TENSOR_ANY,     // whatever the primitive is fastest with
  TENSOR_STRIDED, // element strides below
  TENSOR_BLOCKED_8,
  TENSOR_BLOCKED_16
} TensorLayout;

// A tensor with oneDNN's order of dimensions: N, C, H, W; O, I, H, W; G, O, I, H, W.
typedef struct TensorDesc {
  int rank; // 0: there is none
  dnnl_dims_t dim;
  dnnl_dims_t stride;
  DType dtype;
  TensorLayout layout;
} TensorDesc;

// A dense row-major tensor of that rank.
TensorDesc tensor_desc_dense(DType dtype, int rank, const int64_t *dim);

// A value of ours. With `whole_blocks` its channels are counted up to the block: the lanes past C
// are zeros anyway, and oneDNN's fast kernels want whole blocks.
TensorDesc tensor_desc_value(const Device *device, Shape shape, int64_t batch, DType dtype,
                             bool whole_blocks);

enum { DNNL_OP_MAX_ARGS = 6 };

typedef struct DnnlOp {
  dnnl_primitive_desc_t desc; // NULL: there is no such op
  dnnl_primitive_t primitive; // NULL before the first execution
  int count;
  dnnl_exec_arg_t args[DNNL_OP_MAX_ARGS]; // memory objects owned
  const void *bound[DNNL_OP_MAX_ARGS];    // what they point to
} DnnlOp;

void dnnl_op_deinit(DnnlOp *op);

// Bytes of an argument; 0 where the op has none of that name.
size_t dnnl_op_size(const DnnlOp *op, int arg);

// Sets an argument's memory. An argument that the op does not have is ignored.
void dnnl_op_bind(DnnlOp *op, int arg, const void *memory);

// Runs the op on what is bound.
MUST_CHECK Status dnnl_op_execute(DnnlOp *op, const Device *device);

// Spatial parameters of a convolution; dilation 1 is none.
typedef struct Window {
  int64_t stride_h, stride_w, dilation;
  Pads pads;
} Window;

Window window_of_step(const StepDesc *desc);

typedef struct ConvolutionDesc {
  TensorDesc x, weights, bias, y;
  TensorDesc dweights; // as weights, with the type that gradients want
  Window window;
} ConvolutionDesc;

// Ops of a convolution. `backward_data` and `backward_weights` may be NULL where not wanted.
// Arguments: SRC, WEIGHTS, BIAS, DST; DIFF_DST, WEIGHTS, DIFF_SRC; SRC, DIFF_DST, DIFF_WEIGHTS,
// DIFF_BIAS; each with SCRATCHPAD.
MUST_CHECK Status dnnl_op_convolution(DnnlOp *forward, DnnlOp *backward_data,
                                      DnnlOp *backward_weights, const Device *device,
                                      const ConvolutionDesc *desc);

typedef struct InnerProductDesc {
  TensorDesc x, weights, bias, y;
} InnerProductDesc;

// As dnnl_op_convolution, for a dense layer.
MUST_CHECK Status dnnl_op_inner_product(DnnlOp *forward, DnnlOp *backward_data,
                                        DnnlOp *backward_weights, const Device *device,
                                        const InnerProductDesc *desc);

// Ops that copy between a tensor (ARG_FROM or ARG_TO) and an argument of another op, which has the
// layout that oneDNN chose.
MUST_CHECK Status dnnl_op_reorder_in(DnnlOp *reorder, const Device *device, const TensorDesc *from,
                                     const DnnlOp *to, int to_arg);
MUST_CHECK Status dnnl_op_reorder_out(DnnlOp *reorder, const Device *device, const DnnlOp *from,
                                      int from_arg, const TensorDesc *to);

// Whether two arguments are laid out alike.
bool dnnl_op_same_layout(const DnnlOp *a, int arg_a, const DnnlOp *b, int arg_b);

#endif
