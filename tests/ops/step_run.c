// One call of a step. See step_run.h.
#include "ops/step_run.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { SCRATCH_FRONT = 256 }; // where memory_alloc of a GPU starts, as scratch does

const char *const step_variant_names[VARIANT_COUNT] = {"plain",
                                                       "again",
                                                       "forward in place",
                                                       "backward in place",
                                                       "residual in place",
                                                       "second dy",
                                                       "second dy, backward in place",
                                                       "second dy, residual in place",
                                                       "only the first dx",
                                                       "only the second dx",
                                                       "only dparams",
                                                       "only dx",
                                                       "sliced",
                                                       "sliced, second dy",
                                                       "inference",
                                                       "inference in place"};

typedef struct Run {
  Target target;
  StepDesc desc;
  const StepData *data;
  StepVariant variant;
  StepNeeds needs;
  void *state;
  Block x[STEP_MAX_INPUTS], dx[STEP_MAX_INPUTS], params[STEP_MAX_PARAMETERS],
      dparams[STEP_MAX_PARAMETERS], y, dy, dy2, persistent, saved, scratch, key, statistics;
  StepArgs args;
} Run;

void step_results_free(StepResults *results) {
  free(results->y);
  for (int k = 0; k < STEP_MAX_INPUTS; k++) free(results->dx[k]);
  for (int k = 0; k < STEP_MAX_PARAMETERS; k++) free(results->dparams[k]);
  *results = (StepResults){0};
}

static float *floats_of(const double *values, int64_t count) {
  float *floats = host_alloc((size_t)count * sizeof *floats);
  for (int64_t i = 0; i < count; i++) floats[i] = (float)values[i];
  return floats;
}

static bool uses_dy2(StepVariant variant) {
  return variant == VARIANT_SECOND_DY || variant == VARIANT_SECOND_DY_IN_PLACE ||
         variant == VARIANT_SECOND_DY_RESIDUAL_IN_PLACE || variant == VARIANT_SLICED_SECOND_DY;
}

static bool has_parameters(const StepDesc *desc) {
  for (int k = 0; k < STEP_MAX_PARAMETERS; k++)
    if (step_parameter_count(desc, k)) return true;
  return false;
}

// Whether a step can be called that way; after planning, from its needs.
static bool variant_applies(const Run *run) {
  const StepNeeds *needs = &run->needs;
  bool joins = run->desc.input_count > 1;
  switch (run->variant) {
  case VARIANT_FORWARD_IN_PLACE:
    return needs->forward_in_place && !needs->backward_reads_x[0];
  case VARIANT_INFERENCE_IN_PLACE:
    return needs->forward_in_place;
  case VARIANT_BACKWARD_IN_PLACE:
    return needs->backward_in_place;
  case VARIANT_RESIDUAL_IN_PLACE:
    return joins && needs->residual_in_place;
  case VARIANT_SECOND_DY:
  case VARIANT_SLICED_SECOND_DY:
    return needs->takes_second_dy;
  case VARIANT_SECOND_DY_IN_PLACE:
    return needs->takes_second_dy && needs->backward_in_place;
  case VARIANT_SECOND_DY_RESIDUAL_IN_PLACE:
    return joins && needs->takes_second_dy && needs->residual_in_place;
  default:
    return true;
  }
}

// Lays a value into a wider one with other channels before it and, where that is possible, behind.
static bool slice_choose(const Target *target, Slice *out, Shape shape) {
  if (shape.rank != 3) return false;
  int64_t behind = shape.dim[2] % 16 == 0 ? 16 : 0;
  Slice slice = {.channels = 32 + shape.dim[2] + behind, .first = 32};
  if (!target->backend->can_slice(target->device, shape, slice)) return false;
  *out = slice;
  return true;
}

static bool slices_choose(const Target *target, StepDesc *desc) {
  const StepImpl *impl = target->backend->steps[desc->kind];
  bool any = impl->writes_slices && slice_choose(target, &desc->y_slice, desc->output);
  for (int k = 0; k < desc->input_count && impl->reads_slices; k++)
    any = slice_choose(target, &desc->x_slice[k], desc->inputs[k]) || any;
  return any;
}

// Changes the case to what the variant asks for; false where it makes no sense.
static bool variant_adapt(const Target *target, StepDesc *desc, StepVariant variant) {
  bool joins = desc->input_count > 1;
  if (variant == VARIANT_INFERENCE || variant == VARIANT_INFERENCE_IN_PLACE) {
    if (desc->use_batch_statistics) return false;
    desc->training = desc->need_dparams = false;
    memset(desc->need_dx, 0, sizeof desc->need_dx);
    return true;
  }
  if (!desc->training) return false;
  switch (variant) {
  case VARIANT_ONLY_FIRST_DX:
    desc->need_dx[1] = false;
    return joins;
  case VARIANT_ONLY_SECOND_DX:
    desc->need_dx[0] = false;
    return joins;
  case VARIANT_ONLY_DPARAMS:
    memset(desc->need_dx, 0, sizeof desc->need_dx);
    return has_parameters(desc);
  case VARIANT_ONLY_DX:
    desc->need_dparams = false;
    return has_parameters(desc);
  case VARIANT_SLICED:
  case VARIANT_SLICED_SECOND_DY:
    return slices_choose(target, desc);
  default:
    return true;
  }
}

static const Slice whole = {0};

static Shape shape_around(Shape shape, Slice slice) {
  if (slice.channels > 0) shape.dim[2] = slice.channels;
  return shape;
}

// The channels around a slice are NaNs.
static float *floats_around(const double *values, int64_t batch, Shape shape, Slice slice) {
  if (slice.channels == 0) return floats_of(values, batch * shape_count(shape));
  int64_t channels = shape.dim[2], pixels = batch * shape_count(shape) / channels;
  float *floats = host_alloc((size_t)(pixels * slice.channels) * sizeof *floats);
  for (int64_t i = 0; i < pixels * slice.channels; i++) {
    int64_t c = i % slice.channels - slice.first;
    bool inside = c >= 0 && c < channels;
    floats[i] = inside ? (float)values[i / slice.channels * channels + c] : NAN;
  }
  return floats;
}

// The opposite; what lies around must still be NaNs. Takes `floats` over.
static float *floats_inside(const Run *run, float *floats, Shape shape, Slice slice) {
  if (slice.channels == 0) return floats;
  int64_t channels = shape.dim[2];
  int64_t pixels = run->desc.batch * shape_count(shape) / channels;
  float *inside = host_alloc((size_t)(pixels * channels) * sizeof *inside);
  for (int64_t i = 0; i < pixels * slice.channels; i++) {
    int64_t c = i % slice.channels - slice.first;
    if (c >= 0 && c < channels)
      inside[i / slice.channels * channels + c] = floats[i];
    else if (!isnan(floats[i]))
      fail_msg("%s: wrote beside a slice", run->target.context);
  }
  free(floats);
  return inside;
}

static size_t value_size(const Run *run, Shape shape) {
  const Target *target = &run->target;
  return target->backend->value_size(target->device, shape, run->desc.batch, run->desc.dtype);
}

static void value_import(const Run *run, void *to, Shape shape, const float *dense) {
  const Target *target = &run->target;
  target_check(target, target->backend->value_import(target->device, to, shape, run->desc.batch,
                                                     run->desc.dtype, dense));
}

static void value_export(const Run *run, float *dense, const void *from, Shape shape) {
  const Target *target = &run->target;
  target_check(target, target->backend->value_export(target->device, dense, from, shape,
                                                     run->desc.batch, run->desc.dtype));
}

static void value_alloc(Run *run, Block *out, Shape shape, Slice slice, const double *values) {
  const StepDesc *desc = &run->desc;
  Shape around = shape_around(shape, slice);
  block_alloc(&run->target, out, value_size(run, around));
  if (!values) return;
  float *dense = floats_around(values, desc->batch, shape, slice);
  value_import(run, out->data, around, dense);
  free(dense);
}

static void inputs_alloc(Run *run) {
  const StepDesc *desc = &run->desc;
  for (int k = 0; k < desc->input_count; k++) {
    value_alloc(run, &run->x[k], desc->inputs[k], desc->x_slice[k], run->data->x[k]);
    run->args.x[k] = run->x[k].data;
  }
  for (int k = 0; k < STEP_MAX_PARAMETERS; k++) {
    int64_t count = step_parameter_count(desc, k);
    if (!count) continue;
    block_alloc(&run->target, &run->params[k], (size_t)count * sizeof(float));
    float *values = floats_of(run->data->params[k], count);
    target_write(&run->target, run->params[k].data, values, run->params[k].size);
    free(values);
    run->args.params[k] = run->params[k].data;
  }
}

static bool dparams_wanted(const StepDesc *desc, int k) {
  if (!desc->training || !step_parameter_count(desc, k)) return false;
  return desc->kind == STEP_NORM && k >= 2 ? desc->use_batch_statistics : desc->need_dparams;
}

static void gradients_alloc(Run *run) {
  const StepDesc *desc = &run->desc;
  int64_t count = desc->batch * shape_count(desc->output);
  double *dy = host_alloc((size_t)count * sizeof *dy);
  for (int64_t i = 0; i < count; i++)
    dy[i] = run->data->dy[i] - (uses_dy2(run->variant) ? run->data->dy2[i] : 0.0);
  value_alloc(run, &run->dy, desc->output, desc->y_slice, dy);
  free(dy);
  run->args.dy = run->dy.data;
  if (uses_dy2(run->variant)) {
    value_alloc(run, &run->dy2, desc->output, whole, run->data->dy2);
    run->args.dy2 = run->dy2.data;
  }
  StepVariant v = run->variant;
  int in_place = v == VARIANT_BACKWARD_IN_PLACE || v == VARIANT_SECOND_DY_IN_PLACE            ? 0
                 : v == VARIANT_RESIDUAL_IN_PLACE || v == VARIANT_SECOND_DY_RESIDUAL_IN_PLACE ? 1
                                                                                              : -1;
  for (int k = 0; k < desc->input_count; k++) {
    if (!desc->need_dx[k]) continue;
    if (k != in_place) value_alloc(run, &run->dx[k], desc->inputs[k], whole, NULL);
    run->args.dx[k] = k == in_place ? run->dy.data : run->dx[k].data;
  }
}

static int64_t stored_channels(const Run *run) {
  const Target *target = &run->target;
  Shape pixel = {3, {1, 1, shape_channels(run->desc.output)}};
  return (int64_t)(target->backend->value_size(target->device, pixel, 1, run->desc.dtype) /
                   dtype_size(run->desc.dtype));
}

// Room for the sums that a convolution gives; for a norm, those of its input.
static void statistics_alloc(Run *run) {
  const StepDesc *desc = &run->desc;
  int64_t channels = shape_channels(desc->output), stored = stored_channels(run);
  size_t size =
      desc->takes_statistics ? 2 * (size_t)stored * sizeof(float) : run->needs.statistics_size;
  if (size == 0) return;
  block_alloc(&run->target, &run->statistics, size);
  run->args.statistics = run->statistics.data;
  if (!desc->takes_statistics) return;
  float *sums = host_alloc(size);
  for (int64_t c = 0; c < channels; c++) {
    double sum = 0.0, squares = 0.0;
    for (int64_t i = c; i < desc->batch * shape_count(desc->inputs[0]); i += channels) {
      sum += run->data->x[0][i];
      squares += run->data->x[0][i] * run->data->x[0][i];
    }
    sums[c] = (float)sum;
    sums[stored + c] = (float)squares;
  }
  target_write(&run->target, run->statistics.data, sums, size);
  free(sums);
}

// The sums are of y as it is stored, or as it was before it was rounded to that.
static void check_statistics(const Run *run, const float *y) {
  const StepDesc *desc = &run->desc;
  if (run->needs.statistics_size == 0) return;
  int64_t channels = shape_channels(desc->output), stored = stored_channels(run);
  int64_t count = desc->batch * shape_count(desc->output);
  float *sums = host_alloc(run->needs.statistics_size);
  target_read(&run->target, sums, run->statistics.data, run->needs.statistics_size);
  for (int64_t c = 0; c < channels; c++) {
    double sum = 0.0, squares = 0.0, sizes = 0.0, error = 0.0, square_error = 0.0;
    for (int64_t i = c; i < count; i += channels) {
      double value = y[i], rounding = step_rounding(value, desc->dtype);
      sum += value;
      squares += value * value;
      sizes += fabs(value);
      error += rounding;
      square_error += (2.0 * fabs(value) + rounding) * rounding;
    }
    double units = (double)(count / channels) * 0x1p-24;
    if (!(fabs(sums[c] - sum) <= error + units * sizes) ||
        !(fabs(sums[stored + c] - squares) <= square_error + units * squares))
      fail_msg("%s: statistics of channel %d are %g and %g, want %g and %g", run->target.context,
               (int)c, sums[c], sums[stored + c], sum, squares);
  }
  free(sums);
}

static void results_alloc(Run *run) {
  bool in_place =
      run->variant == VARIANT_FORWARD_IN_PLACE || run->variant == VARIANT_INFERENCE_IN_PLACE;
  if (!in_place) value_alloc(run, &run->y, run->desc.output, run->desc.y_slice, NULL);
  run->args.y = in_place ? run->x[0].data : run->y.data;
  for (int k = 0; k < STEP_MAX_PARAMETERS; k++) {
    if (!dparams_wanted(&run->desc, k)) continue;
    block_alloc(&run->target, &run->dparams[k], run->params[k].size);
    run->args.dparams[k] = run->dparams[k].data;
  }
  block_alloc(&run->target, &run->persistent, run->needs.persistent_size);
  block_alloc(&run->target, &run->saved, run->needs.saved_size);
  block_alloc_behind(&run->target, &run->scratch, run->needs.scratch_size, SCRATCH_FRONT);
  run->args.persistent = run->persistent.data;
  run->args.saved = run->saved.data;
  run->args.scratch = run->scratch.data;
  block_alloc(&run->target, &run->key, sizeof step_test_key);
  target_write(&run->target, run->key.data, &step_test_key, sizeof step_test_key);
  run->args.key = run->key.data;
  statistics_alloc(run);
}

static bool is_nan(uint32_t bits, DType dtype) {
  uint32_t infinity = dtype == DTYPE_F32 ? 0x7f800000u : dtype == DTYPE_BF16 ? 0x7f80u : 0x7c00u;
  return (bits & ~(dtype == DTYPE_F32 ? 1u << 31 : 1u << 15)) > infinity;
}

// The dense numbers of a value. What they do not show (lanes of padding) must be what import
// writes.
static float *value_take(const Run *run, const void *value, Shape inner, Slice slice,
                         const char *what) {
  const StepDesc *desc = &run->desc;
  Shape shape = shape_around(inner, slice);
  size_t size = value_size(run, shape);
  DType dtype = shape.rank == 3 ? desc->dtype : DTYPE_F32;
  size_t element = dtype_size(dtype);
  float *dense = host_alloc((size_t)(desc->batch * shape_count(shape)) * sizeof *dense);
  value_export(run, dense, value, shape);
  Block again;
  block_alloc(&run->target, &again, size);
  value_import(run, again.data, shape, dense);
  unsigned char *got = host_alloc(size), *want = host_alloc(size);
  target_read(&run->target, got, value, size);
  target_read(&run->target, want, again.data, size);
  for (size_t i = 0; i < size; i += element) {
    uint32_t a = 0, b = 0;
    memcpy(&a, got + i, element);
    memcpy(&b, want + i, element);
    uint32_t sign = 1u << (8 * element - 1);
    if (is_nan(a, dtype) && is_nan(b, dtype)) continue; // beside a slice; import writes its own
    if (a != b && ((a | b) & ~sign))                    // -0 is 0
      fail_msg("%s: %s: element %zu in memory is 0x%x and would be imported as 0x%x",
               run->target.context, what, i / element, a, b);
  }
  free(got);
  free(want);
  block_free(&run->target, &again, "an imported value");
  return floats_inside(run, dense, inner, slice);
}

static void forward(Run *run, StepResults *out) {
  const StepImpl *impl = run->target.backend->steps[run->desc.kind];
  if (impl->prepare) {
    target_check(&run->target, impl->prepare(run->state, &run->args));
    block_spoil(&run->target, &run->scratch);
  }
  target_check(&run->target, impl->forward(run->state, &run->args));
  out->y = value_take(run, run->args.y, run->desc.output, run->desc.y_slice, "y");
  check_statistics(run, out->y);
}

static unsigned char *bytes_of(const Run *run, const Block *block) {
  unsigned char *bytes = host_alloc(block->size);
  if (block->size) target_read(&run->target, bytes, block->data, block->size);
  return bytes;
}

// y from x and `saved` once more: the same bits, and nothing else written.
static void rebuild(Run *run, const StepResults *first) {
  const StepImpl *impl = run->target.backend->steps[run->desc.kind];
  if (!impl->rebuild || !run->y.data) return;
  const Block *others[STEP_MAX_PARAMETERS + 1] = {&run->saved};
  unsigned char *before[STEP_MAX_PARAMETERS + 1];
  for (int k = 0; k < STEP_MAX_PARAMETERS; k++) others[k + 1] = &run->dparams[k];
  for (int k = 0; k <= STEP_MAX_PARAMETERS; k++) before[k] = bytes_of(run, others[k]);
  block_spoil(&run->target, &run->y);
  block_spoil(&run->target, &run->scratch);
  target_check(&run->target, impl->rebuild(run->state, &run->args));
  float *y = value_take(run, run->args.y, run->desc.output, run->desc.y_slice, "y, rebuilt");
  size_t size = (size_t)(run->desc.batch * shape_count(run->desc.output)) * sizeof *y;
  if (memcmp(y, first->y, size) != 0)
    fail_msg("%s: y is rebuilt with other bits", run->target.context);
  free(y);
  for (int k = 0; k <= STEP_MAX_PARAMETERS; k++) {
    unsigned char *after = bytes_of(run, others[k]);
    if (memcmp(before[k], after, others[k]->size) != 0)
      fail_msg("%s: rebuilding y wrote %s", run->target.context, k ? "dparams" : "saved memory");
    free(before[k]);
    free(after);
  }
}

static void backward(Run *run, StepResults *out) {
  const StepDesc *desc = &run->desc;
  for (int k = 0; k < desc->input_count; k++)
    if (!run->needs.backward_reads_x[k] && run->x[k].data != run->args.y)
      block_spoil(&run->target, &run->x[k]);
  if (!run->needs.backward_reads_y) block_spoil(&run->target, &run->y);
  block_spoil(&run->target, &run->scratch);
  target_check(&run->target,
               run->target.backend->steps[desc->kind]->backward(run->state, &run->args));
  for (int k = 0; k < desc->input_count; k++)
    if (desc->need_dx[k])
      out->dx[k] =
          value_take(run, run->args.dx[k], desc->inputs[k], whole, k ? "dx[1...]" : "dx[0]");
}

static void take_dparams(const Run *run, StepResults *out) {
  for (int k = 0; k < STEP_MAX_PARAMETERS; k++) {
    if (!run->dparams[k].data) continue;
    out->dparams[k] = host_alloc(run->dparams[k].size);
    target_read(&run->target, out->dparams[k], run->dparams[k].data, run->dparams[k].size);
  }
}

// Inputs, dy and parameters that no result took the place of are as they were.
static void check_unchanged(const Run *run, const Block *block, Shape shape, Slice slice,
                            const double *values) {
  if (!block->data) return;
  int64_t batch = run->desc.batch, count = batch * shape_count(shape);
  Shape around = shape_around(shape, slice);
  float *dense = host_alloc((size_t)(batch * shape_count(around)) * sizeof *dense);
  value_export(run, dense, block->data, around);
  dense = floats_inside(run, dense, shape, slice);
  for (int64_t i = 0; i < count; i++)
    if (dense[i] != (float)values[i] && !isnan(values[i]))
      fail_msg("%s: changed an input, dy or dy2", run->target.context);
  free(dense);
}

static void check_inputs(const Run *run, bool after_backward) {
  const StepDesc *desc = &run->desc;
  for (int k = 0; k < desc->input_count; k++)
    if (run->x[k].data != run->args.y && !(after_backward && !run->needs.backward_reads_x[k]))
      check_unchanged(run, &run->x[k], desc->inputs[k], desc->x_slice[k], run->data->x[k]);
  if (after_backward && uses_dy2(run->variant))
    check_unchanged(run, &run->dy2, desc->output, whole, run->data->dy2);
  if (after_backward && !uses_dy2(run->variant) && run->args.dx[0] != run->args.dy &&
      run->args.dx[1] != run->args.dy)
    check_unchanged(run, &run->dy, desc->output, desc->y_slice, run->data->dy);
}

static void run_free(Run *run) {
  for (int k = 0; k < STEP_MAX_INPUTS; k++) {
    block_free(&run->target, &run->x[k], "an input");
    block_free(&run->target, &run->dx[k], "an input's gradient");
  }
  for (int k = 0; k < STEP_MAX_PARAMETERS; k++) {
    block_free(&run->target, &run->params[k], "a parameter");
    block_free(&run->target, &run->dparams[k], "a parameter's gradient");
  }
  block_free(&run->target, &run->y, "y");
  block_free(&run->target, &run->dy, "dy");
  block_free(&run->target, &run->dy2, "dy2");
  block_free(&run->target, &run->persistent, "the persistent memory");
  block_free(&run->target, &run->saved, "the saved memory");
  block_free(&run->target, &run->scratch, "the scratch memory");
  block_free(&run->target, &run->key, "the key");
  block_free(&run->target, &run->statistics, "the statistics");
}

bool step_run(StepResults *out, const Target *target, const StepDesc *desc, const StepData *data,
              StepVariant variant) {
  const StepImpl *impl = target->backend->steps[desc->kind];
  Run run = {.target = *target, .desc = *desc, .data = data, .variant = variant};
  *out = (StepResults){0};
  if (!variant_adapt(target, &run.desc, variant)) return false;
  target_check(target, impl->plan(&run.state, target->device, &run.desc, &run.needs));
  bool applies = variant_applies(&run);
  if (applies) {
    inputs_alloc(&run);
    results_alloc(&run);
    forward(&run, out);
    check_inputs(&run, false);
    if (run.desc.training) {
      rebuild(&run, out);
      gradients_alloc(&run);
      backward(&run, out);
      check_inputs(&run, true);
      take_dparams(&run, out);
    }
    run_free(&run);
  }
  if (impl->unplan) impl->unplan(run.state);
  return applies;
}
