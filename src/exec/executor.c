// Runs a graph on one device. See executor.h.
//
// An ExecutionPlan belongs to one batch size: the planned steps and the place of every block in the
// arena, which all plans share. Its clock runs over the steps forward, the loss, and the steps
// backward; a block's life is an interval on it.
#include "exec/executor.h"

#include <inttypes.h>
#include <string.h>

#include "base/memory.h"
#include "exec/plan.h"
#include "exec/slices.h"

// to += from, after a step's backward: a value read by several steps collects its gradient so.
typedef struct GradientSum {
  int to, from; // blocks
  int value;
} GradientSum;

typedef struct PlannedStep {
  void *state;
  StepNeeds needs;
  StepArgs args;
  int saved;                 // block, -1: none
  int dy, dy2;               // blocks
  int dx[STEP_MAX_INPUTS];   // blocks
  bool runs_backward;
  int sum_count;
  GradientSum sums[STEP_MAX_INPUTS];
} PlannedStep;

typedef struct ExecutionPlan {
  int64_t batch;
  PlannedStep *steps;
  MemoryBlock *blocks;
  int block_count;
  int *value_blocks;
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
  ExecutionPlan *plans;
  int plan_count;
  int64_t largest_batch;
  size_t arena_bytes, scratch_bytes;
  void *arena, *scratch;
  float *losses;  // on the device, of the largest batch
  int32_t *ranks; // the same
  const float *weights;
  float *gradients;
  ExecutionPlan *current; // of the last forward pass
  StepKey key;
};

// --- the clock ------------------------------------------------------------------------------------

static int forward_time(int step) { return step + 1; } // 0 is the upload
static int loss_time(const Program *program) { return program->step_count + 1; }
static int backward_time(const Program *program, int step) {
  return 2 * program->step_count + 1 - step;
}

// --- blocks ---------------------------------------------------------------------------------------

static int new_block(ExecutionPlan *plan, size_t size_bytes, int time) {
  plan->blocks[plan->block_count] =
      (MemoryBlock){.size_bytes = size_bytes, .first = time, .last = time};
  return plan->block_count++;
}

static void keep_until(ExecutionPlan *plan, int block, int time) {
  if (plan->blocks[block].last < time) plan->blocks[block].last = time;
}

static size_t value_bytes(const Executor *ex, const ExecutionPlan *plan, int value) {
  return ex->backend->value_size(ex->device, ex->program->shapes[value], plan->batch, ex->dtype);
}

static int producer_of(const Program *program, int value) {
  for (int i = 0; i < program->step_count; i++)
    if (program->steps[i].output == value) return i;
  return -1;
}

// When each value is read for the last time, forward and backward.
static void find_last_reads(const Executor *ex, const ExecutionPlan *plan, int *last) {
  const Program *program = ex->program;
  for (int v = 0; v < program->value_count; v++) last[v] = 0;
  last[program->output] = loss_time(program);
  for (int i = 0; i < program->step_count; i++) {
    const Step *step = &program->steps[i];
    const PlannedStep *planned = &plan->steps[i];
    for (int k = 0; k < step->desc.input_count; k++) {
      bool again = planned->runs_backward && planned->needs.backward_reads_x[k];
      int time = again ? backward_time(program, i) : forward_time(i);
      if (last[step->inputs[k]] < time) last[step->inputs[k]] = time;
    }
    bool again = planned->runs_backward && planned->needs.backward_reads_y;
    int time = again ? backward_time(program, i) : forward_time(i);
    if (last[step->output] < time) last[step->output] = time;
  }
}

// A slice lies in its parent's block, which begins to live with the first of them.
static void place_value(Executor *ex, ExecutionPlan *plan, int i, const int *last) {
  const Step *step = &ex->program->steps[i];
  int x = step->inputs[0], y = step->output, now = forward_time(i);
  int parent = ex->slices[y].parent, *home = &plan->value_blocks[parent < 0 ? y : parent];
  size_t size = value_bytes(ex, plan, parent < 0 ? y : parent);
  const MemoryBlock *from = &plan->blocks[plan->value_blocks[x]];
  bool in_place = plan->steps[i].needs.forward_in_place && parent < 0 && last[x] == now &&
                  ex->slices[x].parent < 0 && from->last == now && from->size_bytes == size;
  if (*home < 0) *home = in_place ? plan->value_blocks[x] : new_block(plan, size, now);
  plan->value_blocks[y] = *home;
  keep_until(plan, *home, last[y]);
}

static void place_values(Executor *ex, ExecutionPlan *plan, const int *last) {
  const Program *program = ex->program;
  for (int v = 0; v < program->value_count; v++) plan->value_blocks[v] = -1;
  plan->value_blocks[0] = new_block(plan, value_bytes(ex, plan, 0), 0);
  keep_until(plan, plan->value_blocks[0], last[0]);
  for (int i = 0; i < program->step_count; i++) {
    PlannedStep *planned = &plan->steps[i];
    place_value(ex, plan, i, last);
    planned->saved = -1;
    if (planned->needs.saved_size == 0) continue;
    planned->saved = new_block(plan, planned->needs.saved_size, forward_time(i));
    if (planned->runs_backward) keep_until(plan, planned->saved, backward_time(program, i));
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
  size_t size = value_bytes(ex, plan, step->inputs[k]);
  if (reuse && !*dy_taken && ex->slices[step->output].parent < 0 && plan->blocks[planned->dy].size_bytes == size) {
    *dy_taken = true;
    return planned->dy;
  }
  return new_block(plan, size, backward_time(ex->program, i));
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
static void give_gradient(Executor *ex, ExecutionPlan *plan, int i, int k,
                          Contributions *gradients, bool *dy_taken) {
  const Step *step = &ex->program->steps[i];
  PlannedStep *planned = &plan->steps[i];
  int value = step->inputs[k], now = backward_time(ex->program, i);
  Contributions *theirs = &gradients[value];
  const PlannedStep *maker = &plan->steps[producer_of(ex->program, value)];
  if (ex->slices[value].parent == step->output) {
    theirs->slice = planned->dy;
    planned->dx[k] = -1;
    return;
  }
  planned->dx[k] = gradient_block(ex, plan, i, k, dy_taken);
  bool takes_two = maker->needs.takes_second_dy && ex->slices[value].parent < 0;
  if (theirs->count < (takes_two ? 2 : 1)) theirs->blocks[theirs->count++] = planned->dx[k];
  else
    planned->sums[planned->sum_count++] =
        (GradientSum){.to = theirs->blocks[0], .from = planned->dx[k], .value = value};
  for (int c = 0; c < theirs->count; c++) keep_until(plan, theirs->blocks[c], now);
}

static Status place_gradients(Executor *ex, ExecutionPlan *plan) {
  const Program *program = ex->program;
  Contributions *gradients;
  TRY(memory_alloc(&gradients, (size_t)program->value_count, sizeof *gradients));
  plan->logits_gradient = new_block(plan, value_bytes(ex, plan, program->output), loss_time(program));
  for (int v = 0; v < program->value_count; v++) gradients[v].slice = -1;
  gradients[program->output] = (Contributions){{plan->logits_gradient}, 1, -1};
  for (int i = program->step_count - 1; i >= 0; i--) {
    const Step *step = &program->steps[i];
    PlannedStep *planned = &plan->steps[i];
    const Contributions *mine = &gradients[step->output];
    planned->runs_backward = planned->runs_backward && (mine->count > 0 || mine->slice >= 0);
    if (!planned->runs_backward) continue;
    take_gradient(plan, planned, mine, backward_time(program, i));
    bool dy_taken = false;
    for (int k = step->desc.input_count - 1; k >= 0; k--)
      if (step->desc.need_dx[k]) give_gradient(ex, plan, i, k, gradients, &dy_taken);
  }
  memory_free(gradients);
  return STATUS_OK;
}

// --- planning -------------------------------------------------------------------------------------

static Status plan_steps(Executor *ex, ExecutionPlan *plan) {
  for (int i = 0; i < ex->program->step_count; i++) {
    Step *step = &ex->program->steps[i];
    PlannedStep *planned = &plan->steps[i];
    const StepImpl *impl = ex->backend->steps[step->desc.kind];
    if (!impl)
      return status_set(STATUS_CONFIG, "layer '%s' cannot run on %s: it has no step of kind %d",
                        step->desc.name, ex->backend->name, (int)step->desc.kind);
    StepDesc desc = step->desc;
    desc.batch = plan->batch;
    desc.dtype = ex->dtype;
    slices_describe(&desc, ex->slices, step);
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

static Status create_plan(Executor *ex, ExecutionPlan *plan, int64_t batch, bool training) {
  const Program *program = ex->program;
  size_t steps = (size_t)program->step_count;
  plan->batch = batch;
  plan->logits_gradient = -1;
  TRY(memory_alloc(&plan->steps, steps, sizeof *plan->steps));
  // Of each step: its value, its saved block and a gradient for each input; the input; the logits'.
  TRY(memory_alloc(&plan->blocks, steps * (2 + STEP_MAX_INPUTS) + 2, sizeof *plan->blocks));
  TRY(memory_alloc(&plan->value_blocks, (size_t)program->value_count, sizeof(int)));
  TRY(plan_steps(ex, plan));
  int *last;
  TRY(memory_alloc(&last, (size_t)program->value_count, sizeof *last));
  find_last_reads(ex, plan, last);
  place_values(ex, plan, last);
  memory_free(last);
  if (training) TRY(place_gradients(ex, plan));
  return plan_memory(&plan->arena_bytes, plan->blocks, plan->block_count);
}

static Status create_plans(Executor *ex, const ExecutorDesc *desc) {
  TRY(memory_alloc(&ex->plans, (size_t)desc->batch_count, sizeof *ex->plans));
  for (int b = 0; b < desc->batch_count; b++) {
    int64_t batch = desc->batches[b];
    bool seen = batch <= 0;
    for (int p = 0; p < ex->plan_count; p++) seen = seen || ex->plans[p].batch == batch;
    if (seen) continue;
    ExecutionPlan *plan = &ex->plans[ex->plan_count++];
    TRY(create_plan(ex, plan, batch, desc->mode == LOWER_TRAINING));
    if (plan->arena_bytes > ex->arena_bytes) ex->arena_bytes = plan->arena_bytes;
    if (plan->scratch_bytes > ex->scratch_bytes) ex->scratch_bytes = plan->scratch_bytes;
    if (batch > ex->largest_batch) ex->largest_batch = batch;
  }
  return STATUS_OK;
}

Status executor_create(Executor **out, const ExecutorDesc *desc) {
  *out = NULL;
  Executor *ex;
  TRY(memory_alloc(&ex, 1, sizeof *ex));
  Status status = STATUS_OK;
  ex->backend = desc->backend;
  ex->device = desc->device;
  ex->layout = desc->layout;
  ex->dtype = desc->dtype;
  GUARD(program_create(&ex->program, &(ProgramDesc){.graph = desc->graph,
                                                    .mode = desc->mode,
                                                    .input = desc->input,
                                                    .output = desc->output}));
  GUARD(slices_create(&ex->slices, ex->program, ex->backend, ex->device));
  GUARD(create_plans(ex, desc));
  *out = ex;
  ex = NULL;
out:
  executor_free(ex);
  return status;
}

void executor_free(Executor *ex) {
  if (!ex) return;
  for (int p = 0; p < ex->plan_count; p++) {
    ExecutionPlan *plan = &ex->plans[p];
    for (int i = 0; plan->steps && i < ex->program->step_count; i++) {
      const StepImpl *impl = ex->backend->steps[ex->program->steps[i].desc.kind];
      if (plan->steps[i].state) impl->unplan(plan->steps[i].state);
    }
    ex->backend->memory_free(ex->device, plan->persistent);
    memory_free(plan->steps);
    memory_free(plan->blocks);
    memory_free(plan->value_blocks);
  }
  memory_free(ex->plans);
  ex->backend->memory_free(ex->device, ex->arena);
  ex->backend->memory_free(ex->device, ex->scratch);
  ex->backend->memory_free(ex->device, ex->losses);
  ex->backend->memory_free(ex->device, ex->ranks);
  memory_free(ex->slices);
  program_free(ex->program);
  memory_free(ex);
}

size_t executor_memory_bytes(const Executor *ex) {
  size_t bytes = ex->arena_bytes + ex->scratch_bytes;
  for (int p = 0; p < ex->plan_count; p++) bytes += ex->plans[p].persistent_bytes;
  return bytes;
}

ExecutorConcats executor_concats(const Executor *ex) {
  ExecutorConcats concats = {0};
  ExecutionPlan largest = {.batch = ex->largest_batch};
  for (int i = 0; i < ex->program->step_count; i++) {
    const Step *step = &ex->program->steps[i];
    for (int k = 0; step->desc.kind == STEP_CONCAT && k < step->desc.input_count; k++) {
      bool in_place = ex->slices[step->inputs[k]].parent == step->output;
      concats.inputs++;
      concats.in_place += in_place;
      if (!in_place) concats.copied_bytes += value_bytes(ex, &largest, step->inputs[k]);
    }
  }
  return concats;
}

// --- memory ---------------------------------------------------------------------------------------

static void *block_memory(const Executor *ex, const ExecutionPlan *plan, int block) {
  return block < 0 ? NULL : (char *)ex->arena + plan->blocks[block].offset;
}

static void fill_args(Executor *ex, ExecutionPlan *plan) {
  char *persistent = plan->persistent;
  for (int i = 0; i < ex->program->step_count; i++) {
    const Step *step = &ex->program->steps[i];
    PlannedStep *planned = &plan->steps[i];
    StepArgs *args = &planned->args;
    for (int k = 0; k < step->desc.input_count; k++) {
      args->x[k] = block_memory(ex, plan, plan->value_blocks[step->inputs[k]]);
      bool has_dx = planned->runs_backward && step->desc.need_dx[k];
      args->dx[k] = has_dx ? block_memory(ex, plan, planned->dx[k]) : NULL;
    }
    args->y = block_memory(ex, plan, plan->value_blocks[step->output]);
    args->saved = block_memory(ex, plan, planned->saved);
    args->scratch = ex->scratch;
    args->persistent = persistent;
    args->key = &ex->key;
    persistent += memory_round_up(planned->needs.persistent_size);
    if (!planned->runs_backward) continue;
    args->dy = block_memory(ex, plan, planned->dy);
    args->dy2 = block_memory(ex, plan, planned->dy2);
  }
}

Status executor_allocate(Executor *ex) {
  const Backend *backend = ex->backend;
  size_t samples = (size_t)ex->largest_batch;
  TRY(backend->memory_alloc(ex->device, &ex->arena, ex->arena_bytes));
  TRY(backend->memory_alloc(ex->device, &ex->scratch, ex->scratch_bytes));
  void *memory;
  TRY(backend->memory_alloc(ex->device, &memory, samples * sizeof(float)));
  ex->losses = memory;
  TRY(backend->memory_alloc(ex->device, &memory, samples * sizeof(int32_t)));
  ex->ranks = memory;
  for (int p = 0; p < ex->plan_count; p++) {
    ExecutionPlan *plan = &ex->plans[p];
    TRY(backend->memory_alloc(ex->device, &plan->persistent, plan->persistent_bytes));
    fill_args(ex, plan);
  }
  return STATUS_OK;
}

Status executor_bind(Executor *ex, const float *weights, float *gradients) {
  const ParameterLayout *layout = ex->layout;
  ex->weights = weights;
  ex->gradients = gradients;
  for (int p = 0; p < ex->plan_count; p++) {
    for (int i = 0; i < ex->program->step_count; i++) {
      const Step *step = &ex->program->steps[i];
      StepArgs *args = &ex->plans[p].steps[i].args;
      for (int k = 0; k < STEP_MAX_PARAMETERS; k++) {
        int parameter = step->parameters[k];
        args->params[k] = parameter < 0 ? NULL : weights + layout->offsets[parameter];
        bool has_gradient =
            parameter >= 0 && gradients && layout->offsets[parameter] < layout->reduced;
        args->dparams[k] = has_gradient ? gradients + layout->offsets[parameter] : NULL;
      }
    }
  }
  executor_weights_changed(ex);
  return STATUS_OK;
}

void executor_weights_changed(Executor *ex) {
  for (int p = 0; p < ex->plan_count; p++) ex->plans[p].prepared = false;
}

// --- passes ---------------------------------------------------------------------------------------

static Status select_plan(Executor *ex, int64_t batch) {
  for (int p = 0; p < ex->plan_count; p++) {
    ex->current = &ex->plans[p];
    if (ex->current->batch == batch) return STATUS_OK;
  }
  ex->current = NULL;
  return status_set(STATUS_INTERNAL, "no plan for a batch of %" PRId64, batch);
}

static Status upload(Executor *ex, const ExecutorInput *input) {
  const Program *program = ex->program;
  void *value = block_memory(ex, ex->current, ex->current->value_blocks[0]);
  if (!input->pixels)
    return ex->backend->value_import(ex->device, value, program->shapes[0], input->batch, ex->dtype,
                                     input->values);
  UploadArgs args = {.pixels = input->pixels,
                     .batch = input->batch,
                     .shape = program->shapes[0],
                     .dtype = ex->dtype,
                     .value = value};
  for (int c = 0; c < program->input_channels; c++) {
    args.scale[c] = program->input_scale[c] / 255.0f;
    args.offset[c] = program->input_offset[c];
  }
  return ex->backend->upload(ex->device, &args);
}

static Status prepare(Executor *ex) {
  if (ex->current->prepared) return STATUS_OK;
  for (int i = 0; i < ex->program->step_count; i++) {
    const StepImpl *impl = ex->backend->steps[ex->program->steps[i].desc.kind];
    PlannedStep *planned = &ex->current->steps[i];
    if (impl->prepare) TRY(impl->prepare(planned->state, &planned->args));
  }
  ex->current->prepared = true;
  return STATUS_OK;
}

Status executor_forward(Executor *ex, const ExecutorInput *input) {
  TRY(select_plan(ex, input->batch));
  TRY(prepare(ex));
  ex->key = input->key;
  TRY(upload(ex, input));
  for (int i = 0; i < ex->program->step_count; i++) {
    const StepImpl *impl = ex->backend->steps[ex->program->steps[i].desc.kind];
    PlannedStep *planned = &ex->current->steps[i];
    Status status = impl->forward(planned->state, &planned->args);
    if (status != STATUS_OK)
      return status_prepend(status, "layer '%s', forward", ex->program->steps[i].desc.name);
  }
  return STATUS_OK;
}

Status executor_loss(Executor *ex, const ExecutorLoss *loss) {
  const ExecutionPlan *plan = ex->current;
  LossArgs args = {.logits = block_memory(ex, plan, plan->value_blocks[ex->program->output]),
                   .labels = loss->labels,
                   .batch = plan->batch,
                   .classes = shape_count(ex->program->shapes[ex->program->output]),
                   .smoothing = loss->smoothing,
                   .gradient_scale = loss->gradient_scale,
                   .dlogits = block_memory(ex, plan, plan->logits_gradient),
                   .losses = ex->losses,
                   .ranks = ex->ranks};
  return ex->backend->softmax_cross_entropy(ex->device, &args);
}

static Status tell_ready(const Executor *ex, const Step *step, GradientReady ready, void *context) {
  for (int k = 0; ready && k < STEP_MAX_PARAMETERS; k++) {
    int parameter = step->parameters[k];
    if (parameter >= 0 && ex->layout->offsets[parameter] < ex->layout->reduced)
      TRY(ready(context, parameter));
  }
  return STATUS_OK;
}

Status executor_backward(Executor *ex, GradientReady ready, void *context) {
  const ExecutionPlan *plan = ex->current;
  for (int i = ex->program->step_count - 1; i >= 0; i--) {
    const Step *step = &ex->program->steps[i];
    const StepImpl *impl = ex->backend->steps[step->desc.kind];
    PlannedStep *planned = &plan->steps[i];
    if (planned->runs_backward) {
      Status status = impl->backward(planned->state, &planned->args);
      if (status != STATUS_OK) return status_prepend(status, "layer '%s', backward", step->desc.name);
    }
    for (int s = 0; s < planned->sum_count; s++) {
      const GradientSum *sum = &planned->sums[s];
      TRY(ex->backend->value_add(ex->device, block_memory(ex, plan, sum->to),
                                 block_memory(ex, plan, sum->from),
                                 plan->blocks[sum->from].size_bytes,
                                 ex->program->shapes[sum->value].rank == 1 ? DTYPE_F32 : ex->dtype));
    }
    TRY(tell_ready(ex, step, ready, context));
  }
  return STATUS_OK;
}

Status executor_read_losses(Executor *ex, float *losses, int32_t *ranks) {
  size_t samples = (size_t)ex->current->batch;
  TRY(ex->backend->copy_to_host(ex->device, losses, ex->losses, samples * sizeof(float)));
  return ex->backend->copy_to_host(ex->device, ranks, ex->ranks, samples * sizeof(int32_t));
}

Status executor_read_output(Executor *ex, float *output) {
  const ExecutionPlan *plan = ex->current;
  return ex->backend->value_export(
      ex->device, output, block_memory(ex, plan, plan->value_blocks[ex->program->output]),
      ex->program->shapes[ex->program->output], plan->batch, ex->dtype);
}
