// The pass over a list, round by round. See rounds.h.
#include "train/rounds.h"

#include "base/clock.h"
#include "base/signals.h"

static const double line_interval_s = 30.0, progress_interval_s = 0.25;

typedef struct Telling {
  double start_s, last_line_s, last_progress_s;
} Telling;

// A round gives every rank one block of the list: LoaderShare.
static void share_of_round(const void *context, int64_t batch_size, int64_t *first,
                           int64_t *count) {
  const RoundsDesc *desc = context;
  int64_t begin = desc->world->rank * desc->block, end = begin + desc->block;
  *first = begin < batch_size ? begin : batch_size;
  *count = (end < batch_size ? end : batch_size) - *first;
}

static void tell(Telling *telling, const RoundsDesc *desc, int64_t done) {
  double now = clock_now_s();
  bool line = now - telling->last_line_s >= line_interval_s;
  if (!line && now - telling->last_progress_s < progress_interval_s) return;
  char text[160];
  desc->tell(desc->context, text, sizeof text, done, now - telling->start_s);
  if (line)
    log_info(desc->log, "%s", text);
  else
    log_progress(desc->log, "%s", text);
  if (line) telling->last_line_s = now;
  telling->last_progress_s = now;
}

// At growing distances, so that early ones are named early and few rounds have one collective call
// more.
static bool collects_after(int64_t rounds) {
  return (rounds & (rounds - 1)) == 0;
}

Status rounds_run(const RoundsDesc *desc, double *seconds) {
  LoaderDesc loader_desc = *desc->loader;
  TRY(sampler_init(&loader_desc.sampler, &(SamplerDesc){.mode = SAMPLER_EVALUATE,
                                                        .sample_count = loader_desc.sample_count,
                                                        .batch = desc->block * desc->world->size}));
  loader_desc.share = share_of_round;
  loader_desc.share_context = desc;
  loader_desc.first_step = 0;
  loader_desc.end_step = sampler_steps_per_epoch(&loader_desc.sampler);
  Loader *loader = NULL;
  Telling telling = {.start_s = clock_now_s(), .last_line_s = clock_now_s()};
  int64_t done = 0, told = 0;
  Status status = loader_open(&loader, &loader_desc);
  GUARD(world_agree_status(desc->world, status));
  for (int64_t round = 0; round < loader_desc.end_step; round++) {
    watchdog_progress(desc->watchdog, round, desc->phase);
    status = desc->take(desc->context, loader, &done);
    if (status == STATUS_OK && signals_stop_count() > 0)
      status = status_set(STATUS_STOPPED,
                          "stopped by signal %d while %s: start again with the same command to "
                          "continue",
                          signals_last_stop(), desc->stop_text);
    GUARD(world_agree_status(desc->world, status));
    if (collects_after(round + 1))
      GUARD(bad_files_collect(desc->bad_files, loader, loader_desc.dataset, &told));
    tell(&telling, desc, done);
  }
  GUARD(bad_files_collect(desc->bad_files, loader, loader_desc.dataset, &told));
  *seconds = clock_now_s() - telling.start_s;
out:
  if (status != STATUS_OK)
    status = bad_files_leave(desc->bad_files, loader, loader_desc.dataset, &told, status);
  loader_close(loader);
  return status;
}
