// STEP_PAD puts zeros around the spatial dimensions and STEP_CROP cuts pixels off them; each is the
// other's backward pass. Rows are moved whole, so one form serves both layouts and all types.
#include <string.h>

#include "backend/cpu/device.h"
#include "backend/cpu/steps.h"
#include "base/memory.h"

typedef struct Pad {
  Device *device;
  int64_t planes;                    // of all images
  int64_t inner_h, outer_h, top;     // rows
  size_t inner_row, outer_row, left; // bytes
} Pad;

static void pad_unplan(void *state) {
  memory_free(state);
}

static Status plan(void **state, Device *device, const StepDesc *desc, Shape inner, Shape outer) {
  *state = NULL;
  Pad *p;
  TRY(memory_alloc(&p, 1, sizeof *p));
  size_t pixel = (size_t)cpu_value_block(device, inner) * dtype_size(desc->dtype);
  *p = (Pad){.device = device,
             .planes = desc->batch * cpu_value_planes(device, inner),
             .inner_h = inner.dim[0],
             .outer_h = outer.dim[0],
             .top = desc->pads.top,
             .inner_row = (size_t)inner.dim[1] * pixel,
             .outer_row = (size_t)outer.dim[1] * pixel,
             .left = (size_t)desc->pads.left * pixel};
  *state = p;
  return STATUS_OK;
}

static Status pad_plan(void **state, Device *device, const StepDesc *desc, StepNeeds *needs) {
  *needs = (StepNeeds){0};
  return plan(state, device, desc, desc->inputs[0], desc->output);
}

static Status crop_plan(void **state, Device *device, const StepDesc *desc, StepNeeds *needs) {
  *needs = (StepNeeds){0};
  return plan(state, device, desc, desc->output, desc->inputs[0]);
}

static void surround(const Pad *p, char *outer, const char *inner) {
  cpu_device_enter(p->device);
#pragma omp parallel for num_threads(p->device->threads) schedule(static)
  for (int64_t row = 0; row < p->planes * p->outer_h; row++) {
    char *to = outer + (size_t)row * p->outer_row;
    int64_t h = row % p->outer_h - p->top;
    if (h < 0 || h >= p->inner_h) {
      memset(to, 0, p->outer_row);
      continue;
    }
    const char *from = inner + (size_t)(row / p->outer_h * p->inner_h + h) * p->inner_row;
    memset(to, 0, p->left);
    memcpy(to + p->left, from, p->inner_row);
    memset(to + p->left + p->inner_row, 0, p->outer_row - p->left - p->inner_row);
  }
}

static void cut(const Pad *p, char *inner, const char *outer) {
  cpu_device_enter(p->device);
#pragma omp parallel for num_threads(p->device->threads) schedule(static)
  for (int64_t row = 0; row < p->planes * p->inner_h; row++) {
    int64_t from = row / p->inner_h * p->outer_h + row % p->inner_h + p->top;
    memcpy(inner + (size_t)row * p->inner_row, outer + (size_t)from * p->outer_row + p->left,
           p->inner_row);
  }
}

static Status pad_forward(void *state, const StepArgs *args) {
  surround(state, args->y, args->x[0]);
  return STATUS_OK;
}

static Status pad_backward(void *state, const StepArgs *args) {
  if (args->dx[0]) cut(state, args->dx[0], args->dy);
  return STATUS_OK;
}

static Status crop_forward(void *state, const StepArgs *args) {
  cut(state, args->y, args->x[0]);
  return STATUS_OK;
}

static Status crop_backward(void *state, const StepArgs *args) {
  if (args->dx[0]) surround(state, args->dx[0], args->dy);
  return STATUS_OK;
}

const StepImpl cpu_pad = {
    .plan = pad_plan, .unplan = pad_unplan, .forward = pad_forward, .backward = pad_backward};
const StepImpl cpu_crop = {
    .plan = crop_plan, .unplan = pad_unplan, .forward = crop_forward, .backward = crop_backward};
