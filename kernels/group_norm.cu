// Group normalisation (Wu and He, ECCV 2018) with an activation: statistics over the pixels and the
// channels of a group, of each sample alone.
//
// Forward: a block sums 8 packs of channels of one sample; a second kernel merges channels into
// groups; a third scales. Backward likewise, with sums of dz and dz (x - mean).
//
// Passes over memory: forward reads x | reads x, writes y; backward reads x, dy [, dy2] | the same
// again, writes dx. Sums a sample and parameters are small beside values. Threads of a
// multiprocessor: 512 or more. A small batch has few blocks that sum, so a thread of theirs keeps
// four packs of x under way, or two of each operand backward.
#include "columns.cuh"

namespace {

enum { TILE_PACKS = 8, TILE_ROWS = BLOCK_THREADS / TILE_PACKS };

template <class T> struct GroupArgs {
  int64_t sample_packs, sample_pixels;
  int packs, channels, groups, group_channels, stored;
  double epsilon;
  const T *x, *dy, *dy2;
  T *y, *dx;
  const float *gamma, *beta;
  float *mean, *rstd, *sums; // sums: (samples, 2, stored channels)
  float *dgamma, *dbeta;
  int64_t samples;
};

// mean and rstd of a pack's channels, gamma and beta; zeros beyond C.
template <class T> struct GroupLanes {
  Pack<T> mean, rstd, gamma, beta;
};

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

// Mean and deviation of each channel of a sample.
template <class T>
__global__ void __launch_bounds__(TILE_PACKS *TILE_ROWS) group_moments_kernel(GroupArgs<T> args) {
  enum { LANES = Pack<T>::LANES };
  __shared__ BlockMoments<T> block;
  int ty = (int)threadIdx.y, me = ty * TILE_PACKS + (int)threadIdx.x;
  int pack = (int)(blockIdx.x * TILE_PACKS + threadIdx.x);
  int64_t sample = blockIdx.y, base = sample * args.sample_packs + pack;
  int64_t end = pack < args.packs ? args.sample_pixels : 0;
  fill_moments<4>(block, me, ty, end, TILE_ROWS,
                  [&](int64_t p) { return fetch(args.x, base + p * args.packs); });
  merge_rows(block, me, TILE_ROWS, TILE_PACKS);
  if (ty > 0 || pack >= args.packs) return;
  float *out = args.sums + sample * 2 * args.stored + pack * LANES;
  for (int l = 0; l < LANES; l++) {
    out[l] = block.mean[me][l];
    out[args.stored + l] = block.deviation[me][l];
  }
}

// A thread a group of a sample. All channels have the same number of pixels.
template <class T>
__global__ void __launch_bounds__(BLOCK_THREADS) group_statistics_kernel(GroupArgs<T> args) {
  int64_t i = global_thread();
  if (i >= args.samples * args.groups) return;
  const float *mean = args.sums + i / args.groups * 2 * args.stored, *deviation = mean + args.stored;
  int first = (int)(i % args.groups) * args.group_channels;
  double pixels = (double)args.sample_pixels, group_mean = 0.0, group_deviation = 0.0;
  for (int c = 0; c < args.group_channels; c++) {
    double delta = mean[first + c] - group_mean;
    group_mean += delta / (c + 1);
    group_deviation += deviation[first + c] + delta * delta * pixels * c / (c + 1);
  }
  args.mean[i] = (float)group_mean;
  args.rstd[i] =
      (float)(1.0 / sqrt(group_deviation / (pixels * args.group_channels) + args.epsilon));
}

// Blocks along z share the pixels of a sample.
__device__ __forceinline__ int64_t tile_first_pixel() {
  return (int64_t)blockIdx.z * TILE_ROWS + threadIdx.y;
}
__device__ __forceinline__ int64_t tile_pixel_stride() { return (int64_t)gridDim.z * TILE_ROWS; }

template <class T, KernelActivation KIND>
__global__ void __launch_bounds__(TILE_PACKS *TILE_ROWS) group_apply_kernel(GroupArgs<T> args) {
  int pack = (int)(blockIdx.x * TILE_PACKS + threadIdx.x);
  if (pack >= args.packs) return;
  int64_t sample = blockIdx.y, base = sample * args.sample_packs + pack;
  GroupLanes<T> lanes = group_lanes(args, sample, pack);
  for (int64_t p = tile_first_pixel(); p < args.sample_pixels; p += tile_pixel_stride()) {
    Pack<T> x = load(args.x, base + p * args.packs);
    for (int l = 0; l < Pack<T>::LANES; l++) {
      float u = (x.lane[l] - lanes.mean.lane[l]) * lanes.rstd.lane[l];
      float y = activate<KIND>(lanes.gamma.lane[l] * u + lanes.beta.lane[l]);
      bool there = !moves_zero<KIND>() || pack * Pack<T>::LANES + l < args.channels;
      x.lane[l] = there ? y : 0.0f;
    }
    store(args.y, base + p * args.packs, x);
  }
}

// --- backward -------------------------------------------------------------------------------------

template <class T> struct GroupGradientBits {
  PackBits<T> x;
  SumBits<T> dy;
};

template <class T>
__device__ __forceinline__ GroupGradientBits<T> fetch_gradient(const GroupArgs<T> &args, int64_t i) {
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

// Sums of dz and dz (x - mean) of each channel of a sample.
template <class T, KernelActivation KIND>
__global__ void __launch_bounds__(TILE_PACKS *TILE_ROWS) group_sums_kernel(GroupArgs<T> args) {
  enum { LANES = Pack<T>::LANES };
  __shared__ float sums[TILE_ROWS][TILE_PACKS][2 * LANES];
  int pack = (int)(blockIdx.x * TILE_PACKS + threadIdx.x), ty = (int)threadIdx.y;
  int64_t sample = blockIdx.y, base = sample * args.sample_packs + pack;
  GroupLanes<T> lanes = group_lanes(args, sample, pack);
  int64_t end = pack < args.packs ? args.sample_pixels : 0;
  Pack<T> sum = pack_of<T>(0.0f), sum_x = sum;
  in_batches<2>(
      ty, end, TILE_ROWS, [&](int64_t p) { return fetch_gradient(args, base + p * args.packs); },
      [&](int64_t, const GroupGradientBits<T> &read) {
        const Pack<T> x = unpack(read.x), dz = group_dz<T, KIND>(args, lanes, x, read.dy);
        for (int l = 0; l < LANES; l++) {
          sum.lane[l] += dz.lane[l];
          sum_x.lane[l] += dz.lane[l] * (x.lane[l] - lanes.mean.lane[l]);
        }
      });
  float *mine = sums[ty][threadIdx.x];
  for (int l = 0; l < LANES; l++) {
    mine[l] = sum.lane[l];
    mine[LANES + l] = sum_x.lane[l];
  }
  for (int half = TILE_ROWS / 2; half > 0; half /= 2) {
    __syncthreads();
    if (ty >= half) continue;
    const float *other = sums[ty + half][threadIdx.x];
    for (int l = 0; l < 2 * LANES; l++) mine[l] += other[l];
  }
  if (ty > 0 || pack >= args.packs) return;
  float *out = args.sums + sample * 2 * args.stored + pack * LANES;
  for (int l = 0; l < LANES; l++) {
    out[l] = mine[l];
    out[args.stored + l] = mine[LANES + l];
  }
}

// dgamma and dbeta: a thread a channel, samples in order.
template <class T>
__global__ void __launch_bounds__(BLOCK_THREADS) group_parameters_kernel(GroupArgs<T> args) {
  int c = (int)global_thread();
  if (c >= args.channels) return;
  double dgamma = 0.0, dbeta = 0.0;
  for (int64_t n = 0; n < args.samples; n++) {
    const float *sums = args.sums + n * 2 * args.stored;
    dbeta += sums[c];
    dgamma += (double)sums[args.stored + c] * args.rstd[n * args.groups + c / args.group_channels];
  }
  if (args.dgamma) args.dgamma[c] = (float)dgamma;
  if (args.dbeta) args.dbeta[c] = (float)dbeta;
}

// What dx loses, a thread a group; it takes the place of the sums of the group's first channel.
template <class T>
__global__ void __launch_bounds__(BLOCK_THREADS) group_merge_kernel(GroupArgs<T> args) {
  int64_t i = global_thread();
  if (i >= args.samples * args.groups) return;
  float *sums = args.sums + i / args.groups * 2 * args.stored;
  int first = (int)(i % args.groups) * args.group_channels;
  double total = (double)args.sample_pixels * args.group_channels, rstd = args.rstd[i];
  double mean = 0.0, slope = 0.0;
  for (int c = first; c < first + args.group_channels; c++) {
    double gamma = args.gamma ? args.gamma[c] : 1.0;
    mean += gamma * sums[c];
    slope += gamma * sums[args.stored + c];
  }
  sums[first] = (float)(mean / total);
  sums[args.stored + first] = (float)(slope * rstd * rstd / total);
}

// dx = rstd (gamma dz - mean - (x - mean(x)) slope).
template <class T, KernelActivation KIND>
__global__ void __launch_bounds__(TILE_PACKS *TILE_ROWS) group_dx_kernel(GroupArgs<T> args) {
  int pack = (int)(blockIdx.x * TILE_PACKS + threadIdx.x);
  if (pack >= args.packs) return;
  int64_t sample = blockIdx.y, base = sample * args.sample_packs + pack;
  GroupLanes<T> lanes = group_lanes(args, sample, pack);
  const float *sums = args.sums + sample * 2 * args.stored;
  Pack<T> mean, slope;
  for (int l = 0; l < Pack<T>::LANES; l++) {
    int c = pack * Pack<T>::LANES + l, first = c / args.group_channels * args.group_channels;
    mean.lane[l] = c < args.channels ? sums[first] : 0.0f;
    slope.lane[l] = c < args.channels ? sums[args.stored + first] : 0.0f;
  }
  for (int64_t p = tile_first_pixel(); p < args.sample_pixels; p += tile_pixel_stride()) {
    int64_t i = base + p * args.packs;
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
  t.packs = packs_of<T>(args->channels);
  t.stored = t.packs * Pack<T>::LANES;
  t.samples = args->samples;
  t.sample_pixels = args->sample_pixels;
  t.sample_packs = args->sample_pixels * t.packs;
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
  t.sums = args->scratch;
  t.dgamma = args->dgamma;
  t.dbeta = args->dbeta;
  return t;
}

// Blocks that share a sample's pixels where nothing is summed: at least 8 pixels a thread.
template <class T> unsigned tile_shares(const GroupArgs<T> &t) {
  int64_t shares = t.sample_pixels / (8 * TILE_ROWS);
  return shares < 1 ? 1 : shares > 64 ? 64 : (unsigned)shares;
}

// Launches a kernel of tiles on as many samples at a time as a grid holds.
template <class T, class Kernel>
void launch_tiles(Kernel kernel, const GroupArgs<T> &t, unsigned shares, KernelStream stream) {
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
    part.sums += first * 2 * t.stored;
    dim3 grid(blocks_for(t.packs, TILE_PACKS), (unsigned)(left < SAMPLES_MAX ? left : SAMPLES_MAX),
              shares);
    KERNEL_LAUNCH(kernel, grid, dim3(TILE_PACKS, TILE_ROWS), stream, part);
  }
}

template <class T, KernelActivation KIND>
void apply(const KernelGroupNorm *args, KernelStream stream) {
  GroupArgs<T> t = typed<T>(args);
  launch_tiles(group_apply_kernel<T, KIND>, t, tile_shares(t), stream);
}

template <class T, KernelActivation KIND>
void forward(const KernelGroupNorm *args, KernelStream stream) {
  GroupArgs<T> t = typed<T>(args);
  launch_tiles(group_moments_kernel<T>, t, 1, stream);
  KERNEL_LAUNCH(group_statistics_kernel<T>, blocks_for(t.samples * t.groups, BLOCK_THREADS),
                BLOCK_THREADS, stream, t);
  apply<T, KIND>(args, stream);
}

template <class T, KernelActivation KIND>
void backward(const KernelGroupNorm *args, KernelStream stream) {
  GroupArgs<T> t = typed<T>(args);
  launch_tiles(group_sums_kernel<T, KIND>, t, 1, stream);
  if (t.dgamma || t.dbeta)
    KERNEL_LAUNCH(group_parameters_kernel<T>, blocks_for(t.channels, BLOCK_THREADS), BLOCK_THREADS,
                  stream, t);
  if (!t.dx) return;
  KERNEL_LAUNCH(group_merge_kernel<T>, blocks_for(t.samples * t.groups, BLOCK_THREADS),
                BLOCK_THREADS, stream, t);
  launch_tiles(group_dx_kernel<T, KIND>, t, tile_shares(t), stream);
}

} // namespace

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
