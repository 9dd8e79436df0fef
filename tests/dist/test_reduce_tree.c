// The reproducible sum on 1, 2, 3, 4, 6, 8 and 12 ranks, bit for bit against a recursive tree sum
// of one process. Values have random fractions and exponents, so that nearly every change of order
// changes the bits. Argument: the transport, "mpi".
#include "base/rng.h"
#include "device_memory.h"
#include "dist/reduce_tree.h"

static World *world;
static Comm *comm;

static ReduceTreeDesc describe(int workers, int64_t count) {
  return (ReduceTreeDesc){
      .world = world, .backend = backend, .virtual_workers = workers, .count = count};
}

static Status create(ReduceTree **out, int workers, int64_t count) {
  ReduceTreeDesc desc = describe(workers, count);
  return reduce_tree_create(out, comm, &desc);
}

static float value(int worker, int64_t i, int step) {
  RngWords words = rng_draw(7, RNG_SYNTHETIC, (uint64_t)worker, (uint64_t)i, (uint32_t)step);
  return (rng_unit(words.word[0]) - 0.5f) * (float)(1 << words.word[1] % 12);
}

// The definition: a node over [lo, hi) splits at the largest power of two below its length.
static float tree_sum(int lo, int hi, int64_t i, int step) {
  if (hi - lo == 1) return value(lo, i, step);
  int left = 1;
  while (left * 2 < hi - lo) left *= 2;
  return tree_sum(lo, lo + left, i, step) + tree_sum(lo + left, hi, i, step);
}

static void run_steps(int workers, int64_t count) {
  ReduceTree *tree = NULL;
  float *gradients = NULL, *memory = device_floats(count + 1);
  int first, share;
  assert_ok(create(&tree, workers, count));
  assert_ok(memory_alloc_aligned(&gradients, (size_t)(count + 1) * sizeof *gradients));
  reduce_tree_workers(tree, &first, &share);
  assert_int_equal(share * world->size, workers);
  assert_int_equal(first, share * world->rank);
  for (int step = 0; step < 2; step++) {
    for (int w = first; w < first + share; w++) {
      for (int64_t i = 0; i < count; i++) gradients[i] = value(w, i, step);
      gradients[count] = 4711;
      device_write(memory, gradients, count + 1);
      assert_ok(reduce_tree_push(tree, w, memory));
    }
    assert_ok(reduce_tree_finish(tree, memory)); // into an array that was pushed
    device_read(gradients, memory, count + 1);
    for (int64_t i = 0; i < count; i++) {
      float expected = tree_sum(0, workers, i, step);
      if (memcmp(&gradients[i], &expected, sizeof expected) != 0)
        fail_msg("%d workers, element %lld of %lld: %a, not %a", workers, (long long)i,
                 (long long)count, (double)gradients[i], (double)expected);
    }
    assert_true(gradients[count] == 4711);
  }
  memory_free(gradients);
  backend->memory_free(device, memory);
  reduce_tree_free(tree);
}

static void test_bits(void **state) {
  (void)state;
  static const int workers[] = {1, 2, 3, 4, 5, 6, 7, 8, 12, 20, 24, 36};
  static const int64_t counts[] = {0, 1, 5, 1000, 4099};
  for (size_t w = 0; w < sizeof workers / sizeof *workers; w++)
    for (size_t c = 0; c < sizeof counts / sizeof *counts; c++)
      if (workers[w] % world->size == 0) run_steps(workers[w], counts[c]);
}

// Several chunks of the exchange with an odd rest: scratch holds 2^20 floats of all subtrees, of a
// GPU 2^22.
static void test_chunks(void **state) {
  (void)state;
  const int64_t COUNT = backend->native_stream ? 5000003 : 2500003;
  ReduceTree *tree = NULL;
  float *data = NULL, *memory = device_floats(COUNT);
  int workers = 2 * world->size, first, share;
  assert_ok(create(&tree, workers, COUNT));
  assert_ok(memory_alloc_aligned(&data, (size_t)COUNT * sizeof *data));
  reduce_tree_workers(tree, &first, &share);
  for (int w = first; w < first + share; w++) {
    for (int64_t i = 0; i < COUNT; i++) data[i] = (float)((i * 31 + w * 7) % 1021); // exact
    device_write(memory, data, COUNT);
    assert_ok(reduce_tree_push(tree, w, memory));
  }
  assert_ok(reduce_tree_finish(tree, memory));
  device_read(data, memory, COUNT);
  for (int64_t i = 0; i < COUNT; i++) {
    int64_t sum = 0;
    for (int w = 0; w < workers; w++) sum += (i * 31 + w * 7) % 1021;
    if (data[i] != (float)sum) fail_msg("element %lld", (long long)i);
  }
  memory_free(data);
  backend->memory_free(device, memory);
  reduce_tree_free(tree);
}

static void test_misuse(void **state) {
  (void)state;
  ReduceTree *tree = NULL;
  assert_int_equal(create(&tree, 0, 4), STATUS_CONFIG);
  assert_null(tree);
  if (world->size > 1) assert_int_equal(create(&tree, world->size + 1, 4), STATUS_CONFIG);
  float last, *data = device_floats(4);
  device_write(data, (const float[]){1, 2, 3, 4}, 4);
  int first, share;
  assert_ok(create(&tree, 2 * world->size, 4));
  reduce_tree_workers(tree, &first, &share);
  assert_int_equal(reduce_tree_push(tree, first + 1, data), STATUS_INTERNAL);
  assert_ok(reduce_tree_push(tree, first, data));
  assert_int_equal(reduce_tree_push(tree, first, data), STATUS_INTERNAL);
  assert_int_equal(reduce_tree_finish(tree, data), STATUS_INTERNAL);
  assert_ok(reduce_tree_push(tree, first + 1, data));
  assert_int_equal(reduce_tree_push(tree, first + 2, data), STATUS_INTERNAL);
  assert_ok(reduce_tree_finish(tree, data));
  device_read(&last, data + 3, 1);
  assert_true(last == 4.0f * 2.0f * (float)world->size);
  backend->memory_free(device, data);
  reduce_tree_free(tree);
  reduce_tree_free(NULL);
}

static size_t memory_bytes(int rank, int size, int workers) {
  ReduceTreeDesc desc = describe(workers, 1000000);
  desc.world = &(World){.rank = rank, .size = size};
  return reduce_tree_memory_bytes(&desc);
}

// The figures given to the memory plan: buffers of the stack, and the exchange's scratch.
static void test_memory(void **state) {
  (void)state;
  const size_t buffer = 4 * 1000000;
  const size_t scratch = 2 * 4 * (backend->native_stream ? 1 << 22 : 1 << 20);
  assert_int_equal(memory_bytes(0, 1, 1), buffer);
  assert_int_equal(memory_bytes(0, 1, 2), buffer);
  assert_int_equal(memory_bytes(0, 1, 8), 3 * buffer);
  assert_int_equal(memory_bytes(0, 1, 64), 6 * buffer);
  assert_in_range(memory_bytes(1, 2, 8), 2 * buffer, 2 * buffer + scratch);
  assert_in_range(memory_bytes(7, 8, 8), buffer, buffer + scratch);
}

static int open_comm(void **state) {
  (void)state;
  assert_ok(comm_open(
      &comm, transport,
      &(CommDesc){.world = world, .backend = backend, .device = device, .timeout_s = 60}));
  return 0;
}

static int close_comm(void **state) {
  (void)state;
  comm_close(comm);
  return 0;
}

static int tests(void) {
  const struct CMUnitTest list[] = {
      cmocka_unit_test(test_bits),
      cmocka_unit_test(test_chunks),
      cmocka_unit_test(test_misuse),
      cmocka_unit_test(test_memory),
  };
  return cmocka_run_group_tests_name("reduce tree", list, open_comm, close_comm);
}

int main(int argc, char **argv) {
  device_memory_open(argc, argv);
  return ranks_run(&world, argc, argv, tests);
}
