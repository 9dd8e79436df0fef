// STEP_DROPOUT: y = x mask / (1 - rate) [+ residual]. The mask of an element is a function of
// (seed, step, layer, place in the global batch, element in H, W, C order), so it is the same
// whatever the rank, the layout or the thread that draws it; backward draws it again. One draw a
// sample (stochastic depth; Huang et al., ECCV 2016) is a scaling of whole planes.
#include "backend/cpu/planes.h"
#include "backend/cpu/step_state.h"
#include "backend/cpu/steps.h"
#include "base/rng.h"

static Status plan(void **state, Device *device, const StepDesc *desc, StepNeeds *needs) {
  *needs = (StepNeeds){.forward_in_place = true,
                       .backward_in_place = true,
                       .residual_in_place = desc->input_count > 1,
                       .takes_second_dy = true};
  return cpu_step_state_create(state, device, desc);
}

static bool draws(const StepDesc *desc) {
  return desc->training && desc->rate > 0.0;
}

static Planes planes_of_step(const StepState *state) {
  const StepDesc *desc = &state->desc;
  if (desc->output.rank == 1) // its elements are the pixels of one plane
    return planes_alike(state->device, desc->output, desc->batch, desc->dtype);
  return planes_of(state->device, desc->output, desc->batch, desc->dtype);
}

// The four draws last made: neighbours share one.
typedef struct Drawn {
  int64_t group; // -1: none
  RngWords words;
} Drawn;

static float mask_of(const StepState *state, const StepKey *key, Drawn *drawn, int64_t sample,
                     int64_t element) {
  int64_t group = element / 4;
  if (group != drawn->group) {
    // 16 counter bits for the group, and the rest of its number beside the layer.
    uint64_t place = (uint64_t)(key->first_sample + sample) | (uint64_t)state->desc.layer << 32 |
                     ((uint64_t)group >> 16) << 48;
    drawn->group = group;
    drawn->words = rng_draw(key->seed, RNG_DROPOUT, (uint64_t)key->step, place,
                            (uint32_t)((uint64_t)group & 0xffff));
  }
  float keep = 1.0f - (float)state->desc.rate;
  return rng_unit(drawn->words.word[element % 4]) < keep ? 1.0f / keep : 0.0f;
}

// One plane with a mask for each element: y = a mask [+ b], or da = (dy [+ dy2]) mask.
static void mask_plane(const StepState *state, const StepKey *key, const Planes *planes, int64_t p,
                       const PointwisePlane *plane) {
  int64_t n = p / planes->count, b = p % planes->count;
  int lanes = plane_lanes(planes, b);
  const void *in = plane->dy ? plane->dy : plane->a;
  const void *more = plane->dy ? plane->dy2 : NULL;
  void *out = plane->dy ? plane->da : plane->y;
  Drawn drawn = {.group = -1};
  for (int64_t i = 0; i < planes->pixels * planes->block; i++) {
    int64_t lane = i % planes->block,
            element = i / planes->block * planes->channels + b * planes->block + lane;
    // A plain value's planes are channels of the pixels; its elements still count in H, W, C.
    float value = cpu_get(in, i, planes->type);
    if (more) value += cpu_get(more, i, planes->type);
    if (plane->dy && plane->db) cpu_put(plane->db, i, value, planes->type);
    if (!out) continue;
    value = lane < lanes ? value * mask_of(state, key, &drawn, n, element) : 0.0f;
    if (plane->b) value += cpu_get(plane->b, i, planes->type);
    cpu_put(out, i, value, planes->type);
  }
}

// `describe` fills in what a pass reads and writes of plane p of the batch.
typedef void DescribePlane(const StepDesc *desc, const Planes *planes, const StepArgs *args,
                           int64_t p, PointwisePlane *plane);

static void run(const StepState *state, const StepArgs *args, DescribePlane *describe,
                void (*kernel)(const PointwisePlane *plane)) {
  const StepDesc *desc = &state->desc;
  const Planes planes = planes_of_step(state);
  bool by_element = draws(desc) && !desc->per_sample;
#pragma omp parallel for schedule(static) num_threads(state->device->threads)
  for (int64_t p = 0; p < planes.samples * planes.count; p++) {
    int64_t n = p / planes.count;
    PointwisePlane plane = {.pixels = planes.pixels};
    describe(desc, &planes, args, p, &plane);
    if (by_element) {
      mask_plane(state, args->key, &planes, p, &plane);
      continue;
    }
    Drawn drawn = {.group = -1};
    _Alignas(64) float scale[VECTOR_BLOCK_MAX];
    float whole = draws(desc) ? mask_of(state, args->key, &drawn, n, 0) : 1.0f;
    for (int l = 0; l < VECTOR_BLOCK_MAX; l++) scale[l] = whole;
    plane.scale = scale;
    kernel(&plane);
  }
}

static void describe_forward(const StepDesc *desc, const Planes *planes, const StepArgs *args,
                             int64_t p, PointwisePlane *plane) {
  int64_t n = p / planes->count, b = p % planes->count;
  plane->a = plane_of_slice(planes, desc->x_slice[0], args->x[0], n, b);
  plane->b = plane_of_slice(planes, desc->x_slice[1], args->x[1], n, b);
  plane->y = plane_of_slice(planes, desc->y_slice, args->y, n, b);
}

static void describe_backward(const StepDesc *desc, const Planes *planes, const StepArgs *args,
                              int64_t p, PointwisePlane *plane) {
  int64_t n = p / planes->count, b = p % planes->count;
  plane->dy = plane_of_slice(planes, desc->y_slice, args->dy, n, b);
  plane->dy2 = plane_at(planes, args->dy2, n, b);
  plane->da = plane_at(planes, args->dx[0], n, b);
  bool there = args->dx[1] == args->dy && !args->dy2;
  plane->db = there ? NULL : plane_at(planes, args->dx[1], n, b);
}

static const PointwiseKernels *kernels_of(const StepState *state) {
  const Planes planes = planes_of_step(state);
  return &planes.kernels->pointwise[planes.type];
}

static Status forward(void *context, const StepArgs *args) {
  const StepState *state = context;
  cpu_device_enter(state->device);
  run(state, args, describe_forward, kernels_of(state)->scale);
  return STATUS_OK;
}

static Status backward(void *context, const StepArgs *args) {
  const StepState *state = context;
  cpu_device_enter(state->device);
  run(state, args, describe_backward, kernels_of(state)->scale_backward);
  return STATUS_OK;
}

const StepImpl cpu_dropout = {
    .plan = plan, .unplan = cpu_step_state_free, .forward = forward, .backward = backward,
    .reads_slices = true, .writes_slices = true};
