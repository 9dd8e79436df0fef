// What the steps and evaluations of a run compute on: images that loaders decode ahead, or features
// that are computed once before the first step. See job.h.
#include "train/job.h"

// Resized images stay in memory where those of training and validation together fit in this much.
static const size_t image_cache_bytes = (size_t)4 << 30;

void job_share_batch(const void *context, int64_t batch_size, int64_t *first, int64_t *count) {
  const Job *job = context;
  *first = workers_slice_begin(job->first_worker, job->virtual_workers, batch_size);
  *count =
      workers_slice_begin(job->first_worker + job->worker_count, job->virtual_workers, batch_size) -
      *first;
}

_Static_assert((int)UPLOAD_FILL_REFLECT == (int)AUGMENT_FILL_REFLECT &&
                   (int)UPLOAD_FILL_WRAP == (int)AUGMENT_FILL_WRAP &&
                   (int)UPLOAD_FILL_NEAREST == (int)AUGMENT_FILL_NEAREST,
               "the seam's names are those of data/augment.h");
_Static_assert(sizeof(AugmentMap) == UPLOAD_MAP_NUMBERS * sizeof(double), "a map is its numbers");

void job_hand_pixels(const Job *job, const Batch *batch, WorkersBatch *work) {
  work->pixels = batch->pixels;
  work->maps = batch->maps ? batch->maps->m : NULL;
  work->fill = (UploadFill)job->augment.fill;
  work->fill_value = (float)job->augment.fill_value;
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
                      .log = job->log};
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
  if (!job->extractor || job->step == job->total_steps) return STATUS_OK;
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

// The how many-th evaluation of a run an epoch's is, where it has one; from 0.
static int64_t evaluation_round(const Job *job, int64_t epoch) {
  int64_t every = job->config->train.evaluate_every;
  return every > 0 ? (epoch - 1) / every : 0;
}

Status job_open_sources(Job *job) {
  LoaderDesc training = job_describe_training(job);
  TRY(source_open(&job->source, &training, job->training_features));
  if (!job->evaluator || job->step == job->total_steps) return STATUS_OK;
  LoaderDesc images = job_describe_evaluation(job, job->dataset);
  int64_t first = evaluation_round(job, job->step / job->steps_per_epoch + 1);
  EvaluatorInput input = {.images = &images,
                          .features = job->validation_features,
                          .first_round = first,
                          .round_count =
                              evaluation_round(job, job->config->train.epochs) + 1 - first};
  return evaluator_open(job->evaluator, &input);
}
