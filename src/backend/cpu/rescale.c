// STEP_RESCALE: y = x scale + offset, one pair for all channels or one each.
#include "backend/cpu/planes.h"
#include "backend/cpu/step_state.h"
#include "backend/cpu/steps.h"

static Status plan(void **state, Device *device, const StepDesc *desc, StepNeeds *needs) {
  *needs =
      (StepNeeds){.forward_in_place = true, .backward_in_place = true, .takes_second_dy = true};
  return cpu_step_state_create(state, device, desc);
}

static void load_lanes(float *lanes, const double *values, const RescalingDesc *rescaling,
                       const Planes *planes, int64_t b) {
  for (int l = 0; l < VECTOR_BLOCK_MAX; l++) {
    int64_t channel = rescaling->count == 1 ? 0 : b * planes->block + l;
    lanes[l] = l < plane_lanes(planes, b) ? (float)values[channel] : 0.0f;
  }
}

static void run(const StepState *state, const StepArgs *args, bool is_backward) {
  const StepDesc *desc = &state->desc;
  const Planes planes = planes_of(state->device, desc->output, desc->batch, desc->dtype);
  const PointwiseKernels *kernels = &planes.kernels->pointwise[planes.type];
#pragma omp parallel for schedule(static) num_threads(state->device->threads)
  for (int64_t p = 0; p < planes.samples * planes.count; p++) {
    int64_t n = p / planes.count, b = p % planes.count;
    _Alignas(64) float scale[VECTOR_BLOCK_MAX];
    _Alignas(64) float shift[VECTOR_BLOCK_MAX];
    load_lanes(scale, desc->rescaling.scale, &desc->rescaling, &planes, b);
    load_lanes(shift, desc->rescaling.offset, &desc->rescaling, &planes, b);
    PointwisePlane plane = {.pixels = planes.pixels, .scale = scale};
    if (is_backward) {
      plane.dy = plane_of_slice(&planes, desc->y_slice, args->dy, n, b);
      plane.dy2 = plane_at(&planes, args->dy2, n, b);
      plane.da = plane_at(&planes, args->dx[0], n, b);
      kernels->scale_backward(&plane);
    } else {
      plane.shift = shift;
      plane.a = plane_of_slice(&planes, desc->x_slice[0], args->x[0], n, b);
      plane.y = plane_of_slice(&planes, desc->y_slice, args->y, n, b);
      kernels->scale(&plane);
    }
  }
}

static Status forward(void *context, const StepArgs *args) {
  const StepState *state = context;
  cpu_device_enter(state->device);
  run(state, args, false);
  return STATUS_OK;
}

static Status backward(void *context, const StepArgs *args) {
  const StepState *state = context;
  cpu_device_enter(state->device);
  run(state, args, true);
  return STATUS_OK;
}

const StepImpl cpu_rescale = {
    .plan = plan, .unplan = cpu_step_state_free, .forward = forward, .backward = backward,
    .reads_slices = true, .writes_slices = true};
