// A run's state in and out of checkpoints: weights and momentum as Keras stores them, and beside
// them the few numbers from which the rest follows (step, sums of the epoch, history).
#ifndef IMGCLS_TRAIN_RUN_STATE_H
#define IMGCLS_TRAIN_RUN_STATE_H

#include "train/job.h"
#include "train/saved_run.h"

// Hands the state of now to the background save. Rank 0 alone; `info` says what for.
MUST_CHECK Status run_state_save(Job *job, double learning_rate, const CheckpointInfo *info);

// Restores a saved run where there is one. STATUS_DATA where it does not belong to this model or
// data. Call it before job_allocate's arenas are trained on. Collective.
MUST_CHECK Status run_state_resume(Job *job, const SavedRun *saved);

#endif
