// STEP_DEPTHWISE_CONV2D through the kernels of kernels/depthwise.cu: cuDNN has no fast one for bf16
// in NHWC. Persistent: the weights in the compute type, in packs.
#include "backend/cuda/step_state.h"
#include "backend/cuda/steps.h"

static KernelDepthwise describe(const StepDesc *desc) {
  Shape in = desc->inputs[0], out = desc->output;
  return (KernelDepthwise){.type = cuda_type(in, desc->dtype),
                           .samples = desc->batch,
                           .in_h = in.dim[0],
                           .in_w = in.dim[1],
                           .out_h = out.dim[0],
                           .out_w = out.dim[1],
                           .channels = (int)shape_channels(in),
                           .kernel_h = desc->kernel_h,
                           .kernel_w = desc->kernel_w,
                           .stride_h = desc->stride_h,
                           .stride_w = desc->stride_w,
                           .dilation = desc->dilation,
                           .top = (int)desc->pads.top,
                           .left = (int)desc->pads.left};
}

enum { KERNEL_WIDTH_MAX = 7 };

static int64_t taps(const StepDesc *desc) {
  return (int64_t)desc->kernel_h * desc->kernel_w;
}

static size_t weight_bytes(const StepDesc *desc) {
  KernelType type = cuda_type(desc->inputs[0], desc->dtype);
  return (size_t)(taps(desc) * kernel_stored_channels(type, shape_channels(desc->inputs[0]))) *
         cuda_type_size(type);
}

static Status plan(void **state, Device *device, const StepDesc *desc, StepNeeds *needs) {
  if (shape_channels(desc->output) != shape_channels(desc->inputs[0]))
    return status_set(STATUS_CONFIG, "%s: a depth multiplier is not supported", desc->name);
  if (desc->kernel_w > KERNEL_WIDTH_MAX)
    return status_set(STATUS_CONFIG, "%s: a depthwise kernel of width %d: at most %d", desc->name,
                      desc->kernel_w, KERNEL_WIDTH_MAX);
  *needs =
      (StepNeeds){.persistent_size = weight_bytes(desc), .backward_reads_x = {desc->need_dparams}};
  if (desc->training && desc->need_dparams) {
    KernelDepthwise depthwise = describe(desc);
    int64_t weights = kernel_depthwise_scratch(&depthwise);
    int64_t bias = kernel_column_scratch(depthwise.type, cuda_batch_pixels(desc, desc->output),
                                         depthwise.channels);
    needs->scratch_size = (size_t)(weights > bias ? weights : bias) * sizeof(float);
  }
  return cuda_step_state_create(state, device, desc);
}

static Status prepare(void *context, const StepArgs *args) {
  const StepState *state = context;
  const StepDesc *desc = &state->desc;
  kernel_import(cuda_type(desc->inputs[0], desc->dtype), args->persistent, args->params[0],
                taps(desc), (int)shape_channels(desc->inputs[0]), state->device->stream);
  return cuda__launched("depthwise convolution's weights");
}

static Status forward(void *context, const StepArgs *args) {
  const StepState *state = context;
  KernelDepthwise depthwise = describe(&state->desc);
  depthwise.weights = args->persistent;
  depthwise.bias = state->desc.has_bias ? args->params[1] : NULL;
  depthwise.x = args->x[0];
  depthwise.y = args->y;
  kernel_depthwise_forward(&depthwise, state->device->stream);
  return cuda__launched("depthwise convolution");
}

static Status backward(void *context, const StepArgs *args) {
  const StepState *state = context;
  const StepDesc *desc = &state->desc;
  cudaStream_t stream = state->device->stream;
  KernelDepthwise depthwise = describe(desc);
  depthwise.weights = args->persistent;
  depthwise.x = args->x[0];
  depthwise.dy = args->dy;
  depthwise.dx = args->dx[0];
  depthwise.dweights = args->dparams[0];
  depthwise.scratch = args->scratch;
  if (desc->need_dparams) kernel_depthwise_backward_weights(&depthwise, stream);
  if (desc->need_dparams && desc->has_bias)
    kernel_column_sums(depthwise.type, args->dparams[1], args->dy,
                       cuda_batch_pixels(desc, desc->output), depthwise.channels, args->scratch,
                       stream);
  if (args->dx[0]) kernel_depthwise_backward_data(&depthwise, stream);
  return cuda__launched("depthwise convolution's gradient");
}

const StepImpl cuda_depthwise_conv2d = {.plan = plan,
                                        .unplan = cuda_step_state_free,
                                        .prepare = prepare,
                                        .forward = forward,
                                        .backward = backward};
