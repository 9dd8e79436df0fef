// A sum of two values of any size, as the CUDA backend gives it to its kernel: all of the bytes and
// no more, in numbers that the kernel's arguments hold. The sums themselves are in the contract of
// the steps. The linker puts __wrap_kernel_activate before the kernel.
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>

#include <cmocka.h>

#include "backend/backend.h"
#include "kernels.h"

static KernelActivate given;

void __wrap_kernel_activate(const KernelActivate *args, KernelStream stream);
void __wrap_kernel_activate(const KernelActivate *args, KernelStream stream) {
  (void)stream;
  given = *args;
}

static void expect(Device *device, size_t size_bytes, DType dtype, KernelType type) {
  const Backend *backend = backend_find("cuda");
  size_t element = type == KERNEL_F32 || type == KERNEL_ROW ? 4 : 2;
  given = (KernelActivate){.pixels = -1};
  assert_int_equal(backend->value_add(device, &given, &given, size_bytes, dtype), STATUS_OK);
  assert_int_equal(given.type, type);
  assert_true(given.pixels > 0 && given.channels > 0);
  assert_int_equal((size_t)given.pixels * (size_t)given.channels * element, size_bytes);
  assert_int_equal(kernel_stored_channels(given.type, given.channels), given.channels);
}

static void test_sizes(void **state) {
  Device *device = *state;
  static const size_t sizes[] = {1, 3, 1000, 0x7fffffff, 0x80000000, 0x80000001, 0x123456789};
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
    expect(device, sizes[i] * 16, DTYPE_F32, KERNEL_F32);
    expect(device, sizes[i] * 16, DTYPE_BF16, KERNEL_BF16);
    expect(device, sizes[i] * 16, DTYPE_F16, KERNEL_F16);
    expect(device, sizes[i] * 16 + 4, DTYPE_F32, KERNEL_ROW);
  }
}

static int open_device(void **state) {
  Device *device = NULL;
  const Backend *backend = backend_find("cuda");
  if (backend->device_open(&device, &(DeviceDesc){.threads = 1}) != STATUS_OK) return 1;
  *state = device;
  return 0;
}

static int close_device(void **state) {
  backend_find("cuda")->device_close(*state);
  return 0;
}

int main(void) {
  const struct CMUnitTest list[] = {
      cmocka_unit_test_setup_teardown(test_sizes, open_device, close_device),
  };
  return cmocka_run_group_tests_name("value add", list, NULL, NULL);
}
