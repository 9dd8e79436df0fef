// STEP_ACTIVATION: y = act(x), one pass over x and y; backward one over x, dy [, dy2] and dx.
// Softmax over the channels of a rank-1 value, for a model's last layer in inference.
#include <math.h>

#include "backend/cpu/planes.h"
#include "backend/cpu/step_state.h"
#include "backend/cpu/steps.h"

static Status plan(void **state, Device *device, const StepDesc *desc, StepNeeds *needs) {
  if (desc->activation == ACTIVATION_SOFTMAX && (desc->output.rank != 1 || desc->need_dx[0]))
    return status_set(STATUS_CONFIG,
                      "softmax is for the last layer's output, and not for training");
  *needs = (StepNeeds){.forward_in_place = true,
                       .backward_in_place = true,
                       .takes_second_dy = true,
                       .backward_reads_x = {true}};
  return cpu_step_state_create(state, device, desc);
}

static void softmax(const StepState *state, const StepArgs *args) {
  int64_t classes = shape_count(state->desc.output);
  for (int64_t n = 0; n < state->desc.batch; n++) {
    const float *x = (const float *)args->x[0] + n * classes;
    float *y = (float *)args->y + n * classes, top = x[0];
    double sum = 0.0;
    for (int64_t k = 1; k < classes; k++) top = x[k] > top ? x[k] : top;
    for (int64_t k = 0; k < classes; k++) sum += exp((double)x[k] - top);
    for (int64_t k = 0; k < classes; k++) y[k] = (float)(exp((double)x[k] - top) / sum);
  }
}

static void run(const StepState *state, const StepArgs *args, bool is_backward) {
  const StepDesc *desc = &state->desc;
  const Planes planes = planes_alike(state->device, desc->output, desc->batch, desc->dtype);
  const PointwiseKernels *kernels = &planes.kernels->pointwise[planes.type];
#pragma omp parallel for schedule(static) num_threads(state->device->threads)
  for (int64_t p = 0; p < planes.samples * planes.count; p++) {
    int64_t n = p / planes.count, b = p % planes.count;
    _Alignas(64) float lanes[VECTOR_BLOCK_MAX];
    lanes_load(lanes, NULL, 0, plane_lanes(&planes, b), 1.0f);
    PointwisePlane plane = {.pixels = planes.pixels,
                            .activation = desc->activation,
                            .lanes = lanes,
                            .a = plane_of_slice(&planes, desc->x_slice[0], args->x[0], n, b)};
    if (is_backward) {
      plane.dy = plane_of_slice(&planes, desc->y_slice, args->dy, n, b);
      plane.dy2 = plane_at(&planes, args->dy2, n, b);
      plane.da = plane_at(&planes, args->dx[0], n, b);
      kernels->activate_backward(&plane);
    } else {
      plane.y = plane_of_slice(&planes, desc->y_slice, args->y, n, b);
      kernels->activate(&plane);
    }
  }
}

static Status forward(void *context, const StepArgs *args) {
  const StepState *state = context;
  cpu_device_enter(state->device);
  if (state->desc.activation == ACTIVATION_SOFTMAX)
    softmax(state, args);
  else
    run(state, args, false);
  return STATUS_OK;
}

static Status backward(void *context, const StepArgs *args) {
  const StepState *state = context;
  cpu_device_enter(state->device);
  run(state, args, true);
  return STATUS_OK;
}

const StepImpl cpu_activation = {
    .plan = plan, .unplan = cpu_step_state_free, .forward = forward, .backward = backward,
    .rebuild = forward, .reads_slices = true, .writes_slices = true};
