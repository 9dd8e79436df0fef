// STEP_ADD: y = act(a + factor b). Backward hands the gradient of the sum to both summands; ReLU
// and ReLU6 take their slope from y, the others from the sum once more. One pass each way, and none
// backward where the gradient of y is that of both already.
#include "backend/cpu/planes.h"
#include "backend/cpu/step_state.h"
#include "backend/cpu/steps.h"

static bool slope_from_result(const StepDesc *desc) {
  return desc->activation == ACTIVATION_RELU || desc->activation == ACTIVATION_RELU6;
}

static Status plan(void **state, Device *device, const StepDesc *desc, StepNeeds *needs) {
  if (desc->activation == ACTIVATION_SOFTMAX)
    return status_set(STATUS_CONFIG, "%s: softmax cannot follow a sum", desc->name);
  bool reads_x = desc->activation != ACTIVATION_LINEAR && !slope_from_result(desc);
  *needs = (StepNeeds){.forward_in_place = true,
                       .backward_in_place = true,
                       .residual_in_place = true,
                       .takes_second_dy = true,
                       .backward_reads_x = {reads_x, reads_x},
                       .backward_reads_y = slope_from_result(desc)};
  return cpu_step_state_create(state, device, desc);
}

// Of b, in every lane; NULL where it is 1.
static const float *load_factor(const StepDesc *desc, float lanes[VECTOR_BLOCK_MAX]) {
  if (desc->factor == 0.0 || desc->factor == 1.0) return NULL;
  for (int l = 0; l < VECTOR_BLOCK_MAX; l++) lanes[l] = (float)desc->factor;
  return lanes;
}

static Status forward(void *context, const StepArgs *args) {
  const StepState *state = context;
  const StepDesc *desc = &state->desc;
  const Planes planes = planes_alike(state->device, desc->output, desc->batch, desc->dtype);
  _Alignas(64) float factor[VECTOR_BLOCK_MAX];
  const float *scale = load_factor(desc, factor);
  cpu_device_enter(state->device);
#pragma omp parallel for schedule(static) num_threads(state->device->threads)
  for (int64_t p = 0; p < planes.samples * planes.count; p++) {
    int64_t n = p / planes.count, b = p % planes.count;
    _Alignas(64) float lanes[VECTOR_BLOCK_MAX];
    lanes_load(lanes, NULL, 0, plane_lanes(&planes, b), 1.0f);
    PointwisePlane plane = {.pixels = planes.pixels,
                            .activation = desc->activation,
                            .lanes = lanes,
                            .scale = scale,
                            .a = plane_of_slice(&planes, desc->x_slice[0], args->x[0], n, b),
                            .b = plane_of_slice(&planes, desc->x_slice[1], args->x[1], n, b),
                            .y = plane_of_slice(&planes, desc->y_slice, args->y, n, b)};
    planes.kernels->pointwise[planes.type].activate(&plane);
  }
  return STATUS_OK;
}

static Status backward(void *context, const StepArgs *args) {
  const StepState *state = context;
  const StepDesc *desc = &state->desc;
  const Planes planes = planes_alike(state->device, desc->output, desc->batch, desc->dtype);
  bool linear = desc->activation == ACTIVATION_LINEAR, by_result = slope_from_result(desc);
  const void *a = linear ? NULL : by_result ? args->y : args->x[0];
  Slice a_slice = by_result ? desc->y_slice : desc->x_slice[0];
  const void *b = linear || by_result ? NULL : args->x[1];
  void *dx[2] = {args->dx[0], args->dx[1]};
  _Alignas(64) float factor[VECTOR_BLOCK_MAX];
  const float *scale = load_factor(desc, factor);
  for (int k = 0; k < 2; k++) // what is there already
    if (linear && !args->dy2 && dx[k] == args->dy && !(k == 1 && scale)) dx[k] = NULL;
  if (!dx[0] && !dx[1]) return STATUS_OK;
  cpu_device_enter(state->device);
#pragma omp parallel for schedule(static) num_threads(state->device->threads)
  for (int64_t p = 0; p < planes.samples * planes.count; p++) {
    int64_t n = p / planes.count, at = p % planes.count;
    PointwisePlane plane = {.pixels = planes.pixels,
                            .activation = desc->activation,
                            .scale = scale,
                            .a = plane_of_slice(&planes, a_slice, a, n, at),
                            .b = plane_of_slice(&planes, desc->x_slice[1], b, n, at),
                            .dy = plane_of_slice(&planes, desc->y_slice, args->dy, n, at),
                            .dy2 = plane_at(&planes, args->dy2, n, at),
                            .da = plane_at(&planes, dx[0], n, at),
                            .db = plane_at(&planes, dx[1], n, at)};
    planes.kernels->pointwise[planes.type].activate_backward(&plane);
  }
  return STATUS_OK;
}

const StepImpl cpu_add = {
    .plan = plan, .unplan = cpu_step_state_free, .forward = forward, .backward = backward,
    .reads_slices = true, .writes_slices = true};
