// Which sums a backward pass begins, and when: all of the arena once, in an order that does not
// depend on the order of layers, early, and between GPUs few and large but for the last. The linker
// puts __wrap_comm_begin_sum before the transport.
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/memory.h"
#include "train/gradsync.h"

enum { MIB = 1 << 18, SUMS_MAX = 1000 }; // floats of a MiB

typedef struct Sum {
  int64_t first, count;
  int ready; // parameters that were final when it began
} Sum;

static Sum sums[SUMS_MAX];
static int sum_count, ready_count;
static const float *arena;

Status __wrap_comm_begin_sum(Comm *comm, float *data, int64_t count);
Status __wrap_comm_begin_sum(Comm *comm, float *data, int64_t count) {
  (void)comm;
  assert_true(sum_count < SUMS_MAX);
  sums[sum_count++] = (Sum){data - arena, count, ready_count};
  return STATUS_OK;
}

static void *a_stream(Device *device) {
  return device;
}

// Layers with a kernel each, wider from layer to layer as convolutions are, and with two
// statistics.
typedef struct Net {
  ParameterLayout layout;
  int layers;
} Net;

static void make_net(Net *net, int layers, int64_t megabytes) {
  int64_t whole = megabytes * MIB, at = 0, weight = 0;
  *net = (Net){.layout = {.parameter_count = 3 * layers}, .layers = layers};
  assert_int_equal(memory_alloc(&net->layout.offsets, (size_t)(3 * layers), sizeof(int64_t)), 0);
  for (int i = 0; i < layers; i++) weight += i + 1;
  for (int i = 0; i < layers; i++) {
    net->layout.offsets[3 * i] = at;
    at += whole * (i + 1) / weight / 16 * 16;
  }
  net->layout.trained = at;
  for (int i = 0; i < layers; i++)
    for (int k = 1; k < 3; k++, at += 512) net->layout.offsets[3 * i + k] = at;
  net->layout.reduced = net->layout.total = at;
}

// One step; `backwards`: as a backward pass, else as a rank without samples.
static void run_step(const Net *net, bool on_gpu, bool backwards) {
  static World world = {.size = 1};
  Backend backend = *backend_find("cpu");
  Device *device = NULL;
  GradSync *sync;
  assert_int_equal(backend.device_open(&device, &(DeviceDesc){.threads = 1}), STATUS_OK);
  if (on_gpu) backend.native_stream = a_stream;
  assert_int_equal(gradsync_create(&sync, &(GradSyncDesc){.world = &world,
                                                          .backend = &backend,
                                                          .device = device,
                                                          .layout = &net->layout,
                                                          .virtual_workers = 1}),
                   STATUS_OK);
  arena = gradsync_gradients(sync);
  sum_count = ready_count = 0;
  gradsync_begin_last(sync, arena);
  for (int i = 0; i < net->layers; i++) {
    int layer = backwards ? net->layers - 1 - i : i;
    for (int k = 0; k < 3; k++) {
      ready_count = i + 1;
      assert_int_equal(gradsync_ready(sync, 3 * layer + k), STATUS_OK);
    }
  }
  assert_int_equal(gradsync_finish(sync), STATUS_OK);
  gradsync_free(sync);
  backend.device_close(device);
}

static void expect_cover(const Net *net) {
  int64_t end = net->layout.reduced;
  for (int i = 0; i < sum_count; i++) {
    assert_int_equal(sums[i].first + sums[i].count, end);
    end = sums[i].first;
  }
  assert_int_equal(end, 0);
}

static void test_order(void **state) {
  (void)state;
  Net net;
  make_net(&net, 50, 100);
  for (int gpu = 0; gpu < 2; gpu++) {
    Sum backwards[SUMS_MAX];
    run_step(&net, gpu, true);
    expect_cover(&net);
    int count = sum_count;
    memcpy(backwards, sums, sizeof sums);
    run_step(&net, gpu, false);
    expect_cover(&net);
    assert_int_equal(sum_count, count);
    for (int i = 0; i < count; i++) assert_int_equal(sums[i].first, backwards[i].first);
  }
  memory_free(net.layout.offsets);
}

// A sum begins with the layer that completes it, the first long before the pass ends.
static void test_time(void **state) {
  (void)state;
  Net net;
  make_net(&net, 50, 100);
  for (int gpu = 0; gpu < 2; gpu++) {
    run_step(&net, gpu, true);
    for (int i = 0; i < sum_count; i++) {
      int layers = 0; // that lie in it or behind it
      while (layers < net.layers &&
             net.layout.offsets[3 * (net.layers - 1 - layers)] >= sums[i].first)
        layers++;
      assert_int_equal(sums[i].ready, layers);
    }
    assert_true(sums[0].ready <= 10);
  }
  memory_free(net.layout.offsets);
}

static void test_sizes(void **state) {
  (void)state;
  static const struct {
    int64_t megabytes;
    int least, most; // sums between GPUs
  } nets[] = {{1, 1, 1}, {20, 4, 6}, {100, 8, 12}, {474, 16, 22}};
  for (size_t n = 0; n < sizeof nets / sizeof *nets; n++) {
    Net net;
    make_net(&net, 200, nets[n].megabytes);
    int64_t widest = net.layout.trained - net.layout.offsets[3 * (net.layers - 1)];
    run_step(&net, false, true);
    for (int i = 0; i < sum_count; i++)
      assert_true(sums[i].count < 4 * MIB + widest + net.layout.reduced - net.layout.trained);
    run_step(&net, true, true);
    assert_in_range(sum_count, nets[n].least, nets[n].most);
    for (int i = 0; i < sum_count; i++) assert_true(sums[i].count < 32 * MIB + widest);
    assert_true(sums[sum_count - 1].count < 4 * MIB + widest);
    memory_free(net.layout.offsets);
  }
}

int main(void) {
  const struct CMUnitTest list[] = {
      cmocka_unit_test(test_order),
      cmocka_unit_test(test_time),
      cmocka_unit_test(test_sizes),
  };
  return cmocka_run_group_tests_name("gradsync", list, NULL, NULL);
}
