// A run's state in and out of checkpoints. See run_state.h.
#include "train/run_state.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "keras/keras.h"
#include "model/pretrained.h"

// --- saving ---------------------------------------------------------------------------------------

static Status format_state(char **out, const Job *job) {
  *out = NULL;
  char hash[CONFIG_HASH_CAPACITY], *history = NULL, *config = NULL, *text = NULL;
  char fingerprint[24];
  json_t *root = NULL;
  Status status = STATUS_OK;
  GUARD(config_hash(job->config, hash));
  GUARD(config_format(&config, job->config, false));
  GUARD(history_format_json(&history, &job->history));
  (void)snprintf(fingerprint, sizeof fingerprint, "%016" PRIx64, dataset_fingerprint(job->dataset));
  root = json_pack("{s:i, s:I, s:f, s:f, s:f, s:s, s:s, s:s, s:s, s:b, s:b, s:i, s:i, "
                   "s:f, s:I, s:I}",
                   "format", 1, "step", (json_int_t)job->step, "epoch_loss", job->sums.loss,
                   "epoch_correct", job->sums.correct, "epoch_samples", job->sums.samples,
                   "history", history, "config", config, "config_hash", hash, "data_fingerprint",
                   fingerprint, "antialias", job->config->data.antialias, "keep_aspect",
                   job->config->data.keep_aspect, "virtual_workers", job->virtual_workers, "ranks",
                   job->world->size, "loss_scale", job->loss_scale.scale, "loss_scale_good_steps",
                   (json_int_t)job->loss_scale.good_steps, "steps_left_out",
                   (json_int_t)job->loss_scale.skipped);
  text = root ? json_dumps(root, JSON_COMPACT | JSON_REAL_PRECISION(17)) : NULL;
  if (!text) GUARD(status_set(STATUS_OS, "checkpoint: out of memory for its state"));
  GUARD(memory_copy_string(out, text));
out:
  json_decref(root);
  free(text);
  memory_free(history);
  memory_free(config);
  return status;
}

static Status copy_class_names(const char ***out, const Job *job) {
  int64_t count = dataset_class_count(job->dataset);
  TRY(memory_alloc(out, (size_t)count, sizeof **out));
  for (int64_t i = 0; i < count; i++) (*out)[i] = dataset_class_name(job->dataset, i);
  return STATUS_OK;
}

Status run_state_save(Job *job, double learning_rate, const CheckpointInfo *info) {
  ParameterValues momentum = {0}, unaveraged = {0};
  const float *weights;
  const char **class_names = NULL;
  char *state = NULL;
  uint8_t *bytes = NULL;
  size_t size = 0;
  Status status = STATUS_OK;
  const OptimizerConfig *optimizer = &job->config->optimizer;
  KerasTraining training = {.learning_rate = learning_rate,
                            .momentum = optimizer->momentum,
                            .nesterov = optimizer->nesterov,
                            .label_smoothing = job->config->train.label_smoothing};
  GUARD(parameter_values_create(&momentum, job->graph));
  GUARD(job_evaluated_weights(&weights, job));
  GUARD(parameters_download(&job->layout, job->backend, job->device, &job->values, weights, false));
  if (job->averaged) {
    GUARD(parameter_values_create(&unaveraged, job->graph));
    GUARD(parameters_download(&job->layout, job->backend, job->device, &unaveraged, job->weights,
                              true));
  }
  GUARD(parameters_download(&job->layout, job->backend, job->device, &momentum, job->velocity, true));
  GUARD(format_state(&state, job));
  GUARD(copy_class_names(&class_names, job));
  KerasModel model = {.graph = job->graph,
                      .values = (const float *const *)job->values.values,
                      .momentum = (const float *const *)momentum.values,
                      .unaveraged = (const float *const *)unaveraged.values,
                      .training = &training,
                      .class_names = class_names,
                      .class_count = dataset_class_count(job->dataset),
                      .step = job->step,
                      .seed = (uint64_t)job->config->train.seed,
                      .state = state};
  GUARD(keras_save_image(&bytes, &size, &model));
  GUARD(checkpoints_save(job->checkpoints, bytes, size, info));
out:
  parameter_values_free(&momentum);
  parameter_values_free(&unaveraged);
  memory_free(class_names);
  memory_free(state);
  return status;
}

// --- restoring ------------------------------------------------------------------------------------

// Names the keys that differ, where the saved text can be read by this version.
static Status warn_of_changes(const Job *job, const json_t *root, const char *path) {
  char hash[CONFIG_HASH_CAPACITY];
  TRY(config_hash(job->config, hash));
  const char *saved_hash = json_string_value(json_object_get(root, "config_hash"));
  const char *saved_text = json_string_value(json_object_get(root, "config"));
  if (job->world->rank > 0 || !saved_hash || strcmp(saved_hash, hash) == 0) return STATUS_OK;
  Config saved = {0};
  ConfigProblems problems = {0};
  char *changes = NULL;
  Status status = STATUS_OK;
  if (saved_text &&
      config_load_text(&saved, &problems, saved_text, strlen(saved_text)) == STATUS_OK)
    GUARD(config_describe_changes(&changes, &saved, job->config));
  log_warning(job->log,
              "the configuration differs from the one of %s: %s; this run goes on with the new one",
              path, changes && changes[0] ? changes : "keys of another version");
out:
  memory_free(changes);
  config_problems_deinit(&problems);
  config_deinit(&saved);
  return status;
}

static Status check_same_images(const Job *job, const json_t *root, const char *path) {
  char fingerprint[24];
  (void)snprintf(fingerprint, sizeof fingerprint, "%016" PRIx64, dataset_fingerprint(job->dataset));
  const char *saved_data = json_string_value(json_object_get(root, "data_fingerprint"));
  if (!saved_data || strcmp(saved_data, fingerprint) != 0)
    return status_set(STATUS_DATA,
                      "%s was trained on other images than [data] dir = %s; use --resume none or "
                      "another --output",
                      path, job->config->data.dir);
  return STATUS_OK;
}

static Status restore_state(Job *job, const SavedRun *saved) {
  const SavedState *state = &saved->state;
  TRY(check_same_images(job, saved->root, saved->path));
  job->step = state->step;
  job->sums = state->sums;
  if (job->loss_scale.enabled) {
    LossScale *scale = &job->loss_scale;
    if (state->loss_scale > 0.0) scale->scale = state->loss_scale;
    scale->good_steps = state->good_steps;
    scale->skipped = state->steps_left_out;
  }
  const char *history = json_string_value(json_object_get(saved->root, "history"));
  return history ? history_parse_json(&job->history, history) : STATUS_OK;
}

static Status restore(Job *job, const SavedRun *saved) {
  KerasFit fit;
  ParameterValues momentum = {0};
  bool found;
  Status status = STATUS_OK;
  GUARD(restore_state(job, saved));
  status = keras_file_read_parameters(&fit, saved->file, job->graph, KERAS_SCOPE_MODEL,
                                      job->values.values);
  if (status == STATUS_DATA) {
    status = status_prepend(status, "cannot go on with this [model]; begin anew with --resume=none "
                                    "or in another run folder (-o), or keep the [model]");
    goto out;
  }
  GUARD(status);
  status = pretrained_require_scaling(job->graph, saved->file);
  if (status != STATUS_OK) {
    status = status_prepend(status, "%s", saved->path);
    goto out;
  }
  GUARD(parameter_values_create(&momentum, job->graph));
  GUARD(keras_file_read_momentum(&found, saved->file, job->graph, momentum.values));
  if (job->averaged)
    GUARD(parameters_upload(&job->layout, job->backend, job->device, job->averaged, &job->values,
                            false));
  // Steps go on with the weights that the average was made of.
  GUARD(keras_file_read_unaveraged(saved->file, job->graph, job->values.values));
  GUARD(parameters_upload(&job->layout, job->backend, job->device, job->weights, &job->values,
                          false));
  GUARD(parameters_upload(&job->layout, job->backend, job->device, job->velocity, &momentum, true));
  status = warn_of_changes(job, saved->root, saved->path);
out:
  parameter_values_free(&momentum);
  return status;
}

// Where a run goes on in another folder, or from before the best epoch of this one, the best so far
// is not in it: the next one counts.
static Status restore_best(Job *job) {
  int32_t has_best = job->world->rank == 0 && checkpoints_have_best(job->checkpoints);
  TRY(world_broadcast(job->world, &has_best, sizeof has_best, 0));
  job->best_accuracy = has_best ? history_best(&job->history, job->evaluator != NULL) : -1.0;
  return STATUS_OK;
}

Status run_state_resume(Job *job, const SavedRun *saved) {
  if (!saved->file) {
    log_info(job->log, "resume    nothing: the run begins");
    return STATUS_OK;
  }
  TRY(world_agree_status(job->world, restore(job, saved)));
  TRY(restore_best(job));
  log_info(job->log, "resume    %s: step %" PRId64, saved->path, job->step);
  if (job_is_done(job))
    log_info(job->log,
             "resume    nothing is left to do: the run has %" PRId64 " steps; raise [train] epochs "
             "to go on",
             job->total_steps);
  else if (job_awaits_evaluation(job))
    log_info(job->log, "resume    the evaluation of epoch %" PRId64 " comes first",
             job_epochs_done(job) + 1);
  return STATUS_OK;
}
