// The split against numpy's own results, and the sampler against its promises.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "data/sampler.h"
#include "data/split.h"

// --- split ---------------------------------------------------------------------------------------

// numpy 2: x = list(range(n)); numpy.random.RandomState(seed).shuffle(x)
static void shuffle_is_numpys(void **state) {
  (void)state;
  static const struct {
    uint32_t seed;
    int64_t count, wanted[17];
  } rows[] = {
      {123u, 10, {4, 0, 7, 5, 8, 3, 1, 6, 9, 2}},
      {0u, 17, {1, 6, 8, 9, 13, 4, 2, 14, 10, 7, 16, 11, 3, 0, 5, 15, 12}},
      {4294967295u, 8, {1, 7, 6, 0, 5, 4, 2, 3}},
  };
  for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
    int64_t items[17];
    for (int64_t i = 0; i < rows[r].count; i++) items[i] = i;
    split_shuffle_as_numpy(items, rows[r].count, rows[r].seed);
    assert_memory_equal(items, rows[r].wanted, (size_t)rows[r].count * sizeof *items);
  }
}

static void long_shuffle_is_numpys(void **state) {
  (void)state;
  enum { COUNT = 100000 };
  int64_t *items = malloc(COUNT * sizeof *items), sum = 0;
  for (int64_t i = 0; i < COUNT; i++) items[i] = i;
  split_shuffle_as_numpy(items, COUNT, 7);
  for (int64_t i = 0; i < COUNT; i++) sum += items[i] * (i + 1) % 1000003;
  assert_int_equal(sum, 49931735744); // the same sum in numpy
  free(items);
}

static void split_takes_the_last_part(void **state) {
  (void)state;
  Split split;
  assert_int_equal(split_init(&split, &(SplitDesc){10, 0.25, 123}), STATUS_OK);
  assert_int_equal(split.validation_count, 2); // int(0.25 * 10)
  assert_int_equal(split.training_count, 8);
  int64_t all[10];
  for (int64_t i = 0; i < 10; i++) all[i] = i;
  split_shuffle_as_numpy(all, 10, 123);
  assert_memory_equal(split.training, all, 8 * sizeof *all);
  assert_memory_equal(split.validation, all + 8, 2 * sizeof *all);
  split_deinit(&split);

  assert_int_equal(split_init(&split, &(SplitDesc){10, 0, 123}), STATUS_OK);
  assert_int_equal(split.validation_count, 0);
  assert_int_equal(split.training_count, 10);
  split_deinit(&split);
}

static void split_refuses_what_keras_refuses(void **state) {
  (void)state;
  Split split;
  assert_int_equal(split_init(&split, &(SplitDesc){9, 0.1, 1}), STATUS_CONFIG);
  assert_int_equal(split_init(&split, &(SplitDesc){9, 1.0, 1}), STATUS_CONFIG);
  assert_int_equal(split_init(&split, &(SplitDesc){9, -0.1, 1}), STATUS_CONFIG);
  assert_int_equal(split_init(&split, &(SplitDesc){9, (double)NAN, 1}), STATUS_CONFIG);
  assert_int_equal(split_init(&split, &(SplitDesc){9, 0.5, INT64_C(1) << 32}), STATUS_CONFIG);
}

// --- sampler -------------------------------------------------------------------------------------

static Sampler make(SamplerMode mode, int64_t count, int64_t batch, uint64_t seed) {
  Sampler sampler;
  assert_int_equal(sampler_init(&sampler, &(SamplerDesc){mode, count, batch, seed}), STATUS_OK);
  return sampler;
}

// How often each position comes in `steps` steps from `first` on.
static int64_t *count_uses(Sampler *sampler, int64_t first, int64_t steps) {
  int64_t *uses = calloc((size_t)sampler->desc.sample_count, sizeof *uses);
  int64_t *indices = calloc((size_t)sampler->full_batch, sizeof *indices);
  for (int64_t step = first; step < first + steps; step++) {
    int64_t size = sampler_batch_size(sampler, step);
    sampler_indices(sampler, step, 0, size, indices);
    for (int64_t i = 0; i < size; i++) {
      assert_in_range(indices[i], 0, sampler->desc.sample_count - 1);
      uses[indices[i]]++;
    }
  }
  free(indices);
  return uses;
}

static void each_pass_takes_each_position_once(void **state) {
  (void)state;
  static const int64_t counts[] = {1, 2, 3, 5, 16, 17, 100, 1000, 4097};
  static const int64_t batches[] = {1, 3, 16, 100, 5000};
  for (int mode = SAMPLER_TRAIN; mode <= SAMPLER_EVALUATE_KERAS; mode++)
    for (size_t n = 0; n < sizeof counts / sizeof *counts; n++)
      for (size_t b = 0; b < sizeof batches / sizeof *batches; b++) {
        Sampler sampler = make((SamplerMode)mode, counts[n], batches[b], 5);
        int64_t steps = sampler.steps_per_pass, taken = 0;
        int64_t *uses = count_uses(&sampler, 2 * steps, steps); // the third pass
        for (int64_t i = 0; i < counts[n]; i++) {
          assert_in_range(uses[i], 0, 1);
          taken += uses[i];
        }
        bool gives_all = mode == SAMPLER_EVALUATE || mode == SAMPLER_TRAIN_KERAS;
        int64_t batch = batches[b] < counts[n] ? batches[b] : counts[n];
        assert_int_equal(taken, gives_all ? counts[n] : counts[n] / batch * batch);
        assert_int_equal(sampler_pass(&sampler, 2 * steps), 2);
        assert_int_equal(sampler_pass(&sampler, 2 * steps - 1), 1);
        free(uses);
      }
}

static void indices_do_not_depend_on_the_questions_before(void **state) {
  (void)state;
  for (int mode = SAMPLER_TRAIN; mode <= SAMPLER_EVALUATE_KERAS; mode++) {
    Sampler in_order = make((SamplerMode)mode, 103, 10, 9);
    Sampler jumping = make((SamplerMode)mode, 103, 10, 9);
    for (int64_t k = 0; k < 60; k++) {
      int64_t step = k * 17 % 60, whole[10], piece[10];
      int64_t size = sampler_batch_size(&in_order, k);
      sampler_indices(&in_order, k, 0, size, whole);
      Sampler fresh = make((SamplerMode)mode, 103, 10, 9);
      sampler_indices(&fresh, k, 0, size, piece);
      assert_memory_equal(whole, piece, (size_t)size * sizeof *whole);
      if (size > 2) { // a part of a batch, as a rank asks for it
        sampler_indices(&fresh, k, 1, size - 2, piece);
        assert_memory_equal(whole + 1, piece, (size_t)(size - 2) * sizeof *whole);
      }
      fresh = make((SamplerMode)mode, 103, 10, 9);
      size = sampler_batch_size(&fresh, step);
      sampler_indices(&fresh, step, 0, size, whole);
      sampler_indices(&jumping, step, 0, size, piece);
      assert_memory_equal(whole, piece, (size_t)size * sizeof *whole);
    }
  }
}

static void passes_and_seeds_differ(void **state) {
  (void)state;
  int64_t first[100], second[100], other[100];
  Sampler sampler = make(SAMPLER_TRAIN, 100, 100, 1), sampler2 = make(SAMPLER_TRAIN, 100, 100, 2);
  sampler_indices(&sampler, 0, 0, 100, first);
  sampler_indices(&sampler, 1, 0, 100, second);
  sampler_indices(&sampler2, 0, 0, 100, other);
  assert_memory_not_equal(first, second, sizeof first);
  assert_memory_not_equal(first, other, sizeof first);
}

// Where a position lands is uniform: chi-square over places, and over pairs of neighbours.
static void permutation_is_uniform(void **state) {
  (void)state;
  enum { N = 13, PASSES = 13000 };
  static double places[N][N], follows[N][N];
  memset(places, 0, sizeof places);
  memset(follows, 0, sizeof follows);
  Sampler sampler = make(SAMPLER_TRAIN, N, N, 77);
  for (int64_t pass = 0; pass < PASSES; pass++) {
    int64_t order[N];
    sampler_indices(&sampler, pass, 0, N, order);
    for (int i = 0; i < N; i++) places[order[i]][i]++;
    for (int i = 0; i + 1 < N; i++) follows[order[i]][order[i + 1]]++;
  }
  double square = 0, square2 = 0, wanted = (double)PASSES / N, wanted2 = (double)PASSES / N;
  for (int i = 0; i < N; i++)
    for (int k = 0; k < N; k++) {
      square += (places[i][k] - wanted) * (places[i][k] - wanted) / wanted;
      if (i != k) square2 += (follows[i][k] - wanted2) * (follows[i][k] - wanted2) / wanted2;
    }
  // Degrees of freedom (N-1)^2 = 144 and N(N-1)-1 = 155 at most; 5 standard deviations above.
  assert_true(square < 144 + 5 * sqrt(2 * 144.0));
  assert_true(square2 < 155 + 5 * sqrt(2 * 155.0));
}

static void largest_list_works(void **state) {
  (void)state;
  Sampler sampler = make(SAMPLER_TRAIN, INT64_C(1) << 40, 1 << 20, 3);
  int64_t out[4];
  sampler_indices(&sampler, (INT64_C(1) << 20) - 1, (1 << 20) - 4, 4, out);
  for (int i = 0; i < 4; i++) assert_in_range(out[i], 0, (INT64_C(1) << 40) - 1);
  assert_int_equal(
      sampler_init(&sampler, &(SamplerDesc){SAMPLER_TRAIN, (INT64_C(1) << 40) + 1, 1, 0}),
      STATUS_CONFIG);
  assert_int_equal(sampler_init(&sampler, &(SamplerDesc){SAMPLER_TRAIN, 0, 1, 0}), STATUS_CONFIG);
  assert_int_equal(sampler_init(&sampler, &(SamplerDesc){SAMPLER_TRAIN, 4, 0, 0}), STATUS_CONFIG);
}

// tf.data's shuffle(8): the k-th output is one of the first k + 8 inputs; every slot is drawn
// alike.
static void window_shuffles_within_eight(void **state) {
  (void)state;
  enum { N = 64, PASSES = 4000 };
  Sampler sampler = make(SAMPLER_TRAIN_KERAS, N, N, 11);
  double delayed[N] = {0};
  for (int64_t pass = 0; pass < PASSES; pass++) {
    int64_t order[N];
    sampler_indices(&sampler, pass, 0, N, order);
    for (int64_t i = 0; i < N; i++) {
      assert_true(order[i] < i + SAMPLER_WINDOW);
      delayed[i] += order[i] == 0; // position 0 stands in the window from the start
    }
  }
  // It leaves at output i with probability (7/8)^i / 8.
  for (int i = 0; i < 10; i++) {
    double p = pow(7.0 / 8, i) / 8, sigma = sqrt(PASSES * p * (1 - p));
    assert_true(fabs(delayed[i] - PASSES * p) < 5 * sigma);
  }
}

// The tutorial: 103 images, batch 10: an epoch has 10 steps, a pass 11, the last with 3 images.
static void keras_epochs_drift_against_passes(void **state) {
  (void)state;
  Sampler sampler = make(SAMPLER_TRAIN_KERAS, 103, 10, 0);
  assert_int_equal(sampler_steps_per_epoch(&sampler), 10);
  assert_int_equal(sampler_batch_size(&sampler, 9), 10);
  assert_int_equal(sampler_batch_size(&sampler, 10), 3); // opens the second epoch
  assert_int_equal(sampler_pass(&sampler, 10), 0);
  assert_int_equal(sampler_batch_size(&sampler, 11), 10);
  assert_int_equal(sampler_batch_size(&sampler, 21), 3);

  Sampler evaluation = make(SAMPLER_EVALUATE_KERAS, 23, 10, 0);
  assert_int_equal(sampler_steps_per_epoch(&evaluation), 2);
  assert_int_equal(sampler_pass(&evaluation, 2), 1); // each evaluation begins anew
  Sampler exact = make(SAMPLER_EVALUATE, 23, 10, 0);
  assert_int_equal(sampler_steps_per_epoch(&exact), 3);
  assert_int_equal(sampler_batch_size(&exact, 2), 3);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(shuffle_is_numpys),
      cmocka_unit_test(long_shuffle_is_numpys),
      cmocka_unit_test(split_takes_the_last_part),
      cmocka_unit_test(split_refuses_what_keras_refuses),
      cmocka_unit_test(each_pass_takes_each_position_once),
      cmocka_unit_test(indices_do_not_depend_on_the_questions_before),
      cmocka_unit_test(passes_and_seeds_differ),
      cmocka_unit_test(permutation_is_uniform),
      cmocka_unit_test(largest_list_works),
      cmocka_unit_test(window_shuffles_within_eight),
      cmocka_unit_test(keras_epochs_drift_against_passes),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
