// `imgcls bench`: times whole training steps, on random images and on those of a configuration. Run
// by main_tool.c, alone or under mpirun.
//
// A step is what training does with a batch: wait for it, upload, forward, loss, backward, sum over
// the ranks, update. Steps of the warm-up are run and left out of the figures.
#include "tool/bench.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/memory.h"
#include "base/process.h"
#include "tool/arguments.h"
#include "tool/tool.h"

enum { MAX_BATCH = 1 << 20, MAX_IMAGE_SIZE = 4096, MAX_STEPS = 1000000 };
enum { MAX_CLASSES = 1000000, MAX_RATE = 1000000000 };

// --- command line ---

static const struct argp_option argp_options[] = {
    {NULL, 0, NULL, 0, "Of a MODEL:", 1},
    {"batch", 'b', "N", 0, "Images of a step, over all ranks (32)", 0},
    {"image-size", 'i', "N", 0, "Pixels a side instead of the backbone's own", 0},
    {"precision", 'p', "fp32|bf16|fp16", 0, "Type of activations (fp32)", 0},
    {"recompute", 'R', NULL, 0, "As [train] recompute = yes", 0},
    {"classes", 'c', "N", 0, "Classes of the layer at the end (1000)", 0},
    {NULL, 0, NULL, 0, "Of a configuration:", 2},
    {"set", 'S', "SECTION.KEY=VALUE", 0, "Instead of what CONFIG.ini says", 0},
    {NULL, 0, NULL, 0, "Of both:", 3},
    {"steps", 's', "N", 0, "Steps that count (20)", 0},
    {"warmup", 'w', "N", 0, "Steps before them (3)", 0},
    {"operations", 'o', NULL, 0,
     "Also time each operation, beside the floor that its bytes and multiplications set", 0},
    {"min-images-per-second", 'm', "N", 0, "Fail with exit code 1 where they are fewer", 0},
    {0},
};

static Status parse_precision(DType *out, const char *text) {
  static const DType types[] = {DTYPE_F32, DTYPE_BF16, DTYPE_F16};
  for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
    if (strcmp(text, dtype_name(types[i])) == 0) {
      *out = types[i];
      return STATUS_OK;
    }
  return status_set(STATUS_USAGE, "--precision '%s': use fp32, bf16 or fp16", text);
}

// A backbone's name, or a file that ends in .ini.
static Status parse_subject(BenchOptions *options, const char *text) {
  if (options->model || options->config_path)
    return status_set(STATUS_USAGE, "bench: '%s': one MODEL or CONFIG.ini at a time", text);
  size_t length = strlen(text);
  bool is_config = length > 4 && strcmp(text + length - 4, ".ini") == 0;
  if (is_config)
    options->config_path = text;
  else
    options->model = text;
  return STATUS_OK;
}

static Status parse_setting(BenchOptions *options, const char *text) {
  TRY(memory_reserve(&options->settings, &options->setting_capacity, options->setting_count + 1,
                     sizeof *options->settings));
  options->settings[options->setting_count++] = text;
  return STATUS_OK;
}

static Status parse_model_option(BenchOptions *o, int key, const char *text) {
  o->names_model_option = true;
  switch (key) {
  case 'b':
    return arguments_parse_count(&o->batch, "--batch", text, 1, MAX_BATCH);
  case 'i':
    return arguments_parse_count(&o->image_size, "--image-size", text, 1, MAX_IMAGE_SIZE);
  case 'R':
    o->recompute = true;
    return STATUS_OK;
  case 'c':
    return arguments_parse_count(&o->classes, "--classes", text, 2, MAX_CLASSES);
  default:
    return parse_precision(&o->dtype, text);
  }
}

static error_t parse_option(int key, char *text, struct argp_state *state) {
  ArgumentsParse *parse = state->input;
  BenchOptions *o = parse->options;
  switch (key) {
  case 'b':
  case 'i':
  case 'c':
  case 'p':
  case 'R':
    parse->status = parse_model_option(o, key, text);
    break;
  case 'S':
    parse->status = parse_setting(o, text);
    break;
  case 's':
    parse->status = arguments_parse_count(&o->steps, "--steps", text, 1, MAX_STEPS);
    break;
  case 'w':
    parse->status = arguments_parse_count(&o->warmup, "--warmup", text, 0, MAX_STEPS);
    break;
  case 'm':
    parse->status =
        arguments_parse_count(&o->least_rate, "--min-images-per-second", text, 1, MAX_RATE);
    break;
  case 'o':
    o->operations = true;
    break;
  case ARGP_KEY_ARG:
    parse->status = parse_subject(o, text);
    break;
  default:
    return ARGP_ERR_UNKNOWN;
  }
  return arguments_result(parse);
}

static Status check_options(const BenchOptions *options) {
  if (!options->model && !options->config_path)
    return status_set(STATUS_USAGE,
                      "bench: which MODEL or CONFIG.ini? `imgcls models` lists the backbones");
  if (options->model && options->setting_count > 0)
    return status_set(STATUS_USAGE, "bench: --set %s: goes with a CONFIG.ini, not with a MODEL",
                      options->settings[0]);
  bool names_common = options->common.threads > 0 || options->common.device != CONFIG_DEVICE_AUTO;
  if (options->config_path && (options->names_model_option || names_common))
    return status_set(STATUS_USAGE,
                      "bench: %s says what --batch, --image-size, --threads, --device, --precision, "
                      "--recompute and --classes would; change it by --set train.batch=N and the like",
                      options->config_path);
  return STATUS_OK;
}

static const ArgumentsDesc arguments = {
    .name = "bench",
    .takes_threads = true,
    .takes_device = true,
    .takes_json = true,
    .argp.options = argp_options,
    .argp.parser = parse_option,
    .argp.args_doc = "MODEL|CONFIG.ini",
    .argp.doc =
        "Times training steps: waiting for data, upload, forward, loss, backward, sum over the "
        "ranks, update. Of a MODEL on random images; of a configuration on random images and on "
        "its own, read and augmented as in training.\v"
        "`imgcls models` lists the backbones. Under mpirun the ranks share the batch, and "
        "--threads are those of each; the times "
        "are then means over the ranks.",
};

// --- steps ---

bool bench__goes_on_by_itself(const Bench *bench) {
  return bench->job.backend->transfer != NULL;
}

int64_t bench__part_steps(const Bench *bench, int part) {
  int64_t steps = bench->options->steps;
  bool is_within = part >= BENCH_FORWARD && part <= BENCH_UPDATE;
  return is_within && bench__goes_on_by_itself(bench) && steps > BENCH_PART_STEPS ? BENCH_PART_STEPS : steps;
}

Status bench__step(Bench *bench, Source *source, bool in_parts,
                   double seconds[BENCH_PART_COUNT]) {
  const Batch *batch = &bench->synthetic;
  TrainStepTimes times = {0};
  double start_s = clock_now_s();
  if (source) TRY(source_next(source, &batch));
  seconds[BENCH_DATA] = clock_now_s() - start_s;
  TRY(train_step_run(bench->step, batch, bench->learning_rate, in_parts ? &times : NULL));
  seconds[BENCH_FORWARD] = times.forward_s;
  seconds[BENCH_BACKWARD] = times.backward_s;
  seconds[BENCH_ALL_REDUCE] = times.sum_s;
  seconds[BENCH_UPDATE] = times.update_s;
  if (source) source_release(source, batch);
  return STATUS_OK;
}

// The mean loss of rank 0's samples in the first and the last step of those under way.
static Status read_losses(Bench *bench, BenchRun *run) {
  const TrainStepResult *results;
  int count;
  TRY(train_step_read(bench->step, &results, &count));
  for (int i = 0; i < count; i++) {
    double sum = 0.0;
    for (int64_t k = 0; k < results[i].count; k++) sum += results[i].losses[k];
    run->last_loss = results[i].count > 0 ? sum / (double)results[i].count : 0.0;
    if (results[i].step == 0) run->first_loss = run->last_loss;
    if (!isfinite(run->last_loss))
      return status_set(STATUS_ERROR, "bench: step %" PRId64 ": the loss is not a finite number",
                        results[i].step);
  }
  return STATUS_OK;
}

// Steps of their own, part by part.
static Status time_parts(Bench *bench, BenchRun *run, Source *source) {
  int64_t steps = bench__part_steps(bench, BENCH_FORWARD);
  for (int64_t step = 0; step < steps; step++, bench->job.step++) {
    double seconds[BENCH_PART_COUNT];
    TRY(bench__step(bench, source, true, seconds));
    for (int part = BENCH_FORWARD; part <= BENCH_UPDATE; part++)
      run->seconds[part][step] = seconds[part];
  }
  return read_losses(bench, run);
}

// Over the ranks; of the processor's time, the sum.
static Status find_means(Bench *bench, BenchRun *run) {
  for (int part = 0; part < BENCH_PART_COUNT; part++) {
    int64_t steps = bench__part_steps(bench, part);
    TRY(world_reduce_f64(bench->world, WORLD_SUM, run->seconds[part], (int)steps));
    for (int64_t i = 0; part != BENCH_PROCESSOR && i < steps; i++)
      run->seconds[part][i] /= bench->world->size;
  }
  return STATUS_OK;
}

// Where a device goes on by itself, a step takes as long as it holds up the next, and now and then
// as long as it takes the device to be done: only together are they what the device needs.
static Status time_steps(Bench *bench, BenchRun *run, Source *source) {
  const BenchOptions *options = bench->options;
  TRY(world_barrier(bench->world));
  Job *job = &bench->job;
  int64_t end = options->warmup + options->steps;
  for (job->step = 0; job->step < end; job->step++) {
    double seconds[BENCH_PART_COUNT];
    int64_t counted = job->step - options->warmup;
    if (counted == 0) TRY(job->backend->wait(job->device));
    clock_t start = clock();
    double start_s = clock_now_s();
    TRY(bench__step(bench, source, !bench__goes_on_by_itself(bench), seconds));
    if (job->step == end - 1 || (job->step + 1) % TRAIN_STEP_RECORDS == 0)
      TRY(read_losses(bench, run));
    seconds[BENCH_STEP] = clock_now_s() - start_s;
    seconds[BENCH_PROCESSOR] = (double)(clock() - start) / CLOCKS_PER_SEC;
    for (int part = 0; counted >= 0 && part < BENCH_PART_COUNT; part++)
      if (counted < bench__part_steps(bench, part)) run->seconds[part][counted] = seconds[part];
  }
  if (bench__goes_on_by_itself(bench)) TRY(time_parts(bench, run, source));
  job->step = 0; // what is timed next begins there too
  return find_means(bench, run);
}

static Status find_memory(Bench *bench) {
  size_t taken = 0;
  if (job_has_device_memory(&bench->job)) TRY(job_device_memory_taken(&taken, &bench->job));
  int64_t bytes[4] = {(int64_t)process_memory_peak(), (int64_t)bench->planned_bytes, (int64_t)taken,
                      (int64_t)bench->device_planned_bytes};
  TRY(world_reduce_i64(bench->world, WORLD_MAX, bytes, 4));
  bench->peak_bytes = (size_t)bytes[0];
  bench->planned_bytes = (size_t)bytes[1];
  bench->device_taken_bytes = (size_t)bytes[2];
  bench->device_planned_bytes = (size_t)bytes[3];
  return STATUS_OK;
}

static Status time_real_steps(Bench *bench, BenchRun *run) {
  Job *job = &bench->job;
  TRY(job_cache_features(job));
  TRY(job_load_resident(job));
  LoaderDesc loader = job_describe_training(job);
  loader.end_step = -1;
  bench->planned_bytes +=
      job->resident ? resident_host_bytes(&loader, bench->world) : loader_memory_bytes(&loader);
  TRY(job_open_training(job, &loader));
  return time_steps(bench, run, &job->source);
}

static Status measure(Bench *bench) {
  for (int r = 0; r < bench->run_count; r++) {
    BenchRun *run = &bench->runs[r];
    bool is_real = strcmp(run->data, "real") == 0;
    TRY(is_real ? time_real_steps(bench, run) : time_steps(bench, run, NULL));
  }
  TRY(find_memory(bench));
  if (!bench->options->operations) return STATUS_OK;
  bool is_real = bench->options->config_path != NULL;
  return bench__time_operations(bench, is_real ? &bench->job.source : NULL);
}

static Status run_bench(const BenchOptions *options, Log *log) {
  Bench *bench;
  World *world;
  TRY(memory_alloc(&bench, 1, sizeof *bench));
  Status status = STATUS_OK;
  GUARD(world_open(&world, NULL, NULL));
  bench->options = options;
  bench->world = world;
  bench->log = log;
  if (world->size > 1) log->rank = world->rank;
  status = bench__open(bench);
  if (status == STATUS_OK) status = measure(bench);
  if (status == STATUS_OK && world->rank == 0) status = bench__print(bench);
  if (status == STATUS_OK) status = bench__check_rate(bench);
  if (status != STATUS_OK && world->size > 1) world_fail(world, log, status);
  bench__close(bench);
  world_close(world);
out:
  memory_free(bench);
  return status;
}

Status tool_bench(int argc, char **argv, Log *log) {
  BenchOptions options = {
      .batch = 32, .steps = 20, .warmup = 3, .classes = 1000, .dtype = DTYPE_F32};
  Status status = arguments_parse(&options.common, &options, &arguments, argc, argv);
  if (status == STATUS_OK && !options.common.help) {
    status = check_options(&options);
    if (status == STATUS_OK) status = run_bench(&options, log);
  }
  memory_free(options.settings);
  return status;
}
