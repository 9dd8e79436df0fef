// One step of training. See train_step.h.
#include "train/train_step.h"

#include "base/clock.h"
#include "base/memory.h"
#include "train/feed.h"
#include "train/optimizer.h"

_Static_assert((int)UPLOAD_FILL_REFLECT == (int)AUGMENT_FILL_REFLECT &&
                   (int)UPLOAD_FILL_WRAP == (int)AUGMENT_FILL_WRAP &&
                   (int)UPLOAD_FILL_NEAREST == (int)AUGMENT_FILL_NEAREST,
               "the seam's names are those of data/augment.h");
_Static_assert(sizeof(AugmentMap) == UPLOAD_MAP_NUMBERS * sizeof(double), "a map is its numbers");

// Two slots of the feed for each of the two batch sizes that a run may have; a bench steps on
// resident images and on others.
enum { RECORDINGS = 8 };

typedef struct Recorded {
  int64_t global_count;
  const void *resident; // images on the device that it takes its own from; NULL: from the slot
  int slot;
  Recording *recording;
} Recorded;

// Where the parts of a record begin: the state, the terms of the penalty, losses, ranks.
typedef struct RecordPlaces {
  size_t terms, losses, ranks, size;
} RecordPlaces;

struct TrainStep {
  Job *job;
  Feed *feed;
  StepKey *keys; // host, of each worker
  RecordPlaces places;
  char *record;  // memory of the device: of the step under way
  char *records; // of the host: TRAIN_STEP_RECORDS, and one for train_step_penalty
  TrainStepResult results[TRAIN_STEP_RECORDS];
  int pending;
  bool records_steps;
  int64_t plain_counts[2]; // batch sizes that have had their plain step; 0: none
  Recorded recorded[RECORDINGS];
  int recorded_count;
};

// --- memory ---------------------------------------------------------------------------------------

static int64_t largest_count(const Job *job) {
  int64_t first, count;
  job_share_batch(job, job->batch, &first, &count);
  return count;
}

static RecordPlaces find_places(const Job *job) {
  size_t samples = (size_t)largest_count(job);
  RecordPlaces places = {.terms = sizeof(UpdateState)};
  places.losses = places.terms + (size_t)optimizer_penalty_terms(&job->layout) * sizeof(double);
  places.ranks = places.losses + samples * sizeof(float);
  places.size = memory_round_up(places.ranks + samples * sizeof(int32_t));
  return places;
}

static bool on_features(const Job *job) {
  return job->extractor || job->training_features;
}

// Elements of what a step takes in for each sample.
static size_t sample_length(const Job *job) {
  return (size_t)shape_count(
      graph_shape(job->graph, on_features(job) ? model_features(job->graph) : 0));
}

static FeedDesc describe_feed(const Job *job) {
  return (FeedDesc){.backend = job->backend,
                    .device = job->device,
                    .samples = largest_count(job),
                    .sample_size =
                        sample_length(job) * (on_features(job) ? sizeof(float) : sizeof(uint8_t)),
                    .has_maps = job->backend->resamples && job->config->augment.enabled,
                    .workers = job->worker_count};
}

size_t train_step_memory_bytes(const Job *job) {
  FeedDesc feed = describe_feed(job);
  return feed_memory_bytes(&feed) + memory_block_bytes(find_places(job).size);
}

Status train_step_create(TrainStep **out, Job *job) {
  *out = NULL;
  TrainStep *self;
  TRY(memory_alloc(&self, 1, sizeof *self));
  Status status = STATUS_OK;
  const Backend *backend = job->backend;
  void *memory;
  self->job = job;
  self->places = find_places(job);
  self->records_steps = job->config->run.cuda_graph && backend->record_begin;
  FeedDesc feed = describe_feed(job);
  GUARD(feed_create(&self->feed, &feed));
  GUARD(memory_alloc(&self->keys, (size_t)job->worker_count, sizeof *self->keys));
  GUARD(backend->memory_alloc(job->device, &memory, self->places.size));
  self->record = memory;
  GUARD(backend_host_alloc(backend, job->device, &memory,
                           (TRAIN_STEP_RECORDS + 1) * self->places.size));
  self->records = memory;
  UpdateState state = optimizer_begin(&job->loss_scale);
  GUARD(backend->copy_to_device(job->device, self->record, &state, sizeof state));
  *out = self;
  self = NULL;
out:
  train_step_free(self);
  return status;
}

static void forget_recordings(TrainStep *self) {
  for (int i = 0; i < self->recorded_count; i++)
    self->job->backend->recording_free(self->recorded[i].recording);
  self->recorded_count = 0;
}

void train_step_free(TrainStep *self) {
  if (!self) return;
  Job *job = self->job;
  job->backend->memory_free(job->device, self->record); // waits: recordings may be at work still
  forget_recordings(self);
  backend_host_free(job->backend, job->device, self->records);
  feed_free(self->feed);
  memory_free(self->keys);
  memory_free(self);
}

// --- what the device is given ---------------------------------------------------------------------

static UpdateState *state_of(const TrainStep *self) {
  return (UpdateState *)(void *)self->record;
}

static OptimizerArgs describe_update(const TrainStep *self, const FeedBatch *in) {
  const Job *job = self->job;
  return (OptimizerArgs){.backend = job->backend,
                         .device = job->device,
                         .layout = &job->layout,
                         .config = &job->config->optimizer,
                         .weights = job->weights,
                         .velocity = job->velocity,
                         .averaged = job->averaged,
                         .gradients = gradsync_gradients(job->sync),
                         .learning_rate = in->learning_rate,
                         .state = state_of(self),
                         .loss_scale = job->loss_scale};
}

static WorkersBatch describe_work(const TrainStep *self, const Batch *batch, const FeedBatch *in) {
  const Job *job = self->job;
  WorkersBatch work = {.global_batch = batch->global_count,
                       .slot = in->slot,
                       .maps = in->maps,
                       .fill = (UploadFill)job->augment.fill,
                       .fill_value = (float)job->augment.fill_value,
                       .sample_size = sample_length(job),
                       .labels = in->labels,
                       .keys = in->keys,
                       .smoothing = (float)job->config->train.label_smoothing,
                       .losses = (float *)(void *)(self->record + self->places.losses),
                       .ranks = (int32_t *)(void *)(self->record + self->places.ranks)};
  if (job->loss_scale.enabled) work.loss_scale = &state_of(self)->loss_scale;
  if (batch->values)
    work.values = in->samples;
  else
    work.pixels = in->samples;
  if (batch->images) {
    work.images = in->samples;
    work.pixels = batch->pixels;
  }
  return work;
}

// A clock for one part after another of a timed step.
static Status end_part(const Job *job, double *seconds, double *since_s) {
  TRY(job->backend->wait(job->device));
  double now_s = clock_now_s();
  *seconds = now_s - *since_s;
  *since_s = now_s;
  return STATUS_OK;
}

// The step itself. Every argument is the same each time a batch of this size comes in this slot.
static Status give(TrainStep *self, const Batch *batch, const FeedBatch *in,
                   TrainStepTimes *times) {
  Job *job = self->job;
  WorkersBatch work = describe_work(self, batch, in);
  OptimizerArgs update = describe_update(self, in);
  WorkersTimes computed;
  TRY(optimizer_find_penalty(&update, (double *)(void *)(self->record + self->places.terms)));
  TRY(workers_run(job->workers, &work, job->sync, times ? &computed : NULL));
  double since_s = clock_now_s();
  watchdog_progress(job->watchdog, job->step, "sum");
  TRY(gradsync_finish(job->sync));
  if (times) TRY(end_part(job, &times->sum_s, &since_s));
  TRY(optimizer_step(&update));
  if (!times) return STATUS_OK;
  times->forward_s = computed.forward_s;
  times->backward_s = computed.backward_s;
  return end_part(job, &times->update_s, &since_s);
}

// --- recording ------------------------------------------------------------------------------------

static const void *resident_of(const Batch *batch) {
  return batch->images ? batch->pixels : NULL;
}

static const Recording *find_recording(const TrainStep *self, const Batch *batch, int slot) {
  for (int i = 0; i < self->recorded_count; i++) {
    const Recorded *recorded = &self->recorded[i];
    if (recorded->global_count == batch->global_count && recorded->slot == slot &&
        recorded->resident == resident_of(batch))
      return recorded->recording;
  }
  return NULL;
}

// Whether a batch of this size has been there before; notes that it was.
static bool has_been_plain(TrainStep *self, int64_t global_count) {
  for (int i = 0; i < 2; i++) {
    if (self->plain_counts[i] == global_count) return true;
    if (self->plain_counts[i] != 0) continue;
    self->plain_counts[i] = global_count;
    return false;
  }
  return false;
}

// Begins on all ranks or on none, before anything is recorded: NCCL may let the ranks of a host
// wait for each other while it records (NVLS).
static Status begin_recording(const Job *job) {
  Recording *nothing = NULL;
  KeptStatus all;
  Status mine = job->backend->record_begin(job->device);
  status_keep(&all, world_agree_status(job->world, mine));
  if (mine != STATUS_OK || all.code == STATUS_OK) return status_restore(&all);
  Status ended = job->backend->record_end(job->device, &nothing);
  (void)ended; // the one that could not begin tells
  job->backend->recording_free(nothing);
  return status_restore(&all);
}

static Status record_mine(TrainStep *self, Recording **out, const Batch *batch,
                          const FeedBatch *in) {
  const Job *job = self->job;
  *out = NULL;
  TRY(begin_recording(job));
  KeptStatus given;
  status_keep(&given, give(self, batch, in, NULL));
  Status ended = job->backend->record_end(job->device, out);
  TRY(status_restore(&given));
  return ended;
}

// Collectives of recorded and of plain steps must not meet, so the ranks record together or not at
// all.
static Status record(TrainStep *self, const Batch *batch, const FeedBatch *in) {
  Job *job = self->job;
  Recording *recording;
  bool mine = record_mine(self, &recording, batch, in) == STATUS_OK;
  double all = mine;
  if (!mine) log_warning(job->log, "cuda_graph: a step cannot be recorded: %s", status_message());
  gradsync_cancel(job->sync); // nothing was summed yet
  TRY(world_reduce_f64(job->world, WORLD_MIN, &all, 1));
  if (all > 0.0 && self->recorded_count < RECORDINGS) {
    self->recorded[self->recorded_count++] = (Recorded){.global_count = batch->global_count,
                                                        .resident = resident_of(batch),
                                                        .slot = in->slot,
                                                        .recording = recording};
    return STATUS_OK;
  }
  if (recording) job->backend->recording_free(recording);
  TRY(job->backend->wait(job->device)); // others may be at work still
  forget_recordings(self);
  self->records_steps = false;
  log_info(job->log, "launches  %s", train_step_describe(self));
  return STATUS_OK;
}

const char *train_step_describe(const TrainStep *self) {
  const Job *job = self->job;
  if (self->records_steps) return "a step is one CUDA graph";
  if (!job->backend->record_begin) return "a step is a call for each layer";
  return job->config->run.cuda_graph ? "one by one: a step cannot be recorded as a CUDA graph"
                                     : "one by one: [run] cuda_graph = no";
}

// --- a step ---------------------------------------------------------------------------------------

static Status send(TrainStep *self, FeedBatch *out, const Batch *batch, double learning_rate) {
  const Job *job = self->job;
  float rate = (float)learning_rate;
  for (int w = 0; w < job->worker_count; w++)
    self->keys[w] =
        (StepKey){.seed = (uint64_t)job->config->train.seed,
                  .step = job->step,
                  .first_sample = workers_slice_begin(job->first_worker + w, job->virtual_workers,
                                                      batch->global_count)};
  FeedBatch host = {.count = batch->count,
                    .samples = batch->pixels,
                    .sample_size = sample_length(job),
                    .maps = batch->maps ? batch->maps->m : NULL,
                    .labels = batch->labels,
                    .keys = self->keys,
                    .learning_rate = &rate};
  if (batch->values) {
    host.samples = batch->values;
    host.sample_size *= sizeof *batch->values;
  } else if (batch->images) {
    host.samples = batch->images;
    host.sample_size = sizeof *batch->images;
  }
  TRY(feed_send(self->feed, out, &host));
  WorkersBatch work = describe_work(self, batch, out);
  return workers_upload(job->workers, &work);
}

static Status compute(TrainStep *self, const Batch *batch, const FeedBatch *in,
                      TrainStepTimes *times) {
  const Job *job = self->job;
  bool is_first = !has_been_plain(self, batch->global_count);
  if (!self->records_steps || is_first || times) return give(self, batch, in, times);
  if (!find_recording(self, batch, in->slot)) TRY(record(self, batch, in));
  const Recording *recording = find_recording(self, batch, in->slot);
  return recording ? job->backend->replay(job->device, recording) : give(self, batch, in, NULL);
}

Status train_step_run(TrainStep *self, const Batch *batch, double learning_rate,
                      TrainStepTimes *times) {
  const Job *job = self->job;
  FeedBatch in;
  if (self->pending == TRAIN_STEP_RECORDS)
    return status_set(STATUS_INTERNAL, "%d steps and nobody has read what they found",
                      self->pending);
  TRY(send(self, &in, batch, learning_rate));
  TRY(compute(self, batch, &in, times));
  char *record = self->records + (size_t)self->pending * self->places.size;
  TRY(job->backend->read_begin(job->device, record, self->record, self->places.size));
  self->results[self->pending++] =
      (TrainStepResult){.step = job->step,
                        .global_count = batch->global_count,
                        .first_sample = batch->first_sample,
                        .count = batch->count,
                        .losses = (const float *)(const void *)(record + self->places.losses),
                        .ranks = (const int32_t *)(const void *)(record + self->places.ranks)};
  return STATUS_OK;
}

Status train_step_read(TrainStep *self, const TrainStepResult **out, int *count) {
  const Job *job = self->job;
  if (self->pending > 0) TRY(job->backend->wait(job->device));
  for (int i = 0; i < self->pending; i++) {
    const char *record = self->records + (size_t)i * self->places.size;
    self->results[i].state = *(const UpdateState *)(const void *)record;
    self->results[i].penalty = optimizer_penalty(
        &job->layout, (const double *)(const void *)(record + self->places.terms));
  }
  *out = self->results;
  *count = self->pending;
  self->pending = 0;
  return STATUS_OK;
}

Status train_step_penalty(TrainStep *self, const float *weights, double *penalty) {
  const Job *job = self->job;
  size_t size = self->places.losses - self->places.terms;
  OptimizerArgs args = {.backend = job->backend, .device = job->device, .layout = &job->layout};
  char *terms = self->record + self->places.terms;
  args.weights = (float *)(uintptr_t)weights; // only read
  *penalty = 0.0;
  if (size == 0) return STATUS_OK;
  TRY(optimizer_find_penalty(&args, (double *)(void *)terms));
  char *host = self->records + TRAIN_STEP_RECORDS * self->places.size;
  TRY(job->backend->copy_to_host(job->device, host, terms, size));
  *penalty = optimizer_penalty(&job->layout, (const double *)(const void *)host);
  return STATUS_OK;
}
