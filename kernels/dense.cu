// Small dense layers in fp32, as the two of squeeze-and-excite: a matrix product in tiles of 32 x 32
// through shared memory, with bias and activation behind it. Large ones go through cuBLASLt.
//
// Bound by latency, for all of a layer fits in the L2 cache: 256 rows of 1152 channels are 1.2 MB. So
// the next tiles are under way while those before are multiplied.
#include "kernel.cuh"

namespace {

enum { TILE = 32, TILE_ROWS = 8 }; // a block of 32 x 8 threads makes a tile of 32 x 32

// out[m, n] = epilogue(sum over k of a(m, k) b(k, n)); element (i, j) of an operand lies at
// i * row + j * column.
struct Operand {
  const float *data;
  int64_t row, column;
};

struct ProductArgs {
  int64_t m;
  int n;
  int64_t k;
  Operand a, b;
  const float *bias; // by column, or NULL
  float *z;          // before the activation, or NULL
  float *out;
};

enum { TILE_ITEMS = TILE / TILE_ROWS }; // of a tile, a thread's

// A thread's column of the tile at (first_i, first_j); zeros beyond (ends_i, ends_j).
__device__ __forceinline__ void fetch_tile(float items[TILE_ITEMS], const Operand &from,
                                           int64_t first_i, int64_t first_j, int64_t ends_i,
                                           int64_t ends_j) {
  int64_t j = first_j + threadIdx.x;
#pragma unroll
  for (int t = 0; t < TILE_ITEMS; t++) {
    int64_t i = first_i + threadIdx.y + t * TILE_ROWS;
    items[t] = i < ends_i && j < ends_j ? from.data[i * from.row + j * from.column] : 0.0f;
  }
}

// Reads a once for every 32 columns of b and b once for every 32 rows of a, writes out [, z], 4 bytes
// a number; 1,024 threads on a multiprocessor. Of a, four numbers along k come from shared memory at
// a time.
template <KernelActivation KIND>
__global__ void __launch_bounds__(TILE *TILE_ROWS) product_kernel(ProductArgs args) {
  __shared__ float4 a[TILE][TILE / 4];
  __shared__ float b[TILE][TILE];
  int64_t m0 = (int64_t)blockIdx.y * TILE;
  int n0 = (int)blockIdx.x * TILE, tx = (int)threadIdx.x, ty = (int)threadIdx.y;
  float sum[TILE_ITEMS] = {}, next_a[TILE_ITEMS], next_b[TILE_ITEMS];
  fetch_tile(next_a, args.a, m0, 0, args.m, args.k);
  fetch_tile(next_b, args.b, 0, n0, args.k, args.n);
  for (int64_t k0 = 0; k0 < args.k; k0 += TILE) {
    for (int t = 0; t < TILE_ITEMS; t++) {
      reinterpret_cast<float *>(a[ty + t * TILE_ROWS])[tx] = next_a[t];
      b[ty + t * TILE_ROWS][tx] = next_b[t];
    }
    __syncthreads();
    fetch_tile(next_a, args.a, m0, k0 + TILE, args.m, args.k);
    fetch_tile(next_b, args.b, k0 + TILE, n0, args.k, args.n);
    for (int k = 0; k < TILE; k += 4) {
      float column[4] = {b[k][tx], b[k + 1][tx], b[k + 2][tx], b[k + 3][tx]};
      for (int t = 0; t < TILE_ITEMS; t++) {
        const float4 row = a[ty + t * TILE_ROWS][k / 4];
        sum[t] += row.x * column[0];
        sum[t] += row.y * column[1];
        sum[t] += row.z * column[2];
        sum[t] += row.w * column[3];
      }
    }
    __syncthreads();
  }
  for (int t = 0; t < TILE_ITEMS; t++) {
    int64_t m = m0 + ty + t * TILE_ROWS;
    int n = n0 + tx;
    if (m >= args.m || n >= args.n) continue;
    float z = sum[t] + (args.bias ? args.bias[n] : 0.0f);
    if (args.z) args.z[m * args.n + n] = z;
    if (args.out) args.out[m * args.n + n] = activate<KIND>(z);
  }
}

// 12 bytes a number, 2,048 threads on a multiprocessor.
template <KernelActivation KIND>
__global__ void __launch_bounds__(BLOCK_THREADS)
    slope_kernel(float *dz, const float *dy, const float *z, int64_t count) {
  int64_t i = global_thread();
  if (i < count) dz[i] = dy[i] * slope<KIND>(z[i]);
}

void launch_product(const ProductArgs &args, KernelActivation kind, KernelStream stream) {
  dim3 grid(blocks_for(args.n, TILE), blocks_for(args.m, TILE)), block(TILE, TILE_ROWS);
#define LAUNCH(T, KIND)                                                                            \
  {                                                                                                \
    auto kernel = product_kernel<KIND>;                                                            \
    KERNEL_LAUNCH(kernel, grid, block, stream, args);                                              \
  }
  FOR_ACTIVATION(kind, float, LAUNCH)
#undef LAUNCH
}

} // namespace

extern "C" void kernel_dense_forward(const KernelDense *args, KernelStream stream) {
  launch_product({args->rows,
                  args->outputs,
                  args->inputs,
                  {args->x, args->inputs, 1},
                  {args->weights, args->outputs, 1},
                  args->bias,
                  args->z,
                  args->y},
                 args->kind, stream);
}

extern "C" void kernel_dense_backward(const KernelDenseBackward *args, KernelStream stream) {
  int64_t count = args->rows * args->outputs;
  const float *dz = args->dy;
  if (args->kind != KERNEL_LINEAR) {
    float *out = args->dz;
    const float *dy = args->dy, *z = args->z;
#define LAUNCH(T, KIND)                                                                            \
  {                                                                                                \
    auto kernel = slope_kernel<KIND>;                                                              \
    KERNEL_LAUNCH(kernel, blocks_for(count, BLOCK_THREADS), BLOCK_THREADS, stream, out, dy, z,     \
                  count);                                                                          \
  }
    FOR_ACTIVATION(args->kind, float, LAUNCH)
#undef LAUNCH
    dz = args->dz;
  }
  if (args->dx)
    launch_product({args->rows,
                    args->inputs,
                    args->outputs,
                    {dz, args->outputs, 1},
                    {args->weights, 1, args->outputs},
                    nullptr,
                    nullptr,
                    args->dx},
                   KERNEL_LINEAR, stream);
  if (args->dweights)
    launch_product({args->inputs,
                    args->outputs,
                    args->rows,
                    {args->x, 1, args->inputs},
                    {dz, args->outputs, 1},
                    nullptr,
                    nullptr,
                    args->dweights},
                   KERNEL_LINEAR, stream);
  if (!args->dbias) return;
  KernelSumPixels sums = {}; // rows as the pixels of one sample: many at a time, in a fixed order
  sums.type = args->outputs % Pack<float>::LANES == 0 && is_aligned(dz) ? KERNEL_F32 : KERNEL_ROW;
  sums.samples = 1;
  sums.sample_pixels = args->rows;
  sums.channels = args->outputs;
  sums.a = dz;
  sums.factor = 1.0f;
  sums.sums = args->dbias;
  kernel_sum_pixels(&sums, stream);
}
