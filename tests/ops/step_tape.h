// Numbers that remember how they came about: what the reference of the steps is written with.
//
// Every number is a node of a tape: a sum acc + a b, or a function of one number. Gradients follow
// from the tape alone (reverse accumulation), so no derivative of a step is written by hand; the
// tests hold them against finite differences. Beside its value each node carries a bound of what
// rounding in fp32 can do to it: a running error analysis (Higham, Accuracy and Stability of
// Numerical Algorithms, 3.3) that sums absolute terms, so it holds in any order of summation.
#ifndef IMGCLS_TESTS_OPS_STEP_TAPE_H
#define IMGCLS_TESTS_OPS_STEP_TAPE_H

#include <stdint.h>

#define FP32_UNIT 0x1p-24 // fp32 rounds by at most this, relatively
#define BF16_UNIT 0x1p-8
#define FUNCTION_UNITS 8.0 // units by which a function of the vector kernels may be off

typedef int32_t Var; // a node's place on its tape

typedef struct Node {
  Var acc, a, b; // acc + a b; b < 0: a function of a
  double partial, partial_error;
  double value, size, error; // size: sum of absolute terms
  double gradient, gradient_size, gradient_error;
  double gradient_rounding; // of a gradient that is stored on its way
} Node;

typedef struct Tape {
  Node *nodes; // owned
  int64_t count, capacity;
} Tape;

enum { ZERO, ONE }; // the first two numbers of every tape

void tape_init(Tape *tape);
void tape_deinit(Tape *tape);

Var tape_leaf(Tape *tape, double value);
Var tape_multiply_add(Tape *tape, Var acc, Var a, Var b);
Var tape_add(Tape *tape, Var a, Var b);
Var tape_multiply(Tape *tape, Var a, Var b);
Var tape_negate(Tape *tape, Var a);
// Mean of `count` numbers, `stride` apart.
Var tape_mean(Tape *tape, const Var *x, int64_t count, int64_t stride);
// f(a) = value with f'(a) = partial and |f''(a)| at most `curvature`.
Var tape_function(Tape *tape, Var a, double value, double partial, double curvature);

double tape_value(const Tape *tape, Var x);

// Adds to the gradient of x, from outside; then carries all gradients down to the leaves.
void tape_seed(Tape *tape, Var x, double gradient);
void tape_differentiate(Tape *tape);

#endif
