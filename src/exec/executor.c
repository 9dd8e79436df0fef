// Runs a graph on one device. See executor.h.
#include <inttypes.h>

#include "base/memory.h"
#include "exec/executor_internal.h"

// --- planning ------------------------------------------------------------------------------------

static Status create_plans(Executor *ex, const ExecutorDesc *desc) {
  TRY(memory_alloc(&ex->plans, (size_t)desc->batch_count, sizeof *ex->plans));
  for (int b = 0; b < desc->batch_count; b++) {
    int64_t batch = desc->batches[b];
    bool seen = batch <= 0;
    for (int p = 0; p < ex->plan_count; p++) seen = seen || ex->plans[p].batch == batch;
    if (seen) continue;
    ExecutionPlan *plan = &ex->plans[ex->plan_count++];
    TRY(exec__plan_create(ex, plan, batch));
    if (plan->arena_bytes > ex->arena_bytes) ex->arena_bytes = plan->arena_bytes;
    if (plan->kept_bytes > ex->kept_bytes) ex->kept_bytes = plan->kept_bytes;
    if (plan->scratch_bytes > ex->scratch_bytes) ex->scratch_bytes = plan->scratch_bytes;
    if (batch > ex->largest_batch) ex->largest_batch = batch;
  }
  return STATUS_OK;
}

static bool folds_norms(const ExecutorDesc *desc) {
  const StepImpl *convolution = desc->backend->steps[STEP_CONV2D];
  return desc->folds_norms && desc->mode == LOWER_INFERENCE && convolution &&
         convolution->takes_norm;
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
  ex->trains = desc->mode == LOWER_TRAINING;
  ex->recomputes = ex->trains && desc->recompute;
  ex->takes_value = desc->takes_value;
  GUARD(program_create(&ex->program, &(ProgramDesc){.graph = desc->graph,
                                                    .mode = desc->mode,
                                                    .folds_norms = folds_norms(desc),
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
  for (int p = 0; p < ex->plan_count; p++) exec__plan_deinit(ex, &ex->plans[p]);
  memory_free(ex->plans);
  ex->backend->memory_free(ex->device, ex->arena);
  ex->backend->memory_free(ex->device, ex->scratch);
  ex->backend->memory_free(ex->device, ex->losses);
  ex->backend->memory_free(ex->device, ex->ranks);
  ex->backend->memory_free(ex->device, ex->key);
  memory_free(ex->slices);
  program_free(ex->program);
  memory_free(ex);
}

size_t executor_memory_bytes(const Executor *ex) {
  size_t bytes = memory_block_bytes(ex->arena_bytes) + memory_block_bytes(ex->scratch_bytes);
  for (int p = 0; p < ex->plan_count; p++)
    bytes += memory_block_bytes(ex->plans[p].persistent_bytes);
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
      if (!in_place) concats.copied_bytes += exec__value_bytes(ex, &largest, step->inputs[k]);
    }
  }
  return concats;
}

ExecutorRecompute executor_recompute(const Executor *ex) {
  ExecutorRecompute recompute = {.kept_bytes = ex->kept_bytes, .arena_bytes = ex->arena_bytes};
  for (int p = 0; p < ex->plan_count; p++)
    if (ex->plans[p].batch == ex->largest_batch) recompute.rebuilt = ex->plans[p].rebuild_count;
  return recompute;
}

// --- memory --------------------------------------------------------------------------------------

static void *block_memory(const Executor *ex, const ExecutionPlan *plan, int block) {
  return block < 0 ? NULL : (char *)ex->arena + plan->blocks[block].offset;
}

// What a value is in the backward pass.
static int backward_block(const ExecutionPlan *plan, int value) {
  int rebuilt = plan->rebuilt_blocks[value];
  return rebuilt >= 0 ? rebuilt : plan->value_blocks[value];
}

static void fill_backward_args(const Executor *ex, const ExecutionPlan *plan, int i) {
  const Step *step = &ex->program->steps[i];
  PlannedStep *planned = &plan->steps[i];
  StepArgs *args = &planned->backward_args;
  *args = planned->args;
  for (int k = 0; k < step->desc.input_count; k++) {
    args->x[k] = block_memory(ex, plan, backward_block(plan, step->inputs[k]));
    bool has_dx = planned->runs_backward && step->desc.need_dx[k];
    args->dx[k] = has_dx ? block_memory(ex, plan, planned->dx[k]) : NULL;
  }
  args->y = block_memory(ex, plan, backward_block(plan, step->output));
  if (!planned->runs_backward) return;
  args->dy = block_memory(ex, plan, planned->dy);
  args->dy2 = block_memory(ex, plan, planned->dy2);
}

static void fill_args(Executor *ex, ExecutionPlan *plan) {
  char *persistent = plan->persistent;
  for (int i = 0; i < ex->program->step_count; i++) {
    const Step *step = &ex->program->steps[i];
    PlannedStep *planned = &plan->steps[i];
    StepArgs *args = &planned->args;
    for (int k = 0; k < step->desc.input_count; k++)
      args->x[k] = block_memory(ex, plan, plan->value_blocks[step->inputs[k]]);
    args->y = block_memory(ex, plan, plan->value_blocks[step->output]);
    args->saved = block_memory(ex, plan, planned->saved);
    args->statistics = block_memory(ex, plan, planned->statistics);
    args->scratch = ex->scratch;
    args->persistent = persistent;
    args->key = ex->key;
    persistent += memory_round_up(planned->needs.persistent_size);
    fill_backward_args(ex, plan, i);
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
  if (ex->trains) {
    TRY(backend->memory_alloc(ex->device, &memory, sizeof *ex->key));
    ex->key = memory;
  }
  for (int p = 0; p < ex->plan_count; p++) {
    ExecutionPlan *plan = &ex->plans[p];
    TRY(backend->memory_alloc(ex->device, &plan->persistent, plan->persistent_bytes));
    fill_args(ex, plan);
  }
  return STATUS_OK;
}

static void bind_parameters(const Executor *ex, const Step *step, StepArgs *args) {
  const ParameterLayout *layout = ex->layout;
  for (int k = 0; k < STEP_MAX_PARAMETERS; k++) {
    int parameter = step->parameters[k];
    args->params[k] = parameter < 0 ? NULL : ex->weights + layout->offsets[parameter];
    bool has_gradient =
        parameter >= 0 && ex->gradients && layout->offsets[parameter] < layout->reduced;
    args->dparams[k] = has_gradient ? ex->gradients + layout->offsets[parameter] : NULL;
  }
}

Status executor_bind(Executor *ex, const float *weights, float *gradients) {
  ex->weights = weights;
  ex->gradients = gradients;
  for (int p = 0; p < ex->plan_count; p++)
    for (int i = 0; i < ex->program->step_count; i++) {
      PlannedStep *planned = &ex->plans[p].steps[i];
      bind_parameters(ex, &ex->program->steps[i], &planned->args);
      bind_parameters(ex, &ex->program->steps[i], &planned->backward_args);
    }
  executor_weights_changed(ex);
  return STATUS_OK;
}

void executor_weights_changed(Executor *ex) {
  for (int p = 0; p < ex->plan_count; p++) ex->plans[p].prepared = false;
}

// --- passes --------------------------------------------------------------------------------------

static Status select_plan(Executor *ex, int64_t batch) {
  for (int p = 0; p < ex->plan_count; p++) {
    ex->current = &ex->plans[p];
    if (ex->current->batch == batch) return STATUS_OK;
  }
  ex->current = NULL;
  return status_set(STATUS_INTERNAL, "no plan for a batch of %" PRId64, batch);
}

UploadArgs executor_describe_upload(const Executor *ex, const ExecutorInput *input) {
  const Program *program = ex->program;
  UploadArgs args = {.pixels = input->pixels,
                     .images = input->images,
                     .values = input->values,
                     .is_on_device = input->device_key != NULL,
                     .batch = input->batch,
                     .shape = program->shapes[0],
                     .dtype = ex->dtype,
                     .maps = input->maps,
                     .fill = input->fill,
                     .fill_value = input->fill_value,
                     .value = input->value};
  for (int c = 0; input->pixels && c < program->input_channels; c++) {
    args.scale[c] = program->input_scale[c] / 255.0f;
    args.offset[c] = program->input_offset[c];
  }
  return args;
}

size_t executor_input_bytes(const Executor *ex) {
  return exec__value_bytes(ex, &(ExecutionPlan){.batch = ex->largest_batch}, 0);
}

static Status upload(Executor *ex, const ExecutorInput *input) {
  UploadArgs args = executor_describe_upload(ex, input);
  args.value = block_memory(ex, ex->current, ex->current->value_blocks[0]);
  return ex->backend->upload(ex->device, &args);
}

static void take_value(const Executor *ex, const void *value) {
  for (int i = 0; i < ex->program->step_count; i++) {
    const Step *step = &ex->program->steps[i];
    PlannedStep *planned = &ex->current->steps[i];
    for (int k = 0; k < step->desc.input_count; k++)
      if (step->inputs[k] == 0) planned->args.x[k] = planned->backward_args.x[k] = value;
  }
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

static Status take_key(Executor *ex, const ExecutorInput *input) {
  const StepKey *key = input->device_key ? input->device_key : ex->key;
  ex->input_on_device = input->device_key != NULL;
  for (int i = 0; i < ex->program->step_count; i++) {
    PlannedStep *planned = &ex->current->steps[i];
    planned->args.key = planned->backward_args.key = key;
  }
  if (input->device_key || !ex->key) return STATUS_OK;
  return ex->backend->copy_to_device(ex->device, ex->key, &input->key, sizeof input->key);
}

void executor_watch(Executor *ex, StepWatch watch, void *context) {
  ex->watch = watch;
  ex->watch_context = context;
}

static Status tell_watch(const Executor *ex, int step, StepPass pass) {
  return ex->watch ? ex->watch(ex->watch_context, step, pass) : STATUS_OK;
}

int executor_step_count(const Executor *ex) {
  return ex->program->step_count;
}

StepDesc executor_step(const Executor *ex, int step) {
  StepDesc desc = exec__describe_step(ex, ex->current, step);
  if (ex->current->steps[step].statistics < 0) desc.takes_statistics = false;
  return desc;
}

Status executor_forward(Executor *ex, const ExecutorInput *input) {
  TRY(select_plan(ex, input->batch));
  TRY(prepare(ex));
  TRY(take_key(ex, input));
  if (ex->takes_value)
    take_value(ex, input->value);
  else
    TRY(upload(ex, input));
  for (int i = 0; i < ex->program->step_count; i++) {
    const StepImpl *impl = ex->backend->steps[ex->program->steps[i].desc.kind];
    PlannedStep *planned = &ex->current->steps[i];
    TRY(tell_watch(ex, i, PASS_FORWARD));
    Status status = impl->forward(planned->state, &planned->args);
    if (status != STATUS_OK)
      return status_prepend(status, "layer '%s', forward", ex->program->steps[i].desc.name);
  }
  return tell_watch(ex, -1, PASS_FORWARD);
}

Status executor_loss(Executor *ex, const ExecutorLoss *loss) {
  const ExecutionPlan *plan = ex->current;
  LossArgs args = {.logits = block_memory(ex, plan, plan->value_blocks[ex->program->output]),
                   .labels = loss->labels,
                   .labels_on_device = ex->input_on_device,
                   .batch = plan->batch,
                   .classes = shape_count(ex->program->shapes[ex->program->output]),
                   .smoothing = loss->smoothing,
                   .gradient_scale = loss->gradient_scale,
                   .loss_scale = loss->loss_scale,
                   .dlogits = block_memory(ex, plan, plan->logits_gradient),
                   .losses = loss->losses ? loss->losses : ex->losses,
                   .ranks = loss->ranks ? loss->ranks : ex->ranks};
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

// Writes once more what the backward pass reads from the time `now` on. `*next` counts those done.
static Status rebuild(const Executor *ex, int now, int *next) {
  const ExecutionPlan *plan = ex->current;
  for (; *next < plan->rebuild_count && plan->rebuilds[*next].time == now; ++*next) {
    int i = plan->rebuilds[*next].step;
    const StepImpl *impl = ex->backend->steps[ex->program->steps[i].desc.kind];
    TRY(tell_watch(ex, i, PASS_REBUILD));
    Status status = impl->rebuild(plan->steps[i].state, &plan->steps[i].backward_args);
    if (status != STATUS_OK)
      return status_prepend(status, "layer '%s', recomputed", ex->program->steps[i].desc.name);
  }
  return STATUS_OK;
}

Status executor_backward(Executor *ex, GradientReady ready, void *context) {
  const ExecutionPlan *plan = ex->current;
  int rebuilt = 0;
  for (int i = ex->program->step_count - 1; i >= 0; i--) {
    const Step *step = &ex->program->steps[i];
    const StepImpl *impl = ex->backend->steps[step->desc.kind];
    PlannedStep *planned = &plan->steps[i];
    TRY(rebuild(ex, exec__backward_time(ex->program, i), &rebuilt));
    if (planned->runs_backward) {
      TRY(tell_watch(ex, i, PASS_BACKWARD));
      Status status = impl->backward(planned->state, &planned->backward_args);
      if (status != STATUS_OK)
        return status_prepend(status, "layer '%s', backward", step->desc.name);
    }
    for (int s = 0; s < planned->sum_count; s++) {
      const GradientSum *sum = &planned->sums[s];
      TRY(ex->backend->value_add(
          ex->device, block_memory(ex, plan, sum->to), block_memory(ex, plan, sum->from),
          plan->blocks[sum->from].size_bytes,
          ex->program->shapes[sum->value].rank == 1 ? DTYPE_F32 : ex->dtype));
    }
    TRY(tell_ready(ex, step, ready, context));
  }
  return tell_watch(ex, -1, PASS_BACKWARD);
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
