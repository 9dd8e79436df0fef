// Maximum and average pools. Which tap won a maximum is kept in `saved`, a byte for each element.
#include "backend/cuda/step_state.h"
#include "backend/cuda/steps.h"

enum { TAPS_MAX = 256 }; // a tap's number is a byte

static bool keeps_taps(const StepDesc *desc) {
  return desc->pool_is_max && desc->training && desc->need_dx[0];
}

static Status plan(void **state, Device *device, const StepDesc *desc, StepNeeds *needs) {
  if (desc->pool_is_max && desc->kernel_h * desc->kernel_w > TAPS_MAX)
    return status_set(STATUS_CONFIG, "%s: a maximum over %d x %d pixels: at most %d pixels",
                      desc->name, desc->kernel_h, desc->kernel_w, TAPS_MAX);
  *needs = (StepNeeds){.takes_second_dy = true};
  if (keeps_taps(desc))
    needs->saved_size =
        (size_t)(cuda_batch_pixels(desc, desc->output) *
                 kernel_stored_channels(cuda_type(desc->output, desc->dtype),
                                        shape_channels(desc->output)));
  return cuda_step_state_create(state, device, desc);
}

static KernelPool describe(const StepDesc *desc, const StepArgs *args) {
  Shape in = desc->inputs[0], out = desc->output;
  return (KernelPool){.type = cuda_type(in, desc->dtype),
                      .is_max = desc->pool_is_max,
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
                      .top = (int)desc->pads.top,
                      .left = (int)desc->pads.left,
                      .x = cuda_slice_at(desc, desc->x_slice[0], args->x[0]),
                      .x_pitch = cuda_slice_pitch(desc, desc->x_slice[0]),
                      .y = cuda_slice_at(desc, desc->y_slice, args->y),
                      .y_pitch = cuda_slice_pitch(desc, desc->y_slice),
                      .taps = keeps_taps(desc) ? args->saved : NULL,
                      .dy = cuda_slice_at(desc, desc->y_slice, args->dy),
                      .dy_pitch = cuda_slice_pitch(desc, desc->y_slice),
                      .dy2 = args->dy2,
                      .dx = args->dx[0]};
}

static Status forward(void *context, const StepArgs *args) {
  const StepState *state = context;
  KernelPool pool = describe(&state->desc, args);
  kernel_pool_forward(&pool, state->device->stream);
  return cuda__launched("pool");
}

static Status backward(void *context, const StepArgs *args) {
  const StepState *state = context;
  if (!args->dx[0]) return STATUS_OK;
  KernelPool pool = describe(&state->desc, args);
  kernel_pool_backward(&pool, state->device->stream);
  return cuda__launched("pool's gradient");
}

const StepImpl cuda_pool2d = {.plan = plan,
                              .unplan = cuda_step_state_free,
                              .forward = forward,
                              .backward = backward,
                              .reads_slices = true,
                              .writes_slices = true};
