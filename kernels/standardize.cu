// Weight standardisation (Qiao et al., arXiv 1903.10520): each filter of a kernel to mean 0 and
// deviation 1. Filters are columns of the dense kernel; a block takes 8 neighbouring columns, which
// fill a sector of 32 bytes in each row, and its 128 rows of threads share their rows.
//
// Three passes: forward reads the weights in each and writes in the last, 4 bytes each; backward
// reads weights and gradients in each. All but the first come from the caches. Few blocks for a
// GPU, so a block has 1,024 threads, each with 4 rows under way: 16 KB of each operand.
#include "kernel.cuh"

namespace {

enum { FILTERS = 8, SHARES = 128, BATCH = 4 };

struct StandardizeArgs {
  float *out; // the gradient, backward
  const float *weights;
  int rows, columns;
  float epsilon;
};

// Of an element, or of sums: what belongs to the weights, and what to the gradient.
struct WeightAndGradient {
  float weight, gradient; // gradient 0, forward
};

// The sums over the rows of this column, the same in all its threads, of what `term` makes of
// `read`.
template <class Read, class Term>
__device__ __forceinline__ WeightAndGradient column_sums(int rows, Read read, Term term) {
  __shared__ WeightAndGradient sums[SHARES][FILTERS];
  int share = (int)threadIdx.y, column = (int)threadIdx.x;
  WeightAndGradient sum = {};
  in_batches<BATCH>(share, rows, SHARES, read, [&](int64_t, WeightAndGradient element) {
    WeightAndGradient more = term(element);
    sum.weight += more.weight;
    sum.gradient += more.gradient;
  });
  __syncthreads(); // the sums before have been read
  sums[share][column] = sum;
  for (int half = SHARES / 2; half > 0; half /= 2) {
    __syncthreads();
    if (share >= half) continue;
    sums[share][column].weight += sums[share + half][column].weight;
    sums[share][column].gradient += sums[share + half][column].gradient;
  }
  __syncthreads();
  return sums[0][column];
}

template <bool BACKWARD>
__global__ void __launch_bounds__(FILTERS *SHARES) standardize_kernel(StandardizeArgs args) {
  int column = (int)(blockIdx.x * FILTERS + threadIdx.x), last = args.columns - 1;
  bool writes = column <= last;
  if (!writes) column = last; // it takes part in barriers
  const float *w = args.weights + column, rows = (float)args.rows;
  float *out = args.out + column;
  const int64_t stride = args.columns;
  auto read = [=](int64_t row) -> WeightAndGradient {
    return {w[row * stride], BACKWARD ? out[row * stride] : 0.0f};
  };
  WeightAndGradient mean =
      column_sums(args.rows, read, [](WeightAndGradient element) { return element; });
  mean = {mean.weight / rows, mean.gradient / rows};
  WeightAndGradient squares =
      column_sums(args.rows, read, [=](WeightAndGradient element) -> WeightAndGradient {
        float d = element.weight - mean.weight;
        return {d * d, element.gradient * d};
      });
  if (!writes) return;
  float rstd = 1.0f / sqrtf(squares.weight / rows + args.epsilon);
  // dw = rstd (g - mean(g) - u mean(g u)), u the standardised kernel and g its gradient.
  float slope = squares.gradient * rstd * rstd / rows;
  in_batches<BATCH>((int)threadIdx.y, args.rows, SHARES, read,
                    [=](int64_t row, WeightAndGradient element) {
                      float d = element.weight - mean.weight;
                      if (BACKWARD) d = element.gradient - mean.gradient - d * slope;
                      out[row * stride] = d * rstd;
                    });
}

} // namespace

extern "C" void kernel_standardize(float *out, const float *weights, int rows, int columns,
                                   float epsilon, KernelStream stream) {
  StandardizeArgs args = {out, weights, rows, columns, epsilon};
  KERNEL_LAUNCH(standardize_kernel<false>, blocks_for(columns, FILTERS), dim3(FILTERS, SHARES),
                stream, args);
}

extern "C" void kernel_standardize_backward(float *gradient, const float *weights, int rows,
                                            int columns, float epsilon, KernelStream stream) {
  StandardizeArgs args = {gradient, weights, rows, columns, epsilon};
  KERNEL_LAUNCH(standardize_kernel<true>, blocks_for(columns, FILTERS), dim3(FILTERS, SHARES),
                stream, args);
}
