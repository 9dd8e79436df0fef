// Softmax cross-entropy with label smoothing: loss, rank of the label and gradient in one kernel, a
// block a sample, sums in double. With p = softmax(z) and target t = (1 - s) onehot + s / K:
// loss = log sum exp z - sum t z, its gradient by z is p - t.
//
// Bound by latency: a few MB of logits, read three times (once from memory) and their gradient written
// once, 4 bytes each; some ten steps of a block wait for one another. Occupancy does not matter.
#include "kernel.cuh"

namespace {

// Of the whole block, in every thread; `shared` holds a slot a warp.
template <class T, class Merge>
__device__ __forceinline__ T block_merge(T value, T *shared, Merge merge) {
  for (int d = WARP_SIZE / 2; d > 0; d /= 2) value = merge(value, __shfl_xor_sync(~0u, value, d));
  __syncthreads(); // the slots of the merge before have been read
  if (threadIdx.x % WARP_SIZE == 0) shared[threadIdx.x / WARP_SIZE] = value;
  __syncthreads();
  T total = shared[0];
  for (unsigned w = 1; w < blockDim.x / WARP_SIZE; w++) total = merge(total, shared[w]);
  return total;
}

struct Add {
  template <class T> __device__ T operator()(T a, T b) const { return a + b; }
};
struct Max {
  template <class T> __device__ T operator()(T a, T b) const { return a > b ? a : b; }
};

__global__ void __launch_bounds__(BLOCK_THREADS) loss_kernel(KernelLoss args) {
  __shared__ double doubles[BLOCK_THREADS / WARP_SIZE];
  __shared__ float floats[BLOCK_THREADS / WARP_SIZE];
  __shared__ int ints[BLOCK_THREADS / WARP_SIZE];
  int64_t n = blockIdx.x;
  const float *z = args.logits + n * args.classes;
  int label = args.labels[n], above = 0;
  float top = z[0], truth = z[label];
  for (int k = (int)threadIdx.x; k < args.classes; k += BLOCK_THREADS) top = fmaxf(top, z[k]);
  top = block_merge(top, floats, Max());
  double sum = 0.0, mean = 0.0;
  for (int k = (int)threadIdx.x; k < args.classes; k += BLOCK_THREADS) {
    sum += exp((double)z[k] - top);
    mean += z[k];
    above += z[k] > truth || (z[k] == truth && k < label);
  }
  sum = block_merge(sum, doubles, Add());
  mean = block_merge(mean, doubles, Add());
  above = block_merge(above, ints, Add());
  double smooth = (double)args.smoothing / args.classes, hard = 1.0 - (double)args.smoothing;
  if (threadIdx.x == 0) {
    float loss = (float)(log(sum) + top - hard * truth - smooth * mean);
    args.losses[n] = loss;
    args.ranks[n] = fabsf(loss) < INFINITY ? above : INT32_MAX; // nor is any above a NaN
  }
  if (!args.dlogits) return;
  for (int k = (int)threadIdx.x; k < args.classes; k += BLOCK_THREADS) {
    float scale = args.gradient_scale; // in the loop: across the division's call it would be spilled
    if (args.loss_scale) scale *= (float)*args.loss_scale;
    double target = smooth + (k == label ? hard : 0.0);
    args.dlogits[n * args.classes + k] =
        (float)((exp((double)z[k] - top) / sum - target) * scale);
  }
}

} // namespace

extern "C" void kernel_softmax_cross_entropy(const KernelLoss *args, KernelStream stream) {
  KernelLoss by_value = *args;
  KERNEL_LAUNCH(loss_kernel, (unsigned)args->rows, BLOCK_THREADS, stream, by_value);
}
