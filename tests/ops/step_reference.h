// Private to the reference of the steps: a step as a program on a tape, and the groups of steps
// that step_reference.c puts together.
#ifndef IMGCLS_TESTS_OPS_STEP_REFERENCE_H
#define IMGCLS_TESTS_OPS_STEP_REFERENCE_H

#include "ops/step_tape.h"
#include "ops/step_test.h"

// A step on the tape: leaves of inputs and parameters, results, and a norm's statistics.
typedef struct Program {
  Tape tape;
  const StepDesc *desc;
  Var *x[STEP_MAX_INPUTS], *params[STEP_MAX_PARAMETERS], *y, *statistics[2];
  Var *kernel; // of a convolution: params[0], standardised and scaled where the step does so
  Var *shift;  // of a convolution with a norm: what its sums begin with
} Program;

// The index of an element of n samples of shape s.
static inline int64_t image_at(Shape s, int64_t n, int64_t h, int64_t w, int64_t c) {
  return ((n * s.dim[0] + h) * s.dim[1] + w) * s.dim[2] + c;
}

Var reference_activate(Tape *tape, ActivationKind kind, Var a); // any but softmax

// 1 / sqrt(variance + epsilon).
Var reference_rstd(Tape *tape, Var variance, double epsilon);

// y = act(z) may take the slope of ReLU6 from a y that is stored in bf16, where 6 is reached a
// little too soon.
void reference_allow_corner(Program *program, Var z, Var y);

// Each writes program->y from x and params, as Keras defines the step. step_reference_window.c:
void reference_conv2d(Program *program); // depthwise too
void reference_pool2d(Program *program);
void reference_crop(Program *program);
void reference_pad(Program *program);
// step_reference_reduce.c:
void reference_dense(Program *program);
void reference_norm(Program *program);
void reference_group_norm(Program *program);
void reference_squeeze_excite(Program *program);
void reference_global_pool(Program *program);
// step_reference_pointwise.c:
void reference_activation(Program *program);
void reference_add(Program *program);
void reference_multiply(Program *program);
void reference_dropout(Program *program);
void reference_rescale(Program *program);
void reference_concat(Program *program);
void reference_flatten(Program *program);

#endif
