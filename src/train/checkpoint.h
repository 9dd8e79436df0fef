// Checkpoints: one Keras .h5 and a small JSON beside it (the sidecar), written so that a crash at
// any moment leaves the last good pair.
//
// The .h5 is built in memory, written under a temporary name, flushed and renamed; then the sidecar
// with its size and XXH3-128 the same way. A checkpoint exists when its sidecar does. `last.h5` and
// `best.h5` are relative links. Old ones go only after the new one is safe. One rank saves; a
// background thread does the writing while training goes on.
#ifndef IMGCLS_TRAIN_CHECKPOINT_H
#define IMGCLS_TRAIN_CHECKPOINT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/log.h"
#include "dist/watchdog.h"

typedef struct Checkpoints Checkpoints;

typedef struct CheckpointsDesc {
  const char *folder;  // of the run; must exist; borrowed
  const char *resumed; // the file that the run goes on from; NULL: it begins. Needed by open alone
  int64_t keep;        // newest ones that stay, at least 1
  int64_t keep_every;  // epochs whose checkpoints stay for good; 0: none
  Log *log;            // borrowed
  Watchdog *watchdog;  // borrowed; may be NULL
} CheckpointsDesc;

// Removes what a killed run left half written in the folder, and mends its links. Where the folder
// holds checkpoints and the run does not go on from the newest, it becomes the next run of the
// folder: its first checkpoint is newer than any that is there, and those stay for the user to
// remove.
MUST_CHECK Status checkpoints_open(Checkpoints **out, const CheckpointsDesc *desc);
// Waits for a save under way. NULL is fine.
void checkpoints_close(Checkpoints *checkpoints);

typedef struct CheckpointInfo {
  int64_t step;  // optimizer steps done
  int64_t epoch; // whole epochs done, with their evaluation
  bool is_epoch_end;
  bool is_best; // becomes best.h5
} CheckpointInfo;

// Hands over a finished file image; `bytes` is owned by the callee, also on failure. Waits for the
// save before it. A save that failed is a warning, the third in a row an error.
MUST_CHECK Status checkpoints_save(Checkpoints *checkpoints, uint8_t *bytes, size_t size_bytes,
                                   const CheckpointInfo *info);

// Whether the folder has a best.h5 that can be opened and is of this run's past.
bool checkpoints_have_best(const Checkpoints *checkpoints);

// Waits for the save under way and returns its outcome.
MUST_CHECK Status checkpoints_wait(Checkpoints *checkpoints);

// Reads the newest checkpoint of `folder` whose checksum is right: of its last run the highest
// step, then those of runs before it. `*bytes` is NULL where there has never been one; STATUS_DATA
// where there are some and none is right. Each that is passed over is a warning. `*path` and
// `*bytes` are owned by the caller.
MUST_CHECK Status checkpoint_find_newest(uint8_t **bytes, size_t *size_bytes, char **path,
                                         const char *folder, Log *log);

#endif
