// Everything that a training run holds, made from its configuration: data, model, memory, workers.
// trainer.c runs it; run_state.c saves and restores it.
#ifndef IMGCLS_TRAIN_JOB_H
#define IMGCLS_TRAIN_JOB_H

#include "base/log.h"
#include "config/config.h"
#include "data/dataset.h"
#include "data/loader.h"
#include "data/sampler.h"
#include "data/split.h"
#include "dist/binding.h"
#include "dist/watchdog.h"
#include "dist/world.h"
#include "model/model.h"
#include "train/checkpoint.h"
#include "train/evaluate.h"
#include "train/features.h"
#include "train/gradsync.h"
#include "train/history.h"
#include "train/loss_scale.h"
#include "train/placement.h"
#include "train/resident.h"
#include "train/saved_run.h"
#include "train/source.h"
#include "train/workers.h"

typedef struct JobDesc {
  const Config *config;
  const SavedRun *saved; // what the job goes on from; NULL: nothing
  World *world;
  const Placement *placement;
  const Binding *binding;
  Log *log; // all borrowed
} JobDesc;

typedef enum JobMemoryPart {
  JOB_MEMORY_PROGRAM, // held already: libraries, planned kernels, the list of images, host weights
  JOB_MEMORY_WEIGHTS, // and momentum
  JOB_MEMORY_STEPS,   // activations, gradients, workspaces, batches on their way
  JOB_MEMORY_SUMS,    // of gradients over workers and ranks
  JOB_MEMORY_EVALUATION, // its activations
  JOB_MEMORY_FEATURES,   // of a frozen backbone, and computing them
  JOB_MEMORY_IMAGES, // kept and decoded ahead by loaders; of a device: resident, or of an evaluation
  JOB_MEMORY_SAVING, // a checkpoint as it is made; rank 0 does that
  JOB_MEMORY_PARTS
} JobMemoryPart;

// What this rank is going to hold at its peak, in bytes: of the host, and of the device where it
// has memory of its own.
typedef struct JobMemory {
  size_t host[JOB_MEMORY_PARTS], device[JOB_MEMORY_PARTS];
} JobMemory;

size_t job_memory_total(const size_t parts[JOB_MEMORY_PARTS]);

// How a step came to fit in memory.
typedef struct JobFit {
  size_t limit_bytes; // that this rank may take of the memory that steps lie in
  size_t free_bytes;  // of the device when the job was opened
  size_t whole_bytes; // that it would take with the batch uncut and every result kept
  int64_t parts;      // virtual workers in the place of each that the configuration asks for
  const char *why;    // of parts other than 1
  bool recompute;
} JobFit;

typedef struct Job {
  const Config *config;
  const SavedRun *saved; // until it is closed
  World *world;
  const Placement *placement;
  const Binding *binding;
  Log *log;
  const Backend *backend;
  Device *device; // for all but reproducible steps on the CPU
  DType dtype;
  int64_t threads;

  Dataset *dataset, *test_dataset; // test_dataset: NULL where none is configured
  Split split;
  Sampler sampler;
  int64_t batch; // images of a step: [train] batch, or all training images where these are fewer
  SampleTarget target;
  SampleLimits limits;
  AugmentDesc augment;
  int64_t steps_per_epoch, total_steps;

  Graph *graph;
  ParameterLayout layout;
  ParameterValues values; // host copies, for files
  float *weights, *velocity;
  float *averaged; // where weights are averaged: the average of those that are trained, and of the
                   // others a copy, as of the last job_evaluated_weights. NULL: not averaged
  int virtual_workers, first_worker, worker_count;
  JobFit fit;
  Workers *workers;
  GradSync *sync;
  // Where the backbone is frozen and its features are cached: what makes them, and what it made.
  // Steps and validation then run the head alone, on weights in the same places.
  Extractor *extractor; // NULL: not cached
  const char *why_not_cached; // of a frozen backbone
  Features *training_features, *validation_features;
  bool is_resident; // the images of training are to lie on the device
  const char *why_not_resident;
  Resident *resident;   // NULL: they do not
  BadFiles *bad_files;  // opened by trainer.c
  Source source;        // of training batches
  Evaluator *evaluator; // of the validation images; NULL: there are none
  Evaluator *tester;    // of the test images; NULL: there are none
  size_t feature_bytes; // planned for them,
  size_t extractor_bytes; // and for computing them
  JobMemory memory;     // planned, of this rank

  int64_t step; // optimizer steps done, those left out for overflow among them
  LossScale loss_scale;
  EpochSums sums;
  History history;
  double best_accuracy; // history_score of best.h5; -1: there is none yet
  Checkpoints *checkpoints; // rank 0
  Watchdog *watchdog;
} Job;

// Whether the steps of an epoch are done and its evaluation is not: job->sums are still the epoch's,
// and it has no row in the history. A request to stop may leave a run so.
bool job_awaits_evaluation(const Job *job);

// Epochs done, with their evaluation.
int64_t job_epochs_done(const Job *job);

// Whether nothing is left to train or to evaluate, also where a run goes on with fewer epochs.
bool job_is_done(const Job *job);

// Opens the data and plans the model; takes no memory for training yet. Fresh weights, or those of
// [model] weights. Collective; `job` can be closed after a failure.
MUST_CHECK Status job_open(Job *job, const JobDesc *desc);

// How its device picks engines, by its configuration.
PlanOptions job_plan_options(const Job *job);

// Plans steps and evaluations for `parts` times the virtual workers that the configuration asks for,
// in the place of what was planned before, and fills job->memory. Called by
// job_fit. Collective.
MUST_CHECK Status job_plan(Job *job, int64_t parts, bool recompute);

// Fills job->memory; the last part of job_plan.
void job_plan_memory(Job *job);

// Chooses parts and recomputation so that a step fits in memory, and plans with them; the last part
// of job_open. Collective.
MUST_CHECK Status job_fit(Job *job);

// Whether its device has memory of its own, as GPUs have.
bool job_has_device_memory(const Job *job);

// The part of the plan that steps lie in: of the device, or else of the host.
const size_t *job_step_memory(const Job *job);

// Notes what of the device's memory is free, before the job takes any.
MUST_CHECK Status job_note_free_memory(Job *job);

// Bytes of the device that have been taken since, by whomever.
MUST_CHECK Status job_device_memory_taken(size_t *out, const Job *job);

// Says what the plan takes, and what was done to make it fit.
void job_say_memory(const Job *job);

// Virtual workers as the configuration asks for them: at least one a rank.
int64_t job_asked_workers(const Job *job);

// Images that a rank computes at once at most.
int64_t job_largest_part(const Job *job);

// Takes the memory and puts the weights in place. Collective.
MUST_CHECK Status job_allocate(Job *job);

// Where the job caches features: computes those of all images by the weights of now. Collective.
MUST_CHECK Status job_cache_features(Job *job);

// Decides whether the images of training are to lie on the device, where the plan leaves room. The
// last part of job_open. Collective.
MUST_CHECK Status job_plan_resident(Job *job);

// Loads them there, where they are to. Collective.
MUST_CHECK Status job_load_resident(Job *job);

// Starts the batches of training: those of `loader`, which job_describe_training has made, or the
// same from what was loaded or computed before.
MUST_CHECK Status job_open_training(Job *job, const LoaderDesc *loader);

// What evaluations and files take for the weights: the average where there is one.
MUST_CHECK Status job_evaluated_weights(const float **out, Job *job);

// Starts loading for the steps and the evaluations from job->step on.
MUST_CHECK Status job_open_sources(Job *job);

// What its GradSync is made from.
GradSyncDesc job_describe_sums(const Job *job);

// The images of training, from job->step on.
LoaderDesc job_describe_training(const Job *job);

// The images of an evaluation, to be completed by its evaluator.
LoaderDesc job_describe_evaluation(const Job *job, const Dataset *dataset);

// This rank's part of a global batch of training: LoaderShare with the job as context.
void job_share_batch(const void *job, int64_t batch_size, int64_t *first, int64_t *count);

void job_close(Job *job); // collective

// Opens the images of `path` as the configuration says: rank 0 lists them, the others take its
// list. Collective.
MUST_CHECK Status job_open_dataset(Dataset **out, const char *path, int64_t min_classes,
                                   const JobDesc *desc);

// What one image may ask for, from [data].
SampleLimits job_sample_limits(const Config *config);

#endif
