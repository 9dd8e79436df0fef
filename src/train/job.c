// Everything that a training run holds. See job.h.
#include "train/job.h"

#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "base/memory.h"
#include "keras/keras.h"
#include "model/pretrained.h"

// --- data -----------------------------------------------------------------------------------------

// Rank 0 reads folders; the others get what it found.
Status job_open_dataset(Dataset **out, const char *path, int64_t min_classes, const JobDesc *desc) {
  const DataConfig *data = &desc->config->data;
  World *world = desc->world;
  Bytes index = {0};
  Status status = STATUS_OK;
  if (world->rank == 0) {
    DatasetDesc dataset = {.path = path,
                           .class_names = (const char *const *)data->class_names.items,
                           .class_count = data->class_names.count,
                           .follow_symlinks = data->follow_symlinks,
                           .min_classes = min_classes};
    if (dataset.class_count == 0) dataset.class_names = NULL;
    status = dataset_open(out, &dataset, desc->log);
    if (status == STATUS_NO_INPUT)
      status = status_prepend(status, "[data] %s", path == data->test_dir ? "test_dir" : "dir");
    if (status == STATUS_OK) status = dataset_write_index(&index, *out);
  }
  GUARD(world_agree_status(world, status));
  uint64_t size = index.size;
  GUARD(world_broadcast(world, &size, sizeof size, 0));
  if (world->rank != 0) {
    GUARD(memory_alloc(&index.data, size, 1));
    index.capacity = index.size = size;
  }
  GUARD(world_broadcast(world, index.data, size, 0));
  if (world->rank != 0) status = dataset_read_index(out, index.data, index.size);
  status = world_agree_status(world, status);
out:
  bytes_deinit(&index);
  return status;
}

SampleLimits job_sample_limits(const Config *config) {
  const DataConfig *data = &config->data;
  return (SampleLimits){.max_file_bytes = (size_t)data->max_file_size,
                        .image = {.max_pixels = data->max_pixels,
                                  .max_side = data->max_side,
                                  .jpeg_memory_bytes = (size_t)data->jpeg_memory,
                                  .jpeg_scans = (int)data->jpeg_scans,
                                  .decode_seconds = data->decode_deadline_s}};
}

static void fill_augment(Job *job) {
  const AugmentConfig *augment = &job->config->augment;
  static const AugmentFlip flips[] = {
      [CONFIG_FLIP_NONE] = AUGMENT_FLIP_NONE,
      [CONFIG_FLIP_HORIZONTAL] = AUGMENT_FLIP_HORIZONTAL,
      [CONFIG_FLIP_VERTICAL] = AUGMENT_FLIP_VERTICAL,
      [CONFIG_FLIP_BOTH] = AUGMENT_FLIP_BOTH,
  };
  static const AugmentFill fills[] = {
      [CONFIG_FILL_CONSTANT] = AUGMENT_FILL_CONSTANT,
      [CONFIG_FILL_REFLECT] = AUGMENT_FILL_REFLECT,
      [CONFIG_FILL_WRAP] = AUGMENT_FILL_WRAP,
      [CONFIG_FILL_NEAREST] = AUGMENT_FILL_NEAREST,
  };
#define RANGE(name) {augment->name.low, augment->name.high}
  job->augment = (AugmentDesc){
      .seed = (uint64_t)job->config->train.seed,
      .rotation = RANGE(rotation),
      .translation_height = RANGE(translation_height),
      .translation_width = RANGE(translation_width),
      .zoom_height = RANGE(zoom_height),
      .zoom_width = RANGE(zoom_width),
      .zoom_keeps_aspect = augment->zoom_width.low == CONFIG_SAME_AS_HEIGHT &&
                           augment->zoom_width.high == CONFIG_SAME_AS_HEIGHT,
      .flip = flips[augment->flip],
      .fill = fills[augment->fill_mode],
      .fill_value = augment->fill_value * 255.0,
  };
#undef RANGE
}

// Test images have labels of their own folder: they mean the same only where the classes do.
static Status open_test_data(Job *job, const JobDesc *desc) {
  const char *path = job->config->data.test_dir;
  if (path[0] == '\0') return STATUS_OK;
  TRY(job_open_dataset(&job->test_dataset, path, 1, desc));
  int64_t classes = dataset_class_count(job->dataset);
  if (dataset_class_count(job->test_dataset) != classes)
    return status_set(STATUS_CONFIG,
                      "[data] test_dir = %s: %" PRId64 " classes, but %s has %" PRId64
                      "; give both the same folders or set [data] class_names",
                      path, dataset_class_count(job->test_dataset), job->config->data.dir, classes);
  for (int64_t i = 0; i < classes; i++)
    if (strcmp(dataset_class_name(job->dataset, i), dataset_class_name(job->test_dataset, i)) != 0)
      return status_set(STATUS_CONFIG,
                        "[data] test_dir = %s: class %" PRId64 " is '%s', but '%s' in %s; give both "
                        "the same folders",
                        path, i, dataset_class_name(job->test_dataset, i),
                        dataset_class_name(job->dataset, i), job->config->data.dir);
  return STATUS_OK;
}

static Status open_data(Job *job) {
  const Config *config = job->config;
  const JobDesc desc = {.config = config, .world = job->world, .log = job->log};
  TRY(job_open_dataset(&job->dataset, config->data.dir, 2, &desc));
  TRY(open_test_data(job, &desc));
  TRY(split_init(&job->split,
                 &(SplitDesc){.sample_count = dataset_sample_count(job->dataset),
                              .validation_fraction = config->data.validation_split,
                              .seed = config->data.seed}));
  bool as_keras = config->data.compat == CONFIG_COMPAT_KERAS;
  TRY(sampler_init(&job->sampler,
                   &(SamplerDesc){.mode = as_keras ? SAMPLER_TRAIN_KERAS : SAMPLER_TRAIN,
                                  .sample_count = job->split.training_count,
                                  .batch = config->train.batch,
                                  .seed = (uint64_t)config->train.seed}));
  job->batch = job->sampler.full_batch;
  job->steps_per_epoch = config->train.steps_per_epoch > 0 ? config->train.steps_per_epoch
                                                           : sampler_steps_per_epoch(&job->sampler);
  job->total_steps = job->steps_per_epoch * config->train.epochs;
  job->limits = job_sample_limits(config);
  job->target.resize = (ResizeOptions){.antialias = config->data.antialias,
                                       .keep_aspect = config->data.keep_aspect};
  fill_augment(job);
  return STATUS_OK;
}

// --- model ----------------------------------------------------------------------------------------

// Ranks on unlike machines must compute with one type.
static Status choose_dtype(Job *job) {
  static const DType types[] = {[CONFIG_PRECISION_AUTO] = DTYPE_BF16,
                                [CONFIG_PRECISION_FP32] = DTYPE_F32,
                                [CONFIG_PRECISION_BF16] = DTYPE_BF16,
                                [CONFIG_PRECISION_FP16] = DTYPE_F16};
  ConfigPrecision precision = job->config->train.precision;
  DType wanted = types[precision];
  double all_have = job->backend->device_multiplies(job->device, wanted);
  TRY(world_reduce_f64(job->world, WORLD_MIN, &all_have, 1));
  if (all_have == 0.0 && precision != CONFIG_PRECISION_AUTO)
    return status_set(STATUS_CONFIG,
                      "[train] precision = %s: a device of this job (%s) does not multiply it in "
                      "hardware; use fp32 or auto%s",
                      dtype_name(wanted), job->backend->name,
                      wanted == DTYPE_F16 ? ", or [run] device = cuda" : "");
  job->dtype = all_have > 0.0 ? wanted : DTYPE_F32;
  job->loss_scale = loss_scale_begin(&job->config->train, job->dtype);
  return STATUS_OK;
}

PlanOptions job_plan_options(const Job *job) {
  const RunConfig *run = &job->config->run;
  bool reproducible = job->config->train.reproducible;
  return (PlanOptions){.cache = run->plan_cache,
                       .deterministic = reproducible,
                       .autotune = run->autotune && !reproducible,
                       .tensor_float32 = run->tf32,
                       .log = job->log};
}

static Status open_device(Job *job) {
  const Config *config = job->config;
  job->backend = job->placement->backend;
  job->threads = config->run.threads > 0 ? config->run.threads : job->binding->cores;
  if (job->world->rank == 0)
    binding_check_threads(job->binding, job->threads, "[run] threads", job->log);
  Status status = job->backend->device_open(
      &job->device, &(DeviceDesc){.threads = (int)job->threads,
                                  .index = job->placement->index,
                                  .model = job->placement->model,
                                  .plans = job_plan_options(job)});
  TRY(world_agree_status(job->world, status));
  return choose_dtype(job);
}

static Status build_model(Job *job) {
  const ModelConfig *model = &job->config->model;
  ModelSpec spec = {.backbone = model->backbone,
                    .image_h = (int)model->image_size,
                    .image_w = (int)model->image_size,
                    .class_count = dataset_class_count(job->dataset),
                    .dropout = model->dropout,
                    .l2 = model->l2,
                    .fine_tune = model->fine_tune,
                    .batch_norm_momentum = model->batch_norm_momentum,
                    .batch_norm_epsilon = model->batch_norm_epsilon,
                    .stochastic_depth = model->stochastic_depth};
  TRY(model_build(&job->graph, &spec));
  job->target.height = job->graph->layers[0].shape.dim[0];
  job->target.width = job->graph->layers[0].shape.dim[1];
  TRY(parameters_layout(&job->layout, job->graph));
  TRY(parameter_values_create(&job->values, job->graph));
  parameter_values_initialize(&job->values, job->graph, (uint64_t)job->config->train.seed);
  return STATUS_OK;
}

static Status read_weights(Job *job, const char *path) {
  PretrainedFile file;
  PretrainedFit fit;
  Status status = pretrained_open(&file, path);
  if (status != STATUS_OK) return status_prepend(status, "[model] weights");
  status = pretrained_read(&fit, job->graph, job->values.values, &file);
  pretrained_close(&file);
  if (status == STATUS_OK)
    log_info(job->log, "weights   %s: %" PRId64 " read, %" PRId64 " fresh%s%s%s%s%s", path,
             fit.weights.loaded, fit.weights.left,
             fit.shapes_only ? "; the file does not tell its network: shapes alone were compared"
                             : "",
             fit.taken_for ? "; taken for " : "", fit.taken_for ? fit.taken_for : "",
             fit.swapped_red_blue ? "; taken for blue-green-red, as Keras' public ones are" : "",
             fit.changed_scaling ? "; images are scaled as in that file" : "");
  return status;
}

static Status load_weights(Job *job) {
  const char *path = job->config->model.weights;
  if (path[0] == '\0') return STATUS_OK;
  Status status = job->world->rank == 0 ? read_weights(job, path) : STATUS_OK;
  TRY(world_agree_status(job->world, status));
  RescalingDesc *scaling = pretrained_scaling(job->graph);
  TRY(world_broadcast(job->world, scaling, sizeof *scaling, 0));
  for (int i = 0; i < job->values.count; i++)
    TRY(world_broadcast(job->world, job->values.values[i],
                        (size_t)job->layout.counts[i] * sizeof(float), 0));
  return STATUS_OK;
}

// --- workers --------------------------------------------------------------------------------------

int64_t job_asked_workers(const Job *job) {
  int64_t workers = job->config->train.virtual_workers;
  return workers > 0 ? workers : job->world->size;
}

static Status check_workers(const Job *job) {
  const TrainConfig *train = &job->config->train;
  int size = job->world->size;
  int64_t workers = job_asked_workers(job);
  if (workers % size != 0)
    return status_set(STATUS_CONFIG,
                      "[train] virtual_workers = %" PRId64 ": %d ranks do not divide it; use %d, %d "
                      "or another number of ranks",
                      workers, size, size, 2 * size);
  if (train->batch < workers)
    return status_set(STATUS_CONFIG,
                      "[train] batch = %" PRId64 ": fewer images than the %" PRId64
                      " workers that share them; use at least %" PRId64,
                      train->batch, workers, workers);
  return STATUS_OK;
}

static void share_out_workers(Job *job, int64_t workers) {
  job->virtual_workers = (int)workers;
  job->worker_count = (int)workers / job->world->size;
  job->first_worker = job->world->rank * job->worker_count;
}

int64_t job_largest_part(const Job *job) {
  return (job->batch + job->virtual_workers - 1) / job->virtual_workers;
}

// Cached features may fill this part of a machine's memory.
static const double feature_memory_share = 0.5;

// What the ranks of the fullest machine would need for features, as a part of what they may use.
static Status measure_features(double *needed, Job *job) {
  size_t bytes =
      features_memory_bytes(job->split.training_count, job->extractor, job->world->size) +
      features_memory_bytes(job->split.validation_count, job->extractor, job->world->size);
  double machine = (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE);
  *needed = (double)bytes * job->world->local_size / (machine * feature_memory_share);
  job->feature_bytes = bytes;
  job->extractor_bytes = extractor_memory_bytes(job->extractor);
  return world_reduce_f64(job->world, WORLD_MAX, needed, 1);
}

// Why the features of a frozen backbone are not to be cached; NULL where they are.
static const char *reason_against_caching(const Job *job) {
  const Config *config = job->config;
  if (config->data.cache_features == CONFIG_NO) return "[data] cache_features = no";
  if (config->data.cache_features == CONFIG_YES) return NULL;
  if (config->augment.enabled) return "[augment] changes the images each time";
  if (job->total_steps < job->sampler.steps_per_pass) return "the run is shorter than one pass";
  return NULL;
}

// Ranks of one machine share the folder of plans: the first makes them, the others find them there.
static Status plan_in_turn(Job *job, Status (*plan)(Job *job)) {
  if (!job->backend->plan_record || job->world->size == 1) return plan(job);
  for (int turn = 0; turn < 2; turn++) {
    bool is_mine = (job->world->local_rank > 0) == (turn > 0);
    TRY(world_agree_status(job->world, is_mine ? plan(job) : STATUS_OK));
  }
  return STATUS_OK;
}

static Status plan_extractor(Job *job) {
  return extractor_create(&job->extractor,
                          &(ExtractorDesc){.backend = job->backend,
                                           .device = job->device,
                                           .graph = job->graph,
                                           .layout = &job->layout,
                                           .dtype = job->dtype,
                                           .threads = (int)job->threads,
                                           .reproducible = job->config->train.reproducible});
}

// Plans the cache of features, where [data] cache_features asks for it and it can be.
static Status plan_features(Job *job) {
  if (job->config->model.fine_tune) return STATUS_OK;
  const char *against = reason_against_caching(job);
  double needed = 0.0;
  if (!against) {
    TRY(plan_in_turn(job, plan_extractor));
    TRY(measure_features(&needed, job));
    if (needed > 1.0 && job->config->data.cache_features == CONFIG_YES)
      return status_set(STATUS_CONFIG,
                        "[data] cache_features = yes: the features need %.0f %% of a machine's "
                        "memory, and half of it is for them; use more machines, or auto",
                        100.0 * needed * feature_memory_share);
    if (needed > 1.0) {
      against = "they would fill more than half of a machine's memory";
      extractor_free(job->extractor);
      job->extractor = NULL;
      job->feature_bytes = job->extractor_bytes = 0;
    }
  }
  job->why_not_cached = against;
  return STATUS_OK;
}

// What training and validation compute on: images, or the features of them.
static Value input_of(const Job *job) {
  return job->extractor ? model_features(job->graph) : 0;
}

// Plans the evaluation of a list of samples (NULL: all of a dataset, in order).
static Status create_evaluator(Evaluator **out, Job *job, const int64_t *samples, int64_t count,
                               SamplerMode mode) {
  bool is_validation = samples != NULL; // what may have its features cached
  EvaluatorDesc desc = {.backend = job->backend,
                        .device = job->device,
                        .graph = job->graph,
                        .layout = &job->layout,
                        .input = is_validation ? input_of(job) : 0,
                        .dtype = job->dtype,
                        .world = job->world,
                        .samples = samples,
                        .sample_count = count,
                        .at_once = job->fit.parts > 1 ? job_largest_part(job) : 0};
  TRY(sampler_init(&desc.sampler, &(SamplerDesc){.mode = mode,
                                                 .sample_count = desc.sample_count,
                                                 .batch = job->config->train.batch,
                                                 .seed = (uint64_t)job->config->train.seed}));
  return evaluator_create(out, &desc);
}

static Status plan_training(Job *job) {
  // Sizes of the global batches of a pass: the full one, and the last, which may be short.
  int64_t sizes[2] = {sampler_batch_size(&job->sampler, 0),
                      sampler_batch_size(&job->sampler, job->sampler.steps_per_pass - 1)};
  TRY(workers_create(&job->workers, &(WorkersDesc){.backend = job->backend,
                                                   .device = job->device,
                                                   .graph = job->graph,
                                                   .layout = &job->layout,
                                                   .input = input_of(job),
                                                   .dtype = job->dtype,
                                                   .threads = (int)job->threads,
                                                   .virtual_workers = job->virtual_workers,
                                                   .first = job->first_worker,
                                                   .count = job->worker_count,
                                                   .reproducible = job->config->train.reproducible,
                                                   .recompute = job->fit.recompute,
                                                   .batches = sizes,
                                                   .batch_count = 2}));
  bool as_keras = job->config->data.compat == CONFIG_COMPAT_KERAS;
  const Split *split = &job->split;
  if (split->validation_count > 0)
    TRY(create_evaluator(&job->evaluator, job, split->validation, split->validation_count,
                         as_keras ? SAMPLER_EVALUATE_KERAS : SAMPLER_EVALUATE));
  if (!job->test_dataset) return STATUS_OK;
  return create_evaluator(&job->tester, job, NULL, dataset_sample_count(job->test_dataset),
                          SAMPLER_EVALUATE);
}

Status job_plan(Job *job, int64_t parts, bool recompute) {
  workers_free(job->workers);
  evaluator_free(job->evaluator);
  evaluator_free(job->tester);
  job->workers = NULL;
  job->evaluator = job->tester = NULL;
  job->fit.parts = parts;
  job->fit.recompute = recompute;
  share_out_workers(job, job_asked_workers(job) * parts);
  TRY(plan_in_turn(job, plan_training));
  job_plan_memory(job);
  return STATUS_OK;
}

Status job_open(Job *job, const JobDesc *desc) {
  *job = (Job){.config = desc->config,
               .saved = desc->saved,
               .world = desc->world,
               .placement = desc->placement,
               .binding = desc->binding,
               .log = desc->log,
               .best_accuracy = -1.0};
  TRY(check_workers(job));
  TRY(open_device(job));
  TRY(open_data(job));
  TRY(build_model(job));
  TRY(load_weights(job));
  TRY(plan_features(job));
  TRY(job_fit(job));
  return job_plan_resident(job);
}

GradSyncDesc job_describe_sums(const Job *job) {
  return (GradSyncDesc){.world = job->world,
                        .backend = job->backend,
                        .device = job->device,
                        .layout = &job->layout,
                        .watchdog = job->watchdog,
                        .log = job->log,
                        .virtual_workers = job->virtual_workers,
                        .reproducible = job->config->train.reproducible,
                        .timeout_s = job->config->run.comm_timeout_s};
}

static Status allocate_average(Job *job) {
  void *memory;
  if (!job->config->optimizer.use_ema) return STATUS_OK;
  TRY(job->backend->memory_alloc(job->device, &memory, (size_t)job->layout.total * sizeof(float)));
  job->averaged = memory;
  return job->backend->vector_scale(job->device, job->averaged, job->weights, 1.0f,
                                    job->layout.trained);
}

// The statistics of BatchNormalization are averages already, and frozen weights stay.
Status job_evaluated_weights(const float **out, Job *job) {
  int64_t trained = job->layout.trained;
  *out = job->averaged ? job->averaged : job->weights;
  if (!job->averaged) return STATUS_OK;
  return job->backend->vector_scale(job->device, job->averaged + trained, job->weights + trained,
                                    1.0f, job->layout.total - trained);
}

Status job_allocate(Job *job) {
  void *memory;
  TRY(job->backend->memory_alloc(job->device, &memory, (size_t)job->layout.total * sizeof(float)));
  job->weights = memory;
  TRY(job->backend->memory_alloc(job->device, &memory, (size_t)job->layout.trained * sizeof(float)));
  job->velocity = memory;
  TRY(parameters_upload(&job->layout, job->backend, job->device, job->weights, &job->values, false));
  TRY(allocate_average(job));
  GradSyncDesc sums = job_describe_sums(job);
  TRY(gradsync_create(&job->sync, &sums));
  TRY(workers_allocate(job->workers, job->weights));
  const float *weights;
  TRY(job_evaluated_weights(&weights, job));
  if (job->evaluator) TRY(evaluator_allocate(job->evaluator, weights));
  return job->tester ? evaluator_allocate(job->tester, weights) : STATUS_OK;
}

void job_close(Job *job) {
  checkpoints_close(job->checkpoints);
  gradsync_free(job->sync);
  watchdog_stop(job->watchdog);
  workers_free(job->workers);
  source_close(&job->source);
  bad_files_close(job->bad_files);
  evaluator_free(job->evaluator);
  extractor_free(job->extractor);
  resident_free(job->resident);
  features_free(job->training_features);
  features_free(job->validation_features);
  evaluator_free(job->tester);
  if (job->device) {
    job->backend->memory_free(job->device, job->weights);
    job->backend->memory_free(job->device, job->velocity);
    job->backend->memory_free(job->device, job->averaged);
    job->backend->device_close(job->device);
  }
  history_deinit(&job->history);
  parameter_values_free(&job->values);
  parameters_layout_deinit(&job->layout);
  graph_free(job->graph);
  split_deinit(&job->split);
  dataset_close(job->dataset);
  dataset_close(job->test_dataset);
  *job = (Job){0};
}
