// Evaluation: every sample of a list once, on any number of ranks, in inference mode.
//
// The global batch of the sampler is cut over the ranks like a training batch; the loss and the
// hits of each sample are summed in the order of samples, so the figures do not depend on the
// ranks. One loader serves all evaluations of a run: it keeps what it decoded, and names a broken
// file once.
#ifndef IMGCLS_TRAIN_EVALUATE_H
#define IMGCLS_TRAIN_EVALUATE_H

#include "data/loader.h"
#include "dist/watchdog.h"
#include "dist/world.h"
#include "exec/executor.h"
#include "train/source.h"

typedef struct Evaluator Evaluator;

typedef struct EvaluatorDesc {
  const Backend *backend;
  Device *device;
  const Graph *graph;
  const ParameterLayout *layout;
  Value input; // what batches bring: 0 for images, or a value of the graph (features)
  DType dtype;
  World *world;           // NULL: alone
  const int64_t *samples; // the list; NULL: the dataset in order; borrowed, as all above
  int64_t sample_count;
  Sampler sampler; // of one of the evaluation modes
  int64_t at_once; // most images that this rank computes together; 0: its part of a batch
} EvaluatorDesc;

MUST_CHECK Status evaluator_create(Evaluator **out, const EvaluatorDesc *desc);
void evaluator_free(Evaluator *evaluator);
size_t evaluator_memory_bytes(const Evaluator *evaluator);
MUST_CHECK Status evaluator_allocate(Evaluator *evaluator, const float *weights);

// The desc of a loader of the evaluator's samples: `images` (dataset, target, limits, threads,
// depth, cache, log) with the rest filled in.
LoaderDesc evaluator_loader(const Evaluator *evaluator, const LoaderDesc *images);

typedef struct EvaluatorInput {
  const LoaderDesc *images; // as above
  Features *features;       // of the samples, instead of their images; borrowed; may be NULL
  // The how many-th evaluation comes first, which moves the sampler on in Keras mode, and how many
  // follow one upon the other.
  int64_t first_round, round_count;
} EvaluatorInput;

// Says where the samples come from; before the first evaluator_run. Starts loading ahead.
MUST_CHECK Status evaluator_open(Evaluator *evaluator, const EvaluatorInput *input);

// Where the samples come from; read-only but for its bad files.
Source *evaluator_source(Evaluator *evaluator);

typedef struct EvaluateResult {
  bool is_stopped;      // a request to stop came before the end: there are no figures
  int64_t samples, bad; // evaluated; broken files left out
  double loss;          // mean cross-entropy, without the regulariser
  double accuracy, top5;
} EvaluateResult;

typedef struct EvaluateArgs {
  float smoothing;
  Watchdog *watchdog; // may be NULL
  bool may_stop;      // at a request to stop to any rank (base/signals.h)
  // Each batch of this rank with its logits (count, classes); may be NULL.
  Status (*on_batch)(void *context, const Batch *batch, const float *logits, const float *losses);
  void *context;
} EvaluateArgs;

// One evaluation, at most round_count times. Collective where there is a world.
MUST_CHECK Status evaluator_run(Evaluator *evaluator, EvaluateResult *result,
                                const EvaluateArgs *args);

// STATUS_DATA where not one of the images could be read; not where the evaluation was stopped.
MUST_CHECK Status evaluate_check(const EvaluateResult *result, const Dataset *dataset);

#endif
