// The lock of a run's folder: two runs that write checkpoints into one folder would mix them.
// Called by trainer.c before it looks for a checkpoint.
#ifndef IMGCLS_TRAIN_RUN_LOCK_H
#define IMGCLS_TRAIN_RUN_LOCK_H

#include "base/log.h"
#include "config/config.h"
#include "dist/world.h"

// Makes [run] output and locks run.lock there, on rank 0; the end of the process, however it comes,
// lets go of it. STATUS_CANT_CREATE, naming host and process, where another run holds it; one
// that is still ending is waited for, in a job that Slurm has queued again for longer. On a file
// system without locks the run goes on with a warning. Collective.
MUST_CHECK Status run_lock_take(int *lock, const Config *config, World *world, Log *log);
void run_lock_release(int lock);

#endif
