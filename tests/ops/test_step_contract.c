// Holds every step of a backend against the reference, through the backend's table alone: what the
// step reads, writes and keeps must be what its StepNeeds says. Where a step can rebuild its
// result, backward runs on the rebuilt one. Arguments: the backend, "cpu", and which of the cases,
// all: patterns of their names, and K/N for every N-th from the K-th on, counted from 1.
//
// Memory that a step may not rely on is full of NaNs: results, scratch and saved memory before a
// call, and inputs that backward says it does not read. Every block has canaries at both ends.
#include <fnmatch.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "ops/step_test.h"

enum { CANARY_SIZE = 64, CANARY = 0xa5, NANS = 0xff };
enum { SCRATCH_FRONT = 256 }; // where memory_alloc of a GPU starts, as scratch does
static const int thread_counts[] = {1, 3};
enum { DEVICE_COUNT = sizeof thread_counts / sizeof thread_counts[0] };

// How a step is called; ways that a step does not offer are left out.
typedef enum Variant {
  PLAIN,
  AGAIN, // PLAIN, expecting the same bits
  FORWARD_IN_PLACE,
  BACKWARD_IN_PLACE,
  RESIDUAL_IN_PLACE,
  SECOND_DY,
  SECOND_DY_IN_PLACE,
  SECOND_DY_RESIDUAL_IN_PLACE,
  ONLY_FIRST_DX,
  ONLY_SECOND_DX,
  ONLY_DPARAMS,
  ONLY_DX,
  SLICED, // x, y and dy in wider values, where the step takes that
  SLICED_SECOND_DY,
  INFERENCE,
  INFERENCE_IN_PLACE,
  VARIANT_COUNT
} Variant;

static const char *const variant_names[VARIANT_COUNT] = {"plain",
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

static const Backend *backend;
static Device *devices[DEVICE_COUNT];
static const char *context; // what runs now, for messages
static StepCase *cases;

// --- memory with canaries ------------------------------------------------------------------------

typedef struct Block {
  unsigned char *memory; // of the device
  void *data;            // NULL where there is no block
  size_t size;
} Block;

static void check(Status status) {
  if (status != STATUS_OK) fail_msg("%s: %s", context, status_message());
}

static void *host_alloc(size_t size) {
  void *memory = calloc(size ? size : 1, 1);
  assert_non_null(memory);
  return memory;
}

static void block_fill(Device *device, const Block *block, int byte) {
  if (!block->size) return;
  void *host = host_alloc(block->size);
  memset(host, byte, block->size);
  check(backend->copy_to_device(device, block->data, host, block->size));
  free(host);
}

static void block_alloc_behind(Device *device, Block *out, size_t size, size_t front) {
  unsigned char canary[CANARY_SIZE];
  void *memory;
  memset(canary, CANARY, sizeof canary);
  check(backend->memory_alloc(device, &memory, front + size + CANARY_SIZE));
  unsigned char *data = (unsigned char *)memory + front;
  *out = (Block){memory, data, size};
  check(backend->copy_to_device(device, data - CANARY_SIZE, canary, CANARY_SIZE));
  check(backend->copy_to_device(device, data + size, canary, CANARY_SIZE));
  block_fill(device, out, NANS);
}

static void block_alloc(Device *device, Block *out, size_t size) {
  block_alloc_behind(device, out, size, CANARY_SIZE);
}

static void block_free(Device *device, Block *block, const char *what) {
  if (!block->memory) return;
  unsigned char ends[2 * CANARY_SIZE], *data = block->data;
  check(backend->copy_to_host(device, ends, data - CANARY_SIZE, CANARY_SIZE));
  check(backend->copy_to_host(device, ends + CANARY_SIZE, data + block->size, CANARY_SIZE));
  for (int i = 0; i < 2 * CANARY_SIZE; i++)
    if (ends[i] != CANARY)
      fail_msg("%s: wrote %s %s", context, i < CANARY_SIZE ? "before" : "behind", what);
  backend->memory_free(device, block->memory);
  *block = (Block){0};
}

static float *floats_of(const double *values, int64_t count) {
  float *floats = host_alloc((size_t)count * sizeof *floats);
  for (int64_t i = 0; i < count; i++) floats[i] = (float)values[i];
  return floats;
}

// --- one call of a step --------------------------------------------------------------------------

typedef struct Run {
  Device *device;
  StepDesc desc;
  const StepData *data;
  Variant variant;
  StepNeeds needs;
  void *state;
  Block x[STEP_MAX_INPUTS], dx[STEP_MAX_INPUTS], params[STEP_MAX_PARAMETERS],
      dparams[STEP_MAX_PARAMETERS], y, dy, dy2, persistent, saved, scratch, key, statistics;
  StepArgs args;
} Run;

// A step's results on the host.
typedef struct Results {
  float *y, *dx[STEP_MAX_INPUTS], *dparams[STEP_MAX_PARAMETERS];
} Results;

static void results_free(Results *results) {
  free(results->y);
  for (int k = 0; k < STEP_MAX_INPUTS; k++) free(results->dx[k]);
  for (int k = 0; k < STEP_MAX_PARAMETERS; k++) free(results->dparams[k]);
  *results = (Results){0};
}

static bool uses_dy2(Variant variant) {
  return variant == SECOND_DY || variant == SECOND_DY_IN_PLACE ||
         variant == SECOND_DY_RESIDUAL_IN_PLACE || variant == SLICED_SECOND_DY;
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
  case FORWARD_IN_PLACE:
    return needs->forward_in_place && !needs->backward_reads_x[0];
  case INFERENCE_IN_PLACE:
    return needs->forward_in_place;
  case BACKWARD_IN_PLACE:
    return needs->backward_in_place;
  case RESIDUAL_IN_PLACE:
    return joins && needs->residual_in_place;
  case SECOND_DY:
  case SLICED_SECOND_DY:
    return needs->takes_second_dy;
  case SECOND_DY_IN_PLACE:
    return needs->takes_second_dy && needs->backward_in_place;
  case SECOND_DY_RESIDUAL_IN_PLACE:
    return joins && needs->takes_second_dy && needs->residual_in_place;
  default:
    return true;
  }
}

// Lays a value into a wider one with other channels before it and, where that is possible, behind.
static bool slice_choose(Slice *out, Shape shape) {
  if (shape.rank != 3) return false;
  int64_t behind = shape.dim[2] % 16 == 0 ? 16 : 0;
  Slice slice = {.channels = 32 + shape.dim[2] + behind, .first = 32};
  if (!backend->can_slice(devices[0], shape, slice)) return false;
  *out = slice;
  return true;
}

static bool slices_choose(StepDesc *desc) {
  const StepImpl *impl = backend->steps[desc->kind];
  bool any = impl->writes_slices && slice_choose(&desc->y_slice, desc->output);
  for (int k = 0; k < desc->input_count && impl->reads_slices; k++)
    any = slice_choose(&desc->x_slice[k], desc->inputs[k]) || any;
  return any;
}

// Changes the case to what the variant asks for; false where it makes no sense.
static bool variant_adapt(StepDesc *desc, Variant variant) {
  bool joins = desc->input_count > 1;
  if (variant == INFERENCE || variant == INFERENCE_IN_PLACE) {
    if (desc->use_batch_statistics) return false;
    desc->training = desc->need_dparams = false;
    memset(desc->need_dx, 0, sizeof desc->need_dx);
    return true;
  }
  if (!desc->training) return false;
  switch (variant) {
  case ONLY_FIRST_DX:
    desc->need_dx[1] = false;
    return joins;
  case ONLY_SECOND_DX:
    desc->need_dx[0] = false;
    return joins;
  case ONLY_DPARAMS:
    memset(desc->need_dx, 0, sizeof desc->need_dx);
    return has_parameters(desc);
  case ONLY_DX:
    desc->need_dparams = false;
    return has_parameters(desc);
  case SLICED:
  case SLICED_SECOND_DY:
    return slices_choose(desc);
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
static float *floats_inside(float *floats, int64_t batch, Shape shape, Slice slice) {
  if (slice.channels == 0) return floats;
  int64_t channels = shape.dim[2], pixels = batch * shape_count(shape) / channels;
  float *inside = host_alloc((size_t)(pixels * channels) * sizeof *inside);
  for (int64_t i = 0; i < pixels * slice.channels; i++) {
    int64_t c = i % slice.channels - slice.first;
    if (c >= 0 && c < channels)
      inside[i / slice.channels * channels + c] = floats[i];
    else if (!isnan(floats[i]))
      fail_msg("%s: wrote beside a slice", context);
  }
  free(floats);
  return inside;
}

static void value_alloc(Run *run, Block *out, Shape shape, Slice slice, const double *values) {
  const StepDesc *desc = &run->desc;
  Shape around = shape_around(shape, slice);
  block_alloc(run->device, out, backend->value_size(run->device, around, desc->batch, desc->dtype));
  if (!values) return;
  float *dense = floats_around(values, desc->batch, shape, slice);
  check(backend->value_import(run->device, out->data, around, desc->batch, desc->dtype, dense));
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
    block_alloc(run->device, &run->params[k], (size_t)count * sizeof(float));
    float *values = floats_of(run->data->params[k], count);
    check(backend->copy_to_device(run->device, run->params[k].data, values, run->params[k].size));
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
  Variant v = run->variant;
  int in_place = v == BACKWARD_IN_PLACE || v == SECOND_DY_IN_PLACE            ? 0
                 : v == RESIDUAL_IN_PLACE || v == SECOND_DY_RESIDUAL_IN_PLACE ? 1
                                                                              : -1;
  for (int k = 0; k < desc->input_count; k++) {
    if (!desc->need_dx[k]) continue;
    if (k != in_place) value_alloc(run, &run->dx[k], desc->inputs[k], whole, NULL);
    run->args.dx[k] = k == in_place ? run->dy.data : run->dx[k].data;
  }
}

static int64_t stored_channels(const Run *run) {
  const StepDesc *desc = &run->desc;
  Shape pixel = {3, {1, 1, shape_channels(desc->output)}};
  return (int64_t)(backend->value_size(run->device, pixel, 1, desc->dtype) /
                   dtype_size(desc->dtype));
}

// Room for the sums that a convolution gives; for a norm, those of its input.
static void statistics_alloc(Run *run) {
  const StepDesc *desc = &run->desc;
  int64_t channels = shape_channels(desc->output), stored = stored_channels(run);
  size_t size =
      desc->takes_statistics ? 2 * (size_t)stored * sizeof(float) : run->needs.statistics_size;
  if (size == 0) return;
  block_alloc(run->device, &run->statistics, size);
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
  check(backend->copy_to_device(run->device, run->statistics.data, sums, size));
  free(sums);
}

// The sums are of y as it is stored, or as it was before it was rounded to that.
static void check_statistics(const Run *run, const float *y) {
  const StepDesc *desc = &run->desc;
  if (run->needs.statistics_size == 0) return;
  int64_t channels = shape_channels(desc->output), stored = stored_channels(run);
  int64_t count = desc->batch * shape_count(desc->output);
  float *sums = host_alloc(run->needs.statistics_size);
  check(backend->copy_to_host(run->device, sums, run->statistics.data, run->needs.statistics_size));
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
      fail_msg("%s: statistics of channel %d are %g and %g, want %g and %g", context, (int)c,
               sums[c], sums[stored + c], sum, squares);
  }
  free(sums);
}

static void results_alloc(Run *run) {
  bool in_place = run->variant == FORWARD_IN_PLACE || run->variant == INFERENCE_IN_PLACE;
  if (!in_place) value_alloc(run, &run->y, run->desc.output, run->desc.y_slice, NULL);
  run->args.y = in_place ? run->x[0].data : run->y.data;
  for (int k = 0; k < STEP_MAX_PARAMETERS; k++) {
    if (!dparams_wanted(&run->desc, k)) continue;
    block_alloc(run->device, &run->dparams[k], run->params[k].size);
    run->args.dparams[k] = run->dparams[k].data;
  }
  block_alloc(run->device, &run->persistent, run->needs.persistent_size);
  block_alloc(run->device, &run->saved, run->needs.saved_size);
  block_alloc_behind(run->device, &run->scratch, run->needs.scratch_size, SCRATCH_FRONT);
  run->args.persistent = run->persistent.data;
  run->args.saved = run->saved.data;
  run->args.scratch = run->scratch.data;
  block_alloc(run->device, &run->key, sizeof step_test_key);
  check(backend->copy_to_device(run->device, run->key.data, &step_test_key, sizeof step_test_key));
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
  size_t size = backend->value_size(run->device, shape, desc->batch, desc->dtype);
  DType dtype = shape.rank == 3 ? desc->dtype : DTYPE_F32;
  size_t element = dtype_size(dtype);
  float *dense = host_alloc((size_t)(desc->batch * shape_count(shape)) * sizeof *dense);
  check(backend->value_export(run->device, dense, value, shape, desc->batch, desc->dtype));
  Block again;
  block_alloc(run->device, &again, size);
  check(backend->value_import(run->device, again.data, shape, desc->batch, desc->dtype, dense));
  unsigned char *got = host_alloc(size), *want = host_alloc(size);
  check(backend->copy_to_host(run->device, got, value, size));
  check(backend->copy_to_host(run->device, want, again.data, size));
  for (size_t i = 0; i < size; i += element) {
    uint32_t a = 0, b = 0;
    memcpy(&a, got + i, element);
    memcpy(&b, want + i, element);
    uint32_t sign = 1u << (8 * element - 1);
    if (is_nan(a, dtype) && is_nan(b, dtype)) continue; // beside a slice; import writes its own
    if (a != b && ((a | b) & ~sign))                    // -0 is 0
      fail_msg("%s: %s: element %zu in memory is 0x%x and would be imported as 0x%x", context, what,
               i / element, a, b);
  }
  free(got);
  free(want);
  block_free(run->device, &again, "an imported value");
  return floats_inside(dense, desc->batch, inner, slice);
}

static void forward(Run *run, Results *out) {
  const StepImpl *impl = backend->steps[run->desc.kind];
  if (impl->prepare) {
    check(impl->prepare(run->state, &run->args));
    block_fill(run->device, &run->scratch, NANS);
  }
  check(impl->forward(run->state, &run->args));
  out->y = value_take(run, run->args.y, run->desc.output, run->desc.y_slice, "y");
  check_statistics(run, out->y);
}

static unsigned char *bytes_of(const Run *run, const Block *block) {
  unsigned char *bytes = host_alloc(block->size);
  if (block->size) check(backend->copy_to_host(run->device, bytes, block->data, block->size));
  return bytes;
}

// y from x and `saved` once more: the same bits, and nothing else written.
static void rebuild(Run *run, const Results *first) {
  const StepImpl *impl = backend->steps[run->desc.kind];
  if (!impl->rebuild || !run->y.data) return;
  const Block *others[STEP_MAX_PARAMETERS + 1] = {&run->saved};
  unsigned char *before[STEP_MAX_PARAMETERS + 1];
  for (int k = 0; k < STEP_MAX_PARAMETERS; k++) others[k + 1] = &run->dparams[k];
  for (int k = 0; k <= STEP_MAX_PARAMETERS; k++) before[k] = bytes_of(run, others[k]);
  block_fill(run->device, &run->y, NANS);
  block_fill(run->device, &run->scratch, NANS);
  check(impl->rebuild(run->state, &run->args));
  float *y = value_take(run, run->args.y, run->desc.output, run->desc.y_slice, "y, rebuilt");
  size_t size = (size_t)(run->desc.batch * shape_count(run->desc.output)) * sizeof *y;
  if (memcmp(y, first->y, size) != 0) fail_msg("%s: y is rebuilt with other bits", context);
  free(y);
  for (int k = 0; k <= STEP_MAX_PARAMETERS; k++) {
    unsigned char *after = bytes_of(run, others[k]);
    if (memcmp(before[k], after, others[k]->size) != 0)
      fail_msg("%s: rebuilding y wrote %s", context, k ? "dparams" : "saved memory");
    free(before[k]);
    free(after);
  }
}

static void backward(Run *run, Results *out) {
  const StepDesc *desc = &run->desc;
  for (int k = 0; k < desc->input_count; k++)
    if (!run->needs.backward_reads_x[k] && run->x[k].data != run->args.y)
      block_fill(run->device, &run->x[k], NANS);
  if (!run->needs.backward_reads_y) block_fill(run->device, &run->y, NANS);
  block_fill(run->device, &run->scratch, NANS);
  check(backend->steps[desc->kind]->backward(run->state, &run->args));
  for (int k = 0; k < desc->input_count; k++)
    if (desc->need_dx[k])
      out->dx[k] =
          value_take(run, run->args.dx[k], desc->inputs[k], whole, k ? "dx[1...]" : "dx[0]");
}

static void take_dparams(const Run *run, Results *out) {
  for (int k = 0; k < STEP_MAX_PARAMETERS; k++) {
    if (!run->dparams[k].data) continue;
    out->dparams[k] = host_alloc(run->dparams[k].size);
    check(backend->copy_to_host(run->device, out->dparams[k], run->dparams[k].data,
                                run->dparams[k].size));
  }
}

// Inputs, dy and parameters that no result took the place of are as they were.
static void check_unchanged(const Run *run, const Block *block, Shape shape, Slice slice,
                            const double *values) {
  if (!block->data) return;
  int64_t batch = run->desc.batch, count = batch * shape_count(shape);
  Shape around = shape_around(shape, slice);
  float *dense = host_alloc((size_t)(batch * shape_count(around)) * sizeof *dense);
  check(backend->value_export(run->device, dense, block->data, around, batch, run->desc.dtype));
  dense = floats_inside(dense, batch, shape, slice);
  for (int64_t i = 0; i < count; i++)
    if (dense[i] != (float)values[i] && !isnan(values[i]))
      fail_msg("%s: changed an input, dy or dy2", context);
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
    block_free(run->device, &run->x[k], "an input");
    block_free(run->device, &run->dx[k], "an input's gradient");
  }
  for (int k = 0; k < STEP_MAX_PARAMETERS; k++) {
    block_free(run->device, &run->params[k], "a parameter");
    block_free(run->device, &run->dparams[k], "a parameter's gradient");
  }
  block_free(run->device, &run->y, "y");
  block_free(run->device, &run->dy, "dy");
  block_free(run->device, &run->dy2, "dy2");
  block_free(run->device, &run->persistent, "the persistent memory");
  block_free(run->device, &run->saved, "the saved memory");
  block_free(run->device, &run->scratch, "the scratch memory");
  block_free(run->device, &run->key, "the key");
  block_free(run->device, &run->statistics, "the statistics");
}

// Runs a step one way. False where it is not to be called so.
static bool run_step(Results *out, const StepDesc *desc, const StepData *data, Variant variant,
                     Device *device) {
  const StepImpl *impl = backend->steps[desc->kind];
  Run run = {.device = device, .desc = *desc, .data = data, .variant = variant};
  *out = (Results){0};
  if (!variant_adapt(&run.desc, variant)) return false;
  check(impl->plan(&run.state, device, &run.desc, &run.needs));
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

// --- comparisons ---------------------------------------------------------------------------------

// Results in `dtype` against the reference: its bound, twice, and the rounding of the result.
static void check_bounded(const float *got, const Bounded *want, DType dtype, const char *what) {
  if (!got) return;
  for (int64_t i = 0; i < want->count; i++) {
    double off = 2.0 * want->bound[i];
    double tolerance = off + step_rounding(fabs(want->value[i]) + off, dtype);
    if (fabs((double)got[i] - want->value[i]) <= tolerance) continue;
    fail_msg("%s: %s[%lld] is %.9g, not %.9g (tolerance %.3g)", context, what, (long long)i,
             (double)got[i], want->value[i], tolerance);
  }
}

static DType value_type(const StepDesc *desc, Shape shape) {
  return shape.rank == 3 ? desc->dtype : DTYPE_F32;
}

static void check_results(const Results *got, const Reference *want, const StepDesc *desc) {
  check_bounded(got->y, &want->y, value_type(desc, desc->output), "y");
  for (int k = 0; k < desc->input_count; k++)
    check_bounded(got->dx[k], &want->dx[k], value_type(desc, desc->inputs[k]), k ? "dx1" : "dx0");
  static const char *const names[STEP_MAX_PARAMETERS] = {"dparams0", "dparams1", "dparams2",
                                                         "dparams3", "dparams4", "dparams5"};
  for (int k = 0; k < STEP_MAX_PARAMETERS; k++)
    check_bounded(got->dparams[k], &want->dparams[k], DTYPE_F32, names[k]);
}

static void check_bits(const float *a, const float *b, int64_t count, const char *what) {
  if (a && b && memcmp(a, b, (size_t)count * sizeof *a) != 0)
    fail_msg("%s: %s has other bits than plainly", context, what);
}

static void check_same_bits(const Results *a, const Results *b, const StepDesc *desc) {
  check_bits(a->y, b->y, desc->batch * shape_count(desc->output), "y");
  for (int k = 0; k < desc->input_count; k++)
    check_bits(a->dx[k], b->dx[k], desc->batch * shape_count(desc->inputs[k]), "dx");
  for (int k = 0; k < STEP_MAX_PARAMETERS; k++)
    check_bits(a->dparams[k], b->dparams[k], step_parameter_count(desc, k), "dparams");
}

// --- tests ---------------------------------------------------------------------------------------

// Whether a way of calling must give the very bits of PLAIN: all that only move memory.
static bool repeats_plain(Variant variant) {
  return variant == AGAIN || variant == FORWARD_IN_PLACE || variant == BACKWARD_IN_PLACE ||
         variant == RESIDUAL_IN_PLACE || variant == SLICED;
}

static void check_variants(const StepCase *test, const StepData *data, const Reference *trained,
                           const Reference *inferred, int d) {
  const StepDesc *desc = &test->desc;
  Results first = {0};
  for (Variant v = PLAIN; v < (test->is_large ? AGAIN : VARIANT_COUNT); v++) {
    char text[2 * STEP_NAME_CAPACITY];
    snprintf(text, sizeof text, "%s, %s, %d threads, %s", test->name, dtype_name(desc->dtype),
             thread_counts[d], variant_names[v]);
    context = text;
    Results got;
    if (!run_step(&got, desc, data, v, devices[d])) continue;
    check_results(&got, v >= INFERENCE ? inferred : trained, desc);
    if (repeats_plain(v)) check_same_bits(&got, &first, desc);
    if (v == PLAIN)
      first = got;
    else
      results_free(&got);
  }
  results_free(&first);
}

// A training that has diverged must show it, so no step may turn a NaN into a number.
static void check_nan(const StepCase *test, const StepData *data) {
  const StepDesc *desc = &test->desc;
  Results got;
  context = test->name;
  assert_true(run_step(&got, desc, data, INFERENCE, devices[0]));
  bool is_kept = false;
  for (int64_t i = 0; i < desc->batch * shape_count(desc->output); i++)
    is_kept = is_kept || isnan(got.y[i]);
  results_free(&got);
  if (!is_kept) fail_msg("%s, %s: a NaN is gone", context, dtype_name(desc->dtype));
}

static void check_case(const StepCase *named, DType dtype) {
  StepCase test = *named;
  test.desc.name = test.name;
  test.desc.dtype = dtype;
  StepData data;
  Reference trained, inferred;
  step_data_draw(&data, &test, 1 + (uint64_t)(named - cases));
  if (test.x_nan) {
    check_nan(&test, &data);
    step_data_deinit(&data);
    return;
  }
  reference_compute(&trained, &test.desc, &data);
  StepDesc inference = test.desc;
  inference.training = false;
  reference_compute(&inferred, &inference, &data);
  int device_count = backend->depends_on_threads ? DEVICE_COUNT : 1;
  for (int d = 0; d < device_count; d++) check_variants(&test, &data, &trained, &inferred, d);
  reference_deinit(&trained);
  reference_deinit(&inferred);
  step_data_deinit(&data);
}

// Steps that sum products may want hardware for bf16; the others have no such excuse to refuse.
static bool takes(const StepCase *test, DType dtype) {
  if (backend->device_multiplies(devices[0], dtype)) return true;
  if (dtype != DTYPE_BF16) return false;
  const StepImpl *impl = backend->steps[test->desc.kind];
  StepDesc desc = test->desc;
  desc.name = test->name;
  desc.dtype = dtype;
  void *state;
  StepNeeds needs;
  if (impl->plan(&state, devices[0], &desc, &needs) != STATUS_OK) return false;
  if (impl->unplan) impl->unplan(state);
  return true;
}

static void matches_reference(void **state) {
  const StepCase *test = *state;
  if (!backend->steps[test->desc.kind]) {
    print_message("%s: the backend has no such step\n", test->name);
    skip();
  }
  if (test->desc.has_norm && !backend->steps[test->desc.kind]->takes_norm) {
    print_message("%s: this backend leaves the norm to a step of its own\n", test->name);
    skip();
  }
  check_case(test, DTYPE_F32);
  for (DType dtype = DTYPE_BF16; dtype <= DTYPE_F16; dtype++)
    if (!test->is_large && takes(test, dtype)) check_case(test, dtype);
}

static int open_devices(void **state) {
  (void)state;
  for (int i = 0; i < DEVICE_COUNT; i++)
    if (backend->device_open(&devices[i], &(DeviceDesc){.threads = thread_counts[i]}) !=
        STATUS_OK) {
      print_error("%s\n", status_message());
      return -1;
    }
  char text[128];
  backend->device_describe(devices[0], text, sizeof text);
  print_message("%s\n", text);
  return 0;
}

static int close_devices(void **state) {
  (void)state;
  for (int i = 0; i < DEVICE_COUNT; i++) backend->device_close(devices[i]);
  return 0;
}

// Whether a case is one of those that the arguments name.
static bool is_wanted(int place, const char *const *which, int count) {
  bool names_any = false, is_named = false;
  for (int i = 0; i < count; i++) {
    int part, parts;
    if (sscanf(which[i], "%d/%d", &part, &parts) == 2) {
      if (parts < 1 || place % parts != part - 1) return false;
    } else {
      names_any = true;
      is_named |= fnmatch(which[i], cases[place].name, 0) == 0;
    }
  }
  return is_named || !names_any;
}

int main(int argc, char **argv) {
  backend = backend_find(argc > 1 ? argv[1] : "cpu");
  if (!backend) {
    printf("this program was built without the backend %s\n", argc > 1 ? argv[1] : "cpu");
    return 77;
  }
  int case_count = step_cases(&cases), count = 0;
  struct CMUnitTest *tests = calloc((size_t)case_count, sizeof *tests);
  if (!tests) return 1;
  for (int i = 0; i < case_count; i++)
    if (is_wanted(i, (const char *const *)argv + 2, argc - 2))
      tests[count++] = (struct CMUnitTest){
          .name = cases[i].name, .test_func = matches_reference, .initial_state = &cases[i]};
  if (count == 0) print_error("no case has such a name\n");
  int failures = count == 0 || _cmocka_run_group_tests("operations", tests, (size_t)count,
                                                       open_devices, close_devices);
  free(tests);
  free(cases);
  return failures;
}
