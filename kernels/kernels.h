// The CUDA kernels' launchers, in C. src/backend/cuda calls them; kernels/ knows nothing of src/.
//
// Every launcher enqueues on `stream` and returns; a launch that the device refuses shows in
// cudaGetLastError. Pointers are device memory. Values are NHWC in `type`, C rounded up to packs of
// 16 bytes whose extra lanes hold zeros (kernel_stored_channels); rows of rank 1 (n, C) are dense
// fp32. A value with a pitch is a slice of a wider one: its pointer is that of its first channel, a
// multiple of 16 bytes, and its pixels are `pitch` stored channels apart; pitch 0: it stands alone.
// Sums have a fixed order: the same call gives the same bits on every device.
#ifndef IMGCLS_KERNELS_KERNELS_H
#define IMGCLS_KERNELS_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct CUstream_st *KernelStream; // cudaStream_t

// Of a convolution: the launch has a block for each in its third dimension.
enum { KERNEL_TAPS_MAX = 65535 };

// Element types of values; KERNEL_ROW is that of rank 1, for the kernels of pixelwise.cu only.
typedef enum KernelType { KERNEL_F32, KERNEL_BF16, KERNEL_F16, KERNEL_ROW } KernelType;

typedef enum KernelActivation {
  KERNEL_LINEAR,
  KERNEL_RELU,
  KERNEL_RELU6,
  KERNEL_SWISH,
  KERNEL_SIGMOID,
  KERNEL_HARD_SIGMOID,
  KERNEL_HARD_SWISH,
  KERNEL_SOFTMAX, // kernel_softmax only
  KERNEL_TANH
} KernelActivation;

// Channels that a pixel of `channels` takes in memory.
int64_t kernel_stored_channels(KernelType type, int64_t channels);

// --- pixelwise.cu ---------------------------------------------------------------------------------

// y = act(a [+ factor b]); backward da = (dy [+ dy2]) act'(a [+ factor b]), db = factor da. NULL: not
// there, not wanted.
typedef struct KernelActivate {
  KernelType type;
  KernelActivation kind;
  int64_t pixels;
  int channels;
  const void *a, *b;
  float factor;         // of b
  void *y;              // forward
  const void *dy, *dy2; // backward
  void *da, *db;
  int a_pitch, b_pitch, y_pitch, dy_pitch;
} KernelActivate;
void kernel_activate(const KernelActivate *args, KernelStream stream);
void kernel_activate_backward(const KernelActivate *args, KernelStream stream);

// y = (x [+ x2]) scale[row, c] + shift[row, c] [+ residual], a row for every `row_pixels` pixels.
// x NULL: 0. scale NULL: 1. shift NULL: 0, times `shift_factor`.
typedef struct KernelAffine {
  KernelType type;
  int64_t pixels, row_pixels;
  int channels;
  const void *x, *x2, *residual;
  const float *scale, *shift;
  float shift_factor;
  void *y;
  int x_pitch, y_pitch;
} KernelAffine;
void kernel_affine(const KernelAffine *args, KernelStream stream);

// sums[n, c] = factor * sum over the pixels of sample n of a [b]. With scratch, of
// kernel_sum_pixels_scratch floats (which may be none), blocks share the pixels of large samples.
typedef struct KernelSumPixels {
  KernelType type;
  int64_t samples, sample_pixels;
  int channels;
  const void *a, *b;
  float factor;
  float *sums, *scratch;
} KernelSumPixels;
int64_t kernel_sum_pixels_scratch(const KernelSumPixels *args);
void kernel_sum_pixels(const KernelSumPixels *args, KernelStream stream);

// Where the draws of a step stand, in device memory: StepKey of backend/backend.h.
typedef struct KernelKey {
  uint64_t seed;
  int64_t step, first_sample;
} KernelKey;

// y = (x [+ x2]) mask [+ residual]; also copies x + x2 to `sum` where wanted. The mask of an element
// is 1 / (1 - rate) or 0, drawn by Philox from (seed, step, layer, sample, element in H, W, C order)
// as the CPU draws it; one draw for a whole sample where per_sample.
typedef struct KernelDropout {
  KernelType type;
  int64_t samples, sample_pixels;
  int channels;
  bool per_sample;
  float rate;
  const KernelKey *key; // NULL: nothing is drawn, and the rate is 0
  int layer;
  const void *x, *x2, *residual;
  void *y, *sum;
  int x_pitch, residual_pitch, y_pitch;
} KernelDropout;
void kernel_dropout(const KernelDropout *args, KernelStream stream);

// Dense fp32 (pixels, channels) to a value, and back.
void kernel_import(KernelType type, void *value, const float *dense, int64_t pixels, int channels,
                   KernelStream stream);
void kernel_export(KernelType type, float *dense, const void *value, int64_t pixels, int channels,
                   KernelStream stream);

// Channels [first, first + count) of every output pixel (h, w) become channels [from, from + count)
// of input pixel (h - top, w - left), 0 where there is none; `clears` zeroes the lanes beyond C.
typedef struct KernelWindowCopy {
  KernelType type;
  int64_t samples, in_h, in_w, out_h, out_w, top, left;
  int in_channels, out_channels, first, from, count;
  bool clears;
  const void *x;
  void *y;
} KernelWindowCopy;
void kernel_window_copy(const KernelWindowCopy *args, KernelStream stream);

void kernel_softmax(float *y, const float *x, int64_t rows, int classes, KernelStream stream);

// --- norm.cu --------------------------------------------------------------------------------------

// z = gamma (x - mean) rstd + beta [+ residual], y = act(z), over all pixels of a channel.
typedef struct KernelNorm {
  KernelType type;
  KernelActivation kind;
  int64_t pixels;
  int channels;
  const void *x, *residual;
  void *y;
  const float *gamma, *beta; // NULL: 1, 0
  int y_pitch;
  float *mean, *rstd;        // (channels): kept for backward
  uint8_t *mask;             // a byte a pack: where a ReLU or ReLU6 passes; NULL: not kept
  float *scratch;            // kernel_column_scratch floats
} KernelNorm;

// Floats of scratch that sums over pixels take.
int64_t kernel_column_scratch(KernelType type, int64_t pixels, int channels);

// Batch statistics into mean and rstd, and into batch_mean, batch_variance (with Bessel's
// correction; NULL: not wanted).
void kernel_norm_statistics(const KernelNorm *args, double epsilon, float *batch_mean,
                            float *batch_variance, KernelStream stream);
// mean and rstd from moving statistics.
void kernel_norm_moving(const KernelNorm *args, double epsilon, const float *moving_mean,
                        const float *moving_variance, KernelStream stream);
void kernel_norm_forward(const KernelNorm *args, KernelStream stream);

typedef struct KernelNormBackward {
  KernelNorm norm;
  bool batch_statistics; // dx passes through mean and rstd
  const void *dy, *dy2;
  int dy_pitch;
  void *dx, *dresidual;  // NULL: not wanted; both may be dy
  float *dgamma, *dbeta; // NULL: not wanted
} KernelNormBackward;
// Reads x, and for the slope the mask, or x and the residual.
void kernel_norm_backward(const KernelNormBackward *args, KernelStream stream);

// Group normalisation (Wu and He, ECCV 2018): as KernelNorm, with mean and rstd of each group of
// channels of each sample, (samples, groups) each.
typedef struct KernelGroupNorm {
  KernelType type;
  KernelActivation kind;
  int64_t samples, sample_pixels;
  int channels, groups;
  double epsilon;
  const void *x;
  void *y;
  const float *gamma, *beta; // NULL: 1, 0
  float *mean, *rstd;        // kept for backward
  float *scratch;            // kernel_group_norm_scratch floats
  const void *dy, *dy2;      // backward
  void *dx;
  float *dgamma, *dbeta;
} KernelGroupNorm;
int64_t kernel_group_norm_scratch(const KernelGroupNorm *args);
void kernel_group_norm_forward(const KernelGroupNorm *args, KernelStream stream);
// y alone, from mean and rstd as forward left them.
void kernel_group_norm_apply(const KernelGroupNorm *args, KernelStream stream);
void kernel_group_norm_backward(const KernelGroupNorm *args, KernelStream stream);

// sums[c] = sum over pixels of x.
void kernel_column_sums(KernelType type, float *sums, const void *x, int64_t pixels, int channels,
                        float *scratch, KernelStream stream);

// --- depthwise.cu ---------------------------------------------------------------------------------

typedef struct KernelDepthwise {
  KernelType type;
  int64_t samples, in_h, in_w, out_h, out_w;
  int channels, kernel_h, kernel_w, stride_h, stride_w, dilation, top, left;
  const void *weights; // (kernel_h, kernel_w, channels) as a value: kernel_import of the fp32 ones
  const float *bias;   // (channels) or NULL
  const void *x;
  void *y;
  const void *dy;
  void *dx;
  float *dweights; // (kernel_h, kernel_w, channels)
  float *scratch;  // of dweights: kernel_depthwise_scratch floats
} KernelDepthwise;
void kernel_depthwise_forward(const KernelDepthwise *args, KernelStream stream);
void kernel_depthwise_backward_data(const KernelDepthwise *args, KernelStream stream);
int64_t kernel_depthwise_scratch(const KernelDepthwise *args);
void kernel_depthwise_backward_weights(const KernelDepthwise *args, KernelStream stream);

// --- pool.cu --------------------------------------------------------------------------------------

// Pixels outside take no part: not in the maximum, not in the average's count.
typedef struct KernelPool {
  KernelType type;
  bool is_max;
  int64_t samples, in_h, in_w, out_h, out_w;
  int channels, kernel_h, kernel_w, stride_h, stride_w, top, left;
  const void *x;
  void *y;
  uint8_t *taps; // of maxima: which tap won, a byte for every stored element of y; NULL: not kept
  const void *dy, *dy2;
  void *dx;
  int x_pitch, y_pitch, dy_pitch;
} KernelPool;
void kernel_pool_forward(const KernelPool *args, KernelStream stream);
void kernel_pool_backward(const KernelPool *args, KernelStream stream);

// --- dense.cu: small fp32 layers, as those of squeeze-and-excite ----------------------------------

// y (rows, outputs) = act(x (rows, inputs) W (inputs, outputs) + bias); z, where wanted, is what the
// activation took.
typedef struct KernelDense {
  int64_t rows;
  int inputs, outputs;
  KernelActivation kind;
  const float *x, *weights, *bias;
  float *y, *z;
} KernelDense;
void kernel_dense_forward(const KernelDense *args, KernelStream stream);

// dz = dy act'(z) (may be dy), dx = dz W^T, dW = x^T dz, dbias = column sums of dz; NULL: not wanted.
typedef struct KernelDenseBackward {
  int64_t rows;
  int inputs, outputs;
  KernelActivation kind;
  const float *x, *weights, *z, *dy;
  float *dz, *dx, *dweights, *dbias;
} KernelDenseBackward;
void kernel_dense_backward(const KernelDenseBackward *args, KernelStream stream);

// --- loss.cu --------------------------------------------------------------------------------------

// Softmax cross-entropy from logits with label smoothing: LossArgs of backend/backend.h.
typedef struct KernelLoss {
  const float *logits;
  const int32_t *labels;
  int64_t rows;
  int classes;
  float smoothing, gradient_scale;
  const double *loss_scale; // of dlogits too; NULL: 1
  float *dlogits, *losses; // dlogits NULL: not wanted
  int32_t *ranks;
} KernelLoss;
void kernel_softmax_cross_entropy(const KernelLoss *args, KernelStream stream);

// --- flat.cu --------------------------------------------------------------------------------------

void kernel_vector_add(float *to, const float *from, int64_t count, KernelStream stream);
void kernel_vector_scale(float *to, const float *from, float factor, int64_t count,
                         KernelStream stream);
// *out = sum of squares, in double; `partials` holds KERNEL_SUM_BLOCKS doubles.
enum { KERNEL_SUM_BLOCKS = 1024 };
void kernel_vector_sum_squares(double *out, const float *values, int64_t count, double *partials,
                               KernelStream stream);

// What an update depends on, in device memory, and its rules: UpdateState and UpdateRules of
// backend/backend.h.
typedef struct KernelUpdateState {
  double squares, loss_scale;
  int64_t good_steps, skipped_steps;
  float gradient_scale;
  int32_t is_skipped;
} KernelUpdateState;
typedef struct KernelUpdateRules {
  double clip_norm;
  bool scales_loss;
  int64_t growth_steps;
} KernelUpdateRules;
void kernel_update_begin(KernelUpdateState *state, const KernelUpdateRules *rules,
                         KernelStream stream);

typedef struct KernelMovingAverage {
  float *moving;
  const float *batch;
  float momentum;
  int64_t count;
  const KernelUpdateState *state;
} KernelMovingAverage;
void kernel_moving_average(const KernelMovingAverage *args, KernelStream stream);

// Numbers [first, end) of the arenas, whole groups of four; in order, not overlapping. The table is
// an argument of the kernel: nothing lies in device memory that a captured graph would have to
// keep.
enum { KERNEL_SGD_SLICES = 64 };
typedef struct KernelSgdSlice {
  int64_t first, end;
  float weight_decay, l2;
} KernelSgdSlice;
typedef struct KernelSgd {
  float *weights, *velocity; // aligned to 16 bytes
  const float *gradients;
  KernelSgdSlice slices[KERNEL_SGD_SLICES];
  int slice_count;
  float momentum;
  bool nesterov;
  const float *learning_rate;
  const KernelUpdateState *state;
} KernelSgd;
void kernel_sgd(const KernelSgd *args, KernelStream stream);

// Keras' kernel (taps, in, out) fp32 to the (stored_out, taps, stored_in) of a type that the
// convolutions read, zeros beyond, and its gradient back from the same layout in fp32.
typedef struct KernelPacking {
  int taps, in, out, stored_in, stored_out;
} KernelPacking;
void kernel_pack_weights(KernelType type, void *packed, const float *weights,
                         const KernelPacking *packing, KernelStream stream);
void kernel_unpack_gradients(float *gradients, const float *packed, const KernelPacking *packing,
                             KernelStream stream);

// Weight standardisation (Qiao et al., arXiv 1903.10520): each column of weights (rows, columns) to
// mean 0 and deviation 1; and its gradient, in place of `gradient`.
void kernel_standardize(float *out, const float *weights, int rows, int columns, float epsilon,
                        KernelStream stream);
void kernel_standardize_backward(float *gradient, const float *weights, int rows, int columns,
                                 float epsilon, KernelStream stream);

// As kernel_norm_statistics, from sums of x and of its squares that somebody else has made: each
// (stored channels), one behind the other.
void kernel_norm_from_sums(const KernelNorm *args, double epsilon, const float *sums,
                           float *batch_mean, float *batch_variance, KernelStream stream);

// What a norm by moving statistics makes of the convolution before it: w's columns times scale, and
// shift added to the sums. gamma, beta, bias NULL: 1, 0, 0.
typedef struct KernelFold {
  int rows, channels; // of the weights (rows, channels)
  const float *weights, *bias, *gamma, *beta, *mean, *variance;
  double epsilon;
  float *scaled; // (rows, channels)
  float *shift;  // (channels)
} KernelFold;
void kernel_norm_fold(const KernelFold *args, KernelStream stream);

// --- upload.cu ------------------------------------------------------------------------------------

// uint8 pixels (samples, height, width, channels) to a value: pixel * scale[c] + offset[c]. With
// maps, which 3 channels need, output pixel (x, y) first becomes the level, rounded, that the input
// shows at (m[0] x + m[1] y + m[2], m[3] x + m[4] y + m[5]) between its pixels (bilinear). With
// images, sample n is image images[n] of many; else image n.
enum { KERNEL_UPLOAD_CHANNELS = 4, KERNEL_MAP_NUMBERS = 6 };
typedef enum KernelFill {
  KERNEL_FILL_CONSTANT,
  KERNEL_FILL_REFLECT,
  KERNEL_FILL_WRAP,
  KERNEL_FILL_NEAREST
} KernelFill;
typedef struct KernelUpload {
  KernelType type;
  int64_t samples, height, width; // sides up to 65,535
  int channels;
  const uint8_t *bytes;
  const int32_t *images; // (samples); NULL: none
  const double *maps;    // (samples, KERNEL_MAP_NUMBERS); NULL: none
  KernelFill fill;
  float fill_value;
  float scale[KERNEL_UPLOAD_CHANNELS], offset[KERNEL_UPLOAD_CHANNELS];
  void *value;
} KernelUpload;
void kernel_upload(const KernelUpload *args, KernelStream stream);

#ifdef __cplusplus
}
#endif

#endif
