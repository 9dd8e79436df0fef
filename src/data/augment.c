// Random affine changes of images. See augment.h.
#include "data/augment.h"

#include <math.h>
#include <string.h>

#include "base/rng.h"

enum { CHANNELS = 3 };

static const double TURN = 6.28318530717958647692;

// --- drawing -------------------------------------------------------------------------------------

// The place of each draw among the words of a sample. Fixed: resumed runs rely on it.
enum { WORD_ROTATION, WORD_HEIGHT, WORD_WIDTH, WORD_ZOOM_HEIGHT, WORD_ZOOM_WIDTH, WORD_FLIP };

static double draw_between(AugmentRange range, uint32_t word) {
  return range.low + (range.high - range.low) * ((double)word * 0x1p-32);
}

AugmentDraw augment_draw(const AugmentDesc *desc, int64_t pass, int64_t sample) {
  uint32_t word[8];
  for (uint32_t block = 0; block < 2; block++) {
    RngWords drawn = rng_draw(desc->seed, RNG_AUGMENT, (uint64_t)pass, (uint64_t)sample, block);
    memcpy(word + 4 * block, drawn.word, sizeof drawn.word);
  }
  AugmentDraw draw = {
      .rotation = draw_between(desc->rotation, word[WORD_ROTATION]),
      .translation_height = draw_between(desc->translation_height, word[WORD_HEIGHT]),
      .translation_width = draw_between(desc->translation_width, word[WORD_WIDTH]),
      .zoom_height = draw_between(desc->zoom_height, word[WORD_ZOOM_HEIGHT]),
      .zoom_width = draw_between(desc->zoom_width, word[WORD_ZOOM_WIDTH]),
  };
  if (desc->zoom_keeps_aspect) draw.zoom_width = draw.zoom_height;
  bool flip = word[WORD_FLIP] < UINT32_C(1) << 31;
  draw.flip_horizontal =
      flip && (desc->flip == AUGMENT_FLIP_HORIZONTAL || desc->flip == AUGMENT_FLIP_BOTH);
  draw.flip_vertical =
      flip && (desc->flip == AUGMENT_FLIP_VERTICAL || desc->flip == AUGMENT_FLIP_BOTH);
  return draw;
}

// --- the map -------------------------------------------------------------------------------------

// The map that first goes through `second`, then through `first`: the layers run first, second.
static AugmentMap compose(AugmentMap first, AugmentMap second) {
  const double *a = first.m, *b = second.m;
  return (AugmentMap){{a[0] * b[0] + a[1] * b[3], a[0] * b[1] + a[1] * b[4],
                       a[0] * b[2] + a[1] * b[5] + a[2], a[3] * b[0] + a[4] * b[3],
                       a[3] * b[1] + a[4] * b[4], a[3] * b[2] + a[4] * b[5] + a[5]}};
}

AugmentMap augment_map(const AugmentDraw *draw, int64_t height, int64_t width) {
  double center_x = ((double)width - 1) / 2, center_y = ((double)height - 1) / 2;
  double c = cos(TURN * draw->rotation), s = sin(TURN * draw->rotation);
  AugmentMap rotation = {{c, -s, center_x - c * center_x + s * center_y, //
                          s, c, center_y - s * center_x - c * center_y}};
  AugmentMap translation = {{1, 0, -draw->translation_width * (double)width, //
                             0, 1, -draw->translation_height * (double)height}};
  double zoom_x = 1 + draw->zoom_width, zoom_y = 1 + draw->zoom_height;
  AugmentMap zoom = {{zoom_x, 0, center_x * (1 - zoom_x), 0, zoom_y, center_y * (1 - zoom_y)}};
  AugmentMap flip = {{1, 0, 0, 0, 1, 0}};
  if (draw->flip_horizontal) flip.m[0] = -1, flip.m[2] = (double)width - 1;
  if (draw->flip_vertical) flip.m[4] = -1, flip.m[5] = (double)height - 1;
  return compose(compose(compose(rotation, translation), zoom), flip);
}

// --- resampling ----------------------------------------------------------------------------------

typedef struct Resampling {
  const uint8_t *in;
  int64_t height, width;
  const AugmentDesc *desc;
} Resampling;

// A coordinate brought inside 0..length-1 as the fill mode says: the rules, oddities included, are
// those of TensorFlow's MapCoordinate.
static float fold_coordinate(float at, int64_t length, AugmentFill fill) {
  float last = (float)(length - 1), size = (float)length;
  if (fill == AUGMENT_FILL_CONSTANT || (at >= 0 && at <= last)) return at;
  if (length == 1) return 0;
  if (fill == AUGMENT_FILL_REFLECT) { // period 2 length: a b c d d c b a
    if (at < -size || at >= 2 * size) at -= 2 * size * floorf(at / (2 * size));
    if (at < 0)
      at = -at - 1;
    else if (at >= size)
      at = 2 * size - at - 1;
  } else if (fill == AUGMENT_FILL_WRAP) {
    at += at < 0 ? size * (truncf(-at / last) + 1) : -size * truncf(at / last);
  }
  return at < 0 ? 0 : at > last ? last : at;
}

static uint8_t round_level(float level) {
  return (uint8_t)((level < 0 ? 0 : level > 255 ? 255 : level) + 0.5f);
}

// A pixel, or the fill value beyond the border.
static float read_pixel(const Resampling *r, int64_t y, int64_t x, int channel) {
  if (y < 0 || y >= r->height || x < 0 || x >= r->width) return (float)r->desc->fill_value;
  return r->in[(y * r->width + x) * CHANNELS + channel];
}

// An output pixel whose four neighbours may lie beyond the border. y and x are above -1 and below
// height and width.
static void resample_at_border(uint8_t *out, const Resampling *r, float y, float x) {
  int64_t top = (int64_t)(y + 1) - 1, left = (int64_t)(x + 1) - 1;
  float down = y - (float)top, right = x - (float)left;
  for (int c = 0; c < CHANNELS; c++) {
    float above =
        (1 - right) * read_pixel(r, top, left, c) + right * read_pixel(r, top, left + 1, c);
    float below =
        (1 - right) * read_pixel(r, top + 1, left, c) + right * read_pixel(r, top + 1, left + 1, c);
    out[c] = round_level((1 - down) * above + down * below);
  }
}

// Four channels at once; the fourth belongs to the next pixel and is thrown away.
typedef float Float4 __attribute__((vector_size(16)));
typedef int32_t Int4 __attribute__((vector_size(16)));

static Float4 load_pixel(const uint8_t *pixel) {
  Int4 levels = {pixel[0], pixel[1], pixel[2], pixel[3]};
  return __builtin_convertvector(levels, Float4);
}

// An output pixel with all four neighbours inside, and one byte more after the last.
static void resample_inside(uint8_t *out, const Resampling *r, float y, float x) {
  int32_t top = (int32_t)y, left = (int32_t)x;
  float down = y - (float)top, right = x - (float)left;
  const uint8_t *above = r->in + ((int64_t)top * r->width + left) * CHANNELS;
  const uint8_t *below = above + r->width * CHANNELS;
  Float4 a = load_pixel(above), b = load_pixel(below);
  a += right * (load_pixel(above + CHANNELS) - a);
  b += right * (load_pixel(below + CHANNELS) - b);
  Int4 levels = __builtin_convertvector(a + down * (b - a) + 0.5f, Int4);
  for (int c = 0; c < CHANNELS; c++) out[c] = (uint8_t)levels[c];
}

// An output pixel that may show anything at all.
static void resample_anywhere(uint8_t *out, const Resampling *r, float y, float x) {
  y = fold_coordinate(y, r->height, r->desc->fill);
  x = fold_coordinate(x, r->width, r->desc->fill);
  if (y >= 0 && y < (float)(r->height - 2) && x >= 0 && x < (float)(r->width - 1))
    resample_inside(out, r, y, x);
  else if (y > -1 && y < (float)r->height && x > -1 && x < (float)r->width)
    resample_at_border(out, r, y, x);
  else
    memset(out, round_level((float)r->desc->fill_value), CHANNELS);
}

// Narrows [*begin, *end) to the whole numbers x for which slope * x + offset has both its
// neighbours inside 0..length-1. The margin is more than a float can be wrong by at 65,535.
static void narrow(int64_t *begin, int64_t *end, double slope, double offset, int64_t length) {
  const double margin = 1.0 / 64;
  double low = margin, high = (double)(length - 1) - margin;
  if (fabs(slope) < 1e-9) {
    if (!(offset >= 2 * low && offset <= high - margin)) *end = *begin;
    return;
  }
  double from = ((slope > 0 ? low : high) - offset) / slope;
  double to = ((slope > 0 ? high : low) - offset) / slope;
  from = ceil(fmin(fmax(from, (double)*begin), (double)*end));
  to = floor(fmin(fmax(to, from - 1), (double)(*end - 1))) + 1;
  *begin = (int64_t)from;
  *end = (int64_t)fmax(from, to);
}

static void resample_row(uint8_t *out, const Resampling *r, const AugmentMap *map, int64_t row) {
  const double *m = map->m;
  double x0 = m[1] * (double)row + m[2], y0 = m[4] * (double)row + m[5];
  int64_t begin = 0, end = r->width; // the part whose neighbours all lie inside, above the last row
  narrow(&begin, &end, m[0], x0, r->width);
  narrow(&begin, &end, m[3], y0, r->height - 1);
  for (int64_t x = 0; x < r->width; x++) {
    float at_x = (float)(m[0] * (double)x + x0), at_y = (float)(m[3] * (double)x + y0);
    if (x >= begin && x < end)
      resample_inside(out + x * CHANNELS, r, at_y, at_x);
    else
      resample_anywhere(out + x * CHANNELS, r, at_y, at_x);
  }
}

// Maps that only mirror, which is half of all images where flipping is all that is asked.
static bool is_mirror(const AugmentMap *map, int64_t height, int64_t width) {
  const double *m = map->m;
  bool x = (m[0] == 1 && m[2] == 0) || (m[0] == -1 && m[2] == (double)width - 1);
  bool y = (m[4] == 1 && m[5] == 0) || (m[4] == -1 && m[5] == (double)height - 1);
  return x && y && m[1] == 0 && m[3] == 0;
}

static void mirror(uint8_t *out, const uint8_t *in, int64_t height, int64_t width,
                   const AugmentMap *map) {
  size_t row_bytes = (size_t)width * CHANNELS;
  for (int64_t y = 0; y < height; y++) {
    const uint8_t *from = in + (size_t)(map->m[4] < 0 ? height - 1 - y : y) * row_bytes;
    uint8_t *to = out + (size_t)y * row_bytes;
    if (map->m[0] > 0) {
      memcpy(to, from, row_bytes);
      continue;
    }
    for (int64_t x = 0; x < width; x++)
      memcpy(to + x * CHANNELS, from + (width - 1 - x) * CHANNELS, CHANNELS);
  }
}

void augment_resample(uint8_t *out, const uint8_t *in, int64_t height, int64_t width,
                      const AugmentMap *map, const AugmentDesc *desc) {
  if (is_mirror(map, height, width)) {
    mirror(out, in, height, width, map);
    return;
  }
  Resampling resampling = {.in = in, .height = height, .width = width, .desc = desc};
  for (int64_t y = 0; y < height; y++)
    resample_row(out + y * width * CHANNELS, &resampling, map, y);
}

void augment_image(uint8_t *out, const uint8_t *in, int64_t height, int64_t width,
                   const AugmentDesc *desc, int64_t pass, int64_t sample) {
  AugmentDraw draw = augment_draw(desc, pass, sample);
  AugmentMap map = augment_map(&draw, height, width);
  augment_resample(out, in, height, width, &map, desc);
}
