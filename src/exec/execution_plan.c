// Plans the steps of one batch size and the place of every activation and gradient. See
// executor_internal.h.
#include "base/memory.h"
#include "exec/executor_internal.h"

// --- the clock -----------------------------------------------------------------------------------

int exec__forward_time(int step) {
  return step + 1;
} // 0 is the upload
int exec__loss_time(const Program *program) {
  return program->step_count + 1;
}
int exec__backward_time(const Program *program, int step) {
  return 2 * program->step_count + 1 - step;
}

// --- blocks --------------------------------------------------------------------------------------

static int new_block(ExecutionPlan *plan, size_t size_bytes, int time) {
  plan->blocks[plan->block_count] =
      (MemoryBlock){.size_bytes = size_bytes, .first = time, .last = time};
  return plan->block_count++;
}

static void keep_until(ExecutionPlan *plan, int block, int time) {
  if (plan->blocks[block].last < time) plan->blocks[block].last = time;
}

size_t exec__value_bytes(const Executor *ex, const ExecutionPlan *plan, int value) {
  return ex->backend->value_size(ex->device, ex->program->shapes[value], plan->batch, ex->dtype);
}

static int producer_of(const Program *program, int value) {
  for (int i = 0; i < program->step_count; i++)
    if (program->steps[i].output == value) return i;
  return -1;
}

// A slice lies in its parent's block, which begins to live with the first of them.
static int home_of(const Executor *ex, int value) {
  int parent = ex->slices[value].parent;
  return parent < 0 ? value : parent;
}

static void place_value(Executor *ex, ExecutionPlan *plan, int i) {
  const Step *step = &ex->program->steps[i];
  int x = step->inputs[0], y = step->output, now = exec__forward_time(i);
  int *home = &plan->value_blocks[home_of(ex, y)];
  size_t size = exec__value_bytes(ex, plan, home_of(ex, y));
  int from = plan->value_blocks[x];
  bool in_place = from >= 0 && plan->steps[i].needs.forward_in_place && home_of(ex, y) == y &&
                  plan->lives[x].last == now && home_of(ex, x) == x &&
                  plan->blocks[from].last == now && plan->blocks[from].size_bytes == size;
  if (*home < 0) *home = in_place ? from : new_block(plan, size, now);
  plan->value_blocks[y] = *home;
  keep_until(plan, *home, plan->lives[y].last);
}

static void place_rebuilt(Executor *ex, ExecutionPlan *plan, int value) {
  const ValueLife *life = &plan->lives[value];
  int *home = &plan->rebuilt_blocks[home_of(ex, value)];
  if (life->again < 0) return;
  if (*home < 0)
    *home = new_block(plan, exec__value_bytes(ex, plan, home_of(ex, value)), life->again);
  MemoryBlock *block = &plan->blocks[*home];
  if (block->first > life->again) block->first = life->again;
  keep_until(plan, *home, life->again_last);
  plan->rebuilt_blocks[value] = *home;
}

// What a convolution sums for the norm behind it.
static void place_statistics(Executor *ex, ExecutionPlan *plan, int i) {
  const Step *step = &ex->program->steps[i];
  PlannedStep *planned = &plan->steps[i];
  planned->statistics = -1;
  if (planned->needs.statistics_size > 0)
    planned->statistics =
        new_block(plan, planned->needs.statistics_size, exec__forward_time(i));
  if (!step->desc.takes_statistics) return;
  planned->statistics = plan->steps[producer_of(ex->program, step->inputs[0])].statistics;
  if (planned->statistics >= 0) keep_until(plan, planned->statistics, exec__forward_time(i));
}

static void place_values(Executor *ex, ExecutionPlan *plan) {
  const Program *program = ex->program;
  for (int v = 0; v < program->value_count; v++)
    plan->value_blocks[v] = plan->rebuilt_blocks[v] = -1;
  if (!ex->takes_value) {
    plan->value_blocks[0] = new_block(plan, exec__value_bytes(ex, plan, 0), 0);
    keep_until(plan, plan->value_blocks[0], plan->lives[0].last);
  }
  for (int i = 0; i < program->step_count; i++) {
    PlannedStep *planned = &plan->steps[i];
    place_value(ex, plan, i);
    place_rebuilt(ex, plan, program->steps[i].output);
    place_statistics(ex, plan, i);
    planned->saved = -1;
    if (planned->needs.saved_size == 0) continue;
    planned->saved = new_block(plan, planned->needs.saved_size, exec__forward_time(i));
    if (planned->runs_backward) keep_until(plan, planned->saved, exec__backward_time(program, i));
  }
}

// The contributions to a value's gradient that its producer will add up itself: at most two.
typedef struct Contributions {
  int blocks[2];
  int count;
  int slice; // the block of the gradient that holds this one as a slice; -1: none
} Contributions;

static int gradient_block(Executor *ex, ExecutionPlan *plan, int i, int k, bool *dy_taken) {
  const Step *step = &ex->program->steps[i];
  PlannedStep *planned = &plan->steps[i];
  bool reuse = k == 1 ? planned->needs.residual_in_place
                      : k == 0 && planned->needs.backward_in_place &&
                            !(planned->needs.residual_in_place && step->desc.need_dx[1]);
  size_t size = exec__value_bytes(ex, plan, step->inputs[k]);
  if (reuse && !*dy_taken && ex->slices[step->output].parent < 0 &&
      plan->blocks[planned->dy].size_bytes == size) {
    *dy_taken = true;
    return planned->dy;
  }
  return new_block(plan, size, exec__backward_time(ex->program, i));
}

// What step i finds of the gradient of its output, and until when it must be there.
static void take_gradient(ExecutionPlan *plan, PlannedStep *planned, const Contributions *mine,
                          int now) {
  bool sliced = mine->slice >= 0;
  planned->dy = sliced ? mine->slice : mine->blocks[0];
  planned->dy2 = mine->count > !sliced ? mine->blocks[!sliced] : -1;
  keep_until(plan, planned->dy, now);
  if (planned->dy2 >= 0) keep_until(plan, planned->dy2, now);
}

// Plans what step i gives to the gradient of its input k.
static void give_gradient(Executor *ex, ExecutionPlan *plan, int i, int k, Contributions *gradients,
                          bool *dy_taken) {
  const Step *step = &ex->program->steps[i];
  PlannedStep *planned = &plan->steps[i];
  int value = step->inputs[k], now = exec__backward_time(ex->program, i);
  Contributions *theirs = &gradients[value];
  const PlannedStep *maker = &plan->steps[producer_of(ex->program, value)];
  if (ex->slices[value].parent == step->output) {
    theirs->slice = planned->dy;
    planned->dx[k] = -1;
    return;
  }
  planned->dx[k] = gradient_block(ex, plan, i, k, dy_taken);
  bool takes_two = maker->needs.takes_second_dy && ex->slices[value].parent < 0;
  if (theirs->count < (takes_two ? 2 : 1))
    theirs->blocks[theirs->count++] = planned->dx[k];
  else
    planned->sums[planned->sum_count++] =
        (GradientSum){.to = theirs->blocks[0], .from = planned->dx[k], .value = value};
  for (int c = 0; c < theirs->count; c++) keep_until(plan, theirs->blocks[c], now);
}

static Status place_gradients(Executor *ex, ExecutionPlan *plan) {
  const Program *program = ex->program;
  Contributions *gradients;
  TRY(memory_alloc(&gradients, (size_t)program->value_count, sizeof *gradients));
  plan->logits_gradient =
      new_block(plan, exec__value_bytes(ex, plan, program->output), exec__loss_time(program));
  for (int v = 0; v < program->value_count; v++) gradients[v].slice = -1;
  gradients[program->output] = (Contributions){{plan->logits_gradient}, 1, -1};
  for (int i = program->step_count - 1; i >= 0; i--) {
    const Step *step = &program->steps[i];
    PlannedStep *planned = &plan->steps[i];
    const Contributions *mine = &gradients[step->output];
    planned->runs_backward = planned->runs_backward && (mine->count > 0 || mine->slice >= 0);
    if (!planned->runs_backward) continue;
    take_gradient(plan, planned, mine, exec__backward_time(program, i));
    bool dy_taken = false;
    for (int k = step->desc.input_count - 1; k >= 0; k--)
      if (step->desc.need_dx[k]) give_gradient(ex, plan, i, k, gradients, &dy_taken);
  }
  memory_free(gradients);
  return STATUS_OK;
}

// --- planning ------------------------------------------------------------------------------------

StepDesc exec__describe_step(const Executor *ex, const ExecutionPlan *plan, int i) {
  StepDesc desc = ex->program->steps[i].desc;
  desc.batch = plan->batch;
  desc.dtype = ex->dtype;
  slices_describe(&desc, ex->slices, &ex->program->steps[i]);
  return desc;
}

static Status plan_steps(Executor *ex, ExecutionPlan *plan) {
  for (int i = 0; i < ex->program->step_count; i++) {
    Step *step = &ex->program->steps[i];
    PlannedStep *planned = &plan->steps[i];
    const StepImpl *impl = ex->backend->steps[step->desc.kind];
    if (!impl)
      return status_set(STATUS_CONFIG, "layer '%s' cannot run on %s: it has no step %s",
                        step->desc.name, ex->backend->name, step_kind_name(step->desc.kind));
    StepDesc desc = exec__describe_step(ex, plan, i);
    Status status = impl->plan(&planned->state, ex->device, &desc, &planned->needs);
    if (status != STATUS_OK) return status_prepend(status, "layer '%s'", desc.name);
    planned->runs_backward = desc.need_dparams;
    for (int k = 0; k < desc.input_count; k++) planned->runs_backward |= desc.need_dx[k];
    if (planned->needs.scratch_size > plan->scratch_bytes)
      plan->scratch_bytes = planned->needs.scratch_size;
    plan->persistent_bytes += memory_round_up(planned->needs.persistent_size);
  }
  return STATUS_OK;
}

// Gives every block its place; where `recomputes`, with values that are rebuilt.
static Status lay_out(Executor *ex, ExecutionPlan *plan, bool recomputes) {
  plan->block_count = plan->rebuild_count = 0;
  for (int i = 0; i < ex->program->step_count; i++) plan->steps[i].sum_count = 0;
  TRY(exec__find_lives(ex, plan, recomputes));
  place_values(ex, plan);
  if (ex->trains) TRY(place_gradients(ex, plan));
  return plan_memory(&plan->arena_bytes, plan->blocks, plan->block_count);
}

Status exec__plan_create(Executor *ex, ExecutionPlan *plan, int64_t batch) {
  size_t steps = (size_t)ex->program->step_count, values = (size_t)ex->program->value_count;
  plan->batch = batch;
  plan->logits_gradient = -1;
  TRY(memory_alloc(&plan->steps, steps, sizeof *plan->steps));
  // Of each step: its value, twice where it is rebuilt, its saved block, its statistics and a
  // gradient for each input; the input; the logits'.
  TRY(memory_alloc(&plan->blocks, steps * (4 + STEP_MAX_INPUTS) + 2, sizeof *plan->blocks));
  TRY(memory_alloc(&plan->value_blocks, values, sizeof(int)));
  TRY(memory_alloc(&plan->rebuilt_blocks, values, sizeof(int)));
  TRY(memory_alloc(&plan->lives, values, sizeof *plan->lives));
  TRY(memory_alloc(&plan->rebuilds, steps, sizeof *plan->rebuilds));
  TRY(plan_steps(ex, plan));
  TRY(lay_out(ex, plan, false));
  plan->kept_bytes = plan->arena_bytes;
  return ex->recomputes ? lay_out(ex, plan, true) : STATUS_OK;
}

void exec__plan_deinit(Executor *ex, ExecutionPlan *plan) {
  for (int i = 0; plan->steps && i < ex->program->step_count; i++) {
    const StepImpl *impl = ex->backend->steps[ex->program->steps[i].desc.kind];
    if (plan->steps[i].state) impl->unplan(plan->steps[i].state);
  }
  ex->backend->memory_free(ex->device, plan->persistent);
  memory_free(plan->steps);
  memory_free(plan->blocks);
  memory_free(plan->value_blocks);
  memory_free(plan->rebuilt_blocks);
  memory_free(plan->lives);
  memory_free(plan->rebuilds);
}
