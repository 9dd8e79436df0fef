// STEP_CONV2D through cuDNN's graphs, NHWC.
//
// The weights are kept as (K, R, S, C) in the compute type, C and K rounded up to whole packs with
// zeros, so the library sees packed tensors whatever the channels; the extra lanes of results come
// out as zeros. A grouped convolution takes the true channels with padded strides instead. Weight
// gradients are fp32 in the same layout and turned to Keras' at the end. A standardised kernel is made
// in scratch before it is packed, and its gradient turned into that of the kernel itself.
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "backend/cuda/cudnn_graph.h"
#include "backend/cuda/step_state.h"
#include "backend/cuda/steps.h"
#include "base/memory.h"

typedef struct Conv2d {
  StepState step; // first: the simple steps' state
  KernelType type;
  int taps, in, out; // in: of one group
  size_t weight_bytes;     // packed, in the compute type
  size_t gradient_bytes;   // packed, in fp32
  GraphPlan forward, backward_data, backward_weights;
} Conv2d;

static cudnnDataType_t cudnn_type(KernelType type) {
  return type == KERNEL_BF16 ? CUDNN_DATA_BFLOAT16
         : type == KERNEL_F16 ? CUDNN_DATA_HALF
                              : CUDNN_DATA_FLOAT;
}

static int64_t stored(const Conv2d *c, int64_t channels) {
  return kernel_stored_channels(c->type, channels);
}

// What the library sees of a value.
static GraphTensor tensor_of(const Conv2d *c, Shape shape) {
  const StepDesc *desc = &c->step.desc;
  int64_t height = shape.dim[0], width = shape.dim[1], channels = stored(c, shape.dim[2]);
  return (GraphTensor){
      .type = cudnn_type(c->type),
      .dims = {desc->batch, desc->groups > 1 ? shape.dim[2] : channels, height, width},
      .strides = {height * width * channels, 1, width * channels, channels}};
}

static GraphTensor tensor_of_weights(const Conv2d *c, cudnnDataType_t type) {
  const StepDesc *desc = &c->step.desc;
  int64_t in = stored(c, c->in);
  bool is_grouped = desc->groups > 1;
  return (GraphTensor){.type = type,
                       .dims = {is_grouped ? c->out : stored(c, c->out), is_grouped ? c->in : in,
                                desc->kernel_h, desc->kernel_w},
                       .strides = {c->taps * in, 1, desc->kernel_w * in, in}};
}

static GraphConvolution convolution_of(const StepDesc *desc) {
  return (GraphConvolution){.pads_before = {desc->pads.top, desc->pads.left},
                            .pads_after = {desc->pads.bottom, desc->pads.right},
                            .strides = {desc->stride_h, desc->stride_w},
                            .dilations = {desc->dilation, desc->dilation}};
}

typedef struct ConvolutionText {
  char text[96];
} ConvolutionText;

static void add_text(ConvolutionText *out, const char *format, ...) PRINTF_LIKE(2, 3);
static void add_text(ConvolutionText *out, const char *format, ...) {
  size_t length = strlen(out->text);
  va_list list;
  va_start(list, format);
  (void)vsnprintf(out->text + length, sizeof out->text - length, format, list);
  va_end(list);
}

static ConvolutionText describe(const StepDesc *desc) {
  ConvolutionText out = {""};
  Shape x = desc->inputs[0];
  const Pads *p = &desc->pads;
  add_text(&out, "%" PRId64 "x%" PRId64 " %" PRId64 " -> %" PRId64 ", %dx%d", x.dim[0], x.dim[1],
           x.dim[2], desc->output.dim[2], desc->kernel_h, desc->kernel_w);
  if (desc->stride_h > 1 || desc->stride_w > 1)
    add_text(&out, " stride %d", desc->stride_h > desc->stride_w ? desc->stride_h : desc->stride_w);
  if (desc->dilation > 1) add_text(&out, " dilation %d", desc->dilation);
  if (desc->groups > 1) add_text(&out, " groups %d", desc->groups);
  if (p->top || p->bottom || p->left || p->right)
    add_text(&out, " pads %d,%d %d,%d", p->top, p->bottom, p->left, p->right);
  return out;
}

static void begin(GraphBuilder *b, const Conv2d *c, const ConvolutionText *text, const char *pass) {
  graph_begin(b, c->step.device,
              &(GraphLabel){.layer = c->step.desc.name, .pass = pass, .problem = text->text});
}

static Status plan_forward(Conv2d *c) {
  const StepDesc *desc = &c->step.desc;
  ConvolutionText text = describe(desc);
  if (desc->has_bias) add_text(&text, " bias");
  GraphConvolution convolution = convolution_of(desc);
  GraphTensor x = tensor_of(c, desc->inputs[0]), y = tensor_of(c, desc->output);
  GraphTensor w = tensor_of_weights(c, y.type);
  GraphBuilder b;
  begin(&b, c, &text, "forward");
  GraphTensorId xwy[3] = {graph_tensor(&b, &x), graph_tensor(&b, &w), graph_tensor(&b, &y)};
  if (!desc->has_bias) {
    graph_convolution(&b, GRAPH_FORWARD, &convolution, xwy);
    return graph_plan(&b, &c->forward);
  }
  int64_t channels = y.dims[1];
  GraphTensor bias = {
      .type = CUDNN_DATA_FLOAT, .dims = {1, channels, 1, 1}, .strides = {channels, 1, channels, channels}};
  GraphTensor sum = y;
  sum.type = CUDNN_DATA_FLOAT;
  sum.is_virtual = true;
  GraphTensorId result = xwy[2], row = graph_tensor(&b, &bias);
  xwy[2] = graph_tensor(&b, &sum);
  graph_convolution(&b, GRAPH_FORWARD, &convolution, xwy);
  graph_pointwise(&b, CUDNN_POINTWISE_ADD, xwy[2], row, result);
  return graph_plan(&b, &c->forward);
}

static Status plan_backward_data(Conv2d *c) {
  const StepDesc *desc = &c->step.desc;
  ConvolutionText text = describe(desc);
  GraphConvolution convolution = convolution_of(desc);
  GraphTensor dx = tensor_of(c, desc->inputs[0]), dy = tensor_of(c, desc->output);
  GraphTensor w = tensor_of_weights(c, dy.type);
  GraphBuilder b;
  begin(&b, c, &text, "data gradient");
  const GraphTensorId xwy[3] = {graph_tensor(&b, &dx), graph_tensor(&b, &w), graph_tensor(&b, &dy)};
  graph_convolution(&b, GRAPH_BACKWARD_DATA, &convolution, xwy);
  return graph_plan(&b, &c->backward_data);
}

static Status plan_backward_weights(Conv2d *c) {
  const StepDesc *desc = &c->step.desc;
  ConvolutionText text = describe(desc);
  GraphConvolution convolution = convolution_of(desc);
  GraphTensor x = tensor_of(c, desc->inputs[0]), dy = tensor_of(c, desc->output);
  GraphTensor dw = tensor_of_weights(c, CUDNN_DATA_FLOAT), sum = dw;
  GraphBuilder b;
  begin(&b, c, &text, "weight gradient");
  GraphTensorId xwy[3] = {graph_tensor(&b, &x), graph_tensor(&b, &dw), graph_tensor(&b, &dy)};
  if (c->type == KERNEL_F32) {
    graph_convolution(&b, GRAPH_BACKWARD_FILTER, &convolution, xwy);
    return graph_plan(&b, &c->backward_weights);
  }
  // cuDNN plans fp32 gradients of 16-bit values only with the conversion as an operation.
  sum.is_virtual = true;
  GraphTensorId result = xwy[1];
  xwy[1] = graph_tensor(&b, &sum);
  graph_convolution(&b, GRAPH_BACKWARD_FILTER, &convolution, xwy);
  graph_pointwise(&b, CUDNN_POINTWISE_IDENTITY, xwy[1], GRAPH_NONE, result);
  return graph_plan(&b, &c->backward_weights);
}

static void unplan(void *state) {
  Conv2d *c = state;
  if (!c) return;
  graph_plan_destroy(&c->forward);
  graph_plan_destroy(&c->backward_data);
  graph_plan_destroy(&c->backward_weights);
  memory_free(c);
}

static size_t most(size_t a, size_t b) { return a > b ? a : b; }

static size_t bias_bytes(const Conv2d *c) {
  return c->step.desc.has_bias ? (size_t)stored(c, c->out) * sizeof(float) : 0;
}

// Scratch of the weight gradient: the packed gradient, then the workspace; of the bias gradient:
// partial sums.
static size_t scratch_bytes(const Conv2d *c) {
  const StepDesc *desc = &c->step.desc;
  size_t size = most(c->forward.workspace_size, c->backward_data.workspace_size);
  if (desc->standardize_epsilon > 0.0)
    size = most(size, (size_t)(c->taps * c->in * c->out) * sizeof(float));
  if (!desc->training || !desc->need_dparams) return size;
  size = most(size, c->gradient_bytes + c->backward_weights.workspace_size);
  if (!desc->has_bias) return size;
  return most(size, (size_t)kernel_column_scratch(c->type, cuda_batch_pixels(desc, desc->output),
                                                  c->out) *
                        sizeof(float));
}

static Status plan(void **state, Device *device, const StepDesc *desc, StepNeeds *needs) {
  *state = NULL;
  Conv2d *c;
  TRY(memory_alloc(&c, 1, sizeof *c));
  Status status;
  c->step = (StepState){device, *desc};
  c->type = cuda_type(desc->output, desc->dtype);
  c->taps = desc->kernel_h * desc->kernel_w;
  c->in = (int)shape_channels(desc->inputs[0]) / desc->groups;
  c->out = (int)shape_channels(desc->output);
  size_t weights = (size_t)(stored(c, c->out) * c->taps * stored(c, c->in));
  c->weight_bytes = memory_round_up(weights * cuda_type_size(c->type));
  c->gradient_bytes = memory_round_up(weights * sizeof(float));
  bool has_lanes = stored(c, c->out) != c->out || stored(c, c->in * desc->groups) != c->in * desc->groups;
  if (desc->groups > 1 && has_lanes) {
    status = status_set(STATUS_CONFIG,
                        "%s: a convolution of %d groups needs channels in multiples of %d on the "
                        "GPU: %d to %d channels",
                        desc->name, desc->groups, (int)stored(c, 1), c->in * desc->groups, c->out);
    goto out;
  }
  GUARD(plan_forward(c));
  if (desc->training && desc->need_dx[0]) GUARD(plan_backward_data(c));
  if (desc->training && desc->need_dparams) GUARD(plan_backward_weights(c));
  *needs = (StepNeeds){.persistent_size = c->weight_bytes + bias_bytes(c),
                       .scratch_size = scratch_bytes(c),
                       .backward_reads_x = {desc->need_dparams}};
  *state = c;
  return STATUS_OK;
out:
  unplan(c);
  return status;
}

static float *packed_bias(const Conv2d *c, const StepArgs *args) {
  return (float *)((char *)args->persistent + c->weight_bytes);
}

static Status prepare(void *state, const StepArgs *args) {
  const Conv2d *c = state;
  cudaStream_t stream = c->step.device->stream;
  const float *weights = args->params[0];
  if (c->step.desc.standardize_epsilon > 0.0) {
    kernel_standardize(args->scratch, weights, c->taps * c->in, c->out,
                       (float)c->step.desc.standardize_epsilon, stream);
    weights = args->scratch;
  }
  kernel_pack_weights(c->type, args->persistent, weights, c->taps, c->in, c->out, stream);
  TRY(cuda__launched("packing of weights"));
  if (!c->step.desc.has_bias) return STATUS_OK;
  CUDA_TRY(cudaMemsetAsync(packed_bias(c, args), 0, bias_bytes(c), stream));
  CUDA_TRY(cudaMemcpyAsync(packed_bias(c, args), args->params[1], (size_t)c->out * sizeof(float),
                           cudaMemcpyDeviceToDevice, stream));
  return STATUS_OK;
}

static Status forward(void *state, const StepArgs *args) {
  Conv2d *c = state;
  // In the order of the tensors: x, weights, y, bias.
  void *pointers[] = {(void *)args->x[0], args->persistent, args->y, packed_bias(c, args)};
  return graph_plan_run(&c->forward, c->step.device, pointers, args->scratch);
}

static Status backward_weights(Conv2d *c, const StepArgs *args) {
  const StepDesc *desc = &c->step.desc;
  Device *device = c->step.device;
  float *packed = args->scratch;
  void *pointers[] = {(void *)args->x[0], packed, (void *)args->dy};
  TRY(graph_plan_run(&c->backward_weights, device, pointers,
                     (char *)args->scratch + c->gradient_bytes));
  kernel_unpack_gradients(c->type, args->dparams[0], packed, c->taps, c->in, c->out,
                          device->stream);
  if (desc->standardize_epsilon > 0.0)
    kernel_standardize_backward(args->dparams[0], args->params[0], c->taps * c->in, c->out,
                                (float)desc->standardize_epsilon, device->stream);
  if (desc->has_bias)
    kernel_column_sums(c->type, args->dparams[1], args->dy, cuda_batch_pixels(desc, desc->output),
                       c->out, args->scratch, device->stream);
  return cuda__launched("convolution's weight gradient");
}

static Status backward(void *state, const StepArgs *args) {
  Conv2d *c = state;
  if (c->step.desc.need_dparams) TRY(backward_weights(c, args));
  if (!args->dx[0]) return STATUS_OK;
  void *pointers[] = {args->dx[0], args->persistent, (void *)args->dy};
  return graph_plan_run(&c->backward_data, c->step.device, pointers, args->scratch);
}

const StepImpl cuda_conv2d = {
    .plan = plan, .unplan = unplan, .prepare = prepare, .forward = forward, .backward = backward};
