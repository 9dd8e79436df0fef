// Planes of large depthwise convolutions are moved past the caches (vector_depthwise.c): the same
// bits as of small ones, which step_contract compares with its reference, and nothing beside them.
// Values large enough to be moved so would make step_contract slow.
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "backend/backend.h"
#include "backend/cpu/cpu.h"
#include "backend/cpu/device.h"
#include "backend/cpu/vector_kernels.h"

enum { LINE = 64, TAPS = DEPTHWISE_KERNEL_MAX * DEPTHWISE_KERNEL_MAX };

// Lines of a cache that a plane takes, with one before and one behind it.
typedef struct Memory {
  char *whole, *plane;
  size_t size; // of `whole`
} Memory;

static Memory take(size_t plane_size) {
  Memory m = {.size = (plane_size + LINE - 1) / LINE * LINE + 2 * LINE};
  m.whole = aligned_alloc(LINE, m.size);
  assert_non_null(m.whole);
  memset(m.whole, 0x5a, m.size);
  m.plane = m.whole + LINE;
  return m;
}

static Memory take_values(int64_t count, DType type, int seed) {
  Memory m = take((size_t)count * dtype_size(type));
  for (int64_t i = 0; i < count; i++) {
    float value = (float)((i * 7919 + seed) % 509 - 254) / 256.0f;
    if (type == DTYPE_BF16)
      ((uint16_t *)m.plane)[i] = cpu_to_bf16(value);
    else
      ((float *)m.plane)[i] = value;
  }
  return m;
}

typedef struct Results {
  Memory y, dx, dweights, dbias;
} Results;

static Results run(const DepthwiseKernels *kernels, DepthwisePlane plane, int block, DType type) {
  size_t pixel = (size_t)block * dtype_size(type), lanes = (size_t)block * sizeof(float);
  int64_t in = plane.in_h * plane.in_w, out = plane.out_h * plane.out_w;
  Results r = {take((size_t)out * pixel), take((size_t)in * pixel), take(TAPS * lanes),
               take(lanes)};
  Memory scratch = take((size_t)depthwise_scratch_floats(&plane, block) * sizeof(float));
  plane.y = r.y.plane, plane.dx = r.dx.plane;
  plane.dweights = (float *)r.dweights.plane, plane.dbias = (float *)r.dbias.plane;
  kernels->forward(&plane, (float *)scratch.plane);
  kernels->weights(&plane, (float *)scratch.plane);
  kernels->data(&plane, (float *)scratch.plane);
  free(scratch.whole);
  return r;
}

static void check_equal(Memory a, Memory b) {
  assert_int_equal(a.size, b.size);
  assert_memory_equal(a.whole, b.whole, a.size);
  free(a.whole);
  free(b.whole);
}

static void check_plane(const VectorKernels *set, DType type, int64_t kernel, int64_t stride,
                        int64_t height, int64_t width) {
  int64_t block = set->block, pad = (kernel - 1) / 2;
  DepthwisePlane plane = {.in_h = height,
                          .in_w = width,
                          .out_h = (height + 2 * pad - kernel) / stride + 1,
                          .out_w = (width + 2 * pad - kernel) / stride + 1,
                          .kernel_h = kernel,
                          .kernel_w = kernel,
                          .stride = stride,
                          .pad_top = pad,
                          .pad_left = pad};
  Memory x = take_values(height * width * block, type, 1);
  Memory dy = take_values(plane.out_h * plane.out_w * block, type, 2);
  Memory weights = take_values(TAPS * block, DTYPE_F32, 3), bias = take_values(block, DTYPE_F32, 4);
  plane.x = x.plane, plane.dy = dy.plane;
  plane.weights = (float *)weights.plane, plane.bias = (float *)bias.plane;
  Results small = run(&set->depthwise[type], plane, (int)block, type);
  plane.large = true;
  Results large = run(&set->depthwise[type], plane, (int)block, type);
  check_equal(small.y, large.y);
  check_equal(small.dx, large.dx);
  check_equal(small.dweights, large.dweights);
  check_equal(small.dbias, large.dbias);
  free(x.whole);
  free(dy.whole);
  free(weights.whole);
  free(bias.whole);
}

static void large_planes_have_the_same_bits(void **unused) {
  (void)unused;
  static const int64_t sizes[][2] = {{1, 1}, {2, 5}, {7, 7}, {14, 13}, {9, 30}};
  Device *device;
  assert_int_equal(cpu_device_open(&device, &(DeviceDesc){.threads = 1}), STATUS_OK);
  const VectorKernels *sets[] = {device->kernels, &vector_kernels_plain};
  for (int set = 0; set < 2; set++)
    for (int type = 0; type < VECTOR_TYPES; type++)
      for (int64_t kernel = 1; kernel <= DEPTHWISE_KERNEL_MAX; kernel++)
        for (int64_t stride = 1; stride <= 3; stride++)
          for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
            if (kernel % 2 || sizes[i][0] > 1) // an even kernel has no output on one pixel
              check_plane(sets[set], (DType)type, kernel, stride, sizes[i][0], sizes[i][1]);
  cpu_device_close(device);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(large_planes_have_the_same_bits)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
