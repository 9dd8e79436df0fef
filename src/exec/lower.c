// From layers to steps. See lower.h.
//
// First every layer becomes a step of its own, or an alias of its input where it does nothing. Then
// the rewrite rules fold neighbours until none applies. A rule looks at one step and its producers;
// it may fold a producer only where nobody else reads the value between them.
#include "exec/lower.h"

#include <string.h>

#include "base/memory.h"

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

static Step *producer(Lowering *low, int value) {
  for (int i = 0; i < low->step_count; i++)
    if (low->steps[i].output == value) return &low->steps[i];
  return NULL;
}

static int use_count(const Lowering *low, int value) {
  int uses = low->alias[low->output] == value;
  for (int i = 0; i < low->step_count; i++) {
    const Step *step = &low->steps[i];
    if (step->output == NO_VALUE) continue;
    for (int k = 0; k < step->desc.input_count; k++) uses += step->inputs[k] == value;
  }
  return uses;
}

// The step that makes `value`, if it is of this kind and nobody but one step reads it.
static Step *sole_producer(Lowering *low, int value, StepKind kind) {
  Step *step = producer(low, value);
  return step && step->desc.kind == kind && use_count(low, value) == 1 ? step : NULL;
}

static void remove_step(Step *step) { step->output = NO_VALUE; }

// --- rules ----------------------------------------------------------------------------------------

static bool is_convolution(const Step *step) {
  return step->desc.kind == STEP_CONV2D || step->desc.kind == STEP_DEPTHWISE_CONV2D;
}

static void absorb_pads(Lowering *low, Step *step, Step *pad) {
  Pads *pads = &step->desc.pads;
  const Pads *more = &pad->desc.pads;
  *pads = (Pads){pads->top + more->top, pads->bottom + more->bottom, pads->left + more->left,
                 pads->right + more->right};
  step->inputs[0] = pad->inputs[0];
  step->desc.inputs[0] = low->shapes[pad->inputs[0]];
  remove_step(pad);
}

static bool pad_into_convolution(Lowering *low, Step *step) {
  if (!is_convolution(step)) return false;
  Step *pad = sole_producer(low, step->inputs[0], STEP_PAD);
  if (!pad) return false;
  absorb_pads(low, step, pad);
  return true;
}

static bool is_non_negative(ActivationKind kind) {
  return kind == ACTIVATION_RELU || kind == ACTIVATION_RELU6 || kind == ACTIVATION_SIGMOID ||
         kind == ACTIVATION_HARD_SIGMOID;
}

// A maximum over zeros from outside equals one without them where the inside is never negative.
static bool pad_into_max_pool(Lowering *low, Step *step) {
  if (step->desc.kind != STEP_POOL2D || !step->desc.pool_is_max) return false;
  Step *pad = sole_producer(low, step->inputs[0], STEP_PAD);
  if (!pad) return false;
  Step *source = producer(low, pad->inputs[0]);
  if (!source || !is_non_negative(source->desc.activation)) return false;
  absorb_pads(low, step, pad);
  return true;
}

static bool activation_into_producer(Lowering *low, Step *step) {
  if (step->desc.kind != STEP_ACTIVATION || step->desc.output.rank != 3) return false;
  Step *source = sole_producer(low, step->inputs[0], STEP_NORM);
  if (!source) source = sole_producer(low, step->inputs[0], STEP_ADD);
  if (!source) source = sole_producer(low, step->inputs[0], STEP_GROUP_NORM);
  if (!source || source->desc.activation != ACTIVATION_LINEAR) return false;
  source->desc.activation = step->desc.activation;
  source->output = step->output;
  remove_step(step);
  return true;
}

// Takes the producer of one summand in at the sum's place: y = producer(...) + other summand.
static bool add_into(Lowering *low, Step *step, StepKind kind) {
  if (step->desc.kind != STEP_ADD || step->desc.factor != 0.0) return false;
  for (int k = 1; k >= 0; k--) {
    Step *source = sole_producer(low, step->inputs[k], kind);
    if (!source || source->desc.input_count != 1 ||
        source->desc.activation != ACTIVATION_LINEAR || step->inputs[0] == step->inputs[1])
      continue;
    Step merged = *source;
    merged.desc.input_count = 2;
    merged.desc.inputs[1] = step->desc.inputs[1 - k];
    merged.inputs[1] = step->inputs[1 - k];
    merged.output = step->output;
    merged.desc.activation = step->desc.activation;
    remove_step(source);
    *step = merged;
    return true;
  }
  return false;
}

static bool add_into_norm(Lowering *low, Step *step) { return add_into(low, step, STEP_NORM); }

static bool add_into_dropout(Lowering *low, Step *step) {
  return step->desc.activation == ACTIVATION_LINEAR && add_into(low, step, STEP_DROPOUT);
}

// y = act(a + s b), where s is a constant: the scaled residuals of Inception-ResNet.
static bool scale_into_add(Lowering *low, Step *step) {
  if (step->desc.kind != STEP_ADD || step->desc.factor != 0.0) return false;
  for (int k = 1; k >= 0; k--) {
    Step *scale = sole_producer(low, step->inputs[k], STEP_RESCALE);
    if (!scale || scale->desc.rescaling.count != 1 || scale->desc.rescaling.offset[0] != 0.0 ||
        scale->desc.rescaling.scale[0] == 0.0)
      continue;
    step->desc.factor = scale->desc.rescaling.scale[0];
    step->inputs[0] = step->inputs[1 - k];
    step->inputs[1] = scale->inputs[0];
    remove_step(scale);
    return true;
  }
  return false;
}

// A concatenation inside another becomes part of it.
static bool concat_into_concat(Lowering *low, Step *step) {
  if (step->desc.kind != STEP_CONCAT) return false;
  for (int k = 0; k < step->desc.input_count; k++) {
    Step *inner = sole_producer(low, step->inputs[k], STEP_CONCAT);
    int more = inner ? inner->desc.input_count - 1 : 0, count = step->desc.input_count;
    if (!inner || count + more > STEP_MAX_INPUTS) continue;
    for (int i = count - 1; i > k; i--) {
      step->inputs[i + more] = step->inputs[i];
      step->desc.inputs[i + more] = step->desc.inputs[i];
    }
    for (int i = 0; i <= more; i++) {
      step->inputs[k + i] = inner->inputs[i];
      step->desc.inputs[k + i] = inner->desc.inputs[i];
    }
    step->desc.input_count += more;
    remove_step(inner);
    return true;
  }
  return false;
}

static bool squeeze_excite(Lowering *low, Step *step) {
  if (step->desc.kind != STEP_MULTIPLY) return false;
  Step *gate = sole_producer(low, step->inputs[1], STEP_ACTIVATION);
  Step *excite = gate ? sole_producer(low, gate->inputs[0], STEP_DENSE) : NULL;
  Step *act = excite ? sole_producer(low, excite->inputs[0], STEP_ACTIVATION) : NULL;
  Step *squeeze = act ? sole_producer(low, act->inputs[0], STEP_DENSE) : NULL;
  Step *pool = squeeze ? sole_producer(low, squeeze->inputs[0], STEP_GLOBAL_POOL) : NULL;
  if (!pool || pool->inputs[0] != step->inputs[0]) return false;
  if (!squeeze->desc.has_bias || !excite->desc.has_bias) return false;
  step->desc.kind = STEP_SQUEEZE_EXCITE;
  step->desc.input_count = 1;
  step->desc.squeeze = squeeze->desc.output.dim[0];
  step->desc.activation = act->desc.activation;
  step->desc.gate = gate->desc.activation;
  step->desc.has_bias = true;
  step->parameters[0] = squeeze->parameters[0];
  step->parameters[1] = squeeze->parameters[1];
  step->parameters[2] = excite->parameters[0];
  step->parameters[3] = excite->parameters[1];
  Step *folded[] = {gate, excite, act, squeeze, pool};
  for (size_t i = 0; i < sizeof folded / sizeof *folded; i++) remove_step(folded[i]);
  return true;
}

static bool (*const rules[])(Lowering *, Step *) = {
    pad_into_convolution, pad_into_max_pool, activation_into_producer, add_into_norm,
    add_into_dropout,     scale_into_add,    concat_into_concat, squeeze_excite,
};

static void apply_rules(Lowering *low) {
  for (bool changed = true; changed;) {
    changed = false;
    for (int i = 0; i < low->step_count; i++)
      for (size_t r = 0; r < sizeof rules / sizeof *rules; r++)
        if (low->steps[i].output != NO_VALUE && rules[r](low, &low->steps[i])) changed = true;
  }
}

// y = act(norm(conv(x)) [+ residual]): when the rules above have brought the norm together. Nothing
// of it is there in training, where the norm's input is needed once more.
static bool norm_into_convolution(Lowering *low, Step *step) {
  if (step->desc.kind != STEP_NORM || step->desc.activation == ACTIVATION_SOFTMAX) return false;
  Step *source = sole_producer(low, step->inputs[0], STEP_CONV2D);
  if (!source || source->desc.has_norm || source->desc.standardize_epsilon > 0.0) return false;
  Step merged = *source;
  merged.desc.has_norm = true;
  merged.desc.activation = step->desc.activation;
  merged.desc.epsilon = step->desc.epsilon;
  merged.desc.no_scale = step->desc.no_scale;
  merged.desc.no_center = step->desc.no_center;
  merged.desc.input_count = step->desc.input_count;
  merged.desc.inputs[1] = step->desc.inputs[1];
  merged.inputs[1] = step->inputs[1];
  merged.output = step->output;
  for (int k = 0; k < 4; k++) merged.parameters[2 + k] = step->parameters[k];
  remove_step(source);
  *step = merged;
  return true;
}

static void fold_norms(Lowering *low) {
  for (int i = 0; i < low->step_count; i++)
    if (low->steps[i].output != NO_VALUE) (void)norm_into_convolution(low, &low->steps[i]);
}

// A norm by the batch's statistics takes what the convolution before it can sum on the way.
static void link_statistics(Lowering *low) {
  for (int i = 0; i < low->step_count; i++) {
    Step *norm = &low->steps[i];
    if (norm->output == NO_VALUE || norm->desc.kind != STEP_NORM ||
        !norm->desc.use_batch_statistics)
      continue;
    Step *source = sole_producer(low, norm->inputs[0], STEP_CONV2D);
    if (source) source->desc.gives_statistics = norm->desc.takes_statistics = true;
  }
}

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
  low->shapes[value] = SHAPE(layer->shape.dim[2]);
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

// What works on each number or channel of a pooled value leaves (C,), which (1, 1, C) is here.
static void stay_flat(Lowering *low, const Layer *layer, int value) {
  if (count_flat_inputs(low, layer) == layer->input_count)
    low->shapes[value] = SHAPE(shape_channels(layer->shape));
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

static Status check_flat_inputs(const Lowering *low, const Layer *layer) {
  int flat = count_flat_inputs(low, layer);
  TakesFlat takes = takes_flat[layer->kind];
  if (flat == 0 || takes == TAKES_ANY_FLAT ||
      (takes == TAKES_ALL_FLAT && flat == layer->input_count))
    return STATUS_OK;
  return status_set(STATUS_CONFIG, "layer '%s': %s cannot run %s global pooling", layer->name,
                    layer_kind_name(layer->kind),
                    takes == TAKES_NO_FLAT ? "after" : "on values from before and after");
}

static void lower_norm(Lowering *low, const Layer *layer, int value) {
  stay_flat(low, layer, value);
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
  stay_flat(low, layer, value);
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
  stay_flat(low, layer, value);
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
  stay_flat(low, layer, value);
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
  TRY(check_flat_inputs(low, layer));
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
  case LAYER_ACTIVATION: {
    stay_flat(low, layer, value);
    new_step(low, layer, value, STEP_ACTIVATION)->desc.activation = layer->activation;
    return STATUS_OK;
  }
  case LAYER_DROPOUT: {
    stay_flat(low, layer, value);
    Step *step = new_step(low, layer, value, STEP_DROPOUT);
    step->desc.rate = layer->dropout.rate;
    step->desc.per_sample = layer->dropout.per_sample;
    return STATUS_OK;
  }
  case LAYER_RESCALING:
  case LAYER_NORMALIZATION:
    stay_flat(low, layer, value);
    new_step(low, layer, value, STEP_RESCALE)->desc.rescaling = layer->rescaling;
    return STATUS_OK;
  case LAYER_GLOBAL_AVERAGE_POOLING2D:
    low->shapes[value] = SHAPE(shape_channels(layer->shape));
    (void)new_step(low, layer, value, STEP_GLOBAL_POOL);
    return STATUS_OK;
  case LAYER_ADD:
    stay_flat(low, layer, value);
    (void)new_step(low, layer, value, STEP_ADD);
    return STATUS_OK;
  case LAYER_CONCATENATE:
    stay_flat(low, layer, value);
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
  apply_rules(&low);
  if (desc->folds_norms) fold_norms(&low);
  link_statistics(&low);
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
