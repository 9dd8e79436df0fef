// STEP_CONCAT: inputs side by side along the channels; backward takes them apart. Inputs that lie
// in the output already cost nothing. The others are a copy each: packs where every piece begins
// and ends on a pack, elements elsewhere.
#include "backend/cuda/step_state.h"
#include "backend/cuda/steps.h"

static Status plan(void **state, Device *device, const StepDesc *desc, StepNeeds *needs) {
  *needs = (StepNeeds){0};
  return cuda_step_state_create(state, device, desc);
}

// All pixels of a sample as one row; a vector is one pixel.
static KernelWindowCopy describe(const StepDesc *desc, Shape from, Shape to, int count) {
  return (KernelWindowCopy){.type = cuda_type(from, desc->dtype),
                            .samples = desc->batch,
                            .in_h = 1,
                            .in_w = cuda_pixels(from),
                            .out_h = 1,
                            .out_w = cuda_pixels(to),
                            .in_channels = (int)shape_channels(from),
                            .out_channels = (int)shape_channels(to),
                            .count = count};
}

static Status forward(void *context, const StepArgs *args) {
  const StepState *state = context;
  const StepDesc *desc = &state->desc;
  int first = 0;
  for (int k = 0; k < desc->input_count; k++) {
    int channels = (int)shape_channels(desc->inputs[k]);
    KernelWindowCopy copy = describe(desc, desc->inputs[k], desc->output, channels);
    copy.first = first;
    copy.clears = k == desc->input_count - 1;
    copy.x = args->x[k];
    copy.y = args->y;
    if (desc->x_slice[k].channels > 0) { // of another concatenation
      copy.in_channels = (int)desc->x_slice[k].channels;
      copy.from = (int)desc->x_slice[k].first;
    }
    if (!desc->in_place[k]) kernel_window_copy(&copy, state->device->stream);
    first += channels;
  }
  return cuda__launched("concatenation");
}

static Status backward(void *context, const StepArgs *args) {
  const StepState *state = context;
  const StepDesc *desc = &state->desc;
  int from = 0;
  for (int k = 0; k < desc->input_count; k++) {
    int channels = (int)shape_channels(desc->inputs[k]);
    KernelWindowCopy copy = describe(desc, desc->output, desc->inputs[k], channels);
    copy.from = from;
    copy.clears = true;
    copy.x = args->dy;
    copy.y = args->dx[k];
    if (args->dx[k] && !desc->in_place[k]) kernel_window_copy(&copy, state->device->stream);
    from += channels;
  }
  return cuda__launched("concatenation's gradient");
}

const StepImpl cuda_concat = {.plan = plan,
                              .unplan = cuda_step_state_free,
                              .forward = forward,
                              .backward = backward,
                              .rebuild = forward,
                              .reads_slices = true};
