// The folder of a run: made before anything else, later with train.log, config.resolved.ini and what
// saves checkpoints there. Called by trainer.c.
#ifndef IMGCLS_TRAIN_RUN_FOLDER_H
#define IMGCLS_TRAIN_RUN_FOLDER_H

#include "train/job.h"

// Makes the folder and those above it. STATUS_CANT_CREATE.
MUST_CHECK Status run_folder_make(const char *path);

// Copies the log to the folder from here on, and starts job->watchdog and, on rank 0,
// job->checkpoints. STATUS_CANT_CREATE. Collective.
MUST_CHECK Status run_folder_open(Job *job);

#endif
