// The checkpoint that a run goes on from. It is read before anything is planned, because it knows
// into how many virtual workers the batch has been cut.
#ifndef IMGCLS_TRAIN_SAVED_RUN_H
#define IMGCLS_TRAIN_SAVED_RUN_H

#include "base/log.h"
#include "config/config.h"
#include "dist/world.h"
#include "io/file.h"
#include "keras/keras.h"
#include "train/saved_state.h"

// The same on every rank; owned by the struct.
typedef struct SavedRun {
  Bytes bytes;
  char *path;
  KerasFile *file; // NULL: the run begins
  json_t *root;    // of the state, for its texts
  SavedState state;
  size_t held_bytes; // of memory, until saved_run_close
} SavedRun;

// Finds and opens what [checkpoint] resume names ("auto", "none" or a file). Nobody vouches for a
// file that is named: rank 0 reads it as any foreign file, behind a wall, and all ranks take its
// clean copy. STATUS_DATA where there are checkpoints and none is whole, or the file is damaged or
// no run's. Collective; saved_run_close after a failure too.
MUST_CHECK Status saved_run_find(SavedRun *out, const Config *config, World *world, Log *log);
void saved_run_close(SavedRun *saved);

#endif
