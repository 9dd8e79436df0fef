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

// Three chunks of the exchange with an odd rest, so that the scratch of the first is used again: a
// chunk is 2^20 floats, of a GPU 2^22.
static int64_t three_chunks(void) {
  return backend->native_stream ? 9000003 : 2500003;
}

// Values whose sums are exact, and that come again only in other places of a chunk.
enum { PERIOD = 1021 };

static float exact_value(int rank, int i, int step) {
  return (float)((i * 31 + rank * 7 + step) % PERIOD);
}

static void write_exact(float *gradients, float *data, int64_t count, int step) {
  float mine[PERIOD];
  for (int i = 0; i < PERIOD; i++) mine[i] = exact_value(world->rank, i, step);
  for (int64_t i = 0; i < count; i++) data[i] = mine[i % PERIOD];
  device_write(gradients, data, count);
}

static void expect_exact(const float *sum, float *data, int64_t count, int step) {
  float expected[PERIOD] = {0};
  for (int r = 0; r < world->size; r++)
    for (int i = 0; i < PERIOD; i++) expected[i] += exact_value(r, i, step);
  device_read(data, sum, count);
  for (int64_t i = 0; i < count; i++)
    if (data[i] != expected[i % PERIOD])
      fail_msg("step %d, element %lld: %g, not %g", step, (long long)i, (double)data[i],
               (double)expected[i % PERIOD]);
}

static void give_step(ReduceTree *tree, const float *gradients, float *sum) {
  assert_ok(reduce_tree_push(tree, world->rank, gradients));
  assert_ok(reduce_tree_finish(tree, sum));
}

// Also as a recording that is done again and again, where the device can: after a plain step, as in
// training.
static void test_chunks(void **state) {
  (void)state;
  const int64_t count = three_chunks();
  ReduceTree *tree = NULL;
  Recording *recording = NULL;
  float *data = NULL, *gradients = device_floats(count), *sum = device_floats(count);
  assert_ok(create(&tree, world->size, count));
  assert_ok(memory_alloc_aligned(&data, (size_t)count * sizeof *data));
  write_exact(gradients, data, count, 0);
  give_step(tree, gradients, sum);
  expect_exact(sum, data, count, 0);
  if (backend->record_begin) {
    assert_ok(backend->record_begin(device));
    give_step(tree, gradients, sum);
    assert_ok(backend->record_end(device, &recording));
  }
  for (int step = 1; recording && step < 3; step++) {
    write_exact(gradients, data, count, step);
    assert_ok(backend->replay(device, recording));
    expect_exact(sum, data, count, step);
  }
  backend->memory_free(device, sum); // waits
  backend->memory_free(device, gradients);
  if (recording) backend->recording_free(recording);
  memory_free(data);
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
