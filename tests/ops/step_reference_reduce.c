// The reference of the steps that sum over pixels or channels: dense, norms, squeeze-and-excite,
// global pool.
#include <math.h>
#include <stdlib.h>

#include "ops/step_reference.h"

// y[j] = sum over k of x[k] kernel[k, j] + bias[j] for one sample; `parameter` is the kernel's.
static void product(Program *program, Var *y, const Var *x, const int64_t size[2], int parameter) {
  const Var *kernel = program->params[parameter], *bias = program->params[parameter + 1];
  for (int64_t j = 0; j < size[1]; j++) {
    y[j] = bias ? bias[j] : ZERO;
    for (int64_t k = 0; k < size[0]; k++)
      y[j] = tape_multiply_add(&program->tape, y[j], x[k], kernel[k * size[1] + j]);
  }
}

void reference_dense(Program *program) {
  int64_t in = program->desc->inputs[0].dim[0], out = program->desc->output.dim[0];
  for (int64_t n = 0; n < program->desc->batch; n++)
    product(program, program->y + n * out, program->x[0] + n * in, (int64_t[]){in, out}, 0);
}

Var reference_rstd(Tape *tape, Var variance, double epsilon) {
  double v = tape_value(tape, variance) + epsilon;
  return tape_function(tape, variance, 1.0 / sqrt(v), -0.5 / (v * sqrt(v)),
                       0.75 / (v * v * sqrt(v)));
}

// Mean and variance of channel c, of the batch or the moving ones.
static void norm_statistics(Program *program, int64_t c, Var *minus_mean, Var *variance) {
  const StepDesc *desc = program->desc;
  Tape *tape = &program->tape;
  int64_t channels = shape_channels(desc->output);
  int64_t count = desc->batch * shape_count(desc->output) / channels;
  if (!desc->use_batch_statistics) {
    *minus_mean = tape_negate(tape, program->params[2][c]);
    *variance = program->params[3][c];
    return;
  }
  const Var *x = program->x[0] + c;
  Var average = tape_mean(tape, x, count, channels), sum = ZERO;
  *minus_mean = tape_negate(tape, average);
  for (int64_t i = 0; i < count; i++) {
    Var d = tape_add(tape, x[i * channels], *minus_mean);
    sum = tape_multiply_add(tape, sum, d, d);
  }
  *variance = tape_multiply(tape, sum, tape_leaf(tape, 1.0 / (double)count));
  program->statistics[0][c] = average;
  program->statistics[1][c] =
      tape_multiply(tape, sum, tape_leaf(tape, 1.0 / (double)(count > 1 ? count - 1 : 1)));
}

void reference_norm(Program *program) {
  const StepDesc *desc = program->desc;
  Tape *tape = &program->tape;
  int64_t channels = shape_channels(desc->output), count = desc->batch * shape_count(desc->output);
  for (int64_t c = 0; c < channels; c++) {
    Var minus_mean, variance;
    norm_statistics(program, c, &minus_mean, &variance);
    Var rstd = reference_rstd(tape, variance, desc->epsilon);
    Var beta = program->params[1] ? program->params[1][c] : ZERO;
    Var scale = program->params[0] ? tape_multiply(tape, program->params[0][c], rstd) : rstd;
    for (int64_t i = c; i < count; i += channels) {
      Var z = tape_multiply_add(tape, beta, tape_add(tape, program->x[0][i], minus_mean), scale);
      if (desc->input_count > 1) z = tape_add(tape, z, program->x[1][i]);
      program->y[i] = reference_activate(tape, desc->activation, z);
      if (desc->input_count > 1 && desc->dtype == DTYPE_BF16) {
        tape->nodes[z].gradient_rounding = BF16_UNIT; // it may be kept as dx[1]
        reference_allow_corner(program, z, program->y[i]);
      }
    }
  }
}

// Element k of group g of sample n: pixel by pixel, its channels side by side.
static int64_t group_at(const StepDesc *desc, int64_t n, int64_t g, int64_t k) {
  int64_t channels = shape_channels(desc->output), width = channels / desc->groups;
  return n * shape_count(desc->output) + k / width * channels + g * width + k % width;
}

static void normalise_group(Program *program, int64_t n, int64_t g) {
  const StepDesc *desc = program->desc;
  Tape *tape = &program->tape;
  int64_t channels = shape_channels(desc->output), count = shape_count(desc->output) / desc->groups;
  Var share = tape_leaf(tape, 1.0 / (double)count), sum = ZERO, squares = ZERO;
  for (int64_t k = 0; k < count; k++)
    sum = tape_add(tape, sum, program->x[0][group_at(desc, n, g, k)]);
  Var minus_mean = tape_negate(tape, tape_multiply(tape, sum, share));
  for (int64_t k = 0; k < count; k++) {
    Var d = tape_add(tape, program->x[0][group_at(desc, n, g, k)], minus_mean);
    squares = tape_multiply_add(tape, squares, d, d);
  }
  Var rstd = reference_rstd(tape, tape_multiply(tape, squares, share), desc->epsilon);
  for (int64_t k = 0; k < count; k++) {
    int64_t i = group_at(desc, n, g, k), c = i % channels;
    Var beta = program->params[1] ? program->params[1][c] : ZERO;
    Var scale = program->params[0] ? tape_multiply(tape, program->params[0][c], rstd) : rstd;
    Var z = tape_multiply_add(tape, beta, tape_add(tape, program->x[0][i], minus_mean), scale);
    program->y[i] = reference_activate(tape, desc->activation, z);
  }
}

void reference_group_norm(Program *program) {
  for (int64_t n = 0; n < program->desc->batch; n++)
    for (int64_t g = 0; g < program->desc->groups; g++) normalise_group(program, n, g);
}

void reference_squeeze_excite(Program *program) {
  const StepDesc *desc = program->desc;
  Tape *tape = &program->tape;
  int64_t channels = shape_channels(desc->output);
  int64_t pixels = shape_count(desc->output) / channels;
  Var *means = calloc((size_t)(2 * channels + desc->squeeze), sizeof *means);
  if (!means) abort();
  Var *squeezed = means + channels, *gates = squeezed + desc->squeeze;
  for (int64_t n = 0; n < desc->batch; n++) {
    const Var *x = program->x[0] + n * pixels * channels;
    Var *y = program->y + n * pixels * channels;
    for (int64_t c = 0; c < channels; c++) means[c] = tape_mean(tape, x + c, pixels, channels);
    product(program, squeezed, means, (int64_t[]){channels, desc->squeeze}, 0);
    for (int64_t k = 0; k < desc->squeeze; k++)
      squeezed[k] = reference_activate(tape, desc->activation, squeezed[k]);
    product(program, gates, squeezed, (int64_t[]){desc->squeeze, channels}, 2);
    for (int64_t c = 0; c < channels; c++)
      gates[c] = reference_activate(tape, desc->gate, gates[c]);
    for (int64_t i = 0; i < pixels * channels; i++)
      y[i] = tape_multiply(tape, x[i], gates[i % channels]);
  }
  free(means);
}

void reference_global_pool(Program *program) {
  const StepDesc *desc = program->desc;
  int64_t channels = shape_channels(desc->output), inputs = shape_count(desc->inputs[0]);
  for (int64_t i = 0; i < desc->batch * channels; i++)
    program->y[i] = tape_mean(&program->tape, program->x[0] + i / channels * inputs + i % channels,
                              inputs / channels, channels);
}
