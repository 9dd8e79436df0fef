// The loader: the same batches for any number of threads and ranks, bad files, resume, closing
// early.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "data/loader.h"
#include "data_fixture.h"

enum { CLASSES = 3, EACH = 9, SAMPLES = CLASSES * EACH, SIDE = 12, IMAGE = SIDE * SIDE * 3 };

typedef struct World {
  Dataset *dataset;
  int64_t samples[SAMPLES]; // reversed, to tell positions from ids
} World;

static World open_world(const Fixture *fixture) {
  World world;
  assert_int_equal(dataset_open(&world.dataset, &(DatasetDesc){.path = fixture->dir}, NULL),
                   STATUS_OK);
  assert_int_equal(dataset_sample_count(world.dataset), SAMPLES);
  for (int64_t i = 0; i < SAMPLES; i++) world.samples[i] = SAMPLES - 1 - i;
  return world;
}

static LoaderDesc describe(const World *world, SamplerMode mode, int64_t batch) {
  LoaderDesc desc = {
      .dataset = world->dataset,
      .samples = world->samples,
      .sample_count = SAMPLES,
      .target = {.height = SIDE, .width = SIDE},
      .limits = sample_limits_default(),
      .end_step = -1,
      .threads = 2,
      .depth = 3,
  };
  assert_int_equal(sampler_init(&desc.sampler, &(SamplerDesc){mode, SAMPLES, batch, 42}),
                   STATUS_OK);
  return desc;
}

static Loader *open_loader(const LoaderDesc *desc) {
  Loader *loader;
  Status status = loader_open(&loader, desc);
  if (status != STATUS_OK) print_error("%s\n", status_message());
  assert_int_equal(status, STATUS_OK);
  return loader;
}

static const Batch *next(Loader *loader) {
  const Batch *batch;
  Status status = loader_next(loader, &batch);
  if (status != STATUS_OK) print_error("%s\n", status_message());
  assert_int_equal(status, STATUS_OK);
  return batch;
}

static void batches_are_the_samplers(void **state) {
  Fixture *fixture = *state;
  fixture_dataset(fixture, CLASSES, EACH);
  World world = open_world(fixture);
  for (int mode = SAMPLER_TRAIN; mode <= SAMPLER_EVALUATE_KERAS; mode++)
    for (int cached = 0; cached < 2; cached++) {
      LoaderDesc desc = describe(&world, (SamplerMode)mode, 4);
      desc.cache_bytes = cached ? 1 << 20 : 0;
      Loader *loader = open_loader(&desc);
      Sampler sampler = desc.sampler;
      for (int64_t step = 0; step < 20; step++) {
        const Batch *batch = next(loader);
        int64_t wanted[4], count = sampler_batch_size(&sampler, step);
        sampler_indices(&sampler, step, 0, count, wanted);
        assert_int_equal(batch->step, step);
        assert_int_equal(batch->pass, sampler_pass(&sampler, step));
        assert_int_equal(batch->count, count);
        assert_int_equal(batch->global_count, count);
        assert_int_equal((uintptr_t)batch->pixels % 64, 0);
        for (int64_t i = 0; i < count; i++) {
          int64_t sample = world.samples[wanted[i]];
          assert_int_equal(batch->samples[i], sample);
          assert_int_equal(batch->labels[i], sample / EACH);
          for (int k = 0; k < IMAGE; k++)
            assert_int_equal(batch->pixels[i * IMAGE + k],
                             fixture_pixel((int)sample, k / 3 / SIDE, k / 3 % SIDE, k % 3));
        }
        loader_release(loader, batch);
      }
      assert_true(loader_wait_seconds(loader) >= 0);
      loader_close(loader);
    }
  dataset_close(world.dataset);
}

// --- shares and threads --------------------------------------------------------------------------

static const AugmentDesc AUGMENT = {
    .seed = 3,
    .rotation = {-0.1, 0.1},
    .zoom_height = {-0.2, 0.2},
    .zoom_keeps_aspect = true,
    .flip = AUGMENT_FLIP_HORIZONTAL,
    .fill = AUGMENT_FILL_REFLECT,
};

typedef struct Ranks {
  int64_t rank, count;
} Ranks;

static void even_share(const void *context, int64_t batch_size, int64_t *first, int64_t *count) {
  const Ranks *ranks = context;
  *first = batch_size * ranks->rank / ranks->count;
  *count = batch_size * (ranks->rank + 1) / ranks->count - *first;
}

typedef struct Run {
  int64_t ranks, threads, first_step, depth;
  size_t cache_bytes;
  bool leaves_resampling; // which the test then does
} Run;

enum { STEPS = 14, BATCH = 5 };

// All pixels, labels and samples of STEPS batches, put together from all ranks.
typedef struct Record {
  uint8_t pixels[STEPS][BATCH][IMAGE];
  int32_t labels[STEPS][BATCH];
  int64_t samples[STEPS][BATCH];
} Record;

static void record_pixels(uint8_t *out, const Batch *batch, bool are_left) {
  assert_int_equal(batch->maps != NULL, are_left);
  for (int64_t i = 0; i < batch->count; i++) {
    const uint8_t *pixels = batch->pixels + i * IMAGE;
    if (are_left)
      augment_resample(out + i * IMAGE, pixels, SIDE, SIDE, &batch->maps[i], &AUGMENT);
    else
      memcpy(out + i * IMAGE, pixels, IMAGE);
  }
}

static Record *record_run(const World *world, const Run *run) {
  Record *record = calloc(1, sizeof *record);
  for (int64_t rank = 0; rank < run->ranks; rank++) {
    Ranks ranks = {rank, run->ranks};
    LoaderDesc desc = describe(world, SAMPLER_TRAIN_KERAS, BATCH);
    desc.augment = &AUGMENT;
    desc.share = even_share;
    desc.share_context = &ranks;
    desc.threads = run->threads;
    desc.depth = run->depth;
    desc.first_step = run->first_step;
    desc.end_step = STEPS;
    desc.cache_bytes = run->cache_bytes;
    desc.max_bad_fraction = 0.2;
    desc.leave_resampling = run->leaves_resampling;
    Loader *loader = open_loader(&desc);
    for (int64_t step = run->first_step; step < STEPS; step++) {
      const Batch *batch = next(loader);
      int64_t first = batch->first_sample;
      record_pixels(record->pixels[step][first], batch, run->leaves_resampling);
      memcpy(&record->labels[step][first], batch->labels, (size_t)batch->count * sizeof(int32_t));
      memcpy(&record->samples[step][first], batch->samples, (size_t)batch->count * sizeof(int64_t));
      loader_release(loader, batch);
    }
    assert_null(next(loader));
    assert_null(next(loader)); // and again
    loader_close(loader);
  }
  return record;
}

static void threads_ranks_cache_and_resume_change_nothing(void **state) {
  Fixture *fixture = *state;
  fixture_dataset(fixture, CLASSES, EACH);
  fixture_file(fixture, "class1/img004.png", "broken", 6);
  fixture_file(fixture, "class1/img005.png", "", 0);
  World world = open_world(fixture);
  Record *wanted = record_run(&world, &(Run){.ranks = 1, .threads = 1, .depth = 2});
  static const Run runs[] = {
      {1, 4, 0, 2, 0, false},       {2, 2, 0, 3, 0, false},       {3, 1, 0, 5, 1 << 20, false},
      {8, 2, 0, 2, 1 << 20, false}, {1, 3, 6, 3, 1 << 20, false}, {2, 2, STEPS - 1, 4, 0, false},
      {1, 1, 0, 2, 0, true},        {3, 4, 5, 3, 1 << 20, true},
  };
  for (size_t r = 0; r < sizeof runs / sizeof *runs; r++) {
    Record *got = record_run(&world, &runs[r]);
    for (int64_t s = runs[r].first_step; s < STEPS; s++) {
      assert_memory_equal(wanted->pixels[s], got->pixels[s], sizeof got->pixels[s]);
      assert_memory_equal(wanted->labels[s], got->labels[s], sizeof got->labels[s]);
      assert_memory_equal(wanted->samples[s], got->samples[s], sizeof got->samples[s]);
    }
    free(got);
  }
  free(wanted);
  dataset_close(world.dataset);
}

// Left to others is only what there is to do: without augmentation pixels are what they are.
static void without_augmentation_nothing_is_left(void **state) {
  Fixture *fixture = *state;
  fixture_dataset(fixture, CLASSES, EACH);
  World world = open_world(fixture);
  LoaderDesc desc = describe(&world, SAMPLER_TRAIN, 4);
  desc.leave_resampling = true;
  Loader *loader = open_loader(&desc);
  const Batch *batch = next(loader);
  assert_null(batch->maps);
  for (int k = 0; k < IMAGE; k++)
    assert_int_equal(batch->pixels[k],
                     fixture_pixel((int)batch->samples[0], k / 3 / SIDE, k / 3 % SIDE, k % 3));
  loader_release(loader, batch);
  loader_close(loader);
  dataset_close(world.dataset);
}

// --- bad files -----------------------------------------------------------------------------------

static void bad_files_are_named_once_and_replaced(void **state) {
  Fixture *fixture = *state;
  fixture_dataset(fixture, CLASSES, EACH);
  fixture_file(fixture, "class1/img004.png", "broken\n", 7); // sample 13, position 13
  fixture_file(fixture, "class1/img003.png", "", 0);         // sample 12, position 14
  World world = open_world(fixture);
  for (int cached = 0; cached < 2; cached++) {
    LoaderDesc desc = describe(&world, SAMPLER_TRAIN, 9);
    desc.max_bad_fraction = 0.05; // 1.35 files: 2
    desc.threads = 4;
    desc.cache_bytes = cached ? 1 << 20 : 0;
    Loader *loader = open_loader(&desc);
    Sampler sampler = desc.sampler;
    for (int64_t step = 0; step < 12; step++) {
      const Batch *batch = next(loader);
      int64_t wanted[9];
      sampler_indices(&sampler, step, 0, 9, wanted);
      for (int64_t i = 0; i < 9; i++) { // the next good one of the list
        int64_t position = wanted[i] == 13 || wanted[i] == 14 ? 15 : wanted[i];
        assert_int_equal(batch->samples[i], world.samples[position]);
        assert_int_equal(batch->labels[i], world.samples[position] / EACH);
      }
      loader_release(loader, batch);
    }
    assert_int_equal(loader_bad_count(loader), 2);
    for (int64_t i = 0; i < 2; i++) {
      int64_t sample;
      const char *reason;
      loader_bad_file(loader, i, &sample, &reason);
      assert_ptr_equal(loader_bad_reason(loader, sample), reason);
      assert_true(sample == 12 || sample == 13);
      assert_non_null(strstr(reason, sample == 12 ? "img003.png" : "img004.png"));
    }
    loader_close(loader);
  }
  dataset_close(world.dataset);
}

static void too_many_bad_files_end_the_run(void **state) {
  Fixture *fixture = *state;
  fixture_dataset(fixture, CLASSES, EACH);
  fixture_file(fixture, "class1/img003.png", "", 0);
  World world = open_world(fixture);
  LoaderDesc desc = describe(&world, SAMPLER_TRAIN, 9);
  desc.max_bad_fraction = 0;
  Loader *loader = open_loader(&desc);
  const Batch *batch;
  Status status = STATUS_OK;
  for (int step = 0; status == STATUS_OK && step < 12; step++) {
    status = loader_next(loader, &batch);
    if (status == STATUS_OK) loader_release(loader, batch);
  }
  for (int again = 0; again < 2; again++) {
    assert_int_equal(status, STATUS_DATA);
    assert_non_null(strstr(status_message(), "max_bad_fraction"));
    assert_non_null(strstr(status_message(), "img003.png"));
    status = loader_next(loader, &batch);
    assert_null(batch);
  }
  loader_close(loader);

  desc.max_bad_fraction = 1;
  for (int c = 0; c < CLASSES; c++)
    for (int i = 0; i < EACH; i++) {
      char name[64];
      FIXTURE_PRINT(name, "class%d/img%03d.png", c, i);
      fixture_file(fixture, name, "x", 1);
    }
  loader = open_loader(&desc);
  assert_int_equal(loader_next(loader, &batch), STATUS_DATA);
  assert_non_null(strstr(status_message(), "every image is bad"));
  loader_close(loader);
  dataset_close(world.dataset);
}

static void evaluation_marks_bad_files(void **state) {
  Fixture *fixture = *state;
  fixture_dataset(fixture, CLASSES, EACH);
  World world = open_world(fixture); // and then a file goes
  assert_int_equal(unlink(fixture_path(fixture, "class1/img003.png")), 0);
  LoaderDesc desc = describe(&world, SAMPLER_EVALUATE, 10);
  desc.bad_files = LOADER_BAD_MARK;
  desc.max_bad_fraction = 0.01;
  desc.end_step = sampler_steps_per_epoch(&desc.sampler);
  Loader *loader = open_loader(&desc);
  int seen[SAMPLES] = {0}, marked = 0;
  const Batch *batch;
  while ((batch = next(loader))) {
    for (int64_t i = 0; i < batch->count; i++) {
      seen[batch->samples[i]]++;
      if (batch->labels[i] >= 0) continue;
      marked++;
      assert_int_equal(batch->samples[i], EACH + 3);
      for (int k = 0; k < IMAGE; k++) assert_int_equal(batch->pixels[i * IMAGE + k], 0);
    }
    loader_release(loader, batch);
  }
  for (int i = 0; i < SAMPLES; i++) assert_int_equal(seen[i], 1);
  assert_int_equal(marked, 1);
  assert_int_equal(loader_bad_count(loader), 1);
  loader_close(loader);
  dataset_close(world.dataset);
}

// --- life ----------------------------------------------------------------------------------------

static void closing_at_any_time_is_clean(void **state) {
  Fixture *fixture = *state;
  fixture_dataset(fixture, CLASSES, EACH);
  World world = open_world(fixture);
  for (int taken = 0; taken < 12; taken++) {
    LoaderDesc desc = describe(&world, SAMPLER_TRAIN, 4);
    desc.threads = 1 + taken % 4;
    desc.augment = &AUGMENT;
    Loader *loader = open_loader(&desc);
    for (int i = 0; i < taken; i++) {
      const Batch *batch = next(loader);
      if (i + 1 < taken) loader_release(loader, batch); // the last stays lent
    }
    loader_close(loader);
  }
  loader_close(NULL);
  dataset_close(world.dataset);
}

static void several_batches_may_be_lent(void **state) {
  Fixture *fixture = *state;
  fixture_dataset(fixture, CLASSES, EACH);
  World world = open_world(fixture);
  LoaderDesc desc = describe(&world, SAMPLER_TRAIN, 4);
  desc.depth = 4;
  Loader *loader = open_loader(&desc);
  for (int round = 0; round < 6; round++) {
    const Batch *a = next(loader), *b = next(loader), *c = next(loader);
    int64_t step = a->step;
    assert_int_equal(step, 3 * round);
    loader_release(loader, c); // in any order
    loader_release(loader, a);
    assert_int_equal(b->step, step + 1);
    loader_release(loader, b);
  }
  loader_close(loader);
  dataset_close(world.dataset);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST(batches_are_the_samplers),
      TEST(threads_ranks_cache_and_resume_change_nothing),
      TEST(without_augmentation_nothing_is_left),
      TEST(bad_files_are_named_once_and_replaced),
      TEST(too_many_bad_files_end_the_run),
      TEST(evaluation_marks_bad_files),
      TEST(closing_at_any_time_is_clean),
      TEST(several_batches_may_be_lent),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
