// What becomes of steps side by side: rules that fold neighbours. See lower_internal.h.
//
// A rule looks at one step and its producers; it may fold a producer only where nobody else reads the
// value between them.
#include "exec/lower_internal.h"

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

void lower__apply_rules(Lowering *low) {
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

void lower__fold_norms(Lowering *low) {
  for (int i = 0; i < low->step_count; i++)
    if (low->steps[i].output != NO_VALUE) (void)norm_into_convolution(low, &low->steps[i]);
}

// A norm by the batch's statistics takes what the convolution before it can sum on the way.
void lower__link_statistics(Lowering *low) {
  for (int i = 0; i < low->step_count; i++) {
    Step *norm = &low->steps[i];
    if (norm->output == NO_VALUE || norm->desc.kind != STEP_NORM ||
        !norm->desc.use_batch_statistics)
      continue;
    Step *source = sole_producer(low, norm->inputs[0], STEP_CONV2D);
    if (source) source->desc.gives_statistics = norm->desc.takes_statistics = true;
  }
}
