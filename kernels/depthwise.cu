// Depthwise convolution, NHWC: forward, data gradient, weight gradient.
//
// Weights come packed as values are, a tap a pixel: one 16-byte load a tap and pack, which neighbours
// in a warp share out of the L1 cache.
//
// Forward: a thread makes one pack of channels of a strip of outputs along W; the window of a strip
// comes from the L1 cache, so memory sees x and y once each. The data gradient of stride 1 is the
// forward pass with the kernel turned around; of other strides a thread gathers one pixel from the
// outputs that it reached. Weight gradient: a block sums one kernel row over a chunk of the output
// rows, a second kernel merges the chunks. The blocks of a chunk's kernel rows are neighbours, so x
// and dy come from memory once and from the L2 cache for the other rows.
//
// Threads of a multiprocessor in 16 bits: 768 (3x3) to 512 (7x7), each with up to 9 loads under way.
#include "columns.cuh"

namespace {

enum { STRIP = 4 };

template <class T> struct DepthwiseArgs {
  int64_t count; // threads
  int samples, in_h, in_w, out_h, out_w, packs, channels;
  int kernel_w, stride_h, stride_w, dilation, top, left;
  const float *bias;
  const T *weights, *x;
  T *y;
};

// The weight pack of a tap. TURNED: the kernel turned around, for the data gradient.
template <class T, int K, bool TURNED>
__device__ __forceinline__ Pack<T> load_tap(const DepthwiseArgs<T> &args, int r, int s, int pack) {
  int tap = TURNED ? (K - 1 - r) * K + (K - 1 - s) : r * K + s;
  return load(args.weights, (int64_t)tap * args.packs + pack);
}

// K x K taps, stride S.
template <class T, int K, int S, bool TURNED>
__global__ void __launch_bounds__(BLOCK_THREADS) strip_kernel(DepthwiseArgs<T> args) {
  int64_t i = global_thread();
  if (i >= args.count) return;
  int pack = (int)(i % args.packs), first = pack * Pack<T>::LANES;
  int64_t strip = i / args.packs;
  int strips = (args.out_w + STRIP - 1) / STRIP;
  int w0 = (int)(strip % strips) * STRIP;
  int64_t row = strip / strips;
  int h = (int)(row % args.out_h);
  int64_t sample = row / args.out_h;
  Pack<T> y[STRIP];
  for (int o = 0; o < STRIP; o++)
    y[o] = load_channels<T>(args.bias, first, args.channels, 0.0f);
#pragma unroll
  for (int r = 0; r < K; r++) {
    int in_row = h * S - args.top + r;
    if (in_row < 0 || in_row >= args.in_h) continue;
    Pack<T> taps[K];
#pragma unroll
    for (int s = 0; s < K; s++)
      taps[s] = load_tap<T, K, TURNED>(args, r, s, pack);
    const int64_t base = (sample * args.in_h + in_row) * args.in_w;
#pragma unroll
    for (int column = 0; column < (STRIP - 1) * S + K; column++) {
      int in_column = w0 * S - args.left + column;
      if (in_column < 0 || in_column >= args.in_w) continue;
      Pack<T> x = load(args.x, (base + in_column) * args.packs + pack);
#pragma unroll
      for (int o = 0; o < STRIP; o++) {
        int s = column - o * S;
        if (s < 0 || s >= K) continue;
        for (int l = 0; l < Pack<T>::LANES; l++) y[o].lane[l] += x.lane[l] * taps[s].lane[l];
      }
    }
  }
  int64_t out = ((sample * args.out_h + h) * args.out_w + w0) * args.packs + pack;
#pragma unroll
  for (int o = 0; o < STRIP; o++)
    if (w0 + o < args.out_w) store(args.y, out + (int64_t)o * args.packs, y[o]);
}

// Any window: an output pixel a thread.
template <class T>
__global__ void __launch_bounds__(BLOCK_THREADS)
    window_kernel(DepthwiseArgs<T> args, int kernel_h) {
  int64_t i = global_thread();
  if (i >= args.count) return;
  int pack = (int)(i % args.packs), first = pack * Pack<T>::LANES;
  int64_t pixel = i / args.packs, row = pixel / args.out_w;
  int w = (int)(pixel % args.out_w), h = (int)(row % args.out_h);
  int64_t sample = row / args.out_h;
  Pack<T> y = load_channels<T>(args.bias, first, args.channels, 0.0f);
  for (int r = 0; r < kernel_h; r++) {
    int in_row = h * args.stride_h - args.top + r * args.dilation;
    if (in_row < 0 || in_row >= args.in_h) continue;
    for (int s = 0; s < args.kernel_w; s++) {
      int column = w * args.stride_w - args.left + s * args.dilation;
      if (column < 0 || column >= args.in_w) continue;
      Pack<T> x = load(args.x, ((sample * args.in_h + in_row) * args.in_w + column) * args.packs + pack);
      Pack<T> tap = load(args.weights, (int64_t)(r * args.kernel_w + s) * args.packs + pack);
      for (int l = 0; l < Pack<T>::LANES; l++) y.lane[l] += x.lane[l] * tap.lane[l];
    }
  }
  store(args.y, i, y);
}

// The data gradient of any window: x is dy (out_h, out_w), y is dx (in_h, in_w), a pixel a thread.
template <class T>
__global__ void __launch_bounds__(BLOCK_THREADS)
    gather_kernel(DepthwiseArgs<T> args, int kernel_h) {
  int64_t i = global_thread();
  if (i >= args.count) return;
  int pack = (int)(i % args.packs);
  int64_t pixel = i / args.packs, row = pixel / args.in_w;
  int w = (int)(pixel % args.in_w), h = (int)(row % args.in_h);
  int64_t sample = row / args.in_h;
  Pack<T> dx = pack_of<T>(0.0f);
  for (int r = 0; r < kernel_h; r++) {
    int reach = h + args.top - r * args.dilation, out_row = reach / args.stride_h;
    if (reach < 0 || reach % args.stride_h != 0 || out_row >= args.out_h) continue;
    for (int s = 0; s < args.kernel_w; s++) {
      int across = w + args.left - s * args.dilation, column = across / args.stride_w;
      if (across < 0 || across % args.stride_w != 0 || column >= args.out_w) continue;
      Pack<T> dy =
          load(args.x, ((sample * args.out_h + out_row) * args.out_w + column) * args.packs + pack);
      Pack<T> tap = load(args.weights, (int64_t)(r * args.kernel_w + s) * args.packs + pack);
      for (int l = 0; l < Pack<T>::LANES; l++) dx.lane[l] += dy.lane[l] * tap.lane[l];
    }
  }
  store(args.y, i, dx);
}

// --- weight gradient ------------------------------------------------------------------------------

// Blocks of `px` packs by 256 / px output rows; one kernel row, the fastest in the grid; one chunk of
// the samples' rows.
struct WeightsPlan {
  int packs, px, rows, tiles, chunks;
  int64_t out_rows, chunk_rows; // out_rows: samples x out_h
};

enum { WEIGHTS_BLOCKS = 1024, WEIGHTS_COLUMNS_MAX = 7 };

template <class T> WeightsPlan weights_plan(const KernelDepthwise *args) {
  WeightsPlan plan = {};
  plan.packs = packs_of<T>(args->channels);
  plan.px = 1;
  while (plan.px < plan.packs && plan.px < WARP_SIZE) plan.px *= 2;
  plan.rows = BLOCK_THREADS / plan.px;
  plan.tiles = (plan.packs + plan.px - 1) / plan.px;
  plan.out_rows = args->samples * args->out_h;
  int64_t most = (plan.out_rows + plan.rows - 1) / plan.rows;
  int64_t wanted = (WEIGHTS_BLOCKS + plan.tiles * args->kernel_h - 1) / (plan.tiles * args->kernel_h);
  plan.chunks = (int)(wanted < most ? wanted : most);
  if (plan.chunks < 1) plan.chunks = 1;
  plan.chunk_rows = (plan.out_rows + plan.chunks - 1) / plan.chunks;
  return plan;
}

template <class T> struct WeightsArgs {
  WeightsPlan plan;
  int in_h, in_w, out_h, out_w, kernel_h, kernel_w, stride_h, stride_w, dilation, top, left;
  const T *x, *dy;
  float *partials; // [chunk][r][s][stored channel]
};

// K: taps along W.
template <class T, int K>
__global__ void __launch_bounds__(BLOCK_THREADS) weights_kernel(WeightsArgs<T> args) {
  enum { LANES = Pack<T>::LANES };
  __shared__ float sums[BLOCK_THREADS][LANES];
  const WeightsPlan &plan = args.plan;
  int r = (int)blockIdx.x % args.kernel_h, tile = (int)blockIdx.x / args.kernel_h;
  int pack = tile * plan.px + (int)threadIdx.x % plan.px;
  int lane_row = (int)threadIdx.x / plan.px;
  int64_t end = (int64_t)(blockIdx.y + 1) * plan.chunk_rows;
  if (end > plan.out_rows) end = plan.out_rows;
  if (pack >= plan.packs) end = 0;
  Pack<T> dw[K];
#pragma unroll
  for (int s = 0; s < K; s++) dw[s] = pack_of<T>(0.0f);
  for (int64_t row = (int64_t)blockIdx.y * plan.chunk_rows + lane_row; row < end; row += plan.rows) {
    int in_row = (int)(row % args.out_h) * args.stride_h - args.top + r * args.dilation;
    if (in_row < 0 || in_row >= args.in_h) continue;
    int64_t base = (row / args.out_h * args.in_h + in_row) * args.in_w;
    for (int w = 0; w < args.out_w; w++) {
      Pack<T> dy = load(args.dy, (row * args.out_w + w) * plan.packs + pack);
#pragma unroll
      for (int s = 0; s < K; s++) {
        int column = w * args.stride_w - args.left + s * args.dilation;
        if (s >= args.kernel_w || column < 0 || column >= args.in_w) continue;
        Pack<T> x = load(args.x, (base + column) * plan.packs + pack);
        for (int l = 0; l < LANES; l++) dw[s].lane[l] += x.lane[l] * dy.lane[l];
      }
    }
  }
  int stored = plan.packs * LANES;
  float *mine = sums[threadIdx.x];
#pragma unroll
  for (int s = 0; s < K; s++) {
    __syncthreads(); // the sums of the tap before have been read
    for (int l = 0; l < LANES; l++) mine[l] = dw[s].lane[l];
    for (int half = plan.rows / 2; half > 0; half /= 2) {
      __syncthreads();
      if (lane_row >= half) continue;
      const float *other = sums[(int)threadIdx.x + half * plan.px];
      for (int l = 0; l < LANES; l++) mine[l] += other[l];
    }
    if (lane_row > 0 || pack >= plan.packs || s >= args.kernel_w) continue;
    int64_t tap = ((int64_t)blockIdx.y * args.kernel_h + r) * args.kernel_w + s;
    for (int l = 0; l < LANES; l++) args.partials[tap * stored + pack * LANES + l] = mine[l];
  }
}

__global__ void __launch_bounds__(BLOCK_THREADS)
    merge_weights_kernel(float *dweights, const float *partials, int chunks, int taps, int stored,
                         int channels) {
  int64_t i = merge_item(), tap = i / channels, c = i % channels;
  bool there = tap < taps;
  double sum = merge_chunks(partials + tap * stored + c, there ? chunks : 0, (int64_t)taps * stored);
  if (merge_lane() == 0 && there) dweights[i] = (float)sum;
}

template <class T> DepthwiseArgs<T> typed(const KernelDepthwise *args) {
  DepthwiseArgs<T> t = {};
  t.samples = (int)args->samples;
  t.in_h = (int)args->in_h;
  t.in_w = (int)args->in_w;
  t.out_h = (int)args->out_h;
  t.out_w = (int)args->out_w;
  t.packs = packs_of<T>(args->channels);
  t.channels = args->channels;
  t.kernel_w = args->kernel_w;
  t.stride_h = args->stride_h;
  t.stride_w = args->stride_w;
  t.dilation = args->dilation;
  t.top = args->top;
  t.left = args->left;
  t.weights = (const T *)args->weights;
  t.bias = args->bias;
  t.x = (const T *)args->x;
  t.y = (T *)args->y;
  return t;
}

// Whether a square kernel of 3, 5 or 7 with stride 1 or 2 fits strip_kernel.
bool has_strip(const KernelDepthwise *args) {
  int k = args->kernel_h;
  return k == args->kernel_w && (k == 3 || k == 5 || k == 7) && args->dilation == 1 &&
         args->stride_h == args->stride_w && args->stride_h <= 2;
}

template <class T, int S, bool TURNED>
void launch_strip(DepthwiseArgs<T> t, int k, KernelStream stream) {
  t.count = (int64_t)t.samples * t.out_h * ((t.out_w + STRIP - 1) / STRIP) * t.packs;
  auto kernel = k == 3   ? strip_kernel<T, 3, S, TURNED>
                : k == 5 ? strip_kernel<T, 5, S, TURNED>
                         : strip_kernel<T, 7, S, TURNED>;
  KERNEL_LAUNCH(kernel, blocks_for(t.count, BLOCK_THREADS), BLOCK_THREADS, stream, t);
}

template <class T> void forward(const KernelDepthwise *args, KernelStream stream) {
  DepthwiseArgs<T> t = typed<T>(args);
  int kernel_h = args->kernel_h;
  if (has_strip(args) && args->stride_h == 1) return launch_strip<T, 1, false>(t, kernel_h, stream);
  if (has_strip(args)) return launch_strip<T, 2, false>(t, kernel_h, stream);
  t.count = args->samples * args->out_h * args->out_w * t.packs;
  KERNEL_LAUNCH(window_kernel<T>, blocks_for(t.count, BLOCK_THREADS), BLOCK_THREADS, stream, t,
                kernel_h);
}

template <class T> void backward_data(const KernelDepthwise *args, KernelStream stream) {
  DepthwiseArgs<T> t = typed<T>(args);
  int kernel_h = args->kernel_h;
  t.bias = nullptr;
  t.x = (const T *)args->dy;
  t.y = (T *)args->dx;
  if (has_strip(args) && args->stride_h == 1) {
    // dx as the output of the turned kernel over dy.
    t.in_h = (int)args->out_h;
    t.in_w = (int)args->out_w;
    t.out_h = (int)args->in_h;
    t.out_w = (int)args->in_w;
    t.top = args->kernel_h - 1 - args->top;
    t.left = args->kernel_w - 1 - args->left;
    return launch_strip<T, 1, true>(t, kernel_h, stream);
  }
  t.count = args->samples * args->in_h * args->in_w * t.packs;
  KERNEL_LAUNCH(gather_kernel<T>, blocks_for(t.count, BLOCK_THREADS), BLOCK_THREADS, stream, t,
                kernel_h);
}

template <class T> void backward_weights(const KernelDepthwise *args, KernelStream stream) {
  WeightsPlan plan = weights_plan<T>(args);
  WeightsArgs<T> t = {plan,
                      (int)args->in_h,
                      (int)args->in_w,
                      (int)args->out_h,
                      (int)args->out_w,
                      args->kernel_h,
                      args->kernel_w,
                      args->stride_h,
                      args->stride_w,
                      args->dilation,
                      args->top,
                      args->left,
                      (const T *)args->x,
                      (const T *)args->dy,
                      args->scratch};
  auto kernel = args->kernel_w <= 3   ? weights_kernel<T, 3>
                : args->kernel_w <= 5 ? weights_kernel<T, 5>
                                      : weights_kernel<T, WEIGHTS_COLUMNS_MAX>;
  KERNEL_LAUNCH(kernel, dim3((unsigned)(plan.tiles * args->kernel_h), (unsigned)plan.chunks),
                BLOCK_THREADS, stream, t);
  int taps = args->kernel_h * args->kernel_w, stored = plan.packs * Pack<T>::LANES;
  int channels = args->channels, chunks = plan.chunks;
  float *dweights = args->dweights;
  const float *partials = args->scratch;
  KERNEL_LAUNCH(merge_weights_kernel, blocks_for((int64_t)taps * channels, MERGE_ITEMS),
                BLOCK_THREADS, stream, dweights, partials, chunks, taps, stored, channels);
}

} // namespace

extern "C" void kernel_depthwise_forward(const KernelDepthwise *args, KernelStream stream) {
#define LAUNCH(T) forward<T>(args, stream)
  FOR_TYPE(args->type, LAUNCH)
#undef LAUNCH
}

extern "C" void kernel_depthwise_backward_data(const KernelDepthwise *args, KernelStream stream) {
#define LAUNCH(T) backward_data<T>(args, stream)
  FOR_TYPE(args->type, LAUNCH)
#undef LAUNCH
}

extern "C" int64_t kernel_depthwise_scratch(const KernelDepthwise *args) {
  int64_t chunks = 0;
#define CHUNKS(T) chunks = weights_plan<T>(args).chunks
  FOR_TYPE(args->type, CHUNKS)
#undef CHUNKS
  return chunks * args->kernel_h * args->kernel_w * kernel_stored_channels(args->type, args->channels);
}

extern "C" void kernel_depthwise_backward_weights(const KernelDepthwise *args,
                                                  KernelStream stream) {
#define LAUNCH(T) backward_weights<T>(args, stream)
  FOR_TYPE(args->type, LAUNCH)
#undef LAUNCH
}
