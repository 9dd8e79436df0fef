// What a step costs whoever computes it: the bytes that must pass through memory and the products
// that must be formed. From both follows the floor of its time on a device.
#ifndef IMGCLS_EXEC_STEP_COST_H
#define IMGCLS_EXEC_STEP_COST_H

#include "backend/backend.h"

typedef enum StepPass {
  PASS_FORWARD,
  PASS_REBUILD, // y once more, for the backward pass
  PASS_BACKWARD,
  PASS_COUNT
} StepPass;

typedef struct StepCost {
  // Each value read and written once in its own type, and what must wait for a sum over all of it
  // read once more: x in a norm by the statistics of a batch, unless a convolution has summed them.
  // Masks, sums and statistics are left out.
  double bytes;
  double multiplications; // of matrix products: convolutions but depthwise ones, dense layers
} StepCost;

// Of all of desc->batch.
StepCost step_cost(const StepDesc *desc, StepPass pass);

const char *step_kind_name(StepKind kind); // "conv2d"
const char *step_pass_name(StepPass pass); // "forward"

// "conv2d 3x3 stride 2, 56x56x64 -> 28x28x128", at most STEP_TEXT_CAPACITY bytes. Returns text.
enum { STEP_TEXT_CAPACITY = 96 };
const char *step_describe(const StepDesc *desc, char text[STEP_TEXT_CAPACITY]);

#endif
