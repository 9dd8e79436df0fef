// Decodes every image of a dataset. See decode_all.h.
#include "tool/decode_all.h"

#include <inttypes.h>

#include "base/clock.h"
#include "data/loader.h"

enum { BATCH = 64, DEPTH = 4 };
static const double PROGRESS_SECONDS = 0.5;

// This rank's part of a batch: LoaderShare.
static void share(const void *context, int64_t batch_size, int64_t *first, int64_t *count) {
  const World *world = context;
  *first = world->rank * batch_size / world->size;
  *count = (world->rank + 1) * batch_size / world->size - *first;
}

static Status run(const DecodeAll *desc, Loader *loader) {
  int64_t total = dataset_sample_count(desc->dataset);
  double told_s = clock_now_s();
  for (;;) {
    const Batch *batch;
    TRY(loader_next(loader, &batch));
    if (!batch) return STATUS_OK;
    for (int64_t i = 0; i < batch->count; i++) {
      int64_t sample = batch->samples[i];
      TRY(desc->on_image(desc->context, sample,
                         batch->labels[i] < 0 ? loader_bad_reason(loader, sample) : NULL));
    }
    int64_t done = batch->step * BATCH + batch->global_count;
    loader_release(loader, batch);
    if (clock_now_s() - told_s < PROGRESS_SECONDS) continue;
    told_s = clock_now_s();
    log_progress(desc->log, "%s: decoded %" PRId64 " of %" PRId64 " images, %" PRId64 " bad",
                 dataset_source(desc->dataset), done, total, loader_bad_count(loader));
  }
}

Status decode_all(const DecodeAll *desc) {
  int64_t count = dataset_sample_count(desc->dataset);
  // One pixel is enough: an image is decoded whole before it is resized.
  LoaderDesc loading = {.dataset = desc->dataset,
                        .sample_count = count,
                        .target = {.height = 1, .width = 1},
                        .limits = desc->limits,
                        .share = desc->world ? share : NULL,
                        .share_context = desc->world,
                        .threads = desc->threads,
                        .depth = DEPTH,
                        .bad_files = LOADER_BAD_MARK,
                        .max_bad_fraction = 1.0};
  Loader *loader = NULL;
  TRY(sampler_init(&loading.sampler, &(SamplerDesc){SAMPLER_EVALUATE, count, BATCH, 0}));
  loading.end_step = sampler_steps_per_epoch(&loading.sampler);
  TRY(loader_open(&loader, &loading));
  Status status = run(desc, loader);
  loader_close(loader);
  return status;
}
