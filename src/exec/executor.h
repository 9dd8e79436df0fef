// Runs a graph on one device: forward, loss, backward. Made by train/ and the tools.
//
// Everything is planned when the executor is made: steps, libraries' primitives, the place of every
// activation and gradient. Afterwards a pass allocates nothing. Weights and gradients lie in arenas
// of the caller (exec/parameters.h). One thread drives an executor at a time; nothing is
// collective.
#ifndef IMGCLS_EXEC_EXECUTOR_H
#define IMGCLS_EXEC_EXECUTOR_H

#include "backend/backend.h"
#include "exec/lower.h"
#include "exec/parameters.h"
#include "exec/step_cost.h"

typedef struct Executor Executor;

typedef struct ExecutorDesc {
  const Backend *backend;
  Device *device;                // borrowed until executor_free
  const Graph *graph;            // the same
  const ParameterLayout *layout; // the same
  LowerMode mode;
  bool folds_norms; // in inference, where the bits need not be those of a training step's layers
  Value input, output; // a part of the graph, as in ProgramDesc; 0: all of it
  bool takes_value;    // what goes in is made outside, in memory of the caller: ExecutorInput.value
  DType dtype;         // of activations: what the device multiplies
  bool recompute; // in training, results that cheap steps can have again are not kept for backward
  const int64_t *batches; // the batch sizes that will be run
  int batch_count;
} ExecutorDesc;

// Plans. No activation memory is taken before executor_allocate, so that a dry run can ask for the
// sizes. Names the first step that the backend cannot run.
MUST_CHECK Status executor_create(Executor **out, const ExecutorDesc *desc);
void executor_free(Executor *executor); // NULL is fine

// Bytes that executor_allocate takes.
size_t executor_memory_bytes(const Executor *executor);

// How the program's concatenations were planned.
typedef struct ExecutorConcats {
  int inputs, in_place; // of all of them, and those that are written where they belong
  size_t copied_bytes;  // of the others in the largest batch; as many once more in backward
} ExecutorConcats;
ExecutorConcats executor_concats(const Executor *executor);

// What recomputation saves.
typedef struct ExecutorRecompute {
  int rebuilt;        // results that the backward pass computes once more
  size_t arena_bytes; // activations and their gradients
  size_t kept_bytes;  // the same if every result were kept
} ExecutorRecompute;
ExecutorRecompute executor_recompute(const Executor *executor);

MUST_CHECK Status executor_allocate(Executor *executor);

// Names the arenas: weights of layout->total floats, gradients of layout->reduced (NULL in
// inference). Both are borrowed. Call again to change them; never during a pass.
MUST_CHECK Status executor_bind(Executor *executor, const float *weights, float *gradients);

// Says that the weights have changed since the last pass.
void executor_weights_changed(Executor *executor);

typedef struct ExecutorInput {
  int64_t batch;         // one of the planned sizes
  const uint8_t *pixels; // (batch, H, W, C) on the host, for a model of images
  const int32_t *images; // of pixels on the device, as UploadArgs; or NULL
  const float *values;   // (batch, ...) dense fp32 on the host: instead of pixels
  const double *maps;    // of the pixels, as UploadArgs, where the backend resamples; or NULL
  UploadFill fill;       // of maps
  float fill_value;
  StepKey key;               // of a training step
  const StepKey *device_key; // instead of `key`: one in memory of the device, where pixels, values
                             // and maps then are too
  void *value; // where takes_value says so: what executor_describe_upload makes of the rest. The
               // passes only read it
} ExecutorInput;

// How a backend makes the value of an input, in input->value, for an executor that takes it.
UploadArgs executor_describe_upload(const Executor *executor, const ExecutorInput *input);

// Bytes of the value of the largest batch.
size_t executor_input_bytes(const Executor *executor);

// Computes the output of a batch. What of the batch and the labels below is the host's is read
// until the next executor_read_losses or executor_read_output.
MUST_CHECK Status executor_forward(Executor *executor, const ExecutorInput *input);

typedef struct ExecutorLoss {
  const int32_t *labels; // of the batch, where its pixels were
  float smoothing;
  float gradient_scale;     // 1 / global batch
  const double *loss_scale; // as in LossArgs; NULL: 1
  float *losses;            // memory of the device for the results, (batch) each, of which
  int32_t *ranks;           // executor_read_losses then knows nothing. NULL: the executor's
} ExecutorLoss;

// Loss of the batch just run forward, and in training the gradient of the logits.
MUST_CHECK Status executor_loss(Executor *executor, const ExecutorLoss *loss);

// Called as soon as the gradient (or batch statistic) of a parameter is final.
typedef Status (*GradientReady)(void *context, int parameter);

// Gradients of the batch just run forward and through the loss, written to the gradient arena.
// `ready` may be NULL; its failure ends the pass.
MUST_CHECK Status executor_backward(Executor *executor, GradientReady ready, void *context);

// Called in front of each call of a step, with its number and the pass, and once more behind the
// last of a pass with -1. A failure ends the pass.
typedef Status (*StepWatch)(void *context, int step, StepPass pass);

// `watch` may be NULL: nobody looks on.
void executor_watch(Executor *executor, StepWatch watch, void *context);

int executor_step_count(const Executor *executor);

// A step as it was planned for the batch that ran last. The name is borrowed.
StepDesc executor_step(const Executor *executor, int step);

// Per sample, after executor_loss: the unscaled loss, and how many classes score above the label.
MUST_CHECK Status executor_read_losses(Executor *executor, float *losses, int32_t *ranks);

// The output of the last forward pass, dense fp32 (batch, C) or (batch, H, W, C).
MUST_CHECK Status executor_read_output(Executor *executor, float *output);

#endif
