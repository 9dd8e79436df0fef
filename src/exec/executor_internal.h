// What an executor is made of, shared by executor.c (the passes), execution_plan.c (steps and
// places) and recompute.c (which values are rebuilt).
//
// An ExecutionPlan belongs to one batch size: the planned steps and the place of every block in the
// arena, which all plans share. Its clock runs over the steps forward, the loss, and the steps
// backward; a block's life is an interval on it.
#ifndef IMGCLS_EXEC_EXECUTOR_INTERNAL_H
#define IMGCLS_EXEC_EXECUTOR_INTERNAL_H

#include "exec/executor.h"
#include "exec/plan.h"
#include "exec/slices.h"

// When a value is there, on the clock of its plan.
typedef struct ValueLife {
  int last;       // last read of what the forward pass wrote
  int again;      // when it is written once more, before the step of that time; -1: never
  int again_last; // last read of that
} ValueLife;

// A step that writes its output once more before another's backward.
typedef struct Rebuild {
  int time, step;
} Rebuild;

// to += from, after a step's backward: a value read by several steps collects its gradient so.
typedef struct GradientSum {
  int to, from; // blocks
  int value;
} GradientSum;

typedef struct PlannedStep {
  void *state;
  StepNeeds needs;
  StepArgs args;           // of the forward pass
  StepArgs backward_args;  // the same with rebuilt values in the place of those that are gone
  int saved;               // block, -1: none
  int statistics;          // the same, of a convolution and of the norm that takes them
  int dy, dy2;             // blocks
  int dx[STEP_MAX_INPUTS]; // blocks
  bool runs_backward;
  int sum_count;
  GradientSum sums[STEP_MAX_INPUTS];
} PlannedStep;

typedef struct ExecutionPlan {
  int64_t batch;
  PlannedStep *steps;
  MemoryBlock *blocks;
  int block_count;
  int *value_blocks;   // of each value; -1: an input that the executor takes
  ValueLife *lives;    // of each value
  int *rebuilt_blocks; // of each value, -1: it is not rebuilt
  Rebuild *rebuilds;   // in the order of execution
  int rebuild_count;
  size_t kept_bytes;   // what the arena would take if nothing were rebuilt
  int logits_gradient; // block, -1 in inference
  size_t arena_bytes, scratch_bytes;
  size_t persistent_bytes;
  void *persistent;
  bool prepared; // the steps hold the weights of now
} ExecutionPlan;

struct Executor {
  const Backend *backend;
  Device *device;
  const ParameterLayout *layout;
  Program *program;
  ValueSlice *slices; // of each value
  DType dtype;
  bool trains, recomputes, takes_value;
  ExecutionPlan *plans;
  int plan_count;
  int64_t largest_batch;
  size_t arena_bytes, scratch_bytes;
  size_t kept_bytes; // the largest of the plans
  void *arena, *scratch;
  float *losses;  // on the device, of the largest batch
  int32_t *ranks; // the same
  const float *weights;
  float *gradients;
  ExecutionPlan *current; // of the last forward pass
  bool input_on_device;   // the last forward pass'
  StepWatch watch;        // NULL: nobody looks on
  void *watch_context;
  StepKey *key;           // on the device: for keys that the host gives. NULL in inference
};

// Of the upload it is 0.
int exec__forward_time(int step);
int exec__loss_time(const Program *program);
int exec__backward_time(const Program *program, int step);

// Plans the steps and the memory of one batch size. What fails half-way is freed by the executor.
MUST_CHECK Status exec__plan_create(Executor *ex, ExecutionPlan *plan, int64_t batch);
void exec__plan_deinit(Executor *ex, ExecutionPlan *plan);

// Bytes of a value in a plan.
size_t exec__value_bytes(const Executor *ex, const ExecutionPlan *plan, int value);

// What step i computes in this plan.
StepDesc exec__describe_step(const Executor *ex, const ExecutionPlan *plan, int i);

// Fills plan->lives from what the planned steps read; where `recomputes`, values that the backward
// pass can have again from kept ones end with the forward pass.
MUST_CHECK Status exec__find_lives(const Executor *ex, ExecutionPlan *plan, bool recomputes);

#endif
