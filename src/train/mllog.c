// mllog.txt. See mllog.h. Keys, intervals and metadata follow mlperf_logging.mllog.constants and
// the rules of its compliance checker for the benchmark "resnet".
#include "train/mllog.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/memory.h"
#include "io/file.h"
#include "train/schedule.h"

static const char prefix[] = ":::MLLOG ";
static const size_t file_max_bytes = (size_t)1 << 30;

struct MlLog {
  const Job *job;
  char *path;
  int fd; // -1: it could not be written
  bool run_is_open, epoch_is_open;
  int64_t block_first; // epoch of the block that is open; 0: none
};

// --- events ---------------------------------------------------------------------------------------

typedef struct Event {
  int line; // of this file
  const char *key;
  json_t *value;    // taken; NULL: null
  json_t *metadata; // more of it than the place; taken; NULL: none
  int64_t time_ms;  // 0: now
} Event;

static bool ends_with(const char *text, const char *end) {
  size_t length = strlen(text), end_length = strlen(end);
  return length >= end_length && strcmp(text + length - end_length, end) == 0;
}

static const char *event_type(const char *key) {
  if (ends_with(key, "_start")) return "INTERVAL_START";
  return ends_with(key, "_stop") ? "INTERVAL_END" : "POINT_IN_TIME";
}

static int64_t now_ms(void) {
  return (int64_t)(1e3 * clock_wall_s());
}

static Status format_event(char **out, const Event *event) {
  json_t *metadata = json_pack("{s:s, s:i}", "file", "src/train/mllog.c", "lineno", event->line);
  if (event->metadata) (void)json_object_update(metadata, event->metadata);
  json_t *root = json_pack("{s:s, s:I, s:s, s:s, s:O?, s:o}", "namespace", "", "time_ms",
                           (json_int_t)(event->time_ms ? event->time_ms : now_ms()), "event_type",
                           event_type(event->key), "key", event->key, "value", event->value,
                           "metadata", metadata);
  char *json = root ? json_dumps(root, JSON_REAL_PRECISION(15)) : NULL;
  Status status = json ? memory_print_string(out, "%s%s\n", prefix, json)
                       : status_set(STATUS_OS, "out of memory for a line");
  json_decref(root);
  free(json);
  return status;
}

// The log is no reason to lose a run: what cannot be written is said once.
static void drop(MlLog *log) {
  log_warning(log->job->log, "no more lines in mllog.txt: %s", status_message());
  if (log->fd >= 0) (void)close(log->fd);
  log->fd = -1;
}

static Status append(const MlLog *log, const Event *event) {
  char *line;
  TRY(format_event(&line, event));
  size_t size = strlen(line);
  ssize_t written = write(log->fd, line, size);
  if (written >= 0) errno = ENOSPC; // where only a part was taken
  Status status = written == (ssize_t)size
                      ? STATUS_OK
                      : status_set_errno(STATUS_IO, "%s: cannot be written", log->path);
  memory_free(line);
  return status;
}

static void put_event(MlLog *log, const Event *event) {
  if (log->fd >= 0 && append(log, event) != STATUS_OK) drop(log);
  json_decref(event->value);
  json_decref(event->metadata);
}

#define PUT(log, ...) put_event(log, &(Event){.line = __LINE__, __VA_ARGS__})

// The epoch that the last step belongs to, or the next one at the start of an epoch.
static json_t *at_epoch(const MlLog *log, int64_t epoch) {
  return json_pack("{s:I, s:I}", "epoch_num", (json_int_t)epoch, "step_num",
                   (json_int_t)log->job->step);
}

static json_t *at_block(const MlLog *log, int64_t epoch_count) {
  json_t *metadata = json_pack("{s:I, s:I}", "first_epoch_num", (json_int_t)log->block_first,
                               "step_num", (json_int_t)log->job->step);
  if (epoch_count > 0)
    (void)json_object_set_new(metadata, "epoch_count", json_integer((json_int_t)epoch_count));
  return metadata;
}

static int64_t epochs_done(const Job *job) {
  return job->step / job->steps_per_epoch;
}

// --- settings -------------------------------------------------------------------------------------

// What only the submitter knows, from the variables that MLPerf's launch scripts export.
static void put_submission(MlLog *log) {
  char device[160];
  log->job->backend->device_describe(log->job->device, device, sizeof device);
  const struct {
    const char *key, *variable, *otherwise;
  } rows[] = {
      {"submission_benchmark", "MLPERF_SUBMISSION_BENCHMARK", "resnet"}, // image classification
      {"submission_org", "MLPERF_SUBMISSION_ORG", "unknown"},
      {"submission_division", "MLPERF_SUBMISSION_DIVISION", "open"},
      {"submission_status", "MLPERF_SUBMISSION_STATUS", "research"},
      {"submission_platform", "MLPERF_SUBMISSION_PLATFORM", device},
  };
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    const char *value = getenv(rows[i].variable);
    PUT(log, .key = rows[i].key,
        .value = json_string(value && value[0] ? value : rows[i].otherwise));
  }
}

static void put_sizes(MlLog *log) {
  const Job *job = log->job;
  const Config *config = job->config;
  const struct {
    const char *key;
    int64_t value;
  } rows[] = {
      {"seed", config->train.seed},
      {"global_batch_size", job->batch},
      {"gradient_accumulation_steps", job->virtual_workers / job->world->size},
      {"model_bn_span", job->batch / job->virtual_workers},
      {"train_samples", job->split.training_count},
      {"eval_samples", job->split.validation_count},
  };
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
    PUT(log, .key = rows[i].key, .value = json_integer((json_int_t)rows[i].value));
}

// The general keys, and those of the closed division's rules for ResNet with SGD.
static void put_optimizer(MlLog *log) {
  const Job *job = log->job;
  const Config *config = job->config;
  double warmup_steps = config->schedule.warmup_epochs * (double)job->steps_per_epoch;
  double peak = schedule_peak_rate(config, job->batch);
  double end =
      schedule_rate(config, job->batch, job->total_steps, job->steps_per_epoch, job->total_steps);
  const struct {
    const char *key;
    double value;
  } rows[] = {
      {"opt_base_learning_rate", peak},
      {"opt_end_learning_rate", end},
      {"opt_weight_decay", config->optimizer.weight_decay},
      {"opt_gradient_clip_norm", config->optimizer.clip_norm},
      {"opt_learning_rate_warmup_epochs", config->schedule.warmup_epochs},
      {"sgd_opt_base_learning_rate", peak},
      {"sgd_opt_end_learning_rate", end},
      {"sgd_opt_learning_rate_decay_poly_power", config->schedule.power},
      {"sgd_opt_learning_rate_decay_steps", (double)job->total_steps - warmup_steps},
      {"sgd_opt_weight_decay", config->optimizer.weight_decay},
      {"sgd_opt_momentum", config->optimizer.momentum},
  };
  PUT(log, .key = "opt_name",
      .value = json_string(config_choice_name("optimizer", "name", (int)config->optimizer.name)));
  PUT(log, .key = "opt_learning_rate_decay_schedule",
      .value = json_string(config_choice_name("schedule", "name", (int)config->schedule.name)));
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
    PUT(log, .key = rows[i].key, .value = json_real(rows[i].value));
}

static void put_beginning(MlLog *log, int64_t init_start_ms) {
  PUT(log, .key = "cache_clear", .value = json_false(), .time_ms = init_start_ms);
  PUT(log, .key = "init_start", .time_ms = init_start_ms);
  put_submission(log);
  put_sizes(log);
  put_optimizer(log);
  PUT(log, .key = "init_stop");
  PUT(log, .key = "run_start");
  log->run_is_open = true;
}

// --- going on -------------------------------------------------------------------------------------

static int64_t whole_number(const json_t *metadata, const char *name) {
  return (int64_t)json_integer_value(json_object_get(metadata, name));
}

// Whether a line belongs to the run as it goes on; what it opens and closes is noted.
static bool keep_line(MlLog *log, const char *line, size_t size) {
  size_t start = sizeof prefix - 1;
  bool is_ours = size > start && memcmp(line, prefix, start) == 0;
  json_t *root = is_ours ? json_loadb(line + start, size - start, 0, NULL) : NULL;
  const char *key = json_string_value(json_object_get(root, "key"));
  const json_t *metadata = json_object_get(root, "metadata");
  const char *outcome = json_string_value(json_object_get(metadata, "status"));
  bool is_stop = key && strcmp(key, "run_stop") == 0;
  bool is_done = outcome && strcmp(outcome, "success") == 0 && job_is_done(log->job);
  bool is_repeated = key && strcmp(key, "eval_start") == 0 && job_awaits_evaluation(log->job) &&
                     whole_number(metadata, "step_num") == log->job->step;
  bool is_kept = key && whole_number(metadata, "step_num") <= log->job->step &&
                 (!is_stop || is_done) && !is_repeated;
  if (is_kept) {
    if (strcmp(key, "run_start") == 0) log->run_is_open = true;
    if (is_stop) log->run_is_open = false;
    if (strcmp(key, "block_start") == 0)
      log->block_first = whole_number(metadata, "first_epoch_num");
    if (strcmp(key, "block_stop") == 0) log->block_first = 0;
    if (strcmp(key, "epoch_start") == 0) log->epoch_is_open = true;
    if (strcmp(key, "epoch_stop") == 0) log->epoch_is_open = false;
  }
  json_decref(root);
  return is_kept;
}

// Leaves in the file what belongs to the run up to job->step. `*holds_run`: its beginning is there.
static Status keep_lines(bool *holds_run, MlLog *log) {
  Bytes text = {0};
  size_t kept = 0;
  *holds_run = false;
  Status status = file_read(&text, log->path, file_max_bytes);
  if (status == STATUS_NO_INPUT) status = STATUS_OK; // an earlier part wrote none
  for (size_t i = 0; status == STATUS_OK && i < text.size;) {
    const uint8_t *end = memchr(text.data + i, '\n', text.size - i);
    if (!end) break; // torn
    size_t size = (size_t)(end - text.data) - i;
    const char *line = (const char *)text.data + i;
    if (keep_line(log, line, size)) {
      *holds_run = *holds_run || log->run_is_open;
      memmove(text.data + kept, line, size + 1);
      kept += size + 1;
    }
    i += size + 1;
  }
  if (!*holds_run) kept = 0;
  if (status == STATUS_OK) status = file_replace_unsynced(log->path, text.data, kept);
  bytes_deinit(&text);
  return status;
}

static Status open_file(MlLog *log, int64_t init_start_ms) {
  const Job *job = log->job;
  bool holds_run = false;
  TRY(memory_print_string(&log->path, "%s/mllog.txt", job->config->run.output));
  if (job->step > 0) TRY(keep_lines(&holds_run, log));
  if (holds_run && !log->run_is_open) return STATUS_OK; // complete
  int flags = O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | (job->step > 0 ? 0 : O_TRUNC);
  log->fd = open(log->path, flags, 0666);
  if (log->fd < 0) return status_set_errno(STATUS_CANT_CREATE, "%s: cannot be written", log->path);
  if (!holds_run) put_beginning(log, init_start_ms);
  if (job->step > 0)
    PUT(log, .key = "init_checkpoint_step", .value = json_integer((json_int_t)job->step),
        .metadata = json_pack("{s:I}", "step_num", (json_int_t)job->step));
  return STATUS_OK;
}

void mllog_open(MlLog **out, const Job *job, int64_t init_start_ms) {
  *out = NULL;
  if (!job->config->log.mllog || job->world->rank != 0) return;
  MlLog *log;
  Status status = memory_alloc(&log, 1, sizeof *log);
  if (status != STATUS_OK) {
    log_warning(job->log, "no mllog.txt: %s", status_message());
    return;
  }
  log->job = job;
  log->fd = -1;
  if (open_file(log, init_start_ms) != STATUS_OK) drop(log);
  *out = log;
}

static void stop_run(MlLog *log, const char *outcome) {
  if (!log->run_is_open) return;
  json_t *metadata = at_epoch(log, epochs_done(log->job));
  (void)json_object_set_new(metadata, "status", json_string(outcome));
  PUT(log, .key = "run_stop", .metadata = metadata);
  log->run_is_open = false;
}

void mllog_close(MlLog *log) {
  if (!log) return;
  stop_run(log, "aborted");
  if (log->fd >= 0) (void)close(log->fd);
  memory_free(log->path);
  memory_free(log);
}

// --- the run --------------------------------------------------------------------------------------

// A block is the epochs up to an evaluation.
static int64_t block_end(const Job *job, int64_t epoch) {
  int64_t every = job->config->train.evaluate_every, epochs = job->config->train.epochs;
  if (!job->evaluator || every == 0) return epochs;
  int64_t end = (epoch + every - 1) / every * every;
  return end < epochs ? end : epochs;
}

static void stop_block(MlLog *log) {
  if (log->block_first == 0) return;
  PUT(log, .key = "block_stop", .metadata = at_block(log, 0));
  log->block_first = 0;
}

void mllog_epoch_start(MlLog *log) {
  if (!log || log->epoch_is_open || !log->run_is_open) return;
  int64_t epoch = epochs_done(log->job) + 1;
  if (log->block_first == 0) {
    log->block_first = epoch;
    PUT(log, .key = "block_start",
        .metadata = at_block(log, block_end(log->job, epoch) - epoch + 1));
  }
  PUT(log, .key = "epoch_start", .metadata = at_epoch(log, epoch));
  log->epoch_is_open = true;
}

void mllog_epoch_stop(MlLog *log) {
  if (!log || !log->epoch_is_open) return;
  PUT(log, .key = "epoch_stop", .metadata = at_epoch(log, epochs_done(log->job)));
  log->epoch_is_open = false;
}

void mllog_eval_start(MlLog *log) {
  if (!log) return;
  stop_block(log);
  PUT(log, .key = "eval_start", .metadata = at_epoch(log, epochs_done(log->job)));
}

void mllog_eval_stop(MlLog *log, double accuracy) {
  if (!log) return;
  int64_t epoch = epochs_done(log->job);
  PUT(log, .key = "eval_stop", .metadata = at_epoch(log, epoch));
  PUT(log, .key = "eval_accuracy", .value = json_real(accuracy), .metadata = at_epoch(log, epoch));
}

void mllog_run_stop(MlLog *log) {
  if (!log) return;
  stop_block(log);
  stop_run(log, "success");
}
