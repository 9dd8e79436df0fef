// imgcls-train --check-data. See check_data.h.
#include "tool/check_data.h"

#include <inttypes.h>

#include "dist/binding.h"
#include "tool/decode_all.h"
#include "train/job.h"

typedef struct Check {
  int64_t bad;
  Log *log;
} Check;

static Status note_image(void *context, int64_t sample, const char *reason) {
  (void)sample;
  Check *check = context;
  if (!reason) return STATUS_OK;
  log_warning(check->log, "%s", reason);
  check->bad++;
  return STATUS_OK;
}

static Status check_one(const char *path, int64_t min_classes, int threads, const JobDesc *desc) {
  Dataset *dataset = NULL;
  Check check = {.log = desc->log};
  Status status = STATUS_OK;
  GUARD(job_open_dataset(&dataset, path, min_classes, desc));
  status = decode_all(&(DecodeAll){.dataset = dataset,
                                   .limits = job_sample_limits(desc->config),
                                   .threads = threads,
                                   .world = desc->world,
                                   .log = desc->log,
                                   .on_image = note_image,
                                   .context = &check});
  GUARD(world_agree_status(desc->world, status));
  GUARD(world_reduce_i64(desc->world, WORLD_SUM, &check.bad, 1));
  int64_t count = dataset_sample_count(dataset);
  log_info(desc->log, "%s: %" PRId64 " classes, %" PRId64 " images, %" PRId64 " of them broken",
           path, dataset_class_count(dataset), count, check.bad);
  double allowed = desc->config->data.max_bad_fraction;
  if ((double)check.bad > allowed * (double)count)
    status = status_set(STATUS_DATA,
                        "%s: %" PRId64 " of %" PRId64 " images cannot be read, more than "
                        "[data] max_bad_fraction = %g; repair or remove the files named above",
                        path, check.bad, count, allowed);
out:
  dataset_close(dataset);
  return status;
}

Status check_data(const Config *config, World *world, Log *log) {
  const JobDesc desc = {.config = config, .world = world, .log = log};
  Binding binding;
  TRY(binding_find(&binding, world, NULL));
  int threads = config->data.loader_threads > 0 ? (int)config->data.loader_threads : binding.cores;
  TRY(check_one(config->data.dir, 2, threads, &desc));
  if (config->data.test_dir[0]) TRY(check_one(config->data.test_dir, 1, threads, &desc));
  return STATUS_OK;
}
