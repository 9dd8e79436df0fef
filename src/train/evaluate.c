// Evaluation. See evaluate.h.
#include "train/evaluate.h"

#include <inttypes.h>
#include <string.h>

#include "base/memory.h"
#include "base/signals.h"

enum { TOP = 5 };

struct Evaluator {
  EvaluatorDesc desc;
  Executor *executor;
  Source source;
  int64_t classes;
  float *losses, *logits;
  int32_t *ranks, *labels;
  double *sample_losses; // of the whole list, each rank filling in its own, for a sum in order
};

// This rank's part of a global batch: LoaderShare.
static void share(const void *context, int64_t batch_size, int64_t *first, int64_t *count) {
  const World *world = context;
  int64_t size = world ? world->size : 1, rank = world ? world->rank : 0;
  *first = rank * batch_size / size;
  *count = (rank + 1) * batch_size / size - *first;
}

// A rank's part of a batch is computed in equal pieces (to one image).
static int64_t piece_count(const EvaluatorDesc *desc, int64_t images) {
  if (images == 0 || desc->at_once == 0) return 1;
  return (images + desc->at_once - 1) / desc->at_once;
}

static int64_t piece_begin(const EvaluatorDesc *desc, int64_t images, int64_t piece) {
  return piece * images / piece_count(desc, images);
}

Status evaluator_create(Evaluator **out, const EvaluatorDesc *desc) {
  *out = NULL;
  Evaluator *evaluator;
  TRY(memory_alloc(&evaluator, 1, sizeof *evaluator));
  Status status = STATUS_OK;
  evaluator->desc = *desc;
  evaluator->classes = shape_count(graph_shape(desc->graph, desc->graph->output));
  const Sampler *sampler = &evaluator->desc.sampler;
  int64_t steps = sampler_steps_per_epoch(sampler), first, images[2], sizes[4];
  share(desc->world, sampler_batch_size(sampler, 0), &first, &images[0]);
  share(desc->world, sampler_batch_size(sampler, steps - 1), &first, &images[1]);
  for (int b = 0; b < 2; b++) { // the first piece is of the smaller size, the last of the larger
    int64_t pieces = piece_count(desc, images[b]);
    sizes[2 * b] = piece_begin(desc, images[b], 1);
    sizes[2 * b + 1] = images[b] - piece_begin(desc, images[b], pieces - 1);
  }
  GUARD(executor_create(&evaluator->executor, &(ExecutorDesc){.backend = desc->backend,
                                                              .device = desc->device,
                                                              .graph = desc->graph,
                                                              .layout = desc->layout,
                                                              .mode = LOWER_INFERENCE,
                                                              .folds_norms = true,
                                                              .input = desc->input,
                                                              .dtype = desc->dtype,
                                                              .batches = sizes,
                                                              .batch_count = 4}));
  size_t largest = (size_t)(images[0] > images[1] ? images[0] : images[1]);
  GUARD(memory_alloc(&evaluator->losses, largest, sizeof(float)));
  GUARD(memory_alloc(&evaluator->ranks, largest, sizeof(int32_t)));
  GUARD(memory_alloc(&evaluator->labels, largest, sizeof(int32_t)));
  GUARD(memory_alloc(&evaluator->logits, largest * (size_t)evaluator->classes, sizeof(float)));
  GUARD(memory_alloc(&evaluator->sample_losses, (size_t)sampler_batch_size(sampler, 0),
                     sizeof(double)));
  *out = evaluator;
  evaluator = NULL;
out:
  evaluator_free(evaluator);
  return status;
}

void evaluator_free(Evaluator *evaluator) {
  if (!evaluator) return;
  source_close(&evaluator->source);
  executor_free(evaluator->executor);
  memory_free(evaluator->losses);
  memory_free(evaluator->ranks);
  memory_free(evaluator->labels);
  memory_free(evaluator->logits);
  memory_free(evaluator->sample_losses);
  memory_free(evaluator);
}

size_t evaluator_memory_bytes(const Evaluator *evaluator) {
  return executor_memory_bytes(evaluator->executor);
}

Status evaluator_allocate(Evaluator *evaluator, const float *weights) {
  TRY(executor_allocate(evaluator->executor));
  return executor_bind(evaluator->executor, weights, NULL);
}

LoaderDesc evaluator_loader(const Evaluator *evaluator, const LoaderDesc *images) {
  LoaderDesc desc = *images;
  desc.samples = evaluator->desc.samples;
  desc.sample_count = evaluator->desc.sample_count;
  desc.sampler = evaluator->desc.sampler;
  desc.augment = NULL;
  desc.share = share;
  desc.share_context = evaluator->desc.world;
  desc.bad_files = LOADER_BAD_MARK;
  return desc;
}

Status evaluator_open(Evaluator *evaluator, const EvaluatorInput *input) {
  int64_t steps = sampler_steps_per_epoch(&evaluator->desc.sampler);
  LoaderDesc desc = evaluator_loader(evaluator, input->images);
  desc.first_step = input->first_round * steps;
  desc.end_step = desc.first_step + input->round_count * steps;
  return source_open(&evaluator->source, &desc, input->features);
}

Source *evaluator_source(Evaluator *evaluator) {
  return &evaluator->source;
}

typedef struct Tally {
  double samples, bad, loss, correct, top5;
  bool stop; // somebody wants to
} Tally;

static Status run_piece(Evaluator *evaluator, const Batch *batch, const EvaluateArgs *args,
                        int64_t begin, int64_t end) {
  Shape shape = graph_shape(evaluator->desc.graph, evaluator->desc.input);
  size_t skip = (size_t)begin * (size_t)shape_count(shape);
  ExecutorInput input = {.batch = end - begin,
                         .pixels = batch->pixels ? batch->pixels + skip : NULL,
                         .values = batch->values ? batch->values + skip : NULL};
  TRY(executor_forward(evaluator->executor, &input));
  TRY(executor_loss(evaluator->executor, &(ExecutorLoss){.labels = evaluator->labels + begin,
                                                         .smoothing = args->smoothing}));
  TRY(executor_read_losses(evaluator->executor, evaluator->losses + begin,
                           evaluator->ranks + begin));
  if (!args->on_batch) return STATUS_OK;
  return executor_read_output(evaluator->executor, evaluator->logits + begin * evaluator->classes);
}

static Status run_batch(Evaluator *evaluator, const Batch *batch, const EvaluateArgs *args) {
  const EvaluatorDesc *desc = &evaluator->desc;
  // The loss wants a class even where the image is broken; such samples are not counted.
  for (int64_t i = 0; i < batch->count; i++)
    evaluator->labels[i] = batch->labels[i] < 0 ? 0 : batch->labels[i];
  for (int64_t p = 0; p < piece_count(desc, batch->count); p++)
    TRY(run_piece(evaluator, batch, args, piece_begin(desc, batch->count, p),
                  piece_begin(desc, batch->count, p + 1)));
  if (!args->on_batch) return STATUS_OK;
  return args->on_batch(args->context, batch, evaluator->logits, evaluator->losses);
}

// Adds a batch of all ranks to the tally, losses in the order of samples; asks whether anybody
// wants to stop.
static Status add_batch(Evaluator *evaluator, const Batch *batch, Tally *tally) {
  double counts[5] = {[4] = signals_stop_count() > 0};
  memset(evaluator->sample_losses, 0, (size_t)batch->global_count * sizeof(double));
  for (int64_t i = 0; i < batch->count; i++) {
    if (batch->labels[i] < 0) {
      counts[3] += 1;
      continue;
    }
    evaluator->sample_losses[batch->first_sample + i] = evaluator->losses[i];
    counts[0] += 1;
    counts[1] += evaluator->ranks[i] == 0;
    counts[2] += evaluator->ranks[i] < TOP;
  }
  World *world = evaluator->desc.world;
  if (world) {
    TRY(world_reduce_f64(world, WORLD_SUM, counts, 5));
    TRY(world_reduce_f64(world, WORLD_SUM, evaluator->sample_losses, (int)batch->global_count));
  }
  for (int64_t i = 0; i < batch->global_count; i++) tally->loss += evaluator->sample_losses[i];
  tally->samples += counts[0];
  tally->correct += counts[1];
  tally->top5 += counts[2];
  tally->bad += counts[3];
  tally->stop = counts[4] > 0.0;
  return STATUS_OK;
}

Status evaluator_run(Evaluator *evaluator, EvaluateResult *result, const EvaluateArgs *args) {
  World *world = evaluator->desc.world;
  int64_t steps = sampler_steps_per_epoch(&evaluator->desc.sampler);
  Tally tally = {0};
  executor_weights_changed(evaluator->executor);
  for (int64_t step = 0; step < steps; step++) {
    const Batch *batch;
    watchdog_progress(args->watchdog, step, "evaluate");
    Status mine = source_next(&evaluator->source, &batch);
    if (mine == STATUS_OK && batch->count > 0) mine = run_batch(evaluator, batch, args);
    TRY(world ? world_agree_status(world, mine) : mine);
    TRY(add_batch(evaluator, batch, &tally));
    source_release(&evaluator->source, batch);
    if (args->may_stop && tally.stop && step + 1 < steps) {
      *result = (EvaluateResult){.is_stopped = true};
      return STATUS_OK;
    }
  }
  *result = (EvaluateResult){.samples = (int64_t)tally.samples, .bad = (int64_t)tally.bad};
  if (tally.samples > 0) {
    result->loss = tally.loss / tally.samples;
    result->accuracy = tally.correct / tally.samples;
    result->top5 = tally.top5 / tally.samples;
  }
  return STATUS_OK;
}

Status evaluate_check(const EvaluateResult *result, const Dataset *dataset) {
  if (result->samples > 0 || result->is_stopped) return STATUS_OK;
  return status_set(STATUS_DATA,
                    "%s: none of the %" PRId64
                    " images to evaluate could be read; replace them, or "
                    "name another folder",
                    dataset_source(dataset), result->bad);
}
