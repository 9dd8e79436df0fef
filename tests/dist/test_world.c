// The control plane on 1 to 8 ranks: sizes of every kind, agreement on failure.
#include <math.h>
#include <sys/mman.h>
#include <unistd.h>

#include "ranks.h"

static World *world;

static unsigned char pattern(int rank, size_t i) {
  return (unsigned char)(i * 131 + i / 251 + (size_t)rank * 29);
}

static void test_shape(void **state) {
  (void)state;
  assert_in_range(world->rank, 0, world->size - 1);
  assert_int_equal(world->local_size, world->size); // the tests run on one machine
  assert_int_equal(world->local_rank, world->rank);
  assert_int_equal(world->node_rank, 0);
  assert_true(strlen(world->host) > 0);
  assert_ok(world_barrier(world));
}

static void test_broadcast(void **state) {
  (void)state;
  static const size_t sizes[] = {0, 1, 7, 4096, 100003};
  for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
    for (int root = 0; root < world->size; root++) {
      unsigned char *data = NULL;
      assert_ok(memory_alloc(&data, sizes[s] + 1, 1));
      if (world->rank == root)
        for (size_t i = 0; i < sizes[s]; i++) data[i] = pattern(root, i);
      data[sizes[s]] = 0xA5;
      assert_ok(world_broadcast(world, data, sizes[s], root));
      for (size_t i = 0; i < sizes[s]; i++)
        if (data[i] != pattern(root, i)) fail_msg("root %d, byte %zu of %zu", root, i, sizes[s]);
      assert_int_equal(data[sizes[s]], 0xA5);
      memory_free(data);
    }
}

// More than 2^31 bytes without having them: a file of 4099 pages is mapped again and again. 4099 is
// prime, so that a piece which lands at a wrong place would not fit the repetition.
static void test_broadcast_beyond_int(void **state) {
  (void)state;
  if (world->size != 2) skip();
  const size_t period = 4099 * 4096, copies = 130;
  assert_true(period * copies > (size_t)INT32_MAX + 1);
  int file = memfd_create("broadcast", 0);
  assert_true(file >= 0 && ftruncate(file, (off_t)period) == 0);
  unsigned char *data =
      mmap(NULL, period * copies, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  assert_ptr_not_equal(data, MAP_FAILED);
  for (size_t c = 0; c < copies; c++)
    assert_ptr_not_equal(
        mmap(data + c * period, period, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file, 0),
        MAP_FAILED);
  if (world->rank == 1)
    for (size_t i = 0; i < period; i++) data[i] = pattern(1, i);
  assert_ok(world_broadcast(world, data, period * copies - 5, 1));
  for (size_t i = 0; i < period; i++)
    if (data[i] != pattern(1, i)) fail_msg("byte %zu", i);
  assert_int_equal(munmap(data, period * copies), 0);
  (void)close(file);
}

static void test_reduce(void **state) {
  (void)state;
  int n = world->size, r = world->rank;
  int64_t whole[3] = {r + 1, (int64_t)1 << 60, -r};
  assert_ok(world_reduce_i64(world, WORLD_MAX, whole, 3));
  assert_true(whole[0] == n && whole[1] == (int64_t)1 << 60 && whole[2] == 0);
  int64_t sums[2] = {r + 1, INT64_C(5000000000) * r};
  assert_ok(world_reduce_i64(world, WORLD_SUM, sums, 2));
  assert_true(sums[0] == (int64_t)n * (n + 1) / 2);
  assert_true(sums[1] == INT64_C(5000000000) * (n * (n - 1) / 2));
  int64_t least = 100 - r;
  assert_ok(world_reduce_i64(world, WORLD_MIN, &least, 1));
  assert_true(least == 100 - (n - 1));

  double values[2] = {0.1 * (r + 1), 1.0 / 3.0 / (r + 1)}, expected[2] = {0.1, 1.0 / 3.0};
  for (int k = 1; k < n; k++) {
    expected[0] += 0.1 * (k + 1);
    expected[1] += 1.0 / 3.0 / (k + 1);
  }
  assert_ok(world_reduce_f64(world, WORLD_SUM, values, 2));
  assert_memory_equal(values, expected, sizeof values); // the order of the sum is promised
  double most = -1.5 * r, fewest = -1.5 * r;
  assert_ok(world_reduce_f64(world, WORLD_MAX, &most, 1));
  assert_ok(world_reduce_f64(world, WORLD_MIN, &fewest, 1));
  assert_true(most == 0.0 && fewest == -1.5 * (n - 1));
}

// A NaN on any one rank must not be lost to a comparison.
static void test_reduce_keeps_nan(void **state) {
  (void)state;
  for (int bad = 0; bad < world->size; bad++) {
    double value = world->rank == bad ? (double)NAN : 1.0, other = value;
    assert_ok(world_reduce_f64(world, WORLD_MAX, &value, 1));
    assert_ok(world_reduce_f64(world, WORLD_MIN, &other, 1));
    assert_true(value != value && other != other);
  }
}

static void test_gather(void **state) {
  (void)state;
  int n = world->size;
  double mine[2] = {world->rank, -world->rank}, all[2 * 64];
  assert_ok(world_allgather_f64(world, all, mine, 2));
  for (int r = 0; r < n; r++) assert_true(all[2 * r] == r && all[2 * r + 1] == -r);

  // Uneven blocks, an empty one among them.
  size_t length = (size_t)(world->rank % 3) * 70001, sizes[64];
  unsigned char *block = NULL, *whole = NULL;
  assert_ok(memory_alloc(&block, length + 1, 1));
  for (size_t i = 0; i < length; i++) block[i] = pattern(world->rank, i);
  void *gathered = NULL;
  assert_ok(world_gather_bytes(world, &gathered, sizes, block, length));
  whole = gathered;
  if (world->rank != 0) assert_null(gathered);
  for (int r = 0; world->rank == 0 && r < n; r++) {
    assert_int_equal(sizes[r], (size_t)(r % 3) * 70001);
    for (size_t i = 0; i < sizes[r]; i++)
      if (whole[i] != pattern(r, i)) fail_msg("rank %d, byte %zu", r, i);
    whole += sizes[r];
  }
  memory_free(gathered);
  memory_free(block);
}

// Rank s sends (s + 2 r) % 5 rows to rank r.
static int rows_of(int from, int to) { return (from + 2 * to) % 5; }

static void test_exchange(void **state) {
  (void)state;
  enum { ROW = 1283 };
  int ranks = world->size, sent = 0, received = 0;
  int send_counts[64], receive_counts[64];
  for (int r = 0; r < ranks; r++) {
    sent += send_counts[r] = rows_of(world->rank, r);
    received += receive_counts[r] = rows_of(r, world->rank);
  }
  unsigned char *send, *receive;
  assert_ok(memory_alloc(&send, (size_t)sent + 1, ROW));
  assert_ok(memory_alloc(&receive, (size_t)received + 1, ROW));
  unsigned char *next = send;
  for (int r = 0; r < ranks; r++)
    for (int k = 0; k < send_counts[r]; k++, next += ROW)
      for (size_t i = 0; i < ROW; i++) next[i] = pattern(world->rank * 8 + r, i + (size_t)k);
  memset(receive, 0xA5, ((size_t)received + 1) * ROW);
  assert_ok(world_exchange_rows(world, &(WorldExchange){.row_bytes = ROW,
                                                        .send = send,
                                                        .send_counts = send_counts,
                                                        .receive = receive,
                                                        .receive_counts = receive_counts}));
  next = receive;
  for (int r = 0; r < ranks; r++)
    for (int k = 0; k < receive_counts[r]; k++, next += ROW)
      for (size_t i = 0; i < ROW; i++)
        if (next[i] != pattern(r * 8 + world->rank, i + (size_t)k))
          fail_msg("from rank %d, row %d, byte %zu", r, k, i);
  for (size_t i = 0; i < ROW; i++) assert_int_equal(next[i], 0xA5);
  memory_free(send);
  memory_free(receive);
}

static void test_agree(void **state) {
  (void)state;
  int n = world->size, r = world->rank;
  assert_int_equal(world_agree_status(world, STATUS_OK), STATUS_OK);

  // One rank fails: all know whom and why.
  int bad = n - 1;
  Status mine = r == bad ? status_set(STATUS_IO, "x.png: cannot read") : STATUS_OK;
  assert_int_equal(world_agree_status(world, mine), STATUS_IO);
  char text[64];
  if (n > 1) {
    (void)snprintf(text, sizeof text, "rank %d of %d on ", bad, n);
    assert_ptr_equal(strstr(status_message(), text), status_message());
  }
  assert_non_null(strstr(status_message(), "x.png: cannot read"));

  // All fail: said once.
  assert_int_equal(world_agree_status(world, status_set(STATUS_CONFIG, "batch = 0")),
                   STATUS_CONFIG);
  (void)snprintf(text, sizeof text, "all %d ranks: batch = 0", n);
  assert_string_equal(status_message(), n > 1 ? text : "batch = 0");

  // A real failure beats one that stopped, whatever their numbers and order.
  if (n < 3) return;
  mine = r == 0   ? status_set(STATUS_STOPPED, "stopped")
         : r == 2 ? status_set(STATUS_ERROR, "broken")
                  : STATUS_OK;
  assert_int_equal(world_agree_status(world, mine), STATUS_ERROR);
  (void)snprintf(text, sizeof text, "ranks 0, 2 of %d: broken", n);
  assert_string_equal(status_message(), text);
}

// A message longer than what travels is cut, not overrun.
static void test_agree_long(void **state) {
  (void)state;
  char text[4000];
  memset(text, 'x', sizeof text - 1);
  text[sizeof text - 1] = '\0';
  Status mine = world->rank == 0 ? status_set(STATUS_DATA, "%s", text) : STATUS_OK;
  assert_int_equal(world_agree_status(world, mine), STATUS_DATA);
  assert_in_range(strlen(status_message()), 2000, 4095);
}

static int tests(void) {
  const struct CMUnitTest list[] = {
      cmocka_unit_test(test_shape),      cmocka_unit_test(test_broadcast),
      cmocka_unit_test(test_reduce),     cmocka_unit_test(test_reduce_keeps_nan),
      cmocka_unit_test(test_gather),     cmocka_unit_test(test_exchange),    cmocka_unit_test(test_agree),
      cmocka_unit_test(test_agree_long), cmocka_unit_test(test_broadcast_beyond_int),
  };
  return cmocka_run_group_tests_name("world", list, NULL, NULL);
}

int main(int argc, char **argv) {
  return ranks_run(&world, argc, argv, tests);
}
