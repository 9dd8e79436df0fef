// What a job is going to hold, told before its first step: --dry-run, the first lines of a run and
// `imgcls bench` say it. See job.h.
#include <inttypes.h>
#include <stdio.h>

#include "base/memory.h"
#include "base/process.h"
#include "train/job.h"
#include "train/train_step.h"

// Code and tables of libraries that only steps (7 to 11 MiB) and saves (17 to 21 with both) touch,
// whatever the network.
enum { LATER_LIBRARY_BYTES = 16 << 20 };

static size_t floats(int64_t count) {
  return (size_t)count * sizeof(float);
}

static size_t averaged_bytes(const Job *job) {
  return job->config->optimizer.use_ema ? floats(job->layout.total) : 0;
}

static size_t evaluation_bytes(const Evaluator *evaluator) {
  return evaluator ? evaluator_memory_bytes(evaluator) : 0;
}

// Loaders of training and validation run at one time; where features are cached, one computes them.
static size_t image_bytes(const Job *job) {
  if (!job->dataset) return 0;
  LoaderDesc training = job_describe_training(job);
  size_t bytes = job->is_resident ? resident_host_bytes(&training, job->world)
                                  : loader_memory_bytes(&training);
  if (job->extractor || !job->evaluator) return bytes;
  LoaderDesc images = job_describe_evaluation(job, job->dataset);
  LoaderDesc validation = evaluator_loader(job->evaluator, &images);
  int64_t every = job->config->train.evaluate_every;
  bool once = every == 0 || every >= job->config->train.epochs;
  validation.first_step = 0;
  validation.end_step = (once ? 1 : 2) * sampler_steps_per_epoch(&validation.sampler);
  return bytes + loader_memory_bytes(&validation);
}

static bool saves_once(const Job *job) {
  const Config *config = job->config;
  return config->train.epochs == 1 && config->checkpoint.every_steps == 0 &&
         config->checkpoint.every_minutes == 0.0;
}

// A copy of the momentum, with averaged weights one of the others (of what is trained: the rest of
// the pages is never touched), and of the file HDF5's own, the one made from it, and the last one,
// which may still be on its way to the disk.
static size_t saving_bytes(const Job *job) {
  if (!job->dataset || job->world->rank > 0) return 0;
  bool averages = job->config->optimizer.use_ema;
  int64_t copies = job->layout.trained * (averages ? 2 : 1);
  int64_t file = job->layout.total + job->layout.trained * (averages ? 2 : 1);
  return floats(copies) + floats(file) * (saves_once(job) ? 2 : 3);
}

bool job_has_device_memory(const Job *job) {
  return job->backend->memory_available != NULL;
}

// What computing features holds is free again before the first save. With the images' part known.
static size_t saving_beside_features(const Job *job) {
  size_t saving = saving_bytes(job);
  size_t freed = 0;
  if (job->extractor) freed = job->memory.host[JOB_MEMORY_IMAGES];
  if (job->extractor && !job_has_device_memory(job)) freed += job->extractor_bytes;
  return saving > freed ? saving - freed : 0;
}

// What an evaluation takes in at once lies on the device as it came until it is a value.
static size_t upload_bytes(const Job *job) {
  size_t ranks = (size_t)job->world->size, batch = (size_t)job->batch;
  size_t at_once = job->fit.parts > 1 ? (size_t)job_largest_part(job) : (batch + ranks - 1) / ranks;
  return job->evaluator ? at_once * (size_t)(job->target.height * job->target.width * 3) : 0;
}

static size_t resident_bytes(const Job *job) {
  if (!job->is_resident) return 0;
  LoaderDesc training = job_describe_training(job);
  return resident_device_bytes(&training);
}

const size_t *job_step_memory(const Job *job) {
  return job_has_device_memory(job) ? job->memory.device : job->memory.host;
}

void job_plan_memory(Job *job) {
  GradSyncDesc sums = job_describe_sums(job);
  bool has_own = job_has_device_memory(job);
  job->memory = (JobMemory){0};
  size_t *host = job->memory.host, *steps = has_own ? job->memory.device : host;
  host[JOB_MEMORY_PROGRAM] =
      process_memory_held() - (job->saved ? job->saved->held_bytes : 0) + LATER_LIBRARY_BYTES;
  host[JOB_MEMORY_FEATURES] = job->feature_bytes;
  host[JOB_MEMORY_IMAGES] = image_bytes(job);
  host[JOB_MEMORY_SAVING] = saving_beside_features(job);
  steps[JOB_MEMORY_WEIGHTS] = memory_block_bytes(floats(job->layout.total)) +
                              memory_block_bytes(floats(job->layout.trained)) +
                              memory_block_bytes(averaged_bytes(job));
  steps[JOB_MEMORY_STEPS] = workers_memory_bytes(job->workers) + train_step_memory_bytes(job);
  steps[JOB_MEMORY_SUMS] = gradsync_memory_bytes(&sums);
  steps[JOB_MEMORY_EVALUATION] = evaluation_bytes(job->evaluator) + evaluation_bytes(job->tester);
  steps[JOB_MEMORY_FEATURES] += job->extractor_bytes;
  if (has_own) steps[JOB_MEMORY_IMAGES] = upload_bytes(job) + resident_bytes(job);
}

static double mib(size_t bytes) {
  return (double)bytes / (1 << 20);
}

// "steps 120, sums 4"
typedef struct PartsText {
  char text[256];
} PartsText;

static PartsText list_parts(const size_t parts[JOB_MEMORY_PARTS]) {
  static const char *const names[JOB_MEMORY_PARTS] = {"program",    "weights",  "steps",  "sums",
                                                      "evaluation", "features", "images", "saving"};
  PartsText out = {""};
  int length = 0;
  for (int i = 0; i < JOB_MEMORY_PARTS; i++)
    if (parts[i] > 0)
      length += snprintf(out.text + length, sizeof out.text - (size_t)length, "%s%s %.0f",
                         length > 0 ? ", " : "", names[i], mib(parts[i]));
  return out;
}

static void say_plan(const Job *job) {
  const JobMemory *memory = &job->memory;
  PartsText host = list_parts(memory->host), device = list_parts(memory->device);
  double host_mib = mib(job_memory_total(memory->host));
  if (!job_has_device_memory(job)) {
    log_info(job->log, "memory    %.0f MiB a rank planned, %.0f may be taken: %s", host_mib,
             mib(job->fit.limit_bytes), host.text);
    return;
  }
  char limit[32] = "";
  if (job->fit.limit_bytes < SIZE_MAX / 2) // a GPU that is not here has no limit
    (void)snprintf(limit, sizeof limit, ", %.0f may be taken", mib(job->fit.limit_bytes));
  log_info(job->log, "memory    GPU: %.0f MiB a rank planned%s: %s",
           mib(job_memory_total(memory->device)), limit, device.text);
  log_info(job->log, "memory    host: %.0f MiB a rank planned: %s", host_mib, host.text);
}

void job_say_memory(const Job *job) {
  const JobFit *fit = &job->fit;
  say_plan(job);
  if (fit->parts > 1)
    log_info(job->log,
             "parts     the batch is cut into %d virtual workers%s, %s: a rank computes %" PRId64
             " images at once, and planned %.0f MiB without",
             job->virtual_workers,
             job->layout.statistic_count > 0 ? " with batch statistics of their own" : "", fit->why,
             job_largest_part(job), mib(fit->whole_bytes));
  ExecutorRecompute recompute = workers_recompute(job->workers);
  if (fit->recompute)
    log_info(job->log,
             "recompute %d results in the backward pass: activations and their gradients take "
             "%.1f MiB a worker instead of %.1f",
             recompute.rebuilt, mib(recompute.arena_bytes), mib(recompute.kept_bytes));
}

size_t job_memory_total(const size_t parts[JOB_MEMORY_PARTS]) {
  size_t total = 0;
  for (int i = 0; i < JOB_MEMORY_PARTS; i++) total += parts[i];
  return total;
}

Status job_note_free_memory(Job *job) {
  if (!job_has_device_memory(job)) return STATUS_OK;
  return job->backend->memory_available(job->device, &job->fit.free_bytes);
}

Status job_device_memory_taken(size_t *out, const Job *job) {
  size_t available;
  TRY(job->backend->memory_available(job->device, &available));
  *out = job->fit.free_bytes > available ? job->fit.free_bytes - available : 0;
  return STATUS_OK;
}
