// What `imgcls bench` steps: a backbone on random images, or the job of a configuration on random
// and on its own images. See bench.h.
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "base/memory.h"
#include "base/rng.h"
#include "tool/bench.h"
#include "train/schedule.h"

enum { SEED = 1 };
static const double model_learning_rate = 1e-3, model_dropout = 0.2;

// --- a backbone ---

static Status open_device(Bench *bench) {
  const BenchOptions *options = bench->options;
  Job *job = &bench->job;
  job->threads = options->common.threads > 0 ? options->common.threads : bench->binding.cores;
  if (job->world->rank == 0)
    binding_check_threads(&bench->binding, job->threads, "--threads", job->log);
  job->dtype = options->dtype;
  job->backend = bench->placement.backend;
  TRY(job->backend->device_open(&job->device, &(DeviceDesc){.threads = (int)job->threads,
                                                            .index = bench->placement.index,
                                                            .plans = job_plan_options(job)}));
  if (!job->backend->device_multiplies(job->device, options->dtype))
    return status_set(STATUS_USAGE,
                      "--precision %s: this device does not multiply it in hardware; use fp32",
                      dtype_name(options->dtype));
  if (options->batch < job->world->size)
    return status_set(STATUS_USAGE,
                      "--batch %" PRId64 ": fewer images than the %d ranks that share them",
                      options->batch, job->world->size);
  return STATUS_OK;
}

static Status build_model(Bench *bench) {
  const BenchOptions *options = bench->options;
  Job *job = &bench->job;
  ModelSpec spec = {.backbone = options->model,
                    .image_h = (int)options->image_size,
                    .image_w = (int)options->image_size,
                    .class_count = options->classes,
                    .dropout = model_dropout,
                    .fine_tune = true,
                    .batch_norm_momentum = CONFIG_FROM_GRAPH,
                    .batch_norm_epsilon = CONFIG_FROM_GRAPH,
                    .stochastic_depth = CONFIG_FROM_GRAPH};
  TRY(model_build(&job->graph, &spec));
  TRY(parameters_layout(&job->layout, job->graph));
  TRY(parameter_values_create(&job->values, job->graph));
  parameter_values_initialize(&job->values, job->graph, SEED);
  job->virtual_workers = job->world->size;
  job->first_worker = job->world->rank;
  job->worker_count = 1;
  return workers_create(&job->workers, &(WorkersDesc){.backend = job->backend,
                                                      .device = job->device,
                                                      .graph = job->graph,
                                                      .layout = &job->layout,
                                                      .dtype = options->dtype,
                                                      .threads = (int)job->threads,
                                                      .recompute = options->recompute,
                                                      .virtual_workers = job->virtual_workers,
                                                      .first = job->first_worker,
                                                      .count = job->worker_count,
                                                      .batches = &options->batch,
                                                      .batch_count = 1});
}

// Fills a job as far as steps need it: there are no images behind it.
static Status open_model(Bench *bench) {
  Job *job = &bench->job;
  *job = (Job){.config = &bench->config, .world = bench->world, .log = bench->log};
  ConfigProblems problems;
  Status status = config_load(&bench->config, &problems, &(ConfigInput){.incomplete = true});
  config_problems_deinit(&problems);
  bench->config.train.seed = SEED;
  job->batch = bench->options->batch;
  bench->config.train.label_smoothing = 0.0;
  if (status == STATUS_OK) status = open_device(bench);
  if (status == STATUS_OK) status = build_model(bench);
  if (status == STATUS_OK) status = job_note_free_memory(job);
  TRY(world_agree_status(bench->world, status));
  job->target.height = graph_shape(job->graph, 0).dim[0];
  job->target.width = graph_shape(job->graph, 0).dim[1];
  job_plan_memory(job);
  bench->learning_rate = model_learning_rate;
  bench->largest_batch = bench->options->batch;
  return STATUS_OK;
}

// --- a configuration ---

static Status load_config(Bench *bench) {
  const BenchOptions *options = bench->options;
  return arguments_load_config(&bench->config,
                               &(ConfigInput){.path = options->config_path,
                                              .settings = options->settings,
                                              .setting_count = options->setting_count,
                                              .environment = environ},
                               bench->world, bench->log);
}

static Status open_config(Bench *bench) {
  const Config *config = &bench->config;
  TRY(job_open(&bench->job, &(JobDesc){.config = config,
                                       .world = bench->world,
                                       .placement = &bench->placement,
                                       .binding = &bench->binding,
                                       .log = bench->log}));
  bench->learning_rate = schedule_peak_rate(config, bench->job.batch);
  bench->largest_batch = bench->job.batch;
  return STATUS_OK;
}

// --- both ---

// Random pixels and labels, the same images on any number of ranks; in memory as a loader's.
static Status fill_synthetic(Bench *bench) {
  Batch *batch = &bench->synthetic;
  size_t count = (size_t)batch->count;
  void *memory;
  TRY(backend_host_alloc(bench->job.backend, bench->job.device, &memory,
                         count * bench->sample_size));
  batch->pixels = memory;
  TRY(memory_alloc(&batch->labels, count, sizeof *batch->labels));
  int64_t classes = shape_count(graph_shape(bench->job.graph, bench->job.graph->output));
  for (size_t i = 0; i < count; i++) {
    uint64_t sample = (uint64_t)batch->first_sample + i;
    uint8_t *pixels = batch->pixels + i * bench->sample_size;
    for (size_t k = 0; k < bench->sample_size; k += sizeof(RngWords)) {
      RngWords words = rng_draw(SEED, RNG_SYNTHETIC, sample, k, 0);
      size_t left = bench->sample_size - k;
      memcpy(pixels + k, &words, left < sizeof words ? left : sizeof words);
    }
    uint32_t word = rng_draw(SEED, RNG_SYNTHETIC, sample, 0, 1).word[0];
    batch->labels[i] = (int32_t)(word % (uint64_t)classes);
  }
  return STATUS_OK;
}

static Status allocate_batches(Bench *bench) {
  const BenchOptions *options = bench->options;
  Job *job = &bench->job;
  Batch *batch = &bench->synthetic;
  batch->global_count = bench->largest_batch;
  job_share_batch(job, batch->global_count, &batch->first_sample, &batch->count);
  bool on_features = job->extractor != NULL;
  Value input = on_features ? model_features(job->graph) : 0;
  bench->sample_size = (size_t)shape_count(graph_shape(job->graph, input));
  bench->run_count = 0;
  if (!on_features) bench->runs[bench->run_count++].data = "synthetic";
  if (options->config_path) bench->runs[bench->run_count++].data = "real";
  for (int r = 0; r < bench->run_count; r++)
    for (int part = 0; part < BENCH_PART_COUNT; part++)
      TRY(memory_alloc(&bench->runs[r].seconds[part], (size_t)options->steps, sizeof(double)));
  return on_features ? STATUS_OK : fill_synthetic(bench);
}

Status bench__open(Bench *bench) {
  PlacementDesc placement = {.device = bench->options->common.device, .world = bench->world};
  if (bench->options->config_path) {
    TRY(load_config(bench));
    placement.device = bench->config.run.device;
    placement.share_gpu = bench->config.run.share_gpu;
  }
  TRY(placement_find(&bench->placement, &placement));
  TRY(binding_find(&bench->binding, bench->world, bench->placement.identity.bus));
  TRY(world_agree_status(bench->world, binding_apply(&bench->binding)));
  TRY(bench->options->config_path ? open_config(bench) : open_model(bench));
  if (bench->options->operations && !workers_executor(bench->job.workers))
    return status_set(STATUS_USAGE,
                      "bench: --operations: reproducible workers run side by side on this device, so "
                      "that no operation has it alone; add --set train.reproducible=no");
  TRY(job_allocate(&bench->job));
  TRY(train_step_create(&bench->step, &bench->job));
  // Steps alone, without the checkpoints of a run and the images of its evaluations.
  JobMemory memory = bench->job.memory;
  memory.host[JOB_MEMORY_SAVING] = memory.host[JOB_MEMORY_IMAGES] = 0;
  bench->planned_bytes = job_memory_total(memory.host);
  bench->device_planned_bytes = job_memory_total(memory.device);
  TRY(world_agree_status(bench->world, allocate_batches(bench)));
  bench->planned_bytes += (size_t)bench->synthetic.count * bench->sample_size;
  return STATUS_OK;
}

void bench__close(Bench *bench) {
  train_step_free(bench->step);
  backend_host_free(bench->job.backend, bench->job.device, bench->synthetic.pixels);
  job_close(&bench->job);
  config_deinit(&bench->config);
  memory_free(bench->operations.rows);
  memory_free(bench->synthetic.labels);
  for (int r = 0; r < BENCH_RUN_COUNT_MAX; r++)
    for (int part = 0; part < BENCH_PART_COUNT; part++) memory_free(bench->runs[r].seconds[part]);
}
