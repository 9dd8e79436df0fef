// One call of a step through a backend's table alone: planned, run forward and, where the case
// trains, backward, with nothing to rely on but what its StepNeeds says.
//
// Memory that a step may not rely on is full of NaNs: results, scratch and saved memory before a
// call, and inputs that backward says it does not read. Every block has canaries at both ends.
// Where a step can rebuild its result, backward runs on the rebuilt one.
#ifndef IMGCLS_TESTS_OPS_STEP_RUN_H
#define IMGCLS_TESTS_OPS_STEP_RUN_H

#include "ops/step_block.h"
#include "ops/step_test.h"

// How a step is called; ways that a step does not offer are left out.
typedef enum StepVariant {
  VARIANT_PLAIN,
  VARIANT_AGAIN, // VARIANT_PLAIN, expecting the same bits
  VARIANT_FORWARD_IN_PLACE,
  VARIANT_BACKWARD_IN_PLACE,
  VARIANT_RESIDUAL_IN_PLACE,
  VARIANT_SECOND_DY,
  VARIANT_SECOND_DY_IN_PLACE,
  VARIANT_SECOND_DY_RESIDUAL_IN_PLACE,
  VARIANT_ONLY_FIRST_DX,
  VARIANT_ONLY_SECOND_DX,
  VARIANT_ONLY_DPARAMS,
  VARIANT_ONLY_DX,
  VARIANT_SLICED, // x, y and dy in wider values, where the step takes that
  VARIANT_SLICED_SECOND_DY,
  VARIANT_INFERENCE,
  VARIANT_INFERENCE_IN_PLACE,
  VARIANT_COUNT
} StepVariant;

extern const char *const step_variant_names[VARIANT_COUNT];

// A step's results on the host, dense; owned, NULL where there is none. End with step_results_free.
typedef struct StepResults {
  float *y, *dx[STEP_MAX_INPUTS], *dparams[STEP_MAX_PARAMETERS];
} StepResults;

void step_results_free(StepResults *results);

// Runs a step one way. False, and no results, where it is not to be called so.
bool step_run(StepResults *out, const Target *target, const StepDesc *desc, const StepData *data,
              StepVariant variant);

#endif
