// Depthwise convolution, NHWC: forward, data gradient, weight gradient.
//
// Weights come packed as values are, a tap a pixel: one 16-byte load a tap and pack, which neighbours
// in a warp share out of the L1 cache.
//
// Forward: a thread makes one pack of channels of a strip of outputs along W; the window of a strip
// comes from the L1 cache, so memory sees x and y once each. The data gradient of stride 1 is the
// forward pass with the kernel turned around; of stride 2 a thread makes a strip of dx from the
// outputs that it reached; of others, a pixel. Weight gradient: a block sums kernel rows (all of a
// 3 x 3, two of a 5 x 5) over a chunk of the output rows, a second kernel merges the chunks. The
// blocks of a chunk are neighbours, so x and dy come from memory once, and from the L2 cache for the
// kernel rows of the other blocks.
//
// Threads of a multiprocessor in 16 bits: 512, each with a row of loads under way: x and taps, 9 of a
// 3 x 3; 256 of windows of 5 and 7 with stride 2. Instructions a pack of outputs, of which 128 are
// issued at once: 230 forward, 115 and 230 for the gradients of a 3 x 3, where memory takes 32 bytes
// meanwhile; 500 of a 5 x 5, which computes longer than memory takes.
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
__device__ __forceinline__ PackBits<T> fetch_tap(const DepthwiseArgs<T> &args, int r, int s,
                                                 int pack) {
  int tap = TURNED ? (K - 1 - r) * K + (K - 1 - s) : r * K + s;
  return fetch(args.weights, (int64_t)tap * args.packs + pack);
}

// The memory of a pack, zeros where it is outside: without branches all loads of a row are under way
// together, and products with zeros cost less than they would.
template <class T>
__device__ __forceinline__ PackBits<T> fetch_inside(const T *from, int64_t pack, bool is_inside) {
  return is_inside ? fetch(from, pack) : PackBits<T>{};
}

__device__ __forceinline__ bool is_below(int i, int end) { return (unsigned)i < (unsigned)end; }

template <class T>
__device__ __forceinline__ void add_product(Pack<T> &sum, const Pack<T> &a, const Pack<T> &b) {
  for (int l = 0; l < Pack<T>::LANES; l++) sum.lane[l] += a.lane[l] * b.lane[l];
}

// A thread's strip: STRIP pixels of one row and pack, from column w0 on, of an image `width` wide whose
// strips begin `before` it.
struct Strip {
  int pack, w0, h;
  int64_t sample;
};

__device__ __forceinline__ Strip strip_at(int64_t i, int packs, int height, int width, int before) {
  int64_t number = i / packs;
  int strips = (width + before + STRIP - 1) / STRIP;
  int64_t row = number / strips;
  return {(int)(i % packs), (int)(number % strips) * STRIP - before, (int)(row % height),
          row / height};
}

template <class T>
__device__ __forceinline__ void store_strip(const DepthwiseArgs<T> &args, const Strip &strip,
                                            int height, int width, const Pack<T> values[STRIP]) {
  int64_t first = ((strip.sample * height + strip.h) * width + strip.w0) * args.packs + strip.pack;
#pragma unroll
  for (int o = 0; o < STRIP; o++)
    if (is_below(strip.w0 + o, width)) store(args.y, first + (int64_t)o * args.packs, values[o]);
}

// K x K taps, stride S.
template <class T, int K, int S, bool TURNED>
__global__ void __launch_bounds__(BLOCK_THREADS, K * S < 10 ? 2 : 1)
    strip_kernel(DepthwiseArgs<T> args) {
  enum { COLUMNS = (STRIP - 1) * S + K }; // of x that a strip sees
  int64_t i = global_thread();
  if (i >= args.count) return;
  const Strip strip = strip_at(i, args.packs, args.out_h, args.out_w, 0);
  const Pack<T> bias =
      load_channels<T>(args.bias, strip.pack * Pack<T>::LANES, args.channels, 0.0f);
  Pack<T> y[STRIP];
  for (int o = 0; o < STRIP; o++) y[o] = bias;
#pragma unroll 1
  for (int r = 0; r < K; r++) {
    int row = strip.h * S - args.top + r, first = strip.w0 * S - args.left;
    if (!is_below(row, args.in_h)) continue;
    int64_t base = ((strip.sample * args.in_h + row) * args.in_w + first) * args.packs + strip.pack;
    PackBits<T> x[COLUMNS];
#pragma unroll
    for (int c = 0; c < COLUMNS; c++)
      x[c] = fetch_inside(args.x, base + (int64_t)c * args.packs,
                         is_below(first + c, args.in_w));
    PackBits<T> tap_bits[K];
#pragma unroll
    for (int s = 0; s < K; s++) tap_bits[s] = fetch_tap<T, K, TURNED>(args, r, s, strip.pack);
    Pack<T> taps[K];
#pragma unroll
    for (int s = 0; s < K; s++) taps[s] = unpack(tap_bits[s]);
#pragma unroll
    for (int c = 0; c < COLUMNS; c++) {
      const Pack<T> column = unpack(x[c]);
#pragma unroll
      for (int o = 0; o < STRIP; o++)
        if (c >= o * S && c - o * S < K) add_product(y[o], column, taps[c - o * S]);
    }
  }
  store_strip(args, strip, args.out_h, args.out_w, y);
}

// The data gradient of K x K taps with stride 2: x is dy (out_h, out_w), y is dx (in_h, in_w). Every
// other kernel row, and every other tap of it, reaches a pixel; strips begin where tap 0 does.
template <class T, int K>
__global__ void __launch_bounds__(BLOCK_THREADS) strip_gradient_kernel(DepthwiseArgs<T> args) {
  enum { COLUMNS = (K - 1) / 2 + 2 }; // of dy that reach a strip
  int64_t i = global_thread();
  if (i >= args.count) return;
  const Strip strip = strip_at(i, args.packs, args.in_h, args.in_w, args.left % 2);
  int last = (strip.w0 + args.left) / 2 + 1; // column of dy
  Pack<T> dx[STRIP];
  for (int o = 0; o < STRIP; o++) dx[o] = pack_of<T>(0.0f);
  for (int r = (strip.h + args.top) % 2; r < K; r += 2) {
    int row = (strip.h + args.top - r) / 2;
    int64_t base = ((strip.sample * args.out_h + row) * args.out_w + last) * args.packs + strip.pack;
    PackBits<T> dy[COLUMNS];
#pragma unroll
    for (int c = 0; c < COLUMNS; c++)
      dy[c] = fetch_inside(args.x, base - (int64_t)c * args.packs,
                          is_below(row, args.out_h) && is_below(last - c, args.out_w));
    PackBits<T> tap_bits[K];
#pragma unroll
    for (int s = 0; s < K; s++) tap_bits[s] = fetch_tap<T, K, false>(args, r, s, strip.pack);
    Pack<T> taps[K];
#pragma unroll
    for (int s = 0; s < K; s++) taps[s] = unpack(tap_bits[s]);
#pragma unroll
    for (int c = 0; c < COLUMNS; c++) {
      const Pack<T> column = unpack(dy[c]);
#pragma unroll
      for (int o = 0; o < STRIP; o++) {
        int s = 2 * (c - 1) + o;
        if (s >= 0 && s < K) add_product(dx[o], column, taps[s]);
      }
    }
  }
  store_strip(args, strip, args.in_h, args.in_w, dx);
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

// Blocks of `px` packs by 256 / px output rows; up to ROWS kernel rows, the fastest in the grid; one
// chunk of the samples' rows.
struct WeightsPlan {
  int packs, px, rows, tiles, groups, chunks; // groups: of kernel rows
  int64_t out_rows, chunk_rows; // out_rows: samples x out_h
};

constexpr int64_t WEIGHTS_BLOCKS = 1024, WEIGHTS_TURNS_MIN = 2;
enum { WEIGHTS_COLUMNS_MAX = 7 };

// Kernel rows of a block, for K taps along W: as many sums as two blocks of a multiprocessor hold.
constexpr __host__ __device__ int weights_rows(int k) { return k <= 3 ? 3 : k <= 5 ? 2 : 1; }

template <class T> WeightsPlan weights_plan(const KernelDepthwise *args) {
  WeightsPlan plan = {};
  plan.packs = packs_of<T>(args->channels);
  plan.px = columns_width(plan.packs, WARP_SIZE);
  plan.rows = BLOCK_THREADS / plan.px;
  plan.tiles = (plan.packs + plan.px - 1) / plan.px;
  int kernel_rows = weights_rows(args->kernel_w);
  plan.groups = (args->kernel_h + kernel_rows - 1) / kernel_rows;
  plan.out_rows = args->samples * args->out_h;
  int64_t wanted = (WEIGHTS_BLOCKS + plan.tiles * plan.groups - 1) / (plan.tiles * plan.groups);
  int64_t turns = (plan.out_rows + wanted * plan.rows - 1) / (wanted * plan.rows);
  plan.chunk_rows = (turns > WEIGHTS_TURNS_MIN ? turns : WEIGHTS_TURNS_MIN) * plan.rows;
  plan.chunks = (int)((plan.out_rows + plan.chunk_rows - 1) / plan.chunk_rows);
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
__global__ void __launch_bounds__(BLOCK_THREADS, 2) weights_kernel(WeightsArgs<T> args) {
  enum { LANES = Pack<T>::LANES, ROWS = weights_rows(K) };
  __shared__ float sums[BLOCK_THREADS][LANES];
  const WeightsPlan &plan = args.plan;
  int first_r = (int)blockIdx.x % plan.groups * ROWS, tile = (int)blockIdx.x / plan.groups;
  int pack = tile * plan.px + (int)threadIdx.x % plan.px;
  int lane_row = (int)threadIdx.x / plan.px;
  int64_t end = (int64_t)(blockIdx.y + 1) * plan.chunk_rows;
  if (end > plan.out_rows) end = plan.out_rows;
  if (pack >= plan.packs) end = 0;
  int stored = plan.packs * LANES;
  Pack<T> dw[ROWS][K];
#pragma unroll
  for (int t = 0; t < ROWS * K; t++) dw[t / K][t % K] = pack_of<T>(0.0f);
  for (int64_t row = (int64_t)blockIdx.y * plan.chunk_rows + lane_row; row < end; row += plan.rows) {
    int top_row = (int)(row % args.out_h) * args.stride_h - args.top + first_r * args.dilation;
    const T *dys = args.dy + row * args.out_w * stored;
    const T *xs = args.x + (row / args.out_h * args.in_h + top_row) * args.in_w * stored;
    for (int w = 0; w < args.out_w; w++) {
      const Pack<T> dy = load(dys, (int64_t)w * plan.packs + pack);
      int first = w * args.stride_w - args.left;
#pragma unroll
      for (int r = 0; r < ROWS; r++) {
        int below = r * args.dilation;
        if (first_r + r >= args.kernel_h || !is_below(top_row + below, args.in_h)) continue;
        int64_t base = ((int64_t)below * args.in_w + first) * plan.packs + pack;
        PackBits<T> x[K];
#pragma unroll
        for (int s = 0; s < K; s++) {
          int across = s * args.dilation;
          x[s] = fetch_inside(xs, base + (int64_t)across * plan.packs,
                             s < args.kernel_w && is_below(first + across, args.in_w));
        }
#pragma unroll
        for (int s = 0; s < K; s++) add_product(dw[r][s], unpack(x[s]), dy);
      }
    }
  }
  float *mine = sums[threadIdx.x];
#pragma unroll
  for (int t = 0; t < ROWS * K; t++) {
    int r = first_r + t / K, s = t % K;
    if (r >= args.kernel_h || s >= args.kernel_w) continue; // of all threads
    __syncthreads(); // the sums of the tap before have been read
    for (int l = 0; l < LANES; l++) mine[l] = dw[t / K][s].lane[l];
    for (int half = plan.rows / 2; half > 0; half /= 2) {
      __syncthreads();
      if (lane_row >= half) continue;
      const float *other = sums[(int)threadIdx.x + half * plan.px];
      for (int l = 0; l < LANES; l++) mine[l] += other[l];
    }
    if (lane_row > 0 || pack >= plan.packs) continue;
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

template <class T>
void launch_strip_gradient(DepthwiseArgs<T> t, int k, KernelStream stream) {
  t.count = (int64_t)t.samples * t.in_h * ((t.in_w + t.left % 2 + STRIP - 1) / STRIP) * t.packs;
  auto kernel = k == 3   ? strip_gradient_kernel<T, 3>
                : k == 5 ? strip_gradient_kernel<T, 5>
                         : strip_gradient_kernel<T, 7>;
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
  if (has_strip(args)) return launch_strip_gradient<T>(t, kernel_h, stream);
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
  KERNEL_LAUNCH(kernel, dim3((unsigned)(plan.tiles * plan.groups), (unsigned)plan.chunks),
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
