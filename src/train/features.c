// Cached features. See features.h.
//
// The list is dealt out in blocks: rank r owns blocks r, r + ranks, r + 2 ranks, ... A row holds
// the features of one position of the list and, in its last element, the bits of the label.
#include "train/features.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "train/rounds.h"

// How the ranks share a batch of one size.
typedef struct Cut {
  int64_t batch;
  int64_t *begins; // of each rank, and the batch's end; owned
} Cut;

struct Features {
  World *world;
  Sampler sampler;
  int64_t list; // positions
  int64_t block, length;
  size_t row_floats;
  float *rows;                       // of this rank's positions
  Cut cuts[2];                       // full batches, and the last of a pass
  int *send_counts, *receive_counts; // rows for and from each rank
  int64_t *positions;                // of a global batch
  float *sent, *received;            // rows
  size_t sent_capacity, received_capacity;
  float *values;
  int32_t *labels;
  Batch batch;
};

static size_t rows_bytes(int64_t samples, int64_t block, int64_t length, int ranks) {
  int64_t deal = block * ranks, rows = (samples + deal - 1) / deal * block;
  return (size_t)rows * (size_t)(length + 1) * sizeof(float);
}

size_t features_memory_bytes(int64_t samples, const Extractor *extractor, int ranks) {
  return rows_bytes(samples, extractor_block(extractor), extractor_length(extractor), ranks);
}

static int owner_of(const Features *features, int64_t position) {
  return (int)(position / features->block % features->world->size);
}

static float *row_of(const Features *features, int64_t position) {
  int64_t deal = features->block * features->world->size;
  int64_t row = position / deal * features->block + position % features->block;
  return features->rows + (size_t)row * features->row_floats;
}

// --- computing -----------------------------------------------------------------------------------

// What is computed, and with what.
typedef struct Computing {
  Features *features;
  const FeaturesDesc *desc;
} Computing;

static void tell_computed(const void *context, char *text, size_t capacity, int64_t done,
                          double seconds) {
  const FeaturesDesc *desc = ((const Computing *)context)->desc;
  double rate = (double)done / seconds;
  (void)snprintf(text, capacity,
                 "features  %s: %" PRId64 " of %" PRId64 " images  %.1f img/s  left %.0f s",
                 desc->what, done, desc->loader->sample_count, rate,
                 (double)(desc->loader->sample_count - done) / rate);
}

static Status compute_batch(void *context, Loader *loader, int64_t *done) {
  const Computing *computing = context;
  Features *features = computing->features;
  const Batch *batch;
  TRY(loader_next(loader, &batch));
  *done += batch->global_count;
  TRY(extractor_run(computing->desc->extractor, features->values, batch->pixels, batch->count));
  int64_t first = batch->step * features->block * features->world->size + batch->first_sample;
  for (int64_t i = 0; i < batch->count; i++) {
    float *row = row_of(features, first + i);
    memcpy(row, features->values + i * features->length, (size_t)features->length * sizeof(float));
    memcpy(row + features->length, &batch->labels[i], sizeof(int32_t));
  }
  loader_release(loader, batch);
  return STATUS_OK;
}

static Status compute(Features *features, const FeaturesDesc *desc) {
  double seconds;
  TRY(rounds_run(&(RoundsDesc){.world = desc->world,
                               .loader = desc->loader,
                               .watchdog = desc->watchdog,
                               .bad_files = desc->bad_files,
                               .log = desc->log,
                               .block = features->block,
                               .phase = "features",
                               .stop_text = "computing features, which are not saved",
                               .take = compute_batch,
                               .tell = tell_computed,
                               .context = &(Computing){.features = features, .desc = desc}},
                 &seconds));
  log_info(desc->log, "features  %s: %" PRId64 " images, %" PRId64 " values each, in %.1f s",
           desc->what, features->list, features->length, seconds);
  return STATUS_OK;
}

// --- making --------------------------------------------------------------------------------------

// Asks every rank for its part of batches of this size.
static Status find_cut(Cut *cut, const Features *features, const LoaderDesc *loader,
                       int64_t batch) {
  int ranks = features->world->size;
  int64_t first, count;
  loader->share(loader->share_context, batch, &first, &count);
  cut->batch = batch;
  TRY(memory_alloc(&cut->begins, (size_t)ranks + 1, sizeof *cut->begins));
  TRY(world_allgather_bytes(features->world, cut->begins, &first, sizeof first));
  cut->begins[ranks] = batch;
  assert(cut->begins[features->world->rank + 1] - first == count);
  return STATUS_OK;
}

static Status allocate(Features *features, const FeaturesDesc *desc) {
  const LoaderDesc *loader = desc->loader;
  World *world = features->world;
  size_t ranks = (size_t)world->size;
  int64_t sizes[2] = {features->sampler.full_batch,
                      sampler_batch_size(&features->sampler, features->sampler.steps_per_pass - 1)};
  int64_t most = features->block;
  for (int i = 0; i < 2; i++) {
    TRY(find_cut(&features->cuts[i], features, loader, sizes[i]));
    int64_t mine =
        features->cuts[i].begins[world->rank + 1] - features->cuts[i].begins[world->rank];
    if (mine > most) most = mine;
  }
  TRY(memory_alloc_aligned(
      &features->rows, rows_bytes(features->list, features->block, features->length, world->size)));
  TRY(memory_alloc(&features->send_counts, ranks, sizeof(int)));
  TRY(memory_alloc(&features->receive_counts, ranks, sizeof(int)));
  TRY(memory_alloc(&features->positions, (size_t)sizes[0], sizeof(int64_t)));
  TRY(memory_alloc_aligned(&features->values, (size_t)(most * features->length) * sizeof(float)));
  return memory_alloc(&features->labels, (size_t)most, sizeof(int32_t));
}

Status features_compute(Features **out, const FeaturesDesc *desc) {
  *out = NULL;
  Features *features;
  TRY(memory_alloc(&features, 1, sizeof *features));
  Status status = STATUS_OK;
  features->world = desc->world;
  features->sampler = desc->loader->sampler;
  features->list = desc->loader->sample_count;
  features->block = extractor_block(desc->extractor);
  features->length = extractor_length(desc->extractor);
  features->row_floats = (size_t)features->length + 1;
  // Machines may differ in their threads; the blocks may not.
  GUARD(world_reduce_i64(desc->world, WORLD_MAX, &features->block, 1));
  GUARD(world_agree_status(desc->world, allocate(features, desc)));
  GUARD(compute(features, desc));
  *out = features;
  features = NULL;
out:
  features_free(features);
  return status;
}

void features_free(Features *features) {
  if (!features) return;
  for (int i = 0; i < 2; i++) memory_free(features->cuts[i].begins);
  memory_free(features->rows);
  memory_free(features->send_counts);
  memory_free(features->receive_counts);
  memory_free(features->positions);
  memory_free(features->sent);
  memory_free(features->received);
  memory_free(features->values);
  memory_free(features->labels);
  memory_free(features);
}

// --- reading -------------------------------------------------------------------------------------

// Copies this rank's rows of the batch, for each rank what that one computes, in the batch's order.
static Status gather_sent(Features *features, const int64_t *begins) {
  int ranks = features->world->size, me = features->world->rank;
  size_t total = 0;
  for (int r = 0; r < ranks; r++) {
    features->send_counts[r] = 0;
    for (int64_t i = begins[r]; i < begins[r + 1]; i++)
      features->send_counts[r] += owner_of(features, features->positions[i]) == me;
    total += (size_t)features->send_counts[r];
  }
  size_t row_bytes = features->row_floats * sizeof(float);
  TRY(memory_reserve(&features->sent, &features->sent_capacity, total + 1, row_bytes));
  float *next = features->sent;
  for (int64_t i = 0; i < begins[ranks]; i++) {
    if (owner_of(features, features->positions[i]) != me) continue;
    memcpy(next, row_of(features, features->positions[i]), row_bytes);
    next += features->row_floats;
  }
  return STATUS_OK;
}

static Status prepare_received(Features *features, int64_t first, int64_t count) {
  for (int r = 0; r < features->world->size; r++) features->receive_counts[r] = 0;
  for (int64_t i = first; i < first + count; i++)
    features->receive_counts[owner_of(features, features->positions[i])]++;
  return memory_reserve(&features->received, &features->received_capacity, (size_t)count + 1,
                        features->row_floats * sizeof(float));
}

// Puts the received rows, which came rank by rank, in the batch's order.
static void spread_received(Features *features, int64_t first, int64_t count) {
  int *next = features->receive_counts; // becomes where each rank's next row lies
  for (int r = 0, begin = 0; r < features->world->size; r++) {
    int rows = next[r];
    next[r] = begin;
    begin += rows;
  }
  for (int64_t i = 0; i < count; i++) {
    int from = owner_of(features, features->positions[first + i]);
    const float *row = features->received + (size_t)next[from]++ * features->row_floats;
    memcpy(features->values + i * features->length, row, (size_t)features->length * sizeof(float));
    memcpy(&features->labels[i], row + features->length, sizeof(int32_t));
  }
}

Status features_read(Features *features, const Batch **out, int64_t step) {
  World *world = features->world;
  int64_t global = sampler_batch_size(&features->sampler, step);
  const Cut *cut = &features->cuts[global == features->cuts[0].batch ? 0 : 1];
  assert(global == cut->batch);
  int64_t first = cut->begins[world->rank], count = cut->begins[world->rank + 1] - first;
  sampler_indices(&features->sampler, step, 0, global, features->positions);
  Status status = gather_sent(features, cut->begins);
  if (status == STATUS_OK) status = prepare_received(features, first, count);
  TRY(status);
  TRY(world_exchange_rows(world, &(WorldExchange){.row_bytes = features->row_floats * sizeof(float),
                                                  .send = features->sent,
                                                  .send_counts = features->send_counts,
                                                  .receive = features->received,
                                                  .receive_counts = features->receive_counts}));
  spread_received(features, first, count);
  features->batch = (Batch){.step = step,
                            .pass = sampler_pass(&features->sampler, step),
                            .global_count = global,
                            .first_sample = first,
                            .count = count,
                            .values = features->values,
                            .labels = features->labels};
  *out = &features->batch;
  return STATUS_OK;
}
