// The reference of the steps that go element by element: activations, sums, products, dropout,
// rescaling, and those that only move elements.
#include <math.h>
#include <stdlib.h>

#include "base/rng.h"
#include "ops/step_reference.h"

static double clamp6(double x) {
  return fmin(fmax(x, 0.0), 6.0);
}

Var reference_activate(Tape *tape, ActivationKind kind, Var a) {
  double x = tape_value(tape, a), s = 1.0 / (1.0 + exp(-x)), t = tanh(x);
  bool bends = fabs(x) < 3.0; // of the hard ones
  switch (kind) {
  case ACTIVATION_LINEAR:
    return a;
  case ACTIVATION_RELU:
    return tape_function(tape, a, fmax(x, 0.0), x > 0.0, 0.0);
  case ACTIVATION_RELU6:
    return tape_function(tape, a, clamp6(x), x > 0.0 && x < 6.0, 0.0);
  case ACTIVATION_SWISH:
    return tape_function(tape, a, x * s, s + x * s * (1.0 - s), 0.5);
  case ACTIVATION_SIGMOID:
    return tape_function(tape, a, s, s * (1.0 - s), 0.1);
  case ACTIVATION_HARD_SIGMOID:
    return tape_function(tape, a, clamp6(x + 3.0) / 6.0, bends ? 1.0 / 6.0 : 0.0, 0.0);
  case ACTIVATION_HARD_SWISH:
    return tape_function(tape, a, x * clamp6(x + 3.0) / 6.0,
                         bends ? (2.0 * x + 3.0) / 6.0 : (double)(x > 0.0),
                         bends ? 1.0 / 3.0 : 0.0);
  case ACTIVATION_TANH:
    return tape_function(tape, a, t, 1.0 - t * t, 0.8);
  default:
    abort();
  }
}

void reference_allow_corner(Program *program, Var z, Var y) {
  Tape *tape = &program->tape;
  bool near_corner = fabs(tape_value(tape, z) - 6.0) <= 6.0 * BF16_UNIT;
  if (program->desc->activation == ACTIVATION_RELU6 && near_corner)
    tape->nodes[y].partial_error = 1.0;
}

static int64_t output_count(const Program *program) {
  return program->desc->batch * shape_count(program->desc->output);
}

// Softmax over a sample's channels: forward only.
static void softmax(Program *program, const Var *x, Var *y) {
  int64_t classes = shape_channels(program->desc->output);
  double sum = 0.0, error = 0.0, size = 0.0;
  for (int64_t k = 0; k < classes; k++) {
    sum += exp(tape_value(&program->tape, x[k]));
    size = fmax(size, fabs(tape_value(&program->tape, x[k])));
  }
  error = FP32_UNIT * (2.0 * FUNCTION_UNITS + 4.0 * size + (double)classes);
  for (int64_t k = 0; k < classes; k++) {
    double p = exp(tape_value(&program->tape, x[k])) / sum;
    y[k] = tape_leaf(&program->tape, p);
    program->tape.nodes[y[k]].error = p * error;
  }
}

void reference_activation(Program *program) {
  const StepDesc *desc = program->desc;
  if (desc->activation == ACTIVATION_SOFTMAX) {
    for (int64_t i = 0; i < output_count(program); i += shape_channels(desc->output))
      softmax(program, program->x[0] + i, program->y + i);
    return;
  }
  for (int64_t i = 0; i < output_count(program); i++)
    program->y[i] = reference_activate(&program->tape, desc->activation, program->x[0][i]);
}

void reference_add(Program *program) {
  const StepDesc *desc = program->desc;
  Tape *tape = &program->tape;
  Var factor = desc->factor != 0.0 ? tape_leaf(tape, desc->factor) : ONE;
  for (int64_t i = 0; i < output_count(program); i++) {
    Var z = tape_multiply_add(tape, program->x[0][i], program->x[1][i], factor);
    program->y[i] = reference_activate(tape, desc->activation, z);
    if (desc->dtype == DTYPE_BF16) reference_allow_corner(program, z, program->y[i]);
  }
}

// The second input is (C,): one factor for all pixels of a channel.
void reference_multiply(Program *program) {
  int64_t size = shape_count(program->desc->output);
  int64_t channels = shape_channels(program->desc->output);
  for (int64_t i = 0; i < output_count(program); i++)
    program->y[i] = tape_multiply(&program->tape, program->x[0][i],
                                  program->x[1][i / size * channels + i % channels]);
}

// What dropout multiplies element `i` of the batch with: a draw of (seed, step, layer, place in the
// global batch, element in H, W, C order), four elements to a block of words.
static double dropout_mask(const StepDesc *desc, int64_t i) {
  if (!desc->training || desc->rate == 0.0) return 1.0;
  int64_t size = shape_count(desc->output);
  uint64_t sample = (uint64_t)(step_test_key.first_sample + i / size);
  uint64_t element = desc->per_sample ? 0 : (uint64_t)(i % size), group = element / 4;
  RngWords words = rng_draw(step_test_key.seed, RNG_DROPOUT, (uint64_t)step_test_key.step,
                            group >> 16 << 48 | (uint64_t)desc->layer << 32 | sample,
                            (uint32_t)(group & 0xffff));
  double keep = 1.0 - desc->rate;
  return rng_unit(words.word[element % 4]) < keep ? 1.0 / keep : 0.0;
}

void reference_dropout(Program *program) {
  Tape *tape = &program->tape;
  bool joins = program->desc->input_count > 1;
  for (int64_t i = 0; i < output_count(program); i++)
    program->y[i] = tape_multiply_add(tape, joins ? program->x[1][i] : ZERO, program->x[0][i],
                                      tape_leaf(tape, dropout_mask(program->desc, i)));
}

void reference_rescale(Program *program) {
  const RescalingDesc *rescaling = &program->desc->rescaling;
  Tape *tape = &program->tape;
  for (int64_t i = 0; i < output_count(program); i++) {
    int64_t k = rescaling->count > 1 ? i % shape_channels(program->desc->output) : 0;
    program->y[i] = tape_multiply_add(tape, tape_leaf(tape, rescaling->offset[k]), program->x[0][i],
                                      tape_leaf(tape, rescaling->scale[k]));
  }
}

void reference_concat(Program *program) {
  const StepDesc *desc = program->desc;
  for (int64_t i = 0; i < output_count(program); i++) {
    int64_t channels = shape_channels(desc->output), pixel = i / channels, c = i % channels;
    int k = 0;
    for (; c >= shape_channels(desc->inputs[k]); k++) c -= shape_channels(desc->inputs[k]);
    program->y[i] = program->x[k][pixel * shape_channels(desc->inputs[k]) + c];
  }
}

void reference_flatten(Program *program) {
  for (int64_t i = 0; i < output_count(program); i++) program->y[i] = program->x[0][i];
}
