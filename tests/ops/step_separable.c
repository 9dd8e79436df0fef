// The cases of separable convolutions, and their reference: one loop over all products. See
// step_separable.h.
#include "ops/step_separable.h"

#include <math.h>
#include <stdlib.h>

#include "base/rng.h"
#include "ops/step_cases.h"

#define SAME .padding = PADDING_SAME
static const SeparableCase cases[] = {
    {"separable 3x3 3->8", HWC(5, 7, 3), {.filters = 8, .kernel_h = 3, SAME}, 3},
    {"separable 3x3 stride 2 17->24 bias, odd size",
     HWC(7, 5, 17),
     {.filters = 24, .kernel_h = 3, .stride_h = 2, SAME, .use_bias = true},
     3},
    {"separable 5x5 stride 2 24->40, even by odd size",
     HWC(8, 7, 24),
     {.filters = 40, .kernel_h = 5, .stride_h = 2, SAME},
     3},
    {"separable 7x7 stride 2 16->16",
     HWC(11, 9, 16),
     {.filters = 16, .kernel_h = 7, .stride_h = 2, SAME},
     2},
    {"separable 5x5 44->44 bias",
     HWC(4, 3, 44),
     {.filters = 44, .kernel_h = 5, SAME, .use_bias = true},
     2},
    {"separable 3x3 valid 40->17 bias",
     HWC(5, 6, 40),
     {.filters = 17, .kernel_h = 3, .use_bias = true},
     3},
    {"separable 3x3 stride 2 valid 8->33",
     HWC(8, 9, 8),
     {.filters = 33, .kernel_h = 3, .stride_h = 2},
     3},
    {"separable 3x3 dilation 2 8->33",
     HWC(7, 6, 8),
     {.filters = 33, .kernel_h = 3, .dilation = 2, SAME},
     3},
    {"separable 3x5 24->8", HWC(5, 7, 24), {.filters = 8, .kernel_h = 3, .kernel_w = 5, SAME}, 3},
    {"separable 3x3 on 1x1 64->3", HWC(1, 1, 64), {.filters = 3, .kernel_h = 3, SAME}, 5},
    {"separable 1x1 8->16 bias",
     HWC(3, 4, 8),
     {.filters = 16, .kernel_h = 1, SAME, .use_bias = true},
     3},
    {"separable 3x3 of one sample", HWC(6, 5, 17), {.filters = 17, .kernel_h = 3, SAME}, 1},
    {"separable 3x3 of many samples", HWC(3, 4, 16), {.filters = 8, .kernel_h = 3, SAME}, 17},
};

int separable_cases(const SeparableCase **out) {
  *out = cases;
  return sizeof cases / sizeof cases[0];
}

// One dimension of the window: Keras' padding, worked out from the sizes.
typedef struct Axis {
  int64_t in, out, taps, stride, dilation, before;
} Axis;

static Axis axis_of(const SeparableCase *test, int dimension) {
  const Conv2dDesc *conv = &test->conv;
  bool is_row = dimension == 0;
  Axis axis = {.in = test->input.dim[dimension],
               .taps = is_row || conv->kernel_w == 0 ? conv->kernel_h : conv->kernel_w,
               .stride = is_row || conv->stride_w == 0 ? conv->stride_h : conv->stride_w,
               .dilation = conv->dilation ? conv->dilation : 1};
  if (axis.stride == 0) axis.stride = 1;
  int64_t span = (axis.taps - 1) * axis.dilation + 1;
  if (conv->padding == PADDING_VALID) {
    axis.out = (axis.in - span) / axis.stride + 1;
    return axis;
  }
  axis.out = (axis.in + axis.stride - 1) / axis.stride;
  int64_t missing = (axis.out - 1) * axis.stride + span - axis.in;
  axis.before = missing > 0 ? missing / 2 : 0;
  return axis;
}

Shape separable_output(const SeparableCase *test) {
  return SHAPE(axis_of(test, 0).out, axis_of(test, 1).out, test->conv.filters);
}

int64_t separable_parameter_count(const SeparableCase *test, int k) {
  int64_t channels = test->input.dim[2], filters = test->conv.filters;
  int64_t taps = axis_of(test, 0).taps * axis_of(test, 1).taps;
  int64_t counts[SEPARABLE_PARAMETERS] = {taps * channels, channels * filters,
                                          test->conv.use_bias ? filters : 0};
  return counts[k];
}

static double *draw(int64_t count, uint64_t seed, uint64_t which) {
  double *values = calloc((size_t)(count ? count : 1), sizeof *values);
  if (!values) abort();
  for (int64_t i = 0; i < count; i++) {
    RngWords words = rng_draw(seed, RNG_SYNTHETIC, which, (uint64_t)i / 4, 0);
    values[i] = rint(128.0 * words.word[i % 4] * 0x1p-32 - 64.0) / 64.0;
  }
  return values;
}

void separable_draw(StepData *out, const SeparableCase *test, uint64_t seed) {
  *out = (StepData){0};
  out->x[0] = draw(test->batch * shape_count(test->input), seed, 0);
  for (int k = 0; k < SEPARABLE_PARAMETERS; k++)
    out->params[k] = draw(separable_parameter_count(test, k), seed, 16 + (uint64_t)k);
  out->dy = draw(test->batch * shape_count(separable_output(test)), seed, 32);
}

static Bounded zeros(int64_t count) {
  Bounded out = {count, calloc((size_t)count + 1, sizeof(double)),
                 calloc((size_t)count + 1, sizeof(double))};
  if (!out.value || !out.bound) abort();
  return out;
}

// Until the end the bounds are the sizes of what was added.
static void add(Bounded *to, int64_t i, double term) {
  to->value[i] += term;
  to->bound[i] += fabs(term);
}

// A product x d p under one tap, for each channel and filter, and what the loss sum(dy y) changes
// by with each of its numbers.
static void add_products(Reference *out, const SeparableCase *test, const StepData *data,
                         const int64_t first[3]) {
  int64_t channels = test->input.dim[2], filters = test->conv.filters;
  for (int64_t c = 0; c < channels; c++)
    for (int64_t f = 0; f < filters; f++) {
      int64_t at_x = first[0] + c, at_d = first[1] + c, at_p = c * filters + f, at_y = first[2] + f;
      double x = data->x[0][at_x], d = data->params[0][at_d], p = data->params[1][at_p];
      double dy = data->dy[at_y];
      add(&out->y, at_y, x * d * p);
      add(&out->dx[0], at_x, dy * d * p);
      add(&out->dparams[0], at_d, dy * x * p);
      add(&out->dparams[1], at_p, dy * x * d);
    }
}

static void add_windows(Reference *out, const SeparableCase *test, const StepData *data) {
  Axis rows = axis_of(test, 0), columns = axis_of(test, 1);
  int64_t channels = test->input.dim[2], filters = test->conv.filters;
  for (int64_t place = 0; place < test->batch * rows.out * columns.out; place++)
    for (int64_t tap = 0; tap < rows.taps * columns.taps; tap++) {
      int64_t n = place / (rows.out * columns.out), row = place / columns.out % rows.out;
      int64_t h = row * rows.stride - rows.before + tap / columns.taps * rows.dilation;
      int64_t w = place % columns.out * columns.stride - columns.before +
                  tap % columns.taps * columns.dilation;
      if (h < 0 || h >= rows.in || w < 0 || w >= columns.in) continue;
      add_products(out, test, data,
                   (int64_t[]){((n * rows.in + h) * columns.in + w) * channels, tap * channels,
                               place * filters});
    }
}

static void add_bias(Reference *out, const SeparableCase *test, const StepData *data) {
  for (int64_t i = 0; test->conv.use_bias && i < out->y.count; i++) {
    add(&out->y, i, data->params[2][i % test->conv.filters]);
    add(&out->dparams[2], i % test->conv.filters, data->dy[i]);
  }
}

// A sum of sums in fp32, whatever the order: each term meets one rounding for each number that it
// stands beside in either of them, and two for its products (Higham, 4.2).
static void set_bound(Bounded *sums, int64_t inner, int64_t outer, double between) {
  for (int64_t i = 0; i < sums->count; i++)
    sums->bound[i] *= (double)(inner + outer + 2) * 0x1p-24 + between;
}

void separable_compute(Reference *out, const SeparableCase *test, const StepData *data,
                       DType between) {
  int64_t places = test->batch * axis_of(test, 0).out * axis_of(test, 1).out;
  int64_t taps = axis_of(test, 0).taps * axis_of(test, 1).taps;
  int64_t channels = test->input.dim[2], filters = test->conv.filters;
  // Of normal numbers rounding loses at most what it may at 1.
  double unit = between == DTYPE_F32 ? 0.0 : step_rounding(1.0, between);
  *out = (Reference){.y = zeros(places * filters)};
  out->dx[0] = zeros(test->batch * shape_count(test->input));
  for (int k = 0; k < SEPARABLE_PARAMETERS; k++)
    out->dparams[k] = zeros(separable_parameter_count(test, k));
  add_windows(out, test, data);
  add_bias(out, test, data);
  set_bound(&out->y, taps, channels + 1, unit);
  set_bound(&out->dx[0], filters, taps, unit);
  set_bound(&out->dparams[0], filters, places, unit);
  set_bound(&out->dparams[1], taps, places, unit);
  set_bound(&out->dparams[2], 1, places, 0.0);
}

double separable_loss(const SeparableCase *test, const StepData *data) {
  Reference reference;
  separable_compute(&reference, test, data, DTYPE_F32);
  double loss = 0.0;
  for (int64_t i = 0; i < reference.y.count; i++) loss += data->dy[i] * reference.y.value[i];
  reference_deinit(&reference);
  return loss;
}
