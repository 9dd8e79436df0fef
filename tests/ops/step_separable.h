// Separable convolutions as a whole: what Keras' SeparableConv2D computes of its input and its
// three arrays, whatever steps a backend runs for it.
#ifndef IMGCLS_TESTS_OPS_STEP_SEPARABLE_H
#define IMGCLS_TESTS_OPS_STEP_SEPARABLE_H

#include "graph/graph.h"
#include "ops/step_test.h"

enum { SEPARABLE_PARAMETERS = 3 }; // depthwise kernel, pointwise kernel, bias

typedef struct SeparableCase {
  const char *name;
  Shape input;
  Conv2dDesc conv; // kernel, stride and filters set; 0 for other defaults
  int64_t batch;
} SeparableCase;

// Every case; `*out` is static.
int separable_cases(const SeparableCase **out);

Shape separable_output(const SeparableCase *test);
int64_t separable_parameter_count(const SeparableCase *test, int k);

// Draws x[0], params and dy as multiples of 1/64 in [-1, 1]: a product of two is 0 or a normal
// number of every type. Ends with step_data_deinit.
void separable_draw(StepData *out, const SeparableCase *test, uint64_t seed);

// y, dx[0] and dparams as sums over products of three numbers. Bounds are for sums in fp32 of sums
// that were rounded to `between`. Ends with reference_deinit.
void separable_compute(Reference *out, const SeparableCase *test, const StepData *data,
                       DType between);

// sum(dy y).
double separable_loss(const SeparableCase *test, const StepData *data);

#endif
