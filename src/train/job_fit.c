// How a step is made to fit in memory: first by recomputing activations, which changes no bit, then
// by cutting the batch into more virtual workers. See job.h; docs/numerics.md says what that
// changes.
#include <inttypes.h>
#include <math.h>

#include "base/process.h"
#include "train/job.h"

// The rest is for what nobody plans: other processes, the pages of files.
static const double share_of_free_memory = 0.9;

// --- the limit -----------------------------------------------------------------------------------

// Of a GPU it is its own memory, of which nothing is taken yet, in parts where ranks share it; of the
// host what the process holds already counts too.
static Status find_limit(Job *job) {
  int64_t asked = job->config->run.memory_limit;
  size_t available = 0, held = 0;
  TRY(job_note_free_memory(job));
  if (asked != CONFIG_AUTOMATIC) {
    job->fit.limit_bytes = (size_t)asked;
    return STATUS_OK;
  }
  if (job_has_device_memory(job)) {
    available = job->fit.free_bytes / (size_t)job->placement->sharers;
  } else {
    available = process_memory_available("") / (size_t)job->world->local_size;
    held = process_memory_held();
  }
  job->fit.limit_bytes = held + (size_t)((double)available * share_of_free_memory);
  return STATUS_OK;
}

static size_t needed_bytes(const Job *job) {
  return job_memory_total(job_step_memory(job));
}

// Whether the plan fits on every rank, and by which factor the steps are to shrink where it does
// not.
static Status measure(double *shrink, const Job *job) {
  double steps = (double)job_step_memory(job)[JOB_MEMORY_STEPS];
  double room = steps + (double)job->fit.limit_bytes - (double)needed_bytes(job);
  *shrink = room >= steps ? 1.0 : room > steps / 2 ? steps / room : 2.0;
  return world_reduce_f64(job->world, WORLD_MAX, shrink, 1);
}

// --- parts ---------------------------------------------------------------------------------------

// Batch statistics belong to a virtual worker, so a number of them that was asked for stays where
// there are such statistics; and in reproducible mode memory must not decide about numbers.
static bool may_cut(const Job *job) {
  const TrainConfig *train = &job->config->train;
  bool has_statistics = job->layout.statistic_count > 0;
  return train->virtual_workers == 0 || (!has_statistics && !train->reproducible);
}

static int64_t most_parts(const Job *job) {
  int64_t parts = job->batch / job_asked_workers(job);
  return parts > 1 ? parts : 1;
}

// At least `parts`; some more where the batch is then cut evenly, which saves plans of two sizes.
static int64_t even_parts(const Job *job, int64_t parts) {
  int64_t most = most_parts(job), asked = job_asked_workers(job);
  for (int64_t p = parts; p <= parts + parts / 4 && p <= most; p++)
    if (job->batch % (asked * p) == 0) return p;
  return parts < most ? parts : most;
}

static Status asked_parts(int64_t *parts, Job *job) {
  const TrainConfig *train = &job->config->train;
  int64_t asked = job_asked_workers(job), images = train->micro_batch;
  *parts = 1;
  if (images <= 0 || images * asked >= job->batch) return STATUS_OK;
  if (train->virtual_workers > 0 && job->layout.statistic_count > 0)
    return status_set(STATUS_CONFIG,
                      "[train] micro_batch = %" PRId64 ": each of the %" PRId64
                      " virtual workers has %" PRId64 " images, which its batch statistics need "
                      "together; set virtual_workers = %" PRId64 ", or leave it out",
                      images, asked, (job->batch + asked - 1) / asked,
                      (job->batch + images - 1) / images);
  *parts = even_parts(job, (job->batch + asked * images - 1) / (asked * images));
  job->fit.why = "as [train] micro_batch says";
  return STATUS_OK;
}

// A run that goes on keeps the parts that it has had, so that its numbers stay the same.
static int64_t saved_parts(Job *job) {
  int64_t workers = job->saved ? job->saved->state.virtual_workers : 0;
  int64_t asked = job_asked_workers(job);
  if (workers == 0) return 0;
  if (workers % asked == 0 && workers / asked <= most_parts(job)) {
    job->fit.why = "as in the checkpoint";
    return workers / asked;
  }
  if (job->layout.statistic_count > 0)
    log_warning(job->log,
                "%s has %" PRId64
                " virtual workers, which %d ranks do not divide: batch statistics "
                "are those of other parts from now on",
                job->saved->path, workers, job->world->size);
  return 0;
}

// --- the search ----------------------------------------------------------------------------------

static Status search(Job *job, double shrink, int64_t parts) {
  int64_t most = most_parts(job);
  while (shrink > 1.0 && parts < most) {
    int64_t next = (int64_t)ceil((double)parts * shrink);
    parts = even_parts(job, next > parts ? next : parts + 1);
    TRY(job_plan(job, parts, job->fit.recompute));
    TRY(measure(&shrink, job));
  }
  job->fit.why = "to fit in memory";
  return STATUS_OK;
}

// A limit that was set is kept; one that was found may be wrong.
static Status refuse(const Job *job) {
  double shrink;
  TRY(measure(&shrink, job));
  if (shrink <= 1.0) return STATUS_OK;
  const char *cure = job->saved && job->saved->state.virtual_workers > 0
                         ? "set [train] micro_batch to go on with smaller parts"
                     : may_cut(job) ? "use a smaller [model] image_size or more ranks"
                                    : "raise [train] virtual_workers, or use more ranks";
  double planned = (double)needed_bytes(job) / (1 << 20);
  double limit = (double)job->fit.limit_bytes / (1 << 20);
  if (job->config->run.memory_limit != CONFIG_AUTOMATIC)
    return status_set(STATUS_CONFIG,
                      "[run] memory_limit: %.0f MiB, and a rank needs %.0f at least; %s", limit,
                      planned, cure);
  if (job->world->rank == 0)
    log_warning(job->log, "a rank needs %.0f MiB and %.0f are free: it may be killed; %s", planned,
                limit, cure);
  return STATUS_OK;
}

Status job_fit(Job *job) {
  const TrainConfig *train = &job->config->train;
  bool searches = train->micro_batch == CONFIG_AUTOMATIC && may_cut(job);
  int64_t parts, saved = searches ? saved_parts(job) : 0;
  if (saved > 0 && job->layout.statistic_count > 0) searches = false;
  double shrink;
  TRY(find_limit(job));
  TRY(asked_parts(&parts, job));
  if (saved > 0) parts = saved;
  TRY(job_plan(job, parts, train->recompute == CONFIG_YES));
  job->fit.whole_bytes = needed_bytes(job);
  TRY(measure(&shrink, job));
  if (shrink > 1.0 && train->recompute == CONFIG_AUTO) {
    TRY(job_plan(job, parts, true));
    TRY(measure(&shrink, job));
  }
  if (shrink > 1.0 && searches) TRY(search(job, shrink, parts));
  return refuse(job);
}
