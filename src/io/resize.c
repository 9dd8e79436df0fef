// Bilinear and antialiased resizing. See resize.h.
//
// Bilinear follows tf.image.resize operation for operation in fp32: two taps along the rows, then
// two between rows. A source row is widened once and kept while output rows still need it.
// Antialiased follows tf.image.resize(antialias=True): a triangle as wide as the shrinking, its
// weights normalised, first down the columns (where the compiler makes vectors of it), then along.
#include "io/resize.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "base/memory.h"

enum { CHANNELS = 3 };

// A part of an image.
typedef struct Window {
  const uint8_t *pixels; // of its first row and column
  int64_t height, width;
  int64_t stride; // bytes from row to row
} Window;

static int64_t clamp(int64_t value, int64_t low, int64_t high) {
  return value < low ? low : value > high ? high : value;
}

// The box that Keras' smart_resize keeps, in its fp32 arithmetic.
static Window crop_to_aspect(const Image *in, int64_t out_height, int64_t out_width) {
  int64_t height = (int64_t)((float)(in->width * out_height) / (float)out_width);
  int64_t width = (int64_t)((float)(in->height * out_width) / (float)out_height);
  height = clamp(height, 1, in->height);
  width = clamp(width, 1, in->width);
  int64_t top = (int64_t)((float)(in->height - height) / 2);
  int64_t left = (int64_t)((float)(in->width - width) / 2);
  return (Window){.pixels = in->pixels + (top * in->width + left) * CHANNELS,
                  .height = height,
                  .width = width,
                  .stride = in->width * CHANNELS};
}

// --- bilinear ------------------------------------------------------------------------------------

// An output position lies between two input positions.
typedef struct Between {
  int64_t lower, upper;
  float weight; // of upper
} Between;

static Between between(int64_t position, int64_t in_size, int64_t out_size) {
  float scale = (float)in_size / (float)out_size;
  float at = ((float)position + 0.5f) * scale - 0.5f;
  float below = floorf(at);
  return (Between){.lower = clamp((int64_t)below, 0, in_size - 1),
                   .upper = clamp((int64_t)below + 1, 0, in_size - 1),
                   .weight = at - below};
}

static void widen_row(float *restrict out, const uint8_t *restrict in, const Between *columns,
                      int64_t width) {
  for (int64_t x = 0; x < width; x++) {
    const uint8_t *left = in + columns[x].lower, *right = in + columns[x].upper;
    float weight = columns[x].weight;
    for (int64_t c = 0; c < CHANNELS; c++)
      out[x * CHANNELS + c] = left[c] + ((float)right[c] - left[c]) * weight;
  }
}

static void blend_rows(uint8_t *restrict out, const float *restrict top,
                       const float *restrict bottom, float weight, int64_t count) {
  for (int64_t i = 0; i < count; i++)
    out[i] = (uint8_t)(int32_t)(top[i] + (bottom[i] - top[i]) * weight + 0.5f);
}

static Status resize_bilinear(uint8_t *out, int64_t out_height, int64_t out_width,
                              const Window *in) {
  Between *columns = NULL;
  float *rows = NULL;
  Status status;
  int64_t row_size = out_width * CHANNELS;
  GUARD(memory_alloc(&columns, (size_t)out_width, sizeof *columns));
  GUARD(memory_alloc(&rows, (size_t)row_size * 2, sizeof *rows));
  for (int64_t x = 0; x < out_width; x++) {
    columns[x] = between(x, in->width, out_width);
    columns[x].lower *= CHANNELS;
    columns[x].upper *= CHANNELS;
  }
  int64_t held[2] = {-1, -1}; // which input row rows[parity] holds: neighbours differ in parity
  for (int64_t y = 0; y < out_height; y++) {
    Between at = between(y, in->height, out_height);
    int64_t needed[2] = {at.lower, at.upper};
    for (int i = 0; i < 2; i++) {
      int64_t slot = needed[i] & 1;
      if (held[slot] == needed[i]) continue;
      widen_row(rows + slot * row_size, in->pixels + needed[i] * in->stride, columns, out_width);
      held[slot] = needed[i];
    }
    blend_rows(out + y * row_size, rows + (at.lower & 1) * row_size,
               rows + (at.upper & 1) * row_size, at.weight, row_size);
  }
out:
  memory_free(rows);
  memory_free(columns);
  return status;
}

// --- antialiased ---------------------------------------------------------------------------------

// For each output position, the input positions it sees and how much of each.
typedef struct Spans {
  int64_t *start; // owned, per output position
  int64_t *count; // owned
  float *weights; // owned, `capacity` per output position
  int64_t capacity;
} Spans;

static void spans_deinit(Spans *spans) {
  memory_free(spans->weights);
  memory_free(spans->count);
  memory_free(spans->start);
}

static Status spans_init(Spans *spans, int64_t in_size, int64_t out_size) {
  *spans = (Spans){0};
  float scale = (float)in_size / (float)out_size;
  float radius = scale > 1 ? scale : 1; // of the triangle, in input positions
  spans->capacity = clamp(2 * (int64_t)ceilf(radius) + 1, 1, in_size);
  TRY(memory_alloc(&spans->start, (size_t)out_size, sizeof *spans->start));
  TRY(memory_alloc(&spans->count, (size_t)out_size, sizeof *spans->count));
  TRY(memory_alloc(&spans->weights, (size_t)out_size * (size_t)spans->capacity, sizeof(float)));
  for (int64_t i = 0; i < out_size; i++) {
    float center = ((float)i + 0.5f) * scale;
    int64_t start = clamp((int64_t)ceilf(center - radius - 0.5f), 0, in_size - 1);
    int64_t end = clamp((int64_t)floorf(center + radius - 0.5f), 0, in_size - 1);
    float *weights = spans->weights + i * spans->capacity;
    float total = 0;
    spans->start[i] = start;
    spans->count[i] = clamp(end - start + 1, 1, spans->capacity);
    for (int64_t k = 0; k < spans->count[i]; k++) {
      float distance = fabsf((float)(start + k) + 0.5f - center) / radius;
      weights[k] = distance < 1 ? 1 - distance : 0;
      total += weights[k];
    }
    for (int64_t k = 0; k < spans->count[i]; k++) weights[k] /= total;
  }
  return STATUS_OK;
}

static void add_row(float *restrict sum, const uint8_t *restrict row, float weight, int64_t count) {
  for (int64_t i = 0; i < count; i++) sum[i] += weight * (float)row[i];
}

static void narrow_row(uint8_t *restrict out, const float *restrict in, const Spans *columns,
                       int64_t width) {
  for (int64_t x = 0; x < width; x++) {
    const float *weights = columns->weights + x * columns->capacity;
    const float *pixel = in + columns->start[x] * CHANNELS;
    float sum[CHANNELS] = {0.5f, 0.5f, 0.5f}; // to round
    for (int64_t k = 0; k < columns->count[x]; k++, pixel += CHANNELS)
      for (int64_t c = 0; c < CHANNELS; c++) sum[c] += weights[k] * pixel[c];
    for (int64_t c = 0; c < CHANNELS; c++)
      out[x * CHANNELS + c] = (uint8_t)(sum[c] < 255.5f ? (int32_t)sum[c] : 255);
  }
}

static Status resize_antialiased(uint8_t *out, int64_t out_height, int64_t out_width,
                                 const Window *in) {
  Spans columns = {0}, rows = {0};
  float *sum = NULL;
  Status status;
  int64_t in_row = in->width * CHANNELS;
  GUARD(spans_init(&columns, in->width, out_width));
  GUARD(spans_init(&rows, in->height, out_height));
  GUARD(memory_alloc(&sum, (size_t)in_row, sizeof *sum));
  for (int64_t y = 0; y < out_height; y++) {
    memset(sum, 0, (size_t)in_row * sizeof *sum);
    const uint8_t *row = in->pixels + rows.start[y] * in->stride;
    for (int64_t k = 0; k < rows.count[y]; k++, row += in->stride)
      add_row(sum, row, rows.weights[y * rows.capacity + k], in_row);
    narrow_row(out + y * out_width * CHANNELS, sum, &columns, out_width);
  }
out:
  memory_free(sum);
  spans_deinit(&rows);
  spans_deinit(&columns);
  return status;
}

Status image_resize(uint8_t *out, int64_t out_height, int64_t out_width, const Image *in,
                    ResizeOptions options) {
  assert(out_height >= 1 && out_width >= 1 && in->height >= 1 && in->width >= 1);
  Window window = {in->pixels, in->height, in->width, in->width * CHANNELS};
  if (options.keep_aspect) window = crop_to_aspect(in, out_height, out_width);
  if (window.height == out_height && window.width == out_width) {
    for (int64_t y = 0; y < out_height; y++)
      memcpy(out + y * out_width * CHANNELS, window.pixels + y * window.stride,
             (size_t)(out_width * CHANNELS));
    return STATUS_OK;
  }
  return options.antialias ? resize_antialiased(out, out_height, out_width, &window)
                           : resize_bilinear(out, out_height, out_width, &window);
}
