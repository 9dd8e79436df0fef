// What a run says to people. See run_log.h.
#include "train/run_log.h"

#include <inttypes.h>
#include <math.h>

#include "base/clock.h"
#include "base/process.h"
#include "train/schedule.h"

static const double log_interval_s = 30.0;
static const double progress_interval_s = 0.25;

void run_meter_start(RunMeter *meter, const Job *job) {
  double now = clock_now_s();
  *meter = (RunMeter){.start_s = now,
                      .last_line_s = now,
                      .wait_start_s = source_wait_seconds(&job->source),
                      .run_start_s = meter->run_start_s > 0.0 ? meter->run_start_s : now,
                      .trained_s = meter->trained_s,
                      .trained_images = meter->trained_images};
}

double run_meter_stop(RunMeter *meter) {
  double seconds = clock_now_s() - meter->start_s;
  meter->trained_s += seconds;
  meter->trained_images += meter->images;
  return (double)meter->images / seconds;
}

enum { DURATION_CAPACITY = 32, RATE_CAPACITY = 64 };

// "0:12", "3:04:05"
static const char *format_duration(double seconds, char text[DURATION_CAPACITY]) {
  int64_t whole = (int64_t)(seconds + 0.5), minutes = whole / 60, hours = minutes / 60;
  if (hours > 0)
    (void)snprintf(text, DURATION_CAPACITY, "%" PRId64 ":%02d:%02d", hours, (int)(minutes % 60),
                   (int)(whole % 60));
  else
    (void)snprintf(text, DURATION_CAPACITY, "%d:%02d", (int)minutes, (int)(whole % 60));
  return text;
}

// Of all ranks, and of each where there are several.
static const char *format_rate(const Job *job, double images_a_second, char text[RATE_CAPACITY]) {
  int ranks = job->world->size;
  if (ranks > 1)
    (void)snprintf(text, RATE_CAPACITY, "%.1f img/s, %.1f a rank", images_a_second,
                   images_a_second / ranks);
  else
    (void)snprintf(text, RATE_CAPACITY, "%.1f img/s", images_a_second);
  return text;
}

// BatchNormalization by the statistics of so few images learns what evaluation does not see.
static void warn_of_small_workers(const Job *job) {
  enum { FEWEST = 4 };
  int64_t batch = job->batch, images = batch / job->virtual_workers;
  if (job->layout.statistic_count == 0 || images >= FEWEST || job->world->rank > 0) return;
  log_warning(job->log,
              "each of the %d virtual workers sees %" PRId64 " image%s of a batch of %" PRId64
              ", and BatchNormalization needs %d or more to learn well; raise [train] batch to "
              "%d, or lower virtual_workers or the number of ranks",
              job->virtual_workers, images, images == 1 ? "" : "s", batch, FEWEST,
              FEWEST * job->virtual_workers);
}

static void warn_of_large_batch(const Job *job) {
  int64_t asked = job->config->train.batch;
  if (asked <= job->batch || job->world->rank > 0) return;
  log_warning(job->log,
              "[train] batch = %" PRId64 ", but there are %" PRId64 " training images: a step has "
              "all of them, and counts as a batch of %" PRId64,
              asked, job->batch, job->batch);
}

void run_log_start(const Job *job) {
  const Config *config = job->config;
  char device[160];
  if (job->placement->why_not[0]) log_info(job->log, "device    %s", job->placement->why_not);
  job->backend->device_describe(job->device, device, sizeof device);
  log_info(job->log, "device    %s: %s; %d rank%s on %d host%s, %d virtual worker%s%s",
           job->backend->name, device, job->world->size, job->world->size == 1 ? "" : "s",
           job->world->host_count, job->world->host_count == 1 ? "" : "s", job->virtual_workers,
           job->virtual_workers == 1 ? "" : "s",
           config->train.reproducible ? ", reproducible" : "");
  log_info(job->log,
           "data      %s: %" PRId64 " classes, %" PRId64 " training and %" PRId64
           " validation images",
           dataset_source(job->dataset), dataset_class_count(job->dataset),
           job->split.training_count, job->split.validation_count);
  log_info(job->log,
           "model     %s at %" PRId64 " x %" PRId64 ", %s: %.2f M parameters, %.2f M "
           "trained, %.2f GMAC an image",
           config->model.backbone, job->target.height, job->target.width, dtype_name(job->dtype),
           (double)graph_parameter_total(job->graph, false) * 1e-6,
           (double)graph_parameter_total(job->graph, true) * 1e-6,
           graph_mac_total(job->graph) * 1e-9);
  if (job->is_resident)
    log_info(job->log, "images    of training are kept on the GPU: steps upload no pixels");
  else if (job_has_device_memory(job))
    log_info(job->log, "images    are uploaded in every step: %s", job->why_not_resident);
  if (job->extractor)
    log_info(job->log, "features  of the frozen backbone are computed once and kept in memory; "
                       "steps train the head on them");
  else if (job->why_not_cached)
    log_info(job->log, "features  computed in every step: %s", job->why_not_cached);
  log_info(
      job->log,
      "training  batch %" PRId64 ", %" PRId64 " epochs of %" PRId64 " steps, learning rate %g%s",
      job->batch, config->train.epochs, job->steps_per_epoch,
      schedule_peak_rate(config, job->batch),
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
  warn_of_large_batch(job);
  warn_of_small_workers(job);
}

void run_log_bad_files(const Job *job) {
  int64_t count = bad_files_count(job->bad_files);
  if (count > 0)
    log_info(job->log, "bad files %" PRId64 " image%s could not be read; %s/bad_files.txt names %s",
             count, count == 1 ? "" : "s", job->config->run.output, count == 1 ? "it" : "them");
}

void run_log_progress(RunMeter *meter, const Job *job) {
  double now = clock_now_s();
  int64_t every = job->config->log.every_steps;
  bool line = every > 0 ? job->step % every == 0 : now - meter->last_line_s >= log_interval_s;
  bool progress = job->log->terminal && now - meter->last_progress_s >= progress_interval_s;
  if ((!line && !progress) || job->sums.samples == 0.0) return; // nothing was read back yet
  double seconds = now - meter->start_s;
  double images_a_second = (double)meter->images / seconds;
  double left = (double)(job->total_steps - job->step) * (double)job->batch;
  char text[384], rate[RATE_CAPACITY], duration[DURATION_CAPACITY];
  (void)snprintf(text, sizeof text,
                 "epoch %" PRId64 "/%" PRId64 "  step %" PRId64 "/%" PRId64
                 "  loss %.4f  accuracy %.4f  %s  %.0f ms/step  wait %.1f %%  left %s",
                 job->step / job->steps_per_epoch + 1, job->config->train.epochs,
                 job->step % job->steps_per_epoch, job->steps_per_epoch,
                 job->sums.loss / job->sums.samples, job->sums.correct / job->sums.samples,
                 format_rate(job, images_a_second, rate), 1e3 * seconds / (double)meter->steps,
                 100.0 * (source_wait_seconds(&job->source) - meter->wait_start_s) / seconds,
                 format_duration(left / images_a_second, duration));
  if (line)
    log_info(job->log, "%s", text);
  else
    log_progress(job->log, "%s", text);
  if (line) meter->last_line_s = now;
  meter->last_progress_s = now;
}

// Of an evaluation. Images without a finite loss are not right, whatever their scores say.
static void warn_of_loss(const Job *job, double loss, const char *images) {
  if (isfinite(loss) || job->world->rank > 0) return;
  log_warning(job->log,
              "the loss on the %s images is not a finite number; those that have none count as "
              "wrong. Lower [optimizer] learning_rate or add [schedule] warmup_epochs",
              images);
}

void run_log_epoch(const Job *job, const HistoryRow *row, double speed) {
  char validation[96] = "";
  if (row->has_validation)
    (void)snprintf(validation, sizeof validation, "  val_loss %.4f  val_accuracy %.4f",
                   row->val_loss, row->val_accuracy);
  log_info(
      job->log, "epoch %" PRId64 "/%" PRId64 "  loss %.4f  accuracy %.4f%s  lr %.3g  %.1f img/s",
      row->epoch, job->config->train.epochs, row->loss, row->accuracy, validation, row->lr, speed);
  if (row->has_validation) warn_of_loss(job, row->val_loss, "validation");
}

void run_log_test(const Job *job, const EvaluateResult *result) {
  log_info(job->log, "test      %s: %" PRId64 " images, loss %.4f, accuracy %.4f, top-5 %.4f",
           dataset_source(job->test_dataset), result->samples, result->loss, result->accuracy,
           result->top5);
  warn_of_loss(job, result->loss, "test");
}

// On the validation images where the job has any. NaN: there is none.
static double last_accuracy(const Job *job) {
  if (job->history.count == 0) return NAN;
  const HistoryRow *row = &job->history.rows[job->history.count - 1];
  if (!job->evaluator) return row->accuracy;
  return row->has_validation ? row->val_accuracy : NAN;
}

// Of the rank that took the most. What a job has taken of a GPU it keeps to its end.
static Status say_memory(const Job *job) {
  bool has_own = job_has_device_memory(job);
  size_t taken = 0;
  if (has_own) TRY(job_device_memory_taken(&taken, job));
  double mib[4] = {(double)process_memory_peak(), (double)job_memory_total(job->memory.host),
                   (double)taken, (double)job_memory_total(job->memory.device)};
  for (int i = 0; i < 4; i++) mib[i] *= 0x1p-20;
  TRY(world_reduce_f64(job->world, WORLD_MAX, mib, 4));
  if (has_own)
    log_info(job->log, "memory    GPU: %.0f MiB a rank taken, %.0f planned", mib[2], mib[3]);
  log_info(job->log, "memory    %s%.0f MiB a rank at the peak, %.0f planned",
           has_own ? "host: " : "", mib[0], mib[1]);
  return STATUS_OK;
}

// Of this part of the run, which may have been there to evaluate alone.
static void say_time(const Job *job, const RunMeter *meter) {
  char duration[DURATION_CAPACITY], rate[RATE_CAPACITY] = "no step was left to do";
  if (meter->trained_images > 0)
    (void)format_rate(job, (double)meter->trained_images / meter->trained_s, rate);
  log_info(job->log, "time      %s from the first step; %s in training",
           format_duration(clock_now_s() - meter->run_start_s, duration), rate);
}

Status run_log_end(const Job *job, const RunMeter *meter) {
  const char *output = job->config->run.output;
  run_log_bad_files(job);
  TRY(say_memory(job));
  say_time(job, meter);
  char best[32] = "";
  bool has_best = job->world->rank == 0 && checkpoints_have_best(job->checkpoints);
  if (has_best) (void)snprintf(best, sizeof best, ", best %.4f", job->best_accuracy);
  log_info(job->log,
           "done      %s/last.h5, %shistory.json, loss.svg, accuracy.svg, model_card.md; "
           "%s accuracy %.4f%s",
           output, has_best ? "best.h5, " : "", job->evaluator ? "validation" : "training",
           last_accuracy(job), best);
  return STATUS_OK;
}
