// Maximum and average pools. Pixels outside take no part: not in the maximum, not in the average's
// count. Of equal maxima the first gets the gradient; which one it was is kept in `saved`, a byte
// for each element of y.
//
// Own kernels: oneDNN sums bf16 gradients of overlapping windows in bf16, and has none below
// AVX-512.
#include "backend/cpu/planes.h"
#include "backend/cpu/steps.h"
#include "base/memory.h"

enum { TAPS_MAX = 256 }; // a tap's number is a byte

typedef struct Pool2d {
  Device *device;
  bool is_max, keeps_taps;
  Slice x_slice, y_slice;
  Planes in, out;
  const PoolKernels *kernels;
  PoolPlane plane; // sizes and window; the pointers are set for each plane
} Pool2d;

static void pool2d_unplan(void *state) {
  memory_free(state);
}

static PoolPlane plane_of_step(const StepDesc *desc) {
  Shape in = desc->inputs[0], out = desc->output;
  return (PoolPlane){.in_h = in.dim[0],
                     .in_w = in.dim[1],
                     .out_h = out.dim[0],
                     .out_w = out.dim[1],
                     .kernel_h = desc->kernel_h,
                     .kernel_w = desc->kernel_w,
                     .stride_h = desc->stride_h,
                     .stride_w = desc->stride_w,
                     .top = desc->pads.top,
                     .left = desc->pads.left};
}

static int64_t elements_of(const Planes *planes) {
  return planes->pixels * planes->block;
}

static Status pool2d_plan(void **state, Device *device, const StepDesc *desc, StepNeeds *needs) {
  *state = NULL;
  if (desc->pool_is_max && desc->kernel_h * desc->kernel_w > TAPS_MAX)
    return status_set(STATUS_CONFIG, "%s: a maximum over %d x %d pixels: at most %d pixels",
                      desc->name, desc->kernel_h, desc->kernel_w, TAPS_MAX);
  Pool2d *p;
  TRY(memory_alloc(&p, 1, sizeof *p));
  bool need_dx = desc->training && desc->need_dx[0];
  p->device = device;
  p->is_max = desc->pool_is_max;
  p->keeps_taps = desc->pool_is_max && need_dx;
  p->in = planes_of(device, desc->inputs[0], desc->batch, desc->dtype);
  p->out = planes_of(device, desc->output, desc->batch, desc->dtype);
  p->kernels = &p->in.kernels->pool[p->in.type == DTYPE_BF16];
  p->plane = plane_of_step(desc);
  p->x_slice = desc->x_slice[0];
  p->y_slice = desc->y_slice;
  *needs = (StepNeeds){.takes_second_dy = true};
  if (p->keeps_taps)
    needs->saved_size = (size_t)(p->out.samples * p->out.count * elements_of(&p->out));
  if (need_dx && p->in.type == DTYPE_BF16)
    needs->scratch_size = (size_t)(device->threads * elements_of(&p->in)) * sizeof(float);
  *state = p;
  return STATUS_OK;
}

static uint8_t *taps_at(const Pool2d *p, const StepArgs *args, int64_t plane) {
  return p->keeps_taps ? (uint8_t *)args->saved + plane * elements_of(&p->out) : NULL;
}

static Status pool2d_forward(void *state, const StepArgs *args) {
  const Pool2d *p = state;
  cpu_device_enter(p->device);
  int64_t planes = p->in.samples * p->in.count;
#pragma omp parallel for num_threads(p->device->threads) schedule(static)
  for (int64_t i = 0; i < planes; i++) {
    int64_t n = i / p->in.count, b = i % p->in.count;
    PoolPlane plane = p->plane;
    plane.x = plane_of_slice(&p->in, p->x_slice, args->x[0], n, b);
    plane.y = plane_of_slice(&p->out, p->y_slice, args->y, n, b);
    plane.taps = taps_at(p, args, i);
    if (p->is_max)
      p->kernels->maximum(&plane);
    else
      p->kernels->average(&plane);
  }
  return STATUS_OK;
}

static Status pool2d_backward(void *state, const StepArgs *args) {
  const Pool2d *p = state;
  if (!args->dx[0]) return STATUS_OK;
  cpu_device_enter(p->device);
  int64_t planes = p->in.samples * p->in.count;
  int threads = p->device->threads;
#pragma omp parallel for num_threads(threads) schedule(static, 1)
  for (int part = 0; part < threads; part++) {
    Range range = range_cut(planes, part, threads);
    for (int64_t i = range.begin; i < range.end; i++) {
      PoolPlane plane = p->plane;
      plane.dy = plane_of_slice(&p->out, p->y_slice, args->dy, i / p->out.count, i % p->out.count);
      plane.dy2 = plane_at(&p->out, args->dy2, 0, i);
      plane.dx = plane_at(&p->in, args->dx[0], 0, i);
      plane.taps = taps_at(p, args, i);
      plane.sums =
          p->in.type == DTYPE_F32 ? plane.dx : (float *)args->scratch + part * elements_of(&p->in);
      if (p->is_max)
        p->kernels->maximum_backward(&plane);
      else
        p->kernels->average_backward(&plane);
    }
  }
  return STATUS_OK;
}

const StepImpl cpu_pool2d = {.plan = pool2d_plan,
                             .unplan = pool2d_unplan,
                             .forward = pool2d_forward,
                             .backward = pool2d_backward,
                             .reads_slices = true,
                             .writes_slices = true};
