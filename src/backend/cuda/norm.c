// STEP_NORM: statistics, then one kernel for scale, residual sum and activation. A ReLU or ReLU6
// behind a residual keeps a byte a pack instead of the residual; without a residual the slope comes
// from x again, which backward reads anyway. Saved: mean and rstd of each channel, and the mask.
#include "backend/cuda/step_state.h"
#include "backend/cuda/steps.h"
#include "base/memory.h"

typedef struct Saved {
  float *mean, *rstd;
  uint8_t *mask;
} Saved;

static bool keeps_mask(const StepDesc *desc) {
  return desc->training && desc->input_count > 1 &&
         (desc->activation == ACTIVATION_RELU || desc->activation == ACTIVATION_RELU6);
}

static size_t vector_bytes(const StepDesc *desc) {
  return memory_round_up((size_t)shape_channels(desc->output) * sizeof(float));
}

static Saved saved_parts(const StepDesc *desc, void *memory) {
  char *parts = memory;
  return (Saved){(float *)parts, (float *)(parts + vector_bytes(desc)),
                 keeps_mask(desc) ? (uint8_t *)parts + 2 * vector_bytes(desc) : NULL};
}

static Status plan(void **state, Device *device, const StepDesc *desc, StepNeeds *needs) {
  if (desc->activation == ACTIVATION_SOFTMAX)
    return status_set(STATUS_CONFIG, "%s: softmax cannot follow a normalisation", desc->name);
  TRY(cuda_norm_check(desc));
  KernelType type = cuda_norm_type(desc);
  int64_t pixels = cuda_batch_pixels(desc, desc->output), channels = shape_channels(desc->output);
  size_t packs =
      (size_t)(pixels * kernel_stored_channels(type, channels)) * cuda_type_size(type) / 16;
  size_t sums = (size_t)kernel_column_scratch(type, pixels, (int)channels) * sizeof(float);
  bool recomputes = desc->activation != ACTIVATION_LINEAR && !keeps_mask(desc);
  // In inference the statistics are rebuilt in scratch each time.
  size_t vectors = 2 * vector_bytes(desc);
  *needs = (StepNeeds){
      .saved_size = desc->training ? vectors + (keeps_mask(desc) ? packs : 0) : 0,
      .scratch_size = sums + vectors,
      .forward_in_place = true,
      .backward_in_place = true,
      .residual_in_place = desc->input_count > 1,
      .takes_second_dy = true,
      .backward_reads_x = {desc->use_batch_statistics || desc->need_dparams || recomputes,
                           recomputes && desc->input_count > 1}};
  return cuda_step_state_create(state, device, desc);
}

static KernelNorm describe(const StepState *state, const StepArgs *args, bool is_backward) {
  const StepDesc *desc = &state->desc;
  KernelNorm norm = {.type = cuda_norm_type(desc),
                     .kind = (KernelActivation)desc->activation,
                     .pixels = cuda_batch_pixels(desc, desc->output),
                     .channels = (int)shape_channels(desc->output),
                     .x = args->x[0],
                     .residual = desc->input_count > 1 ? args->x[1] : NULL,
                     .y = cuda_slice_at(desc, desc->y_slice, args->y),
                     .y_pitch = cuda_slice_pitch(desc, desc->y_slice),
                     .gamma = args->params[0],
                     .beta = args->params[1]};
  char *scratch = args->scratch;
  Saved saved = saved_parts(desc, desc->training ? args->saved : args->scratch);
  norm.mean = saved.mean;
  norm.rstd = saved.rstd;
  norm.mask = desc->training ? saved.mask : NULL;
  norm.scratch = (float *)(scratch + 2 * vector_bytes(desc));
  if (is_backward && norm.mask) norm.residual = NULL;
  return norm;
}

static Status forward(void *context, const StepArgs *args) {
  const StepState *state = context;
  const StepDesc *desc = &state->desc;
  KernelNorm norm = describe(state, args, false);
  cudaStream_t stream = state->device->stream;
  if (desc->use_batch_statistics && args->statistics)
    kernel_norm_from_sums(&norm, desc->epsilon, args->statistics, args->dparams[2],
                          args->dparams[3], stream);
  else if (desc->use_batch_statistics)
    kernel_norm_statistics(&norm, desc->epsilon, args->dparams[2], args->dparams[3], stream);
  else
    kernel_norm_moving(&norm, desc->epsilon, args->params[2], args->params[3], stream);
  kernel_norm_forward(&norm, stream);
  return cuda__launched("normalisation");
}

static Status rebuild(void *context, const StepArgs *args) {
  const StepState *state = context;
  KernelNorm norm = describe(state, args, false);
  norm.mask = NULL; // it is there
  kernel_norm_forward(&norm, state->device->stream);
  return cuda__launched("normalisation, recomputed");
}

static Status backward(void *context, const StepArgs *args) {
  const StepState *state = context;
  const StepDesc *desc = &state->desc;
  kernel_norm_backward(&(KernelNormBackward){.norm = describe(state, args, true),
                                             .batch_statistics = desc->use_batch_statistics,
                                             .dy = cuda_slice_at(desc, desc->y_slice, args->dy),
                                             .dy_pitch = cuda_slice_pitch(desc, desc->y_slice),
                                             .dy2 = args->dy2,
                                             .dx = args->dx[0],
                                             .dresidual = args->dx[1],
                                             .dgamma = args->dparams[0],
                                             .dbeta = args->dparams[1]},
                       state->device->stream);
  return cuda__launched("normalisation's gradient");
}

const StepImpl cuda_norm = {.plan = plan,
                            .unplan = cuda_step_state_free,
                            .forward = forward,
                            .backward = backward,
                            .rebuild = rebuild,
                            .writes_slices = true};
