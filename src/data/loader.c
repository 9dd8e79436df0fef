// Decodes ahead of the training step. See loader.h.
//
// One mutex guards the ring and what is handed out. Threads take a few images of the oldest batch
// that is not complete, work without the lock, and report back. Each image of the list has one
// atomic state, so that a resized image is cached once and a bad file is named once. Threads never
// log: what they find is told by loader_next, in its caller's thread.
#include "data/loader.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/memory.h"
#include "data/dataset_internal.h"

enum { REASON_CAPACITY = 1024, CLAIM_OF_CACHED = 16 };

typedef enum SlotState { SLOT_FREE, SLOT_FILLING, SLOT_READY, SLOT_LENT } SlotState;

typedef struct Slot {
  Batch batch; // its blocks are owned
  SlotState state;
  int64_t claimed, done; // images of the batch
  int64_t *positions;    // in the list
} Slot;

// Of one image of the list.
enum { IMAGE_UNKNOWN, IMAGE_BUSY, IMAGE_CACHED, IMAGE_BAD };

typedef struct BadFile {
  int64_t sample;
  char *reason; // owned
} BadFile;

typedef struct Worker {
  Loader *loader;
  pthread_t thread;
  bool started;
  Bytes scratch;    // the file
  uint8_t *resized; // one image
} Worker;

struct Loader {
  LoaderDesc desc;
  AugmentDesc augment; // what desc.augment points to
  size_t image_bytes;
  int64_t bad_allowed;
  uint8_t *cache; // of all images of the list, or NULL
  _Atomic unsigned char *states;
  Worker *workers;
  Slot *slots;       // step s lives in slots[s % depth]
  int64_t next_step; // that loader_next gives; these three belong to the caller's thread
  double wait_s;
  int64_t bad_told;

  pthread_mutex_t lock; // of all below, and of the slots' states and counts
  pthread_cond_t work;  // there may be something to claim
  pthread_cond_t ready; // a batch is complete, or it all failed
  int64_t fill_step;    // whose images are handed out
  bool stop;
  Status status;
  char reason[REASON_CAPACITY]; // of status
  BadFile *bad;
  size_t bad_count, bad_capacity;
};

// --- handing out work ----------------------------------------------------------------------------

static int64_t sample_at(const LoaderDesc *desc, int64_t position) {
  return desc->samples ? desc->samples[position] : position;
}

static Slot *slot_of(Loader *loader, int64_t step) {
  return &loader->slots[step % loader->desc.depth];
}

static void this_ranks_share(const LoaderDesc *desc, int64_t batch_size, int64_t *first,
                             int64_t *count) {
  *first = 0;
  *count = batch_size;
  if (desc->share) desc->share(desc->share_context, batch_size, first, count);
  assert(*first >= 0 && *count >= 0 && *first + *count <= batch_size);
}

static void prepare_slot(Loader *loader, Slot *slot, int64_t step) {
  Sampler *sampler = &loader->desc.sampler;
  Batch *batch = &slot->batch;
  batch->step = step;
  batch->pass = sampler_pass(sampler, step);
  batch->global_count = sampler_batch_size(sampler, step);
  this_ranks_share(&loader->desc, batch->global_count, &batch->first_sample, &batch->count);
  sampler_indices(sampler, step, batch->first_sample, batch->count, slot->positions);
  slot->claimed = slot->done = 0;
  slot->state = batch->count > 0 ? SLOT_FILLING : SLOT_READY;
}

typedef struct Claim {
  Slot *slot; // NULL: stop
  int64_t first, count;
} Claim;

// Waits for images to load. The lock is held.
static Claim claim_images(Loader *loader) {
  for (;;) {
    if (loader->stop) return (Claim){0};
    Slot *slot = slot_of(loader, loader->fill_step);
    if (loader->fill_step == loader->desc.end_step || slot->state == SLOT_READY ||
        slot->state == SLOT_LENT ||
        (slot->state == SLOT_FILLING && slot->claimed == slot->batch.count)) {
      (void)pthread_cond_wait(&loader->work, &loader->lock);
      continue;
    }
    if (slot->state == SLOT_FREE) prepare_slot(loader, slot, loader->fill_step);
    // Cached images take microseconds: several at once keep the lock cheap.
    int64_t count = loader->cache ? CLAIM_OF_CACHED : 1, left = slot->batch.count - slot->claimed;
    Claim claim = {.slot = slot, .first = slot->claimed, .count = count < left ? count : left};
    slot->claimed += claim.count;
    if (slot->claimed == slot->batch.count) loader->fill_step++;
    if (claim.count > 0) return claim;
    (void)pthread_cond_signal(&loader->ready); // this rank has no part in the batch
  }
}

// --- one image -----------------------------------------------------------------------------------

// The file can be at fault, rather than this machine.
static bool blames_file(Status status) {
  return status == STATUS_DATA || status == STATUS_NO_INPUT || status == STATUS_PERMISSION ||
         status == STATUS_IO;
}

// Adds a file to the list of bad ones, unless another thread has; fails when there are too many.
static Status note_bad(Loader *loader, int64_t position) {
  char reason[REASON_CAPACITY];
  (void)data__printable(reason, sizeof reason, status_message());
  Status status = STATUS_OK;
  (void)pthread_mutex_lock(&loader->lock);
  if (atomic_load(&loader->states[position]) == IMAGE_BAD) goto out;
  atomic_store(&loader->states[position], IMAGE_BAD);
  GUARD(memory_reserve(&loader->bad, &loader->bad_capacity, loader->bad_count + 1,
                       sizeof *loader->bad));
  BadFile *bad = &loader->bad[loader->bad_count];
  GUARD(memory_copy_string(&bad->reason, reason));
  bad->sample = sample_at(&loader->desc, position);
  loader->bad_count++;
  status = loader_check_bad_count(loader, (int64_t)loader->bad_count, reason);
out:
  (void)pthread_mutex_unlock(&loader->lock);
  return status;
}

static Status read_pixels(Worker *worker, uint8_t *out, int64_t position) {
  const LoaderDesc *desc = &worker->loader->desc;
  return dataset_read_pixels(out, desc->dataset, sample_at(desc, position), &desc->target,
                             &desc->limits, &worker->scratch);
}

// Makes one image's resized pixels available, in the cache where there is one.
static Status find_pixels(Worker *worker, const uint8_t **out, int64_t position) {
  Loader *loader = worker->loader;
  if (loader->cache) {
    uint8_t *cached = loader->cache + (size_t)position * loader->image_bytes;
    unsigned char state = IMAGE_UNKNOWN;
    *out = cached;
    if (atomic_compare_exchange_strong(&loader->states[position], &state, IMAGE_BUSY)) {
      Status status = read_pixels(worker, cached, position);
      state = IMAGE_BUSY; // unless another thread has called the file bad meanwhile
      (void)atomic_compare_exchange_strong(&loader->states[position], &state,
                                           status == STATUS_OK ? IMAGE_CACHED : IMAGE_UNKNOWN);
      return status;
    }
    if (state == IMAGE_CACHED) return STATUS_OK;
    // Another thread is at it just now, for another batch: not worth waiting for.
  }
  *out = worker->resized;
  return read_pixels(worker, worker->resized, position);
}

// Fills `out` with the image at `position`, for one use of the sample `drawn_for`.
static Status make_pixels(Worker *worker, uint8_t *out, int64_t position, int64_t pass,
                          int64_t drawn_for) {
  Loader *loader = worker->loader;
  const LoaderDesc *desc = &loader->desc;
  bool resamples = desc->augment && !desc->leave_resampling;
  if (!resamples && !loader->cache) return read_pixels(worker, out, position);
  const uint8_t *pixels;
  TRY(find_pixels(worker, &pixels, position));
  if (resamples)
    augment_image(out, pixels, desc->target.height, desc->target.width, desc->augment, pass,
                  drawn_for);
  else
    memcpy(out, pixels, loader->image_bytes);
  return STATUS_OK;
}

static void mark_bad(Loader *loader, Slot *slot, int64_t i) {
  slot->batch.labels[i] = -1;
  slot->batch.samples[i] = sample_at(&loader->desc, slot->positions[i]);
  memset(slot->batch.pixels + (size_t)i * loader->image_bytes, 0, loader->image_bytes);
}

// Image i of a batch. In place of a bad one comes the next good one of the list: the list and the
// files decide which, so all ranks would choose the same. The random change stays the one drawn for
// the bad sample, since its stand-in has its own turn in the same pass.
static Status load_image(Worker *worker, Slot *slot, int64_t i) {
  Loader *loader = worker->loader;
  const LoaderDesc *desc = &loader->desc;
  int64_t wanted = slot->positions[i];
  if (slot->batch.maps) {
    AugmentDraw draw = augment_draw(desc->augment, slot->batch.pass, sample_at(desc, wanted));
    slot->batch.maps[i] = augment_map(&draw, desc->target.height, desc->target.width);
  }
  uint8_t *out = slot->batch.pixels + (size_t)i * loader->image_bytes;
  for (int64_t k = 0; k < desc->sample_count; k++) {
    int64_t position = (wanted + k) % desc->sample_count;
    Status status = STATUS_DATA;
    if (atomic_load(&loader->states[position]) != IMAGE_BAD) {
      status = make_pixels(worker, out, position, slot->batch.pass, sample_at(desc, wanted));
      if (status == STATUS_OK) {
        slot->batch.samples[i] = sample_at(desc, position);
        slot->batch.labels[i] = dataset_label(desc->dataset, sample_at(desc, position));
        return STATUS_OK;
      }
      if (!blames_file(status)) return status;
      TRY(note_bad(loader, position));
    }
    if (desc->bad_files == LOADER_BAD_MARK) {
      mark_bad(loader, slot, i);
      return STATUS_OK;
    }
  }
  return status_set(STATUS_DATA, "%s: every image is bad", dataset_source(desc->dataset));
}

static void *run_worker(void *argument) {
  Worker *worker = argument;
  Loader *loader = worker->loader;
  (void)pthread_mutex_lock(&loader->lock);
  for (;;) {
    Claim claim = claim_images(loader);
    if (!claim.slot) break;
    (void)pthread_mutex_unlock(&loader->lock);
    Status status = STATUS_OK;
    for (int64_t i = 0; status == STATUS_OK && i < claim.count; i++)
      status = load_image(worker, claim.slot, claim.first + i);
    (void)pthread_mutex_lock(&loader->lock);
    claim.slot->done += claim.count;
    if (claim.slot->done == claim.slot->batch.count) claim.slot->state = SLOT_READY;
    if (status != STATUS_OK && loader->status == STATUS_OK) {
      loader->status = status;
      loader->stop = true;
      (void)data__printable(loader->reason, sizeof loader->reason, status_message());
      (void)pthread_cond_broadcast(&loader->work);
    }
    if (status != STATUS_OK || claim.slot->state == SLOT_READY)
      (void)pthread_cond_signal(&loader->ready);
  }
  (void)pthread_mutex_unlock(&loader->lock);
  return NULL;
}

// --- opening and closing -------------------------------------------------------------------------

static Status alloc_slot(Loader *loader, Slot *slot, int64_t most) {
  size_t count = (size_t)most;
  if (most > 0 && loader->image_bytes > SIZE_MAX / 2 / count)
    return status_set(STATUS_OS, "a batch of %" PRId64 " images does not fit in memory", most);
  void *pixels;
  TRY(backend_host_alloc(loader->desc.backend, loader->desc.device, &pixels,
                         count * loader->image_bytes));
  slot->batch.pixels = pixels;
  if (loader->desc.augment && loader->desc.leave_resampling)
    TRY(memory_alloc(&slot->batch.maps, count, sizeof *slot->batch.maps));
  TRY(memory_alloc(&slot->batch.labels, count, sizeof *slot->batch.labels));
  TRY(memory_alloc(&slot->batch.samples, count, sizeof *slot->batch.samples));
  return memory_alloc(&slot->positions, count, sizeof *slot->positions);
}

// A sampler gives full batches and one short size.
int64_t loader_largest_share(const LoaderDesc *desc) {
  const Sampler *sampler = &desc->sampler;
  int64_t first, of_full, of_last;
  this_ranks_share(desc, sampler->full_batch, &first, &of_full);
  this_ranks_share(desc, sampler_batch_size(sampler, sampler->steps_per_pass - 1), &first,
                   &of_last);
  return of_full > of_last ? of_full : of_last;
}

size_t loader_image_bytes(const LoaderDesc *desc) {
  return (size_t)desc->target.height * (size_t)desc->target.width * 3;
}

// Whether resized images are kept: more than one pass is to come and the whole list fits.
static bool keeps_images(const LoaderDesc *desc) {
  bool is_reused =
      desc->end_step < 0 || desc->end_step - desc->first_step > desc->sampler.steps_per_pass;
  return is_reused && (size_t)desc->sample_count <= desc->cache_bytes / loader_image_bytes(desc);
}

// The part of the list that this rank meets. A shuffled pass brings it others than the last did.
static double share_met(const LoaderDesc *desc) {
  double a_pass = (double)loader_largest_share(desc) / (double)desc->sampler.full_batch;
  int64_t steps = desc->end_step - desc->first_step, pass = desc->sampler.steps_per_pass;
  if (desc->sampler.desc.mode == SAMPLER_EVALUATE) return a_pass;
  return desc->end_step < 0 ? 1.0 : 1.0 - pow(1.0 - a_pass, ceil((double)steps / (double)pass));
}

// The part of the memory for the list that is touched: a page comes with the first of its images,
// of which there are page / image + 1 on the average. Evaluated images lie side by side.
static double share_touched(const LoaderDesc *desc) {
  if (desc->sampler.desc.mode == SAMPLER_EVALUATE) return share_met(desc);
  double images_of_a_page = (double)sysconf(_SC_PAGESIZE) / (double)loader_image_bytes(desc) + 1.0;
  return 1.0 - pow(1.0 - share_met(desc), images_of_a_page);
}

size_t loader_memory_bytes(const LoaderDesc *desc) {
  double images = (double)(desc->depth * loader_largest_share(desc) + desc->threads);
  if (keeps_images(desc)) images += share_touched(desc) * (double)desc->sample_count;
  return (size_t)(images * (double)loader_image_bytes(desc));
}

static Status alloc_loader(Loader *loader) {
  const LoaderDesc *desc = &loader->desc;
  size_t count = (size_t)desc->sample_count, threads = (size_t)desc->threads;
  int64_t most = loader_largest_share(desc);
  TRY(memory_alloc(&loader->states, count, sizeof *loader->states));
  if (keeps_images(desc))
    TRY(memory_alloc(&loader->cache, count, loader->image_bytes)); // pages come when touched
  TRY(memory_alloc(&loader->slots, (size_t)desc->depth, sizeof *loader->slots));
  for (int64_t i = 0; i < desc->depth; i++) TRY(alloc_slot(loader, &loader->slots[i], most));
  TRY(memory_alloc(&loader->workers, threads, sizeof *loader->workers));
  for (size_t i = 0; i < threads; i++)
    TRY(memory_alloc(&loader->workers[i].resized, loader->image_bytes, 1));
  return STATUS_OK;
}

// Signals are for the main thread.
static Status start_workers(Loader *loader) {
  sigset_t all, before;
  (void)sigfillset(&all);
  (void)pthread_sigmask(SIG_SETMASK, &all, &before);
  Status status = STATUS_OK;
  for (int64_t i = 0; status == STATUS_OK && i < loader->desc.threads; i++) {
    Worker *worker = &loader->workers[i];
    worker->loader = loader;
    int failed = pthread_create(&worker->thread, NULL, run_worker, worker);
    worker->started = !failed;
    if (failed)
      status = status_set(STATUS_OS,
                          "thread %" PRId64 " of %" PRId64 " of the image loader cannot start: %s; "
                          "use fewer loader_threads",
                          i + 1, loader->desc.threads, strerror(failed));
  }
  (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
  return status;
}

Status loader_open(Loader **out, const LoaderDesc *desc) {
  assert(desc->threads >= 1 && desc->depth >= 2 && desc->first_step >= 0 &&
         desc->sample_count == desc->sampler.desc.sample_count);
  *out = NULL;
  Loader *loader;
  TRY(memory_alloc(&loader, 1, sizeof *loader));
  loader->desc = *desc;
  if (desc->augment) {
    loader->augment = *desc->augment;
    loader->desc.augment = &loader->augment;
  }
  loader->image_bytes = loader_image_bytes(desc);
  loader->bad_allowed = (int64_t)ceil(desc->max_bad_fraction * (double)desc->sample_count);
  loader->next_step = loader->fill_step = desc->first_step;
  (void)pthread_mutex_init(&loader->lock, NULL);
  (void)pthread_cond_init(&loader->work, NULL);
  (void)pthread_cond_init(&loader->ready, NULL);
  Status status;
  GUARD(alloc_loader(loader));
  GUARD(start_workers(loader));
  *out = loader;
  return STATUS_OK;
out:
  loader_close(loader);
  return status;
}

static void stop_workers(Loader *loader) {
  (void)pthread_mutex_lock(&loader->lock);
  loader->stop = true;
  (void)pthread_cond_broadcast(&loader->work);
  (void)pthread_mutex_unlock(&loader->lock);
  for (int64_t i = 0; loader->workers && i < loader->desc.threads; i++) {
    Worker *worker = &loader->workers[i];
    if (worker->started) (void)pthread_join(worker->thread, NULL);
    bytes_deinit(&worker->scratch);
    memory_free(worker->resized);
  }
}

void loader_close(Loader *loader) {
  if (!loader) return;
  stop_workers(loader);
  for (int64_t i = 0; loader->slots && i < loader->desc.depth; i++) {
    memory_free(loader->slots[i].positions);
    memory_free(loader->slots[i].batch.samples);
    memory_free(loader->slots[i].batch.labels);
    memory_free(loader->slots[i].batch.maps);
    backend_host_free(loader->desc.backend, loader->desc.device, loader->slots[i].batch.pixels);
  }
  for (size_t i = 0; i < loader->bad_count; i++) memory_free(loader->bad[i].reason);
  (void)pthread_cond_destroy(&loader->ready);
  (void)pthread_cond_destroy(&loader->work);
  (void)pthread_mutex_destroy(&loader->lock);
  memory_free(loader->bad);
  memory_free(loader->workers);
  memory_free(loader->slots);
  memory_free(loader->cache);
  memory_free((void *)loader->states);
  memory_free(loader);
}

// --- batches -------------------------------------------------------------------------------------

static void tell_bad_files(Loader *loader) {
  int64_t count = loader_bad_count(loader);
  for (; loader->bad_told < count; loader->bad_told++) {
    int64_t sample;
    const char *reason;
    loader_bad_file(loader, loader->bad_told, &sample, &reason);
    log_warning(loader->desc.log, "bad image, left out: %s", reason);
  }
}

Status loader_next(Loader *loader, const Batch **out) {
  *out = NULL;
  if (loader->next_step == loader->desc.end_step) return STATUS_OK;
  Slot *slot = slot_of(loader, loader->next_step);
  (void)pthread_mutex_lock(&loader->lock);
  assert(slot->state != SLOT_LENT); // all batches are lent out: one must be released first
  if (slot->state != SLOT_READY && loader->status == STATUS_OK) {
    double begin = clock_now_s();
    while (slot->state != SLOT_READY && loader->status == STATUS_OK)
      (void)pthread_cond_wait(&loader->ready, &loader->lock);
    loader->wait_s += clock_now_s() - begin;
  }
  Status status = loader->status;
  if (status == STATUS_OK) slot->state = SLOT_LENT;
  (void)pthread_mutex_unlock(&loader->lock);
  tell_bad_files(loader);
  if (status != STATUS_OK) return status_set(status, "%s", loader->reason);
  loader->next_step++;
  *out = &slot->batch;
  return STATUS_OK;
}

void loader_release(Loader *loader, const Batch *batch) {
  Slot *slot = slot_of(loader, batch->step);
  (void)pthread_mutex_lock(&loader->lock);
  assert(slot->state == SLOT_LENT && &slot->batch == batch);
  slot->state = SLOT_FREE;
  (void)pthread_cond_broadcast(&loader->work);
  (void)pthread_mutex_unlock(&loader->lock);
}

double loader_wait_seconds(const Loader *loader) {
  return loader->wait_s;
}

int64_t loader_bad_count(Loader *loader) {
  (void)pthread_mutex_lock(&loader->lock);
  int64_t count = (int64_t)loader->bad_count;
  (void)pthread_mutex_unlock(&loader->lock);
  return count;
}

void loader_bad_file(Loader *loader, int64_t index, int64_t *sample, const char **reason) {
  (void)pthread_mutex_lock(&loader->lock);
  *sample = loader->bad[index].sample;
  *reason = loader->bad[index].reason;
  (void)pthread_mutex_unlock(&loader->lock);
}

Status loader_check_bad_count(const Loader *loader, int64_t count, const char *last) {
  if (count <= loader->bad_allowed) return STATUS_OK;
  return status_set(STATUS_DATA,
                    "%" PRId64 " bad images among %" PRId64 " in %s, more than the %" PRId64
                    " allowed; remove them, or raise max_bad_fraction%s%s",
                    count, loader->desc.sample_count, dataset_source(loader->desc.dataset),
                    loader->bad_allowed, last ? ". The last one: " : "", last ? last : "");
}

const char *loader_bad_reason(Loader *loader, int64_t sample) {
  const char *reason = "";
  (void)pthread_mutex_lock(&loader->lock);
  for (size_t i = loader->bad_count; i-- > 0;) // the batches of the ring are the last ones met
    if (loader->bad[i].sample == sample) {
      reason = loader->bad[i].reason;
      break;
    }
  (void)pthread_mutex_unlock(&loader->lock);
  return reason;
}
