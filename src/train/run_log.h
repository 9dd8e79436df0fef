// What a run says to people: its first lines, its progress, an epoch's results, its last lines.
// Called by trainer.c; everything goes to job->log, which prints rank 0's.
#ifndef IMGCLS_TRAIN_RUN_LOG_H
#define IMGCLS_TRAIN_RUN_LOG_H

#include "train/job.h"

// What the steps have measured: of the epoch under way, and of this part of the run. Starts zeroed.
typedef struct RunMeter {
  double start_s, last_line_s, last_progress_s, wait_start_s;
  int64_t images, steps;
  double run_start_s, trained_s; // trained_s: in steps, without evaluations and checkpoints
  int64_t trained_images;
} RunMeter;

void run_meter_start(RunMeter *meter, const Job *job); // an epoch, or the rest of one
double run_meter_stop(RunMeter *meter);                // after its steps; images a second

// What is about to run, from device to output folder, with what is worth a warning.
void run_log_start(const Job *job);

// How many images could not be read so far, where there are any: when a run goes on, and at its
// end.
void run_log_bad_files(const Job *job);

// Where the run is, after a step within an epoch: a progress line on a terminal, and a line of the
// log where one is due.
void run_log_progress(RunMeter *meter, const Job *job);

// An epoch that has ended, trained at `speed` images a second.
void run_log_epoch(const Job *job, const HistoryRow *row, double speed);

void run_log_test(const Job *job, const EvaluateResult *result);

// The last lines. Collective.
MUST_CHECK Status run_log_end(const Job *job, const RunMeter *meter);

#endif
