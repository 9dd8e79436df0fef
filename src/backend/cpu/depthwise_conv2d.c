// STEP_DEPTHWISE_CONV2D by own kernels (vector_depthwise.c): oneDNN 2.6's weight gradient of 5 x 5
// kernels and of small maps is tens to hundreds of times slower.
//
// The fp32 kernel (kh, kw, C, 1) is repacked once an update to the taps of a channel block side by
// side. A plane of one sample and one block is one thread's work, backward both gradients at once,
// while its dy is in a cache: read x, write y; read x, dy, write dx. Weight gradients go by plane
// and merge in the order of the samples: the thread count changes nothing.
#include <omp.h>

#include "backend/cpu/planes.h"
#include "backend/cpu/steps.h"
#include "base/memory.h"

typedef struct Depthwise {
  const Device *device;
  StepDesc desc;
  Planes in, out;
  DepthwiseKernels kernels;
  DepthwisePlane plane; // what all planes share
  int64_t taps;
  void *grouped; // the state of cpu_conv2d, where that does the work
} Depthwise;

static void unplan(void *state) {
  Depthwise *depthwise = state;
  if (!depthwise) return;
  cpu_conv2d.unplan(depthwise->grouped);
  memory_free(depthwise);
}

// Dilation, two strides and kernels past 7 x 7 have no kernels here. They are a convolution of as
// many groups as channels, whose kernel (kh, kw, 1, C) lies alike.
static bool has_kernels(const StepDesc *desc) {
  return desc->stride_h == desc->stride_w && desc->dilation <= 1 &&
         desc->kernel_h <= DEPTHWISE_KERNEL_MAX && desc->kernel_w <= DEPTHWISE_KERNEL_MAX;
}

// Floats of the packed taps of all blocks; the bias of all lies behind.
static int64_t packed_taps(const Depthwise *d) {
  return d->in.count * d->taps * d->in.block;
}

// Floats of one plane's weight gradients.
static int64_t gradient_floats(const Depthwise *d) {
  return (d->taps + (d->desc.has_bias ? 1 : 0)) * d->in.block;
}

// More than a core's share of the last cache on any machine we know.
enum { CACHE_OF_THREAD = 16 << 20 };

// Whether x and y leave the caches before another step comes back to them. This tells the kernels
// how to move them, and changes no bit.
static bool is_large(const Depthwise *d) {
  size_t bytes = (size_t)(d->in.samples * d->in.count) * (d->in.plane_bytes + d->out.plane_bytes);
  return bytes > (size_t)d->device->threads * CACHE_OF_THREAD;
}

static Status plan(void **out, Device *device, const StepDesc *desc, StepNeeds *needs) {
  Status status;
  Depthwise *d;
  *out = NULL;
  *needs = (StepNeeds){0};
  TRY(memory_alloc(&d, 1, sizeof *d));
  if (!has_kernels(desc)) {
    StepDesc grouped = *desc;
    grouped.kind = STEP_CONV2D;
    grouped.groups = (int)shape_channels(desc->output);
    GUARD(cpu_conv2d.plan(&d->grouped, device, &grouped, needs));
    *out = d;
    return STATUS_OK;
  }
  d->device = device;
  d->desc = *desc;
  d->in = planes_of(device, desc->inputs[0], desc->batch, desc->dtype);
  d->out = planes_of(device, desc->output, desc->batch, desc->dtype);
  d->kernels = d->in.kernels->depthwise[d->in.type];
  d->taps = (int64_t)desc->kernel_h * desc->kernel_w;
  d->plane = (DepthwisePlane){.in_h = desc->inputs[0].dim[0],
                              .in_w = desc->inputs[0].dim[1],
                              .out_h = desc->output.dim[0],
                              .out_w = desc->output.dim[1],
                              .kernel_h = desc->kernel_h,
                              .kernel_w = desc->kernel_w,
                              .stride = desc->stride_h,
                              .pad_top = desc->pads.top,
                              .pad_left = desc->pads.left,
                              .large = is_large(d)};
  int64_t rows = depthwise_scratch_floats(&d->plane, d->in.block) * device->threads;
  int64_t gradients = desc->need_dparams ? d->in.samples * d->in.count * gradient_floats(d) : 0;
  needs->persistent_size = (size_t)(packed_taps(d) + d->in.count * d->in.block) * sizeof(float);
  needs->scratch_size = (size_t)(rows + gradients) * sizeof(float);
  needs->backward_reads_x[0] = desc->need_dparams;
  *out = d;
  return STATUS_OK;
out:
  unplan(d);
  return status;
}

static Status prepare(void *state, const StepArgs *args) {
  const Depthwise *d = state;
  if (d->grouped) return cpu_conv2d.prepare(d->grouped, args);
  float *packed = args->persistent, *bias = packed + packed_taps(d);
  int64_t block = d->in.block, channels = d->in.channels;
  for (int64_t b = 0; b < d->in.count; b++)
    for (int64_t l = 0; l < block; l++) {
      int64_t c = b * block + l;
      bool is_channel = c < channels;
      for (int64_t t = 0; t < d->taps; t++)
        packed[(b * d->taps + t) * block + l] =
            is_channel ? args->params[0][t * channels + c] : 0.0f;
      bias[c] = is_channel && d->desc.has_bias ? args->params[1][c] : 0.0f;
    }
  return STATUS_OK;
}

// Plane i of all, the blocks of a sample side by side, without its values.
static DepthwisePlane plane_number(const Depthwise *d, const StepArgs *args, int64_t i) {
  DepthwisePlane plane = d->plane;
  int64_t b = i % d->in.count, block = d->in.block;
  const float *packed = args->persistent;
  plane.weights = packed + b * d->taps * block;
  plane.bias = d->desc.has_bias ? packed + packed_taps(d) + b * block : NULL;
  return plane;
}

// The calling thread's part of the scratch memory.
static float *rows_of_thread(const Depthwise *d, const StepArgs *args) {
  return (float *)args->scratch +
         omp_get_thread_num() * depthwise_scratch_floats(&d->plane, d->in.block);
}

static Status forward(void *state, const StepArgs *args) {
  const Depthwise *d = state;
  if (d->grouped) return cpu_conv2d.forward(d->grouped, args);
  cpu_device_enter(d->device);
#pragma omp parallel for schedule(static) num_threads(d->device->threads)
  for (int64_t i = 0; i < d->in.samples * d->in.count; i++) {
    DepthwisePlane plane = plane_number(d, args, i);
    plane.x = plane_at(&d->in, args->x[0], 0, i);
    plane.y = plane_at(&d->out, args->y, 0, i);
    d->kernels.forward(&plane, rows_of_thread(d, args));
  }
  return STATUS_OK;
}

// dparams from the planes' gradients.
static void merge_gradients(const Depthwise *d, const StepArgs *args, const float *gradients) {
  int64_t block = d->in.block, channels = d->in.channels, rows = gradient_floats(d) / block;
#pragma omp parallel for schedule(static) num_threads(d->device->threads)
  for (int64_t b = 0; b < d->in.count; b++)
    for (int64_t t = 0; t < rows; t++) {
      float sums[VECTOR_BLOCK_MAX] = {0};
      for (int64_t n = 0; n < d->in.samples; n++) {
        const float *row = gradients + ((n * d->in.count + b) * rows + t) * block;
        for (int64_t l = 0; l < block; l++) sums[l] += row[l];
      }
      float *out = t < d->taps ? args->dparams[0] + t * channels : args->dparams[1];
      for (int l = 0; l < plane_lanes(&d->in, b); l++) out[b * block + l] = sums[l];
    }
}

static Status backward(void *state, const StepArgs *args) {
  const Depthwise *d = state;
  if (d->grouped) return cpu_conv2d.backward(d->grouped, args);
  int64_t block = d->in.block, each = gradient_floats(d);
  float *gradients = (float *)args->scratch +
                     depthwise_scratch_floats(&d->plane, d->in.block) * d->device->threads;
  cpu_device_enter(d->device);
#pragma omp parallel for schedule(static) num_threads(d->device->threads)
  for (int64_t i = 0; i < d->in.samples * d->in.count; i++) {
    DepthwisePlane plane = plane_number(d, args, i);
    plane.dy = plane_at(&d->out, args->dy, 0, i);
    if (d->desc.need_dparams) {
      plane.x = plane_at(&d->in, args->x[0], 0, i);
      plane.dweights = gradients + i * each;
      plane.dbias = d->desc.has_bias ? plane.dweights + d->taps * block : NULL;
      d->kernels.weights(&plane, rows_of_thread(d, args));
    }
    plane.dx = plane_at(&d->in, args->dx[0], 0, i);
    if (plane.dx) d->kernels.data(&plane, rows_of_thread(d, args));
  }
  if (d->desc.need_dparams) merge_gradients(d, args, gradients);
  return STATUS_OK;
}

const StepImpl cpu_depthwise_conv2d = {
    .plan = plan, .unplan = unplan, .prepare = prepare, .forward = forward, .backward = backward};
