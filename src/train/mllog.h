// mllog.txt in the run's folder: a run as MLPerf Training logs it, one line ":::MLLOG {json}" for
// each event, with the keys of the public package mlperf-logging ([log] mllog). Rank 0 has one.
//
// That package's compliance checker takes a file for one run. So a run that goes on from a
// checkpoint goes on in the same file: what a killed part had written beyond the checkpoint is
// dropped, with a torn last line and the "aborted" of a run that was stopped, and every epoch
// stands there once. Lines are written between epochs, each in one write, and never waited for.
#ifndef IMGCLS_TRAIN_MLLOG_H
#define IMGCLS_TRAIN_MLLOG_H

#include "train/job.h"

typedef struct MlLog MlLog; // NULL: one that stays silent

// Opens the log, with what is known before the first image is read: settings, init_start at
// `init_start_ms` since 1970, init_stop and run_start. `*out` is NULL where none is wanted, where
// the run in the file is complete, and where the file cannot be written, which is a warning like
// each later failure. `job`, whose state is restored, is borrowed until the close.
void mllog_open(MlLog **out, const Job *job, int64_t init_start_ms);

// Closes it; a run that has not stopped has been aborted.
void mllog_close(MlLog *log);

void mllog_epoch_start(MlLog *log); // nothing where the epoch has begun in an earlier part
void mllog_epoch_stop(MlLog *log);
void mllog_eval_start(MlLog *log);
void mllog_eval_stop(MlLog *log, double accuracy);
void mllog_run_stop(MlLog *log); // all epochs are done

#endif
