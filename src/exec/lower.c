// From layers to steps. See lower.h.
//
// First every layer becomes a step of its own, or an alias of its input where it does nothing. Then
// the rewrite rules (lower_rules.c) fold neighbours until none applies.
#include "exec/lower_internal.h"

#include "base/memory.h"

// --- layers, one by one ---------------------------------------------------------------------------

static Step *new_step(Lowering *low, const Layer *layer, int value, StepKind kind) {
  Step *step = &low->steps[low->step_count++];
  *step = (Step){.output = value};
  for (int k = 0; k < STEP_MAX_PARAMETERS; k++) step->parameters[k] = -1;
  step->desc.kind = kind;
  step->desc.name = layer->name;
  step->desc.layer = value;
  step->desc.input_count = layer->input_count;
  for (int k = 0; k < layer->input_count; k++) {
    step->inputs[k] = low->alias[layer->inputs[k]];
    step->desc.inputs[k] = low->shapes[step->inputs[k]];
  }
  step->desc.output = low->shapes[value];
  step->desc.pads = layer->pads;
  return step;
}

// The image's own scaling joins the upload while nobody else has read the input.
static bool fold_into_input(Lowering *low, const Layer *layer) {
  int source = low->alias[layer->inputs[0]];
  Program *program = low->program;
  if (source != low->input || !program->input_is_image || low->step_count > 0) return false;
  const RescalingDesc *desc = &layer->rescaling;
  for (int c = 0; c < program->input_channels; c++) {
    int k = desc->count == 1 ? 0 : c;
    program->input_scale[c] = (float)(program->input_scale[c] * desc->scale[k]);
    program->input_offset[c] =
        (float)(program->input_offset[c] * desc->scale[k] + desc->offset[k]);
  }
  return true;
}

static Step *new_convolution(Lowering *low, const Layer *layer, int value, StepKind kind) {
  Step *step = new_step(low, layer, value, kind);
  const Conv2dDesc *conv = &layer->conv2d;
  step->desc.kernel_h = conv->kernel_h;
  step->desc.kernel_w = conv->kernel_w;
  step->desc.stride_h = conv->stride_h;
  step->desc.stride_w = conv->stride_w;
  step->desc.dilation = conv->dilation;
  step->desc.groups = conv->groups;
  step->desc.standardize_epsilon = conv->standardize_epsilon;
  step->desc.has_bias = conv->use_bias;
  for (int k = 0; k < layer->parameter_count; k++) step->parameters[k] = layer->parameters[k];
  return step;
}

static Status lower_convolution(Lowering *low, const Layer *layer, int value) {
  const Conv2dDesc *conv = &layer->conv2d;
  bool is_depthwise = layer->kind == LAYER_DEPTHWISE_CONV2D;
  if (low->shapes[low->alias[layer->inputs[0]]].rank != 1) {
    (void)new_convolution(low, layer, value, is_depthwise ? STEP_DEPTHWISE_CONV2D : STEP_CONV2D);
    return STATUS_OK;
  }
  // A 1 x 1 convolution of a pooled value is a product with the same weights.
  if (is_depthwise || conv->kernel_h * conv->kernel_w != 1 || conv->groups != 1 ||
      conv->standardize_epsilon != 0.0)
    return status_set(STATUS_CONFIG,
                      "layer '%s': a convolution after global pooling can only be run with a 1 x 1 "
                      "kernel, no groups and no standardised kernel",
                      layer->name);
  (void)new_convolution(low, layer, value, STEP_DENSE);
  return STATUS_OK;
}

// Two steps with a value of their own between them.
static Status lower_separable(Lowering *low, const Layer *layer, int value) {
  Shape in = low->shapes[low->alias[layer->inputs[0]]];
  int between = low->graph->layer_count + value;
  low->shapes[between] = layer->shape;
  low->shapes[between].dim[2] = in.dim[2];
  Step *depthwise = new_convolution(low, layer, between, STEP_DEPTHWISE_CONV2D);
  depthwise->desc.groups = (int)in.dim[2];
  depthwise->desc.has_bias = false;
  depthwise->parameters[1] = depthwise->parameters[2] = -1;
  Step *pointwise = new_step(low, layer, value, STEP_CONV2D);
  pointwise->inputs[0] = between;
  pointwise->desc.inputs[0] = low->shapes[between];
  pointwise->desc.pads = (Pads){0};
  pointwise->desc.kernel_h = pointwise->desc.kernel_w = 1;
  pointwise->desc.stride_h = pointwise->desc.stride_w = 1;
  pointwise->desc.dilation = pointwise->desc.groups = 1;
  pointwise->desc.has_bias = layer->conv2d.use_bias;
  pointwise->parameters[0] = layer->parameters[1];
  if (layer->conv2d.use_bias) pointwise->parameters[1] = layer->parameters[2];
  return STATUS_OK;
}

static int count_flat_inputs(const Lowering *low, const Layer *layer) {
  int count = 0;
  for (int k = 0; k < layer->input_count; k++)
    count += low->shapes[low->alias[layer->inputs[k]]].rank == 1;
  return count;
}

// Whether a layer can run behind global pooling: which of its inputs may be (C,).
typedef enum TakesFlat { TAKES_NO_FLAT, TAKES_ALL_FLAT, TAKES_ANY_FLAT } TakesFlat;

static const TakesFlat takes_flat[LAYER_KIND_COUNT] = {
    [LAYER_CONV2D] = TAKES_ALL_FLAT,
    [LAYER_DEPTHWISE_CONV2D] = TAKES_ALL_FLAT, // with a message of its own
    [LAYER_DENSE] = TAKES_ALL_FLAT,
    [LAYER_BATCH_NORMALIZATION] = TAKES_ALL_FLAT,
    [LAYER_GROUP_NORMALIZATION] = TAKES_ALL_FLAT,
    [LAYER_ACTIVATION] = TAKES_ALL_FLAT,
    [LAYER_RELU] = TAKES_ALL_FLAT,
    [LAYER_ADD] = TAKES_ALL_FLAT,
    [LAYER_MULTIPLY] = TAKES_ANY_FLAT,
    [LAYER_CONCATENATE] = TAKES_ALL_FLAT,
    [LAYER_RESCALING] = TAKES_ALL_FLAT,
    [LAYER_NORMALIZATION] = TAKES_ALL_FLAT,
    [LAYER_DROPOUT] = TAKES_ALL_FLAT,
    [LAYER_RESHAPE] = TAKES_ALL_FLAT,
    [LAYER_FLATTEN] = TAKES_ALL_FLAT,
};

// (1, 1, C) behind global pooling is (C,) here: what works on each number or channel of it leaves
// (C,) too.
static Status stay_flat(Lowering *low, const Layer *layer, int value) {
  int flat = count_flat_inputs(low, layer);
  TakesFlat takes = takes_flat[layer->kind];
  bool is_all = flat == layer->input_count;
  if (flat == 0 || (!is_all && takes == TAKES_ANY_FLAT)) return STATUS_OK;
  if (!is_all || takes == TAKES_NO_FLAT)
    return status_set(STATUS_CONFIG, "layer '%s': %s cannot run %s global pooling", layer->name,
                      layer_kind_name(layer->kind),
                      takes == TAKES_NO_FLAT ? "after" : "on values from before and after");
  low->shapes[value] = SHAPE(shape_channels(layer->shape));
  return STATUS_OK;
}

static void lower_norm(Lowering *low, const Layer *layer, int value) {
  Step *step = new_step(low, layer, value, STEP_NORM);
  step->desc.epsilon = layer->batch_norm.epsilon;
  step->desc.no_scale = layer->batch_norm.no_scale;
  step->desc.no_center = layer->batch_norm.no_center;
  step->desc.use_batch_statistics = low->mode == LOWER_TRAINING && layer->trainable;
  int next = 0;
  if (!layer->batch_norm.no_scale) step->parameters[0] = layer->parameters[next++];
  if (!layer->batch_norm.no_center) step->parameters[1] = layer->parameters[next++];
  step->parameters[2] = layer->parameters[next++];
  step->parameters[3] = layer->parameters[next];
}

static void lower_group_norm(Lowering *low, const Layer *layer, int value) {
  Step *step = new_step(low, layer, value, STEP_GROUP_NORM);
  const GroupNormDesc *desc = &layer->group_norm;
  step->desc.groups = desc->groups;
  step->desc.epsilon = desc->epsilon;
  step->desc.no_scale = desc->no_scale;
  step->desc.no_center = desc->no_center;
  if (!desc->no_scale) step->parameters[0] = layer->parameters[0];
  if (!desc->no_center) step->parameters[1] = layer->parameters[layer->parameter_count - 1];
}

static void lower_pool(Lowering *low, const Layer *layer, int value) {
  Step *step = new_step(low, layer, value, STEP_POOL2D);
  step->desc.pool_is_max = layer->kind == LAYER_MAX_POOLING2D;
  step->desc.kernel_h = layer->pool.size_h;
  step->desc.kernel_w = layer->pool.size_w;
  step->desc.stride_h = layer->pool.stride_h;
  step->desc.stride_w = layer->pool.stride_w;
}

// Whether the value moves on as it is. The bits of (1, 1, C) and (C,) are the same.
static bool is_identity(const Lowering *low, const Layer *layer) {
  switch (layer->kind) {
  case LAYER_DROPOUT:
    return low->mode == LOWER_INFERENCE || layer->dropout.rate == 0.0 ||
           (layer->submodel >= 0 && !layer->trainable);
  case LAYER_ACTIVATION: return layer->activation == ACTIVATION_LINEAR;
  case LAYER_RESHAPE:
  case LAYER_FLATTEN: return low->shapes[low->alias[layer->inputs[0]]].rank == 1;
  default: return false;
  }
}

static Status lower_multiply(Lowering *low, const Layer *layer, int value) {
  Step *step = new_step(low, layer, value, STEP_MULTIPLY);
  if (step->desc.inputs[0].rank == 1) { // Keras' order is free: the gate goes second
    int first = step->inputs[0];
    step->inputs[0] = step->inputs[1];
    step->inputs[1] = first;
    for (int k = 0; k < 2; k++) step->desc.inputs[k] = low->shapes[step->inputs[k]];
  }
  return STATUS_OK;
}

static Status lower_relu(Lowering *low, const Layer *layer, int value) {
  Step *step = new_step(low, layer, value, STEP_ACTIVATION);
  if (layer->relu_max_value != 0.0 && layer->relu_max_value != 6.0)
    return status_set(STATUS_CONFIG, "layer '%s': ReLU up to %g cannot be run; 6 and none can",
                      layer->name, layer->relu_max_value);
  step->desc.activation = layer->relu_max_value == 6.0 ? ACTIVATION_RELU6 : ACTIVATION_RELU;
  return STATUS_OK;
}

static Status lower_layer(Lowering *low, int index) {
  const Layer *layer = &low->graph->layers[index];
  int value = index;
  low->alias[index] = value;
  low->shapes[value] = layer->shape;
  if (index == low->input) return STATUS_OK;
  for (int k = 0; k < layer->input_count; k++)
    if (layer->inputs[k] < low->input)
      return status_set(STATUS_INTERNAL, "layer '%s' needs more than the value of layer '%s'",
                        layer->name, low->graph->layers[low->input].name);
  bool is_scaling = layer->kind == LAYER_RESCALING || layer->kind == LAYER_NORMALIZATION;
  if (is_identity(low, layer) || (is_scaling && fold_into_input(low, layer))) {
    low->alias[index] = low->alias[layer->inputs[0]];
    return STATUS_OK;
  }
  TRY(stay_flat(low, layer, value));
  switch (layer->kind) {
  case LAYER_CONV2D:
  case LAYER_DEPTHWISE_CONV2D:
    return lower_convolution(low, layer, value);
  case LAYER_SEPARABLE_CONV2D:
    return lower_separable(low, layer, value);
  case LAYER_BATCH_NORMALIZATION: lower_norm(low, layer, value); return STATUS_OK;
  case LAYER_GROUP_NORMALIZATION:
    lower_group_norm(low, layer, value);
    return STATUS_OK;
  case LAYER_MAX_POOLING2D:
  case LAYER_AVERAGE_POOLING2D: lower_pool(low, layer, value); return STATUS_OK;
  case LAYER_MULTIPLY: return lower_multiply(low, layer, value);
  case LAYER_RELU: return lower_relu(low, layer, value);
  case LAYER_DENSE: {
    Step *step = new_step(low, layer, value, STEP_DENSE);
    step->desc.has_bias = !layer->dense.no_bias;
    for (int k = 0; k < layer->parameter_count; k++) step->parameters[k] = layer->parameters[k];
    return STATUS_OK;
  }
  case LAYER_ACTIVATION:
    new_step(low, layer, value, STEP_ACTIVATION)->desc.activation = layer->activation;
    return STATUS_OK;
  case LAYER_DROPOUT: {
    Step *step = new_step(low, layer, value, STEP_DROPOUT);
    step->desc.rate = layer->dropout.rate;
    step->desc.per_sample = layer->dropout.per_sample;
    return STATUS_OK;
  }
  case LAYER_RESCALING:
  case LAYER_NORMALIZATION:
    new_step(low, layer, value, STEP_RESCALE)->desc.rescaling = layer->rescaling;
    return STATUS_OK;
  case LAYER_GLOBAL_AVERAGE_POOLING2D:
    low->shapes[value] = SHAPE(shape_channels(layer->shape));
    (void)new_step(low, layer, value, STEP_GLOBAL_POOL);
    return STATUS_OK;
  case LAYER_ADD: (void)new_step(low, layer, value, STEP_ADD); return STATUS_OK;
  case LAYER_CONCATENATE:
    (void)new_step(low, layer, value, STEP_CONCAT);
    return STATUS_OK;
  case LAYER_ZERO_PADDING2D: (void)new_step(low, layer, value, STEP_PAD); return STATUS_OK;
  case LAYER_CROPPING2D:
    (void)new_step(low, layer, value, STEP_CROP);
    return STATUS_OK;
  case LAYER_FLATTEN: (void)new_step(low, layer, value, STEP_FLATTEN); return STATUS_OK;
  default:
    return status_set(STATUS_CONFIG, "layer '%s': %s cannot be run in this place", layer->name,
                      layer_kind_name(layer->kind));
  }
}

// --- the program ----------------------------------------------------------------------------------

// Which steps need a backward pass: those with trained parameters, and all that lie after one.
static Status mark_gradients(Lowering *low) {
  bool *needed;
  TRY(memory_alloc(&needed, (size_t)low->value_capacity, sizeof *needed));
  for (int i = 0; i < low->step_count; i++) {
    Step *step = &low->steps[i];
    if (step->output == NO_VALUE) continue;
    step->desc.training = low->mode == LOWER_TRAINING;
    for (int k = 0; k < STEP_MAX_PARAMETERS; k++)
      if (step->parameters[k] >= 0 && graph_parameter_is_trained(low->graph, step->parameters[k]))
        step->desc.need_dparams = step->desc.training;
    needed[step->output] = step->desc.need_dparams;
    for (int k = 0; k < step->desc.input_count; k++) {
      step->desc.need_dx[k] = step->desc.training && needed[step->inputs[k]];
      if (step->desc.need_dx[k]) needed[step->output] = true;
    }
  }
  memory_free(needed);
  return STATUS_OK;
}

// Drops removed steps and numbers the values that are left, the input being 0.
static Status compact(Lowering *low) {
  Program *program = low->program;
  int *number;
  TRY(memory_alloc(&number, (size_t)low->value_capacity, sizeof *number));
  number[low->input] = program->value_count;
  program->shapes[program->value_count++] = low->shapes[low->input];
  for (int i = 0; i < low->step_count; i++) {
    Step step = low->steps[i];
    if (step.output == NO_VALUE) continue;
    for (int k = 0; k < step.desc.input_count; k++) step.inputs[k] = number[step.inputs[k]];
    number[step.output] = program->value_count;
    program->shapes[program->value_count++] = step.desc.output;
    step.output = number[step.output];
    program->steps[program->step_count++] = step;
  }
  program->output = number[low->alias[low->output]];
  memory_free(number);
  return STATUS_OK;
}

static void begin_input(Program *program, Shape shape) {
  program->input_is_image = shape.rank == 3 && shape.dim[2] <= RESCALING_MAX_CHANNELS;
  program->input_channels = program->input_is_image ? (int)shape.dim[2] : 0;
  for (int c = 0; c < RESCALING_MAX_CHANNELS; c++) program->input_scale[c] = 1.0f;
}

Status program_create(Program **out, const ProgramDesc *desc) {
  *out = NULL;
  const Graph *graph = desc->graph;
  Lowering low = {.graph = graph,
                  .mode = desc->mode,
                  .input = desc->input,
                  .output = desc->output > 0 ? desc->output : graph->output};
  size_t count = (size_t)graph->layer_count, values = 2 * count;
  Status status = STATUS_OK;
  low.value_capacity = (int)values;
  GUARD(memory_alloc(&low.program, 1, sizeof *low.program));
  GUARD(memory_alloc(&low.program->steps, values, sizeof(Step)));
  GUARD(memory_alloc(&low.program->shapes, values, sizeof(Shape)));
  GUARD(memory_alloc(&low.steps, values, sizeof(Step)));
  GUARD(memory_alloc(&low.alias, count, sizeof(int)));
  GUARD(memory_alloc(&low.shapes, values, sizeof(Shape)));
  if (graph->layer_count == 0 || graph->layers[0].kind != LAYER_INPUT)
    GUARD(status_set(STATUS_CONFIG, "model '%s' does not begin with an input layer", graph->name));
  begin_input(low.program, graph->layers[low.input].shape);
  for (int i = low.input; i <= low.output; i++) GUARD(lower_layer(&low, i));
  lower__apply_rules(&low);
  if (desc->folds_norms) lower__fold_norms(&low);
  lower__link_statistics(&low);
  GUARD(mark_gradients(&low));
  GUARD(compact(&low));
  *out = low.program;
  low.program = NULL;
out:
  program_free(low.program);
  memory_free(low.steps);
  memory_free(low.alias);
  memory_free(low.shapes);
  return status;
}

void program_free(Program *program) {
  if (!program) return;
  memory_free(program->steps);
  memory_free(program->shapes);
  memory_free(program);
}
