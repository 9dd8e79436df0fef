// STEP_SQUEEZE_EXCITE: y = x gate(W2 act(W1 mean(x) + b1) + b2). A sample is one thread's work from
// its mean to its result, so the second pass over its x often finds it in a cache; backward too.
// The algebra between is fp32. Passes over memory: read x | read x, write y; backward read x, dy |
// read dy, write dx. The gradients of the weights sum over samples in order, each row in one
// thread.
#include "backend/cpu/planes.h"
#include "backend/cpu/step_state.h"
#include "backend/cpu/steps.h"

// A row for each sample, (n, C) or (n, S), all fp32: what the two layers take and give before their
// functions. Saved by forward.
typedef struct Saved {
  float *mean, *squeezed, *excited;
} Saved;

// Gradients of the same, and act(squeezed).
typedef struct Gradients {
  float *mean, *squeezed, *excited, *gate, *hidden;
} Gradients;

static Status plan(void **state, Device *device, const StepDesc *desc, StepNeeds *needs) {
  int64_t channels = shape_channels(desc->output);
  size_t row = (size_t)(2 * channels + desc->squeeze) * sizeof(float);
  size_t batch = (size_t)desc->batch;
  *needs = (StepNeeds){.saved_size = batch * row,
                       .scratch_size =
                           batch * (row + (size_t)(channels + desc->squeeze) * sizeof(float)),
                       .forward_in_place = true,
                       .backward_in_place = true,
                       .backward_reads_x = {true}};
  return cpu_step_state_create(state, device, desc);
}

static Saved saved_parts(const StepDesc *desc, void *memory) {
  int64_t wide = desc->batch * shape_channels(desc->output), narrow = desc->batch * desc->squeeze;
  float *mean = memory;
  return (Saved){mean, mean + wide, mean + wide + narrow};
}

static Gradients gradient_parts(const StepDesc *desc, void *memory) {
  int64_t wide = desc->batch * shape_channels(desc->output), narrow = desc->batch * desc->squeeze;
  float *mean = memory, *squeezed = mean + wide, *excited = squeezed + narrow;
  return (Gradients){mean, squeezed, excited, excited + wide, excited + 2 * wide};
}

// Sums over the pixels of sample n: of a, or of a b, times `factor`, to C floats.
static void sum_pixels(const Planes *planes, float *out, const void *a, const void *b, int64_t n,
                       float factor) {
  for (int64_t p = 0; p < planes->count; p++) {
    _Alignas(64) float sums[VECTOR_BLOCK_MAX];
    planes->kernels->pointwise[planes->type].sum(plane_at(planes, a, n, p),
                                                 plane_at(planes, b, n, p), planes->pixels, sums);
    for (int l = 0; l < plane_lanes(planes, p); l++) out[p * planes->block + l] = sums[l] * factor;
  }
}

// out = in scale [+ shift], by channel, for sample n.
static void scale_pixels(const Planes *planes, void *out, const void *in, const float *scale,
                         const float *shift, int64_t n) {
  for (int64_t p = 0; p < planes->count; p++) {
    _Alignas(64) float factor[VECTOR_BLOCK_MAX];
    _Alignas(64) float offset[VECTOR_BLOCK_MAX];
    int lanes = plane_lanes(planes, p);
    lanes_load(factor, scale, p * planes->block, lanes, 0.0f);
    lanes_load(offset, shift, p * planes->block, lanes, 0.0f);
    PointwisePlane plane = {.pixels = planes->pixels,
                            .scale = factor,
                            .shift = offset,
                            .a = plane_at(planes, in, n, p),
                            .y = plane_at(planes, out, n, p)};
    planes->kernels->pointwise[planes->type].scale(&plane);
  }
}

static Status forward(void *context, const StepArgs *args) {
  const StepState *state = context;
  const StepDesc *desc = &state->desc;
  const Planes planes = planes_of(state->device, desc->output, desc->batch, desc->dtype);
  const DenseKernels *dense = state->device->kernels->dense;
  int64_t channels = planes.channels, squeeze = desc->squeeze;
  const Saved saved = saved_parts(desc, args->saved);
  const Gradients scratch = gradient_parts(desc, args->scratch);
  cpu_device_enter(state->device);
#pragma omp parallel for schedule(static) num_threads(state->device->threads)
  for (int64_t n = 0; n < desc->batch; n++) {
    float *mean = saved.mean + n * channels, *squeezed = saved.squeezed + n * squeeze;
    float *excited = saved.excited + n * channels, *gate = scratch.gate + n * channels;
    float *hidden = scratch.hidden + n * squeeze;
    sum_pixels(&planes, mean, args->x[0], NULL, n, 1.0f / (float)planes.pixels);
    dense->forward(squeezed, mean, args->params[0], args->params[1], channels, squeeze);
    dense->activate(hidden, squeezed, desc->activation, squeeze);
    dense->forward(excited, hidden, args->params[2], args->params[3], squeeze, channels);
    dense->activate(gate, excited, desc->gate, channels);
    scale_pixels(&planes, args->y, args->x[0], gate, NULL, n);
  }
  return STATUS_OK;
}

static Status rebuild(void *context, const StepArgs *args) {
  const StepState *state = context;
  const StepDesc *desc = &state->desc;
  const Planes planes = planes_of(state->device, desc->output, desc->batch, desc->dtype);
  const Saved saved = saved_parts(desc, args->saved);
  const Gradients scratch = gradient_parts(desc, args->scratch);
  cpu_device_enter(state->device);
#pragma omp parallel for schedule(static) num_threads(state->device->threads)
  for (int64_t n = 0; n < desc->batch; n++) {
    float *gate = scratch.gate + n * planes.channels;
    const float *excited = saved.excited + n * planes.channels;
    state->device->kernels->dense->activate(gate, excited, desc->gate, planes.channels);
    scale_pixels(&planes, args->y, args->x[0], gate, NULL, n);
  }
  return STATUS_OK;
}

// dW (inputs, outputs) and dbias of a layer from its inputs and the gradients of its results.
static void weight_gradients(const StepState *state, float *dw, float *dbias, const float *x,
                             const float *dy, int64_t inputs, int64_t outputs) {
  const DenseKernels *dense = state->device->kernels->dense;
  const float one = 1.0f;
  int64_t batch = state->desc.batch;
#pragma omp parallel for schedule(static) num_threads(state->device->threads)
  for (int64_t c = 0; c <= inputs; c++) {
    if (c < inputs)
      dense->row(dw + c * outputs, x + c, inputs, dy, batch, outputs);
    else if (dbias)
      dense->row(dbias, &one, 0, dy, batch, outputs);
  }
}

static Status backward(void *context, const StepArgs *args) {
  const StepState *state = context;
  const StepDesc *desc = &state->desc;
  const Planes planes = planes_of(state->device, desc->output, desc->batch, desc->dtype);
  const DenseKernels *dense = state->device->kernels->dense;
  int64_t channels = planes.channels, squeeze = desc->squeeze;
  const Saved saved = saved_parts(desc, args->saved);
  const Gradients d = gradient_parts(desc, args->scratch);
  cpu_device_enter(state->device);
#pragma omp parallel for schedule(static) num_threads(state->device->threads)
  for (int64_t n = 0; n < desc->batch; n++) {
    float *excited = d.excited + n * channels, *squeezed = d.squeezed + n * squeeze;
    float *mean = d.mean + n * channels, *gate = d.gate + n * channels;
    sum_pixels(&planes, excited, args->dy, args->x[0], n, 1.0f);
    dense->slope(excited, saved.excited + n * channels, desc->gate, channels);
    dense->backward(squeezed, excited, args->params[2], squeeze, channels);
    dense->slope(squeezed, saved.squeezed + n * squeeze, desc->activation, squeeze);
    dense->activate(d.hidden + n * squeeze, saved.squeezed + n * squeeze, desc->activation,
                    squeeze);
    if (!args->dx[0]) continue;
    dense->backward(mean, squeezed, args->params[0], channels, squeeze);
    for (int64_t c = 0; c < channels; c++) mean[c] /= (float)planes.pixels;
    dense->activate(gate, saved.excited + n * channels, desc->gate, channels);
    scale_pixels(&planes, args->dx[0], args->dy, gate, mean, n);
  }
  if (!desc->need_dparams) return STATUS_OK;
  weight_gradients(state, args->dparams[0], args->dparams[1], saved.mean, d.squeezed, channels,
                   squeeze);
  weight_gradients(state, args->dparams[2], args->dparams[3], d.hidden, d.excited, squeeze,
                   channels);
  return STATUS_OK;
}

const StepImpl cpu_squeeze_excite = {
    .plan = plan, .unplan = cpu_step_state_free, .forward = forward, .backward = backward,
    .rebuild = rebuild};
