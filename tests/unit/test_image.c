// Decoding of damaged and hostile images, resizing against a double reference, PNG writing.
// Agreement with TensorFlow is tests/keras/decode.py's.
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/memory.h"
#include "base/rng.h"
#include "io/image.h"
#include "io/png_write.h"
#include "io/resize.h"
#include "unit/image_samples.h"

static uint32_t draw(uint64_t a, uint64_t b) {
  return rng_draw(7, RNG_SYNTHETIC, a, b, 0).word[0];
}

static long peak_memory_kib(void) {
  struct rusage usage;
  assert_int_equal(getrusage(RUSAGE_SELF, &usage), 0);
  return usage.ru_maxrss;
}

static void make_sample(Bytes *out, size_t index) {
  out->size = 0;
  samples[index].make(out, samples[index].option);
}

static Image decode_good(const Bytes *file, const char *name) {
  ImageLimits limits = image_limits_default();
  Image image;
  if (image_decode(&image, file->data, file->size, &limits, name) != STATUS_OK)
    fail_msg("%s", status_message());
  return image;
}

static void check_refused(const Bytes *file, const ImageLimits *limits, const char *expected) {
  Image image;
  Status status = image_decode(&image, file->data, file->size, limits, "bad.file");
  assert_int_equal(status, STATUS_DATA);
  assert_null(image.pixels);
  assert_non_null(strstr(status_message(), "bad.file"));
  if (!strstr(status_message(), expected)) fail_msg("%s: no '%s'", status_message(), expected);
}

static void test_samples_decode(void **state) {
  (void)state;
  ImageLimits limits = image_limits_default();
  Bytes file = {0};
  for (size_t i = 0; i < SAMPLE_COUNT; i++) {
    make_sample(&file, i);
    Image image = decode_good(&file, samples[i].name);
    assert_int_equal(image.height, SAMPLE_HEIGHT);
    assert_int_equal(image.width, SAMPLE_WIDTH);
    image_deinit(&image);
    assert_null(image.pixels);
    ImageSize size;
    assert_int_equal(image_read_size(&size, file.data, file.size, &limits, "x"), STATUS_OK);
    assert_int_equal(size.height, SAMPLE_HEIGHT);
    assert_int_equal(size.width, SAMPLE_WIDTH);
    const char *suffix = strrchr(samples[i].name, '.') + 1;
    assert_int_equal(size.format, strcmp(suffix, "jpg") == 0   ? IMAGE_JPEG
                                  : strcmp(suffix, "png") == 0 ? IMAGE_PNG
                                  : strcmp(suffix, "gif") == 0 ? IMAGE_GIF
                                                               : IMAGE_BMP);
  }
  bytes_deinit(&file);
}

// A cut file is refused, or nothing that shows was cut (an end marker).
static void test_truncated(void **state) {
  (void)state;
  ImageLimits limits = image_limits_default();
  Bytes file = {0};
  for (size_t i = 0; i < SAMPLE_COUNT; i++) {
    make_sample(&file, i);
    Image whole = decode_good(&file, samples[i].name);
    for (size_t size = 0; size < file.size; size++) {
      Image image;
      Status status = image_decode(&image, file.data, size, &limits, samples[i].name);
      if (status == STATUS_OK) {
        if (size + 4 < file.size)
          fail_msg("%s cut to %zu of %zu bytes", samples[i].name, size, file.size);
        assert_memory_equal(image.pixels, whole.pixels, SAMPLE_HEIGHT * SAMPLE_WIDTH * 3);
      } else {
        assert_int_equal(status, STATUS_DATA);
        assert_null(image.pixels);
      }
      image_deinit(&image);
    }
    image_deinit(&whole);
  }
  bytes_deinit(&file);
}

static void mutate(Bytes *file, uint64_t trial) {
  uint32_t count = 1 + draw(trial, 0) % 4;
  for (uint32_t i = 0; i < count && file->size > 8; i++) {
    size_t at = draw(trial, 4 * i + 1) % file->size;
    uint32_t value = draw(trial, 4 * i + 2);
    size_t run = 1 + value % 16;
    if (run > file->size - at) run = file->size - at;
    switch (draw(trial, 4 * i + 3) % 6) {
    case 0:
      file->data[at] = (uint8_t)value;
      break;
    case 1:
      file->data[at] ^= (uint8_t)(1u << value % 8);
      break;
    case 2:
      memset(file->data + at, 0xff, run);
      break;
    case 3:
      memset(file->data + at, 0, run);
      break;
    case 4: // remove a run
      memmove(file->data + at, file->data + at + run, file->size - at - run);
      file->size -= run;
      break;
    case 5:
      memmove(file->data + at, file->data + value % (at + 1), run);
      break;
    }
  }
}

// Makes the checksums of a PNG's chunks right again, so that damage reaches the decoder.
static void repair_png(Bytes *file) {
  size_t at = 8;
  while (at + 12 <= file->size) {
    uint8_t *chunk = file->data + at;
    size_t size =
        (size_t)chunk[0] << 24 | (size_t)chunk[1] << 16 | (size_t)chunk[2] << 8 | chunk[3];
    if (size > file->size - at - 12) return;
    uint32_t crc = png_crc(chunk + 4, size + 4);
    for (int i = 0; i < 4; i++) chunk[8 + size + (size_t)i] = (uint8_t)(crc >> (24 - 8 * i));
    at += size + 12;
  }
}

static void test_mutated(void **state) {
  (void)state;
  enum { TRIALS = 400 }; // for each sample
  ImageLimits limits = image_limits_default();
  limits.max_pixels = 1 << 20;
  Bytes original = {0}, file = {0};
  int64_t refused = 0, slowest_ns = 0;
  for (size_t i = 0; i < SAMPLE_COUNT; i++) {
    make_sample(&original, i);
    for (uint64_t trial = 0; trial < TRIALS; trial++) {
      file.size = 0;
      bytes_append(&file, original.data, original.size);
      mutate(&file, i * TRIALS + trial);
      if (trial % 4 && strstr(samples[i].name, ".png")) repair_png(&file);
      // A copy of exactly this size, so that AddressSanitizer sees a read past the end.
      uint8_t *copy;
      assert_int_equal(memory_alloc(&copy, file.size, 1), STATUS_OK);
      memcpy(copy, file.data, file.size);
      Image image;
      ImageSize size;
      int64_t start_ns = clock_now_ns();
      Status status = image_read_size(&size, copy, file.size, &limits, "mutated");
      assert_true(status == STATUS_OK || status == STATUS_DATA);
      status = image_decode(&image, copy, file.size, &limits, "mutated");
      int64_t took_ns = clock_now_ns() - start_ns;
      if (took_ns > slowest_ns) slowest_ns = took_ns;
      memory_free(copy);
      assert_true(status == STATUS_OK || status == STATUS_DATA);
      if (status == STATUS_OK) {
        assert_true(image.height * image.width <= limits.max_pixels);
        assert_non_null(image.pixels);
      } else {
        assert_int_equal(strncmp(status_message(), "mutated: ", 9), 0);
        refused++;
      }
      image_deinit(&image);
    }
  }
  print_message("%d mutations, %lld refused, slowest %.1f ms\n", TRIALS * SAMPLE_COUNT,
                (long long)refused, 1e-6 * (double)slowest_ns);
  assert_true(refused > TRIALS * SAMPLE_COUNT / 4);
  assert_true(slowest_ns < 5 * INT64_C(1000000000));
  bytes_deinit(&file);
  bytes_deinit(&original);
}

// --- files that ask for too much -----------------------------------------------------------------

// Writes a huge size over that of a JPEG's frame header.
static void enlarge_jpeg(Bytes *file) {
  for (size_t at = 2; at + 9 < file->size;
       at += 2 + (size_t)(file->data[at + 2] << 8) + file->data[at + 3])
    if (file->data[at + 1] == 0xc0 || file->data[at + 1] == 0xc2) {
      memcpy(file->data + at + 5, "\xff\xdc\xff\xdc", 4); // 65500 x 65500
      return;
    }
  fail_msg("no frame header");
}

static void make_png_bomb(Bytes *file, uint32_t side) {
  uint8_t header[17] = "IHDR";
  file->size = 0;
  bytes_append(file, "\x89PNG\r\n\x1a\n", 8);
  bytes_append_u32be(file, 13);
  for (int i = 0; i < 8; i++) header[4 + i] = (uint8_t)(side >> (24 - 8 * (i % 4)));
  memcpy(header + 12, "\x08\x02\0\0\0", 5);
  bytes_append(file, header, sizeof header);
  bytes_append_u32be(file, png_crc(header, sizeof header));
  bytes_append_u32be(file, 4);
  bytes_append(file, "IDAT\x78\x01\x63\x60", 8);
}

static void test_bombs(void **state) {
  (void)state;
  ImageLimits limits = image_limits_default();
  Bytes file = {0};
  long before_kib = peak_memory_kib();
  for (size_t i = 0; i < 2; i++) { // baseline and progressive JPEG
    make_sample(&file, i);
    enlarge_jpeg(&file);
    check_refused(&file, &limits, "max_pixels");
  }
  make_png_bomb(&file, 65500);
  check_refused(&file, &limits, "max_pixels");
  make_png_bomb(&file, 65536);
  check_refused(&file, &limits, "max_side");
  make_png_bomb(&file, 0x7fffffff);
  check_refused(&file, &limits, "max_side");
  // A GIF's screen counts for nothing in decoding, as in TensorFlow; its frame does.
  file.size = 0;
  gif_make(&file, SAMPLE_WIDTH, SAMPLE_HEIGHT, false);
  memcpy(file.data + 6 + 7 + 768 + 8 + 5, "\xdc\xff\xdc\xff", 4);
  check_refused(&file, &limits, "max_pixels");
  memcpy(file.data + 6 + 7 + 768 + 8 + 5, "\xff\xff\xff\xff", 4);
  check_refused(&file, &limits, "max_side");
  make_sample(&file, SAMPLE_COUNT - 2); // BMP
  memcpy(file.data + 18, "\xdc\xff\0\0\xdc\xff\0\0", 8);
  check_refused(&file, &limits, "max_pixels");
  memcpy(file.data + 18, "\x01\0\0\0\0\0\0\x80", 8); // the height that has no absolute value
  check_refused(&file, &limits, "max_side");
  assert_true(peak_memory_kib() - before_kib < 32 << 10);
  bytes_deinit(&file);
}

// Every format: the file is not called damaged, and the key is named.
static void test_deadline(void **state) {
  (void)state;
  Bytes file = {0};
  ImageLimits limits = image_limits_default();
  limits.decode_seconds = 1e-9;
  for (size_t i = 0; i < SAMPLE_COUNT; i++) {
    make_sample(&file, i);
    check_refused(&file, &limits, "raise [data] decode_deadline_s or remove the file");
    assert_null(strstr(status_message(), "damaged"));
  }
  bytes_deinit(&file);
}

// With the size allowed, the decoder's memory and scans are still bounded.
static void test_jpeg_limits(void **state) {
  (void)state;
  Bytes file = {0};
  make_sample(&file, 1); // progressive
  ImageLimits limits = image_limits_default();
  limits.jpeg_scans = 2;
  check_refused(&file, &limits, "more than 2 scans; raise [data] jpeg_scans or remove the file");
  limits = image_limits_default();
  limits.max_pixels = INT64_MAX;
  enlarge_jpeg(&file);
  int64_t start_ns = clock_now_ns();
  check_refused(&file, &limits, "damaged JPEG");
  assert_true(clock_now_ns() - start_ns < 2 * INT64_C(1000000000));
  bytes_deinit(&file);
}

static void test_foreign(void **state) {
  (void)state;
  static const struct {
    const char *bytes;
    size_t size;
    const char *expected;
  } cases[] = {
      {"", 0, "empty file"},
      {"\xff", 1, "not JPEG"},
      {"RIFF\0\0\0\0WEBPVP8 ", 16, "WebP"},
      {"<html><body>404</body>", 22, "HTML"},
      {"%PDF-1.4", 8, "PDF"},
      {"just some text", 14, "not JPEG"},
  };
  ImageLimits limits = image_limits_default();
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    Bytes file = {0};
    bytes_append(&file, cases[i].bytes, cases[i].size);
    check_refused(&file, &limits, cases[i].expected);
    bytes_deinit(&file);
  }
}

// --- many threads at once ------------------------------------------------------------------------

typedef struct Worker {
  pthread_t thread;
  const Bytes *files;
  const Image *expected;
  int failures;
} Worker;

static void *decode_all(void *argument) {
  Worker *worker = argument;
  ImageLimits limits = image_limits_default();
  for (int round = 0; round < 30; round++)
    for (size_t i = 0; i < SAMPLE_COUNT; i++) {
      const Bytes *file = &worker->files[i];
      Image image;
      if (image_decode(&image, file->data, file->size, &limits, "x") != STATUS_OK ||
          memcmp(image.pixels, worker->expected[i].pixels, SAMPLE_HEIGHT * SAMPLE_WIDTH * 3) != 0)
        worker->failures++;
      image_deinit(&image);
      if (image_decode(&image, file->data, file->size / 2, &limits, "x") != STATUS_DATA)
        worker->failures++;
      image_deinit(&image);
    }
  return NULL;
}

static void test_threads(void **state) {
  (void)state;
  enum { THREADS = 4 };
  Bytes files[SAMPLE_COUNT] = {0};
  Image expected[SAMPLE_COUNT];
  for (size_t i = 0; i < SAMPLE_COUNT; i++) {
    make_sample(&files[i], i);
    expected[i] = decode_good(&files[i], samples[i].name);
  }
  Worker workers[THREADS];
  for (int i = 0; i < THREADS; i++) {
    workers[i] = (Worker){.files = files, .expected = expected};
    assert_int_equal(pthread_create(&workers[i].thread, NULL, decode_all, &workers[i]), 0);
  }
  for (int i = 0; i < THREADS; i++) {
    assert_int_equal(pthread_join(workers[i].thread, NULL), 0);
    assert_int_equal(workers[i].failures, 0);
  }
  for (size_t i = 0; i < SAMPLE_COUNT; i++) {
    image_deinit(&expected[i]);
    bytes_deinit(&files[i]);
  }
}

// --- resizing ------------------------------------------------------------------------------------

static Image random_image(int64_t height, int64_t width) {
  Image image = {.height = height, .width = width};
  assert_int_equal(memory_alloc(&image.pixels, (size_t)(height * width), 3), STATUS_OK);
  for (int64_t i = 0; i < height * width * 3; i++)
    image.pixels[i] = (uint8_t)draw((uint64_t)(height * 1000 + width), (uint64_t)i);
  return image;
}

// The weight of input position `j` for output position `i`, before normalising: a triangle around
// the half-pixel centre.
static double triangle(int64_t i, int64_t j, int64_t in_size, int64_t out_size, bool antialias) {
  double scale = (double)in_size / (double)out_size;
  double radius = antialias && scale > 1 ? scale : 1;
  double distance = fabs(((double)i + 0.5) * scale - ((double)j + 0.5)) / radius;
  return distance < 1 ? 1 - distance : 0;
}

// Positions outside repeat the edge without antialiasing, and count for nothing with it.
static double reference(const Image *in, int64_t y, int64_t x, int64_t c, int64_t out_height,
                        int64_t out_width, bool antialias) {
  double sum = 0, total = 0;
  int64_t edge = antialias ? 0 : 1;
  for (int64_t v = -edge; v < in->height + edge; v++) {
    double row = triangle(y, v, in->height, out_height, antialias);
    for (int64_t u = -edge; row > 0 && u < in->width + edge; u++) {
      double weight = row * triangle(x, u, in->width, out_width, antialias);
      int64_t inside_v = v < 0 ? 0 : v >= in->height ? in->height - 1 : v;
      int64_t inside_u = u < 0 ? 0 : u >= in->width ? in->width - 1 : u;
      sum += weight * in->pixels[(inside_v * in->width + inside_u) * 3 + c];
      total += weight;
    }
  }
  return sum / total;
}

static void test_resize(void **state) {
  (void)state;
  static const int64_t sizes[][4] = {{1, 1, 5, 7},   {28, 28, 96, 96}, {50, 37, 22, 22},
                                     {9, 64, 64, 9}, {40, 3, 7, 3},    {2, 2, 1, 1},
                                     {33, 31, 1, 40}};
  for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
    int64_t height = sizes[i][2], width = sizes[i][3];
    Image in = random_image(sizes[i][0], sizes[i][1]);
    Image out = random_image(height, width);
    for (int antialias = 0; antialias < 2; antialias++) {
      ResizeOptions options = {.antialias = antialias};
      assert_int_equal(image_resize(out.pixels, height, width, &in, options), STATUS_OK);
      for (int64_t k = 0; k < height * width * 3; k++) {
        double expected =
            reference(&in, k / 3 / width, k / 3 % width, k % 3, height, width, antialias);
        // Rounding takes half a level; fp32 sums of up to 100 terms lose far less than 0.01.
        assert_true(fabs(out.pixels[k] - expected) <= 0.51);
      }
    }
    image_deinit(&out);
    image_deinit(&in);
  }
}

static void test_resize_same_size(void **state) {
  (void)state;
  Image in = random_image(11, 17), out = random_image(11, 9);
  uint8_t copy[11 * 17 * 3];
  assert_int_equal(image_resize(copy, 11, 17, &in, (ResizeOptions){0}), STATUS_OK);
  assert_memory_equal(copy, in.pixels, sizeof copy);
  // Keeping the aspect of 11 x 9 keeps the 9 columns from 4 on, as they are.
  ResizeOptions keep = {.keep_aspect = true};
  assert_int_equal(image_resize(out.pixels, 11, 9, &in, keep), STATUS_OK);
  for (int y = 0; y < 11; y++)
    assert_memory_equal(out.pixels + y * 27, in.pixels + (y * 17 + 4) * 3, 27);
  image_deinit(&out);
  image_deinit(&in);
}

static void test_png_write(void **state) {
  (void)state;
  static const int64_t sizes[][2] = {{1, 1}, {28, 28}, {300, 7}, {5, 1000}};
  Bytes file = {0};
  for (size_t i = 0; i < 4; i++)
    for (int channels = 1; channels <= 3; channels += 2) {
      int64_t height = sizes[i][0], width = sizes[i][1];
      Image in = random_image(height, width);
      assert_int_equal(png_write(&file, in.pixels, height, width, channels), STATUS_OK);
      Image out = decode_good(&file, "written.png");
      assert_int_equal(out.height, height);
      assert_int_equal(out.width, width);
      for (int64_t k = 0; k < height * width * 3; k++)
        assert_int_equal(out.pixels[k], in.pixels[channels == 3 ? k : k / 3]);
      image_deinit(&out);
      image_deinit(&in);
    }
  bytes_deinit(&file);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_bombs), // first, as it looks at the peak of memory
      cmocka_unit_test(test_samples_decode), cmocka_unit_test(test_truncated),
      cmocka_unit_test(test_mutated),        cmocka_unit_test(test_jpeg_limits),
      cmocka_unit_test(test_deadline),
      cmocka_unit_test(test_foreign),        cmocka_unit_test(test_threads),
      cmocka_unit_test(test_resize),         cmocka_unit_test(test_resize_same_size),
      cmocka_unit_test(test_png_write),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
