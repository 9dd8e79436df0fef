// Numbers that remember how they came about. See step_tape.h.
#include "ops/step_tape.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

static Var push(Tape *tape, Node node) {
  if (tape->count == tape->capacity) {
    tape->capacity = tape->capacity ? 2 * tape->capacity : 4096;
    tape->nodes = realloc(tape->nodes, (size_t)tape->capacity * sizeof *tape->nodes);
    if (!tape->nodes) abort();
  }
  tape->nodes[tape->count] = node;
  return (Var)tape->count++;
}

void tape_init(Tape *tape) {
  *tape = (Tape){0};
  tape_leaf(tape, 0.0); // ZERO
  tape_leaf(tape, 1.0); // ONE
}

void tape_deinit(Tape *tape) {
  free(tape->nodes);
}

Var tape_leaf(Tape *tape, double value) {
  return push(tape, (Node){.acc = -1, .a = -1, .b = -1, .value = value, .size = fabs(value)});
}

double tape_value(const Tape *tape, Var x) {
  return tape->nodes[x].value;
}

Var tape_multiply_add(Tape *tape, Var acc, Var a, Var b) {
  Node s = tape->nodes[acc], p = tape->nodes[a], q = tape->nodes[b];
  double size = s.size + fabs(p.value * q.value);
  return push(tape, (Node){.acc = acc,
                           .a = a,
                           .b = b,
                           .value = s.value + p.value * q.value,
                           .size = size,
                           .error = s.error + fabs(p.value) * q.error + fabs(q.value) * p.error +
                                    FP32_UNIT * size});
}

Var tape_add(Tape *tape, Var a, Var b) {
  return tape_multiply_add(tape, a, b, ONE);
}

Var tape_multiply(Tape *tape, Var a, Var b) {
  return tape_multiply_add(tape, ZERO, a, b);
}

Var tape_negate(Tape *tape, Var a) {
  return tape_multiply(tape, a, tape_leaf(tape, -1.0));
}

Var tape_mean(Tape *tape, const Var *x, int64_t count, int64_t stride) {
  Var sum = ZERO;
  for (int64_t i = 0; i < count; i++) sum = tape_add(tape, sum, x[i * stride]);
  return tape_multiply(tape, sum, tape_leaf(tape, 1.0 / (double)count));
}

Var tape_function(Tape *tape, Var a, double value, double partial, double curvature) {
  Node x = tape->nodes[a];
  double off = FUNCTION_UNITS * FP32_UNIT;
  return push(tape, (Node){.acc = -1,
                           .a = a,
                           .b = -1,
                           .partial = partial,
                           .partial_error = curvature * x.error +
                                            off * (fabs(partial) + fabs(x.value) * curvature),
                           .value = value,
                           .size = fabs(value),
                           .error = fabs(partial) * x.error +
                                    off * (fabs(value) + fabs(x.value * partial))});
}

static void give(Node *node, double gradient, double error) {
  bool first = node->gradient_size == 0.0;
  node->gradient += gradient;
  node->gradient_size += fabs(gradient);
  node->gradient_error += error + (first ? 0.0 : FP32_UNIT * node->gradient_size);
}

static void give_product(Node *to, const Node *from, double partial, double partial_error) {
  double g = from->gradient;
  give(to, g * partial,
       fabs(partial) * from->gradient_error + fabs(g) * partial_error +
           FP32_UNIT * fabs(g * partial));
}

void tape_seed(Tape *tape, Var x, double gradient) {
  give(&tape->nodes[x], gradient, 0.0);
}

void tape_differentiate(Tape *tape) {
  for (int64_t i = tape->count - 1; i >= 0; i--) {
    Node *n = &tape->nodes[i];
    n->gradient_error += n->gradient_rounding * fabs(n->gradient);
    if (n->a < 0 || n->gradient_size == 0.0) continue;
    if (n->b < 0) {
      give_product(&tape->nodes[n->a], n, n->partial, n->partial_error);
      continue;
    }
    Node a = tape->nodes[n->a], b = tape->nodes[n->b];
    give(&tape->nodes[n->acc], n->gradient, n->gradient_error);
    give_product(&tape->nodes[n->a], n, b.value, b.error);
    if (n->b != ONE) give_product(&tape->nodes[n->b], n, a.value, a.error);
  }
}
