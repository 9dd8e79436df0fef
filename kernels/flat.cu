// Flat fp32 arenas: sums of gradients, the optimizer, weights in the layout of the convolutions.
// Bound by memory: each kernel is one pass, four numbers a thread, and the bytes of a number stand at
// each. No kernel takes more than 32 registers, so 8 blocks of 256 threads fill a multiprocessor.
#include "kernel.cuh"

#include <cfloat>

namespace {

// Numbers 4 group ... of an arena; 0 behind its end. One 16-byte access where that can be.
__device__ __forceinline__ Pack<float> load_four(const float *from, int64_t group, int64_t count) {
  if (4 * group + 4 <= count && (reinterpret_cast<uintptr_t>(from) & 15) == 0)
    return load(from, group);
  Pack<float> four;
  for (int l = 0; l < 4; l++) four.lane[l] = 4 * group + l < count ? from[4 * group + l] : 0.0f;
  return four;
}

__device__ __forceinline__ void store_four(float *to, int64_t group, int64_t count,
                                           const Pack<float> &four) {
  if (4 * group + 4 <= count && (reinterpret_cast<uintptr_t>(to) & 15) == 0)
    return store(to, group, four);
  for (int l = 0; l < 4; l++)
    if (4 * group + l < count) to[4 * group + l] = four.lane[l];
}

// 12 bytes a number.
__global__ void __launch_bounds__(BLOCK_THREADS)
    add_kernel(float *to, const float *from, int64_t count) {
  int64_t i = global_thread();
  Pack<float> sum = load_four(to, i, count), more = load_four(from, i, count);
  for (int l = 0; l < 4; l++) sum.lane[l] += more.lane[l];
  store_four(to, i, count, sum);
}

// 8 bytes a number.
__global__ void __launch_bounds__(BLOCK_THREADS)
    scale_kernel(float *to, const float *from, float factor, int64_t count) {
  int64_t i = global_thread();
  Pack<float> four = load_four(from, i, count);
  for (int l = 0; l < 4; l++) four.lane[l] *= factor;
  store_four(to, i, count, four);
}

// Adds the threads' numbers in a fixed order; the sum is thread 0's.
__device__ __forceinline__ double block_sum(double value) {
  __shared__ double sums[BLOCK_THREADS];
  int me = (int)threadIdx.x;
  sums[me] = value;
  for (int half = BLOCK_THREADS / 2; half > 0; half /= 2) {
    __syncthreads();
    if (me < half) sums[me] += sums[me + half];
  }
  return sums[0];
}

// 4 bytes a number. Which thread adds what depends on the count alone, not on the alignment.
__global__ void __launch_bounds__(BLOCK_THREADS)
    squares_kernel(double *partials, const float *values, int64_t count) {
  double sum = 0.0;
  int64_t groups = (count + 3) / 4;
  for (int64_t i = global_thread(); i < groups; i += (int64_t)gridDim.x * BLOCK_THREADS) {
    Pack<float> four = load_four(values, i, count);
    for (int l = 0; l < 4; l++) sum += (double)four.lane[l] * four.lane[l];
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) partials[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(BLOCK_THREADS)
    merge_squares_kernel(double *out, const double *partials) {
  double sum = 0.0;
  for (int i = (int)threadIdx.x; i < KERNEL_SUM_BLOCKS; i += BLOCK_THREADS) sum += partials[i];
  sum = block_sum(sum);
  if (threadIdx.x == 0) *out = sum;
}

// The slice that number `at` may lie in: the last one that does not begin behind it.
__device__ __forceinline__ int slice_of(const KernelSgd &args, int64_t at) {
  int low = 0, high = args.slice_count - 1;
  while (low < high) {
    int middle = (low + high + 1) / 2;
    if (args.slices[middle].first <= at) low = middle;
    else high = middle - 1;
  }
  return low;
}

// 20 bytes a number: gradients, weights and velocity in, weights and velocity out. In the order of
// the CPU's update, without contraction across the statements.
__global__ void __launch_bounds__(BLOCK_THREADS) sgd_kernel(KernelSgd args) {
  if (args.state->is_skipped) return;
  int64_t at = args.slices[0].first + 4 * global_thread();
  const KernelSgdSlice &slice = args.slices[slice_of(args, at)];
  if (at >= slice.end) return; // behind the last slice, or between two
  Pack<float> w = load(args.weights, at / 4), v = load(args.velocity, at / 4);
  Pack<float> g = load(args.gradients, at / 4);
  float rate = *args.learning_rate, scale = args.state->gradient_scale;
  float decay = rate * slice.weight_decay, l2 = 2.0f * slice.l2;
  for (int l = 0; l < 4; l++) {
    float gradient = scale * g.lane[l] + l2 * w.lane[l];
    float step = rate * gradient;
    v.lane[l] = args.momentum * v.lane[l] - step;
    w.lane[l] = w.lane[l] - decay * w.lane[l] +
                (args.nesterov ? args.momentum * v.lane[l] - step : v.lane[l]);
  }
  store(args.weights, at / 4, w);
  store(args.velocity, at / 4, v);
}

// 12 bytes a number.
__global__ void __launch_bounds__(BLOCK_THREADS) moving_average_kernel(KernelMovingAverage args) {
  if (args.state->is_skipped) return;
  int64_t i = global_thread();
  Pack<float> old = load_four(args.moving, i, args.count), now = load_four(args.batch, i, args.count);
  for (int l = 0; l < 4; l++)
    old.lane[l] = args.momentum * old.lane[l] + (1.0f - args.momentum) * now.lane[l];
  store_four(args.moving, i, args.count, old);
}

// One thread: the rule of the CPU backend, whose numbers these are to the bit.
__global__ void update_begin_kernel(KernelUpdateState *state, KernelUpdateRules rules) {
  const double least_scale = 1.0, largest_scale = 0x1p126;
  double scale = rules.scales_loss ? state->loss_scale : 1.0;
  double norm = sqrt(state->squares) / scale, most = rules.clip_norm;
  double clip = most > 0.0 && norm > most ? most / norm : 1.0;
  state->gradient_scale = (float)(clip / scale);
  state->is_skipped = rules.scales_loss && !(norm <= DBL_MAX); // infinite or no number
  if (!rules.scales_loss) return;
  if (state->is_skipped) {
    state->skipped_steps++;
    state->good_steps = 0;
    state->loss_scale = fmax(state->loss_scale / 2.0, least_scale);
  } else if (rules.growth_steps > 0 && ++state->good_steps == rules.growth_steps) {
    state->good_steps = 0;
    if (state->loss_scale <= largest_scale / 2.0) state->loss_scale *= 2.0;
  }
}

// --- weights in the layout of the convolutions ----------------------------------------------------

// A block turns a tile of one tap round in shared memory, so that reads and writes both follow
// memory: 4 bytes of fp32 a weight and the packed one, once each.
enum { TILE = 32, TILE_ROWS = BLOCK_THREADS / TILE };

static inline dim3 pack_grid(const KernelPacking &shape) {
  return dim3(blocks_for(shape.stored_out, TILE), blocks_for(shape.stored_in, TILE),
              (unsigned)shape.taps);
}

// packed[o, tap, i] = weights[tap, i, o]; 0 beyond.
template <class T>
__global__ void __launch_bounds__(BLOCK_THREADS)
    pack_kernel(T *packed, const float *weights, KernelPacking shape) {
  __shared__ float tile[TILE][TILE + 1];
  int first_o = (int)blockIdx.x * TILE, first_i = (int)blockIdx.y * TILE, tap = (int)blockIdx.z;
  int column = (int)threadIdx.x;
  for (int row = (int)threadIdx.y; row < TILE; row += TILE_ROWS) {
    int i = first_i + row, o = first_o + column;
    bool there = i < shape.in && o < shape.out;
    tile[row][column] = there ? weights[((int64_t)tap * shape.in + i) * shape.out + o] : 0.0f;
  }
  __syncthreads();
  for (int row = (int)threadIdx.y; row < TILE; row += TILE_ROWS) {
    int o = first_o + row, i = first_i + column;
    if (o < shape.stored_out && i < shape.stored_in)
      put(&packed[((int64_t)o * shape.taps + tap) * shape.stored_in + i], tile[column][row]);
  }
}

// gradients[tap, i, o] = packed[o, tap, i].
__global__ void __launch_bounds__(BLOCK_THREADS)
    unpack_kernel(float *gradients, const float *packed, KernelPacking shape) {
  __shared__ float tile[TILE][TILE + 1];
  int first_o = (int)blockIdx.x * TILE, first_i = (int)blockIdx.y * TILE, tap = (int)blockIdx.z;
  int column = (int)threadIdx.x;
  for (int row = (int)threadIdx.y; row < TILE; row += TILE_ROWS) {
    int o = first_o + row, i = first_i + column;
    bool there = i < shape.in && o < shape.out;
    int64_t from = ((int64_t)o * shape.taps + tap) * shape.stored_in + i;
    tile[row][column] = there ? packed[from] : 0.0f;
  }
  __syncthreads();
  for (int row = (int)threadIdx.y; row < TILE; row += TILE_ROWS) {
    int i = first_i + row, o = first_o + column;
    if (i < shape.in && o < shape.out)
      gradients[((int64_t)tap * shape.in + i) * shape.out + o] = tile[column][row];
  }
}

unsigned blocks_of_fours(int64_t count) { return blocks_for(count, 4 * BLOCK_THREADS); }

} // namespace

extern "C" void kernel_vector_add(float *to, const float *from, int64_t count,
                                  KernelStream stream) {
  if (count == 0) return;
  KERNEL_LAUNCH(add_kernel, blocks_of_fours(count), BLOCK_THREADS, stream, to, from, count);
}

extern "C" void kernel_vector_scale(float *to, const float *from, float factor, int64_t count,
                                    KernelStream stream) {
  if (count == 0) return;
  KERNEL_LAUNCH(scale_kernel, blocks_of_fours(count), BLOCK_THREADS, stream, to, from, factor,
                count);
}

extern "C" void kernel_vector_sum_squares(double *out, const float *values, int64_t count,
                                          double *partials, KernelStream stream) {
  KERNEL_LAUNCH(squares_kernel, KERNEL_SUM_BLOCKS, BLOCK_THREADS, stream, partials, values, count);
  KERNEL_LAUNCH(merge_squares_kernel, 1, BLOCK_THREADS, stream, out, partials);
}

extern "C" void kernel_moving_average(const KernelMovingAverage *args, KernelStream stream) {
  if (args->count == 0) return;
  KernelMovingAverage by_value = *args;
  KERNEL_LAUNCH(moving_average_kernel, blocks_of_fours(args->count), BLOCK_THREADS, stream, by_value);
}

extern "C" void kernel_update_begin(KernelUpdateState *state, const KernelUpdateRules *rules,
                                    KernelStream stream) {
  KernelUpdateRules by_value = *rules;
  KERNEL_LAUNCH(update_begin_kernel, 1, 1, stream, state, by_value);
}

extern "C" void kernel_sgd(const KernelSgd *args, KernelStream stream) {
  if (args->slice_count == 0) return;
  int64_t span = args->slices[args->slice_count - 1].end - args->slices[0].first;
  if (span == 0) return;
  KernelSgd by_value = *args;
  KERNEL_LAUNCH(sgd_kernel, blocks_of_fours(span), BLOCK_THREADS, stream, by_value);
}

extern "C" void kernel_pack_weights(KernelType type, void *packed, const float *weights,
                                    const KernelPacking *packing, KernelStream stream) {
  KernelPacking shape = *packing;
#define LAUNCH(T)                                                                                  \
  {                                                                                                \
    T *to = (T *)packed;                                                                           \
    KERNEL_LAUNCH(pack_kernel<T>, pack_grid(shape), dim3(TILE, TILE_ROWS), stream, to, weights,    \
                  shape);                                                                          \
  }
  FOR_TYPE(type, LAUNCH)
#undef LAUNCH
}

extern "C" void kernel_unpack_gradients(float *gradients, const float *packed,
                                        const KernelPacking *packing, KernelStream stream) {
  KernelPacking shape = *packing;
  KERNEL_LAUNCH(unpack_kernel, pack_grid(shape), dim3(TILE, TILE_ROWS), stream, gradients, packed,
                shape);
}
