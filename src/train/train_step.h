// One step of training, given to the device as a whole: the batch's way there, forward, backward,
// the sum over the ranks, the update. Used by trainer.c and `imgcls bench`.
//
// Nothing in a step waits for the device: what it finds out (losses, ranks, the state of the
// update) comes back into one of a few records on the host, looked at every few steps. All numbers
// that change from step to step lie in memory of the device, so a device that can record a step
// (record_begin of backend/backend.h) does so once for each batch size and slot of the feed, and
// from then on takes it in one launch. The first step of a size is given plainly: what grows, grows
// then.
#ifndef IMGCLS_TRAIN_TRAIN_STEP_H
#define IMGCLS_TRAIN_TRAIN_STEP_H

#include "train/job.h"

enum { TRAIN_STEP_RECORDS = 16 }; // steps that may wait for a read

typedef struct TrainStep TrainStep;

// What one step found out, on this rank.
typedef struct TrainStepResult {
  int64_t step, global_count;
  int64_t first_sample, count; // this rank's samples of the batch
  const float *losses;         // unscaled, without the regulariser's part
  const int32_t *ranks;        // LossArgs.ranks
  double penalty;              // the regulariser's part
  UpdateState state;           // behind the step
} TrainStepResult;

// Seconds until the device was done with each part.
typedef struct TrainStepTimes {
  double forward_s, backward_s, sum_s, update_s;
} TrainStepTimes;

// For an allocated job, borrowed until the free, whose state is that before job->step.
MUST_CHECK Status train_step_create(TrainStep **out, Job *job);
void train_step_free(TrainStep *step); // NULL is fine; before job_close

// Device memory that one takes.
size_t train_step_memory_bytes(const Job *job);

// Gives the device step job->step on `batch`, which may be released when this returns. `times` may
// be NULL; where it is not, the step is given plainly and the device waited for behind each part. At
// most TRAIN_STEP_RECORDS times between two reads. Collective.
MUST_CHECK Status train_step_run(TrainStep *step, const Batch *batch, double learning_rate,
                                 TrainStepTimes *times);

// Waits for the device. `*out` are the steps since the last read, `*count` of them, valid until the
// next run. Not collective.
MUST_CHECK Status train_step_read(TrainStep *step, const TrainStepResult **out, int *count);

// The regulariser's part of the loss with these weights (layout->total, memory of the device), once
// the device has done all that it was given.
MUST_CHECK Status train_step_penalty(TrainStep *step, const float *weights, double *penalty);

// How the next steps are given: recorded, or why not; for people.
const char *train_step_describe(const TrainStep *step);

#endif
