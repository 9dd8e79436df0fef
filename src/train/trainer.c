// A training run. See trainer.h; what it holds is a Job (job.h).
#include "train/trainer.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/memory.h"
#include "base/process.h"
#include "base/signals.h"
#include "io/file.h"
#include "train/job.h"
#include "train/model_card.h"
#include "train/optimizer.h"
#include "train/run_state.h"
#include "train/schedule.h"
#include "train/tensorboard.h"

static const double log_interval_s = 30.0;
static const double progress_interval_s = 0.25;

// What the loop measures between two lines of the log.
typedef struct Meter {
  double start_s, last_line_s, last_progress_s, wait_start_s;
  int64_t images, steps;
  WorkersTimes times;
  double sum_s, update_s;
} Meter;

typedef struct Run {
  Job job;
  float *losses; // of this rank's samples of one batch
  int32_t *ranks;
  double *exchange; // loss and hits of each virtual worker, and the wish to stop
  double rate;      // of the last step
  double last_save_s;
  TensorBoard *board; // rank 0; NULL: none is wanted, or it could not be written
  Meter meter;
} Run;

// --- beginning ------------------------------------------------------------------------------------

static Status make_folder(const char *path) {
  char *copy;
  TRY(memory_copy_string(&copy, path));
  Status status = STATUS_OK;
  for (char *c = copy + 1;; c++) {
    if (*c != '/' && *c != '\0') continue;
    char end = *c;
    *c = '\0';
    if (mkdir(copy, 0777) != 0 && errno != EEXIST)
      GUARD(status_set_errno(STATUS_CANT_CREATE, "[run] output: cannot create the folder '%s'", copy));
    *c = end;
    if (end == '\0') break;
  }
  struct stat info;
  if (stat(path, &info) == 0 && !S_ISDIR(info.st_mode))
    status = status_set(STATUS_CANT_CREATE, "[run] output = %s is a file; name a folder", path);
out:
  memory_free(copy);
  return status;
}

// train.log goes on where an earlier part of the run has left it.
static Status open_train_log(Log *log, const char *folder) {
  char *path;
  TRY(memory_print_string(&path, "%s/train.log", folder));
  Status status = log_open_copy(log, path);
  memory_free(path);
  return status;
}

static Status open_output(Run *run) {
  Job *job = &run->job;
  const Config *config = job->config;
  Status status = STATUS_OK;
  if (job->world->rank == 0) {
    char *text = NULL, *path = NULL;
    GUARD(make_folder(config->run.output));
    GUARD(open_train_log(job->log, config->run.output));
    GUARD(config_format(&text, config, true));
    GUARD(memory_print_string(&path, "%s/config.resolved.ini", config->run.output));
    status = file_replace_unsynced(path, text, strlen(text));
    memory_free(text);
    memory_free(path);
  }
out:
  TRY(world_agree_status(job->world, status));
  TRY(watchdog_start(&job->watchdog, &(WatchdogDesc){.program = job->log->program,
                                                     .host = job->world->host,
                                                     .run_dir = config->run.output,
                                                     .rank = job->world->rank,
                                                     .timeout_s = config->run.comm_timeout_s,
                                                     .stop_deadline_s = config->run.stop_deadline_s}));
  if (job->world->rank != 0) return STATUS_OK;
  return checkpoints_open(&job->checkpoints, &(CheckpointsDesc){.folder = config->run.output,
                                                                .keep = config->checkpoint.keep,
                                                                .keep_every = config->checkpoint.keep_every,
                                                                .log = job->log,
                                                                .watchdog = job->watchdog});
}

// Curves for TensorBoard are no reason to lose a run: what cannot be written is said once.
static void drop_board(Run *run) {
  log_warning(run->job.log, "no more curves for TensorBoard: %s", status_message());
  tensorboard_close(run->board);
  run->board = NULL;
}

static void open_board(Run *run) {
  const Job *job = &run->job;
  bool is_wanted = job->config->log.tensorboard && job->world->rank == 0;
  if (!is_wanted || job->step == job->total_steps) return;
  if (tensorboard_open(&run->board, job->config->run.output, job->world->host, job->step) != STATUS_OK)
    drop_board(run);
}

static void say_what_runs(const Run *run) {
  const Job *job = &run->job;
  const Config *config = job->config;
  char device[160];
  if (job->placement->why_not[0]) log_info(job->log, "device    %s", job->placement->why_not);
  job->backend->device_describe(job->device, device, sizeof device);
  log_info(job->log, "device    %s: %s; %d rank%s, %d virtual worker%s%s", job->backend->name,
           device, job->world->size, job->world->size == 1 ? "" : "s", job->virtual_workers,
           job->virtual_workers == 1 ? "" : "s",
           config->train.reproducible ? ", reproducible" : "");
  log_info(job->log, "data      %s: %" PRId64 " classes, %" PRId64 " training and %" PRId64
                     " validation images",
           dataset_source(job->dataset), dataset_class_count(job->dataset),
           job->split.training_count, job->split.validation_count);
  log_info(job->log, "model     %s at %" PRId64 " x %" PRId64 ", %s: %.2f M parameters, %.2f M "
                     "trained, %.2f GMAC an image",
           config->model.backbone, job->target.height, job->target.width, dtype_name(job->dtype),
           (double)graph_parameter_total(job->graph, false) * 1e-6,
           (double)graph_parameter_total(job->graph, true) * 1e-6,
           graph_mac_total(job->graph) * 1e-9);
  if (job->extractor)
    log_info(job->log, "features  of the frozen backbone are computed once and kept in memory; "
                       "steps train the head on them");
  else if (job->why_not_cached)
    log_info(job->log, "features  computed in every step: %s", job->why_not_cached);
  log_info(job->log, "training  batch %" PRId64 ", %" PRId64 " epochs of %" PRId64
                     " steps, learning rate %g%s",
           config->train.batch, config->train.epochs, job->steps_per_epoch,
           schedule_peak_rate(config),
           config->schedule.scale_with_batch == CONFIG_SCALE_NONE ? "" : " (scaled with the batch)");
  if (job->loss_scale.enabled)
    log_info(job->log, "scaling   the loss by %g, halved when gradients overflow%s",
             job->loss_scale.scale, job->loss_scale.growth_steps > 0 ? ", doubled when not" : "");
  job_say_memory(job);
  ExecutorConcats concats = workers_concats(job->workers);
  if (concats.inputs > 0)
    log_info(job->log, "concat    %d of %d inputs are written in place, %.1f MiB copied each way",
             concats.in_place, concats.inputs, (double)concats.copied_bytes / (1 << 20));
  log_info(job->log, "output    %s", config->run.output);
}

// BatchNormalization by the statistics of so few images learns what evaluation does not see.
static void warn_of_small_workers(const Job *job) {
  enum { FEWEST = 4 };
  int64_t batch = job->config->train.batch, images = batch / job->virtual_workers;
  if (job->layout.statistic_count == 0 || images >= FEWEST || job->world->rank > 0) return;
  log_warning(job->log,
              "each of the %d virtual workers sees %" PRId64 " image%s of a batch of %" PRId64
              ", and BatchNormalization needs %d or more to learn well; raise [train] batch to "
              "%d, or lower virtual_workers or the number of ranks",
              job->virtual_workers, images, images == 1 ? "" : "s", batch, FEWEST,
              FEWEST * job->virtual_workers);
}

static Status begin(Run *run, SavedRun *saved) {
  Job *job = &run->job;
  bool resumes = saved->file != NULL;
  TRY(open_output(run));
  TRY(job_allocate(job));
  TRY(run_state_resume(job, saved));
  saved_run_close(saved);
  open_board(run);
  TRY(bad_files_open(&job->bad_files, job->world, job->config->run.output, resumes));
  TRY(job_cache_features(job));
  int64_t first, mine;
  job_share_batch(job, job->config->train.batch, &first, &mine);
  TRY(memory_alloc(&run->losses, (size_t)mine, sizeof(float)));
  TRY(memory_alloc(&run->ranks, (size_t)mine, sizeof(int32_t)));
  TRY(memory_alloc(&run->exchange, 2 * (size_t)job->virtual_workers + 1, sizeof(double)));
  return job_open_sources(job);
}

// --- one step -------------------------------------------------------------------------------------

// Sums loss and hits over all workers, in their order, and asks whether anybody wants to stop.
static Status exchange_metrics(Run *run, const Batch *batch, bool *stop) {
  Job *job = &run->job;
  int workers = job->virtual_workers;
  double *losses = run->exchange, *hits = run->exchange + workers;
  memset(run->exchange, 0, (2 * (size_t)workers + 1) * sizeof(double));
  for (int w = job->first_worker; w < job->first_worker + job->worker_count; w++) {
    int64_t end = workers_slice_begin(w + 1, workers, batch->global_count) - batch->first_sample;
    int64_t i = workers_slice_begin(w, workers, batch->global_count) - batch->first_sample;
    for (; i < end; i++) {
      losses[w] += run->losses[i];
      hits[w] += run->ranks[i] == 0;
    }
  }
  run->exchange[2 * workers] = signals_stop_count() > 0;
  TRY(world_reduce_f64(job->world, WORLD_SUM, run->exchange, 2 * workers + 1));
  for (int w = 0; w < workers; w++) {
    job->sums.loss += losses[w];
    job->sums.correct += hits[w];
  }
  job->sums.samples += (double)batch->global_count;
  *stop = run->exchange[2 * workers] > 0.0;
  return STATUS_OK;
}

// Whether gradients have overflowed on any rank; all of them leave the step out then.
static Status check_overflow(Job *job, double norm, bool *is_finite) {
  double overflow = !isfinite(norm);
  *is_finite = true;
  if (!job->loss_scale.enabled) return STATUS_OK;
  TRY(world_reduce_f64(job->world, WORLD_MAX, &overflow, 1));
  *is_finite = overflow == 0.0;
  if (loss_scale_update(&job->loss_scale, *is_finite))
    log_info(job->log, "step %" PRId64 ": %s, loss scale %g, %" PRId64 " steps left out so far",
             job->step + 1, *is_finite ? "no overflow for long" : "gradients overflow",
             job->loss_scale.scale, job->loss_scale.skipped);
  return STATUS_OK;
}

static Status update_weights(Run *run) {
  Job *job = &run->job;
  double norm;
  bool is_finite;
  run->rate = schedule_rate(job->config, job->step, job->steps_per_epoch, job->total_steps);
  OptimizerArgs args = {.backend = job->backend,
                        .device = job->device,
                        .layout = &job->layout,
                        .config = &job->config->optimizer,
                        .weights = job->weights,
                        .velocity = job->velocity,
                        .averaged = job->averaged,
                        .gradients = gradsync_gradients(job->sync),
                        .learning_rate = run->rate,
                        .loss_scale = job->loss_scale.enabled ? job->loss_scale.scale : 0.0};
  TRY(optimizer_gradient_norm(&args, &norm));
  TRY(check_overflow(job, norm, &is_finite));
  return is_finite ? optimizer_step(&args, norm) : STATUS_OK;
}

static Status regularization(const Job *job, float *weights, double *loss) {
  OptimizerArgs args = {.backend = job->backend,
                        .device = job->device,
                        .layout = &job->layout,
                        .weights = weights};
  return optimizer_regularization(&args, loss);
}

// Elements of what a step takes in for each sample.
static size_t sample_size(const Job *job) {
  return (size_t)(job->training_features ? model_feature_length(job->graph)
                                         : job->target.height * job->target.width * 3);
}

static Status train_step(Run *run, const Batch *batch, bool *stop) {
  Job *job = &run->job;
  WorkersBatch work = {.global_batch = batch->global_count,
                       .values = batch->values,
                       .sample_size = sample_size(job),
                       .labels = batch->labels,
                       .seed = (uint64_t)job->config->train.seed,
                       .step = job->step,
                       .smoothing = (float)job->config->train.label_smoothing,
                       .loss_scale = (float)job->loss_scale.scale};
  job_hand_pixels(job, batch, &work);
  WorkersTimes times;
  double penalty;
  TRY(regularization(job, job->weights, &penalty));
  TRY(workers_run(job->workers, &work, job->sync, run->losses, run->ranks, &times));
  double before_sum_s = clock_now_s();
  watchdog_progress(job->watchdog, job->step, "sum");
  TRY(gradsync_finish(job->sync));
  TRY(exchange_metrics(run, batch, stop));
  job->sums.loss += penalty * (double)batch->global_count; // Keras reports it with the loss
  double before_update_s = clock_now_s();
  TRY(update_weights(run));
  run->meter.times.forward_s += times.forward_s;
  run->meter.times.backward_s += times.backward_s;
  run->meter.sum_s += before_update_s - before_sum_s;
  run->meter.update_s += clock_now_s() - before_update_s;
  run->meter.images += batch->global_count;
  run->meter.steps++;
  return STATUS_OK;
}

// --- telling --------------------------------------------------------------------------------------

static void reset_meter(Run *run) {
  double now = clock_now_s();
  run->meter = (Meter){
      .start_s = now, .last_line_s = now, .wait_start_s = source_wait_seconds(&run->job.source)};
}

static void tell_progress(Run *run) {
  const Job *job = &run->job;
  Meter *meter = &run->meter;
  double now = clock_now_s();
  int64_t every = job->config->log.every_steps;
  bool line = every > 0 ? job->step % every == 0 : now - meter->last_line_s >= log_interval_s;
  bool progress = job->log->terminal && now - meter->last_progress_s >= progress_interval_s;
  if (!line && !progress) return;
  double seconds = now - meter->start_s;
  double images_a_second = (double)meter->images / seconds;
  double left = (double)(job->total_steps - job->step) * (double)job->config->train.batch;
  char text[256];
  (void)snprintf(text, sizeof text,
                 "epoch %" PRId64 "/%" PRId64 "  step %" PRId64 "/%" PRId64
                 "  loss %.4f  accuracy %.4f  %.1f img/s  %.0f ms/step  wait %.1f %%  left %.0f s",
                 job->step / job->steps_per_epoch + 1, job->config->train.epochs,
                 job->step % job->steps_per_epoch, job->steps_per_epoch,
                 job->sums.loss / job->sums.samples, job->sums.correct / job->sums.samples,
                 images_a_second, 1e3 * seconds / (double)meter->steps,
                 100.0 * (source_wait_seconds(&job->source) - meter->wait_start_s) / seconds,
                 left / images_a_second);
  if (line) log_info(job->log, "%s", text);
  else log_progress(job->log, "%s", text);
  if (line) meter->last_line_s = now;
  meter->last_progress_s = now;
}

// --- epochs ---------------------------------------------------------------------------------------

static Status evaluate_epoch(Run *run, int64_t epoch, HistoryRow *row) {
  Job *job = &run->job;
  int64_t every = job->config->train.evaluate_every;
  bool due = epoch == job->config->train.epochs || (every > 0 && epoch % every == 0);
  if (!job->evaluator || !due) return STATUS_OK;
  EvaluateArgs args = {.smoothing = (float)job->config->train.label_smoothing,
                       .watchdog = job->watchdog};
  EvaluateResult result;
  const float *weights;
  double penalty;
  TRY(job_evaluated_weights(&weights, job));
  TRY(evaluator_run(job->evaluator, &result, &args));
  TRY(regularization(job, job->averaged ? job->averaged : job->weights, &penalty));
  row->has_validation = true;
  row->val_loss = result.loss + penalty;
  row->val_accuracy = result.accuracy;
  return STATUS_OK;
}

static Status save(Run *run, bool is_epoch_end, bool is_best) {
  Job *job = &run->job;
  run->last_save_s = clock_now_s();
  CheckpointInfo info = {.step = job->step,
                         .epoch = job->step / job->steps_per_epoch,
                         .is_epoch_end = is_epoch_end,
                         .is_best = is_best};
  Status status = job->world->rank == 0 ? run_state_save(job, run->rate, &info) : STATUS_OK;
  return world_agree_status(job->world, status);
}

static Status collect_bad_files(Job *job) {
  TRY(source_collect_bad_files(&job->source, job->bad_files, job->dataset));
  if (!job->evaluator) return STATUS_OK;
  return source_collect_bad_files(evaluator_source(job->evaluator), job->bad_files, job->dataset);
}

static Status end_epoch(Run *run) {
  Job *job = &run->job;
  const Config *config = job->config;
  int64_t epoch = job->step / job->steps_per_epoch;
  double seconds = clock_now_s() - run->meter.start_s;
  HistoryRow row = {.epoch = epoch,
                    .loss = job->sums.loss / job->sums.samples,
                    .accuracy = job->sums.correct / job->sums.samples,
                    .lr = run->rate};
  TRY(evaluate_epoch(run, epoch, &row));
  TRY(collect_bad_files(job));
  TRY(history_append(&job->history, &row));
  job->sums = (EpochSums){0};
  double score = row.has_validation ? row.val_accuracy : row.accuracy;
  bool is_best = score > job->best_accuracy;
  if (is_best) job->best_accuracy = score;
  char validation[96] = "";
  if (row.has_validation)
    (void)snprintf(validation, sizeof validation, "  val_loss %.4f  val_accuracy %.4f", row.val_loss,
                   row.val_accuracy);
  log_info(job->log, "epoch %" PRId64 "/%" PRId64 "  loss %.4f  accuracy %.4f%s  lr %.3g  %.1f img/s",
           epoch, config->train.epochs, row.loss, row.accuracy, validation, row.lr,
           (double)run->meter.images / seconds);
  if (run->board && tensorboard_write(run->board, &row, job->step) != STATUS_OK) drop_board(run);
  Status status = job->world->rank == 0 ? history_write(&job->history, config->run.output) : STATUS_OK;
  TRY(world_agree_status(job->world, status));
  bool is_last = job->step == job->total_steps;
  int64_t every = config->checkpoint.every_epochs;
  if (is_last || (every > 0 && epoch % every == 0)) TRY(save(run, true, is_best));
  reset_meter(run);
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
  TRY(collect_bad_files(job));
  TRY(save(run, false, false));
  Status status = job->world->rank == 0 ? checkpoints_wait(job->checkpoints) : STATUS_OK;
  TRY(world_agree_status(job->world, status));
  return status_set(STATUS_STOPPED,
                    "stopped by signal %d after step %" PRId64 " of %" PRId64
                    "; the state is saved: start again with the same command to continue",
                    signals_last_stop(), job->step, job->total_steps);
}

// The test images once, with the final weights.
static Status test(EvaluateResult *result, Job *job) {
  LoaderDesc images = job_describe_evaluation(job, job->test_dataset);
  EvaluateArgs args = {.smoothing = (float)job->config->train.label_smoothing,
                       .watchdog = job->watchdog};
  const float *weights;
  TRY(job_evaluated_weights(&weights, job));
  TRY(evaluator_open(job->tester, &(EvaluatorInput){.images = &images, .round_count = 1}));
  TRY(evaluator_run(job->tester, result, &args));
  TRY(source_collect_bad_files(evaluator_source(job->tester), job->bad_files, job->test_dataset));
  log_info(job->log, "test      %s: %" PRId64 " images, loss %.4f, accuracy %.4f, top-5 %.4f",
           dataset_source(job->test_dataset), result->samples, result->loss, result->accuracy,
           result->top5);
  return STATUS_OK;
}

// Of the rank that took the most.
static Status tell_memory(const Job *job) {
  double bytes[2] = {(double)process_memory_peak(), (double)job_memory_total(&job->memory)};
  TRY(world_reduce_f64(job->world, WORLD_MAX, bytes, 2));
  log_info(job->log, "memory    %.0f MiB a rank at the peak, %.0f planned", bytes[0] / (1 << 20),
           bytes[1] / (1 << 20));
  return STATUS_OK;
}

static Status finish(Run *run) {
  Job *job = &run->job;
  const char *output = job->config->run.output;
  EvaluateResult tested;
  bool is_first = job->world->rank == 0;
  Status status = is_first ? checkpoints_wait(job->checkpoints) : STATUS_OK;
  TRY(world_agree_status(job->world, status));
  if (job->tester) TRY(test(&tested, job));
  status = is_first ? model_card_write(job, job->tester ? &tested : NULL) : STATUS_OK;
  TRY(world_agree_status(job->world, status));
  if (bad_files_count(job->bad_files) > 0)
    log_info(job->log,
             "bad files %" PRId64 " images could not be read; %s/bad_files.txt names them",
             bad_files_count(job->bad_files), output);
  TRY(tell_memory(job));
  log_info(job->log,
           "done      %s/last.h5, best.h5, history.json, loss.svg, accuracy.svg, "
           "model_card.md; best accuracy %.4f",
           output, job->best_accuracy);
  return STATUS_OK;
}

static Status train(Run *run) {
  Job *job = &run->job;
  run->last_save_s = clock_now_s();
  reset_meter(run);
  while (job->step < job->total_steps) {
    const Batch *batch;
    bool stop;
    watchdog_progress(job->watchdog, job->step, "load");
    TRY(source_next(&job->source, &batch));
    watchdog_progress(job->watchdog, job->step, "compute");
    TRY(train_step(run, batch, &stop));
    source_release(&job->source, batch);
    job->step++;
    if (!isfinite(job->sums.loss))
      return status_set(STATUS_ERROR,
                        "step %" PRId64 ": the loss is not a finite number; lower [optimizer] "
                        "learning_rate or add [schedule] warmup_epochs",
                        job->step);
    bool epoch_ends = job->step % job->steps_per_epoch == 0;
    if (!epoch_ends) tell_progress(run);
    else TRY(end_epoch(run));
    if (stop && job->step < job->total_steps) return stop_early(run);
    if (!epoch_ends) TRY(save_within_epoch(run));
  }
  return finish(run);
}

Status trainer_run(const TrainerDesc *desc) {
  Run *run;
  TRY(memory_alloc(&run, 1, sizeof *run));
  SavedRun saved;
  Status status = STATUS_OK;
  GUARD(saved_run_find(&saved, desc->config, desc->world, desc->log));
  GUARD(job_open(&run->job, &(JobDesc){.config = desc->config,
                                       .saved = &saved,
                                       .world = desc->world,
                                       .placement = desc->placement,
                                       .binding = desc->binding,
                                       .log = desc->log}));
  say_what_runs(run);
  warn_of_small_workers(&run->job);
  if (desc->dry_run) goto out;
  GUARD(begin(run, &saved));
  GUARD(train(run));
out:
  saved_run_close(&saved);
  job_close(&run->job);
  tensorboard_close(run->board);
  memory_free(run->losses);
  memory_free(run->ranks);
  memory_free(run->exchange);
  memory_free(run);
  return status;
}
