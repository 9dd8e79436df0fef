// A training run. See trainer.h; what it holds is a Job (job.h).
#include "train/trainer.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "base/clock.h"
#include "base/memory.h"
#include "base/signals.h"
#include "train/job.h"
#include "train/mllog.h"
#include "train/model_card.h"
#include "train/run_folder.h"
#include "train/run_lock.h"
#include "train/run_log.h"
#include "train/run_state.h"
#include "train/schedule.h"
#include "train/side_file.h"
#include "train/tensorboard.h"
#include "train/train_step.h"

static const double read_interval_s = 1.0;

// When steps are read back: every few of them, but not much later than every read_interval_s.
typedef struct Reading {
  int64_t next;  // job->step at which it is due
  double last_s; // when it was done last
} Reading;

typedef struct Run {
  Job job;
  TrainStep *step;
  Reading reading;
  double *exchange; // loss and hits of each virtual worker of each step; then the wish to stop, how
                    // many steps to the next read, and whether bad files wait to be named
  bool stop;        // somebody wants to
  bool met_bad;     // somebody has, as of the last read
  double rate;      // of the last step
  double last_save_s;
  SideFile history_files[HISTORY_FILE_COUNT]; // rank 0's
  TensorBoard *board; // rank 0; NULL: none is wanted, or it could not be written
  MlLog *mllog;
  int64_t begin_ms; // since 1970
  RunMeter meter;
} Run;

// --- beginning ------------------------------------------------------------------------------------

// Curves for TensorBoard are no reason to lose a run: what cannot be written is said once.
static void drop_board(Run *run) {
  log_warning(run->job.log, "no more curves for TensorBoard: %s", status_message());
  tensorboard_close(run->board);
  run->board = NULL;
}

static void open_board(Run *run) {
  const Job *job = &run->job;
  bool is_wanted = job->config->log.tensorboard && job->world->rank == 0;
  if (!is_wanted || job_is_done(job)) return;
  if (tensorboard_open(&run->board, job->config->run.output, job->world->host, job->step) !=
      STATUS_OK)
    drop_board(run);
}

static size_t exchange_length(const Job *job, int steps) {
  return 2 * (size_t)job->virtual_workers * (size_t)steps + 3;
}

static Status begin(Run *run, SavedRun *saved) {
  Job *job = &run->job;
  bool resumes = saved->file != NULL;
  TRY(run_folder_open(job));
  TRY(job_allocate(job));
  TRY(run_state_resume(job, saved));
  saved_run_close(saved);
  open_board(run);
  mllog_open(&run->mllog, job, run->begin_ms);
  TRY(bad_files_open(&job->bad_files, job->world, job->config->run.output, resumes, job->log));
  run_log_bad_files(job);
  TRY(job_cache_features(job));
  TRY(job_load_resident(job));
  TRY(train_step_create(&run->step, job));
  if (job->backend->record_begin)
    log_info(job->log, "launches  %s", train_step_describe(run->step));
  TRY(memory_alloc(&run->exchange, exchange_length(job, TRAIN_STEP_RECORDS), sizeof(double)));
  return job_open_sources(job);
}

// --- steps ----------------------------------------------------------------------------------------

static double rate_of_step(const Job *job, int64_t step) {
  return schedule_rate(job->config, job->batch, step, job->steps_per_epoch, job->total_steps);
}

static Status train_step(Run *run, const Batch *batch) {
  Job *job = &run->job;
  run->rate = rate_of_step(job, job->step);
  TRY(train_step_run(run->step, batch, run->rate, NULL));
  run->meter.images += batch->global_count;
  run->meter.steps++;
  return STATUS_OK;
}

// Loss and hits of this rank's workers, each in its place.
static void sum_workers(const Job *job, const TrainStepResult *result, double *losses,
                        double *hits) {
  int workers = job->virtual_workers;
  for (int w = job->first_worker; w < job->first_worker + job->worker_count; w++) {
    int64_t end = workers_slice_begin(w + 1, workers, result->global_count) - result->first_sample;
    int64_t i = workers_slice_begin(w, workers, result->global_count) - result->first_sample;
    for (; i < end; i++) {
      losses[w] += result->losses[i];
      hits[w] += result->ranks[i] == 0;
    }
  }
}

// How many steps may pass until the next read, by the time of those since the last.
static double steps_to_next_read(const Run *run, int steps) {
  double step_s = (clock_now_s() - run->reading.last_s) / steps;
  double most = step_s > 0.0 ? read_interval_s / step_s : TRAIN_STEP_RECORDS;
  return most < 1.0 ? 1.0 : most > TRAIN_STEP_RECORDS ? TRAIN_STEP_RECORDS : floor(most);
}

// Adds a step to the sums of the epoch, workers in their order, and follows its loss scale.
static Status add_step(Job *job, const TrainStepResult *result, const double *losses,
                       const double *hits) {
  for (int w = 0; w < job->virtual_workers; w++) {
    job->sums.loss += losses[w];
    job->sums.correct += hits[w];
  }
  job->sums.samples += (double)result->global_count;
  job->sums.loss +=
      result->penalty * (double)result->global_count; // Keras reports it with the loss
  if (!isfinite(job->sums.loss))
    return status_set(STATUS_ERROR,
                      "step %" PRId64 ": the loss is not a finite number; lower [optimizer] "
                      "learning_rate or add [schedule] warmup_epochs",
                      result->step + 1);
  LossScale *scale = &job->loss_scale;
  double before = scale->scale;
  scale->scale = result->state.loss_scale;
  scale->good_steps = result->state.good_steps;
  scale->skipped = result->state.skipped_steps;
  if (scale->scale != before)
    log_info(job->log, "step %" PRId64 ": %s, loss scale %g, %" PRId64 " steps left out so far",
             result->step + 1,
             scale->scale > before ? "no overflow for long" : "gradients overflow", scale->scale,
             scale->skipped);
  return STATUS_OK;
}

// --- bad files ------------------------------------------------------------------------------------

static bool has_bad_files(Job *job) {
  return source_has_bad_files(&job->source) ||
         (job->evaluator && source_has_bad_files(evaluator_source(job->evaluator)));
}

static Status collect_bad_files(Job *job) {
  TRY(source_collect_bad_files(&job->source, job->bad_files, job->dataset));
  if (!job->evaluator) return STATUS_OK;
  return source_collect_bad_files(evaluator_source(job->evaluator), job->bad_files, job->dataset);
}

static Status next_batch(Job *job, const Batch **out) {
  Status status = source_next(&job->source, out);
  if (status == STATUS_OK) return STATUS_OK;
  return source_leave_bad_files(&job->source, job->bad_files, job->dataset, status);
}

// --- reading steps back ---------------------------------------------------------------------------

// Waits for the device and adds up what the steps since the last read have found on all ranks; asks
// whether anybody wants to stop, or has met bad files.
static Status read_steps(Run *run) {
  Job *job = &run->job;
  const TrainStepResult *results;
  int count, workers = job->virtual_workers;
  TRY(train_step_read(run->step, &results, &count));
  if (count == 0) return STATUS_OK;
  size_t length = exchange_length(job, count);
  memset(run->exchange, 0, length * sizeof(double));
  for (int i = 0; i < count; i++) {
    double *losses = run->exchange + 2 * workers * i;
    sum_workers(job, &results[i], losses, losses + workers);
  }
  double *stop = run->exchange + length - 3, *next = stop + 1, *met_bad = stop + 2;
  *met_bad = has_bad_files(job);
  *stop = signals_stop_count() > 0;
  *next = job->world->rank == 0 ? steps_to_next_read(run, count) : 0.0; // the clock is rank 0's
  TRY(world_reduce_f64(job->world, WORLD_SUM, run->exchange, (int)length));
  run->stop = run->stop || *stop > 0.0;
  run->met_bad = *met_bad > 0.0;
  run->reading = (Reading){.next = job->step + (int64_t)*next, .last_s = clock_now_s()};
  for (int i = 0; i < count; i++) {
    const double *losses = run->exchange + 2 * workers * i;
    TRY(add_step(job, &results[i], losses, losses + workers));
  }
  return STATUS_OK;
}

// Whether the steps so far are to be read now; the same on all ranks.
static bool read_is_due(const Run *run) {
  const Job *job = &run->job;
  int64_t every = job->config->log.every_steps;
  return job->step >= run->reading.next || job->step % job->steps_per_epoch == 0 ||
         (every > 0 && job->step % every == 0);
}

// A run that is to stop saves before it counts bad files, which may be too many.
static Status read_if_due(Run *run) {
  if (!read_is_due(run)) return STATUS_OK;
  TRY(read_steps(run));
  return run->met_bad && !run->stop ? collect_bad_files(&run->job) : STATUS_OK;
}

// --- epochs ---------------------------------------------------------------------------------------

// The weights of now on all images of an evaluator, whose loader is open. As in training, Keras
// reports the regulariser's part with the loss.
static Status evaluate(EvaluateResult *result, Run *run, Evaluator *evaluator,
                       const Dataset *dataset) {
  Job *job = &run->job;
  double penalty;
  EvaluateArgs args = {.smoothing = (float)job->config->train.label_smoothing,
                       .watchdog = job->watchdog,
                       .may_stop = true};
  const float *weights;
  TRY(job_evaluated_weights(&weights, job));
  Status status = evaluator_run(evaluator, result, &args);
  Source *source = evaluator_source(evaluator);
  if (status != STATUS_OK) return source_leave_bad_files(source, job->bad_files, dataset, status);
  TRY(source_collect_bad_files(source, job->bad_files, dataset));
  TRY(evaluate_check(result, dataset));
  TRY(train_step_penalty(run->step, job->averaged ? job->averaged : job->weights, &penalty));
  result->loss += penalty;
  return STATUS_OK;
}

// `*is_stopped`: before its end.
static Status evaluate_epoch(Run *run, int64_t epoch, HistoryRow *row, bool *is_stopped) {
  Job *job = &run->job;
  int64_t every = job->config->train.evaluate_every;
  bool due = epoch == job->config->train.epochs || (every > 0 && epoch % every == 0);
  if (!job->evaluator || !due) return STATUS_OK;
  EvaluateResult result;
  mllog_eval_start(run->mllog);
  TRY(evaluate(&result, run, job->evaluator, job->dataset));
  *is_stopped = result.is_stopped;
  if (result.is_stopped) return STATUS_OK;
  mllog_eval_stop(run->mllog, result.accuracy);
  row->has_validation = true;
  row->val_loss = result.loss;
  row->val_accuracy = result.accuracy;
  return STATUS_OK;
}

static Status save(Run *run, bool is_epoch_end, bool is_best) {
  Job *job = &run->job;
  TRY(read_steps(run));
  run->last_save_s = clock_now_s();
  CheckpointInfo info = {.step = job->step,
                         .epoch = job_epochs_done(job),
                         .is_epoch_end = is_epoch_end,
                         .is_best = is_best};
  Status status = job->world->rank == 0 ? run_state_save(job, run->rate, &info) : STATUS_OK;
  return world_agree_status(job->world, status);
}

static void write_history(Run *run) {
  const Job *job = &run->job;
  for (int f = 0; job->world->rank == 0 && f < HISTORY_FILE_COUNT; f++)
    side_file_note(&run->history_files[f], history_write(&job->history, job->config->run.output, f),
                   job->log);
}

// After an epoch's steps. A request to stop may interrupt its evaluation; then all stays as the
// steps have left it, and the run that goes on comes back here first.
static Status end_epoch(Run *run) {
  Job *job = &run->job;
  const Config *config = job->config;
  int64_t epoch = job->step / job->steps_per_epoch;
  double speed = run_meter_stop(&run->meter);
  HistoryRow row = {.epoch = epoch,
                    .loss = job->sums.loss / job->sums.samples,
                    .accuracy = job->sums.correct / job->sums.samples,
                    .lr = run->rate};
  mllog_epoch_stop(run->mllog);
  bool is_stopped = false;
  TRY(evaluate_epoch(run, epoch, &row, &is_stopped));
  run->stop = run->stop || is_stopped;
  if (is_stopped) return STATUS_OK;
  TRY(collect_bad_files(job));
  TRY(history_append(&job->history, &row));
  job->sums = (EpochSums){0};
  double score = history_score(&row, job->evaluator != NULL);
  bool is_best = score > job->best_accuracy;
  if (is_best) job->best_accuracy = score;
  run_log_epoch(job, &row, speed);
  if (run->board && tensorboard_write(run->board, &row, job->step) != STATUS_OK) drop_board(run);
  bool is_last = job->step == job->total_steps;
  int64_t every = config->checkpoint.every_epochs;
  if (is_last || is_best || (every > 0 && epoch % every == 0)) TRY(save(run, true, is_best));
  write_history(run);
  if (!is_last) mllog_epoch_start(run->mllog);
  run_meter_start(&run->meter, job);
  return STATUS_OK;
}

// Whether a save between epochs is due. The clock is rank 0's, so all are asked together.
static Status save_within_epoch(Run *run) {
  Job *job = &run->job;
  const CheckpointConfig *checkpoint = &job->config->checkpoint;
  bool due = checkpoint->every_steps > 0 && job->step % checkpoint->every_steps == 0;
  if (checkpoint->every_minutes > 0) {
    double late = clock_now_s() - run->last_save_s >= 60.0 * checkpoint->every_minutes;
    TRY(world_broadcast(job->world, &late, sizeof late, 0));
    due = due || late > 0.0;
  }
  return due ? save(run, false, false) : STATUS_OK;
}

static Status stop_early(Run *run) {
  Job *job = &run->job;
  TRY(save(run, false, false));
  TRY(collect_bad_files(job));
  Status status = job->world->rank == 0 ? checkpoints_wait(job->checkpoints) : STATUS_OK;
  TRY(world_agree_status(job->world, status));
  bool is_auto = strcmp(job->config->checkpoint.resume, "auto") == 0;
  return status_set(STATUS_STOPPED,
                    "stopped by signal %d after step %" PRId64 " of %" PRId64
                    "; the state is saved: start again with %s to continue",
                    signals_last_stop(), job->step, job->total_steps,
                    is_auto ? "the same command" : "--resume auto");
}

// The test images once, with the final weights.
static Status test(EvaluateResult *result, Run *run) {
  Job *job = &run->job;
  LoaderDesc images = job_describe_evaluation(job, job->test_dataset);
  TRY(evaluator_open(job->tester, &(EvaluatorInput){.images = &images, .round_count = 1}));
  TRY(evaluate(result, run, job->tester, job->test_dataset));
  if (result->is_stopped)
    return status_set(STATUS_STOPPED,
                      "stopped by signal %d while the test images were evaluated; the model is "
                      "saved: start again with the same command for their figures",
                      signals_last_stop());
  run_log_test(job, result);
  return STATUS_OK;
}

// Names a file that could not be written; the first failure is what comes of all.
static Status add_failure(Status first, Status status, Log *log) {
  if (status != STATUS_OK) log_warning(log, "%s", status_message());
  return first == STATUS_OK ? status : first;
}

// What stays beside the checkpoints, whose failed writes have been warnings so far.
static Status write_last_files(Job *job, const EvaluateResult *tested) {
  const char *output = job->config->run.output;
  Status status = STATUS_OK;
  for (int f = 0; f < HISTORY_FILE_COUNT; f++)
    status = add_failure(status, history_write(&job->history, output, f), job->log);
  status = add_failure(status, bad_files_finish(job->bad_files), job->log);
  return add_failure(status, model_card_write(job, tested), job->log);
}

static Status finish(Run *run) {
  Job *job = &run->job;
  EvaluateResult tested;
  mllog_run_stop(run->mllog);
  bool is_first = job->world->rank == 0;
  Status status = is_first ? checkpoints_wait(job->checkpoints) : STATUS_OK;
  TRY(world_agree_status(job->world, status));
  if (job->tester) TRY(test(&tested, run));
  status = is_first ? write_last_files(job, job->tester ? &tested : NULL) : STATUS_OK;
  TRY(run_log_end(job, &run->meter));
  if (status != STATUS_OK)
    status = status_set(status,
                        "the model is saved in %s, but not every file beside it: mend what the "
                        "warnings name and start again with the same command to write them",
                        job->config->run.output);
  return world_agree_status(job->world, status);
}

static Status train(Run *run) {
  Job *job = &run->job;
  run->last_save_s = run->reading.last_s = clock_now_s();
  run_meter_start(&run->meter, job);
  if (job_awaits_evaluation(job)) {
    run->rate = rate_of_step(job, job->step - 1);
    TRY(end_epoch(run));
  } else {
    mllog_epoch_start(run->mllog);
  }
  while (job->step < job->total_steps && !run->stop) {
    const Batch *batch;
    watchdog_progress(job->watchdog, job->step, "load");
    TRY(next_batch(job, &batch));
    watchdog_progress(job->watchdog, job->step, "compute");
    TRY(train_step(run, batch));
    source_release(&job->source, batch);
    job->step++;
    TRY(read_if_due(run));
    if (job->step % job->steps_per_epoch == 0) {
      TRY(end_epoch(run));
    } else {
      run_log_progress(&run->meter, job);
      if (!run->stop) TRY(save_within_epoch(run));
    }
  }
  return run->stop && !job_is_done(job) ? stop_early(run) : finish(run);
}

// Among several ranks, what a failed one holds stays open for main to end the job: closing the
// communicator would wait for ranks that may not know of the failure. Only what is being saved is
// saved first.
static Status leave_open(const Job *job, Status status) {
  if (!job->checkpoints) return status;
  KeptStatus failure;
  status_keep(&failure, status);
  if (checkpoints_wait(job->checkpoints) != STATUS_OK) log_warning(job->log, "%s", status_message());
  return status_restore(&failure);
}

Status trainer_run(const TrainerDesc *desc) {
  Run *run;
  TRY(memory_alloc(&run, 1, sizeof *run));
  run->begin_ms = (int64_t)(1e3 * clock_wall_s());
  SavedRun saved = {0};
  Status status = STATUS_OK;
  int lock = -1;
  if (!desc->dry_run) GUARD(run_lock_take(&lock, desc->config, desc->world, desc->log));
  GUARD(saved_run_find(&saved, desc->config, desc->world, desc->log));
  GUARD(job_open(&run->job, &(JobDesc){.config = desc->config,
                                       .saved = &saved,
                                       .world = desc->world,
                                       .placement = desc->placement,
                                       .binding = desc->binding,
                                       .log = desc->log}));
  run_log_start(&run->job);
  if (desc->dry_run) goto out;
  GUARD(begin(run, &saved));
  GUARD(train(run));
out:
  if (status != STATUS_OK && status != STATUS_STOPPED && desc->world->size > 1)
    return leave_open(&run->job, status);
  saved_run_close(&saved);
  mllog_close(run->mllog);
  train_step_free(run->step);
  job_close(&run->job);
  tensorboard_close(run->board);
  memory_free(run->exchange);
  memory_free(run);
  run_lock_release(lock);
  return status;
}
