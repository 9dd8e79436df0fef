// What a step must move and multiply, against numbers worked out by hand on small shapes.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "exec/step_cost.h"

// 2 images of 4 x 6 pixels with 8 channels: 384 numbers.
#define X SHAPE(4, 6, 8)
enum { BATCH = 2, X_COUNT = 384 };

static StepDesc describe(StepKind kind, Shape output) {
  return (StepDesc){.kind = kind,
                    .batch = BATCH,
                    .dtype = DTYPE_F32,
                    .input_count = 1,
                    .inputs = {X, X},
                    .output = output,
                    .training = true,
                    .need_dx = {true, true},
                    .need_dparams = true,
                    .use_batch_statistics = true,
                    .activation = ACTIVATION_LINEAR,
                    .stride_h = 1,
                    .stride_w = 1,
                    .dilation = 1,
                    .groups = 1};
}

static void expect(const StepDesc *desc, StepPass pass, double numbers, double multiplications) {
  StepCost cost = step_cost(desc, pass);
  assert_float_equal(cost.bytes, numbers * (double)dtype_size(desc->dtype), 0);
  assert_float_equal(cost.multiplications, multiplications, 0);
}

static void convolutions_move_both_sides_and_the_kernel(void **state) {
  (void)state;
  StepDesc desc = describe(STEP_CONV2D, SHAPE(2, 3, 16)); // 192 numbers
  desc.kernel_h = desc.kernel_w = 3;
  desc.stride_h = desc.stride_w = 2;
  enum { KERNEL = 3 * 3 * 8 * 16, PRODUCTS = 192 * 3 * 3 * 8 };
  expect(&desc, PASS_FORWARD, X_COUNT + KERNEL + 192, PRODUCTS);
  expect(&desc, PASS_BACKWARD, 2 * (X_COUNT + KERNEL + 192), 2 * PRODUCTS);
  desc.need_dx[0] = false; // the first of a network
  expect(&desc, PASS_BACKWARD, X_COUNT + KERNEL + 192, PRODUCTS);
  desc.dtype = DTYPE_BF16;
  expect(&desc, PASS_FORWARD, X_COUNT + KERNEL + 192, PRODUCTS);
  desc.groups = 4;
  expect(&desc, PASS_FORWARD, X_COUNT + KERNEL / 4 + 192, PRODUCTS / 4);
}

static void depthwise_convolutions_are_no_matrix_products(void **state) {
  (void)state;
  StepDesc desc = describe(STEP_DEPTHWISE_CONV2D, X);
  desc.kernel_h = desc.kernel_w = 5;
  expect(&desc, PASS_FORWARD, 2 * X_COUNT + 5 * 5 * 8, 0);
  expect(&desc, PASS_BACKWARD, 2 * (2 * X_COUNT + 5 * 5 * 8), 0);
}

static void vectors_are_fp32(void **state) {
  (void)state;
  StepDesc desc = describe(STEP_DENSE, SHAPE(10));
  desc.inputs[0] = SHAPE(8);
  desc.dtype = DTYPE_BF16;
  StepCost cost = step_cost(&desc, PASS_FORWARD);
  assert_float_equal(cost.bytes, 4 * (2 * 8 + 8 * 10 + 2 * 10), 0);
  assert_float_equal(cost.multiplications, 2 * 8 * 10, 0);
  desc = describe(STEP_GLOBAL_POOL, SHAPE(8));
  desc.dtype = DTYPE_F16;
  cost = step_cost(&desc, PASS_BACKWARD);
  assert_float_equal(cost.bytes, 2 * X_COUNT + 4 * 2 * 8, 0);
}

static void sums_come_before_results(void **state) {
  (void)state;
  StepDesc norm = describe(STEP_NORM, X);
  expect(&norm, PASS_FORWARD, 3 * X_COUNT, 0);
  expect(&norm, PASS_BACKWARD, 5 * X_COUNT, 0);
  expect(&norm, PASS_REBUILD, 2 * X_COUNT, 0);
  norm.takes_statistics = true;
  expect(&norm, PASS_FORWARD, 2 * X_COUNT, 0);
  norm.input_count = 2; // + a residual, whose gradient is dy
  expect(&norm, PASS_FORWARD, 3 * X_COUNT, 0);
  expect(&norm, PASS_BACKWARD, 5 * X_COUNT, 0);
  norm.activation = ACTIVATION_RELU; // not any more
  expect(&norm, PASS_BACKWARD, 6 * X_COUNT, 0);
  norm.input_count = 1;
  norm.need_dx[1] = false;
  norm.use_batch_statistics = norm.need_dparams = false; // frozen
  expect(&norm, PASS_FORWARD, 2 * X_COUNT, 0);
  expect(&norm, PASS_BACKWARD, 2 * X_COUNT, 0);
  StepDesc group = describe(STEP_GROUP_NORM, X);
  expect(&group, PASS_FORWARD, 3 * X_COUNT, 0);
  expect(&group, PASS_BACKWARD, 5 * X_COUNT, 0);
  StepDesc gate = describe(STEP_SQUEEZE_EXCITE, X);
  expect(&gate, PASS_FORWARD, 3 * X_COUNT, 0);
  expect(&gate, PASS_BACKWARD, 4 * X_COUNT, 0);
}

static void gradients_that_are_dy_cost_nothing(void **state) {
  (void)state;
  StepDesc add = describe(STEP_ADD, X);
  add.input_count = 2;
  expect(&add, PASS_FORWARD, 3 * X_COUNT, 0);
  expect(&add, PASS_BACKWARD, 2 * X_COUNT, 0); // one of both
  add.need_dx[1] = false;
  expect(&add, PASS_BACKWARD, 0, 0);
  add.activation = ACTIVATION_RELU;
  expect(&add, PASS_BACKWARD, 2 * X_COUNT, 0);
  StepDesc concat = describe(STEP_CONCAT, SHAPE(4, 6, 16));
  concat.input_count = 2;
  expect(&concat, PASS_FORWARD, 4 * X_COUNT, 0);
  concat.in_place[1] = true;
  expect(&concat, PASS_BACKWARD, 2 * X_COUNT, 0);
}

static void descriptions_tell_steps_apart(void **state) {
  (void)state;
  char text[STEP_TEXT_CAPACITY];
  StepDesc desc = describe(STEP_CONV2D, SHAPE(2, 3, 16));
  desc.kernel_h = desc.kernel_w = 3;
  desc.stride_h = desc.stride_w = 2;
  assert_string_equal(step_describe(&desc, text), "conv2d 3x3 stride 2, 4x6x8 -> 2x3x16");
  StepDesc norm = describe(STEP_NORM, X);
  norm.input_count = 2;
  norm.activation = ACTIVATION_SWISH;
  assert_string_equal(step_describe(&norm, text), "norm + add swish, 4x6x8");
  for (StepKind kind = 0; kind < STEP_COUNT; kind++) assert_non_null(step_kind_name(kind));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(convolutions_move_both_sides_and_the_kernel),
      cmocka_unit_test(depthwise_convolutions_are_no_matrix_products),
      cmocka_unit_test(vectors_are_fp32),
      cmocka_unit_test(sums_come_before_results),
      cmocka_unit_test(gradients_that_are_dy_cost_nothing),
      cmocka_unit_test(descriptions_tell_steps_apart),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
