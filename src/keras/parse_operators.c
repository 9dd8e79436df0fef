// Operators on tensors in a model_config: x + 3, x * (1 / 6), x / 127.5, x + y. parse.c is the
// caller.
//
// Keras 2 writes TFOpLambda with the name of TensorFlow's function, and the second operand among
// the options of the call; Keras 3 writes the operation's class, which may be that of a layer too,
// and the operands as the call's arguments.
#include <string.h>

#include "keras/keras_internal.h"

typedef enum OperatorKind {
  OPERATOR_ADD,
  OPERATOR_SUBTRACT,
  OPERATOR_MULTIPLY,
  OPERATOR_DIVIDE
} OperatorKind;

static const struct Operator {
  const char *function, *class_name; // the last part of TensorFlow's name; Keras 3's
  const char *layer;                 // that does it to two tensors; NULL: none
  OperatorKind kind;
} operators[] = {
    {"add", "Add", "Add", OPERATOR_ADD},
    {"subtract", "Subtract", NULL, OPERATOR_SUBTRACT},
    {"multiply", "Multiply", "Multiply", OPERATOR_MULTIPLY},
    {"truediv", "TrueDivide", NULL, OPERATOR_DIVIDE},
    {"divide", "Divide", NULL, OPERATOR_DIVIDE},
};

static bool is_function(const ParsedNode *node) {
  return strcmp(node->class_name, "TFOpLambda") == 0;
}

static const struct Operator *find_operator(const ParsedNode *node) {
  const char *function = json_string_value(json_object_get(node->config, "function"));
  const char *last = function ? strrchr(function, '.') : NULL;
  last = last ? last + 1 : function;
  for (size_t i = 0; i < sizeof operators / sizeof *operators; i++) {
    const struct Operator *operator= & operators[i];
    if (is_function(node) ? last && strcmp(operator->function, last) == 0
                          : strcmp(operator->class_name, node->class_name) == 0)
      return operator;
  }
  return NULL;
}

// The operand that is a number, NULL for none.
static const json_t *find_number(bool *is_first, const ParsedNode *node) {
  const json_t *call = json_array_get(json_object_get(node->json, "inbound_nodes"), 0);
  const json_t *arguments = json_object_get(call, "args");
  *is_first = false;
  if (json_is_array(call)) {
    const json_t *second = json_object_get(json_array_get(call, 3), "y");
    return json_is_number(second) ? second : NULL;
  }
  for (size_t i = 0; i < json_array_size(arguments); i++) {
    const json_t *operand = json_array_get(arguments, i);
    *is_first = i == 0;
    if (json_is_number(operand)) return operand;
  }
  return NULL;
}

static void make_affine(ParsedNode *node, OperatorKind kind, double number) {
  node->is_affine = true;
  node->scale = kind == OPERATOR_MULTIPLY ? number : kind == OPERATOR_DIVIDE ? 1 / number : 1;
  node->offset = kind == OPERATOR_ADD ? number : kind == OPERATOR_SUBTRACT ? -number : 0;
}

Status keras__parse_operator(const Parser *parser, ParsedNode *node) {
  const struct Operator *operator= find_operator(node);
  if (!operator&& !is_function(node)) return STATUS_OK;
  if (!operator)
    return keras__refuse(parser, node, "operators on tensors other than + - * / are not supported");
  bool is_first;
  const json_t *number = find_number(&is_first, node);
  if (!number && !is_function(node)) return STATUS_OK;
  if (!number && node->input_count == 2 && operator->layer) {
    node->class_name = operator->layer;
    return STATUS_OK;
  }
  bool turns = operator->kind == OPERATOR_SUBTRACT || operator->kind == OPERATOR_DIVIDE;
  if (!number || node->input_count != 1 || (is_first && turns))
    return keras__refuse(parser, node,
                         "an operator on tensors must have a tensor and then a number, or add or "
                         "multiply two tensors");
  if (operator->kind == OPERATOR_DIVIDE && json_number_value(number) == 0)
    return keras__refuse(parser, node, "divides by 0");
  make_affine(node, operator->kind, json_number_value(number));
  return STATUS_OK;
}
