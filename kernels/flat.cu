// Flat fp32 arenas: sums of gradients, the optimizer, weights in the layout of the convolutions.
// Bound by memory: each kernel is one pass.
#include "kernel.cuh"

namespace {

__global__ void __launch_bounds__(BLOCK_THREADS)
    add_kernel(float *to, const float *from, int64_t count) {
  int64_t i = global_thread();
  if (i < count) to[i] += from[i];
}

__global__ void __launch_bounds__(BLOCK_THREADS)
    scale_kernel(float *to, const float *from, float factor, int64_t count) {
  int64_t i = global_thread();
  if (i < count) to[i] = from[i] * factor;
}

// Adds the threads' numbers in a fixed order; the sum is thread 0's.
template <class T> __device__ __forceinline__ T block_sum(T value) {
  __shared__ T sums[BLOCK_THREADS];
  int me = (int)threadIdx.x;
  sums[me] = value;
  for (int half = BLOCK_THREADS / 2; half > 0; half /= 2) {
    __syncthreads();
    if (me < half) sums[me] += sums[me + half];
  }
  return sums[0];
}

__global__ void __launch_bounds__(BLOCK_THREADS)
    squares_kernel(double *partials, const float *values, int64_t count) {
  double sum = 0.0;
  for (int64_t i = global_thread(); i < count; i += (int64_t)gridDim.x * BLOCK_THREADS)
    sum += (double)values[i] * values[i];
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

// One block: a count over all values. Rare, so its width does not matter.
__global__ void __launch_bounds__(BLOCK_THREADS)
    not_finite_kernel(int32_t *out, const float *values, int64_t count) {
  int found = 0;
  for (int64_t i = threadIdx.x; i < count; i += BLOCK_THREADS)
    if ((__float_as_uint(values[i]) & 0x7f800000u) == 0x7f800000u && found < 1 << 20) found++;
  found = block_sum(found);
  if (threadIdx.x == 0) *out = found;
}

// In the order of the CPU's update, without contraction across the statements.
__global__ void __launch_bounds__(BLOCK_THREADS) sgd_kernel(KernelSgd args) {
  int64_t i = global_thread();
  if (i >= args.count) return;
  float w = args.weights[i], v = args.velocity[i];
  float gradient = args.gradient_scale * args.gradients[i] + 2.0f * args.l2 * w;
  float step = args.learning_rate * gradient, decay = args.learning_rate * args.weight_decay;
  v = args.momentum * v - step;
  w = w - decay * w + (args.nesterov ? args.momentum * v - step : v);
  args.weights[i] = w;
  args.velocity[i] = v;
}

__global__ void __launch_bounds__(BLOCK_THREADS)
    moving_average_kernel(float *moving, const float *batch, float momentum, int64_t count) {
  int64_t i = global_thread();
  if (i < count) moving[i] = momentum * moving[i] + (1.0f - momentum) * batch[i];
}

// packed[o, tap, i] = weights[tap, i, o].
template <class T>
__global__ void __launch_bounds__(BLOCK_THREADS)
    pack_kernel(T *packed, const float *weights, int64_t count, int taps, int in, int out,
                int stored_in) {
  int64_t at = global_thread();
  if (at >= count) return;
  int i = (int)(at % stored_in), tap = (int)(at / stored_in % taps);
  int64_t o = at / stored_in / taps;
  bool there = i < in && o < out;
  put(&packed[at], there ? weights[((int64_t)tap * in + i) * out + o] : 0.0f);
}

__global__ void __launch_bounds__(BLOCK_THREADS)
    unpack_kernel(float *gradients, const float *packed, int64_t count, int taps, int in, int out,
                  int stored_in) {
  int64_t at = global_thread();
  if (at >= count) return;
  int o = (int)(at % out), i = (int)(at / out % in);
  int64_t tap = at / out / in;
  gradients[at] = packed[((int64_t)o * taps + tap) * stored_in + i];
}

} // namespace

extern "C" void kernel_vector_add(float *to, const float *from, int64_t count,
                                  KernelStream stream) {
  if (count == 0) return;
  KERNEL_LAUNCH(add_kernel, blocks_for(count, BLOCK_THREADS), BLOCK_THREADS, stream, to, from,
                count);
}

extern "C" void kernel_vector_scale(float *to, const float *from, float factor, int64_t count,
                                    KernelStream stream) {
  if (count == 0) return;
  KERNEL_LAUNCH(scale_kernel, blocks_for(count, BLOCK_THREADS), BLOCK_THREADS, stream, to, from,
                factor, count);
}

extern "C" void kernel_vector_sum_squares(double *out, const float *values, int64_t count,
                                          double *partials, KernelStream stream) {
  KERNEL_LAUNCH(squares_kernel, KERNEL_SUM_BLOCKS, BLOCK_THREADS, stream, partials, values, count);
  KERNEL_LAUNCH(merge_squares_kernel, 1, BLOCK_THREADS, stream, out, partials);
}

extern "C" void kernel_vector_not_finite(int32_t *out, const float *values, int64_t count,
                                         KernelStream stream) {
  KERNEL_LAUNCH(not_finite_kernel, 1, BLOCK_THREADS, stream, out, values, count);
}

extern "C" void kernel_moving_average(float *moving, const float *batch, float momentum,
                                      int64_t count, KernelStream stream) {
  if (count == 0) return;
  KERNEL_LAUNCH(moving_average_kernel, blocks_for(count, BLOCK_THREADS), BLOCK_THREADS, stream,
                moving, batch, momentum, count);
}

extern "C" void kernel_sgd(const KernelSgd *args, KernelStream stream) {
  if (args->count == 0) return;
  KernelSgd by_value = *args;
  KERNEL_LAUNCH(sgd_kernel, blocks_for(args->count, BLOCK_THREADS), BLOCK_THREADS, stream,
                by_value);
}

extern "C" void kernel_pack_weights(KernelType type, void *packed, const float *weights, int taps,
                                    int in, int out, KernelStream stream) {
  int stored_in = (int)kernel_stored_channels(type, in);
  int64_t count = kernel_stored_channels(type, out) * taps * stored_in;
#define LAUNCH(T)                                                                                  \
  {                                                                                                \
    T *to = (T *)packed;                                                                           \
    KERNEL_LAUNCH(pack_kernel<T>, blocks_for(count, BLOCK_THREADS), BLOCK_THREADS, stream, to,     \
                  weights, count, taps, in, out, stored_in);                                       \
  }
  FOR_TYPE(type, LAUNCH)
#undef LAUNCH
}

extern "C" void kernel_unpack_gradients(KernelType type, float *gradients, const float *packed,
                                        int taps, int in, int out, KernelStream stream) {
  int stored_in = (int)kernel_stored_channels(type, in);
  int64_t count = (int64_t)taps * in * out;
  KERNEL_LAUNCH(unpack_kernel, blocks_for(count, BLOCK_THREADS), BLOCK_THREADS, stream, gradients,
                packed, count, taps, in, out, stored_in);
}
