// uint8 pixels to a value, scaled and shifted by channel: the bytes cross the bus once, as bytes.
#include "kernel.cuh"

namespace {

template <class T>
__global__ void __launch_bounds__(BLOCK_THREADS)
    upload_kernel(T *value, int64_t count, int packs, KernelUpload args) {
  int64_t i = global_thread();
  if (i >= count) return;
  int first = (int)(i % packs) * Pack<T>::LANES;
  const uint8_t *pixel = args.bytes + i / packs * args.channels;
  Pack<T> out = pack_of<T>(0.0f);
  for (int l = 0; l < Pack<T>::LANES && l < KERNEL_UPLOAD_CHANNELS; l++)
    if (first + l < args.channels)
      out.lane[l] = (float)pixel[first + l] * args.scale[first + l] + args.offset[first + l];
  store(value, i, out);
}

} // namespace

extern "C" void kernel_upload(const KernelUpload *args, KernelStream stream) {
#define LAUNCH(T)                                                                                  \
  {                                                                                                \
    int packs = packs_of<T>(args->channels);                                                       \
    int64_t count = args->pixels * packs;                                                          \
    T *value = (T *)args->value;                                                                   \
    KernelUpload by_value = *args;                                                                 \
    KERNEL_LAUNCH(upload_kernel<T>, blocks_for(count, BLOCK_THREADS), BLOCK_THREADS, stream,       \
                  value, count, packs, by_value);                                                  \
  }
  FOR_TYPE(args->type, LAUNCH)
#undef LAUNCH
}
