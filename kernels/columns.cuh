// Going down the pixels with one pack of channels; sums over them in an order that depends on the
// shape alone.
//
// A block of 256 threads takes `px` packs of channels and 256 / px rows of pixels at a time, and one
// chunk of the pixels; a second kernel merges the chunks, always in the same order. Partials lie in
// scratch as [chunk][quantity][stored channel].
#ifndef IMGCLS_KERNELS_COLUMNS_CUH
#define IMGCLS_KERNELS_COLUMNS_CUH

#include "kernel.cuh"

// How the pixels are cut: blocks at most, pixels of a thread at least.
struct ColumnsCut {
  int blocks, rows_min;
};
constexpr ColumnsCut SUMMING = {1024, 8};   // enough for the widest device, whatever the device
constexpr ColumnsCut STREAMING = {8192, 2}; // nothing to merge: many waves, so that the last is short

struct Columns {
  int64_t pixels, chunk_pixels;
  int packs, px, rows, tiles, chunks;
};

// Packs side by side in a block, a power of 2: the most, up to `limit`, of which at most an eighth would
// idle at the end of the channels; from 4 up, so that a row of them is whole sectors of memory.
static inline int columns_width(int packs, int limit) {
  int px = limit;
  while (px > 4 && 8 * ((packs + px - 1) / px * px - packs) > (packs + px - 1) / px * px) px /= 2;
  while (px / 2 >= packs) px /= 2;
  return px;
}

template <class T> static Columns columns_of(int64_t pixels, int channels, ColumnsCut cut = SUMMING) {
  Columns c = {};
  c.pixels = pixels;
  c.packs = packs_of<T>(channels);
  c.px = columns_width(c.packs, WARP_SIZE);
  c.rows = BLOCK_THREADS / c.px;
  c.tiles = (c.packs + c.px - 1) / c.px;
  int64_t block_pixels = (int64_t)c.rows * cut.rows_min;
  int64_t most = (pixels + block_pixels - 1) / block_pixels;
  int64_t wanted = (cut.blocks + c.tiles - 1) / c.tiles;
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

// --- merging chunks -------------------------------------------------------------------------------

// A block merges 8 neighbouring items; 32 threads share the chunks of each.
enum { MERGE_ITEMS = 8, MERGE_LANES = BLOCK_THREADS / MERGE_ITEMS };

__device__ __forceinline__ int64_t merge_item() {
  return (int64_t)blockIdx.x * MERGE_ITEMS + threadIdx.x % MERGE_ITEMS;
}
__device__ __forceinline__ int merge_lane() { return (int)threadIdx.x / MERGE_ITEMS; }

// The sum of `chunks` numbers, `stride` apart; valid in lane 0. All threads of the block call it.
__device__ __forceinline__ double merge_chunks(const float *first, int chunks, int64_t stride) {
  __shared__ double sums[BLOCK_THREADS];
  int me = (int)threadIdx.x, lane = merge_lane();
  double sum = 0.0;
  for (int chunk = lane; chunk < chunks; chunk += MERGE_LANES) sum += first[chunk * stride];
  __syncthreads(); // the sums of the call before have been read
  sums[me] = sum;
  for (int half = MERGE_LANES / 2; half > 0; half /= 2) {
    __syncthreads();
    if (lane < half) sums[me] += sums[me + half * MERGE_ITEMS];
  }
  return sums[me];
}

// --- moments --------------------------------------------------------------------------------------

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

// Moments of a pack's channels over the pixels of a block, of a slot a thread; BLOCK_THREADS threads.
template <class T> struct BlockMoments {
  float mean[BLOCK_THREADS][Pack<T>::LANES], deviation[BLOCK_THREADS][Pack<T>::LANES];
  float count[BLOCK_THREADS];
};

// Fills slot `me` from what `read` has from `begin` to `end` by `stride`, COUNT loads under way. Sums
// are of differences from the first number: nothing cancels where the mean is large.
template <int COUNT, class T, class Read>
__device__ __forceinline__ void fill_moments(BlockMoments<T> &block, int me, int64_t begin,
                                             int64_t end, int64_t stride, Read read) {
  Pack<T> first = pack_of<T>(0.0f), sum = first, squares = first;
  float n = 0.0f;
  if (begin < end) first = unpack(read(begin));
  in_batches<COUNT>(begin, end, stride, read, [&](int64_t, const PackBits<T> &bits) {
    const Pack<T> x = unpack(bits);
    n += 1.0f;
    for (int l = 0; l < Pack<T>::LANES; l++) {
      float d = x.lane[l] - first.lane[l];
      sum.lane[l] += d;
      squares.lane[l] += d * d;
    }
  });
  block.count[me] = n;
  for (int l = 0; l < Pack<T>::LANES; l++) {
    float d = n > 0.0f ? sum.lane[l] / n : 0.0f;
    block.mean[me][l] = first.lane[l] + d;
    block.deviation[me][l] = fmaxf(squares.lane[l] - sum.lane[l] * d, 0.0f);
  }
}

// Merges the slots of all `rows`, of `px` packs each, into those of row 0. All threads call it.
template <class T>
__device__ __forceinline__ void merge_rows(BlockMoments<T> &block, int me, int rows, int px) {
  for (int half = rows / 2; half > 0; half /= 2) {
    __syncthreads();
    if (me >= half * px) continue;
    int other = me + half * px;
    for (int l = 0; l < Pack<T>::LANES; l++) {
      Moments merged = merge({block.mean[me][l], block.deviation[me][l]}, block.count[me],
                             {block.mean[other][l], block.deviation[other][l]}, block.count[other]);
      block.mean[me][l] = merged.mean;
      block.deviation[me][l] = merged.deviation;
    }
    block.count[me] += block.count[other];
  }
}

#endif
