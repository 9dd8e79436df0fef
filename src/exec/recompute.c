// When each value of a plan is there, and which are rebuilt. See executor_internal.h.
//
// A convolution's output is kept anyway, for the gradient of the normalisation behind it. What the
// normalisation made of it is needed again by the next convolution's gradient, and costs one pass
// over memory to have again (Chen et al., "Training deep nets with sublinear memory cost", 2016,
// 3): such values end with the forward pass and are written once more just before their first
// reader of the backward pass.
//
// A step can rebuild its output where the backend has a function for it and each of its inputs is
// there: kept until the step's own backward, or itself rebuilt and read by nobody else. The second
// kind lets a chain be rebuilt as one (normalisation, then squeeze-and-excite), but not a whole row
// of residual blocks, of which every other result stays. Parts of a concatenation that lie in it
// share its fate.
#include <limits.h>
#include <stdlib.h>

#include "base/memory.h"
#include "exec/executor_internal.h"

// What is known of a value while lives are found.
typedef struct Reads {
  int forward;     // the last read of the forward pass and the loss
  int first, last; // of the backward pass; NEVER, -1: none
  int readers;     // steps
  bool can_rebuild;
} Reads;

enum { NEVER = INT_MAX };

static void read_again(Reads *reads, int first, int last) {
  if (reads->first > first) reads->first = first;
  if (reads->last < last) reads->last = last;
}

static void find_reads(const Executor *ex, const ExecutionPlan *plan, Reads *reads) {
  const Program *program = ex->program;
  for (int v = 0; v < program->value_count; v++) reads[v] = (Reads){.first = NEVER, .last = -1};
  reads[program->output].forward = exec__loss_time(program);
  for (int i = 0; i < program->step_count; i++) {
    const Step *step = &program->steps[i];
    const PlannedStep *planned = &plan->steps[i];
    int now = exec__forward_time(i), again = exec__backward_time(program, i);
    for (int k = 0; k < step->desc.input_count; k++) {
      Reads *x = &reads[step->inputs[k]];
      x->readers++;
      if (x->forward < now) x->forward = now;
      if (planned->runs_backward && planned->needs.backward_reads_x[k]) read_again(x, again, again);
    }
    Reads *y = &reads[step->output];
    if (y->forward < now) y->forward = now;
    if (planned->runs_backward && planned->needs.backward_reads_y) read_again(y, again, again);
  }
}

static bool is_rebuilt(const Reads *reads) {
  return reads->can_rebuild && reads->first != NEVER;
}

// Whether step i finds its input there whenever it rebuilds its output.
static bool has_input(const Executor *ex, const Reads *reads, int i, int input) {
  const Step *step = &ex->program->steps[i];
  int value = step->inputs[input];
  const Reads *x = &reads[value];
  if (ex->slices[value].parent == step->output) return x->can_rebuild;
  if (x->can_rebuild && x->readers == 1) return true;
  return !is_rebuilt(x) && x->last >= exec__backward_time(ex->program, i);
}

static bool can_rebuild(const Executor *ex, const ExecutionPlan *plan, const Reads *reads, int i) {
  const Step *step = &ex->program->steps[i];
  if (!ex->backend->steps[step->desc.kind]->rebuild || !plan->steps[i].runs_backward ||
      step->output == ex->program->output)
    return false;
  for (int k = 0; k < step->desc.input_count; k++)
    if (!has_input(ex, reads, i, k)) return false;
  return true;
}

// In the order of execution, so that of each step's inputs it is known already.
static void choose(const Executor *ex, const ExecutionPlan *plan, Reads *reads) {
  for (int i = 0; i < ex->program->step_count; i++) {
    int y = ex->program->steps[i].output;
    reads[y].can_rebuild = can_rebuild(ex, plan, reads, i);
    for (int v = 0; v < ex->program->value_count && !reads[y].can_rebuild; v++)
      if (ex->slices[v].parent == y) reads[v].can_rebuild = false; // they stay with it
  }
}

// Where a value is rebuilt from another rebuilt one, that is needed as early.
static void pass_needs_on(const Executor *ex, Reads *reads) {
  for (int i = ex->program->step_count - 1; i >= 0; i--) {
    const Step *step = &ex->program->steps[i];
    const Reads *y = &reads[step->output];
    for (int k = 0; k < step->desc.input_count && is_rebuilt(y); k++) {
      Reads *x = &reads[step->inputs[k]];
      if (x->can_rebuild) read_again(x, y->first, y->first);
    }
  }
}

static int by_time_then_step(const void *a, const void *b) {
  const Rebuild *x = a, *y = b;
  return x->time != y->time ? (x->time < y->time ? -1 : 1) : x->step - y->step;
}

static void list_rebuilds(const Executor *ex, ExecutionPlan *plan) {
  for (int i = 0; i < ex->program->step_count; i++) {
    int again = plan->lives[ex->program->steps[i].output].again;
    if (again >= 0) plan->rebuilds[plan->rebuild_count++] = (Rebuild){again, i};
  }
  qsort(plan->rebuilds, (size_t)plan->rebuild_count, sizeof *plan->rebuilds, by_time_then_step);
}

Status exec__find_lives(const Executor *ex, ExecutionPlan *plan, bool recomputes) {
  Reads *reads;
  TRY(memory_alloc(&reads, (size_t)ex->program->value_count, sizeof *reads));
  find_reads(ex, plan, reads);
  if (recomputes) choose(ex, plan, reads);
  pass_needs_on(ex, reads);
  for (int v = 0; v < ex->program->value_count; v++) {
    int overall = reads[v].forward > reads[v].last ? reads[v].forward : reads[v].last;
    plan->lives[v] = is_rebuilt(&reads[v])
                         ? (ValueLife){reads[v].forward, reads[v].first, reads[v].last}
                         : (ValueLife){overall, -1, -1};
  }
  plan->rebuild_count = 0;
  list_rebuilds(ex, plan);
  memory_free(reads);
  return STATUS_OK;
}
