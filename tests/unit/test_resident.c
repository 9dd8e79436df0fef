// Resident images, in memory of the CPU's device: a batch is that of a loader, image by image, map
// by map, on any number of ranks, also with broken files, of lists that the ranks do not divide.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "data_fixture.h"
#include "train/resident.h"

enum { CLASSES = 3, EACH = 9, SAMPLES = CLASSES * EACH, HEIGHT = 12, WIDTH = 10, BATCH = 7 };
enum { IMAGE = HEIGHT * WIDTH * 3, STEPS = 12 };

static World *world;
static BadFiles *bad_files;
static char folder[FIXTURE_PATH];

static const AugmentDesc augment = {.seed = 3,
                                    .rotation = {-0.1, 0.1},
                                    .zoom_height = {-0.2, 0.2},
                                    .zoom_keeps_aspect = true,
                                    .flip = AUGMENT_FLIP_HORIZONTAL,
                                    .fill = AUGMENT_FILL_WRAP};

static void share(const void *context, int64_t batch_size, int64_t *first, int64_t *count) {
  (void)context;
  *first = batch_size * world->rank / world->size;
  *count = batch_size * (world->rank + 1) / world->size - *first;
}

#define assert_ok(call)                                                                            \
  do {                                                                                             \
    if ((call) != STATUS_OK) fail_msg("%s: %s", #call, status_message());                          \
  } while (0)

// Some of the dataset's samples, in an order of their own.
static int64_t samples[SAMPLES];
static LoaderDesc describe(const Dataset *dataset, Device *device, int64_t count,
                           SamplerMode mode) {
  LoaderDesc desc = {.dataset = dataset,
                     .samples = samples,
                     .sample_count = count,
                     .target = {.height = HEIGHT, .width = WIDTH},
                     .limits = sample_limits_default(),
                     .augment = &augment,
                     .leave_resampling = true,
                     .share = share,
                     .end_step = STEPS,
                     .threads = 2,
                     .depth = 2,
                     .max_bad_fraction = 0.5,
                     .backend = backend_find("cpu"),
                     .device = device};
  for (int64_t i = 0; i < SAMPLES; i++) samples[i] = (11 + i) % SAMPLES;
  assert_ok(sampler_init(&desc.sampler, &(SamplerDesc){mode, count, BATCH, 42}));
  return desc;
}

static void compare(const Batch *got, const Batch *want) {
  assert_int_equal(got->step, want->step);
  assert_int_equal(got->pass, want->pass);
  assert_int_equal(got->global_count, want->global_count);
  assert_int_equal(got->first_sample, want->first_sample);
  assert_int_equal(got->count, want->count);
  for (int64_t i = 0; i < want->count; i++) {
    assert_memory_equal(got->pixels + got->images[i] * IMAGE, want->pixels + i * IMAGE, IMAGE);
    assert_int_equal(got->samples[i], want->samples[i]);
    assert_int_equal(got->labels[i], want->labels[i]);
    if (want->maps) assert_memory_equal(&got->maps[i], &want->maps[i], sizeof *want->maps);
  }
}

static void check_list(const Dataset *dataset, Device *device, int64_t count, SamplerMode mode) {
  LoaderDesc desc = describe(dataset, device, count, mode);
  if (mode == SAMPLER_TRAIN_KERAS) desc.augment = NULL;
  Resident *resident;
  Loader *loader;
  assert_ok(resident_load(
      &resident, &(ResidentDesc){.world = world, .loader = &desc, .bad_files = bad_files}));
  assert_ok(loader_open(&loader, &desc));
  for (int64_t step = 0; step < STEPS; step++) {
    const Batch *want, *got;
    assert_ok(loader_next(loader, &want));
    assert_ok(resident_read(resident, &got, step));
    compare(got, want);
    loader_release(loader, want);
  }
  loader_close(loader);
  resident_free(resident);
}

static void batches_are_the_loaders(void **state) {
  Dataset *dataset;
  Device *device;
  assert_ok(dataset_open(&dataset, &(DatasetDesc){.path = *state}, NULL));
  assert_ok(backend_find("cpu")->device_open(&device, &(DeviceDesc){.threads = 1}));
  static const int64_t counts[] = {SAMPLES, 13, 5, 1};
  for (int i = 0; i < 4; i++)
    for (int mode = 0; mode < 2; mode++)
      check_list(dataset, device, counts[i], mode ? SAMPLER_TRAIN_KERAS : SAMPLER_TRAIN);
  backend_find("cpu")->device_close(device);
  dataset_close(dataset);
}

static void too_many_broken_images_end_it(void **state) {
  Dataset *dataset;
  Device *device;
  Resident *resident;
  assert_ok(dataset_open(&dataset, &(DatasetDesc){.path = *state}, NULL));
  assert_ok(backend_find("cpu")->device_open(&device, &(DeviceDesc){.threads = 1}));
  LoaderDesc desc = describe(dataset, device, SAMPLES, SAMPLER_TRAIN);
  desc.max_bad_fraction = 0.9 / SAMPLES; // and there are two, of which no rank need see both
  assert_int_equal(
      resident_load(&resident,
                    &(ResidentDesc){.world = world, .loader = &desc, .bad_files = bad_files}),
      STATUS_DATA);
  assert_null(resident);
  assert_non_null(strstr(status_message(), "bad images among 27"));
  backend_find("cpu")->device_close(device);
  dataset_close(dataset);
}

int main(void) {
  void *state = NULL;
  if (world_open(&world, NULL, NULL) != STATUS_OK) return 1;
  if (world->rank == 0) { // its folder is everybody's
    fixture_setup(&state);
    fixture_dataset(state, CLASSES, EACH);
    fixture_file(state, "class1/img004.png", "broken", 6); // samples 13 and 12, next to each other
    fixture_file(state, "class1/img003.png", "", 0);
    strcpy(folder, ((Fixture *)state)->dir);
  }
  if (world_broadcast(world, folder, sizeof folder, 0) != STATUS_OK ||
      bad_files_open(&bad_files, world, world->rank == 0 ? folder : "", false, NULL) != STATUS_OK)
    return 1;
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_prestate(batches_are_the_loaders, folder),
      cmocka_unit_test_prestate(too_many_broken_images_end_it, folder),
  };
  int failures = cmocka_run_group_tests(tests, NULL, NULL);
  bad_files_close(bad_files);
  if (world_barrier(world) == STATUS_OK && world->rank == 0) fixture_teardown(&state);
  world_close(world);
  return failures;
}
