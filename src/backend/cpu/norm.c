// Batch normalisation, fused with a residual sum and an activation:
//   z = gamma (x - mean) rstd + beta [+ residual],  y = act(z)
// Ioffe and Szegedy, ICML 2015; the gradients are those of its section 3.
//
// Passes over memory, the floor of what this costs (a pass reads or writes one value once):
//   forward, batch statistics  read x | read x [, residual], write y
//   forward, moving statistics read x [, residual], write y
//   rebuild                    read x [, residual], write y
//   backward                   read x, dy [, dy2] [, y] [write dz] | read x, dy [, dy2], write dx
// Both passes of a channel block follow each other, so the second often finds x in a cache. The
// slope of the activation comes from z, computed again from x; with a residual, ReLU and ReLU6 take
// it from y and the others read the residual again. dz, which is dx[1], is stored in the first pass
// and then read in place of dy, dy2 and y. Sums go by plane and merge in the order of the samples:
// the thread count changes nothing.
//
// Saved: mean and rstd, two vectors for each channel block.
#include <math.h>
#include <omp.h>

#include "backend/cpu/planes.h"
#include "backend/cpu/steps.h"
#include "base/memory.h"

typedef struct Norm {
  const Device *device;
  Planes planes;
  NormKernels kernels;
  StepDesc desc;
  bool split_channels; // threads take channel blocks, else samples
} Norm;

// One thread's part of the work and the memory for it.
typedef struct NormTask {
  Range blocks, samples;
  float *partials;  // two, taken in turn: by sample, two vectors
  bool shares;      // the samples of a block are cut among threads
} NormTask;

// Channel quantities of one block.
typedef struct NormLanes {
  _Alignas(64) float mean[VECTOR_BLOCK_MAX];
  _Alignas(64) float rstd[VECTOR_BLOCK_MAX];
  _Alignas(64) float scale[VECTOR_BLOCK_MAX];
  _Alignas(64) float shift[VECTOR_BLOCK_MAX];
  _Alignas(64) float lanes[VECTOR_BLOCK_MAX];
  _Alignas(64) float dz_mean[VECTOR_BLOCK_MAX];
  _Alignas(64) float slope[VECTOR_BLOCK_MAX];
} NormLanes;

static bool has_residual(const Norm *norm) { return norm->desc.input_count > 1; }

// Whether backward knows the slope from y alone.
static bool slope_from_result(const StepDesc *desc) {
  return desc->input_count > 1 && (desc->activation == ACTIVATION_RELU ||
                                   desc->activation == ACTIVATION_RELU6);
}

static size_t partial_floats(const Norm *norm) {
  return (size_t)(norm->planes.samples * 2 * norm->planes.block);
}

static Status norm_plan(void **state, Device *device, const StepDesc *desc, StepNeeds *needs) {
  *state = NULL;
  if (desc->activation == ACTIVATION_SOFTMAX)
    return status_set(STATUS_CONFIG, "%s: softmax cannot follow a normalisation", desc->name);
  Norm *norm;
  TRY(memory_alloc(&norm, 1, sizeof *norm));
  norm->device = device;
  norm->desc = *desc;
  norm->planes = planes_of(device, desc->inputs[0], desc->batch, desc->dtype);
  norm->kernels = norm->planes.kernels->norm[norm->planes.type];
  int64_t blocks = norm->planes.count, samples = norm->planes.samples, threads = device->threads;
  int64_t by_block = (blocks + threads - 1) / threads * samples;
  int64_t by_sample = (samples + threads - 1) / threads * blocks;
  norm->split_channels = by_block <= by_sample + by_sample / 8; // samples need barriers
  bool curved = desc->activation != ACTIVATION_LINEAR;
  bool from_result = slope_from_result(desc);
  size_t lanes = (size_t)(blocks * norm->planes.block) * sizeof(float);
  *needs = (StepNeeds){
      .saved_size = desc->training ? 2 * lanes : 0,
      .scratch_size = partial_floats(norm) * sizeof(float) * 2 * (size_t)threads,
      .forward_in_place = true,
      .backward_in_place = true,
      .residual_in_place = desc->input_count > 1,
      .takes_second_dy = true,
      .backward_reads_x = {desc->use_batch_statistics || desc->need_dparams ||
                               (curved && !from_result),
                           curved && !from_result && desc->input_count > 1},
      .backward_reads_y = from_result,
  };
  *state = norm;
  return STATUS_OK;
}

static void norm_unplan(void *state) { memory_free(state); }

// The calling thread's task in a team of omp_get_num_threads().
static NormTask task_of_thread(const Norm *norm, void *scratch) {
  int thread = omp_get_thread_num(), threads = omp_get_num_threads();
  NormTask task = {.blocks = {0, norm->planes.count}, .samples = {0, norm->planes.samples}};
  task.shares = !norm->split_channels && threads > 1;
  task.partials = scratch;
  if (norm->split_channels) {
    task.blocks = range_cut(norm->planes.count, thread, threads);
    task.partials += 2 * partial_floats(norm) * (size_t)thread;
  } else task.samples = range_cut(norm->planes.samples, thread, threads);
  return task;
}

// Two halves in turn: a thread that is ahead by one block must not overwrite what others still
// merge.
static float *partials_of_block(const Norm *norm, const NormTask *task, int64_t b) {
  return task->partials + (b & 1 ? partial_floats(norm) : 0);
}

// mean and variance of block b over the batch, in every thread that works on it.
static void batch_moments(const Norm *norm, const NormTask *task, const StepArgs *args, int64_t b,
                          float *mean, float *deviation) {
  const Planes *planes = &norm->planes;
  float *partials = partials_of_block(norm, task, b);
  for (int64_t n = task->samples.begin; n < task->samples.end; n++) {
    float *partial = partials + n * 2 * planes->block;
    norm->kernels.moments(plane_of_slice(planes, norm->desc.x_slice[0], args->x[0], n, b),
                          planes->pixels, partial, partial + planes->block);
  }
  if (task->shares) {
#pragma omp barrier
  }
  norm->kernels.merge_moments(partials, planes->samples, planes->pixels, mean, deviation);
}

static void load_affine(const Norm *norm, const StepArgs *args, int64_t b, NormLanes *lanes) {
  int count = plane_lanes(&norm->planes, b);
  int64_t first = b * norm->planes.block;
  lanes_load(lanes->scale, args->params[0], first, count, 1.0f); // gamma, for now
  lanes_load(lanes->shift, args->params[1], first, count, 0.0f);
  lanes_load(lanes->lanes, NULL, first, count, 1.0f);
}

static void scale_by_rstd(NormLanes *lanes) {
  for (int i = 0; i < VECTOR_BLOCK_MAX; i++) lanes->scale[i] *= lanes->rstd[i];
}

static float rstd_of(double variance, double epsilon) {
  return (float)(1.0 / sqrt(variance + epsilon));
}

// Statistics of block b into lanes, and to where they are kept.
static void forward_statistics(const Norm *norm, const NormTask *task, const StepArgs *args,
                               int64_t b, NormLanes *lanes) {
  const Planes *planes = &norm->planes;
  int count = plane_lanes(planes, b);
  int64_t first = b * planes->block;
  bool writes = !task->shares || omp_get_thread_num() == 0;
  if (!norm->desc.use_batch_statistics) {
    lanes_load(lanes->mean, args->params[2], first, count, 0.0f);
    lanes_load(lanes->rstd, args->params[3], first, count, 1.0f);
    for (int i = 0; i < count; i++) lanes->rstd[i] = rstd_of(lanes->rstd[i], norm->desc.epsilon);
  } else {
    _Alignas(64) float deviation[VECTOR_BLOCK_MAX];
    batch_moments(norm, task, args, b, lanes->mean, deviation);
    double total = (double)(planes->samples * planes->pixels);
    for (int i = 0; i < count; i++) {
      lanes->rstd[i] = rstd_of(deviation[i] / total, norm->desc.epsilon);
      if (!writes) continue;
      if (args->dparams[2]) args->dparams[2][first + i] = lanes->mean[i];
      if (args->dparams[3])
        args->dparams[3][first + i] = (float)(deviation[i] / (total > 1.0 ? total - 1.0 : 1.0));
    }
    for (int i = count; i < VECTOR_BLOCK_MAX; i++) lanes->rstd[i] = 0.0f;
  }
  if (!norm->desc.training || !writes) return;
  float *saved = (float *)args->saved + first * 2;
  for (int i = 0; i < planes->block; i++) {
    saved[i] = lanes->mean[i];
    saved[planes->block + i] = lanes->rstd[i];
  }
}

// What forward_statistics kept.
static void load_statistics(const Norm *norm, const StepArgs *args, int64_t b, NormLanes *lanes) {
  const Planes *planes = &norm->planes;
  const float *saved = (const float *)args->saved + b * planes->block * 2;
  for (int i = 0; i < VECTOR_BLOCK_MAX; i++) {
    lanes->mean[i] = i < planes->block ? saved[i] : 0.0f;
    lanes->rstd[i] = i < planes->block ? saved[planes->block + i] : 0.0f;
  }
}

static NormPlane plane_of(const Norm *norm, NormLanes *lanes) {
  return (NormPlane){.pixels = norm->planes.pixels,
                     .activation = norm->desc.activation,
                     .mean = lanes->mean,
                     .scale = lanes->scale,
                     .shift = lanes->shift,
                     .lanes = lanes->lanes,
                     .dz_mean = lanes->dz_mean,
                     .slope = lanes->slope};
}

static void forward_task(const Norm *norm, const StepArgs *args, const NormTask *task,
                         bool is_known) {
  const StepDesc *desc = &norm->desc;
  const Planes *planes = &norm->planes;
  const void *residual = has_residual(norm) ? args->x[1] : NULL;
  NormLanes lanes;
  for (int64_t b = task->blocks.begin; b < task->blocks.end; b++) {
    load_affine(norm, args, b, &lanes);
    if (is_known) load_statistics(norm, args, b, &lanes);
    else forward_statistics(norm, task, args, b, &lanes);
    scale_by_rstd(&lanes);
    NormPlane plane = plane_of(norm, &lanes);
    for (int64_t n = task->samples.begin; n < task->samples.end; n++) {
      plane.x = plane_of_slice(planes, desc->x_slice[0], args->x[0], n, b);
      plane.residual = plane_of_slice(planes, desc->x_slice[1], residual, n, b);
      plane.y = plane_of_slice(planes, desc->y_slice, args->y, n, b);
      norm->kernels.forward(&plane);
    }
  }
}

static void run_forward(const Norm *norm, const StepArgs *args, bool is_known) {
  cpu_device_enter(norm->device);
#pragma omp parallel num_threads(norm->device->threads)
  {
    NormTask task = task_of_thread(norm, args->scratch);
    forward_task(norm, args, &task, is_known);
  }
}

static Status norm_forward(void *state, const StepArgs *args) {
  run_forward(state, args, false);
  return STATUS_OK;
}

static Status norm_rebuild(void *state, const StepArgs *args) {
  run_forward(state, args, true);
  return STATUS_OK;
}

// What the two passes of backward read and write, of a whole value.
typedef struct BackwardPlan {
  const void *residual, *result;
  void *dz;        // stored by the first pass
  bool sums;       // the first pass sums
  bool apply;      // there is a second pass, for dx
} BackwardPlan;

static BackwardPlan backward_plan(const Norm *norm, const StepArgs *args) {
  const StepDesc *desc = &norm->desc;
  bool curved = desc->activation != ACTIVATION_LINEAR;
  BackwardPlan plan = {0};
  if (slope_from_result(desc)) plan.result = args->y;
  else if (curved && has_residual(norm)) plan.residual = args->x[1];
  bool dz_is_dy = !curved && !args->dy2;
  if (has_residual(norm) && args->dx[1] && !(dz_is_dy && args->dx[1] == args->dy))
    plan.dz = args->dx[1];
  plan.apply = desc->use_batch_statistics && args->dx[0];
  plan.sums = plan.apply || args->dparams[0] || args->dparams[1];
  return plan;
}

static void first_pass(const Norm *norm, const StepArgs *args, const NormTask *task,
                       const BackwardPlan *plan, int64_t b, NormLanes *lanes) {
  const StepDesc *desc = &norm->desc;
  const Planes *planes = &norm->planes;
  float *partials = partials_of_block(norm, task, b);
  NormPlane plane = plane_of(norm, lanes);
  for (int64_t n = task->samples.begin; n < task->samples.end; n++) {
    plane.x = plane_of_slice(planes, desc->x_slice[0], args->x[0], n, b);
    plane.residual = plane_of_slice(planes, desc->x_slice[1], plan->residual, n, b);
    plane.result = plane_of_slice(planes, desc->y_slice, plan->result, n, b);
    plane.dy = plane_of_slice(planes, desc->y_slice, args->dy, n, b);
    plane.dy2 = plane_at(planes, args->dy2, n, b);
    plane.dz = plane_at(planes, plan->dz, n, b);
    plane.dx = plan->apply ? NULL : plane_at(planes, args->dx[0], n, b);
    plane.sum_dz = plan->sums ? partials + n * 2 * planes->block : NULL;
    plane.sum_dz_x = plan->sums ? plane.sum_dz + planes->block : NULL;
    norm->kernels.backward_sums(&plane);
  }
}

// dgamma, dbeta, and what the second pass subtracts.
static void merge_gradients(const Norm *norm, const StepArgs *args, const NormTask *task,
                            int64_t b, NormLanes *lanes) {
  const Planes *planes = &norm->planes;
  _Alignas(64) float sum[VECTOR_BLOCK_MAX], sum_x[VECTOR_BLOCK_MAX];
  if (task->shares) {
#pragma omp barrier
  }
  norm->kernels.merge_sums(partials_of_block(norm, task, b), planes->samples, sum, sum_x);
  float total = (float)(planes->samples * planes->pixels);
  int count = plane_lanes(planes, b);
  int64_t first = b * planes->block;
  bool writes = !task->shares || omp_get_thread_num() == 0;
  for (int i = 0; i < planes->block; i++) {
    float share = lanes->scale[i] / total;
    lanes->dz_mean[i] = sum[i] * share;
    lanes->slope[i] = sum_x[i] * lanes->rstd[i] * lanes->rstd[i] * share;
    if (!writes || i >= count) continue;
    if (args->dparams[0]) args->dparams[0][first + i] = sum_x[i] * lanes->rstd[i];
    if (args->dparams[1]) args->dparams[1][first + i] = sum[i];
  }
}

static void second_pass(const Norm *norm, const StepArgs *args, const NormTask *task,
                        const BackwardPlan *plan, int64_t b, NormLanes *lanes) {
  const StepDesc *desc = &norm->desc;
  const Planes *planes = &norm->planes;
  bool dz_known = plan->dz || (has_residual(norm) && args->dx[1] == args->dy);
  NormPlane plane = plane_of(norm, lanes);
  if (dz_known) plane.activation = ACTIVATION_LINEAR;
  for (int64_t n = task->samples.begin; n < task->samples.end; n++) {
    plane.x = plane_of_slice(planes, desc->x_slice[0], args->x[0], n, b);
    plane.dx = plane_at(planes, args->dx[0], n, b);
    plane.dy = plan->dz ? plane_at(planes, plan->dz, n, b)
                        : plane_of_slice(planes, desc->y_slice, args->dy, n, b);
    if (!dz_known) {
      plane.dy2 = plane_at(planes, args->dy2, n, b);
      plane.residual = plane_of_slice(planes, desc->x_slice[1], plan->residual, n, b);
      plane.result = plane_of_slice(planes, desc->y_slice, plan->result, n, b);
    }
    norm->kernels.backward_apply(&plane);
  }
}

static void backward_task(const Norm *norm, const StepArgs *args, const NormTask *task) {
  const BackwardPlan plan = backward_plan(norm, args);
  NormLanes lanes;
  for (int64_t b = task->blocks.begin; b < task->blocks.end; b++) {
    load_affine(norm, args, b, &lanes);
    load_statistics(norm, args, b, &lanes);
    scale_by_rstd(&lanes);
    if (plan.sums || plan.dz || args->dx[0])
      first_pass(norm, args, task, &plan, b, &lanes);
    if (plan.sums) merge_gradients(norm, args, task, b, &lanes);
    if (plan.apply) second_pass(norm, args, task, &plan, b, &lanes);
  }
}

static Status norm_backward(void *state, const StepArgs *args) {
  const Norm *norm = state;
  cpu_device_enter(norm->device);
#pragma omp parallel num_threads(norm->device->threads)
  {
    NormTask task = task_of_thread(norm, args->scratch);
    backward_task(norm, args, &task);
  }
  return STATUS_OK;
}

const StepImpl cpu_norm = {.plan = norm_plan,
                           .unplan = norm_unplan,
                           .forward = norm_forward,
                           .backward = norm_backward,
                           .rebuild = norm_rebuild,
                           .reads_slices = true,
                           .writes_slices = true};
