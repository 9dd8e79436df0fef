// The virtual workers of this rank: each takes its slice of the global batch forward and backward
// with BatchNorm statistics of its own.
//
// Worker v of V computes positions [v B / V, (v + 1) B / V) of a global batch of B. One executor
// runs this rank's workers one after another, but for reproducible mode on a backend that depends
// on the number of threads: there each worker runs on one thread, as many side by side as there are
// threads.
//
// Where the backend transfers batches, a worker's input is uploaded (scaling, augmentation) beside
// what is computed before it: the first worker's beside the step before (workers_upload), each
// other's beside the worker before. Inputs then lie in places of their own: one for each slot of
// the feed, which a step's first worker has, and a spare one, which the second has; they are had in
// turn.
#ifndef IMGCLS_TRAIN_WORKERS_H
#define IMGCLS_TRAIN_WORKERS_H

#include "exec/executor.h"
#include "train/gradsync.h"

typedef struct Workers Workers;

typedef struct WorkersDesc {
  const Backend *backend;
  Device *device; // the weights'; runs all workers that need not run side by side
  const Graph *graph;
  const ParameterLayout *layout; // borrowed, as all above
  Value input; // what batches bring: 0 for images, or a value of the graph (features)
  DType dtype;
  int threads;
  int virtual_workers;
  int first, count; // this rank's: [first, first + count)
  bool reproducible;
  bool recompute; // as in ExecutorDesc
  const int64_t *batches; // the global batch sizes that will come
  int batch_count;
} WorkersDesc;

MUST_CHECK Status workers_create(Workers **out, const WorkersDesc *desc);
void workers_free(Workers *workers);
size_t workers_memory_bytes(const Workers *workers); // gradient arenas included
ExecutorConcats workers_concats(const Workers *workers);
ExecutorRecompute workers_recompute(const Workers *workers); // of one executor

// What runs all workers, one after another; NULL where they run side by side. Borrowed.
Executor *workers_executor(const Workers *workers);

// Takes the memory; `weights` is the arena that every pass reads, borrowed.
MUST_CHECK Status workers_allocate(Workers *workers, const float *weights);

// Where a virtual worker's slice of a global batch begins.
int64_t workers_slice_begin(int worker, int virtual_workers, int64_t batch);

// A step's batch. Pointers are memory of the device.
typedef struct WorkersBatch {
  int64_t global_batch;
  int slot;              // of the transfer that brought it
  const uint8_t *pixels; // this rank's samples, in order
  const int32_t *images; // which of pixels, then on the device, they are, as ExecutorInput; or NULL
  const float *values;   // instead of pixels: features
  const double *maps;    // of the pixels, as ExecutorInput, or NULL
  UploadFill fill;
  float fill_value;
  size_t sample_size; // elements of one sample
  const int32_t *labels;
  const StepKey *keys; // of each of this rank's workers: first_sample is where its slice begins
  float smoothing;
  const double *loss_scale; // of the gradients; NULL: none. Losses are unscaled
  float *losses;            // of each sample, in order, written
  int32_t *ranks;           // the same: LossArgs.ranks
} WorkersBatch;

typedef struct WorkersTimes {
  double forward_s, backward_s; // of the slowest lane
} WorkersTimes;

// Uploads what the first worker takes in, behind the transfer of the batch; where there are no
// transfers it does nothing. Not in a recording.
MUST_CHECK Status workers_upload(Workers *workers, const WorkersBatch *batch);

// Computes the gradients of one step into `sync`, and losses and ranks, of a batch that
// workers_upload has seen. The weights may have changed since the last call. Reads nothing back
// from the device. `times` may be NULL; where it is not, the device is waited for behind each pass.
MUST_CHECK Status workers_run(Workers *workers, const WorkersBatch *batch, GradSync *sync,
                              WorkersTimes *times);

#endif
