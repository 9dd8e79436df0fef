// The seam between a training step and the hardware that runs it: one table of functions for each
// kind of device. exec/ lowers a graph to steps and plans their memory; a backend runs them.
//
// Values (activations and their gradients) lie in memory as the backend likes (value_size tells how
// much they take); logically they are N, H, W, C or N, C. Values of rank 3 (H, W, C) have the
// compute type of the run; values of rank 1 (C) are always fp32, row after row. Parameters and
// their gradients are dense fp32 in Keras' order.
//
// Plan once, run often: `plan` creates whatever a step needs (descriptors, algorithm, layouts) and
// says how much memory it wants; forward and backward allocate nothing, create nothing and cannot
// fail for a reason that plan could have known.
#ifndef IMGCLS_BACKEND_BACKEND_H
#define IMGCLS_BACKEND_BACKEND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/log.h"
#include "base/memory.h"
#include "base/status.h"
#include "graph/graph.h"
#include "tensor/tensor.h"

typedef enum StepKind {
  STEP_CONV2D,           // + bias [then norm by moving statistics, + inputs[1], activation]
  STEP_DEPTHWISE_CONV2D, // + bias
  STEP_DENSE,            // + bias; (C,) -> (units,)
  STEP_NORM,             // batch normalisation [+ inputs[1]] [then activation]
  STEP_GROUP_NORM,       // group normalisation [then activation]
  STEP_ACTIVATION,
  STEP_ADD,            // inputs[0] + factor inputs[1] [then activation]
  STEP_MULTIPLY,       // inputs[0] inputs[1], the second (C,) for every pixel
  STEP_SQUEEZE_EXCITE, // y = x gate(W2 act(W1 mean(x) + b1) + b2); Hu et al., CVPR 2018
  STEP_DROPOUT,        // [+ inputs[1] after the drop]
  STEP_POOL2D,
  STEP_GLOBAL_POOL, // average over H, W: (H, W, C) -> (C,)
  STEP_RESCALE,     // x scale + offset
  STEP_PAD,         // zeros around
  STEP_CROP,        // pixels off the edges
  STEP_CONCAT,
  STEP_FLATTEN, // (H, W, C) -> (H W C,) in H, W, C order
  STEP_COUNT
} StepKind;

enum { STEP_MAX_INPUTS = LAYER_MAX_INPUTS, STEP_MAX_PARAMETERS = 6 };

// Where a value (H, W, C) lies in a wider one: its channels are [first, first + C) of `channels`.
// Pointers are then those of the wider value.
typedef struct Slice {
  int64_t channels; // 0: the value stands alone
  int64_t first;
} Slice;

// What a step computes. Shapes without the batch.
typedef struct StepDesc {
  StepKind kind;
  const char *name; // of its layer, for messages; borrowed
  int64_t batch;
  DType dtype; // of rank-3 values
  int input_count;
  Shape inputs[STEP_MAX_INPUTS];
  Shape output;
  Slice x_slice[STEP_MAX_INPUTS];   // of inputs; their gradients stand alone
  Slice y_slice;                    // of the output and dy; dy2 stands alone
  bool in_place[STEP_MAX_INPUTS];   // concat: lies in y already, and its gradient in dy
  bool training;                    // a backward pass follows; dropout draws
  bool need_dx[STEP_MAX_INPUTS];    // which input gradients backward writes
  bool need_dparams;                // whether backward writes parameter gradients
  bool gives_statistics;            // conv2d: the norm behind it can use sums of its output
  bool takes_statistics;            // norm: of such an output
  bool has_norm;                    // conv2d, in inference: what follows it is part of the step
  ActivationKind activation;        // norm, activation, add; of the squeeze in squeeze-and-excite
  ActivationKind gate;              // squeeze-and-excite
  bool has_bias;                    // convolutions, dense
  int kernel_h, kernel_w, stride_h, stride_w, dilation; // convolutions, pools
  int groups;                                           // convolutions, group norm
  double standardize_epsilon; // conv2d: above 0, its kernel is standardised first
  Pads pads; // convolutions, pools (outside takes no part), pad, crop
  bool pool_is_max;
  int64_t squeeze;                  // channels between the two squeeze-and-excite convolutions
  double factor;                    // add: of inputs[1]; 0: 1
  double epsilon;                   // norm, group norm, conv2d with a norm
  bool use_batch_statistics;        // norm: false takes the moving ones
  bool no_scale, no_center;         // the same
  double rate;                      // dropout
  bool per_sample;                  // dropout: one draw a sample
  int layer;                        // dropout: keys its draws
  RescalingDesc rescaling;
} StepDesc;

// What a planned step wants from the executor. Sizes in bytes.
typedef struct StepNeeds {
  size_t persistent_size; // kept for good: weights in the backend's layout
  size_t saved_size;      // kept from forward to backward
  size_t scratch_size;    // for the time of one call; as aligned as memory_alloc's
  size_t statistics_size; // of the sums that it gives; 0: it gives none
  bool forward_in_place;  // y may be the memory of x[0]
  bool backward_in_place; // dx[0] may be the memory of dy
  bool residual_in_place; // dx[1] may be the memory of dy
  bool takes_second_dy;   // backward adds dy2 to dy itself
  bool backward_reads_x[STEP_MAX_INPUTS];
  bool backward_reads_y;
} StepNeeds;

// Where the draws of a step stand: functions of these alone. Kept in memory of the device, so that
// work that was recorded once draws anew each time it is given.
typedef struct StepKey {
  uint64_t seed;
  int64_t step;
  int64_t first_sample; // this batch's place in the global batch
} StepKey;

// One call's memory, all of it the device's. The executor fills it once; only `key` changes.
typedef struct StepArgs {
  const void *x[STEP_MAX_INPUTS];
  void *y;
  const void *dy;
  const void *dy2;           // a second contribution to the gradient of y, or NULL
  void *dx[STEP_MAX_INPUTS]; // written, not added to; NULL where not needed
  const float *params[STEP_MAX_PARAMETERS];
  // Written, not added to. Of a norm with batch statistics, entries 2 and 3 are not gradients but
  // the batch's mean and variance (the variance with Bessel's correction, as TensorFlow's fused
  // batch norm and PyTorch feed the moving average), written by forward.
  float *dparams[STEP_MAX_PARAMETERS];
  void *persistent, *saved, *scratch;
  // Written by a conv2d's forward, read by that of the norm behind it: for each channel of y as it is
  // stored the sum over all pixels, then for each the sum of squares. NULL: not given.
  float *statistics;
  const StepKey *key;
} StepArgs;

typedef struct Device Device; // one per executor: threads, streams, library handles

// One kind of step on one backend. `state` is the step's own, created by plan.
// Parameter order: conv and dense kernel, bias; norms gamma, beta, moving mean, moving variance
// (absent ones NULL), behind kernel and bias where they are a convolution's; squeeze-and-excite
// kernel1, bias1, kernel2, bias2.
typedef struct StepImpl {
  Status (*plan)(void **state, Device *device, const StepDesc *desc, StepNeeds *needs);
  void (*unplan)(void *state);
  // Called when parameters have changed, before forward: puts them in the backend's layout. May be
  // NULL.
  Status (*prepare)(void *state, const StepArgs *args);
  Status (*forward)(void *state, const StepArgs *args);
  Status (*backward)(void *state, const StepArgs *args);
  // Writes y once more, with the bits of forward, from x and `saved`; nothing else is written but
  // scratch. NULL: only forward makes y.
  Status (*rebuild)(void *state, const StepArgs *args);
  bool takes_norm;    // a convolution that takes in the norm behind it, in inference
  bool reads_slices;  // x may be slices
  bool writes_slices; // y and dy may be a slice; such a step takes a second dy
} StepImpl;

// How many devices of a kind the process may use.
typedef struct DeviceCount {
  int count;
  char why_none[160]; // where count is 0
} DeviceCount;

// Which device stands behind a number.
typedef struct DeviceIdentity {
  char id[40];  // equal texts: the same device
  char bus[24]; // where it is on the PCI bus, "0000:3b:00.0"; "": the host itself
} DeviceIdentity;

// How planning picks one of several engines that compute the same. Backends that have one of each
// look at none of this.
typedef struct PlanOptions {
  const char *cache;   // folder of the plans of earlier runs; "auto": the user's; NULL, "none": none
  bool deterministic;  // only engines that give the same bits each time
  bool autotune;       // time the best candidates on the device
  bool tensor_float32; // fp32 factors may be rounded to TF32
  Log *log;            // may be NULL
} PlanOptions;

typedef struct DeviceDesc {
  int threads;       // of the CPU; at least 1
  int index;         // of the GPU
  const char *model; // "h200": a GPU to plan for that is not there; NULL: one that is
  PlanOptions plans;
} DeviceDesc;

// What was picked for a problem.
typedef struct PlanRecord {
  char layer[64];        // the first that has it
  char pass[24];         // "forward"
  char problem[96];      // "56x56 64 -> 64, 3x3 stride 1"
  int uses;              // layers and batch sizes with it
  int engine;            // its number in the library; -1: none without the driver
  bool is_compiled;      // at run time
  bool is_from_cache;    // planned by an earlier run
  bool is_left;          // to a run on the device: the engine ranked first needs its driver
  size_t workspace_size;
  double planned_s; // time that planning took
  double time_us;   // of a run on the device; 0: not measured
} PlanRecord;

// What a moved image shows beyond its edges; data/augment.h tells more.
typedef enum UploadFill {
  UPLOAD_FILL_CONSTANT,
  UPLOAD_FILL_REFLECT,
  UPLOAD_FILL_WRAP,
  UPLOAD_FILL_NEAREST
} UploadFill;

enum { UPLOAD_MAP_NUMBERS = 6 };

// When an upload is done. Only backends with `transfer` know more than the first, and read memory
// of the device alone then.
typedef enum UploadOrder {
  UPLOAD_IN_TURN,       // as all that the device is given
  UPLOAD_WITH_TRANSFER, // behind the last transfer, as a part of it: beside the work that was given
                        // before, and done before what is given later. Not in a recording
  UPLOAD_BESIDE // behind the work that was given before, beside what is given until the next
                // upload_join. One at a time
} UploadOrder;

// uint8 pixels (n, H, W, C) to a value: (pixel * scale[c] + offset[c]). With maps, of images
// of 3 channels, pixels are those of augment_resample, to the bit.
typedef struct UploadArgs {
  const uint8_t *pixels;
  const int32_t *images; // (n): which of the images in pixels, then memory of the device, the
                         // samples are; NULL: pixels are theirs. Only where the backend resamples
  const float *values; // instead of pixels: dense (n, ...), taken as they are
  bool is_on_device;   // where pixels, images, values and maps are; false: the host's
  int64_t batch;
  Shape shape;
  DType dtype;
  float scale[RESCALING_MAX_CHANNELS], offset[RESCALING_MAX_CHANNELS];
  const double *maps; // (n, UPLOAD_MAP_NUMBERS), an AugmentMap each; NULL: none. Only where the
                      // backend resamples
  UploadFill fill;
  float fill_value;
  void *value;
  UploadOrder order;
} UploadArgs;

// Softmax cross-entropy from logits with label smoothing: the target of class k is
// (1 - smoothing) [k = label] + smoothing / classes, as Keras' CategoricalCrossentropy.
typedef struct LossArgs {
  const float *logits; // (n, classes)
  const int32_t *labels;
  bool labels_on_device; // false: the host's
  int64_t batch, classes;
  float smoothing;
  float gradient_scale;     // 1 / global batch
  const double *loss_scale; // of dlogits, beside gradient_scale; in memory of the device. NULL: 1
  float *dlogits;       // (n, classes), or NULL
  float *losses;        // (n): of each sample, unscaled
  // (n): how many classes score above the label (ties: lower index first). INT32_MAX where the loss
  // is not finite: such a sample is no hit among any number of classes.
  int32_t *ranks;
} LossArgs;

// What an update depends on and leaves to the next one, in memory of the device.
typedef struct UpdateState {
  double squares;        // sum over the gradients, which carry the loss's scale; 0: nobody asks
  double loss_scale;     // at least 1
  int64_t good_steps;    // since the scale last changed
  int64_t skipped_steps; // so far
  float gradient_scale;  // what this update takes gradients by: clipping, 1 / loss scale
  int32_t is_skipped;    // gradients have overflowed: this update changes nothing
} UpdateState;

typedef struct UpdateRules {
  double clip_norm;     // gradients with a larger norm are scaled down to it; 0: never
  bool scales_loss;     // false: the scale is 1, and nobody looks for overflows
  int64_t growth_steps; // good steps that double the scale; 0: never
} UpdateRules;

// Numbers [first, first + count) of the arenas that an optimizer treats alike. Both are multiples
// of SGD_SLICE_ALIGNMENT.
enum { SGD_SLICES_MAX = 64, SGD_SLICE_ALIGNMENT = 4 };
typedef struct SgdSlice {
  int64_t first, count;
  float weight_decay, l2;
} SgdSlice;

// SGD over flat arenas, as Keras: g = gradient_scale g + 2 l2 w; v = momentum v - lr g; w += v, or
// with Nesterov w += momentum v - lr g. Before that w -= lr weight_decay w (decoupled). The arenas
// are aligned to 16 bytes; slices stand in order and do not overlap.
typedef struct SgdArgs {
  float *weights, *velocity;
  const float *gradients;
  SgdSlice slices[SGD_SLICES_MAX];
  int slice_count;
  float momentum;
  bool nesterov;
  const float *learning_rate; // in memory of the device, as the state
  const UpdateState *state;
} SgdArgs;

// moving = momentum moving + (1 - momentum) batch.
typedef struct MovingAverageArgs {
  float *moving;
  const float *batch;
  float momentum;
  int64_t count;
  const UpdateState *state;
} MovingAverageArgs;

// Host memory for a place of the device's.
typedef struct TransferPiece {
  void *to;
  const void *from;
  size_t size_bytes;
} TransferPiece;

// Work that was recorded, to be given again.
typedef struct Recording Recording;

// Moments in a device's work.
typedef struct Timeline Timeline;

typedef struct Backend {
  const char *name; // "cpu"

  // Fails where there are devices that this program cannot use.
  Status (*device_count)(DeviceCount *out);
  Status (*device_identify)(DeviceIdentity *out, int index);

  Status (*device_open)(Device **out, const DeviceDesc *desc);
  void (*device_close)(Device *device);
  // What it is, for people: "AMD EPYC, 2 threads, AVX-512 with bf16".
  void (*device_describe)(const Device *device, char *text, size_t capacity);
  // Lines on driver, libraries and the links between devices; "" where there is nothing to tell.
  Status (*describe_host)(char *text, size_t capacity);
  // The i-th problem that steps were planned for so far, NULL behind the last; NULL: keeps no list.
  const PlanRecord *(*plan_record)(const Device *device, int i);
  // Whether its hardware multiplies this type.
  bool (*device_multiplies)(const Device *device, DType dtype);
  // Whether results depend on the number of threads, so that where they must not, several devices of
  // one thread work side by side.
  bool depends_on_threads;

  // What collectives on the device's memory wait for, a cudaStream_t. NULL: its memory is the
  // host's, which everybody may read.
  void *(*native_stream)(Device *device);

  // Bytes that it has left. NULL: its memory is the host's.
  Status (*memory_available)(Device *device, size_t *out);
  Status (*memory_alloc)(Device *device, void **out, size_t size_bytes); // zeroed
  void (*memory_free)(Device *device, void *memory);
  Status (*memory_clear)(Device *device, void *memory, size_t size_bytes);
  // Memory of the host that the device reads without a copy in between. NULL: any is.
  Status (*host_alloc)(Device *device, void **out, size_t size_bytes);
  void (*host_free)(Device *device, void *memory);
  // Both are done when they return.
  Status (*copy_to_device)(Device *device, void *to, const void *from, size_t size_bytes);
  Status (*copy_to_host)(Device *device, void *to, const void *from, size_t size_bytes);
  // As copy_to_host to memory of host_alloc, but done only after the next wait.
  Status (*read_begin)(Device *device, void *to, const void *from, size_t size_bytes);
  // Until the device has done all that it was given.
  Status (*wait)(Device *device);
  // Copies beside the device's other work; what it is given later finds them done, and the host may
  // change its memory when the call returns. Calls name slots 0 and 1 in turn: work that was given
  // before the last call is done before this one writes, so what a slot holds stays until the work
  // behind its call has read it. At most that work and what follows is then outstanding. Transfers
  // and the uploads that go with them keep their order. NULL: its memory is the host's.
  Status (*transfer)(Device *device, int slot, const TransferPiece *pieces, int count);

  // Between begin and end nothing is done of what the device is given: it is recorded, with every
  // argument as it is now. Calls that wait, allocate or read fail then. `end` comes also after a
  // failure and makes no recording then; where it fails the device goes on as if nothing had been
  // given. NULL: the device cannot.
  Status (*record_begin)(Device *device);
  Status (*record_end)(Device *device, Recording **out);
  Status (*replay)(Device *device, const Recording *recording);
  void (*recording_free)(Recording *recording); // NULL is fine; once what was replayed is done

  // Of at most `capacity` moments.
  Status (*timeline_create)(Device *device, Timeline **out, int capacity);
  void (*timeline_free)(Timeline *timeline); // NULL is fine
  // The next moment: when the device has done all that it was given so far. Waits for nothing.
  Status (*timeline_mark)(Timeline *timeline);
  // Waits for the last moment. seconds[i] lie between moments i and i + 1, one fewer than were marked;
  // the next moment is then the first.
  Status (*timeline_read)(Timeline *timeline, double *seconds);

  size_t (*value_size)(const Device *device, Shape shape, int64_t batch, DType dtype); // bytes
  // What value_import, upload and the loss take from the host they may still read until the next copy
  // to the host (value_export is one).
  // Between a value and dense host fp32 (n, H, W, C) or (n, C).
  Status (*value_import)(Device *device, void *value, Shape shape, int64_t batch, DType dtype,
                         const float *dense);
  Status (*value_export)(Device *device, float *dense, const void *value, Shape shape, int64_t batch,
                         DType dtype);
  // to += from, values of one shape.
  Status (*value_add)(Device *device, void *to, const void *from, size_t size_bytes, DType dtype);

  // Whether its layout lets a value of this shape lie there; NULL: never.
  bool (*can_slice)(const Device *device, Shape shape, Slice slice);

  const StepImpl *steps[STEP_COUNT]; // NULL: this backend cannot do it

  bool resamples; // whether upload takes maps
  Status (*upload)(Device *device, const UploadArgs *args);
  // What is given from now on finds the upload done that went beside. NULL where there is no
  // transfer.
  Status (*upload_join)(Device *device);
  Status (*softmax_cross_entropy)(Device *device, const LossArgs *args);

  // Flat fp32 slices. Sums run over fixed blocks, so they do not depend on the thread count.
  Status (*vector_add)(Device *device, float *to, const float *from, int64_t count); // to += from
  Status (*vector_scale)(Device *device, float *to, const float *from, float factor, int64_t count);
  // In double, which squares of fp32 cannot overflow: the sum is finite exactly where every value
  // is. `out` is memory of the device.
  Status (*vector_sum_squares)(Device *device, double *out, const float *values, int64_t count);
  // From state->squares: how this update takes the gradients, and the loss scale of the next step
  // by the rule of Keras' LossScaleOptimizer.
  Status (*update_begin)(Device *device, UpdateState *state, const UpdateRules *rules);
  Status (*sgd_update)(Device *device, const SgdArgs *args);
  Status (*moving_average_update)(Device *device, const MovingAverageArgs *args);
} Backend;

// Memory of the host that the device reads best: host_alloc's where it has that, any otherwise. A
// backend of NULL has no device. Freed by backend_host_free, where NULL is fine.
static inline Status backend_host_alloc(const Backend *backend, Device *device, void **out,
                                        size_t size_bytes) {
  bool has_own = backend && backend->host_alloc;
  return has_own ? backend->host_alloc(device, out, size_bytes)
                 : memory_alloc_aligned(out, size_bytes);
}

static inline void backend_host_free(const Backend *backend, Device *device, void *memory) {
  if (backend && backend->host_free) backend->host_free(device, memory);
  else memory_free(memory);
}

// The backends this program was built with, best first; NULL ends the list.
const Backend *const *backend_list(void);
const Backend *backend_find(const char *name); // NULL where unknown

#endif
