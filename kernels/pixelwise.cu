// Kernels that go over pixels once: activations, sums, scalings, dropout, copies between layouts.
// Bound by memory: bytes moved are those of the values named in the arguments, once each.
#include "columns.cuh"

#include <Random123/philox.h>

extern "C" int64_t kernel_stored_channels(KernelType type, int64_t channels) {
  int64_t lanes = type == KERNEL_ROW ? 1 : type == KERNEL_F32 ? 4 : 8;
  return (channels + lanes - 1) / lanes * lanes;
}

namespace {

// --- activations ----------------------------------------------------------------------------------

template <class T> struct ActivateArgs {
  int64_t count; // packs
  int packs, channels;
  int a_pitch, b_pitch, y_pitch, dy_pitch; // packs
  float factor;                            // of b
  const T *a, *b, *dy, *dy2;
  T *y, *da, *db;
};

template <class T> ActivateArgs<T> typed(const KernelActivate *args) {
  int packs = packs_of<T>(args->channels);
  return {args->pixels * packs,
          packs,
          args->channels,
          pitch_of<T>(args->a_pitch, args->channels),
          pitch_of<T>(args->b_pitch, args->channels),
          pitch_of<T>(args->y_pitch, args->channels),
          pitch_of<T>(args->dy_pitch, args->channels),
          args->factor,
          (const T *)args->a,
          (const T *)args->b,
          (const T *)args->dy,
          (const T *)args->dy2,
          (T *)args->y,
          (T *)args->da,
          (T *)args->db};
}

// a, or a + factor b.
template <class T> __device__ __forceinline__ Pack<T> load_z(const ActivateArgs<T> &args, int64_t i) {
  Pack<T> z = load(args.a, pitched(i, args.packs, args.a_pitch));
  if (!args.b) return z;
  Pack<T> b = load(args.b, pitched(i, args.packs, args.b_pitch));
  for (int l = 0; l < Pack<T>::LANES; l++) z.lane[l] += args.factor * b.lane[l];
  return z;
}

// How many lanes of a pack are channels.
template <class T> __device__ __forceinline__ int lanes_in(int64_t pack, int packs, int channels) {
  return channels - (int)(pack % packs) * Pack<T>::LANES;
}

template <class T, KernelActivation KIND>
__global__ void __launch_bounds__(BLOCK_THREADS) activate_kernel(ActivateArgs<T> args) {
  int64_t i = global_thread();
  if (i >= args.count) return;
  Pack<T> z = load_z(args, i);
  int lanes = moves_zero<KIND>() ? lanes_in<T>(i, args.packs, args.channels) : Pack<T>::LANES;
  for (int l = 0; l < Pack<T>::LANES; l++)
    z.lane[l] = l < lanes ? activate<KIND>(z.lane[l]) : 0.0f;
  store(args.y, pitched(i, args.packs, args.y_pitch), z);
}

template <class T, KernelActivation KIND>
__global__ void __launch_bounds__(BLOCK_THREADS) activate_backward_kernel(ActivateArgs<T> args) {
  int64_t i = global_thread();
  if (i >= args.count) return;
  Pack<T> dz = load_sum(args.dy, pitched(i, args.packs, args.dy_pitch), args.dy2, i);
  if (KIND != KERNEL_LINEAR) {
    Pack<T> z = load_z(args, i);
    for (int l = 0; l < Pack<T>::LANES; l++) dz.lane[l] *= slope<KIND>(z.lane[l]);
  }
  if (args.da) store(args.da, i, dz);
  if (!args.db) return;
  for (int l = 0; l < Pack<T>::LANES; l++) dz.lane[l] *= args.factor;
  store(args.db, i, dz);
}

// --- scale and shift ------------------------------------------------------------------------------

// A thread takes a pack of a few pixels of one row: their loads are under way together, and scale and
// shift are fetched once for them.
constexpr int AFFINE_PIXELS = 4;

template <class T> struct AffineArgs {
  int64_t count, row_pixels, row_groups; // threads; groups of AFFINE_PIXELS
  int packs, channels, x_pitch, y_pitch; // packs
  const T *x, *x2, *residual;
  const float *scale, *shift;
  float shift_factor;
  T *y;
};

template <class T>
__global__ void __launch_bounds__(BLOCK_THREADS) affine_kernel(AffineArgs<T> args) {
  int64_t i = global_thread();
  if (i >= args.count) return;
  int pack = (int)(i % args.packs), first = pack * Pack<T>::LANES;
  int64_t group = i / args.packs, row = group / args.row_groups;
  int64_t pixel = row * args.row_pixels + group % args.row_groups * AFFINE_PIXELS;
  int64_t left = (row + 1) * args.row_pixels - pixel;
  PackBits<T> x[AFFINE_PIXELS] = {}, x2[AFFINE_PIXELS] = {}, residual[AFFINE_PIXELS] = {};
  for (int p = 0; p < AFFINE_PIXELS; p++) {
    int64_t at = (pixel + p) * args.packs + pack;
    if (p < left && args.x) x[p] = fetch(args.x, (pixel + p) * args.x_pitch + pack);
    if (p < left && args.x2) x2[p] = fetch(args.x2, at);
    if (p < left && args.residual) residual[p] = fetch(args.residual, at);
  }
  Pack<T> scale = pack_of<T>(1.0f), shift = pack_of<T>(0.0f);
  int64_t vector = row * args.channels;
  if (args.scale) scale = load_channels<T>(args.scale + vector, first, args.channels, 0.0f);
  if (args.shift) shift = load_channels<T>(args.shift + vector, first, args.channels, 0.0f);
  for (int p = 0; p < AFFINE_PIXELS && p < left; p++) {
    Pack<T> y = unpack(x[p]);
    if (args.x2) add_to(y, unpack(x2[p]));
    for (int l = 0; l < Pack<T>::LANES; l++)
      y.lane[l] = y.lane[l] * scale.lane[l] + shift.lane[l] * args.shift_factor;
    if (args.residual) add_to(y, unpack(residual[p]));
    store(args.y, (pixel + p) * args.y_pitch + pack, y);
  }
}

// --- sums over the pixels of a sample -------------------------------------------------------------

// Reads a [and b] once. A block sums `px` packs of channels of one sample, or of a share of its pixels, in
// turns of all rows; how many shares there are follows from the sample's size alone, so the batch
// changes no bit. A thread keeps four packs of each operand under way. 1,024 threads or more on a
// multiprocessor, 512 of a product.
enum { SUM_PACKS_MAX = 8 };
constexpr int64_t SHARE_TURNS = 32, SHARES_MAX = 64;

template <class T> struct SumPixelsArgs {
  int64_t sample_pixels, share_sums; // share_sums: from one share's to the next
  int packs, channels, px;
  const T *a, *b;
  float factor;
  float *sums;
};

template <class T, bool IS_PRODUCT>
__global__ void __launch_bounds__(BLOCK_THREADS) sum_pixels_kernel(SumPixelsArgs<T> args) {
  enum { LANES = Pack<T>::LANES };
  __shared__ float sums[BLOCK_THREADS][LANES];
  int me = (int)threadIdx.x, row = me / args.px, rows = BLOCK_THREADS / args.px;
  int pack = (int)blockIdx.x * args.px + me % args.px;
  int64_t sample = blockIdx.y, first = sample * args.sample_pixels * args.packs + pack;
  int64_t begin = (int64_t)blockIdx.z * rows + row, stride = (int64_t)gridDim.z * rows;
  int64_t end = pack < args.packs ? args.sample_pixels : 0;
  struct Factors {
    PackBits<T> a, b;
  };
  Pack<T> total = pack_of<T>(0.0f);
  in_batches<4>(
      begin, end, stride,
      [&](int64_t p) {
        Factors read = {fetch(args.a, first + p * args.packs), {}};
        if (IS_PRODUCT) read.b = fetch(args.b, first + p * args.packs);
        return read;
      },
      [&](int64_t, const Factors &read) {
        const Pack<T> a = unpack(read.a), b = unpack(read.b);
        for (int l = 0; l < LANES; l++)
          total.lane[l] += IS_PRODUCT ? a.lane[l] * b.lane[l] : a.lane[l];
      });
  for (int l = 0; l < LANES; l++) sums[me][l] = total.lane[l];
  for (int threads = BLOCK_THREADS / 2; threads >= args.px; threads /= 2) {
    __syncthreads();
    if (me >= threads) continue;
    for (int l = 0; l < LANES; l++) sums[me][l] += sums[me + threads][l];
  }
  if (row > 0 || pack >= args.packs) return;
  float *out = args.sums + blockIdx.z * args.share_sums + sample * args.channels;
  for (int l = 0; l < LANES; l++) {
    int c = pack * LANES + l;
    if (c < args.channels) out[c] = sums[me][l] * args.factor;
  }
}

// 4 bytes a share and sum.
__global__ void __launch_bounds__(BLOCK_THREADS)
    merge_shares_kernel(float *sums, const float *shares, int share_count, int64_t count,
                        float factor) {
  int64_t i = global_thread();
  if (i >= count) return;
  float sum = 0.0f;
  for (int s = 0; s < share_count; s++) sum += shares[s * count + i];
  sums[i] = sum * factor;
}

template <class T> int sum_width(const KernelSumPixels *args) {
  return columns_width(packs_of<T>(args->channels), SUM_PACKS_MAX);
}

template <class T> int sum_shares(const KernelSumPixels *args) {
  int64_t share = (int64_t)BLOCK_THREADS / sum_width<T>(args) * SHARE_TURNS;
  int64_t shares = (args->sample_pixels + share - 1) / share;
  return (int)(shares < SHARES_MAX ? shares : SHARES_MAX);
}

template <class T> void sum_pixels(const KernelSumPixels *args, KernelStream stream) {
  int packs = packs_of<T>(args->channels), px = sum_width<T>(args);
  int shares = args->scratch ? sum_shares<T>(args) : 1;
  int64_t sample_size = args->sample_pixels * packs * Pack<T>::LANES;
  int64_t count = args->samples * args->channels;
  float *sums = shares > 1 ? args->scratch : args->sums;
  auto kernel = args->b ? sum_pixels_kernel<T, true> : sum_pixels_kernel<T, false>;
  for (int64_t first = 0; first < args->samples; first += SAMPLES_MAX) {
    int64_t samples = args->samples - first < SAMPLES_MAX ? args->samples - first : SAMPLES_MAX;
    SumPixelsArgs<T> t = {args->sample_pixels,
                          count,
                          packs,
                          args->channels,
                          px,
                          (const T *)args->a + first * sample_size,
                          args->b ? (const T *)args->b + first * sample_size : nullptr,
                          shares > 1 ? 1.0f : args->factor,
                          sums + first * args->channels};
    KERNEL_LAUNCH(kernel, dim3(blocks_for(packs, px), (unsigned)samples, (unsigned)shares),
                  BLOCK_THREADS, stream, t);
  }
  if (shares == 1) return;
  float *merged = args->sums, factor = args->factor;
  KERNEL_LAUNCH(merge_shares_kernel, blocks_for(count, BLOCK_THREADS), BLOCK_THREADS, stream, merged,
                sums, shares, count, factor);
}

// --- dropout --------------------------------------------------------------------------------------

// The counter's layout is that of src/base/rng.c: 64 bits of b, 40 of a, 8 of the stream, 16 of c.
enum { RNG_STREAM_DROPOUT = 4 };

__device__ __forceinline__ philox4x32_ctr_t draw_group(const KernelKey &key, uint64_t layer,
                                                       uint64_t sample, uint64_t group) {
  uint64_t place = ((uint64_t)key.first_sample + sample) | layer << 32 | (group >> 16) << 48;
  philox4x32_key_t words;
  words.v[0] = (uint32_t)key.seed;
  words.v[1] = (uint32_t)(key.seed >> 32);
  philox4x32_ctr_t counter;
  counter.v[0] = (uint32_t)place;
  counter.v[1] = (uint32_t)(place >> 32);
  counter.v[2] = (uint32_t)key.step;
  counter.v[3] = (uint32_t)(((uint64_t)key.step >> 32) & 0xff) | RNG_STREAM_DROPOUT << 8 |
                 (uint32_t)(group & 0xffff) << 16;
  return philox4x32(counter, words);
}

__device__ __forceinline__ float mask_of_word(uint32_t word, float rate) {
  float keep = 1.0f - rate;
  return (float)(word >> 8) * (1.0f / 16777216.0f) < keep ? 1.0f / keep : 0.0f;
}

template <class T> struct DropoutArgs {
  const KernelKey *key;
  uint32_t layer;
  float rate;
  int64_t count, sample_packs; // packs
  int packs, channels;
  int x_pitch, residual_pitch, y_pitch; // packs
  const T *x, *x2, *residual;
  T *y, *sum;
};

template <class T, bool PER_SAMPLE>
__global__ void __launch_bounds__(BLOCK_THREADS) dropout_kernel(DropoutArgs<T> args) {
  int64_t i = global_thread();
  if (i >= args.count) return;
  Pack<T> x = load_sum(args.x, pitched(i, args.packs, args.x_pitch), args.x2, i);
  if (args.sum) store(args.sum, i, x);
  if (!args.y) return;
  uint64_t sample = (uint64_t)(i / args.sample_packs);
  int first = (int)(i % args.packs) * Pack<T>::LANES;
  KernelKey key = {};
  if (args.key) key = *args.key;
  if (PER_SAMPLE) {
    float mask = mask_of_word(draw_group(key, args.layer, sample, 0).v[0], args.rate);
    for (int l = 0; l < Pack<T>::LANES; l++) x.lane[l] *= mask;
  } else {
    uint64_t element = (uint64_t)(i % args.sample_packs / args.packs) * args.channels + first;
    uint64_t drawn = ~(uint64_t)0;
    philox4x32_ctr_t words = {};
    for (int l = 0; l < Pack<T>::LANES; l++, element++) {
      if (first + l >= args.channels) break;
      if (element / 4 != drawn) words = draw_group(key, args.layer, sample, drawn = element / 4);
      // An index would send the words to local memory.
      unsigned turn = (unsigned)(element % 4);
      uint32_t low = turn & 1 ? words.v[1] : words.v[0], high = turn & 1 ? words.v[3] : words.v[2];
      x.lane[l] *= mask_of_word(turn & 2 ? high : low, args.rate);
    }
  }
  if (args.residual) {
    Pack<T> residual = load(args.residual, pitched(i, args.packs, args.residual_pitch));
    for (int l = 0; l < Pack<T>::LANES; l++) x.lane[l] += residual.lane[l];
  }
  store(args.y, pitched(i, args.packs, args.y_pitch), x);
}

// --- layouts --------------------------------------------------------------------------------------

template <class T>
__global__ void __launch_bounds__(BLOCK_THREADS)
    import_kernel(T *value, const float *dense, int64_t count, int packs, int channels) {
  int64_t i = global_thread();
  if (i >= count) return;
  const float *pixel = dense + i / packs * channels;
  store(value, i, load_channels<T>(pixel, (int)(i % packs) * Pack<T>::LANES, channels, 0.0f));
}

template <class T>
__global__ void __launch_bounds__(BLOCK_THREADS)
    export_kernel(float *dense, const T *value, int64_t count, int packs, int channels) {
  int64_t i = global_thread();
  if (i >= count) return;
  Pack<T> in = load(value, i);
  int first = (int)(i % packs) * Pack<T>::LANES;
  float *pixel = dense + i / packs * channels;
  for (int l = 0; l < Pack<T>::LANES; l++)
    if (first + l < channels) pixel[first + l] = in.lane[l];
}

// A unit is a pack where every channel count and offset is whole packs, else an element.
template <class Unit> struct WindowCopyArgs {
  int64_t count;
  int in_h, in_w, out_h, out_w, top, left;
  int in_units, out_units, first, from, copied, written; // copied <= written: the rest is zeros
  const Unit *x;
  Unit *y;
};

template <class Unit>
__global__ void __launch_bounds__(BLOCK_THREADS) window_copy_kernel(WindowCopyArgs<Unit> args) {
  int64_t i = global_thread();
  if (i >= args.count) return;
  int unit = (int)(i % args.written);
  int64_t pixel = i / args.written, row = pixel / args.out_w, sample = row / args.out_h;
  int64_t w = pixel % args.out_w - args.left, h = row % args.out_h - args.top;
  Unit value = {};
  if (unit < args.copied && h >= 0 && h < args.in_h && w >= 0 && w < args.in_w)
    value = args.x[((sample * args.in_h + h) * args.in_w + w) * args.in_units + args.from + unit];
  args.y[pixel * args.out_units + args.first + unit] = value;
}

template <class Unit>
void window_copy(const KernelWindowCopy *args, int per_unit, int stored_in, int stored_out,
                 KernelStream stream) {
  int written = args->clears ? stored_out - args->first : args->count;
  WindowCopyArgs<Unit> typed = {args->samples * args->out_h * args->out_w * (written / per_unit),
                                (int)args->in_h,
                                (int)args->in_w,
                                (int)args->out_h,
                                (int)args->out_w,
                                (int)args->top,
                                (int)args->left,
                                stored_in / per_unit,
                                stored_out / per_unit,
                                args->first / per_unit,
                                args->from / per_unit,
                                args->count / per_unit,
                                written / per_unit,
                                (const Unit *)args->x,
                                (Unit *)args->y};
  if (typed.count == 0) return;
  KERNEL_LAUNCH(window_copy_kernel<Unit>, blocks_for(typed.count, BLOCK_THREADS), BLOCK_THREADS,
                stream, typed);
}

// --- softmax --------------------------------------------------------------------------------------

// A warp a row.
__global__ void __launch_bounds__(BLOCK_THREADS)
    softmax_kernel(float *y, const float *x, int64_t rows, int classes) {
  int64_t row = global_thread() / WARP_SIZE;
  int lane = (int)(threadIdx.x % WARP_SIZE);
  if (row >= rows) return;
  x += row * classes;
  y += row * classes;
  float top = x[0], sum = 0.0f;
  for (int k = lane; k < classes; k += WARP_SIZE) top = fmaxf(top, x[k]);
  for (int d = WARP_SIZE / 2; d > 0; d /= 2) top = fmaxf(top, __shfl_xor_sync(~0u, top, d));
  for (int k = lane; k < classes; k += WARP_SIZE) sum += expf(x[k] - top);
  for (int d = WARP_SIZE / 2; d > 0; d /= 2) sum += __shfl_xor_sync(~0u, sum, d);
  for (int k = lane; k < classes; k += WARP_SIZE) y[k] = expf(x[k] - top) / sum;
}

} // namespace

extern "C" void kernel_activate(const KernelActivate *args, KernelStream stream) {
#define LAUNCH(T, KIND)                                                                            \
  {                                                                                                \
    ActivateArgs<T> t = typed<T>(args);                                                            \
    auto kernel = activate_kernel<T, KIND>;                                                        \
    KERNEL_LAUNCH(kernel, blocks_for(t.count, BLOCK_THREADS), BLOCK_THREADS, stream, t);           \
  }
#define LAUNCH_KINDS(T) FOR_ACTIVATION(args->kind, T, LAUNCH)
  FOR_TYPE_OR_ROW(args->type, LAUNCH_KINDS)
#undef LAUNCH
}

extern "C" void kernel_activate_backward(const KernelActivate *args, KernelStream stream) {
#define LAUNCH(T, KIND)                                                                            \
  {                                                                                                \
    ActivateArgs<T> t = typed<T>(args);                                                            \
    auto kernel = activate_backward_kernel<T, KIND>;                                               \
    KERNEL_LAUNCH(kernel, blocks_for(t.count, BLOCK_THREADS), BLOCK_THREADS, stream, t);           \
  }
  FOR_TYPE_OR_ROW(args->type, LAUNCH_KINDS)
#undef LAUNCH
#undef LAUNCH_KINDS
}

extern "C" void kernel_affine(const KernelAffine *args, KernelStream stream) {
#define LAUNCH(T)                                                                                  \
  {                                                                                                \
    int packs = packs_of<T>(args->channels);                                                       \
    int64_t groups = (args->row_pixels + AFFINE_PIXELS - 1) / AFFINE_PIXELS;                       \
    AffineArgs<T> t = {args->pixels / args->row_pixels * groups * packs,                           \
                       args->row_pixels,                                                           \
                       groups,                                                                     \
                       packs,                                                                      \
                       args->channels,                                                             \
                       pitch_of<T>(args->x_pitch, args->channels),                                 \
                       pitch_of<T>(args->y_pitch, args->channels),                                 \
                       (const T *)args->x,                                                         \
                       (const T *)args->x2,                                                        \
                       (const T *)args->residual,                                                  \
                       args->scale,                                                                \
                       args->shift,                                                                \
                       args->shift_factor,                                                         \
                       (T *)args->y};                                                              \
    KERNEL_LAUNCH(affine_kernel<T>, blocks_for(t.count, BLOCK_THREADS), BLOCK_THREADS, stream, t); \
  }
  FOR_TYPE_OR_ROW(args->type, LAUNCH)
#undef LAUNCH
}

extern "C" int64_t kernel_sum_pixels_scratch(const KernelSumPixels *args) {
  int64_t shares = 1;
#define SHARES(T) shares = sum_shares<T>(args)
  FOR_TYPE_OR_ROW(args->type, SHARES)
#undef SHARES
  return shares > 1 ? shares * args->samples * args->channels : 0;
}

extern "C" void kernel_sum_pixels(const KernelSumPixels *args, KernelStream stream) {
#define LAUNCH(T) sum_pixels<T>(args, stream)
  FOR_TYPE_OR_ROW(args->type, LAUNCH)
#undef LAUNCH
}

extern "C" void kernel_dropout(const KernelDropout *args, KernelStream stream) {
#define LAUNCH(T)                                                                                  \
  {                                                                                                \
    int packs = packs_of<T>(args->channels);                                                       \
    DropoutArgs<T> t = {args->key,                                                                 \
                        (uint32_t)args->layer,                                                     \
                        args->rate,                                                                \
                        args->samples * args->sample_pixels * packs,                               \
                        args->sample_pixels * packs,                                               \
                        packs,                                                                     \
                        args->channels,                                                            \
                        pitch_of<T>(args->x_pitch, args->channels),                                \
                        pitch_of<T>(args->residual_pitch, args->channels),                         \
                        pitch_of<T>(args->y_pitch, args->channels),                                \
                        (const T *)args->x,                                                        \
                        (const T *)args->x2,                                                       \
                        (const T *)args->residual,                                                 \
                        (T *)args->y,                                                              \
                        (T *)args->sum};                                                           \
    auto kernel = args->per_sample ? dropout_kernel<T, true> : dropout_kernel<T, false>;           \
    KERNEL_LAUNCH(kernel, blocks_for(t.count, BLOCK_THREADS), BLOCK_THREADS, stream, t);           \
  }
  FOR_TYPE_OR_ROW(args->type, LAUNCH)
#undef LAUNCH
}

extern "C" void kernel_import(KernelType type, void *value, const float *dense, int64_t pixels,
                              int channels, KernelStream stream) {
#define LAUNCH(T)                                                                                  \
  {                                                                                                \
    int packs = packs_of<T>(channels);                                                             \
    int64_t count = pixels * packs;                                                                \
    T *to = (T *)value;                                                                            \
    KERNEL_LAUNCH(import_kernel<T>, blocks_for(count, BLOCK_THREADS), BLOCK_THREADS, stream, to,   \
                  dense, count, packs, channels);                                                  \
  }
  FOR_TYPE_OR_ROW(type, LAUNCH)
#undef LAUNCH
}

extern "C" void kernel_export(KernelType type, float *dense, const void *value, int64_t pixels,
                              int channels, KernelStream stream) {
#define LAUNCH(T)                                                                                  \
  {                                                                                                \
    int packs = packs_of<T>(channels);                                                             \
    int64_t count = pixels * packs;                                                                \
    const T *from = (const T *)value;                                                              \
    KERNEL_LAUNCH(export_kernel<T>, blocks_for(count, BLOCK_THREADS), BLOCK_THREADS, stream,       \
                  dense, from, count, packs, channels);                                            \
  }
  FOR_TYPE_OR_ROW(type, LAUNCH)
#undef LAUNCH
}

extern "C" void kernel_window_copy(const KernelWindowCopy *args, KernelStream stream) {
  int lanes = (int)kernel_stored_channels(args->type, 1);
  int stored_in = (int)kernel_stored_channels(args->type, args->in_channels);
  int stored_out = (int)kernel_stored_channels(args->type, args->out_channels);
  bool is_wide = args->type == KERNEL_F32 || args->type == KERNEL_ROW;
  if (lanes > 1 && args->first % lanes == 0 && args->from % lanes == 0 && args->count % lanes == 0)
    window_copy<uint4>(args, lanes, stored_in, stored_out, stream);
  else if (is_wide)
    window_copy<uint32_t>(args, 1, stored_in, stored_out, stream);
  else
    window_copy<uint16_t>(args, 1, stored_in, stored_out, stream);
}

extern "C" void kernel_softmax(float *y, const float *x, int64_t rows, int classes,
                               KernelStream stream) {
  KERNEL_LAUNCH(softmax_kernel, blocks_for(rows * WARP_SIZE, BLOCK_THREADS), BLOCK_THREADS, stream,
                y, x, rows, classes);
}
