// Augmentation: draws, maps and resampling against plain double arithmetic. tests/keras compares
// the same with Keras' own layers.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "data/augment.h"

static const AugmentDesc TUTORIAL = {
    .seed = 5,
    .rotation = {-0.11, 0.11},
    .translation_height = {-0.2, 0.2},
    .translation_width = {-0.1, 0.3},
    .zoom_height = {-0.2, 0.2},
    .zoom_width = {-0.4, 0.0},
    .flip = AUGMENT_FLIP_HORIZONTAL,
    .fill = AUGMENT_FILL_REFLECT,
};

static void fill_with_noise(uint8_t *pixels, size_t size, uint32_t seed) {
  for (size_t i = 0; i < size; i++) {
    seed = seed * 1664525u + 1013904223u;
    pixels[i] = (uint8_t)(seed >> 24);
  }
}

// --- draws ---------------------------------------------------------------------------------------

static void draws_are_uniform_in_their_ranges(void **state) {
  (void)state;
  enum { COUNT = 20000, BINS = 20 };
  static int bins[5][BINS];
  memset(bins, 0, sizeof bins);
  int flips = 0;
  for (int64_t i = 0; i < COUNT; i++) {
    AugmentDraw d = augment_draw(&TUTORIAL, i / 1000, i % 1000);
    const double values[] = {d.rotation, d.translation_height, d.translation_width, d.zoom_height,
                             d.zoom_width};
    const AugmentRange ranges[] = {TUTORIAL.rotation, TUTORIAL.translation_height,
                                   TUTORIAL.translation_width, TUTORIAL.zoom_height,
                                   TUTORIAL.zoom_width};
    for (int k = 0; k < 5; k++) {
      double unit = (values[k] - ranges[k].low) / (ranges[k].high - ranges[k].low);
      assert_true(unit >= 0 && unit < 1);
      bins[k][(int)(unit * BINS)]++;
    }
    flips += d.flip_horizontal;
    assert_false(d.flip_vertical);
  }
  for (int k = 0; k < 5; k++) {
    double square = 0, wanted = (double)COUNT / BINS;
    for (int b = 0; b < BINS; b++) square += (bins[k][b] - wanted) * (bins[k][b] - wanted) / wanted;
    assert_true(square < 19 + 5 * sqrt(2 * 19.0)); // chi-square of 19 degrees of freedom
  }
  assert_true(fabs(flips - COUNT / 2.0) < 5 * sqrt(COUNT / 4.0));
}

static void draws_follow_pass_sample_and_seed(void **state) {
  (void)state;
  AugmentDesc other = TUTORIAL;
  other.seed++;
  double here = augment_draw(&TUTORIAL, 3, 4).rotation;
  assert_true(here == augment_draw(&TUTORIAL, 3, 4).rotation);
  assert_true(here != augment_draw(&TUTORIAL, 4, 3).rotation);
  assert_true(here != augment_draw(&TUTORIAL, 3, 5).rotation);
  assert_true(here != augment_draw(&other, 3, 4).rotation);
  other = TUTORIAL;
  other.zoom_keeps_aspect = true;
  AugmentDraw draw = augment_draw(&other, 3, 4);
  assert_true(draw.zoom_width == draw.zoom_height);
  other.flip = AUGMENT_FLIP_BOTH; // one coin
  for (int64_t i = 0; i < 20; i++) {
    draw = augment_draw(&other, 0, i);
    assert_int_equal(draw.flip_horizontal, draw.flip_vertical);
  }
}

// --- resampling ----------------------------------------------------------------------------------

static double fold(double at, int64_t length, AugmentFill fill) {
  double last = (double)(length - 1), size = (double)length;
  if (fill == AUGMENT_FILL_NEAREST) return fmin(fmax(at, 0), last);
  if (fill == AUGMENT_FILL_REFLECT) {
    at = fmod(fmod(at, 2 * size) + 2 * size, 2 * size); // one period: a b c d d c b a
    if (at > size - 0.5) at = 2 * size - 1 - at;
    return fmin(fmax(at, 0), last);
  }
  return at;
}

static double level(const uint8_t *in, int64_t h, int64_t w, double y, double x, int c,
                    const AugmentDesc *desc) {
  if (y < 0 || y >= (double)h || x < 0 || x >= (double)w) return desc->fill_value;
  return in[((int64_t)y * w + (int64_t)x) * 3 + c];
}

static double reference(const uint8_t *in, int64_t h, int64_t w, double y, double x, int c,
                        const AugmentDesc *desc) {
  y = fold(y, h, desc->fill);
  x = fold(x, w, desc->fill);
  double top = floor(y), left = floor(x), down = y - top, right = x - left;
  return (1 - down) * ((1 - right) * level(in, h, w, top, left, c, desc) +
                       right * level(in, h, w, top, left + 1, c, desc)) +
         down * ((1 - right) * level(in, h, w, top + 1, left, c, desc) +
                 right * level(in, h, w, top + 1, left + 1, c, desc));
}

// A coordinate in floats is off by up to 2^-23 of its size: below 1e-4 here, times 255 levels and
// two directions, beside the rounding to a level.
static void resampling_is_bilinear(void **state) {
  (void)state;
  static const int64_t sizes[][2] = {{32, 32}, {17, 40}, {1, 9}, {9, 1}, {2, 2}, {1, 1}};
  static const AugmentFill fills[] = {AUGMENT_FILL_CONSTANT, AUGMENT_FILL_REFLECT,
                                      AUGMENT_FILL_NEAREST};
  for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
    for (size_t f = 0; f < sizeof fills / sizeof *fills; f++)
      for (int64_t sample = 0; sample < 40; sample++) {
        int64_t h = sizes[s][0], w = sizes[s][1];
        size_t size = (size_t)(h * w * 3);
        uint8_t *in = malloc(size), *out = malloc(size); // ASan sees a byte too far
        fill_with_noise(in, size, (uint32_t)sample);
        AugmentDesc desc = TUTORIAL;
        desc.fill = fills[f];
        desc.fill_value = 77;
        if (sample % 4 == 0) desc.rotation = (AugmentRange){-1, 1};
        if (sample % 4 == 1) desc.zoom_height = (AugmentRange){2, 10};
        AugmentDraw draw = augment_draw(&desc, 0, sample);
        AugmentMap map = augment_map(&draw, h, w);
        const double *m = map.m;
        augment_resample(out, in, h, w, &map, &desc);
        for (int64_t y = 0; y < h; y++)
          for (int64_t x = 0; x < w; x++)
            for (int c = 0; c < 3; c++) {
              double at_x = m[0] * (double)x + m[1] * (double)y + m[2];
              double at_y = m[3] * (double)x + m[4] * (double)y + m[5];
              double wanted = reference(in, h, w, at_y, at_x, c, &desc);
              double got = out[(y * w + x) * 3 + c];
              // On an edge of the frame a constant fill jumps: either side is right there.
              bool edge = desc.fill == AUGMENT_FILL_CONSTANT &&
                          (fabs(at_x - round(at_x)) < 1e-4 || fabs(at_y - round(at_y)) < 1e-4);
              if (!edge) assert_true(fabs(got - wanted) <= 0.5 + 0.06);
            }
        free(in);
        free(out);
      }
}

static void nothing_drawn_changes_nothing(void **state) {
  (void)state;
  uint8_t in[20 * 30 * 3], out[20 * 30 * 3];
  fill_with_noise(in, sizeof in, 1);
  AugmentDesc desc = {.seed = 1, .fill = AUGMENT_FILL_CONSTANT};
  augment_image(out, in, 20, 30, &desc, 0, 0);
  assert_memory_equal(in, out, sizeof in);
}

static void mirrors_are_exact(void **state) {
  (void)state;
  enum { H = 5, W = 7 };
  uint8_t in[H * W * 3], out[H * W * 3];
  fill_with_noise(in, sizeof in, 2);
  AugmentDesc desc = {.fill = AUGMENT_FILL_CONSTANT};
  for (int kind = 0; kind < 4; kind++) {
    AugmentDraw draw = {.flip_horizontal = kind & 1, .flip_vertical = kind & 2};
    AugmentMap map = augment_map(&draw, H, W);
    augment_resample(out, in, H, W, &map, &desc);
    for (int y = 0; y < H; y++)
      for (int x = 0; x < W; x++)
        assert_memory_equal(out + (y * W + x) * 3,
                            in + ((kind & 2 ? H - 1 - y : y) * W + (kind & 1 ? W - 1 - x : x)) * 3,
                            3);
  }
}

// A quarter turn of a square image moves whole pixels; positive is counter-clockwise.
static void quarter_turn_is_counter_clockwise(void **state) {
  (void)state;
  enum { N = 9 };
  uint8_t in[N * N * 3], out[N * N * 3];
  fill_with_noise(in, sizeof in, 3);
  AugmentDesc desc = {.fill = AUGMENT_FILL_NEAREST};
  AugmentMap map = augment_map(&(AugmentDraw){.rotation = 0.25}, N, N);
  augment_resample(out, in, N, N, &map, &desc);
  for (int y = 0; y < N; y++)
    for (int x = 0; x < N; x++) // what was at the right end of row y is now on top
      assert_memory_equal(out + (y * N + x) * 3, in + (x * N + N - 1 - y) * 3, 3);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(draws_are_uniform_in_their_ranges),
      cmocka_unit_test(draws_follow_pass_sample_and_seed),
      cmocka_unit_test(resampling_is_bilinear),
      cmocka_unit_test(nothing_drawn_changes_nothing),
      cmocka_unit_test(mirrors_are_exact),
      cmocka_unit_test(quarter_turn_is_counter_clockwise),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
