// The numbers of a run that its checkpoints keep beside the weights, read strictly: a file that was
// named may say anything.
#ifndef IMGCLS_TRAIN_SAVED_STATE_H
#define IMGCLS_TRAIN_SAVED_STATE_H

#include <jansson.h>
#include <stdint.h>

#include "base/status.h"

// Sums over the epoch under way. They are part of a checkpoint, so that an epoch that was
// interrupted reports what an unbroken one would.
typedef struct EpochSums {
  double loss, correct, samples;
} EpochSums;

typedef struct SavedState {
  int64_t format, step; // never absent
  EpochSums sums;
  int64_t virtual_workers; // 0: it does not say
  double loss_scale;       // 0: it does not say
  int64_t good_steps;      // since the loss scale last changed
  int64_t steps_left_out;
} SavedState;

// Reads them from the JSON object that run_state_save has made. STATUS_DATA, with the number and
// what it may be, for one that no run can have; `path` is for the message.
MUST_CHECK Status saved_state_read(SavedState *out, const json_t *root, const char *path);

#endif
