// Images moved by a backend while they are uploaded, against data/augment.c and a plain upload: the
// same bits, for every fill mode, odd sizes, and maps that leave the frame far behind. Argument: a
// backend that resamples, "cuda".
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "backend/backend.h"
#include "base/rng.h"
#include "data/augment.h"

enum { SAMPLES = 5, CHANNELS = 3 };

static const Backend *backend;
static Device *device;

static void check(Status status) {
  if (status != STATUS_OK) fail_msg("%s", status_message());
}

typedef struct Sizes {
  int64_t height, width;
} Sizes;

// Uploads and takes the value back, as dense fp32.
static float *upload(const UploadArgs *how, size_t *count) {
  UploadArgs args = *how;
  *count = (size_t)(args.batch * shape_count(args.shape));
  float *dense = malloc(*count * sizeof *dense);
  assert_non_null(dense);
  size_t size = backend->value_size(device, args.shape, args.batch, args.dtype);
  check(backend->memory_alloc(device, &args.value, size));
  check(backend->upload(device, &args));
  check(backend->value_export(device, dense, args.value, args.shape, args.batch, args.dtype));
  backend->memory_free(device, args.value);
  return dense;
}

// The same samples, in another order, out of a set that lies on the device.
static void check_resident(const UploadArgs *how, const uint8_t *pixels) {
  int64_t image = shape_count(how->shape);
  size_t count, size = (size_t)(SAMPLES * image);
  int32_t images[SAMPLES];
  double maps[SAMPLES * UPLOAD_MAP_NUMBERS];
  UploadArgs args = *how;
  void *set;
  float *want = upload(&args, &count);
  check(backend->memory_alloc(device, &set, size));
  check(backend->copy_to_device(device, set, pixels, size));
  for (int n = 0; n < SAMPLES; n++) {
    images[n] = (n * 2 + 1) % SAMPLES;
    if (how->maps)
      memcpy(maps + n * UPLOAD_MAP_NUMBERS, how->maps + images[n] * UPLOAD_MAP_NUMBERS,
             UPLOAD_MAP_NUMBERS * sizeof *maps);
  }
  args.pixels = set;
  args.images = images;
  if (how->maps) args.maps = maps;
  float *got = upload(&args, &count);
  for (int n = 0; n < SAMPLES; n++)
    assert_memory_equal(got + n * image, want + images[n] * image, (size_t)image * sizeof *got);
  backend->memory_free(device, set);
  free(got);
  free(want);
}

static void check_moves(Sizes sizes, const AugmentDesc *desc, DType dtype, int64_t pass) {
  int64_t height = sizes.height, width = sizes.width, image = height * width * CHANNELS;
  uint8_t *pixels = malloc((size_t)(SAMPLES * image)), *moved = malloc((size_t)(SAMPLES * image));
  AugmentMap maps[SAMPLES];
  assert_true(pixels && moved);
  for (int64_t i = 0; i < SAMPLES * image; i++)
    pixels[i] = (uint8_t)rng_draw(3, RNG_SYNTHETIC, (uint64_t)i, 0, 0).word[0];
  for (int64_t n = 0; n < SAMPLES; n++) {
    AugmentDraw draw = augment_draw(desc, pass, n);
    maps[n] = augment_map(&draw, height, width);
    augment_image(moved + n * image, pixels + n * image, height, width, desc, pass, n);
  }
  UploadArgs args = {.batch = SAMPLES,
                     .shape = SHAPE(height, width, CHANNELS),
                     .dtype = dtype,
                     .scale = {1.0f / 127.5f, 1.0f / 255.0f, 0.017f},
                     .offset = {-1.0f, 0.0f, -2.1f},
                     .fill = (UploadFill)desc->fill,
                     .fill_value = (float)desc->fill_value};
  size_t count;
  args.pixels = moved;
  float *want = upload(&args, &count);
  args.pixels = pixels;
  args.maps = maps[0].m;
  float *got = upload(&args, &count);
  for (size_t i = 0; i < count; i++)
    if (got[i] != want[i])
      fail_msg(
          "%d x %d, fill %d, pass %d, %s: sample %zu, pixel (%d, %d), channel %d is %.9g, not %.9g",
          (int)height, (int)width, (int)desc->fill, (int)pass, dtype_name(dtype), i / (size_t)image,
          (int)((int64_t)i % image / CHANNELS / width), (int)((int64_t)i / CHANNELS % width),
          (int)(i % CHANNELS), (double)got[i], (double)want[i]);
  check_resident(&args, pixels);
  args.maps = NULL;
  check_resident(&args, pixels);
  free(got);
  free(want);
  free(moved);
  free(pixels);
}

// A gentle change as in the tutorial; each kind of change alone; one that shows little of the
// image.
static const AugmentDesc changes[] = {
    {.rotation = {-0.11, 0.11},
     .translation_height = {-0.2, 0.2},
     .translation_width = {-0.2, 0.2},
     .zoom_height = {-0.2, 0.2},
     .zoom_keeps_aspect = true,
     .flip = AUGMENT_FLIP_HORIZONTAL},
    {.flip = AUGMENT_FLIP_BOTH},
    {.flip = AUGMENT_FLIP_VERTICAL, .rotation = {0.25, 0.25}},
    {.translation_height = {0.5, 0.5}, .translation_width = {-0.25, -0.25}},
    {.zoom_height = {-0.9, 3.0}, .zoom_width = {-0.9, 3.0}},
    {.rotation = {-1.0, 1.0},
     .translation_height = {-9.0, 9.0},
     .translation_width = {-9.0, 9.0},
     .zoom_height = {5.0, 90.0},
     .zoom_width = {-0.5, 40.0},
     .flip = AUGMENT_FLIP_HORIZONTAL},
};

static void moves_as_the_loader(void **unused) {
  (void)unused;
  static const Sizes sizes[] = {{1, 1}, {1, 7}, {5, 1}, {2, 3}, {17, 31}, {48, 40}};
  static const DType dtypes[] = {DTYPE_F32, DTYPE_BF16, DTYPE_F16};
  for (int i = 0; i < 6 * 6 * 4 * 3; i++) {
    AugmentDesc desc = changes[i % 6];
    desc.seed = 11;
    desc.fill = (AugmentFill)(i / 36 % 4);
    desc.fill_value = i % 2 ? 0.0 : 117.6;
    check_moves(sizes[i / 6 % 6], &desc, dtypes[i / 144], i);
  }
}

int main(int argc, char **argv) {
  backend = argc > 1 ? backend_find(argv[1]) : NULL;
  if (!backend || !backend->resamples) {
    printf("this program was built without a backend %s that resamples\n", argc > 1 ? argv[1] : "");
    return 77;
  }
  if (backend->device_open(&device, &(DeviceDesc){.threads = 1}) != STATUS_OK) {
    printf("%s\n", status_message());
    return 77;
  }
  const struct CMUnitTest tests[] = {cmocka_unit_test(moves_as_the_loader)};
  int failures = cmocka_run_group_tests(tests, NULL, NULL);
  backend->device_close(device);
  return failures;
}
