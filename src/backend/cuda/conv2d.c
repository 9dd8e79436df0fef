// STEP_CONV2D through cuDNN's graphs, NHWC.
//
// The weights are kept as (K, R, S, C) in the compute type, C and K rounded up to whole packs with
// zeros, so the library sees packed tensors whatever the channels; the extra lanes of results come
// out as zeros. The channels of a group are kept as they are: the library takes no filter with
// gaps. Weight gradients are fp32 in the same layout and turned to Keras' at the end. A
// standardised kernel is made in scratch before it is packed, and its gradient turned into that of
// the kernel itself.
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
  KernelPacking packing;   // of the weights; in: of one group
  bool widens;             // the weight gradient is made of x and dy in fp32
  size_t weight_bytes;     // packed, in the compute type
  bool has_shift;          // a bias, or what a norm leaves of it: added to the sums
  bool shifts_apart;       // by a kernel, not by the library
  bool has_statistics;     // the library sums y and its squares too
  bool has_epilogue;       // the library adds and activates too; else a kernel does
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
  int64_t height = shape.dim[0], width = shape.dim[1], channels = stored(c, shape.dim[2]);
  return (GraphTensor){.type = cudnn_type(c->type),
                       .dims = {c->step.desc.batch, channels, height, width},
                       .strides = {height * width * channels, 1, width * channels, channels}};
}

static GraphTensor tensor_of_weights(const Conv2d *c, cudnnDataType_t type) {
  const StepDesc *desc = &c->step.desc;
  int64_t in = c->packing.stored_in;
  return (GraphTensor){.type = type,
                       .dims = {c->packing.stored_out, in, desc->kernel_h, desc->kernel_w},
                       .strides = {c->packing.taps * in, 1, desc->kernel_w * in, in}};
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

// Activations that the library can put behind a convolution: those that keep the zeros in the lanes
// beyond C.
typedef struct EpilogueRow {
  bool is_known;
  GraphPointwise pointwise;
} EpilogueRow;

static const EpilogueRow epilogues[ACTIVATION_KIND_COUNT] = {
    [ACTIVATION_LINEAR] = {true, {CUDNN_POINTWISE_IDENTITY, 0.0}},
    [ACTIVATION_RELU] = {true, {CUDNN_POINTWISE_RELU_FWD, 0.0}},
    [ACTIVATION_RELU6] = {true, {CUDNN_POINTWISE_RELU_FWD, 6.0}},
    [ACTIVATION_SWISH] = {true, {CUDNN_POINTWISE_SWISH_FWD, 0.0}},
    [ACTIVATION_TANH] = {true, {CUDNN_POINTWISE_TANH_FWD, 0.0}},
};

static bool has_residual(const StepDesc *desc) { return desc->input_count > 1; }

// The operations behind the convolution, in order, each from the value before it to the next.
typedef struct Chain {
  GraphPointwise modes[3];
  GraphTensorId seconds[3];
  int count;
} Chain;

static void append_mode(Chain *chain, GraphPointwise mode, GraphTensorId second) {
  chain->modes[chain->count] = mode;
  chain->seconds[chain->count++] = second;
}

static GraphTensor row_of(const GraphTensor *y) {
  GraphTensor row = {.type = CUDNN_DATA_FLOAT};
  for (int i = 0; i < 4; i++) {
    row.dims[i] = i == 1 ? y->dims[1] : 1;
    row.strides[i] = i == 1 ? 1 : y->dims[1];
  }
  return row;
}

static bool is_shifted_by_library(const Conv2d *c) {
  return c->has_shift && !c->shifts_apart;
}

// x, w and y, then the shift, the residual, the sums: the order of the pointers in forward().
static Status plan_chain(GraphPlan *out, Conv2d *c, bool with_epilogue, bool with_statistics) {
  const StepDesc *desc = &c->step.desc;
  ConvolutionText text = describe(desc);
  if (is_shifted_by_library(c)) add_text(&text, " bias");
  if (with_statistics) add_text(&text, " statistics");
  if (with_epilogue)
    add_text(&text, "%s %s", has_residual(desc) ? " add" : "", activation_name(desc->activation));
  GraphConvolution convolution = convolution_of(desc);
  GraphTensor x = tensor_of(c, desc->inputs[0]), y = tensor_of(c, desc->output);
  GraphTensor w = tensor_of_weights(c, y.type), sum = y, row = row_of(&y);
  sum.is_virtual = true;
  sum.type = CUDNN_DATA_FLOAT;
  GraphBuilder b;
  begin(&b, c, &text, "forward");
  GraphTensorId xwy[3] = {graph_tensor(&b, &x), graph_tensor(&b, &w), graph_tensor(&b, &y)};
  GraphTensorId result = xwy[2];
  Chain chain = {0};
  if (is_shifted_by_library(c))
    append_mode(&chain, (GraphPointwise){CUDNN_POINTWISE_ADD, 0.0}, graph_tensor(&b, &row));
  if (with_epilogue && has_residual(desc))
    append_mode(&chain, (GraphPointwise){CUDNN_POINTWISE_ADD, 0.0}, graph_tensor(&b, &y));
  if (with_epilogue && desc->activation != ACTIVATION_LINEAR)
    append_mode(&chain, epilogues[desc->activation].pointwise, GRAPH_NONE);
  GraphTensorId sums = with_statistics ? graph_tensor(&b, &row) : GRAPH_NONE,
                squares = with_statistics ? graph_tensor(&b, &row) : GRAPH_NONE;
  if (chain.count > 0) xwy[2] = graph_tensor(&b, &sum);
  graph_convolution(&b, GRAPH_FORWARD, &convolution, xwy);
  GraphTensorId value = xwy[2];
  for (int i = 0; i < chain.count; i++) {
    GraphTensorId next = i + 1 < chain.count ? graph_tensor(&b, &sum) : result;
    graph_pointwise(&b, &chain.modes[i], value, chain.seconds[i], next);
    value = next;
  }
  if (with_statistics) graph_statistics(&b, result, sums, squares);
  b.refuses_compiled = with_statistics && !c->step.device->options.autotune;
  return graph_plan(&b, out);
}

static bool needs_activation(const StepDesc *desc) {
  return desc->has_norm && (has_residual(desc) || desc->activation != ACTIVATION_LINEAR);
}

// Whether the library's convolution sums for the norm behind it: it has such engines for 16-bit types.
// Those of fp16 come compiled and are made for this; one that it compiles at run time, as for bf16, is
// another than the best of the plain convolution's, and has to be measured as fast.
static bool plan_statistics(Conv2d *c) {
  GraphPlan plain;
  if (!c->step.desc.gives_statistics || c->type == KERNEL_F32) return false;
  if (plan_chain(&c->forward, c, false, true) != STATUS_OK) return false;
  if (!c->forward.is_compiled) return true;
  bool is_fast = plan_chain(&plain, c, false, false) == STATUS_OK && c->forward.time_us > 0.0 &&
                 c->forward.time_us <= plain.time_us;
  graph_plan_destroy(&plain);
  if (!is_fast) graph_plan_destroy(&c->forward);
  return is_fast;
}

// With sum and activation in the convolution where the library has an engine for that; else a
// kernel does both, over its result, and in groups the shift too: in bf16 the library has no engine
// that shifts groups of one channel.
static Status plan_forward(Conv2d *c) {
  const StepDesc *desc = &c->step.desc;
  c->has_epilogue = needs_activation(desc) && epilogues[desc->activation].is_known &&
                    plan_chain(&c->forward, c, true, false) == STATUS_OK;
  c->has_statistics = plan_statistics(c);
  if (c->has_epilogue || c->has_statistics) return STATUS_OK;
  Status status = plan_chain(&c->forward, c, false, false);
  if (status == STATUS_OK || desc->groups == 1 || !c->has_shift) return status;
  c->shifts_apart = true;
  return plan_chain(&c->forward, c, false, false);
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

// cuDNN plans fp32 gradients of 16-bit values only with the conversion as an operation, and those
// of a grouped convolution not at all: it is given both values in fp32 then, whose products are the
// same. A gradient in 16 bits, which it would plan, keeps 8 or 11 bits of the sum.
static Status plan_backward_weights(Conv2d *c) {
  const StepDesc *desc = &c->step.desc;
  ConvolutionText text = describe(desc);
  GraphConvolution convolution = convolution_of(desc);
  GraphTensor x = tensor_of(c, desc->inputs[0]), dy = tensor_of(c, desc->output);
  GraphTensor dw = tensor_of_weights(c, CUDNN_DATA_FLOAT), sum = dw;
  if (c->widens) x.type = dy.type = CUDNN_DATA_FLOAT;
  GraphBuilder b;
  begin(&b, c, &text, "weight gradient");
  GraphTensorId xwy[3] = {graph_tensor(&b, &x), graph_tensor(&b, &dw), graph_tensor(&b, &dy)};
  if (x.type == CUDNN_DATA_FLOAT) {
    graph_convolution(&b, GRAPH_BACKWARD_FILTER, &convolution, xwy);
    return graph_plan(&b, &c->backward_weights);
  }
  sum.is_virtual = true;
  GraphTensorId result = xwy[1];
  xwy[1] = graph_tensor(&b, &sum);
  graph_convolution(&b, GRAPH_BACKWARD_FILTER, &convolution, xwy);
  graph_pointwise(&b, &(GraphPointwise){CUDNN_POINTWISE_IDENTITY, 0.0}, xwy[1], GRAPH_NONE, result);
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

static size_t statistics_bytes(const Conv2d *c) {
  return c->has_statistics ? 2 * (size_t)c->packing.stored_out * sizeof(float) : 0;
}

static size_t shift_bytes(const Conv2d *c) {
  return c->has_shift ? (size_t)c->packing.stored_out * sizeof(float) : 0;
}

// A value in fp32, where the weight gradient wants that.
static size_t widened_bytes(const Conv2d *c, Shape shape) {
  int64_t numbers = cuda_batch_pixels(&c->step.desc, shape) * shape.dim[2];
  return c->widens ? cuda_round_up((size_t)numbers * sizeof(float)) : 0;
}

// Scratch of the weight gradient: the packed gradient, x and dy in fp32 where it wants that, then
// the workspace; of the bias gradient: partial sums.
static size_t scratch_bytes(const Conv2d *c) {
  const StepDesc *desc = &c->step.desc;
  const KernelPacking *p = &c->packing;
  size_t size = most(c->forward.workspace_size, c->backward_data.workspace_size);
  if (desc->standardize_epsilon > 0.0 || desc->has_norm)
    size = most(size, (size_t)(p->taps * p->in * p->out) * sizeof(float));
  if (!desc->training || !desc->need_dparams) return size;
  size = most(size, c->gradient_bytes + widened_bytes(c, desc->inputs[0]) +
                        widened_bytes(c, desc->output) + c->backward_weights.workspace_size);
  if (!desc->has_bias) return size;
  return most(
      size, (size_t)kernel_column_scratch(c->type, cuda_batch_pixels(desc, desc->output), p->out) *
                sizeof(float));
}

static Status plan(void **state, Device *device, const StepDesc *desc, StepNeeds *needs) {
  *state = NULL;
  Conv2d *c;
  TRY(memory_alloc(&c, 1, sizeof *c));
  Status status;
  c->step = (StepState){device, *desc};
  c->type = cuda_type(desc->output, desc->dtype);
  int64_t in = shape_channels(desc->inputs[0]), out = shape_channels(desc->output);
  bool is_grouped = desc->groups > 1;
  c->packing = (KernelPacking){.taps = desc->kernel_h * desc->kernel_w,
                               .in = (int)in / desc->groups,
                               .out = (int)out,
                               .stored_in = (int)(is_grouped ? in / desc->groups : stored(c, in)),
                               .stored_out = (int)stored(c, out)};
  c->widens = is_grouped && c->type != KERNEL_F32;
  const KernelPacking *p = &c->packing;
  size_t weights = (size_t)p->stored_out * (size_t)p->taps * (size_t)p->stored_in;
  c->weight_bytes = memory_round_up(weights * cuda_type_size(c->type));
  c->gradient_bytes = cuda_round_up(weights * sizeof(float)); // a workspace comes behind it
  c->has_shift = desc->has_bias || desc->has_norm;
  if (is_grouped && (stored(c, in) != in || stored(c, out) != out)) {
    status = status_set(STATUS_CONFIG,
                        "%s: a convolution of %d groups needs channels in multiples of %d on the "
                        "GPU: %d to %d channels",
                        desc->name, desc->groups, (int)stored(c, 1), (int)in, (int)out);
    goto out;
  }
  if (p->taps > KERNEL_TAPS_MAX) {
    status = status_set(STATUS_CONFIG, "%s: a convolution of %d x %d cannot run on the GPU",
                        desc->name, desc->kernel_h, desc->kernel_w);
    goto out;
  }
  GUARD(plan_forward(c));
  if (desc->training && desc->need_dx[0]) GUARD(plan_backward_data(c));
  if (desc->training && desc->need_dparams) GUARD(plan_backward_weights(c));
  *needs = (StepNeeds){.persistent_size = c->weight_bytes + shift_bytes(c),
                       .scratch_size = scratch_bytes(c),
                       .statistics_size = statistics_bytes(c),
                       .backward_reads_x = {desc->need_dparams}};
  *state = c;
  return STATUS_OK;
out:
  unplan(c);
  return status;
}

static float *shift_of(const Conv2d *c, const StepArgs *args) {
  return (float *)((char *)args->persistent + c->weight_bytes);
}

static Status prepare(void *state, const StepArgs *args) {
  const Conv2d *c = state;
  cudaStream_t stream = c->step.device->stream;
  const KernelPacking *p = &c->packing;
  const float *weights = args->params[0];
  // Lanes of the shift beyond C stay zeros.
  if (c->has_shift) CUDA_TRY(cudaMemsetAsync(shift_of(c, args), 0, shift_bytes(c), stream));
  if (c->step.desc.has_norm) {
    kernel_norm_fold(&(KernelFold){.rows = p->taps * p->in,
                                   .channels = p->out,
                                   .weights = weights,
                                   .bias = args->params[1],
                                   .gamma = args->params[2],
                                   .beta = args->params[3],
                                   .mean = args->params[4],
                                   .variance = args->params[5],
                                   .epsilon = c->step.desc.epsilon,
                                   .scaled = args->scratch,
                                   .shift = shift_of(c, args)},
                     stream);
    weights = args->scratch;
  }
  if (c->step.desc.standardize_epsilon > 0.0) {
    kernel_standardize(args->scratch, weights, p->taps * p->in, p->out,
                       (float)c->step.desc.standardize_epsilon, stream);
    weights = args->scratch;
  }
  kernel_pack_weights(c->type, args->persistent, weights, p, stream);
  TRY(cuda__launched("packing of weights"));
  if (!c->has_shift || c->step.desc.has_norm) return STATUS_OK;
  CUDA_TRY(cudaMemcpyAsync(shift_of(c, args), args->params[1], (size_t)p->out * sizeof(float),
                           cudaMemcpyDeviceToDevice, stream));
  return STATUS_OK;
}

static Status shift(const Conv2d *c, const StepArgs *args) {
  int64_t pixels = cuda_batch_pixels(&c->step.desc, c->step.desc.output);
  kernel_affine(&(KernelAffine){.type = c->type,
                                .pixels = pixels,
                                .row_pixels = pixels,
                                .channels = c->packing.out,
                                .x = args->y,
                                .shift = shift_of(c, args),
                                .shift_factor = 1.0f,
                                .y = args->y},
                c->step.device->stream);
  return cuda__launched("convolution's shift");
}

static Status forward(void *state, const StepArgs *args) {
  Conv2d *c = state;
  const StepDesc *desc = &c->step.desc;
  Device *device = c->step.device;
  void *pointers[GRAPH_MAX_TENSORS] = {(void *)args->x[0], args->persistent, args->y};
  int count = 3;
  if (is_shifted_by_library(c)) pointers[count++] = shift_of(c, args);
  if (c->has_epilogue && has_residual(desc)) pointers[count++] = (void *)args->x[1];
  if (c->has_statistics) {
    pointers[count++] = args->statistics;
    pointers[count++] = args->statistics + c->packing.stored_out;
  }
  TRY(graph_plan_run(&c->forward, device, pointers, args->scratch));
  if (c->shifts_apart) TRY(shift(c, args));
  if (!needs_activation(desc) || c->has_epilogue) return STATUS_OK;
  kernel_activate(&(KernelActivate){.type = c->type,
                                    .kind = (KernelActivation)desc->activation,
                                    .pixels = cuda_batch_pixels(desc, desc->output),
                                    .channels = c->packing.out,
                                    .a = args->y,
                                    .b = has_residual(desc) ? args->x[1] : NULL,
                                    .factor = 1.0f,
                                    .y = args->y},
                  device->stream);
  return cuda__launched("convolution's activation");
}

// A value in fp32 at `*rest`, which moves behind it.
static void *widen(const Conv2d *c, const void *value, Shape shape, char **rest) {
  float *wide = (float *)(void *)*rest;
  *rest += widened_bytes(c, shape);
  kernel_export(c->type, wide, value, cuda_batch_pixels(&c->step.desc, shape), (int)shape.dim[2],
                c->step.device->stream);
  return wide;
}

static Status backward_weights(Conv2d *c, const StepArgs *args) {
  const StepDesc *desc = &c->step.desc;
  const KernelPacking *p = &c->packing;
  Device *device = c->step.device;
  float *packed = args->scratch;
  char *rest = (char *)args->scratch + c->gradient_bytes;
  void *pointers[] = {(void *)args->x[0], packed, (void *)args->dy};
  if (c->widens) {
    pointers[0] = widen(c, args->x[0], desc->inputs[0], &rest);
    pointers[2] = widen(c, args->dy, desc->output, &rest);
  }
  TRY(graph_plan_run(&c->backward_weights, device, pointers, rest));
  kernel_unpack_gradients(args->dparams[0], packed, p, device->stream);
  if (desc->standardize_epsilon > 0.0)
    kernel_standardize_backward(args->dparams[0], args->params[0], p->taps * p->in, p->out,
                                (float)desc->standardize_epsilon, device->stream);
  if (desc->has_bias)
    kernel_column_sums(c->type, args->dparams[1], args->dy, cuda_batch_pixels(desc, desc->output),
                       p->out, args->scratch, device->stream);
  return cuda__launched("convolution's weight gradient");
}

static Status backward(void *state, const StepArgs *args) {
  Conv2d *c = state;
  if (c->step.desc.need_dparams) TRY(backward_weights(c, args));
  if (!args->dx[0]) return STATUS_OK;
  void *pointers[] = {args->dx[0], args->persistent, (void *)args->dy};
  return graph_plan_run(&c->backward_data, c->step.device, pointers, args->scratch);
}

const StepImpl cuda_conv2d = {.plan = plan,
                              .unplan = unplan,
                              .prepare = prepare,
                              .forward = forward,
                              .backward = backward,
                              .takes_norm = true};
