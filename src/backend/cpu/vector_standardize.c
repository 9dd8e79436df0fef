// Kernels of weight standardisation, a block of filters each. See vector_kernels.h. Sums run over
// chunks of rows, so that rounding grows with the chunk and not with the filter.
#include <math.h>

#include "backend/cpu/vector.h"
#include "backend/cpu/vector_kernels.h"

enum { CHUNK = 64 }; // rows

// Row i of the block; lanes past its columns are 0.
INLINE V row_load(const float *columns, int64_t i, const Filters *f) {
  const float *row = columns + i * f->stride;
  if (f->count == BLOCK) return *(const VFlat *)row;
  _Alignas(64) float lanes[BLOCK] = {0};
  memcpy(lanes, row, (size_t)f->count * sizeof(float));
  return *(const V *)lanes;
}

INLINE void row_store(float *columns, int64_t i, V value, const Filters *f) {
  float *row = columns + i * f->stride;
  if (f->count == BLOCK) {
    *(VFlat *)row = value;
    return;
  }
  _Alignas(64) float lanes[BLOCK];
  *(V *)lanes = value;
  memcpy(row, lanes, (size_t)f->count * sizeof(float));
}

// total = the sum over the rows of TERM, an expression of i.
#define SUM_ROWS(total, rows, TERM)                                                                \
  do {                                                                                             \
    total = (V){0};                                                                                \
    for (int64_t begin = 0; begin < (rows); begin += CHUNK) {                                      \
      int64_t end = begin + CHUNK < (rows) ? begin + CHUNK : (rows);                               \
      V part = {0};                                                                                \
      for (int64_t i = begin; i < end; i++) part += (TERM);                                        \
      total += part;                                                                               \
    }                                                                                              \
  } while (0)

typedef struct Moments {
  V mean, rstd;
} Moments;

INLINE Moments moments(const float *kernel, const Filters *f) {
  V sum, squares;
  SUM_ROWS(sum, f->rows, row_load(kernel, i, f));
  V mean = sum / (float)f->rows;
  SUM_ROWS(squares, f->rows, (row_load(kernel, i, f) - mean) * (row_load(kernel, i, f) - mean));
  _Alignas(64) float lanes[BLOCK];
  *(V *)lanes = squares / (float)f->rows + f->epsilon;
  for (int l = 0; l < BLOCK; l++) lanes[l] = 1.0f / sqrtf(lanes[l]);
  return (Moments){mean, *(const V *)lanes};
}

static void forward(float *out, const float *kernel, const Filters *filters) {
  const Filters f = *filters;
  Moments m = moments(kernel, &f);
  for (int64_t i = 0; i < f.rows; i++)
    row_store(out, i, (row_load(kernel, i, &f) - m.mean) * m.rstd, &f);
}

// dw = rstd (g - mean(g) - u mean(g u)), where u is the standardised kernel and g its gradient.
static void backward(float *gradient, const float *kernel, const Filters *filters) {
  const Filters f = *filters;
  Moments m = moments(kernel, &f);
  V sum, sum_u;
  SUM_ROWS(sum, f.rows, row_load(gradient, i, &f));
  SUM_ROWS(sum_u, f.rows, row_load(gradient, i, &f) * (row_load(kernel, i, &f) - m.mean));
  V mean = sum / (float)f.rows, slope = sum_u * m.rstd * m.rstd / (float)f.rows;
  for (int64_t i = 0; i < f.rows; i++) {
    V u = row_load(kernel, i, &f) - m.mean;
    row_store(gradient, i, (row_load(gradient, i, &f) - mean - u * slope) * m.rstd, &f);
  }
}

extern const StandardizeKernels VECTOR_NAME(standardize_kernels);
const StandardizeKernels VECTOR_NAME(standardize_kernels) = {.forward = forward,
                                                             .backward = backward};
