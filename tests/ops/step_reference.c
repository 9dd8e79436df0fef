// The steps written plainly, as Keras defines them, in double precision on a tape (step_tape.h):
// the one reference that every backend is held against. The steps themselves are in
// step_reference_*.c.
#include "ops/step_reference.h"

#include <stdlib.h>

const StepKey step_test_key = {.seed = 7, .step = 11, .first_sample = 32};

static void (*const programs[STEP_COUNT])(Program *program) = {
    [STEP_CONV2D] = reference_conv2d,
    [STEP_DEPTHWISE_CONV2D] = reference_conv2d,
    [STEP_DENSE] = reference_dense,
    [STEP_NORM] = reference_norm,
    [STEP_GROUP_NORM] = reference_group_norm,
    [STEP_ACTIVATION] = reference_activation,
    [STEP_ADD] = reference_add,
    [STEP_MULTIPLY] = reference_multiply,
    [STEP_SQUEEZE_EXCITE] = reference_squeeze_excite,
    [STEP_DROPOUT] = reference_dropout,
    [STEP_POOL2D] = reference_pool2d,
    [STEP_GLOBAL_POOL] = reference_global_pool,
    [STEP_RESCALE] = reference_rescale,
    [STEP_PAD] = reference_pad,
    [STEP_CROP] = reference_crop,
    [STEP_CONCAT] = reference_concat,
    [STEP_FLATTEN] = reference_flatten,
};

int64_t step_parameter_count(const StepDesc *desc, int k) {
  int64_t in = shape_channels(desc->inputs[0]), out = shape_channels(desc->output);
  int64_t taps = (int64_t)desc->kernel_h * desc->kernel_w, squeeze = desc->squeeze;
  switch (desc->kind) {
  case STEP_CONV2D:
    if (k == 0) return taps * in / desc->groups * out;
    if (k == 1) return desc->has_bias ? out : 0;
    return !desc->has_norm || (k == 2 && desc->no_scale) || (k == 3 && desc->no_center) ? 0 : out;
  case STEP_DEPTHWISE_CONV2D:
    return k == 0 ? taps * out : k == 1 && desc->has_bias ? out : 0;
  case STEP_DENSE:
    return k == 0 ? in * out : k == 1 && desc->has_bias ? out : 0;
  case STEP_NORM:
    return k > 3 || (k == 0 && desc->no_scale) || (k == 1 && desc->no_center) ? 0 : out;
  case STEP_GROUP_NORM:
    return k > 1 || (k == 0 && desc->no_scale) || (k == 1 && desc->no_center) ? 0 : out;
  case STEP_SQUEEZE_EXCITE:
    return (int64_t[STEP_MAX_PARAMETERS]){in * squeeze, squeeze, squeeze * in, in}[k];
  default:
    return 0;
  }
}

static Var *vars_create(Tape *tape, const double *values, int64_t count) {
  Var *vars = calloc((size_t)(count ? count : 1), sizeof *vars);
  if (!vars) abort();
  for (int64_t i = 0; values && i < count; i++) vars[i] = tape_leaf(tape, values[i]);
  return vars;
}

static Bounded bounded_create(const Tape *tape, const Var *vars, int64_t count, bool gradient) {
  Bounded out = {.count = count,
                 .value = calloc((size_t)count, sizeof(double)),
                 .bound = calloc((size_t)count, sizeof(double))};
  if (!out.value || !out.bound) abort();
  for (int64_t i = 0; i < count; i++) {
    const Node *node = &tape->nodes[vars[i]];
    out.value[i] = gradient ? node->gradient : node->value;
    out.bound[i] = gradient ? node->gradient_error : node->error;
  }
  return out;
}

static void program_deinit(Program *program) {
  for (int k = 0; k < STEP_MAX_INPUTS; k++) free(program->x[k]);
  for (int k = 0; k < STEP_MAX_PARAMETERS; k++) free(program->params[k]);
  free(program->kernel);
  free(program->shift);
  free(program->statistics[0]);
  free(program->statistics[1]);
  free(program->y);
  tape_deinit(&program->tape);
}

// Runs the step of `desc` on a tape. Ends with program_deinit.
static void program_create(Program *program, const StepDesc *desc, const StepData *data) {
  *program = (Program){.desc = desc};
  Tape *tape = &program->tape;
  tape_init(tape);
  for (int k = 0; k < desc->input_count; k++)
    program->x[k] = vars_create(tape, data->x[k], desc->batch * shape_count(desc->inputs[k]));
  for (int k = 0; k < STEP_MAX_PARAMETERS; k++)
    if (step_parameter_count(desc, k))
      program->params[k] = vars_create(tape, data->params[k], step_parameter_count(desc, k));
  for (int k = 0; k < 2; k++)
    program->statistics[k] = vars_create(tape, NULL, shape_channels(desc->output));
  program->y = vars_create(tape, NULL, desc->batch * shape_count(desc->output));
  programs[desc->kind](program);
}

double reference_loss(const StepDesc *desc, const StepData *data) {
  Program program;
  program_create(&program, desc, data);
  double loss = 0.0;
  for (int64_t i = 0; i < desc->batch * shape_count(desc->output); i++)
    loss += tape_value(&program.tape, program.y[i]) * data->dy[i];
  program_deinit(&program);
  return loss;
}

void reference_compute(Reference *out, const StepDesc *desc, const StepData *data) {
  Program program;
  program_create(&program, desc, data);
  Tape *tape = &program.tape;
  int64_t outputs = desc->batch * shape_count(desc->output);
  *out = (Reference){0};
  out->y = bounded_create(tape, program.y, outputs, false);
  for (int64_t i = 0; i < outputs; i++) tape_seed(tape, program.y[i], data->dy[i]);
  tape_differentiate(tape);
  for (int k = 0; k < desc->input_count; k++)
    out->dx[k] =
        bounded_create(tape, program.x[k], desc->batch * shape_count(desc->inputs[k]), true);
  for (int k = 0; k < STEP_MAX_PARAMETERS; k++) {
    bool statistic = desc->kind == STEP_NORM && k >= 2;
    if (statistic && !desc->use_batch_statistics) continue;
    if (program.params[k])
      out->dparams[k] =
          bounded_create(tape, statistic ? program.statistics[k - 2] : program.params[k],
                         step_parameter_count(desc, k), !statistic);
  }
  program_deinit(&program);
}

static void bounded_deinit(Bounded *bounded) {
  free(bounded->value);
  free(bounded->bound);
}

void reference_deinit(Reference *reference) {
  bounded_deinit(&reference->y);
  for (int k = 0; k < STEP_MAX_INPUTS; k++) bounded_deinit(&reference->dx[k]);
  for (int k = 0; k < STEP_MAX_PARAMETERS; k++) bounded_deinit(&reference->dparams[k]);
  *reference = (Reference){0};
}
