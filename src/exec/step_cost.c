// The floor of a step's cost. See step_cost.h.
#include "exec/step_cost.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

// --- names ---------------------------------------------------------------------------------------

static const char *const kind_names[STEP_COUNT] = {
    [STEP_CONV2D] = "conv2d",
    [STEP_DEPTHWISE_CONV2D] = "depthwise_conv2d",
    [STEP_DENSE] = "dense",
    [STEP_NORM] = "norm",
    [STEP_GROUP_NORM] = "group_norm",
    [STEP_ACTIVATION] = "activation",
    [STEP_ADD] = "add",
    [STEP_MULTIPLY] = "multiply",
    [STEP_SQUEEZE_EXCITE] = "squeeze_excite",
    [STEP_DROPOUT] = "dropout",
    [STEP_POOL2D] = "pool2d",
    [STEP_GLOBAL_POOL] = "global_pool",
    [STEP_RESCALE] = "rescale",
    [STEP_PAD] = "pad",
    [STEP_CROP] = "crop",
    [STEP_CONCAT] = "concat",
    [STEP_FLATTEN] = "flatten",
};

const char *step_kind_name(StepKind kind) {
  return kind_names[kind];
}

const char *step_pass_name(StepPass pass) {
  static const char *const names[PASS_COUNT] = {
      [PASS_FORWARD] = "forward", [PASS_REBUILD] = "rebuild", [PASS_BACKWARD] = "backward"};
  return names[pass];
}

static void append(char text[STEP_TEXT_CAPACITY], const char *format, ...) PRINTF_LIKE(2, 3);
static void append(char text[STEP_TEXT_CAPACITY], const char *format, ...) {
  size_t length = strlen(text);
  va_list list;
  va_start(list, format);
  (void)vsnprintf(text + length, STEP_TEXT_CAPACITY - length, format, list);
  va_end(list);
}

static void append_shape(char text[STEP_TEXT_CAPACITY], const char *before, Shape shape) {
  append(text, "%s", before);
  for (int d = 0; d < shape.rank; d++)
    append(text, "%s%" PRId64, d > 0 ? "x" : "", shape.dim[d]);
}

const char *step_describe(const StepDesc *desc, char text[STEP_TEXT_CAPACITY]) {
  text[0] = '\0';
  append(text, "%s", step_kind_name(desc->kind));
  if (desc->input_count > 1 && (desc->kind == STEP_NORM || desc->kind == STEP_DROPOUT))
    append(text, " + add");
  if (desc->activation != ACTIVATION_LINEAR) append(text, " %s", activation_name(desc->activation));
  if (desc->kernel_h > 0) append(text, " %dx%d", desc->kernel_h, desc->kernel_w);
  int stride = desc->stride_h > desc->stride_w ? desc->stride_h : desc->stride_w;
  if (stride > 1) append(text, " stride %d", stride);
  if (desc->dilation > 1) append(text, " dilation %d", desc->dilation);
  if (desc->groups > 1 && desc->kind != STEP_DEPTHWISE_CONV2D) append(text, " groups %d", desc->groups);
  append_shape(text, ", ", desc->inputs[0]);
  if (!shape_equal(desc->inputs[0], desc->output)) append_shape(text, " -> ", desc->output);
  return text;
}

// --- cost ----------------------------------------------------------------------------------------

static double value_bytes(const StepDesc *desc, Shape shape) {
  size_t element = shape.rank == 1 ? sizeof(float) : dtype_size(desc->dtype);
  return (double)(desc->batch * shape_count(shape)) * (double)element;
}

static bool has_weights(StepKind kind) {
  return kind == STEP_CONV2D || kind == STEP_DEPTHWISE_CONV2D || kind == STEP_DENSE;
}

// Elements of a kernel that add up in one element of the output.
static double terms_of_output(const StepDesc *desc) {
  double in = (double)shape_channels(desc->inputs[0]);
  if (desc->kind == STEP_DENSE) return in;
  double window = (double)(desc->kernel_h * desc->kernel_w);
  return desc->kind == STEP_CONV2D ? window * in / desc->groups : window;
}

static double weight_bytes(const StepDesc *desc) {
  double count = terms_of_output(desc) * (double)shape_channels(desc->output);
  return count * (double)(desc->kind == STEP_DENSE ? sizeof(float) : dtype_size(desc->dtype));
}

// What a concatenation copies: the rest lies there already.
static double copied_bytes(const StepDesc *desc) {
  double bytes = 0;
  for (int k = 0; k < desc->input_count; k++)
    if (!desc->in_place[k]) bytes += 2 * value_bytes(desc, desc->inputs[k]);
  return bytes;
}

static double inputs_bytes(const StepDesc *desc) {
  double bytes = 0;
  for (int k = 0; k < desc->input_count; k++) bytes += value_bytes(desc, desc->inputs[k]);
  return bytes;
}

// Inputs that a sum over all of them has to read before anything can be written.
static bool reads_twice(const StepDesc *desc, StepPass pass) {
  if (desc->kind == STEP_SQUEEZE_EXCITE) return true;
  if (pass == PASS_REBUILD) return false;
  if (desc->kind == STEP_GROUP_NORM) return true;
  return desc->kind == STEP_NORM && desc->use_batch_statistics && !desc->takes_statistics;
}

static double forward_bytes(const StepDesc *desc, StepPass pass) {
  double x = value_bytes(desc, desc->inputs[0]), y = value_bytes(desc, desc->output);
  if (desc->kind == STEP_CONCAT) return copied_bytes(desc);
  double bytes = inputs_bytes(desc) + y;
  if (has_weights(desc->kind)) bytes += weight_bytes(desc);
  if (reads_twice(desc, pass)) bytes += x;
  return bytes;
}

// Each of both products reads dy.
static double weighted_backward_bytes(const StepDesc *desc) {
  double x = value_bytes(desc, desc->inputs[0]), y = value_bytes(desc, desc->output);
  return (desc->need_dx[0] + desc->need_dparams) * (x + y + weight_bytes(desc));
}

// The sums of dy and x dy come before the first dx.
static double norm_backward_bytes(const StepDesc *desc) {
  double y = value_bytes(desc, desc->output);
  bool is_affine = desc->kind == STEP_NORM && !desc->use_batch_statistics;
  double sums = desc->need_dparams || !is_affine ? 2 * y : 0;
  double result = is_affine ? (desc->need_dparams ? 1 : 2) * y : 3 * y;
  bool changes_residual = desc->need_dx[1] && desc->activation != ACTIVATION_LINEAR;
  return sums + (desc->need_dx[0] ? result : 0) + (changes_residual ? y : 0);
}

// Gradients that are dy itself take its memory; a second one is a copy.
static double add_backward_bytes(const StepDesc *desc) {
  double y = value_bytes(desc, desc->output);
  int wanted = desc->need_dx[0] + desc->need_dx[1];
  bool changes = desc->activation != ACTIVATION_LINEAR;
  int written = changes ? wanted : wanted - 1;
  return written > 0 ? y + written * y : 0;
}

static double backward_bytes(const StepDesc *desc) {
  double x = value_bytes(desc, desc->inputs[0]), y = value_bytes(desc, desc->output);
  double dx = desc->need_dx[0] ? x : 0;
  switch (desc->kind) {
  case STEP_CONV2D:
  case STEP_DEPTHWISE_CONV2D:
  case STEP_DENSE:
    return weighted_backward_bytes(desc);
  case STEP_NORM:
  case STEP_GROUP_NORM:
    return norm_backward_bytes(desc);
  case STEP_ADD:
    return add_backward_bytes(desc);
  case STEP_CONCAT:
    return copied_bytes(desc);
  case STEP_ACTIVATION: // the slope comes from x or y
    return y + x + dx;
  case STEP_MULTIPLY: // of the second factor: a sum of x dy
    return y + (desc->need_dx[1] ? x : 0) + dx;
  case STEP_SQUEEZE_EXCITE: // the gate's gradient, a sum of x dy, comes before dx
    return y + x + (desc->need_dx[0] ? y + x : 0);
  default:
    return dx > 0 ? y + dx : 0;
  }
}

static double multiplications(const StepDesc *desc, StepPass pass) {
  if (desc->kind != STEP_CONV2D && desc->kind != STEP_DENSE) return 0;
  double products = pass == PASS_BACKWARD ? desc->need_dx[0] + desc->need_dparams : 1;
  return products * (double)(desc->batch * shape_count(desc->output)) * terms_of_output(desc);
}

StepCost step_cost(const StepDesc *desc, StepPass pass) {
  double bytes = pass == PASS_BACKWARD ? backward_bytes(desc) : forward_bytes(desc, pass);
  return (StepCost){.bytes = bytes, .multiplications = multiplications(desc, pass)};
}
