// What a job is going to hold, told before its first step: --dry-run, the first lines of a run and
// `imgcls bench` say it. See job.h.
#include <inttypes.h>

#include "base/memory.h"
#include "base/process.h"
#include "train/job.h"

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
  size_t bytes = loader_memory_bytes(&training);
  if (job->extractor || !job->evaluator) return bytes;
  LoaderDesc images = job_describe_evaluation(job, job->dataset);
  LoaderDesc validation = evaluator_loader(job->evaluator, &images);
  int64_t every = job->config->train.evaluate_every;
  bool once = every == 0 || every >= job->config->train.epochs;
  validation.first_step = 0;
  validation.end_step = (once ? 1 : 2) * sampler_steps_per_epoch(&validation.sampler);
  return bytes + loader_memory_bytes(&validation);
}

// A copy of the momentum and three of the file: HDF5's own, the one made from it, and the last one,
// which may still be on its way to the disk.
static size_t saving_bytes(const Job *job) {
  if (!job->dataset || job->world->rank > 0) return 0;
  int64_t file = job->layout.total + job->layout.trained;
  if (job->config->optimizer.use_ema) file += job->layout.trained;
  return floats(job->layout.total) + 3 * floats(file);
}

void job_plan_memory(Job *job) {
  GradSyncDesc sums = job_describe_sums(job);
  job->memory =
      (JobMemory){.program = process_memory_held() - (job->saved ? job->saved->held_bytes : 0),
                  .weights = memory_block_bytes(floats(job->layout.total)) +
                             memory_block_bytes(floats(job->layout.trained)) +
                             memory_block_bytes(averaged_bytes(job)),
                  .steps = workers_memory_bytes(job->workers),
                  .sums = gradsync_memory_bytes(&sums),
                  .evaluation = evaluation_bytes(job->evaluator) + evaluation_bytes(job->tester),
                  .features = job->feature_bytes,
                  .images = image_bytes(job),
                  .saving = saving_bytes(job)};
}

static double mib(size_t bytes) {
  return (double)bytes / (1 << 20);
}

void job_say_memory(const Job *job) {
  const JobMemory *memory = &job->memory;
  const JobFit *fit = &job->fit;
  log_info(
      job->log,
      "memory    %.0f MiB a rank planned, %.0f may be taken: program %.0f, weights %.0f, steps "
      "%.0f, sums %.0f, evaluation %.0f, features %.0f, images %.0f, saving %.0f",
      mib(job_memory_total(memory)), mib(fit->limit_bytes), mib(memory->program),
      mib(memory->weights), mib(memory->steps), mib(memory->sums), mib(memory->evaluation),
      mib(memory->features), mib(memory->images), mib(memory->saving));
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

size_t job_memory_total(const JobMemory *memory) {
  return memory->program + memory->weights + memory->steps + memory->sums + memory->evaluation +
         memory->features + memory->images + memory->saving;
}
