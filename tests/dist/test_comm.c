// The data plane on 1 to 8 ranks: whole numbers, so that every sum is exact; buckets of uneven
// sizes, more at one time than there is room for. Argument: the transport, "mpi".
#include "device_memory.h"

static World *world;

// Whole numbers below 2^12: sums over 8 ranks stay exact in a float.
static float value(int rank, int64_t i, int step) {
  return (float)((i * 37 + rank * 101 + step * 13) % 4096 - 2048);
}

static void fill(float *data, int64_t count, int step) {
  for (int64_t i = 0; i < count; i++) data[i] = value(world->rank, i, step);
}

static void check(const float *data, int64_t count, int step) {
  for (int64_t i = 0; i < count; i++) {
    float sum = 0;
    for (int r = 0; r < world->size; r++) sum += value(r, i, step);
    if (data[i] != sum)
      fail_msg("element %lld of step %d: %g, not %g", (long long)i, step, (double)data[i],
               (double)sum);
  }
}

static Comm *open_comm(int max_pending) {
  Comm *comm;
  assert_ok(comm_open(&comm, transport,
                      &(CommDesc){.world = world,
                                  .backend = backend,
                                  .device = device,
                                  .timeout_s = 60,
                                  .max_pending = max_pending}));
  return comm;
}

static void test_buckets(void **state) {
  (void)state;
  static const int64_t buckets[] = {1, 0, 3, 17, 1000, 65537, 2, 300001, 31, 2500003};
  enum { BUCKETS = sizeof buckets / sizeof *buckets, STEPS = 3 };
  int64_t count = 0;
  for (int b = 0; b < BUCKETS; b++) count += buckets[b];
  float *data = NULL;
  assert_ok(memory_alloc_aligned(&data, (size_t)count * sizeof *data));
  for (int max_pending = 0; max_pending <= 2; max_pending++) {
    Comm *comm = open_comm(max_pending);
    float *sums;
    assert_ok(comm_memory_alloc(comm, &sums, count));
    device_read(data, sums, count);
    for (int64_t i = 0; i < count; i++) assert_true(data[i] == 0.0f);
    for (int step = 0; step < STEPS; step++) {
      fill(data, count, step);
      device_write(sums, data, count);
      int64_t end = count; // buckets become final from the last layer to the first
      for (int b = 0; b < BUCKETS; b++) {
        end -= buckets[b];
        assert_ok(comm_begin_sum(comm, sums + end, buckets[b]));
        assert_ok(comm_progress(comm));
      }
      assert_ok(comm_wait_all(comm));
      device_read(data, sums, count);
      check(data, count, step);
    }
    assert_ok(comm_wait_all(comm)); // nothing under way is fine
    assert_ok(comm_check(comm));
    assert_true(comm->sums_begun == STEPS * BUCKETS);
    assert_true(comm->bytes_begun == STEPS * count * (int64_t)sizeof *data);
    comm_memory_free(comm, sums);
    comm_close(comm);
  }
  memory_free(data);
}

// Rank r sends (r + 2 p) % 5 floats to p, two rounds under way at one time, and all gather r + 1.
static void test_exchanges(void **state) {
  (void)state;
  enum { ROUNDS = 4, MOST = 5, RANKS_MAX = 64 };
  Comm *comm = open_comm(0);
  CommExchange *exchanges[2];
  int size = world->size, rank = world->rank, counts[RANKS_MAX], all = 0;
  assert_in_range(size, 1, RANKS_MAX);
  float host[2 * RANKS_MAX * (RANKS_MAX + MOST)], *out = device_floats(MOST * size * 2);
  float *in = device_floats(MOST * size * 2);
  for (int i = 0; i < 2; i++) assert_ok(comm_exchange_create(&exchanges[i], comm, size));
  for (int i = 0; i < 2 * MOST * size; i++) host[i] = (float)(1000 * rank + i);
  device_write(out, host, 2 * MOST * size);
  for (int round = 0; round < ROUNDS + 1; round++) {
    if (round > 0) assert_ok(comm_wait_exchange(exchanges[(round - 1) % 2]));
    if (round == ROUNDS) break;
    CommExchange *exchange = exchanges[round % 2];
    exchange->send_count = exchange->receive_count = 0;
    for (int peer = 0; peer < size; peer++) {
      if (peer == rank) continue;
      int at = (round % 2 * size + peer) * MOST;
      exchange->sends[exchange->send_count++] =
          (CommBlock){.data = out + at, .count = (rank + 2 * peer) % MOST, .peer = peer};
      exchange->receives[exchange->receive_count++] =
          (CommBlock){.data = in + at, .count = (peer + 2 * rank) % MOST, .peer = peer};
    }
    assert_ok(comm_begin_exchange(exchange));
  }
  device_read(host, in, 2 * MOST * size);
  for (int peer = 0; peer < size; peer++)
    for (int i = 0; i < 2 * ((peer + 2 * rank) % MOST); i++) {
      int half = i % 2, at = (half * size + peer) * MOST + i / 2;
      int sent = (half * size + rank) * MOST + i / 2;
      if (peer != rank && host[at] != (float)(1000 * peer + sent))
        fail_msg("rank %d from %d, %d: %g", rank, peer, i, (double)host[at]);
    }
  for (int i = 0; i < 2; i++) comm_exchange_free(exchanges[i]);
  backend->memory_free(device, in);
  for (int alike = 0; alike < 2; alike++) { // blocks of one length, and of several
    for (int r = all = 0; r < size; all += counts[r++]) counts[r] = alike ? MOST : r % 3;
    in = device_floats(all);
    assert_ok(comm_begin_gather(comm, in, out, counts));
    assert_ok(comm_wait_all(comm));
    device_read(host, in, all);
    for (int r = 0, i = 0; r < size; r++)
      for (int k = 0; k < counts[r]; k++) assert_true(host[i++] == (float)(1000 * r + k));
    backend->memory_free(device, in);
  }
  backend->memory_free(device, out);
  comm_close(comm);
}

// The control plane may be used while sums are under way.
static void test_beside_control(void **state) {
  (void)state;
  enum { COUNT = 200000 };
  Comm *comm = open_comm(0);
  float *data = NULL, *sums = device_floats(COUNT);
  assert_ok(memory_alloc_aligned(&data, COUNT * sizeof *data));
  fill(data, COUNT, 5);
  device_write(sums, data, COUNT);
  assert_ok(comm_begin_sum(comm, sums, COUNT));
  int64_t ranks = 1;
  assert_ok(world_reduce_i64(world, WORLD_SUM, &ranks, 1));
  assert_true(ranks == world->size);
  assert_ok(comm_wait_all(comm));
  device_read(data, sums, COUNT);
  check(data, COUNT, 5);
  comm_close(comm);
  backend->memory_free(device, sums);
  memory_free(data);
}

// One rank alone needs no transport, several cannot do without.
static void test_none(void **state) {
  (void)state;
  Comm *comm = NULL;
  const CommDesc desc = {.world = world, .backend = backend, .device = device};
  Status status = comm_open(&comm, "none", &desc);
  if (world->size > 1) {
    assert_int_equal(status, STATUS_INTERNAL);
    assert_string_equal(comm_kind_for(world, backend), transport);
    return;
  }
  assert_ok(status);
  assert_string_equal(comm_kind_for(world, backend), "none");
  float *data, got;
  assert_ok(comm_memory_alloc(comm, &data, 1));
  device_write(data, &(float){3.0f}, 1);
  assert_ok(comm_begin_sum(comm, data, 1));
  assert_ok(comm_progress(comm));
  assert_ok(comm_wait_all(comm));
  assert_ok(comm_check(comm));
  device_read(&got, data, 1);
  assert_true(got == 3.0f);
  comm_memory_free(comm, data);
  comm_abort(comm);
  comm_close(comm);
}

static void test_unknown_kind(void **state) {
  (void)state;
  Comm *comm = NULL;
  assert_int_equal(comm_open(&comm, "pigeon", &(CommDesc){.world = world}), STATUS_CONFIG);
  assert_null(comm);
  assert_non_null(strstr(status_message(), "pigeon"));
  assert_non_null(strstr(status_message(), "mpi"));
  comm_close(NULL);
}

static int tests(void) {
  const struct CMUnitTest list[] = {
      cmocka_unit_test(test_buckets),        cmocka_unit_test(test_exchanges),
      cmocka_unit_test(test_beside_control), cmocka_unit_test(test_none),
      cmocka_unit_test(test_unknown_kind),
  };
  return cmocka_run_group_tests_name("comm", list, NULL, NULL);
}

int main(int argc, char **argv) {
  device_memory_open(argc, argv);
  return ranks_run(&world, argc, argv, tests);
}
