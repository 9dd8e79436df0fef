// Group normalisation (Wu and He, ECCV 2018) with an activation: statistics over the pixels and the
// channels of a group, of each sample alone.
//
// Forward: blocks sum chunks of the pixels of one sample; a second kernel merges chunks and
// channels into groups; a third scales. Backward likewise, with sums of dz and dz u, u the
// normalised x; a fourth sums them over samples for the parameters. How pixels are cut depends on
// the image alone, so that a sample's numbers do not depend on the batch.
//
// Passes over memory: forward reads x | reads x, writes y; backward reads x, dy [, dy2] | the same
// again, writes dx. Sums of chunks are 8 bytes a channel, written and read: with 196 pixels to a
// chunk, as of 56 x 56 x 256, 2 % of a 16-bit value. Threads of a multiprocessor: 512 or more. A
// small batch has few blocks that sum, so a thread of theirs keeps four packs of x under way, or
// two of each operand backward; those that write have one of each.
#include "columns.cuh"

namespace {

// How the pixels of a sample are cut: 9 samples that are summed occupy a GPU of 132
// multiprocessors.
constexpr ColumnsCut SAMPLE_SUMMING = {16, 8}, SAMPLE_WRITING = {64, 8};

template <class T> struct GroupArgs {
  int64_t samples, sample_pixels, sample_packs;
  Columns columns; // of a sample
  int chunks;      // that sums come in
  int channels, groups, group_channels, stored;
  double epsilon;
  const T *x, *dy, *dy2;
  T *y, *dx;
  const float *gamma, *beta;
  float *mean, *rstd;
  float *sums;               // (samples, chunks, 2, stored channels)
  float *dz_mean, *dz_slope; // (samples, groups): what dx loses
  float *dgamma, *dbeta;
};

// mean and rstd of a pack's channels, gamma and beta; zeros beyond C.
template <class T> struct GroupLanes { Pack<T> mean, rstd, gamma, beta; };

template <class T>
__device__ __forceinline__ GroupLanes<T> group_lanes(const GroupArgs<T> &args, int64_t sample,
                                                     int pack) {
  GroupLanes<T> lanes;
  for (int l = 0; l < Pack<T>::LANES; l++) {
    int c = pack * Pack<T>::LANES + l;
    bool there = c < args.channels;
    int64_t group = sample * args.groups + (there ? c / args.group_channels : 0);
    lanes.mean.lane[l] = there ? args.mean[group] : 0.0f;
    lanes.rstd.lane[l] = there ? args.rstd[group] : 0.0f;
    lanes.gamma.lane[l] = there ? args.gamma ? args.gamma[c] : 1.0f : 0.0f;
    lanes.beta.lane[l] = there && args.beta ? args.beta[c] : 0.0f;
  }
  return lanes;
}

// --- forward --------------------------------------------------------------------------------------

// Where a block of columns leaves a pack's two numbers a channel: of its chunk of its sample.
template <class T>
__device__ __forceinline__ float *chunk_sums(const GroupArgs<T> &args, int pack) {
  int64_t chunk = (int64_t)blockIdx.z * args.chunks + blockIdx.y;
  return args.sums + chunk * 2 * args.stored + pack * Pack<T>::LANES;
}

// Mean and deviation of each channel in a chunk of a sample.
template <class T>
__global__ void __launch_bounds__(BLOCK_THREADS) group_moments_kernel(GroupArgs<T> args) {
  __shared__ BlockMoments<T> block;
  const Columns &columns = args.columns;
  ColumnPlace place = column_place(columns);
  int me = (int)threadIdx.x;
  int64_t base = blockIdx.z * args.sample_packs + place.pack;
  fill_moments<4>(block, me, place.begin, place.end, columns.rows,
                  [&](int64_t p) { return fetch(args.x, base + p * columns.packs); });
  merge_rows(block, me, columns.rows, columns.px);
  if (place.row > 0 || place.pack >= columns.packs) return;
  float *out = chunk_sums(args, place.pack);
  for (int l = 0; l < Pack<T>::LANES; l++) {
    out[l] = block.mean[me][l];
    out[args.stored + l] = block.deviation[me][l];
  }
}

__device__ __forceinline__ double warp_sum(double value) {
  for (int d = WARP_SIZE / 2; d > 0; d /= 2) value += __shfl_xor_sync(~0u, value, d);
  return value;
}

// Moments of a channel in a chunk.
struct ChunkMoments {
  float mean, deviation;
  int pixels;
};

// A warp a group of a sample; its lanes share the channels of all chunks. The mean over all first,
// then the deviation around it.
template <class T>
__global__ void __launch_bounds__(BLOCK_THREADS) group_statistics_kernel(GroupArgs<T> args) {
  int64_t i = global_thread() / WARP_SIZE;
  if (i >= args.samples * args.groups) return;
  int lane = (int)threadIdx.x % WARP_SIZE, parts = args.chunks * args.group_channels;
  const float *sums = args.sums + i / args.groups * args.chunks * 2 * args.stored +
                      i % args.groups * args.group_channels;
  auto read = [&](int64_t part) -> ChunkMoments {
    int chunk = (int)part / args.group_channels, c = (int)part % args.group_channels;
    const float *at = sums + (int64_t)chunk * 2 * args.stored + c;
    int64_t chunk_pixels = args.columns.chunk_pixels;
    int64_t left = args.sample_pixels - chunk * chunk_pixels;
    return {at[0], at[args.stored], (int)(left < chunk_pixels ? left : chunk_pixels)};
  };
  double count = (double)args.sample_pixels * args.group_channels, mean = 0.0, deviation = 0.0;
  in_batches<4>(lane, parts, WARP_SIZE, read, [&](int64_t, const ChunkMoments &part) {
    mean += (double)part.mean * part.pixels;
  });
  mean = warp_sum(mean) / count;
  in_batches<4>(lane, parts, WARP_SIZE, read, [&](int64_t, const ChunkMoments &part) {
    double delta = part.mean - mean;
    deviation += part.deviation + delta * delta * part.pixels;
  });
  deviation = warp_sum(deviation);
  if (lane > 0) return;
  args.mean[i] = (float)mean;
  args.rstd[i] = (float)(1.0 / sqrt(deviation / count + args.epsilon));
}

template <class T, KernelActivation KIND>
__global__ void __launch_bounds__(BLOCK_THREADS) group_apply_kernel(GroupArgs<T> args) {
  const Columns &columns = args.columns;
  ColumnPlace place = column_place(columns);
  if (place.begin >= place.end) return;
  int64_t base = blockIdx.z * args.sample_packs + place.pack;
  GroupLanes<T> lanes = group_lanes(args, blockIdx.z, place.pack);
  for (int64_t p = place.begin; p < place.end; p += columns.rows) {
    int64_t i = base + p * columns.packs;
    Pack<T> x = load(args.x, i);
    for (int l = 0; l < Pack<T>::LANES; l++) {
      float u = (x.lane[l] - lanes.mean.lane[l]) * lanes.rstd.lane[l];
      float y = activate<KIND>(lanes.gamma.lane[l] * u + lanes.beta.lane[l]);
      bool there = !moves_zero<KIND>() || place.pack * Pack<T>::LANES + l < args.channels;
      x.lane[l] = there ? y : 0.0f;
    }
    store(args.y, i, x);
  }
}

// --- backward -------------------------------------------------------------------------------------

template <class T> struct GroupGradientBits {
  PackBits<T> x;
  SumBits<T> dy;
};

template <class T>
__device__ __forceinline__ GroupGradientBits<T> fetch_gradient(const GroupArgs<T> &args,
                                                               int64_t i) {
  return {fetch(args.x, i), fetch_sum(args.dy, i, args.dy2, i)};
}

template <class T, KernelActivation KIND>
__device__ __forceinline__ Pack<T> group_dz(const GroupArgs<T> &args, const GroupLanes<T> &lanes,
                                            const Pack<T> &x, const SumBits<T> &dy) {
  Pack<T> dz = unpack_sum(dy, args.dy2 != nullptr);
  for (int l = 0; KIND != KERNEL_LINEAR && l < Pack<T>::LANES; l++) {
    float u = (x.lane[l] - lanes.mean.lane[l]) * lanes.rstd.lane[l];
    dz.lane[l] *= slope<KIND>(lanes.gamma.lane[l] * u + lanes.beta.lane[l]);
  }
  return dz;
}

// Sums of dz and dz u of each channel in a chunk of a sample.
template <class T, KernelActivation KIND>
__global__ void __launch_bounds__(BLOCK_THREADS) group_sums_kernel(GroupArgs<T> args) {
  enum { LANES = Pack<T>::LANES };
  __shared__ float sums[BLOCK_THREADS][2 * LANES];
  const Columns &columns = args.columns;
  ColumnPlace place = column_place(columns);
  int64_t base = blockIdx.z * args.sample_packs + place.pack;
  GroupLanes<T> lanes = group_lanes(args, blockIdx.z, place.pack);
  Pack<T> sum = pack_of<T>(0.0f), sum_x = sum;
  in_batches<2>(
      place.begin, place.end, columns.rows,
      [&](int64_t p) { return fetch_gradient(args, base + p * columns.packs); },
      [&](int64_t, const GroupGradientBits<T> &read) {
        const Pack<T> x = unpack(read.x), dz = group_dz<T, KIND>(args, lanes, x, read.dy);
        for (int l = 0; l < LANES; l++) {
          sum.lane[l] += dz.lane[l];
          sum_x.lane[l] += dz.lane[l] * (x.lane[l] - lanes.mean.lane[l]);
        }
      });
  float *mine = sums[threadIdx.x];
  for (int l = 0; l < LANES; l++) {
    mine[l] = sum.lane[l];
    mine[LANES + l] = sum_x.lane[l] * lanes.rstd.lane[l];
  }
  for (int half = columns.rows / 2; half > 0; half /= 2) {
    __syncthreads();
    if (place.row >= half) continue;
    const float *other = sums[(int)threadIdx.x + half * columns.px];
    for (int l = 0; l < 2 * LANES; l++) mine[l] += other[l];
  }
  if (place.row > 0 || place.pack >= columns.packs) return;
  float *out = chunk_sums(args, place.pack);
  for (int l = 0; l < LANES; l++) {
    out[l] = mine[l];
    out[args.stored + l] = mine[LANES + l];
  }
}

// What dx loses. A warp a group of a sample, a lane a channel at a time: its chunks are summed in
// order, into the first.
template <class T>
__global__ void __launch_bounds__(BLOCK_THREADS) group_merge_kernel(GroupArgs<T> args) {
  int64_t i = global_thread() / WARP_SIZE;
  if (i >= args.samples * args.groups) return;
  int lane = (int)threadIdx.x % WARP_SIZE, first = (int)(i % args.groups) * args.group_channels;
  float *sums = args.sums + i / args.groups * args.chunks * 2 * args.stored;
  double mean = 0.0, slope = 0.0;
  for (int c = first + lane; c < first + args.group_channels; c += WARP_SIZE) {
    double gamma = args.gamma ? args.gamma[c] : 1.0, dz = 0.0, dz_u = 0.0;
    for (int chunk = 0; chunk < args.chunks; chunk++) {
      const float *at = sums + (int64_t)chunk * 2 * args.stored + c;
      dz += at[0];
      dz_u += at[args.stored];
    }
    sums[c] = (float)dz;
    sums[args.stored + c] = (float)dz_u;
    mean += gamma * dz;
    slope += gamma * dz_u;
  }
  mean = warp_sum(mean);
  slope = warp_sum(slope);
  if (lane > 0) return;
  double count = (double)args.sample_pixels * args.group_channels;
  args.dz_mean[i] = (float)(mean / count);
  args.dz_slope[i] = (float)(slope * args.rstd[i] / count);
}

// dgamma and dbeta: a merge over the samples.
template <class T>
__global__ void __launch_bounds__(BLOCK_THREADS) group_parameters_kernel(GroupArgs<T> args) {
  int c = (int)merge_item(), samples = c < args.channels ? (int)args.samples : 0;
  int64_t sample_sums = (int64_t)args.chunks * 2 * args.stored;
  double dbeta = merge_chunks(args.sums + c, samples, sample_sums);
  double dgamma = merge_chunks(args.sums + args.stored + c, samples, sample_sums);
  if (merge_lane() > 0 || c >= args.channels) return;
  if (args.dgamma) args.dgamma[c] = (float)dgamma;
  if (args.dbeta) args.dbeta[c] = (float)dbeta;
}

// dx = rstd (gamma dz - mean - (x - mean(x)) slope).
template <class T, KernelActivation KIND>
__global__ void __launch_bounds__(BLOCK_THREADS) group_dx_kernel(GroupArgs<T> args) {
  const Columns &columns = args.columns;
  ColumnPlace place = column_place(columns);
  if (place.begin >= place.end) return;
  int64_t sample = blockIdx.z, base = sample * args.sample_packs + place.pack;
  GroupLanes<T> lanes = group_lanes(args, sample, place.pack);
  Pack<T> mean, slope;
  for (int l = 0; l < Pack<T>::LANES; l++) {
    int c = place.pack * Pack<T>::LANES + l;
    bool there = c < args.channels;
    int64_t group = sample * args.groups + (there ? c / args.group_channels : 0);
    mean.lane[l] = there ? args.dz_mean[group] : 0.0f;
    slope.lane[l] = there ? args.dz_slope[group] : 0.0f;
  }
  for (int64_t p = place.begin; p < place.end; p += columns.rows) {
    int64_t i = base + p * columns.packs;
    const GroupGradientBits<T> read = fetch_gradient(args, i);
    const Pack<T> x = unpack(read.x);
    Pack<T> dz = group_dz<T, KIND>(args, lanes, x, read.dy);
    for (int l = 0; l < Pack<T>::LANES; l++) { // lanes beyond C: rstd 0
      float u = x.lane[l] - lanes.mean.lane[l];
      dz.lane[l] = (lanes.gamma.lane[l] * dz.lane[l] - mean.lane[l] - u * slope.lane[l]) *
                   lanes.rstd.lane[l];
    }
    store(args.dx, i, dz);
  }
}

template <class T> GroupArgs<T> typed(const KernelGroupNorm *args) {
  GroupArgs<T> t = {};
  t.columns = columns_of<T>(args->sample_pixels, args->channels, SAMPLE_SUMMING);
  t.chunks = t.columns.chunks;
  t.stored = t.columns.packs * Pack<T>::LANES;
  t.samples = args->samples;
  t.sample_pixels = args->sample_pixels;
  t.sample_packs = args->sample_pixels * t.columns.packs;
  t.channels = args->channels;
  t.groups = args->groups;
  t.group_channels = args->channels / args->groups;
  t.epsilon = args->epsilon;
  t.x = (const T *)args->x;
  t.y = (T *)args->y;
  t.dy = (const T *)args->dy;
  t.dy2 = (const T *)args->dy2;
  t.dx = (T *)args->dx;
  t.gamma = args->gamma;
  t.beta = args->beta;
  t.mean = args->mean;
  t.rstd = args->rstd;
  t.dz_mean = args->scratch;
  t.dz_slope = t.dz_mean + args->samples * args->groups;
  t.sums = t.dz_slope + args->samples * args->groups;
  t.dgamma = args->dgamma;
  t.dbeta = args->dbeta;
  return t;
}

// Launches a kernel of columns on as many samples at a time as a grid holds.
template <class T, class Kernel>
void launch_columns(Kernel kernel, const GroupArgs<T> &t, KernelStream stream) {
  dim3 grid = columns_grid(t.columns);
  for (int64_t first = 0; first < t.samples; first += SAMPLES_MAX) {
    GroupArgs<T> part = t;
    int64_t left = t.samples - first;
    part.x += first * t.sample_packs * Pack<T>::LANES;
    if (t.y) part.y += first * t.sample_packs * Pack<T>::LANES;
    if (t.dx) part.dx += first * t.sample_packs * Pack<T>::LANES;
    if (t.dy) part.dy += first * t.sample_packs * Pack<T>::LANES;
    if (t.dy2) part.dy2 += first * t.sample_packs * Pack<T>::LANES;
    part.mean += first * t.groups;
    part.rstd += first * t.groups;
    part.sums += first * t.chunks * 2 * t.stored;
    part.dz_mean += first * t.groups;
    part.dz_slope += first * t.groups;
    grid.z = (unsigned)(left < SAMPLES_MAX ? left : SAMPLES_MAX);
    KERNEL_LAUNCH(kernel, grid, BLOCK_THREADS, stream, part);
  }
}

// Likewise where nothing is summed.
template <class T, class Kernel>
void launch_streaming(Kernel kernel, GroupArgs<T> t, KernelStream stream) {
  t.columns = columns_of<T>(t.sample_pixels, t.channels, SAMPLE_WRITING);
  launch_columns(kernel, t, stream);
}

// A warp a group of a sample.
template <class T> unsigned group_blocks(const GroupArgs<T> &t) {
  return blocks_for(t.samples * t.groups, BLOCK_THREADS / WARP_SIZE);
}

template <class T, KernelActivation KIND>
void apply(const KernelGroupNorm *args, KernelStream stream) {
  launch_streaming(group_apply_kernel<T, KIND>, typed<T>(args), stream);
}

template <class T, KernelActivation KIND>
void forward(const KernelGroupNorm *args, KernelStream stream) {
  GroupArgs<T> t = typed<T>(args);
  launch_columns(group_moments_kernel<T>, t, stream);
  KERNEL_LAUNCH(group_statistics_kernel<T>, group_blocks(t), BLOCK_THREADS, stream, t);
  apply<T, KIND>(args, stream);
}

template <class T, KernelActivation KIND>
void backward(const KernelGroupNorm *args, KernelStream stream) {
  GroupArgs<T> t = typed<T>(args);
  launch_columns(group_sums_kernel<T, KIND>, t, stream);
  KERNEL_LAUNCH(group_merge_kernel<T>, group_blocks(t), BLOCK_THREADS, stream, t);
  if (t.dgamma || t.dbeta)
    KERNEL_LAUNCH(group_parameters_kernel<T>, blocks_for(t.channels, MERGE_ITEMS), BLOCK_THREADS,
                  stream, t);
  if (t.dx) launch_streaming(group_dx_kernel<T, KIND>, t, stream);
}

} // namespace

extern "C" int64_t kernel_group_norm_scratch(const KernelGroupNorm *args) {
  int64_t stored = kernel_stored_channels(args->type, args->channels), chunks = 0;
#define CHUNKS(T) chunks = columns_of<T>(args->sample_pixels, args->channels, SAMPLE_SUMMING).chunks
  FOR_TYPE(args->type, CHUNKS)
#undef CHUNKS
  return 2 * args->samples * (args->groups + chunks * stored);
}

extern "C" void kernel_group_norm_forward(const KernelGroupNorm *args, KernelStream stream) {
#define LAUNCH(T, KIND) forward<T, KIND>(args, stream)
#define LAUNCH_KINDS(T) FOR_ACTIVATION(args->kind, T, LAUNCH)
  FOR_TYPE(args->type, LAUNCH_KINDS)
#undef LAUNCH
}

extern "C" void kernel_group_norm_apply(const KernelGroupNorm *args, KernelStream stream) {
#define LAUNCH(T, KIND) apply<T, KIND>(args, stream)
  FOR_TYPE(args->type, LAUNCH_KINDS)
#undef LAUNCH
}

extern "C" void kernel_group_norm_backward(const KernelGroupNorm *args, KernelStream stream) {
#define LAUNCH(T, KIND) backward<T, KIND>(args, stream)
  FOR_TYPE(args->type, LAUNCH_KINDS)
#undef LAUNCH_KINDS
#undef LAUNCH
}
