// Sums gradients over the virtual workers and the ranks, while the backward pass still runs.
//
// The gradient arena is cut into buckets from its end, the order in which a backward pass finishes
// them. Fast mode hands a bucket to Comm as soon as its last parameter, and all buckets before it, are
// final; reproducible mode collects whole arenas in a ReduceTree, whose order of summation knows
// nothing of ranks.
#ifndef IMGCLS_TRAIN_GRADSYNC_H
#define IMGCLS_TRAIN_GRADSYNC_H

#include <stdbool.h>

#include "dist/comm.h"
#include "dist/reduce_tree.h"
#include "exec/parameters.h"

typedef struct GradSync GradSync;

typedef struct GradSyncDesc {
  World *world;
  const Backend *backend;
  Device *device;
  const ParameterLayout *layout; // all borrowed until gradsync_free
  Watchdog *watchdog;            // may be NULL, as the log
  Log *log;
  int virtual_workers;
  bool reproducible;
  double timeout_s; // to find the other ranks
} GradSyncDesc;

// Collective.
MUST_CHECK Status gradsync_create(GradSync **out, const GradSyncDesc *desc);
void gradsync_free(GradSync *sync); // NULL is fine; collective

// The sum of all workers' gradients after gradsync_finish: layout->reduced floats, borrowed.
float *gradsync_gradients(GradSync *sync);

// Brings one virtual worker's whole arena. Workers of this rank come in ascending order. Fast mode
// takes all but the last this way; reproducible mode takes every one.
MUST_CHECK Status gradsync_add(GradSync *sync, int worker, const float *gradients);

// Fast mode, the rank's last worker: `gradients` is being filled by a backward pass that calls
// gradsync_ready (a GradientReady, context = sync) for each parameter.
void gradsync_begin_last(GradSync *sync, const float *gradients);
MUST_CHECK Status gradsync_ready(void *sync, int parameter);

// Ends the step's sum on every rank. Collective.
MUST_CHECK Status gradsync_finish(GradSync *sync);

// Forgets what a step has brought that was begun and not finished. Not collective.
void gradsync_cancel(GradSync *sync);

// Bytes that one takes on this rank, for the plan before it is created.
size_t gradsync_memory_bytes(const GradSyncDesc *desc);

#endif
