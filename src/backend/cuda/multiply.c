// STEP_MULTIPLY: y = a g, the gate g (C,) in fp32 the same for every pixel of a sample. Backward:
// da = dy g, dg = sum over pixels of dy a.
#include "backend/cuda/step_state.h"
#include "backend/cuda/steps.h"

static Status plan(void **state, Device *device, const StepDesc *desc, StepNeeds *needs) {
  if (desc->inputs[1].rank != 1 ||
      shape_channels(desc->inputs[0]) != shape_channels(desc->inputs[1])) {
    char a[SHAPE_TEXT_CAPACITY], b[SHAPE_TEXT_CAPACITY];
    return status_set(STATUS_CONFIG, "%s: cannot multiply %s by %s: one must be (C,)", desc->name,
                      shape_format(desc->inputs[0], a), shape_format(desc->inputs[1], b));
  }
  *needs = (StepNeeds){.scratch_size = desc->need_dx[1] ? cuda_sum_pixels_scratch(desc, desc->output) : 0,
                       .forward_in_place = true,
                       .backward_in_place = true,
                       .backward_reads_x = {desc->need_dx[1], desc->need_dx[0]}};
  return cuda_step_state_create(state, device, desc);
}

static void scale(const StepState *state, void *to, const void *from, const float *gate) {
  const StepDesc *desc = &state->desc;
  kernel_affine(&(KernelAffine){.type = cuda_type(desc->output, desc->dtype),
                                .pixels = cuda_batch_pixels(desc, desc->output),
                                .row_pixels = cuda_pixels(desc->output),
                                .channels = (int)shape_channels(desc->output),
                                .x = from,
                                .scale = gate,
                                .y = to},
                state->device->stream);
}

static Status forward(void *context, const StepArgs *args) {
  scale(context, args->y, args->x[0], args->x[1]);
  return cuda__launched("product");
}

static Status backward(void *context, const StepArgs *args) {
  const StepState *state = context;
  const StepDesc *desc = &state->desc;
  KernelSumPixels sums = cuda_sum_pixels(desc, desc->output);
  sums.a = args->dy;
  sums.b = args->x[0];
  sums.sums = args->dx[1];
  sums.scratch = args->scratch;
  if (args->dx[1]) kernel_sum_pixels(&sums, state->device->stream); // first: dx[0] may lie on dy
  if (args->dx[0]) scale(state, args->dx[0], args->dy, args->x[1]);
  return cuda__launched("product's gradient");
}

const StepImpl cuda_multiply = {
    .plan = plan, .unplan = cuda_step_state_free, .forward = forward, .backward = backward};
