// The CPU device: opening, what it says of itself, its layout of values.
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "backend/backend.h"
#include "backend/cpu/cpu.h"
#include "backend/cpu/device.h"

static Device *open_device(int threads) {
  Device *device;
  assert_int_equal(cpu_device_open(&device, &(DeviceDesc){.threads = threads}), STATUS_OK);
  return device;
}

static void refuses_no_threads(void **unused) {
  (void)unused;
  Device *device;
  assert_int_equal(cpu_device_open(&device, &(DeviceDesc){.threads = 0}), STATUS_CONFIG);
  assert_null(device);
  assert_non_null(strstr(status_message(), "at least 1"));
}

static void refuses_unknown_isa(void **unused) {
  (void)unused;
  char before[32] = "";
  const char *bound = getenv("IMGCLS_CPU_ISA");
  if (bound) strncpy(before, bound, sizeof before - 1);
  setenv("IMGCLS_CPU_ISA", "avx3", 1);
  Device *device;
  assert_int_equal(cpu_device_open(&device, &(DeviceDesc){.threads = 1}), STATUS_CONFIG);
  assert_non_null(strstr(status_message(), "avx512_bf16"));
  if (bound)
    setenv("IMGCLS_CPU_ISA", before, 1);
  else
    unsetenv("IMGCLS_CPU_ISA");
}

static void describes_itself(void **unused) {
  (void)unused;
  Device *device = open_device(2);
  char text[128];
  cpu_device_describe(device, text, sizeof text);
  assert_non_null(strstr(text, ", 2 threads, "));
  assert_true(cpu_device_multiplies(device, DTYPE_F32));
  assert_false(cpu_device_multiplies(device, DTYPE_F16));
  assert_int_equal(cpu_device_multiplies(device, DTYPE_BF16), device->isa == CPU_ISA_AVX512_BF16);
  const char *bound = getenv("IMGCLS_CPU_ISA");
  if (bound && strcmp(bound, "avx2") == 0) assert_true(device->isa <= CPU_ISA_AVX2);
  assert_int_equal(device->block, device->isa >= CPU_ISA_AVX512 ? 16 : 8);
  cpu_device_close(device);
}

// A device works in a thread that did not open it: same team, denormals flushed.
static void *flushes_denormals(void *argument) {
  Device *device = argument;
  enum { COUNT = 64 };
  float to[COUNT], from[COUNT];
  for (int i = 0; i < COUNT; i++) to[i] = 0x1p-126f, from[i] = -0x1.8p-127f;
  assert_int_equal(cpu_backend.value_add(device, to, from, sizeof to, DTYPE_F32), STATUS_OK);
  bool *flushed = malloc(sizeof *flushed);
  *flushed = true;
  for (int i = 0; i < COUNT; i++) {
    uint32_t bits;
    memcpy(&bits, &to[i], sizeof bits);
    if (bits & 0x7fffff) *flushed = false;
  }
  return flushed;
}

static void enters_other_threads(void **unused) {
  (void)unused;
  Device *device = open_device(3);
  pthread_t thread;
  assert_int_equal(pthread_create(&thread, NULL, flushes_denormals, device), 0);
  void *flushed;
  assert_int_equal(pthread_join(thread, &flushed), 0);
  assert_true(*(bool *)flushed);
  free(flushed);
  cpu_device_close(device);
}

static float dense_value(int64_t i) {
  return (float)(i % 251) - 125.0f;
} // exact in bf16

// The place that device.h gives element (n, h, w, c).
static int64_t place(const Device *device, Shape s, int64_t n, int64_t pixel, int64_t c) {
  int64_t pixels = s.dim[0] * s.dim[1];
  if (s.dim[2] <= 4) return (n * s.dim[2] + c) * pixels + pixel;
  int64_t block = device->block, blocks = (s.dim[2] + block - 1) / block;
  return ((n * blocks + c / block) * pixels + pixel) * block + c % block;
}

static void check_layout(Device *device, Shape shape, int64_t batch, DType dtype) {
  int64_t count = batch * shape_count(shape), pixels = shape.dim[0] * shape.dim[1];
  size_t size = cpu_backend.value_size(device, shape, batch, dtype);
  float *dense = malloc((size_t)count * sizeof *dense),
        *back = malloc((size_t)count * sizeof *back);
  for (int64_t i = 0; i < count; i++) dense[i] = dense_value(i);
  char *value = malloc(size);
  memset(value, 0xff, size);
  assert_int_equal(cpu_backend.value_import(device, value, shape, batch, dtype, dense), STATUS_OK);
  int64_t seen = 0, total = (int64_t)(size / dtype_size(dtype));
  bool *named = calloc((size_t)total, sizeof *named);
  for (int64_t i = 0; i < count; i++) {
    int64_t c = i % shape.dim[2], pixel = i / shape.dim[2] % pixels, n = i / shape.dim[2] / pixels;
    int64_t at = place(device, shape, n, pixel, c);
    assert_true(at >= 0 && at < total && !named[at]);
    named[at] = true;
    float got = dtype == DTYPE_BF16 ? cpu_from_bf16(((uint16_t *)value)[at]) : ((float *)value)[at];
    assert_true(got == dense[i]);
    seen++;
  }
  for (int64_t at = 0; at < total; at++) {
    if (named[at]) continue;
    float lane =
        dtype == DTYPE_BF16 ? cpu_from_bf16(((uint16_t *)value)[at]) : ((float *)value)[at];
    assert_true(lane == 0.0f);
  }
  assert_int_equal(seen, count);
  assert_int_equal(cpu_backend.value_export(device, back, value, shape, batch, dtype), STATUS_OK);
  assert_memory_equal(back, dense, (size_t)count * sizeof *dense);
  free(named);
  free(value);
  free(back);
  free(dense);
}

static void lays_values_out(void **unused) {
  (void)unused;
  Device *device = open_device(2);
  const int64_t channels[] = {1, 3, 4, 5, 8, 16, 17, 24, 40};
  for (size_t i = 0; i < sizeof channels / sizeof channels[0]; i++) {
    check_layout(device, SHAPE(5, 3, channels[i]), 2, DTYPE_F32);
    check_layout(device, SHAPE(5, 3, channels[i]), 2, DTYPE_BF16);
  }
  cpu_device_close(device);
}

static void rounds_to_bf16(void **unused) {
  (void)unused;
  assert_true(cpu_from_bf16(cpu_to_bf16(1.0f + 0x1p-8f)) == 1.0f);           // tie: to even
  assert_true(cpu_from_bf16(cpu_to_bf16(1.0f + 0x3p-8f)) == 1.0f + 0x1p-6f); // tie: to even
  assert_true(cpu_from_bf16(cpu_to_bf16(1.0f + 0x1.02p-8f)) == 1.0f + 0x1p-7f);
  assert_true(isinf(cpu_from_bf16(cpu_to_bf16(INFINITY))));
  assert_true(isnan(cpu_from_bf16(cpu_to_bf16(NAN))));
}

static void adds_values(void **unused) {
  (void)unused;
  Device *device = open_device(2);
  enum { COUNT = 1000 };
  float a[COUNT], b[COUNT];
  uint16_t ha[COUNT], hb[COUNT];
  for (int i = 0; i < COUNT; i++) {
    a[i] = dense_value(i), b[i] = 0.5f * dense_value(3 * i);
    ha[i] = cpu_to_bf16(a[i]), hb[i] = cpu_to_bf16(b[i]);
  }
  assert_int_equal(cpu_backend.value_add(device, a, b, sizeof a, DTYPE_F32), STATUS_OK);
  assert_int_equal(cpu_backend.value_add(device, ha, hb, sizeof ha, DTYPE_BF16), STATUS_OK);
  for (int i = 0; i < COUNT; i++) {
    float sum = dense_value(i) + 0.5f * dense_value(3 * i);
    assert_true(a[i] == sum);
    assert_true(fabsf(cpu_from_bf16(ha[i]) - sum) <= fabsf(sum) * 0x1p-8f);
  }
  assert_int_equal(cpu_backend.value_add(device, a, b, sizeof a, DTYPE_F16), STATUS_CONFIG);
  cpu_device_close(device);
}

// A plan that cannot be made says so, with the layer's name.
static void check_refused(const StepDesc *desc) {
  Device *device = open_device(1);
  void *state;
  StepNeeds needs;
  assert_int_equal(cpu_backend.steps[desc->kind]->plan(&state, device, desc, &needs),
                   STATUS_CONFIG);
  assert_null(state);
  assert_non_null(strstr(status_message(), desc->name));
  cpu_device_close(device);
}

static void refuses_steps_by_name(void **unused) {
  (void)unused;
  check_refused(&(StepDesc){.kind = STEP_POOL2D,
                            .name = "wide_pool",
                            .batch = 2,
                            .input_count = 1,
                            .inputs = {SHAPE(20, 20, 8)},
                            .output = SHAPE(1, 1, 8),
                            .kernel_h = 17,
                            .kernel_w = 17,
                            .stride_h = 17,
                            .stride_w = 17,
                            .dilation = 1,
                            .pool_is_max = true,
                            .training = true,
                            .need_dx = {true}});
  check_refused(&(StepDesc){.kind = STEP_CONV2D,
                            .name = "half_conv",
                            .batch = 2,
                            .dtype = DTYPE_F16,
                            .input_count = 1,
                            .inputs = {SHAPE(9, 10, 8)},
                            .output = SHAPE(9, 10, 17),
                            .kernel_h = 1,
                            .kernel_w = 1,
                            .stride_h = 1,
                            .stride_w = 1,
                            .dilation = 1,
                            .groups = 1});
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(refuses_no_threads), cmocka_unit_test(refuses_unknown_isa),
      cmocka_unit_test(describes_itself),   cmocka_unit_test(enters_other_threads),
      cmocka_unit_test(lays_values_out),    cmocka_unit_test(rounds_to_bf16),
      cmocka_unit_test(adds_values),        cmocka_unit_test(refuses_steps_by_name),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
