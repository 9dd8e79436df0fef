// The contract of the steps as tests: one table of cases, and a reference in double precision that
// test_step_contract.c holds a backend against.
#ifndef IMGCLS_TESTS_OPS_STEP_TEST_H
#define IMGCLS_TESTS_OPS_STEP_TEST_H

#include "backend/backend.h"

enum { STEP_NAME_CAPACITY = 96 };

typedef struct StepCase {
  char name[STEP_NAME_CAPACITY];
  StepDesc desc;   // for training, every gradient wanted; name and dtype are the test's to set
  double x_offset; // inputs are drawn around it,
  double x_range;  // by at most this; 0: what suits the step
  bool x_ties;     // few different values: a maximum has rivals
  bool x_nan;      // one number of the first input is none: y must tell, nothing else is checked
  bool is_large;   // called in one way only, in fp32
} StepCase;

extern const StepKey step_test_key; // where the draws of every case stand

// Every case; `*out` is the caller's to free().
int step_cases(StepCase **out);

// Elements of parameter k of a step, 0 where it has none.
int64_t step_parameter_count(const StepDesc *desc, int k);

// A step's numbers, dense, in Keras' order. Arrays owned; freed by step_data_deinit.
typedef struct StepData {
  double *x[STEP_MAX_INPUTS];
  double *params[STEP_MAX_PARAMETERS];
  double *dy;  // multiples of 1/64, so that dy = (dy - dy2) + dy2 without rounding
  double *dy2; // likewise
} StepData;

// Draws for a step: values and parameters, representable in `test->desc.dtype`.
void step_data_draw(StepData *out, const StepCase *test, uint64_t seed);
void step_data_deinit(StepData *data);

// By how much rounding to a type of values can move x at most.
double step_rounding(double x, DType dtype);

// Values, and how far sums and products in fp32, in any order, may lie from them.
typedef struct Bounded {
  int64_t count;
  double *value, *bound;
} Bounded;

typedef struct Reference {
  Bounded y, dx[STEP_MAX_INPUTS], dparams[STEP_MAX_PARAMETERS];
} Reference;

// What the step must give: y, and the gradients of sum(dy y). Of a norm with batch statistics,
// dparams 2 and 3 are the batch's mean and variance.
void reference_compute(Reference *out, const StepDesc *desc, const StepData *data);
// sum(dy y).
double reference_loss(const StepDesc *desc, const StepData *data);
void reference_deinit(Reference *reference);

#endif
