// What is left of a run, and what its steps and evaluations compute on: images that loaders decode
// ahead, images that lie on the device, or features that are computed once before the first step.
// See job.h.
#include "train/job.h"

// Resized images stay in memory where those of training and validation together fit in this much.
static const size_t image_cache_bytes = (size_t)4 << 30;

bool job_awaits_evaluation(const Job *job) {
  return job->step % job->steps_per_epoch == 0 && job->step <= job->total_steps &&
         job->sums.samples > 0.0;
}

int64_t job_epochs_done(const Job *job) {
  return job->step / job->steps_per_epoch - job_awaits_evaluation(job);
}

bool job_is_done(const Job *job) {
  return job->step >= job->total_steps && !job_awaits_evaluation(job);
}

void job_share_batch(const void *context, int64_t batch_size, int64_t *first, int64_t *count) {
  const Job *job = context;
  *first = workers_slice_begin(job->first_worker, job->virtual_workers, batch_size);
  *count =
      workers_slice_begin(job->first_worker + job->worker_count, job->virtual_workers, batch_size) -
      *first;
}

// The images of training, of validation or test where their evaluator fills in its own.
LoaderDesc job_describe_training(const Job *job) {
  int64_t images = job->split.training_count + job->split.validation_count;
  double training = (double)job->split.training_count / (double)images;
  const DataConfig *data = &job->config->data;
  return (LoaderDesc){.dataset = job->dataset,
                      .samples = job->split.training,
                      .sample_count = job->split.training_count,
                      .sampler = job->sampler,
                      .target = job->target,
                      .limits = job->limits,
                      .augment = job->config->augment.enabled ? &job->augment : NULL,
                      .leave_resampling = job->backend->resamples,
                      .share = job_share_batch,
                      .share_context = job,
                      .first_step = job->step,
                      .end_step = job->total_steps,
                      .threads = data->loader_threads > 0 ? data->loader_threads : job->threads,
                      .depth = data->prefetch > 2 ? data->prefetch : 2,
                      .cache_bytes = (size_t)((double)image_cache_bytes * training),
                      .bad_files = LOADER_BAD_REPLACE,
                      .max_bad_fraction = data->max_bad_fraction,
                      .backend = job->backend,
                      .device = job->device,
                      .log = job->bad_files ? NULL : job->log}; // else those name bad ones
}

// The images of an evaluation, before its evaluator fills in which. They share the memory for
// resized images with those of training.
LoaderDesc job_describe_evaluation(const Job *job, const Dataset *dataset) {
  LoaderDesc desc = job_describe_training(job);
  desc.cache_bytes = image_cache_bytes - desc.cache_bytes;
  desc.dataset = dataset;
  return desc;
}

static Status compute_features(Features **out, const Job *job, const LoaderDesc *images,
                               const char *what) {
  return features_compute(out, &(FeaturesDesc){.world = job->world,
                                               .loader = images,
                                               .extractor = job->extractor,
                                               .watchdog = job->watchdog,
                                               .bad_files = job->bad_files,
                                               .log = job->log,
                                               .what = what});
}

// Runs every image through the frozen backbone, which is not needed afterwards.
Status job_cache_features(Job *job) {
  if (!job->extractor || job_is_done(job)) return STATUS_OK;
  LoaderDesc training = job_describe_training(job);
  TRY(extractor_allocate(job->extractor, job->weights));
  TRY(compute_features(&job->training_features, job, &training, "training"));
  if (job->evaluator) {
    LoaderDesc images = job_describe_evaluation(job, job->dataset);
    LoaderDesc validation = evaluator_loader(job->evaluator, &images);
    TRY(compute_features(&job->validation_features, job, &validation, "validation"));
  }
  extractor_free(job->extractor);
  job->extractor = NULL;
  return STATUS_OK;
}

// Why the images of training are not to lie on the device; NULL where they are.
static const char *reason_against_residence(const Job *job, const LoaderDesc *loader) {
  const Config *config = job->config;
  size_t planned = job_memory_total(job->memory.device), limit = job->fit.limit_bytes;
  size_t room = limit > planned ? limit - planned : 0;
  if (config->data.resident == CONFIG_NO) return "[data] resident = no";
  if (!job_has_device_memory(job)) return "steps compute in the memory of the host";
  if (job->extractor) return "steps train on cached features";
  if (config->run.share_gpu) return "[run] share_gpu = yes: other ranks use the GPU too";
  if (config->data.resident == CONFIG_AUTO && job->total_steps <= job->sampler.steps_per_pass)
    return "the run takes each of them once";
  if (loader->sample_count > INT32_MAX || resident_device_bytes(loader) > room)
    return "they do not fit into its memory beside the plan";
  return NULL;
}

Status job_plan_resident(Job *job) {
  LoaderDesc loader = job_describe_training(job);
  const char *why = reason_against_residence(job, &loader);
  double against = why != NULL;
  TRY(world_reduce_f64(job->world, WORLD_MAX, &against, 1));
  if (against > 0.0 && !why) why = "another rank has no room for them";
  job->why_not_resident = why;
  if (why && job->config->data.resident == CONFIG_YES)
    return status_set(
        STATUS_CONFIG,
        "[data] resident = yes: %s (%.0f MiB); use auto to keep them there only where "
        "that can be",
        why, (double)resident_device_bytes(&loader) * 0x1p-20);
  job->is_resident = !why;
  job_plan_memory(job);
  return STATUS_OK;
}

Status job_load_resident(Job *job) {
  if (!job->is_resident || job_is_done(job)) return STATUS_OK;
  LoaderDesc images = job_describe_training(job);
  return resident_load(&job->resident, &(ResidentDesc){.world = job->world,
                                                       .loader = &images,
                                                       .watchdog = job->watchdog,
                                                       .bad_files = job->bad_files,
                                                       .log = job->log});
}

Status job_open_training(Job *job, const LoaderDesc *loader) {
  if (!job->resident) return source_open(&job->source, loader, job->training_features);
  source_open_resident(&job->source, job->resident, loader->first_step);
  return STATUS_OK;
}

// The how many-th evaluation of a run an epoch's is, where it has one; from 0.
static int64_t evaluation_round(const Job *job, int64_t epoch) {
  int64_t every = job->config->train.evaluate_every;
  return every > 0 ? (epoch - 1) / every : 0;
}

Status job_open_sources(Job *job) {
  if (job_is_done(job)) return STATUS_OK;
  LoaderDesc training = job_describe_training(job);
  TRY(job_open_training(job, &training));
  if (!job->evaluator) return STATUS_OK;
  LoaderDesc images = job_describe_evaluation(job, job->dataset);
  int64_t first = evaluation_round(job, job_epochs_done(job) + 1);
  EvaluatorInput input = {.images = &images,
                          .features = job->validation_features,
                          .first_round = first,
                          .round_count =
                              evaluation_round(job, job->config->train.epochs) + 1 - first};
  return evaluator_open(job->evaluator, &input);
}
