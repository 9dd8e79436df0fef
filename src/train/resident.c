// The images of training in the memory of a GPU. See resident.h.
#include "train/resident.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "train/rounds.h"

// What the ranks bring together at one time.
static const size_t round_bytes = (size_t)64 << 20;

struct Resident {
  World *world;
  LoaderDesc loader; // its sampler is asked for every batch
  AugmentDesc augment;
  size_t image_bytes;
  int64_t block;               // images that a rank loads in a round
  uint8_t *pixels;             // of the whole list, memory of the device
  uint8_t *mine, *round;       // this rank's part of a round, and all of it; NULL: one rank alone
  int32_t *my_labels, *labels; // the same; -1: a bad image
  int32_t *stand_ins; // of each position of the list: itself, or what stands in for a bad image
  int64_t *positions; // of the samples of a batch
  Batch batch;
};

static int64_t images_of_round(const LoaderDesc *loader, const World *world) {
  int64_t most = (loader->sample_count + world->size - 1) / world->size;
  int64_t fit = (int64_t)(round_bytes / loader_image_bytes(loader)) / world->size;
  return fit < 1 ? 1 : fit < most ? fit : most;
}

size_t resident_device_bytes(const LoaderDesc *loader) {
  return (size_t)loader->sample_count * loader_image_bytes(loader);
}

size_t resident_host_bytes(const LoaderDesc *loader, const World *world) {
  int64_t images = images_of_round(loader, world) * loader->depth + loader->threads;
  if (world->size > 1) images += images_of_round(loader, world) * (world->size + 1);
  return (size_t)images * loader_image_bytes(loader);
}

// --- loading --------------------------------------------------------------------------------------

// Brings a round's pixels and labels together, on every rank. The last ranks' parts of the last
// round may be short: what lies behind them nobody looks at.
static Status exchange_round(Resident *resident, const uint8_t **pixels, const int32_t **labels,
                             const Batch *batch) {
  World *world = resident->world;
  size_t block = (size_t)resident->block, count = (size_t)batch->count;
  *pixels = batch->pixels;
  *labels = batch->labels;
  if (world->size == 1) return STATUS_OK;
  *pixels = resident->round;
  *labels = resident->labels;
  if (count > 0) memcpy(resident->mine, batch->pixels, count * resident->image_bytes);
  if (count > 0) memcpy(resident->my_labels, batch->labels, count * sizeof *batch->labels);
  TRY(world_allgather_bytes(world, resident->round, resident->mine, block * resident->image_bytes));
  return world_allgather_bytes(world, resident->labels, resident->my_labels,
                               block * sizeof *resident->labels);
}

// Takes what a round brings into the set; bad images stand for nothing yet.
static Status keep_round(void *context, Loader *loader, int64_t *done) {
  Resident *resident = context;
  const Batch *batch;
  const uint8_t *pixels;
  const int32_t *labels;
  const Backend *backend = resident->loader.backend;
  Status status = loader_next(loader, &batch);
  TRY(world_agree_status(resident->world, status));
  int64_t count = batch->global_count;
  GUARD(exchange_round(resident, &pixels, &labels, batch));
  GUARD(backend->copy_to_device(resident->loader.device,
                                resident->pixels + (size_t)*done * resident->image_bytes, pixels,
                                (size_t)count * resident->image_bytes));
  for (int64_t i = 0; i < count; i++)
    resident->stand_ins[*done + i] = labels[i] < 0 ? -1 : (int32_t)(*done + i);
  *done += count;
out:
  loader_release(loader, batch);
  return status;
}

// The next good image of the list stands in for a bad one, as in a loader.
static Status find_stand_ins(Resident *resident) {
  int64_t count = resident->loader.sample_count, bad = 0;
  int32_t good = -1;
  for (int64_t i = 2 * count - 1; i >= 0; i--) { // the list is a ring
    int32_t *stand_in = &resident->stand_ins[i % count];
    if (*stand_in == (int32_t)(i % count))
      good = *stand_in;
    else if (i < count)
      *stand_in = good, bad++;
  }
  int64_t allowed = (int64_t)ceil(resident->loader.max_bad_fraction * (double)count);
  if (good >= 0 && bad <= allowed) return STATUS_OK;
  return status_set(STATUS_DATA,
                    "%" PRId64 " bad images among %" PRId64 " in %s, more than the %" PRId64
                    " allowed; remove them, or raise max_bad_fraction",
                    bad, count, dataset_source(resident->loader.dataset), allowed);
}

static void tell_loaded(const void *context, char *text, size_t capacity, int64_t done,
                        double seconds) {
  const Resident *resident = context;
  (void)snprintf(text, capacity, "images    %" PRId64 " of %" PRId64 " are on the GPU  %.1f img/s",
                 done, resident->loader.sample_count, (double)done / seconds);
}

static Status load(Resident *resident, const ResidentDesc *desc) {
  LoaderDesc loader = *desc->loader;
  double seconds;
  loader.augment = NULL;
  loader.bad_files = LOADER_BAD_MARK;
  TRY(rounds_run(&(RoundsDesc){.world = desc->world,
                               .loader = &loader,
                               .watchdog = desc->watchdog,
                               .bad_files = desc->bad_files,
                               .log = desc->log,
                               .block = resident->block,
                               .phase = "images",
                               .stop_text = "the images were loaded",
                               .take = keep_round,
                               .tell = tell_loaded,
                               .context = resident},
                 &seconds));
  TRY(find_stand_ins(resident));
  log_info(desc->log, "images    %" PRId64 " are on the GPU, read in %.1f s", loader.sample_count,
           seconds);
  return STATUS_OK;
}

// --- making ---------------------------------------------------------------------------------------

static Status allocate(Resident *resident) {
  const LoaderDesc *loader = &resident->loader;
  Batch *batch = &resident->batch;
  size_t most = (size_t)loader_largest_share(loader), ranks = (size_t)resident->world->size;
  size_t block = (size_t)resident->block;
  void *memory;
  TRY(loader->backend->memory_alloc(loader->device, &memory, resident_device_bytes(loader)));
  resident->pixels = memory;
  if (ranks > 1) {
    TRY(memory_alloc_aligned(&resident->mine, block * resident->image_bytes));
    TRY(memory_alloc_aligned(&resident->round, ranks * block * resident->image_bytes));
    TRY(memory_alloc(&resident->my_labels, block, sizeof *resident->my_labels));
    TRY(memory_alloc(&resident->labels, ranks * block, sizeof *resident->labels));
  }
  TRY(memory_alloc(&resident->stand_ins, (size_t)loader->sample_count,
                   sizeof *resident->stand_ins));
  TRY(memory_alloc(&resident->positions, most, sizeof *resident->positions));
  TRY(memory_alloc(&batch->images, most, sizeof *batch->images));
  TRY(memory_alloc(&batch->labels, most, sizeof *batch->labels));
  TRY(memory_alloc(&batch->samples, most, sizeof *batch->samples));
  return loader->augment ? memory_alloc(&batch->maps, most, sizeof *batch->maps) : STATUS_OK;
}

static void free_round(Resident *resident) {
  memory_free(resident->mine);
  memory_free(resident->round);
  memory_free(resident->my_labels);
  memory_free(resident->labels);
  resident->mine = resident->round = NULL;
  resident->my_labels = resident->labels = NULL;
}

Status resident_load(Resident **out, const ResidentDesc *desc) {
  *out = NULL;
  Resident *resident;
  TRY(memory_alloc(&resident, 1, sizeof *resident));
  Status status = STATUS_OK;
  resident->world = desc->world;
  resident->loader = *desc->loader;
  if (desc->loader->augment) {
    resident->augment = *desc->loader->augment;
    resident->loader.augment = &resident->augment;
  }
  resident->image_bytes = loader_image_bytes(desc->loader);
  resident->block = images_of_round(desc->loader, desc->world);
  GUARD(world_agree_status(desc->world, allocate(resident)));
  GUARD(load(resident, desc));
  free_round(resident);
  *out = resident;
  resident = NULL;
out:
  resident_free(resident);
  return status;
}

void resident_free(Resident *resident) {
  if (!resident) return;
  resident->loader.backend->memory_free(resident->loader.device, resident->pixels);
  free_round(resident);
  memory_free(resident->stand_ins);
  memory_free(resident->positions);
  memory_free(resident->batch.images);
  memory_free(resident->batch.labels);
  memory_free(resident->batch.samples);
  memory_free(resident->batch.maps);
  memory_free(resident);
}

// --- reading --------------------------------------------------------------------------------------

static int64_t sample_at(const LoaderDesc *loader, int64_t position) {
  return loader->samples ? loader->samples[position] : position;
}

Status resident_read(Resident *resident, const Batch **out, int64_t step) {
  LoaderDesc *loader = &resident->loader;
  Batch *batch = &resident->batch;
  batch->step = step;
  batch->pass = sampler_pass(&loader->sampler, step);
  batch->global_count = sampler_batch_size(&loader->sampler, step);
  batch->pixels = resident->pixels;
  loader->share(loader->share_context, batch->global_count, &batch->first_sample, &batch->count);
  sampler_indices(&loader->sampler, step, batch->first_sample, batch->count, resident->positions);
  for (int64_t i = 0; i < batch->count; i++) {
    int64_t wanted = resident->positions[i];
    batch->images[i] = resident->stand_ins[wanted];
    batch->samples[i] = sample_at(loader, batch->images[i]);
    batch->labels[i] = dataset_label(loader->dataset, batch->samples[i]);
    if (!batch->maps) continue;
    // The change is the one drawn for the sample whose turn it is.
    AugmentDraw draw = augment_draw(loader->augment, batch->pass, sample_at(loader, wanted));
    batch->maps[i] = augment_map(&draw, loader->target.height, loader->target.width);
  }
  *out = batch;
  return STATUS_OK;
}
