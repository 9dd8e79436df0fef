// The folder of a run: made before the first step, with train.log, config.resolved.ini and what
// saves checkpoints there. Called by trainer.c.
#ifndef IMGCLS_TRAIN_RUN_FOLDER_H
#define IMGCLS_TRAIN_RUN_FOLDER_H

#include "train/job.h"

// Makes [run] output and those above it, copies the log to it from here on, and starts
// job->watchdog and, on rank 0, job->checkpoints. STATUS_CANT_CREATE. Collective.
MUST_CHECK Status run_folder_open(Job *job);

#endif
