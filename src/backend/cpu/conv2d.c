// Convolution with bias, by oneDNN. Values have our blocked layout; the fp32 master weights (h, w,
// in, out) are put into the layouts that oneDNN's kernels want by `prepare`, once for each update.
//
// Channels are counted up to whole blocks, with zeros as weights of the channels that do not exist,
// because oneDNN's fast kernels want whole blocks; the lanes past C come out as zeros by
// themselves. A grouped convolution cannot be told so and is described as it is. A standardised
// kernel (standardize.c) is made in scratch by `prepare`, and its gradient turned into the
// kernel's.
#include <string.h>

#include "backend/cpu/dnnl_util.h"
#include "backend/cpu/steps.h"
#include "base/memory.h"

typedef struct Conv2d {
  Device *device;
  StepDesc desc;
  bool has_bias, need_dx, need_dparams;
  int64_t taps, in, out;         // kernel area; channels of the kernel, Keras' (h, w, in, out)
  int64_t padded_in, padded_out; // channels that oneDNN sees
  DnnlOp forward, backward_data, backward_weights;
  DnnlOp weights_in;          // kernel -> weights of forward
  DnnlOp backward_weights_in; // kernel -> weights of backward_data, where laid out otherwise
  DnnlOp dweights_out;        // gradient of the weights -> kernel
  // Byte offsets. Persistent: weights of forward at 0.
  size_t persistent_backward, persistent_bias;
  // Scratch: oneDNN's own at 0, then gradients as oneDNN lays them out, then a padded kernel and a
  // standardised one.
  size_t scratch_dweights, scratch_dbias, scratch_kernel, scratch_standard;
} Conv2d;

static bool is_padded(const Conv2d *c) {
  return c->padded_in != c->in || c->padded_out != c->out;
}

static void conv2d_unplan(void *state) {
  Conv2d *c = state;
  if (!c) return;
  dnnl_op_deinit(&c->dweights_out);
  dnnl_op_deinit(&c->backward_weights_in);
  dnnl_op_deinit(&c->weights_in);
  dnnl_op_deinit(&c->backward_weights);
  dnnl_op_deinit(&c->backward_data);
  dnnl_op_deinit(&c->forward);
  memory_free(c);
}

static int64_t whole_blocks(const Device *device, Shape shape) {
  return cpu_value_planes(device, shape) * cpu_value_block(device, shape);
}

// Keras' kernel as oneDNN orders dimensions: ([group,] out, in, h, w), channels padded.
static TensorDesc kernel_desc(const Conv2d *c, const StepDesc *desc) {
  int64_t in = c->padded_in, out = c->padded_out, w = desc->kernel_w;
  if (desc->groups <= 1)
    return (TensorDesc){.rank = 4,
                        .dim = {out, in, desc->kernel_h, w},
                        .stride = {1, out, w * in * out, in * out},
                        .dtype = DTYPE_F32,
                        .layout = TENSOR_STRIDED};
  int64_t group_out = out / desc->groups;
  return (TensorDesc){.rank = 5,
                      .dim = {desc->groups, group_out, in, desc->kernel_h, w},
                      .stride = {group_out, 1, out, w * in * out, in * out},
                      .dtype = DTYPE_F32,
                      .layout = TENSOR_STRIDED};
}

static Status ops_create(Conv2d *c, const StepDesc *desc) {
  bool whole = desc->groups <= 1;
  TensorDesc kernel = kernel_desc(c, desc), weights = kernel;
  weights.layout = TENSOR_ANY;
  ConvolutionDesc conv = {
      .x = tensor_desc_value(c->device, desc->inputs[0], desc->batch, desc->dtype, whole),
      .y = tensor_desc_value(c->device, desc->output, desc->batch, desc->dtype, whole),
      .weights = weights,
      .dweights = weights,
      .window = window_of_step(desc)};
  conv.weights.dtype = desc->dtype;
  if (desc->has_bias) conv.bias = tensor_desc_dense(DTYPE_F32, 1, &c->padded_out);
  TRY(dnnl_op_convolution(&c->forward, c->need_dx ? &c->backward_data : NULL,
                          c->need_dparams ? &c->backward_weights : NULL, c->device, &conv));
  TRY(dnnl_op_reorder_in(&c->weights_in, c->device, &kernel, &c->forward, DNNL_ARG_WEIGHTS));
  if (c->need_dx &&
      !dnnl_op_same_layout(&c->forward, DNNL_ARG_WEIGHTS, &c->backward_data, DNNL_ARG_WEIGHTS))
    TRY(dnnl_op_reorder_in(&c->backward_weights_in, c->device, &kernel, &c->backward_data,
                           DNNL_ARG_WEIGHTS));
  if (c->need_dparams)
    TRY(dnnl_op_reorder_out(&c->dweights_out, c->device, &c->backward_weights,
                            DNNL_ARG_DIFF_WEIGHTS, &kernel));
  return STATUS_OK;
}

// Takes `size_bytes` from a region that has grown to *total, on a boundary that suits any vector.
static size_t take(size_t *total, size_t size_bytes) {
  size_t offset = *total;
  *total += (size_bytes + MEMORY_ALIGNMENT - 1) / MEMORY_ALIGNMENT * MEMORY_ALIGNMENT;
  return offset;
}

static void memory_plan(Conv2d *c, StepNeeds *needs) {
  const DnnlOp *ops[] = {&c->forward,    &c->backward_data,       &c->backward_weights,
                         &c->weights_in, &c->backward_weights_in, &c->dweights_out};
  size_t own = 0;
  for (size_t i = 0; i < sizeof ops / sizeof ops[0]; i++) {
    size_t size = dnnl_op_size(ops[i], DNNL_ARG_SCRATCHPAD);
    if (size > own) own = size;
  }
  take(&needs->scratch_size, own);
  c->scratch_dweights =
      take(&needs->scratch_size, dnnl_op_size(&c->backward_weights, DNNL_ARG_DIFF_WEIGHTS));
  c->scratch_dbias =
      take(&needs->scratch_size, dnnl_op_size(&c->backward_weights, DNNL_ARG_DIFF_BIAS));
  c->scratch_kernel = needs->scratch_size;
  if (is_padded(c))
    take(&needs->scratch_size, (size_t)(c->taps * c->padded_in * c->padded_out) * sizeof(float));
  c->scratch_standard = needs->scratch_size;
  if (c->desc.standardize_epsilon > 0)
    take(&needs->scratch_size, (size_t)(c->taps * c->in * c->out) * sizeof(float));
  take(&needs->persistent_size, dnnl_op_size(&c->forward, DNNL_ARG_WEIGHTS));
  if (c->backward_weights_in.desc)
    c->persistent_backward =
        take(&needs->persistent_size, dnnl_op_size(&c->backward_data, DNNL_ARG_WEIGHTS));
  c->persistent_bias = take(&needs->persistent_size, dnnl_op_size(&c->forward, DNNL_ARG_BIAS));
}

static Status conv2d_plan(void **state, Device *device, const StepDesc *desc, StepNeeds *needs) {
  Status status;
  *state = NULL;
  Conv2d *c;
  TRY(memory_alloc(&c, 1, sizeof *c));
  int64_t groups = desc->groups > 1 ? desc->groups : 1;
  c->device = device;
  c->desc = *desc;
  c->has_bias = desc->has_bias;
  c->need_dx = desc->training && desc->need_dx[0];
  c->need_dparams = desc->training && desc->need_dparams;
  c->taps = (int64_t)desc->kernel_h * desc->kernel_w;
  c->in = shape_channels(desc->inputs[0]) / groups;
  c->out = shape_channels(desc->output);
  c->padded_in = groups > 1 ? c->in : whole_blocks(device, desc->inputs[0]);
  c->padded_out = groups > 1 ? c->out : whole_blocks(device, desc->output);
  cpu_device_enter(device);
  GUARD(ops_create(c, desc));
  *needs = (StepNeeds){.backward_reads_x = {c->need_dparams}};
  memory_plan(c, needs);
  *state = c;
  return STATUS_OK;
out:
  conv2d_unplan(c);
  return status_prepend(status, "%s", desc->name);
}

static void kernel_pad(const Conv2d *c, float *padded, const float *kernel) {
  memset(padded, 0, (size_t)(c->taps * c->padded_in * c->padded_out) * sizeof(float));
  for (int64_t tap = 0; tap < c->taps; tap++)
    for (int64_t i = 0; i < c->in; i++)
      memcpy(padded + (tap * c->padded_in + i) * c->padded_out, kernel + (tap * c->in + i) * c->out,
             (size_t)c->out * sizeof(float));
}

static void kernel_unpad(const Conv2d *c, float *kernel, const float *padded) {
  for (int64_t tap = 0; tap < c->taps; tap++)
    for (int64_t i = 0; i < c->in; i++)
      memcpy(kernel + (tap * c->in + i) * c->out, padded + (tap * c->padded_in + i) * c->padded_out,
             (size_t)c->out * sizeof(float));
}

static Status reorder_run(DnnlOp *op, const Conv2d *c, const void *from, void *to, void *scratch) {
  dnnl_op_bind(op, DNNL_ARG_FROM, from);
  dnnl_op_bind(op, DNNL_ARG_TO, to);
  dnnl_op_bind(op, DNNL_ARG_SCRATCHPAD, scratch);
  return dnnl_op_execute(op, c->device);
}

static Status conv2d_prepare(void *state, const StepArgs *args) {
  Conv2d *c = state;
  char *persistent = args->persistent, *scratch = args->scratch;
  cpu_device_enter(c->device);
  const float *kernel = args->params[0];
  if (c->desc.standardize_epsilon > 0) {
    float *standard = (float *)(scratch + c->scratch_standard);
    cpu_standardize(c->device, standard, kernel, &c->desc);
    kernel = standard;
  }
  if (is_padded(c)) {
    float *padded = (float *)(scratch + c->scratch_kernel);
    kernel_pad(c, padded, kernel);
    kernel = padded;
  }
  TRY(reorder_run(&c->weights_in, c, kernel, persistent, scratch));
  if (c->backward_weights_in.desc)
    TRY(reorder_run(&c->backward_weights_in, c, kernel, persistent + c->persistent_backward,
                    scratch));
  if (c->has_bias) {
    float *bias = (float *)(persistent + c->persistent_bias);
    memset(bias, 0, (size_t)c->padded_out * sizeof(float));
    memcpy(bias, args->params[1], (size_t)c->out * sizeof(float));
  }
  return STATUS_OK;
}

static Status conv2d_forward(void *state, const StepArgs *args) {
  Conv2d *c = state;
  char *persistent = args->persistent;
  cpu_device_enter(c->device);
  dnnl_op_bind(&c->forward, DNNL_ARG_SRC, args->x[0]);
  dnnl_op_bind(&c->forward, DNNL_ARG_WEIGHTS, persistent);
  dnnl_op_bind(&c->forward, DNNL_ARG_BIAS, persistent + c->persistent_bias);
  dnnl_op_bind(&c->forward, DNNL_ARG_DST, args->y);
  dnnl_op_bind(&c->forward, DNNL_ARG_SCRATCHPAD, args->scratch);
  return dnnl_op_execute(&c->forward, c->device);
}

static Status backward_weights(Conv2d *c, const StepArgs *args) {
  char *scratch = args->scratch;
  float *dbias = (float *)(scratch + c->scratch_dbias);
  float *padded = (float *)(scratch + c->scratch_kernel);
  dnnl_op_bind(&c->backward_weights, DNNL_ARG_SRC, args->x[0]);
  dnnl_op_bind(&c->backward_weights, DNNL_ARG_DIFF_DST, args->dy);
  dnnl_op_bind(&c->backward_weights, DNNL_ARG_DIFF_WEIGHTS, scratch + c->scratch_dweights);
  dnnl_op_bind(&c->backward_weights, DNNL_ARG_DIFF_BIAS, dbias);
  dnnl_op_bind(&c->backward_weights, DNNL_ARG_SCRATCHPAD, scratch);
  TRY(dnnl_op_execute(&c->backward_weights, c->device));
  TRY(reorder_run(&c->dweights_out, c, scratch + c->scratch_dweights,
                  is_padded(c) ? padded : args->dparams[0], scratch));
  if (is_padded(c)) kernel_unpad(c, args->dparams[0], padded);
  if (c->desc.standardize_epsilon > 0)
    cpu_standardize_backward(c->device, args->dparams[0], args->params[0], &c->desc);
  if (c->has_bias) memcpy(args->dparams[1], dbias, (size_t)c->out * sizeof(float));
  return STATUS_OK;
}

static Status conv2d_backward(void *state, const StepArgs *args) {
  Conv2d *c = state;
  char *persistent = args->persistent;
  cpu_device_enter(c->device);
  if (c->need_dparams) TRY(backward_weights(c, args));
  if (!c->need_dx) return STATUS_OK;
  dnnl_op_bind(&c->backward_data, DNNL_ARG_DIFF_DST, args->dy);
  dnnl_op_bind(&c->backward_data, DNNL_ARG_WEIGHTS, persistent + c->persistent_backward);
  dnnl_op_bind(&c->backward_data, DNNL_ARG_DIFF_SRC, args->dx[0]);
  dnnl_op_bind(&c->backward_data, DNNL_ARG_SCRATCHPAD, args->scratch);
  return dnnl_op_execute(&c->backward_data, c->device);
}

const StepImpl cpu_conv2d = {.plan = conv2d_plan,
                             .unplan = conv2d_unplan,
                             .prepare = conv2d_prepare,
                             .forward = conv2d_forward,
                             .backward = conv2d_backward};
