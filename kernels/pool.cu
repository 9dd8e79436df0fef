// Maximum and average pools over windows. Pixels outside take no part. Of equal maxima the first
// gets the gradient. Backward gathers: a thread makes one pack of dx from the windows that hold it,
// so nothing is added twice in an unknown order.
//
// Bound by memory: forward reads x once, its windows' overlap from the caches, and writes y [, a byte
// a number of y for the maximum]; backward reads dy [, dy2, those bytes] once likewise and writes dx.
// 768 threads or more on a multiprocessor.
#include "kernel.cuh"

namespace {

// Which tap won, of each channel of a pack: one access.
template <class T> struct alignas(Pack<T>::LANES) Taps {
  uint8_t lane[Pack<T>::LANES];
};

template <class T> struct PoolArgs {
  int64_t count; // packs of the result
  int in_h, in_w, out_h, out_w, packs, kernel_h, kernel_w, stride_h, stride_w, top, left;
  int x_pitch, y_pitch, dy_pitch; // packs
  const T *x, *dy, *dy2;
  T *y, *dx;
  Taps<T> *taps; // of every pack of y
};

// The part of a window that lies inside the image: taps [begin, end).
struct Span {
  int begin, end;
};
__device__ __forceinline__ Span inside(int origin, int taps, int size) {
  return {origin < 0 ? -origin : 0, origin + taps > size ? size - origin : taps};
}

template <class T, bool IS_MAX>
__global__ void __launch_bounds__(BLOCK_THREADS) pool_forward_kernel(PoolArgs<T> args) {
  enum { LANES = Pack<T>::LANES };
  int64_t i = global_thread();
  if (i >= args.count) return;
  int pack = (int)(i % args.packs);
  int64_t pixel = i / args.packs, row = pixel / args.out_w, sample = row / args.out_h;
  int h = (int)(row % args.out_h) * args.stride_h - args.top;
  int w = (int)(pixel % args.out_w) * args.stride_w - args.left;
  Span rows = inside(h, args.kernel_h, args.in_h), columns = inside(w, args.kernel_w, args.in_w);
  Pack<T> y = pack_of<T>(IS_MAX ? -INFINITY : 0.0f);
  Taps<T> taps = {};
  for (int r = rows.begin; r < rows.end; r++)
    for (int s = columns.begin; s < columns.end; s++) {
      int64_t at = ((sample * args.in_h + h + r) * args.in_w + w + s) * args.x_pitch + pack;
      Pack<T> x = load(args.x, at);
      for (int l = 0; l < LANES; l++) {
        if (!IS_MAX) y.lane[l] += x.lane[l];
        else if (x.lane[l] > y.lane[l] || x.lane[l] != x.lane[l]) { // a NaN stays one
          y.lane[l] = x.lane[l];
          taps.lane[l] = (uint8_t)(r * args.kernel_w + s);
        }
      }
    }
  int count = (rows.end - rows.begin) * (columns.end - columns.begin);
  if (!IS_MAX)
    for (int l = 0; l < LANES; l++) y.lane[l] /= (float)count;
  store(args.y, pixel * args.y_pitch + pack, y);
  if (IS_MAX && args.taps) args.taps[i] = taps;
}

template <class T, bool IS_MAX>
__global__ void __launch_bounds__(BLOCK_THREADS) pool_backward_kernel(PoolArgs<T> args) {
  enum { LANES = Pack<T>::LANES };
  int64_t i = global_thread();
  if (i >= args.count) return;
  int pack = (int)(i % args.packs);
  int64_t pixel = i / args.packs, row = pixel / args.in_w, sample = row / args.in_h;
  int h = (int)(row % args.in_h) + args.top, w = (int)(pixel % args.in_w) + args.left;
  Pack<T> dx = pack_of<T>(0.0f);
  for (int r = h % args.stride_h; r < args.kernel_h && r <= h; r += args.stride_h) {
    int out_h = (h - r) / args.stride_h;
    if (out_h >= args.out_h) continue;
    for (int s = w % args.stride_w; s < args.kernel_w && s <= w; s += args.stride_w) {
      int out_w = (w - s) / args.stride_w;
      if (out_w >= args.out_w) continue;
      int64_t from = (sample * args.out_h + out_h) * args.out_w + out_w;
      int64_t at = from * args.packs + pack;
      Pack<T> dy = load_sum(args.dy, from * args.dy_pitch + pack, args.dy2, at);
      if (IS_MAX) {
        const Taps<T> taps = args.taps[at];
        for (int l = 0; l < LANES; l++)
          if (taps.lane[l] == r * args.kernel_w + s) dx.lane[l] += dy.lane[l];
        continue;
      }
      Span rows = inside(out_h * args.stride_h - args.top, args.kernel_h, args.in_h);
      Span columns = inside(out_w * args.stride_w - args.left, args.kernel_w, args.in_w);
      float count = (float)((rows.end - rows.begin) * (columns.end - columns.begin));
      for (int l = 0; l < LANES; l++) dx.lane[l] += dy.lane[l] / count;
    }
  }
  store(args.dx, i, dx);
}

template <class T> PoolArgs<T> typed(const KernelPool *args) {
  return {0,
          (int)args->in_h,
          (int)args->in_w,
          (int)args->out_h,
          (int)args->out_w,
          packs_of<T>(args->channels),
          args->kernel_h,
          args->kernel_w,
          args->stride_h,
          args->stride_w,
          args->top,
          args->left,
          pitch_of<T>(args->x_pitch, args->channels),
          pitch_of<T>(args->y_pitch, args->channels),
          pitch_of<T>(args->dy_pitch, args->channels),
          (const T *)args->x,
          (const T *)args->dy,
          (const T *)args->dy2,
          (T *)args->y,
          (T *)args->dx,
          (Taps<T> *)args->taps};
}

} // namespace

extern "C" void kernel_pool_forward(const KernelPool *args, KernelStream stream) {
#define LAUNCH(T)                                                                                  \
  {                                                                                                \
    PoolArgs<T> t = typed<T>(args);                                                                \
    t.count = args->samples * args->out_h * args->out_w * t.packs;                                 \
    auto kernel = args->is_max ? pool_forward_kernel<T, true> : pool_forward_kernel<T, false>;     \
    KERNEL_LAUNCH(kernel, blocks_for(t.count, BLOCK_THREADS), BLOCK_THREADS, stream, t);           \
  }
  FOR_TYPE(args->type, LAUNCH)
#undef LAUNCH
}

extern "C" void kernel_pool_backward(const KernelPool *args, KernelStream stream) {
#define LAUNCH(T)                                                                                  \
  {                                                                                                \
    PoolArgs<T> t = typed<T>(args);                                                                \
    t.count = args->samples * args->in_h * args->in_w * t.packs;                                   \
    auto kernel = args->is_max ? pool_backward_kernel<T, true> : pool_backward_kernel<T, false>;   \
    KERNEL_LAUNCH(kernel, blocks_for(t.count, BLOCK_THREADS), BLOCK_THREADS, stream, t);           \
  }
  FOR_TYPE(args->type, LAUNCH)
#undef LAUNCH
}
