// Batch normalisation, fused with a residual sum and an activation (Ioffe and Szegedy, ICML 2015):
//   z = gamma (x - mean) rstd + beta [+ residual],  y = act(z)
//
// Passes over memory: forward reads x | reads x [, residual], writes y [, mask]; backward reads x,
// dy [, dy2, mask or residual] [writes dresidual] | the same again, writes dx. The mask is a byte a
// pack, 1/16 of a value.
//
// In every kernel a thread keeps to one pack of channels, whose numbers stay in registers, and goes
// down the pixels. Threads of a multiprocessor, in 16 bits: statistics and forward 1,024 or more,
// backward 512 or more. Those that write have a load of 16 bytes of each operand under way, those
// that only read have two.
#include "columns.cuh"

namespace {

// --- batch statistics -----------------------------------------------------------------------------

template <class T>
__global__ void __launch_bounds__(BLOCK_THREADS)
    moments_kernel(Columns columns, const T *x, float *partials) {
  enum { LANES = Pack<T>::LANES };
  __shared__ BlockMoments<T> block;
  ColumnPlace place = column_place(columns);
  int me = (int)threadIdx.x;
  fill_moments<2>(block, me, place.begin, place.end, columns.rows,
                  [&](int64_t p) { return fetch(x, p * columns.packs + place.pack); });
  merge_rows(block, me, columns.rows, columns.px);
  if (place.row > 0 || place.pack >= columns.packs) return;
  float *out = partials + (int64_t)blockIdx.y * 2 * columns.packs * LANES + place.pack * LANES;
  for (int l = 0; l < LANES; l++) {
    out[l] = block.mean[me][l];
    out[columns.packs * LANES + l] = block.deviation[me][l];
  }
}

struct StatisticsArgs {
  const float *partials;
  int chunks, stored, channels;
  int64_t pixels, chunk_pixels;
  double epsilon;
  float *mean, *rstd, *batch_mean, *batch_variance;
};

// Mean and sum of squared deviations of so many numbers, in double.
struct WideMoments {
  double mean, deviation, count;
};

__device__ __forceinline__ WideMoments merge(const WideMoments &a, const WideMoments &b) {
  if (b.count == 0.0) return a;
  double total = a.count + b.count, delta = b.mean - a.mean;
  return {a.mean + delta * (b.count / total),
          a.deviation + b.deviation + delta * delta * (a.count * b.count / total), total};
}

__global__ void __launch_bounds__(BLOCK_THREADS) statistics_kernel(StatisticsArgs args) {
  __shared__ WideMoments moments[BLOCK_THREADS];
  int me = (int)threadIdx.x, lane = merge_lane(), c = (int)merge_item();
  WideMoments total = {};
  for (int chunk = lane; c < args.channels && chunk < args.chunks; chunk += MERGE_LANES) {
    int64_t left = args.pixels - chunk * args.chunk_pixels;
    if (left <= 0) break;
    const float *partial = args.partials + (int64_t)chunk * 2 * args.stored;
    total = merge(total, {partial[c], partial[args.stored + c],
                          (double)(left < args.chunk_pixels ? left : args.chunk_pixels)});
  }
  moments[me] = total;
  for (int half = MERGE_LANES / 2; half > 0; half /= 2) {
    __syncthreads();
    if (lane < half) moments[me] = merge(moments[me], moments[me + half * MERGE_ITEMS]);
  }
  if (lane > 0 || c >= args.channels) return;
  total = moments[me];
  args.mean[c] = (float)total.mean;
  args.rstd[c] = (float)(1.0 / sqrt(total.deviation / total.count + args.epsilon));
  if (args.batch_mean) args.batch_mean[c] = (float)total.mean;
  if (args.batch_variance)
    args.batch_variance[c] =
        (float)(total.deviation / (total.count > 1.0 ? total.count - 1.0 : 1.0));
}

__global__ void __launch_bounds__(BLOCK_THREADS)
    moving_kernel(int channels, double epsilon, const float *moving_mean,
                  const float *moving_variance, float *mean, float *rstd) {
  int c = (int)global_thread();
  if (c >= channels) return;
  mean[c] = moving_mean[c];
  rstd[c] = (float)(1.0 / sqrt((double)moving_variance[c] + epsilon));
}

struct SumsArgs {
  int channels, stored;
  double pixels, epsilon;
  const float *sums;
  float *mean, *rstd, *batch_mean, *batch_variance;
};

// A thread a channel. The squares lose what the mean takes of them: sums are in fp32, of values
// whose mean is rarely above their deviation.
__global__ void __launch_bounds__(BLOCK_THREADS) from_sums_kernel(SumsArgs args) {
  int c = (int)global_thread();
  if (c >= args.channels) return;
  double mean = args.sums[c] / args.pixels;
  double deviation = args.sums[args.stored + c] - args.pixels * mean * mean;
  if (deviation < 0.0) deviation = 0.0;
  args.mean[c] = (float)mean;
  args.rstd[c] = (float)(1.0 / sqrt(deviation / args.pixels + args.epsilon));
  if (args.batch_mean) args.batch_mean[c] = (float)mean;
  if (args.batch_variance)
    args.batch_variance[c] = (float)(deviation / (args.pixels > 1.0 ? args.pixels - 1.0 : 1.0));
}

// --- into a convolution ---------------------------------------------------------------------------

// A thread a channel for the shift, and one a weight: once after the weights have changed.
__global__ void __launch_bounds__(BLOCK_THREADS) fold_kernel(KernelFold f) {
  int64_t i = global_thread();
  if (i >= (int64_t)f.rows * f.channels) return;
  int c = (int)(i % f.channels);
  double rstd = 1.0 / sqrt((double)f.variance[c] + f.epsilon);
  double scale = f.gamma ? f.gamma[c] * rstd : rstd;
  f.scaled[i] = (float)(f.weights[i] * scale);
  if (i >= f.channels) return;
  double centred = (f.bias ? f.bias[c] : 0.0f) - (double)f.mean[c];
  f.shift[c] = (float)((f.beta ? f.beta[c] : 0.0f) + centred * scale);
}

// --- forward --------------------------------------------------------------------------------------

template <class T> struct NormArgs {
  int channels;
  const T *x, *residual;
  T *y;
  int y_pitch; // packs
  const float *gamma, *beta, *mean, *rstd;
  uint8_t *mask;
};

template <class T> NormArgs<T> typed(const KernelNorm *args) {
  return {args->channels,
          (const T *)args->x,
          (const T *)args->residual,
          (T *)args->y,
          pitch_of<T>(args->y_pitch, args->channels),
          args->gamma,
          args->beta,
          args->mean,
          args->rstd,
          args->mask};
}

// What the channels of one pack share: z = scale (x - mean) + beta. Lanes beyond C: all 0, so z is 0.
template <class T> struct NormLanes {
  Pack<T> mean, scale, beta;
};

template <class T>
__device__ __forceinline__ NormLanes<T> norm_lanes(const NormArgs<T> &args, int pack) {
  int first = pack * Pack<T>::LANES;
  NormLanes<T> lanes;
  lanes.mean = load_channels<T>(args.mean, first, args.channels, 0.0f);
  lanes.beta = load_channels<T>(args.beta, first, args.channels, 0.0f);
  lanes.scale = load_channels<T>(args.rstd, first, args.channels, 0.0f);
  if (!args.gamma) return lanes;
  Pack<T> gamma = load_channels<T>(args.gamma, first, args.channels, 0.0f);
  for (int l = 0; l < Pack<T>::LANES; l++) lanes.scale.lane[l] *= gamma.lane[l];
  return lanes;
}

// Without a residual, zeros.
template <class T>
__device__ __forceinline__ PackBits<T> fetch_residual(const NormArgs<T> &args, int64_t i) {
  return args.residual ? fetch(args.residual, i) : PackBits<T>{};
}

template <class T>
__device__ __forceinline__ Pack<T> norm_z(const NormLanes<T> &lanes, const Pack<T> &x,
                                          const Pack<T> &residual) {
  Pack<T> z = residual;
  for (int l = 0; l < Pack<T>::LANES; l++)
    z.lane[l] += lanes.scale.lane[l] * (x.lane[l] - lanes.mean.lane[l]) + lanes.beta.lane[l];
  return z;
}

// Activations whose gradient a mask tells.
template <KernelActivation KIND> __device__ constexpr bool keeps_mask() {
  return KIND == KERNEL_RELU || KIND == KERNEL_RELU6;
}

template <class T, KernelActivation KIND>
__global__ void __launch_bounds__(BLOCK_THREADS)
    norm_forward_kernel(Columns columns, NormArgs<T> args) {
  ColumnPlace place = column_place(columns);
  if (place.begin >= place.end) return;
  NormLanes<T> lanes = norm_lanes(args, place.pack);
  for (int64_t p = place.begin; p < place.end; p += columns.rows) {
    int64_t i = p * columns.packs + place.pack;
    PackBits<T> x = fetch(args.x, i), residual = fetch_residual(args, i);
    Pack<T> z = norm_z(lanes, unpack(x), unpack(residual));
    unsigned mask = 0;
    for (int l = 0; l < Pack<T>::LANES; l++) {
      if (keeps_mask<KIND>() && slope<KIND>(z.lane[l]) != 0.0f) mask |= 1u << l;
      z.lane[l] = activate<KIND>(z.lane[l]);
      if (moves_zero<KIND>() && place.pack * Pack<T>::LANES + l >= args.channels) z.lane[l] = 0.0f;
    }
    store(args.y, p * args.y_pitch + place.pack, z);
    if (keeps_mask<KIND>() && args.mask) args.mask[i] = (uint8_t)mask;
  }
}

// --- backward -------------------------------------------------------------------------------------

template <class T> struct NormBackwardArgs {
  NormArgs<T> norm;
  const T *dy, *dy2;
  int dy_pitch; // packs
  T *dx, *dresidual;
  const float *dz_mean, *dz_slope; // of each channel: what dx loses; NULL: nothing
};

// What the gradient of z in one pack follows from. MASKED: by the mask, whatever the activation was.
template <class T> struct NormGradientBits {
  PackBits<T> x, residual;
  SumBits<T> dy;
  unsigned mask;
};

// Pack i of a value, which dy has `at` another place where it is a slice.
template <class T, KernelActivation KIND, bool MASKED>
__device__ __forceinline__ NormGradientBits<T> fetch_gradient(const NormBackwardArgs<T> &args,
                                                              bool reads_x, int64_t i, int64_t at) {
  NormGradientBits<T> read = {};
  if (reads_x) read.x = fetch(args.norm.x, i);
  read.dy = fetch_sum(args.dy, at, args.dy2, i);
  if (MASKED) read.mask = args.norm.mask[i];
  else if (KIND != KERNEL_LINEAR) read.residual = fetch_residual(args.norm, i);
  return read;
}

template <class T, KernelActivation KIND, bool MASKED>
__device__ __forceinline__ Pack<T> norm_dz(const NormBackwardArgs<T> &args,
                                           const NormLanes<T> &lanes, const Pack<T> &x,
                                           const NormGradientBits<T> &read) {
  Pack<T> dz = unpack_sum(read.dy, args.dy2 != nullptr);
  if (MASKED) {
    for (int l = 0; l < Pack<T>::LANES; l++)
      if (!(read.mask >> l & 1)) dz.lane[l] = 0.0f;
  } else if (KIND != KERNEL_LINEAR) {
    Pack<T> z = norm_z(lanes, x, unpack(read.residual));
    for (int l = 0; l < Pack<T>::LANES; l++) dz.lane[l] *= slope<KIND>(z.lane[l]);
  }
  return dz;
}

// Sums of dz and dz (x - mean).
template <class T, KernelActivation KIND, bool MASKED>
__global__ void __launch_bounds__(BLOCK_THREADS)
    norm_sums_kernel(Columns columns, NormBackwardArgs<T> args, float *partials) {
  enum { LANES = Pack<T>::LANES };
  __shared__ float sums[BLOCK_THREADS][2 * LANES];
  ColumnPlace place = column_place(columns);
  NormLanes<T> lanes = norm_lanes(args.norm, place.pack);
  Pack<T> sum = pack_of<T>(0.0f), sum_x = sum;
  in_batches<2>(
      place.begin, place.end, columns.rows,
      [&](int64_t p) {
        return fetch_gradient<T, KIND, MASKED>(args, true, p * columns.packs + place.pack,
                                               p * args.dy_pitch + place.pack);
      },
      [&](int64_t, const NormGradientBits<T> &read) {
        const Pack<T> x = unpack(read.x), dz = norm_dz<T, KIND, MASKED>(args, lanes, x, read);
        for (int l = 0; l < LANES; l++) {
          sum.lane[l] += dz.lane[l];
          sum_x.lane[l] += dz.lane[l] * (x.lane[l] - lanes.mean.lane[l]);
        }
      });
  float *mine = sums[threadIdx.x];
  for (int l = 0; l < LANES; l++) {
    mine[l] = sum.lane[l];
    mine[LANES + l] = sum_x.lane[l];
  }
  for (int half = columns.rows / 2; half > 0; half /= 2) {
    __syncthreads();
    if (place.row >= half) continue;
    const float *other = sums[(int)threadIdx.x + half * columns.px];
    for (int l = 0; l < 2 * LANES; l++) mine[l] += other[l];
  }
  if (place.row > 0 || place.pack >= columns.packs) return;
  float *out = partials + (int64_t)blockIdx.y * 2 * columns.packs * LANES + place.pack * LANES;
  for (int l = 0; l < LANES; l++) {
    out[l] = mine[l];
    out[columns.packs * LANES + l] = mine[LANES + l];
  }
}

struct MergeArgs {
  float *partials; // the means and slopes take the place of the first chunk
  int chunks, stored, channels;
  double pixels;
  const float *rstd;
  float *dgamma, *dbeta;
};

__global__ void __launch_bounds__(BLOCK_THREADS) norm_merge_kernel(MergeArgs args) {
  int c = (int)merge_item(), chunks = c < args.stored ? args.chunks : 0;
  double sum = merge_chunks(args.partials + c, chunks, 2 * args.stored);
  double sum_x = merge_chunks(args.partials + args.stored + c, chunks, 2 * args.stored);
  if (merge_lane() > 0 || c >= args.stored) return;
  double rstd = c < args.channels ? args.rstd[c] : 0.0;
  args.partials[c] = (float)(sum / args.pixels);
  args.partials[args.stored + c] = (float)(sum_x * rstd * rstd / args.pixels);
  if (c >= args.channels) return;
  if (args.dgamma) args.dgamma[c] = (float)(sum_x * rstd);
  if (args.dbeta) args.dbeta[c] = (float)sum;
}

// dx = gamma rstd (dz - mean(dz) - (x - mean) rstd^2 mean(dz (x - mean))), or gamma rstd dz; hands dz
// to the residual.
template <class T, KernelActivation KIND, bool MASKED>
__global__ void __launch_bounds__(BLOCK_THREADS)
    norm_dx_kernel(Columns columns, NormBackwardArgs<T> args) {
  ColumnPlace place = column_place(columns);
  if (place.begin >= place.end) return;
  NormLanes<T> lanes = norm_lanes(args.norm, place.pack);
  int first = place.pack * Pack<T>::LANES, stored = columns.packs * Pack<T>::LANES;
  Pack<T> dz_mean = load_channels<T>(args.dz_mean, first, stored, 0.0f);
  Pack<T> dz_slope = load_channels<T>(args.dz_slope, first, stored, 0.0f);
  bool reads_x = args.dz_mean || (KIND != KERNEL_LINEAR && !MASKED);
  for (int64_t p = place.begin; p < place.end; p += columns.rows) {
    int64_t i = p * columns.packs + place.pack, at = p * args.dy_pitch + place.pack;
    auto read = fetch_gradient<T, KIND, MASKED>(args, reads_x, i, at);
    // What nobody asks for counts as the mean.
    const Pack<T> x = reads_x ? unpack(read.x) : lanes.mean;
    Pack<T> dz = norm_dz<T, KIND, MASKED>(args, lanes, x, read), dx;
    for (int l = 0; l < Pack<T>::LANES; l++)
      dx.lane[l] = lanes.scale.lane[l] * (dz.lane[l] - dz_mean.lane[l] -
                                          (x.lane[l] - lanes.mean.lane[l]) * dz_slope.lane[l]);
    // dz and dx may both lie on dy: each thread has read its pack by now.
    if (args.dresidual) store(args.dresidual, i, dz);
    if (args.dx) store(args.dx, i, dx);
  }
}

// --- sums of columns ------------------------------------------------------------------------------

template <class T>
__global__ void __launch_bounds__(BLOCK_THREADS)
    column_sums_kernel(Columns columns, const T *x, float *partials) {
  enum { LANES = Pack<T>::LANES };
  __shared__ float sums[BLOCK_THREADS][LANES];
  ColumnPlace place = column_place(columns);
  Pack<T> sum = pack_of<T>(0.0f);
  in_batches<2>(
      place.begin, place.end, columns.rows,
      [&](int64_t p) { return fetch(x, p * columns.packs + place.pack); },
      [&](int64_t, const PackBits<T> &bits) { add_to(sum, unpack(bits)); });
  float *mine = sums[threadIdx.x];
  for (int l = 0; l < LANES; l++) mine[l] = sum.lane[l];
  for (int half = columns.rows / 2; half > 0; half /= 2) {
    __syncthreads();
    if (place.row >= half) continue;
    const float *other = sums[(int)threadIdx.x + half * columns.px];
    for (int l = 0; l < LANES; l++) mine[l] += other[l];
  }
  if (place.row > 0 || place.pack >= columns.packs) return;
  float *out = partials + (int64_t)blockIdx.y * columns.packs * LANES + place.pack * LANES;
  for (int l = 0; l < LANES; l++) out[l] = mine[l];
}

__global__ void __launch_bounds__(BLOCK_THREADS)
    merge_columns_kernel(float *sums, const float *partials, int chunks, int stored, int channels) {
  int c = (int)merge_item();
  double sum = merge_chunks(partials + c, c < channels ? chunks : 0, stored);
  if (merge_lane() == 0 && c < channels) sums[c] = (float)sum;
}

Columns columns_of_type(KernelType type, int64_t pixels, int channels) {
  Columns columns;
#define COLUMNS(T) columns = columns_of<T>(pixels, channels)
  FOR_TYPE(type, COLUMNS)
#undef COLUMNS
  return columns;
}

} // namespace

extern "C" int64_t kernel_column_scratch(KernelType type, int64_t pixels, int channels) {
  return 2 * columns_of_type(type, pixels, channels).chunks * kernel_stored_channels(type, channels);
}

extern "C" void kernel_norm_statistics(const KernelNorm *args, double epsilon, float *batch_mean,
                                       float *batch_variance, KernelStream stream) {
  Columns columns = columns_of_type(args->type, args->pixels, args->channels);
#define LAUNCH(T)                                                                                  \
  {                                                                                                \
    const T *x = (const T *)args->x;                                                               \
    float *scratch = args->scratch;                                                                \
    KERNEL_LAUNCH(moments_kernel<T>, columns_grid(columns), BLOCK_THREADS, stream, columns, x,     \
                  scratch);                                                                        \
  }
  FOR_TYPE(args->type, LAUNCH)
#undef LAUNCH
  StatisticsArgs merge = {args->scratch,
                          columns.chunks,
                          (int)kernel_stored_channels(args->type, args->channels),
                          args->channels,
                          args->pixels,
                          columns.chunk_pixels,
                          epsilon,
                          args->mean,
                          args->rstd,
                          batch_mean,
                          batch_variance};
  KERNEL_LAUNCH(statistics_kernel, blocks_for(args->channels, MERGE_ITEMS), BLOCK_THREADS, stream,
                merge);
}

extern "C" void kernel_norm_moving(const KernelNorm *args, double epsilon, const float *moving_mean,
                                   const float *moving_variance, KernelStream stream) {
  int channels = args->channels;
  float *mean = args->mean, *rstd = args->rstd;
  KERNEL_LAUNCH(moving_kernel, blocks_for(channels, BLOCK_THREADS), BLOCK_THREADS, stream, channels,
                epsilon, moving_mean, moving_variance, mean, rstd);
}

extern "C" void kernel_norm_from_sums(const KernelNorm *args, double epsilon, const float *sums,
                                      float *batch_mean, float *batch_variance,
                                      KernelStream stream) {
  int stored = (int)kernel_stored_channels(args->type, args->channels);
  SumsArgs sums_args = {args->channels, stored,     (double)args->pixels, epsilon,       sums,
                        args->mean,     args->rstd, batch_mean,           batch_variance};
  KERNEL_LAUNCH(from_sums_kernel, blocks_for(args->channels, BLOCK_THREADS), BLOCK_THREADS, stream,
                sums_args);
}

extern "C" void kernel_norm_fold(const KernelFold *args, KernelStream stream) {
  KernelFold by_value = *args;
  int64_t count = (int64_t)args->rows * args->channels;
  KERNEL_LAUNCH(fold_kernel, blocks_for(count, BLOCK_THREADS), BLOCK_THREADS, stream, by_value);
}

extern "C" void kernel_norm_forward(const KernelNorm *args, KernelStream stream) {
#define LAUNCH(T, KIND)                                                                            \
  {                                                                                                \
    NormArgs<T> t = typed<T>(args);                                                                \
    Columns columns = columns_of<T>(args->pixels, args->channels, STREAMING);                      \
    auto kernel = norm_forward_kernel<T, KIND>;                                                    \
    KERNEL_LAUNCH(kernel, columns_grid(columns), BLOCK_THREADS, stream, columns, t);               \
  }
#define LAUNCH_KINDS(T) FOR_ACTIVATION(args->kind, T, LAUNCH)
  FOR_TYPE(args->type, LAUNCH_KINDS)
#undef LAUNCH_KINDS
#undef LAUNCH
}

template <class T, KernelActivation KIND, bool MASKED>
static void norm_backward(const KernelNormBackward *args, KernelStream stream) {
  const KernelNorm *norm = &args->norm;
  NormBackwardArgs<T> t = {typed<T>(norm),
                           (const T *)args->dy,
                           (const T *)args->dy2,
                           pitch_of<T>(args->dy_pitch, norm->channels),
                           (T *)args->dx,
                           (T *)args->dresidual,
                           nullptr,
                           nullptr};
  bool through_statistics = args->batch_statistics && args->dx;
  if (through_statistics || args->dgamma || args->dbeta) {
    Columns columns = columns_of<T>(norm->pixels, norm->channels);
    int stored = columns.packs * Pack<T>::LANES;
    float *scratch = norm->scratch;
    auto sums = norm_sums_kernel<T, KIND, MASKED>;
    KERNEL_LAUNCH(sums, columns_grid(columns), BLOCK_THREADS, stream, columns, t, scratch);
    MergeArgs merge = {scratch,    columns.chunks, stored,       norm->channels, (double)norm->pixels,
                       norm->rstd, args->dgamma,   args->dbeta};
    KERNEL_LAUNCH(norm_merge_kernel, blocks_for(stored, MERGE_ITEMS), BLOCK_THREADS, stream,
                  merge);
    if (through_statistics) {
      t.dz_mean = scratch;
      t.dz_slope = scratch + stored;
    }
  }
  if (!args->dx && !args->dresidual) return;
  Columns columns = columns_of<T>(norm->pixels, norm->channels, STREAMING);
  auto kernel = norm_dx_kernel<T, KIND, MASKED>;
  KERNEL_LAUNCH(kernel, columns_grid(columns), BLOCK_THREADS, stream, columns, t);
}

extern "C" void kernel_norm_backward(const KernelNormBackward *args, KernelStream stream) {
#define LAUNCH(T, KIND) norm_backward<T, KIND, false>(args, stream)
#define LAUNCH_KINDS(T)                                                                            \
  if (args->norm.mask) norm_backward<T, KERNEL_LINEAR, true>(args, stream);                        \
  else FOR_ACTIVATION(args->norm.kind, T, LAUNCH)
  FOR_TYPE(args->norm.type, LAUNCH_KINDS)
#undef LAUNCH_KINDS
#undef LAUNCH
}

extern "C" void kernel_column_sums(KernelType type, float *sums, const void *x, int64_t pixels,
                                   int channels, float *scratch, KernelStream stream) {
  Columns columns = columns_of_type(type, pixels, channels);
#define LAUNCH(T)                                                                                  \
  {                                                                                                \
    const T *from = (const T *)x;                                                                  \
    KERNEL_LAUNCH(column_sums_kernel<T>, columns_grid(columns), BLOCK_THREADS, stream, columns,    \
                  from, scratch);                                                                  \
  }
  FOR_TYPE(type, LAUNCH)
#undef LAUNCH
  int stored = (int)kernel_stored_channels(type, channels), chunks = columns.chunks;
  KERNEL_LAUNCH(merge_columns_kernel, blocks_for(channels, MERGE_ITEMS), BLOCK_THREADS, stream,
                sums, scratch, chunks, stored, channels);
}
