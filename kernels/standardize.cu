// Weight standardisation (Qiao et al., arXiv 1903.10520): each filter of a kernel to mean 0 and
// deviation 1. Filters are columns of the dense kernel; a block takes 32 neighbouring columns, its
// 8 rows of threads share their rows.
//
// Weights are small beside values. Forward reads them three times and writes once, 4 bytes each;
// backward reads weights four times and gradients three times and writes once: all but the first time
// from the caches. 2,048 threads on a multiprocessor.
#include "kernel.cuh"

namespace {

enum { FILTERS = 32, SHARES = 8 };

struct StandardizeArgs {
  float *out; // the gradient, backward
  const float *weights;
  int rows, columns;
  float epsilon;
};

// The sum over the rows of this column, the same in all its threads. `term` is read by row.
template <class Term>
__device__ __forceinline__ float column_sum(const StandardizeArgs &args, Term term) {
  __shared__ float sums[SHARES][FILTERS];
  float sum = 0.0f;
  for (int row = (int)threadIdx.y; row < args.rows; row += SHARES) sum += term(row);
  __syncthreads(); // the sums before have been read
  sums[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  sum = 0.0f;
  for (int share = 0; share < SHARES; share++) sum += sums[share][threadIdx.x];
  return sum;
}

template <bool BACKWARD>
__global__ void __launch_bounds__(FILTERS *SHARES) standardize_kernel(StandardizeArgs args) {
  int column = (int)(blockIdx.x * FILTERS + threadIdx.x), last = args.columns - 1;
  bool writes = column <= last;
  if (!writes) column = last; // it takes part in barriers
  const float *w = args.weights + column;
  float *out = args.out + column;
  const int64_t stride = args.columns;
  float mean = column_sum(args, [=](int row) { return w[row * stride]; }) / (float)args.rows;
  float variance = column_sum(args, [=](int row) {
                     float d = w[row * stride] - mean;
                     return d * d;
                   }) /
                   (float)args.rows;
  float rstd = 1.0f / sqrtf(variance + args.epsilon);
  if (!BACKWARD) {
    for (int row = (int)threadIdx.y; writes && row < args.rows; row += SHARES)
      out[row * stride] = (w[row * stride] - mean) * rstd;
    return;
  }
  // dw = rstd (g - mean(g) - u mean(g u)), u the standardised kernel and g its gradient.
  float g_mean = column_sum(args, [=](int row) { return out[row * stride]; }) / (float)args.rows;
  float slope = column_sum(args,
                           [=](int row) { return out[row * stride] * (w[row * stride] - mean); }) *
                rstd * rstd / (float)args.rows;
  __syncthreads(); // all columns have read their gradients: the last one may be read by many
  for (int row = (int)threadIdx.y; writes && row < args.rows; row += SHARES)
    out[row * stride] =
        (out[row * stride] - g_mean - (w[row * stride] - mean) * slope) * rstd;
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
