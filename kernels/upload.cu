// uint8 pixels to a value: moved as the maps say, scaled and shifted by channel. The bytes cross the
// bus once, as bytes; a random change of an image costs no pass of its own.
//
// The arithmetic of a move is that of src/data/augment.c, operation by operation and never
// contracted, so the levels are the CPU's to the bit. A thread makes one output pixel: it reads four
// neighbours of 3 bytes, mostly from the L1 cache, and writes 16 bytes. Bytes of an image of 224 x
// 224: 0.15 MB in, 0.8 MB out. At most 40 registers: 1,536 threads a multiprocessor.
#include "kernel.cuh"

namespace {

enum { CHANNELS = 3 };

// What a launch passes by value. Scales are picked by number at compile time: an index would send
// them to local memory.
struct UploadArgs {
  const uint8_t *bytes;
  const int32_t *images;
  const double *maps;
  int64_t count; // packs
  int packs, channels, height, width;
  KernelFill fill;
  float fill_value;
  float scale[KERNEL_UPLOAD_CHANNELS], offset[KERNEL_UPLOAD_CHANNELS];
};

// a + (b - a) t and the like, each operation rounded.
__device__ __forceinline__ float mix(float a, float b, float t) {
  return __fadd_rn(a, __fmul_rn(t, __fadd_rn(b, -a)));
}
__device__ __forceinline__ float weigh(float a, float b, float t) {
  return __fadd_rn(__fmul_rn(__fadd_rn(1.0f, -t), a), __fmul_rn(t, b));
}

// fold_coordinate of augment.c.
__device__ __forceinline__ float fold(float at, int length, KernelFill fill) {
  float last = (float)(length - 1), size = (float)length;
  if (fill == KERNEL_FILL_CONSTANT || (at >= 0.0f && at <= last)) return at;
  if (length == 1) return 0.0f;
  if (fill == KERNEL_FILL_REFLECT) {
    float period = 2.0f * size;
    if (at < -size || at >= period)
      at = __fadd_rn(at, -__fmul_rn(period, floorf(__fdiv_rn(at, period))));
    if (at < 0.0f) at = __fadd_rn(-at, -1.0f);
    else if (at >= size) at = __fadd_rn(__fadd_rn(period, -at), -1.0f);
  } else if (fill == KERNEL_FILL_WRAP) {
    float turns = truncf(__fdiv_rn(at < 0.0f ? -at : at, last));
    at = __fadd_rn(at, at < 0.0f ? __fmul_rn(size, __fadd_rn(turns, 1.0f)) : -__fmul_rn(size, turns));
  }
  return at < 0.0f ? 0.0f : at > last ? last : at;
}

__device__ __forceinline__ float round_level(float level) {
  return (float)(int)__fadd_rn(level < 0.0f ? 0.0f : level > 255.0f ? 255.0f : level, 0.5f);
}

__device__ __forceinline__ float read_pixel(const UploadArgs &args, const uint8_t *image, int y, int x,
                                            int channel) {
  if (y < 0 || y >= args.height || x < 0 || x >= args.width) return args.fill_value;
  return (float)image[((int64_t)y * args.width + x) * CHANNELS + channel];
}

// The levels that `image` shows at (x, y): resample_anywhere of augment.c.
__device__ __forceinline__ void resample(float level[CHANNELS], const UploadArgs &args,
                                         const uint8_t *image, float y, float x) {
  y = fold(y, args.height, args.fill);
  x = fold(x, args.width, args.fill);
  if (!(y > -1.0f && y < (float)args.height && x > -1.0f && x < (float)args.width)) {
    for (int c = 0; c < CHANNELS; c++) level[c] = round_level(args.fill_value);
    return;
  }
  int top = (int)__fadd_rn(y, 1.0f) - 1, left = (int)__fadd_rn(x, 1.0f) - 1;
  bool inside = y >= 0.0f && y < (float)(args.height - 2) && x >= 0.0f && x < (float)(args.width - 1);
  if (inside) top = (int)y, left = (int)x;
  float down = __fadd_rn(y, -(float)top), right = __fadd_rn(x, -(float)left);
  for (int c = 0; c < CHANNELS; c++) {
    float a = read_pixel(args, image, top, left, c), b = read_pixel(args, image, top, left + 1, c);
    float d = read_pixel(args, image, top + 1, left, c);
    float e = read_pixel(args, image, top + 1, left + 1, c);
    level[c] = inside ? (float)(int)__fadd_rn(mix(mix(a, b, right), mix(d, e, right), down), 0.5f)
                      : round_level(weigh(weigh(a, b, right), weigh(d, e, right), down));
  }
}

__device__ __forceinline__ const uint8_t *image_of(const UploadArgs &args, int64_t sample) {
  int64_t image = args.images ? args.images[sample] : sample;
  return args.bytes + image * args.height * args.width * args.channels;
}

template <class T, bool MOVES>
__global__ void __launch_bounds__(BLOCK_THREADS) upload_kernel(T *value, UploadArgs args) {
  int64_t i = global_thread();
  if (i >= args.count) return;
  Pack<T> out = pack_of<T>(0.0f);
  int64_t pixel = i / args.packs;
  if (i % args.packs == 0) { // channels beyond the first pack there are none
    float level[KERNEL_UPLOAD_CHANNELS] = {};
    if (MOVES) {
      int64_t row = pixel / args.width, sample = row / args.height;
      double x = (double)(pixel % args.width), y = (double)(row % args.height);
      const double *m = args.maps + sample * KERNEL_MAP_NUMBERS;
      double x0 = __dadd_rn(__dmul_rn(m[1], y), m[2]), y0 = __dadd_rn(__dmul_rn(m[4], y), m[5]);
      resample(level, args, image_of(args, sample),
               (float)__dadd_rn(__dmul_rn(m[3], x), y0), (float)__dadd_rn(__dmul_rn(m[0], x), x0));
    } else {
      int64_t sample = pixel / ((int64_t)args.height * args.width);
      int64_t within = pixel - sample * args.height * args.width;
      const uint8_t *bytes = image_of(args, sample) + within * args.channels;
#pragma unroll
      for (int c = 0; c < KERNEL_UPLOAD_CHANNELS; c++)
        if (c < args.channels) level[c] = (float)bytes[c];
    }
#pragma unroll
    for (int c = 0; c < KERNEL_UPLOAD_CHANNELS; c++)
      if (c < args.channels)
        out.lane[c] = __fadd_rn(__fmul_rn(level[c], args.scale[c]), args.offset[c]);
  }
  store(value, i, out);
}

} // namespace

extern "C" void kernel_upload(const KernelUpload *args, KernelStream stream) {
  UploadArgs by_value = {args->bytes,       args->images,       args->maps,  0, 0,
                         args->channels,    (int)args->height,  (int)args->width,
                         args->fill,        args->fill_value,   {},          {}};
  for (int c = 0; c < KERNEL_UPLOAD_CHANNELS; c++) {
    by_value.scale[c] = args->scale[c];
    by_value.offset[c] = args->offset[c];
  }
#define LAUNCH(T)                                                                                  \
  {                                                                                                \
    T *value = (T *)args->value;                                                                   \
    by_value.packs = packs_of<T>(args->channels);                                                  \
    by_value.count = args->samples * args->height * args->width * by_value.packs;                  \
    auto upload = args->maps ? upload_kernel<T, true> : upload_kernel<T, false>;                   \
    KERNEL_LAUNCH(upload, blocks_for(by_value.count, BLOCK_THREADS), BLOCK_THREADS, stream, value, \
                  by_value);                                                                       \
  }
  FOR_TYPE(args->type, LAUNCH)
#undef LAUNCH
}
