// Sums over all pixels of each channel, in an order that depends on the shape alone.
//
// A block of 256 threads takes `px` packs of channels and 256 / px rows of pixels at a time, and one
// chunk of the pixels; a second kernel merges the chunks in order. Partials lie in scratch as
// [chunk][quantity][stored channel].
#ifndef IMGCLS_KERNELS_COLUMNS_CUH
#define IMGCLS_KERNELS_COLUMNS_CUH

#include "kernel.cuh"

enum {
  COLUMN_BLOCKS = 1024, // enough for the widest device, whatever the device
  COLUMN_ROWS_MIN = 8   // pixels a thread sums at least
};

struct Columns {
  int64_t pixels, chunk_pixels;
  int packs, px, rows, tiles, chunks;
};

template <class T> static Columns columns_of(int64_t pixels, int channels) {
  Columns c = {};
  c.pixels = pixels;
  c.packs = packs_of<T>(channels);
  c.px = 1;
  while (c.px < c.packs && c.px < WARP_SIZE) c.px *= 2;
  c.rows = BLOCK_THREADS / c.px;
  c.tiles = (c.packs + c.px - 1) / c.px;
  int64_t most = (pixels + (int64_t)c.rows * COLUMN_ROWS_MIN - 1) / ((int64_t)c.rows * COLUMN_ROWS_MIN);
  int64_t wanted = (COLUMN_BLOCKS + c.tiles - 1) / c.tiles;
  c.chunks = (int)(wanted < most ? wanted : most);
  if (c.chunks < 1) c.chunks = 1;
  c.chunk_pixels = (pixels + c.chunks - 1) / c.chunks;
  return c;
}

static inline dim3 columns_grid(const Columns &c) {
  return dim3((unsigned)c.tiles, (unsigned)c.chunks);
}

// A thread's place in a block of columns.
struct ColumnPlace {
  int pack, row;
  int64_t begin, end; // its pixels, every `rows`-th from begin
};

__device__ __forceinline__ ColumnPlace column_place(const Columns &c) {
  ColumnPlace place;
  place.pack = (int)blockIdx.x * c.px + (int)threadIdx.x % c.px;
  place.row = (int)threadIdx.x / c.px;
  place.begin = (int64_t)blockIdx.y * c.chunk_pixels + place.row;
  place.end = (int64_t)(blockIdx.y + 1) * c.chunk_pixels;
  if (place.end > c.pixels) place.end = c.pixels;
  if (place.pack >= c.packs) place.end = place.begin; // nothing, but it takes part in barriers
  return place;
}

// Mean and sum of squared deviations of `count` numbers.
struct Moments {
  float mean, deviation;
};

// Those of two sets together (Chan, Golub and LeVeque, 1979).
__device__ __forceinline__ Moments merge(Moments a, float a_count, Moments b, float b_count) {
  if (b_count == 0.0f) return a;
  float total = a_count + b_count, delta = b.mean - a.mean;
  return {a.mean + delta * (b_count / total),
          a.deviation + b.deviation + delta * delta * (a_count * b_count / total)};
}

#endif
