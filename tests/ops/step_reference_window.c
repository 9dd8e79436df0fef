// The reference of the steps that look through a window: convolutions, pools, padding.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "ops/step_reference.h"

// One place of a window's result: sample, row, column, channel.
typedef struct Place {
  int64_t n, h, w, c;
} Place;

static void at_every_place(Program *program, Var (*result)(Program *program, Place p)) {
  Shape out = program->desc->output;
  for (int64_t n = 0; n < program->desc->batch; n++)
    for (int64_t h = 0; h < out.dim[0]; h++)
      for (int64_t w = 0; w < out.dim[1]; w++)
        for (int64_t c = 0; c < out.dim[2]; c++)
          program->y[image_at(out, n, h, w, c)] = result(program, (Place){n, h, w, c});
}

// The pixel under tap (i, j) of the window at `p`; false where it lies outside.
static bool under_tap(const StepDesc *desc, Place p, int i, int j, int64_t *h, int64_t *w) {
  *h = p.h * desc->stride_h - desc->pads.top + (int64_t)i * desc->dilation;
  *w = p.w * desc->stride_w - desc->pads.left + (int64_t)j * desc->dilation;
  return *h >= 0 && *h < desc->inputs[0].dim[0] && *w >= 0 && *w < desc->inputs[0].dim[1];
}

// What follows a convolution and its norm. The sum may be stored on the way.
static Var finish_norm(Program *program, Place p, Var sum) {
  const StepDesc *desc = program->desc;
  Tape *tape = &program->tape;
  if (desc->dtype != DTYPE_F32)
    tape->nodes[sum].error += step_rounding(tape_value(tape, sum), desc->dtype);
  if (desc->input_count > 1)
    sum = tape_add(tape, sum, program->x[1][image_at(desc->output, p.n, p.h, p.w, p.c)]);
  // At the corner of an activation the error goes on by the steeper side: no slope is above 1.5.
  Var y = reference_activate(tape, desc->activation, sum);
  tape->nodes[y].error += 1.5 * tape->nodes[sum].error;
  return y;
}

static Var convolve_at(Program *program, Place p) {
  const StepDesc *desc = program->desc;
  bool depthwise = desc->kind == STEP_DEPTHWISE_CONV2D;
  Shape in = desc->inputs[0];
  int64_t outputs = desc->output.dim[2];
  int64_t group_in = depthwise ? 1 : in.dim[2] / desc->groups, h, w;
  int64_t first = depthwise ? p.c : p.c / (outputs / desc->groups) * group_in;
  Var shift = desc->has_norm   ? program->shift[p.c]
              : desc->has_bias ? program->params[1][p.c]
                               : ZERO;
  Var sum = shift;
  for (int i = 0; i < desc->kernel_h; i++)
    for (int j = 0; j < desc->kernel_w; j++) {
      if (!under_tap(desc, p, i, j, &h, &w)) continue;
      for (int64_t k = 0; k < group_in; k++) {
        int64_t tap = ((int64_t)i * desc->kernel_w + j) * group_in + k;
        sum = tape_multiply_add(&program->tape, sum,
                                program->x[0][image_at(in, p.n, h, w, first + k)],
                                program->kernel[tap * outputs + p.c]);
      }
    }
  // In groups the sum may be stored before it is shifted.
  Tape *tape = &program->tape;
  bool is_grouped = desc->groups > 1 && !depthwise;
  if (shift != ZERO && is_grouped && desc->dtype != DTYPE_F32)
    tape->nodes[sum].error +=
        step_rounding(tape_value(tape, sum) - tape_value(tape, shift), desc->dtype);
  return desc->has_norm ? finish_norm(program, p, sum) : sum;
}

// Each filter to mean 0 and deviation 1; rounded to the type of the products.
static void standardise_filter(Program *program, int64_t f, int64_t filters, int64_t rows) {
  Tape *tape = &program->tape;
  const Var *w = program->params[0] + f;
  Var minus_mean = tape_negate(tape, tape_mean(tape, w, rows, filters)), squares = ZERO;
  for (int64_t i = 0; i < rows; i++) {
    Var d = tape_add(tape, w[i * filters], minus_mean);
    squares = tape_multiply_add(tape, squares, d, d);
  }
  Var variance = tape_multiply(tape, squares, tape_leaf(tape, 1.0 / (double)rows));
  Var rstd = reference_rstd(tape, variance, program->desc->standardize_epsilon);
  for (int64_t i = 0; i < rows; i++) {
    Var u = tape_multiply(tape, tape_add(tape, w[i * filters], minus_mean), rstd);
    if (program->desc->dtype != DTYPE_F32)
      tape->nodes[u].error += step_rounding(tape_value(tape, u), program->desc->dtype);
    program->kernel[i * filters + f] = u;
  }
}

// The scale of the norm joins the filter, rounded to the type of the products; the rest the sums.
static void fold_norm(Program *program, int64_t f, int64_t filters, int64_t rows) {
  Tape *tape = &program->tape;
  Var **params = program->params;
  Var rstd = reference_rstd(tape, params[5][f], program->desc->epsilon);
  Var scale = params[2] ? tape_multiply(tape, params[2][f], rstd) : rstd;
  for (int64_t i = 0; i < rows; i++) {
    Var u = tape_multiply(tape, program->kernel[i * filters + f], scale);
    if (program->desc->dtype != DTYPE_F32)
      tape->nodes[u].error += step_rounding(tape_value(tape, u), program->desc->dtype);
    program->kernel[i * filters + f] = u;
  }
  Var centred = tape_add(tape, params[1] ? params[1][f] : ZERO, tape_negate(tape, params[4][f]));
  program->shift[f] = tape_multiply_add(tape, params[3] ? params[3][f] : ZERO, centred, scale);
}

void reference_conv2d(Program *program) {
  int64_t count = step_parameter_count(program->desc, 0);
  int64_t filters = shape_channels(program->desc->output);
  program->kernel = malloc((size_t)count * sizeof *program->kernel);
  if (!program->kernel) abort();
  memcpy(program->kernel, program->params[0], (size_t)count * sizeof *program->kernel);
  for (int64_t f = 0; f < filters && program->desc->standardize_epsilon > 0.0; f++)
    standardise_filter(program, f, filters, count / filters);
  program->shift = malloc((size_t)filters * sizeof *program->shift);
  if (!program->shift) abort();
  for (int64_t f = 0; f < filters && program->desc->has_norm; f++)
    fold_norm(program, f, filters, count / filters);
  at_every_place(program, convolve_at);
}

// Of several largest, the first is the maximum.
static Var pool_at(Program *program, Place p) {
  const StepDesc *desc = program->desc;
  Tape *tape = &program->tape;
  Var sum = ZERO, top = -1;
  int64_t h, w, count = 0;
  for (int i = 0; i < desc->kernel_h; i++)
    for (int j = 0; j < desc->kernel_w; j++) {
      if (!under_tap(desc, p, i, j, &h, &w)) continue;
      Var x = program->x[0][image_at(desc->inputs[0], p.n, h, w, p.c)];
      if (top < 0 || tape_value(tape, x) > tape_value(tape, top)) top = x;
      if (!desc->pool_is_max) sum = tape_add(tape, sum, x);
      count++;
    }
  if (desc->pool_is_max) return top;
  return tape_multiply(tape, sum, tape_leaf(tape, 1.0 / (double)count));
}

void reference_pool2d(Program *program) {
  at_every_place(program, pool_at);
}

static Var pad_at(Program *program, Place p) {
  const StepDesc *desc = program->desc;
  int64_t h = p.h - desc->pads.top, w = p.w - desc->pads.left;
  bool inside = h >= 0 && h < desc->inputs[0].dim[0] && w >= 0 && w < desc->inputs[0].dim[1];
  return inside ? program->x[0][image_at(desc->inputs[0], p.n, h, w, p.c)] : ZERO;
}

void reference_pad(Program *program) {
  at_every_place(program, pad_at);
}

static Var crop_at(Program *program, Place p) {
  Pads pads = program->desc->pads;
  return program
      ->x[0][image_at(program->desc->inputs[0], p.n, p.h + pads.top, p.w + pads.left, p.c)];
}

void reference_crop(Program *program) {
  at_every_place(program, crop_at);
}
