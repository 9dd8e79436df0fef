// A lowering under way: what lower.c and lower_rules.c share.
#ifndef IMGCLS_EXEC_LOWER_INTERNAL_H
#define IMGCLS_EXEC_LOWER_INTERNAL_H

#include "exec/lower.h"

typedef struct Lowering {
  const Graph *graph;
  LowerMode mode;
  Value input, output;
  Step *steps; // in order; removed ones have output NO_VALUE
  int step_count;
  int value_capacity; // values of layers, then one more for each: inside a separable convolution
  int *alias; // the value that stands for each layer's output
  Shape *shapes; // of each value; (1, 1, C) of global pooling counts as (C,)
  Program *program;
} Lowering;

// Folds neighbours until no rule applies.
void lower__apply_rules(Lowering *low);

// Takes norms into the convolutions before them; for inference, after the rules.
void lower__fold_norms(Lowering *low);

// Lets convolutions sum for the norms behind them, after the rules.
void lower__link_statistics(Lowering *low);

#endif
