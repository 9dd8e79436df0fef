// STEP_GROUP_NORM: y = act(gamma (x - mean) rstd + beta), mean and rstd over the pixels and the
// channels of a group, of each sample alone (Wu and He, ECCV 2018). Training and inference do the
// same.
//
// The work is cut into spans: the fewest blocks of channels that hold whole groups, of one sample.
// A span is one thread's work from its statistics to its result, so nothing depends on the thread
// count and its planes are often still in a cache for the second pass. Passes over memory as
// norm.c's; its kernels do them, with the channel sums of a block merged into those of its groups.
//
// Saved: mean and rstd of each group of each sample.
#include <math.h>

#include "backend/cpu/planes.h"
#include "backend/cpu/steps.h"
#include "base/memory.h"

typedef struct GroupNorm {
  const Device *device;
  Planes planes;
  NormKernels kernels;
  StepDesc desc;
  int64_t group_channels, span_blocks, spans; // spans of a sample
} GroupNorm;

// What the passes know of one group.
typedef struct Group {
  float mean, rstd;
  float dz_mean, slope; // backward: see NormPlane
} Group;

// One span of one sample: its blocks, and its groups, of which a span has at most a block's lanes.
typedef struct Span {
  int64_t sample;
  Range blocks;
  int64_t first_group;
  int group_count;
  Group groups[VECTOR_BLOCK_MAX];
} Span;

// Channel quantities of one block.
typedef struct GroupLanes {
  _Alignas(64) float mean[VECTOR_BLOCK_MAX];
  _Alignas(64) float scale[VECTOR_BLOCK_MAX];
  _Alignas(64) float shift[VECTOR_BLOCK_MAX];
  _Alignas(64) float lanes[VECTOR_BLOCK_MAX];
  _Alignas(64) float dz_mean[VECTOR_BLOCK_MAX];
  _Alignas(64) float slope[VECTOR_BLOCK_MAX];
} GroupLanes;

static int64_t common_divisor(int64_t a, int64_t b) {
  return b == 0 ? a : common_divisor(b, a % b);
}

static Status plan(void **state, Device *device, const StepDesc *desc, StepNeeds *needs) {
  *state = NULL;
  if (desc->activation == ACTIVATION_SOFTMAX)
    return status_set(STATUS_CONFIG, "%s: softmax cannot follow a normalisation", desc->name);
  GroupNorm *norm;
  TRY(memory_alloc(&norm, 1, sizeof *norm));
  norm->device = device;
  norm->desc = *desc;
  norm->planes = planes_of(device, desc->inputs[0], desc->batch, desc->dtype);
  norm->kernels = norm->planes.kernels->norm[norm->planes.type];
  norm->group_channels = norm->planes.channels / desc->groups;
  norm->span_blocks =
      norm->group_channels / common_divisor(norm->group_channels, norm->planes.block);
  norm->spans = (norm->planes.count + norm->span_blocks - 1) / norm->span_blocks;
  size_t lanes = (size_t)(norm->planes.samples * norm->planes.count * norm->planes.block);
  *needs = (StepNeeds){
      .saved_size = (size_t)(desc->batch * desc->groups) * 2 * sizeof(float),
      .scratch_size = 2 * lanes * sizeof(float),
      .forward_in_place = true,
      .backward_in_place = true,
      .takes_second_dy = true,
      .backward_reads_x = {true},
  };
  *state = norm;
  return STATUS_OK;
}

static void unplan(void *state) {
  memory_free(state);
}

static int64_t least(int64_t a, int64_t b) {
  return a < b ? a : b;
}

static Span span_at(const GroupNorm *norm, int64_t index) {
  int64_t first = index % norm->spans * norm->span_blocks;
  int64_t end = least(first + norm->span_blocks, norm->planes.count);
  int64_t first_channel = first * norm->planes.block;
  int64_t end_channel = least(end * norm->planes.block, norm->planes.channels);
  return (Span){.sample = index / norm->spans,
                .blocks = {first, end},
                .first_group = first_channel / norm->group_channels,
                .group_count = (int)((end_channel - first_channel) / norm->group_channels)};
}

static float *saved_of(const GroupNorm *norm, const Span *span, void *saved) {
  return (float *)saved + 2 * (span->sample * norm->desc.groups + span->first_group);
}

// Two vectors of a block of a sample, in scratch: its moments, or its sums of dz and dz (x - mean).
static float *partials_of(const GroupNorm *norm, int64_t sample, int64_t block, void *scratch) {
  return (float *)scratch + 2 * (sample * norm->planes.count + block) * norm->planes.block;
}

// The two partial quantities of one channel.
typedef struct Pair {
  float first, second;
} Pair;

static Pair channel_pair(const GroupNorm *norm, int64_t sample, int64_t channel, void *scratch) {
  int block = norm->planes.block;
  const float *partial = partials_of(norm, sample, channel / block, scratch) + channel % block;
  return (Pair){partial[0], partial[block]};
}

// Channels merge as in Chan, Golub and LeVeque 1983: each has the same number of pixels.
static void merge_group(const GroupNorm *norm, const Span *span, int g, void *scratch, Group *out) {
  int64_t count = norm->group_channels, first = (span->first_group + g) * count;
  double mean = 0.0, deviation = 0.0, pixels = (double)norm->planes.pixels;
  for (int64_t c = first; c < first + count; c++)
    mean += channel_pair(norm, span->sample, c, scratch).first;
  mean /= (double)count;
  for (int64_t c = first; c < first + count; c++) {
    Pair moments = channel_pair(norm, span->sample, c, scratch);
    deviation += moments.second + pixels * (moments.first - mean) * (moments.first - mean);
  }
  double variance = deviation / (pixels * (double)count);
  *out = (Group){.mean = (float)mean, .rstd = (float)(1.0 / sqrt(variance + norm->desc.epsilon))};
}

static float gamma_of(const StepArgs *args, int64_t channel) {
  return args->params[0] ? args->params[0][channel] : 1.0f;
}

// dx = gamma rstd dz - rstd mean(gamma dz) - (x - mean) rstd^3 mean(gamma dz (x - mean))
static void merge_gradients(const GroupNorm *norm, const Span *span, int g, const StepArgs *args,
                            Group *group) {
  int64_t count = norm->group_channels, first = (span->first_group + g) * count;
  double sum = 0.0, sum_x = 0.0, total = (double)(norm->planes.pixels * count);
  for (int64_t c = first; c < first + count; c++) {
    Pair sums = channel_pair(norm, span->sample, c, args->scratch);
    sum += (double)gamma_of(args, c) * sums.first;
    sum_x += (double)gamma_of(args, c) * sums.second;
  }
  double rstd = group->rstd;
  group->dz_mean = (float)(rstd * sum / total);
  group->slope = (float)(rstd * rstd * rstd * sum_x / total);
}

static void load_lanes(const GroupNorm *norm, const Span *span, const StepArgs *args, int64_t b,
                       GroupLanes *lanes) {
  int count = plane_lanes(&norm->planes, b);
  *lanes = (GroupLanes){0};
  for (int l = 0; l < count; l++) {
    int64_t channel = b * norm->planes.block + l;
    const Group *group = &span->groups[channel / norm->group_channels - span->first_group];
    lanes->mean[l] = group->mean;
    lanes->scale[l] = gamma_of(args, channel) * group->rstd;
    lanes->shift[l] = args->params[1] ? args->params[1][channel] : 0.0f;
    lanes->lanes[l] = 1.0f;
    lanes->dz_mean[l] = group->dz_mean;
    lanes->slope[l] = group->slope;
  }
}

static NormPlane plane_of(const GroupNorm *norm, const GroupLanes *lanes) {
  return (NormPlane){.pixels = norm->planes.pixels,
                     .activation = norm->desc.activation,
                     .mean = lanes->mean,
                     .scale = lanes->scale,
                     .shift = lanes->shift,
                     .lanes = lanes->lanes,
                     .dz_mean = lanes->dz_mean,
                     .slope = lanes->slope};
}

static const void *x_plane(const GroupNorm *norm, const StepArgs *args, int64_t n, int64_t b) {
  return plane_of_slice(&norm->planes, norm->desc.x_slice[0], args->x[0], n, b);
}

static void find_statistics(const GroupNorm *norm, const StepArgs *args, Span *span) {
  const Planes *planes = &norm->planes;
  float *saved = saved_of(norm, span, args->saved);
  for (int64_t b = span->blocks.begin; b < span->blocks.end; b++) {
    float *partial = partials_of(norm, span->sample, b, args->scratch);
    norm->kernels.moments(x_plane(norm, args, span->sample, b), planes->pixels, partial,
                          partial + planes->block);
  }
  for (int g = 0; g < span->group_count; g++) {
    merge_group(norm, span, g, args->scratch, &span->groups[g]);
    saved[2 * g] = span->groups[g].mean;
    saved[2 * g + 1] = span->groups[g].rstd;
  }
}

static void load_statistics(const GroupNorm *norm, const StepArgs *args, Span *span) {
  const float *saved = saved_of(norm, span, args->saved);
  for (int g = 0; g < span->group_count; g++)
    span->groups[g] = (Group){.mean = saved[2 * g], .rstd = saved[2 * g + 1]};
}

static void normalize_span(const GroupNorm *norm, const StepArgs *args, const Span *span) {
  const Planes *planes = &norm->planes;
  GroupLanes lanes;
  NormPlane plane = plane_of(norm, &lanes);
  for (int64_t b = span->blocks.begin; b < span->blocks.end; b++) {
    load_lanes(norm, span, args, b, &lanes);
    plane.x = x_plane(norm, args, span->sample, b);
    plane.y = plane_of_slice(planes, norm->desc.y_slice, args->y, span->sample, b);
    norm->kernels.forward(&plane);
  }
}

static void run_forward(const GroupNorm *norm, const StepArgs *args, bool is_known) {
  cpu_device_enter(norm->device);
#pragma omp parallel for schedule(static) num_threads(norm->device->threads)
  for (int64_t i = 0; i < norm->planes.samples * norm->spans; i++) {
    Span span = span_at(norm, i);
    if (is_known) load_statistics(norm, args, &span);
    else find_statistics(norm, args, &span);
    normalize_span(norm, args, &span);
  }
}

static Status forward(void *state, const StepArgs *args) {
  run_forward(state, args, false);
  return STATUS_OK;
}

static Status rebuild(void *state, const StepArgs *args) {
  run_forward(state, args, true);
  return STATUS_OK;
}

static void backward_span(const GroupNorm *norm, const StepArgs *args, Span *span) {
  const Planes *planes = &norm->planes;
  load_statistics(norm, args, span);
  GroupLanes lanes;
  NormPlane plane = plane_of(norm, &lanes);
  for (int pass = 0; pass < (args->dx[0] ? 2 : 1); pass++) {
    for (int64_t b = span->blocks.begin; b < span->blocks.end; b++) {
      load_lanes(norm, span, args, b, &lanes);
      plane.x = x_plane(norm, args, span->sample, b);
      plane.dy = plane_of_slice(planes, norm->desc.y_slice, args->dy, span->sample, b);
      plane.dy2 = plane_at(planes, args->dy2, span->sample, b);
      plane.sum_dz = partials_of(norm, span->sample, b, args->scratch);
      plane.sum_dz_x = plane.sum_dz + planes->block;
      plane.dx = pass ? plane_at(planes, args->dx[0], span->sample, b) : NULL;
      (pass ? norm->kernels.backward_apply : norm->kernels.backward_sums)(&plane);
    }
    for (int g = 0; g < span->group_count && !pass; g++)
      merge_gradients(norm, span, g, args, &span->groups[g]);
  }
}

// Sums over the samples, in their order.
static void parameter_gradients(const GroupNorm *norm, const StepArgs *args) {
  const float *saved = args->saved;
  for (int64_t c = 0; c < norm->planes.channels; c++) {
    double dgamma = 0.0, dbeta = 0.0;
    for (int64_t n = 0; n < norm->planes.samples; n++) {
      Pair sums = channel_pair(norm, n, c, args->scratch);
      int64_t group = n * norm->desc.groups + c / norm->group_channels;
      dgamma += (double)sums.second * saved[2 * group + 1];
      dbeta += sums.first;
    }
    if (args->dparams[0]) args->dparams[0][c] = (float)dgamma;
    if (args->dparams[1]) args->dparams[1][c] = (float)dbeta;
  }
}

static Status backward(void *state, const StepArgs *args) {
  const GroupNorm *norm = state;
  cpu_device_enter(norm->device);
#pragma omp parallel for schedule(static) num_threads(norm->device->threads)
  for (int64_t i = 0; i < norm->planes.samples * norm->spans; i++) {
    Span span = span_at(norm, i);
    backward_span(norm, args, &span);
  }
  if (norm->desc.need_dparams) parameter_gradients(norm, args);
  return STATUS_OK;
}

const StepImpl cpu_group_norm = {
    .plan = plan, .unplan = unplan, .forward = forward, .backward = backward,
    .rebuild = rebuild, .reads_slices = true, .writes_slices = true};
