// STEP_SQUEEZE_EXCITE: y = x gate(W2 act(W1 mean(x) + b1) + b2). The algebra between the two passes
// over x is fp32, in small products of our own.
#include "backend/cuda/step_state.h"
#include "backend/cuda/steps.h"

// Rows (n, C) or (n, S), all fp32. Saved: what the layers take and give before their functions.
typedef struct Rows {
  float *mean, *squeezed, *hidden, *excited, *gate; // saved
  float *shares, *dmean, *dsqueezed, *dexcited;     // scratch; shares: of the sums over pixels
} Rows;

static size_t shares_bytes(const StepDesc *desc) {
  return memory_round_up(cuda_sum_pixels_scratch(desc, desc->output));
}

static Rows rows_of(const StepDesc *desc, const StepArgs *args) {
  int64_t wide = desc->batch * shape_channels(desc->output), narrow = desc->batch * desc->squeeze;
  float *saved = args->saved, *scratch = args->scratch;
  float *rest = scratch + shares_bytes(desc) / sizeof(float);
  return (Rows){.mean = saved,
                .excited = saved + wide,
                .gate = saved + 2 * wide,
                .squeezed = saved + 3 * wide,
                .hidden = saved + 3 * wide + narrow,
                .shares = scratch,
                .dmean = rest,
                .dexcited = rest + wide,
                .dsqueezed = rest + 2 * wide};
}

static Status plan(void **state, Device *device, const StepDesc *desc, StepNeeds *needs) {
  size_t wide = (size_t)(desc->batch * shape_channels(desc->output)) * sizeof(float);
  size_t narrow = (size_t)(desc->batch * desc->squeeze) * sizeof(float);
  *needs = (StepNeeds){.saved_size = 3 * wide + 2 * narrow,
                       .scratch_size = shares_bytes(desc) + (desc->training ? 2 * wide + narrow : 0),
                       .forward_in_place = true,
                       .backward_in_place = true,
                       .backward_reads_x = {true}};
  return cuda_step_state_create(state, device, desc);
}

// to = from scale + shift / pixels, by channel and sample.
static void scale_pixels(const StepState *state, void *to, const void *from, const float *scale,
                         const float *shift) {
  const StepDesc *desc = &state->desc;
  kernel_affine(&(KernelAffine){.type = cuda_type(desc->output, desc->dtype),
                                .pixels = cuda_batch_pixels(desc, desc->output),
                                .row_pixels = cuda_pixels(desc->output),
                                .channels = (int)shape_channels(desc->output),
                                .x = from,
                                .scale = scale,
                                .shift = shift,
                                .shift_factor = 1.0f / (float)cuda_pixels(desc->output),
                                .y = to},
                state->device->stream);
}

static Status forward(void *context, const StepArgs *args) {
  const StepState *state = context;
  const StepDesc *desc = &state->desc;
  cudaStream_t stream = state->device->stream;
  int channels = (int)shape_channels(desc->output), squeeze = (int)desc->squeeze;
  Rows rows = rows_of(desc, args);
  KernelSumPixels sums = cuda_sum_pixels(desc, desc->output);
  sums.a = args->x[0];
  sums.factor = 1.0f / (float)cuda_pixels(desc->output);
  sums.sums = rows.mean;
  sums.scratch = rows.shares;
  kernel_sum_pixels(&sums, stream);
  kernel_dense_forward(&(KernelDense){desc->batch, channels, squeeze,
                                      (KernelActivation)desc->activation, rows.mean,
                                      args->params[0], args->params[1], rows.hidden, rows.squeezed},
                       stream);
  kernel_dense_forward(&(KernelDense){desc->batch, squeeze, channels, (KernelActivation)desc->gate,
                                      rows.hidden, args->params[2], args->params[3], rows.gate,
                                      rows.excited},
                       stream);
  scale_pixels(state, args->y, args->x[0], rows.gate, NULL);
  return cuda__launched("squeeze-and-excite");
}

static Status rebuild(void *context, const StepArgs *args) {
  const StepState *state = context;
  scale_pixels(state, args->y, args->x[0], rows_of(&state->desc, args).gate, NULL);
  return cuda__launched("squeeze-and-excite, recomputed");
}

static Status backward(void *context, const StepArgs *args) {
  const StepState *state = context;
  const StepDesc *desc = &state->desc;
  cudaStream_t stream = state->device->stream;
  int channels = (int)shape_channels(desc->output), squeeze = (int)desc->squeeze;
  Rows rows = rows_of(desc, args);
  bool weights = desc->need_dparams;
  KernelSumPixels sums = cuda_sum_pixels(desc, desc->output);
  sums.a = args->dy;
  sums.b = args->x[0];
  sums.sums = rows.dexcited;
  sums.scratch = rows.shares;
  kernel_sum_pixels(&sums, stream);
  kernel_dense_backward(&(KernelDenseBackward){.rows = desc->batch,
                                               .inputs = squeeze,
                                               .outputs = channels,
                                               .kind = (KernelActivation)desc->gate,
                                               .x = rows.hidden,
                                               .weights = args->params[2],
                                               .z = rows.excited,
                                               .dy = rows.dexcited,
                                               .dz = rows.dexcited,
                                               .dx = rows.dsqueezed,
                                               .dweights = weights ? args->dparams[2] : NULL,
                                               .dbias = weights ? args->dparams[3] : NULL},
                        stream);
  kernel_dense_backward(&(KernelDenseBackward){.rows = desc->batch,
                                               .inputs = channels,
                                               .outputs = squeeze,
                                               .kind = (KernelActivation)desc->activation,
                                               .x = rows.mean,
                                               .weights = args->params[0],
                                               .z = rows.squeezed,
                                               .dy = rows.dsqueezed,
                                               .dz = rows.dsqueezed,
                                               .dx = args->dx[0] ? rows.dmean : NULL,
                                               .dweights = weights ? args->dparams[0] : NULL,
                                               .dbias = weights ? args->dparams[1] : NULL},
                        stream);
  if (args->dx[0]) scale_pixels(state, args->dx[0], args->dy, rows.gate, rows.dmean);
  return cuda__launched("squeeze-and-excite's gradient");
}

const StepImpl cuda_squeeze_excite = {
    .plan = plan, .unplan = cuda_step_state_free, .forward = forward, .backward = backward,
    .rebuild = rebuild};
