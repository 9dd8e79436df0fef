// What `imgcls bench` says: medians and spread of the parts of a step, as text or JSON with what
// is needed to tell where and with what they were measured. See bench.h.
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "config/version.h"
#include "tool/bench.h"

static const double mib = 1024.0 * 1024.0;
static const char *const part_names[BENCH_PART_COUNT] = {[BENCH_STEP] = "step",
                                                         [BENCH_DATA] = "data",
                                                         [BENCH_FORWARD] = "forward",
                                                         [BENCH_BACKWARD] = "backward",
                                                         [BENCH_ALL_REDUCE] = "all-reduce",
                                                         [BENCH_UPDATE] = "update",
                                                         [BENCH_PROCESSOR] = "processor"};

static int compare_doubles(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

// Between neighbours linearly, as numpy.percentile.
static double quantile(const double *sorted, int64_t count, double q) {
  double place = q * (double)(count - 1);
  int64_t below = (int64_t)place;
  int64_t above = below + 1 < count ? below + 1 : below;
  return sorted[below] + (place - (double)below) * (sorted[above] - sorted[below]);
}

Summary bench__summarize(double *seconds, int64_t count) {
  double sum = 0.0, squares = 0.0;
  qsort(seconds, (size_t)count, sizeof *seconds, compare_doubles);
  for (int64_t i = 0; i < count; i++) sum += seconds[i];
  double mean = sum / (double)count;
  for (int64_t i = 0; i < count; i++) squares += (seconds[i] - mean) * (seconds[i] - mean);
  return (Summary){.median = quantile(seconds, count, 0.5),
                   .p5 = quantile(seconds, count, 0.05),
                   .p95 = quantile(seconds, count, 0.95),
                   .mean = mean,
                   .deviation = count > 1 ? sqrt(squares / (double)(count - 1)) : 0.0};
}

static void summarize_run(Summary parts[BENCH_PART_COUNT], const Bench *bench,
                          const BenchRun *run) {
  for (int part = 0; part < BENCH_PART_COUNT; part++)
    parts[part] = bench__summarize(run->seconds[part], bench__part_steps(bench, part));
}

// The median, which other programs disturb least, where each step takes its own time.
static double typical(const Bench *bench, const Summary *part) {
  return bench__goes_on_by_itself(bench) ? part->mean : part->median;
}

static double images_per_second(const Bench *bench, const Summary *step) {
  return (double)bench->largest_batch / typical(bench, step);
}

static double share(const Bench *bench, const Summary parts[BENCH_PART_COUNT], int part) {
  return typical(bench, &parts[part]) / typical(bench, &parts[BENCH_STEP]);
}

static const char *model_name(const Bench *bench) {
  return bench->options->model ? bench->options->model : bench->config.model.backbone;
}

static int64_t class_count(const Bench *bench) {
  return shape_count(graph_shape(bench->job.graph, bench->job.graph->output));
}

// --- text ---

static void print_run(const Bench *bench, const BenchRun *run) {
  Summary parts[BENCH_PART_COUNT];
  summarize_run(parts, bench, run);
  double rate = images_per_second(bench, &parts[BENCH_STEP]);
  printf("%s data: %.2f img/s", run->data, rate);
  if (bench->world->size > 1) printf(", %.2f a rank", rate / bench->world->size);
  if (run->data[0] == 'r')
    printf(", %.1f %% of the step waiting for it", 100.0 * share(bench, parts, BENCH_DATA));
  printf("; loss %.4f at the first step, %.4f at the last\n", run->first_loss, run->last_loss);
  printf("%-10s %10s %10s %10s %10s %10s %8s\n", "", "median ms", "p5 ms", "p95 ms", "mean ms",
         "sd ms", "share");
  for (int part = 0; part < BENCH_PART_COUNT; part++) {
    printf("%-10s %10.2f %10.2f %10.2f %10.2f %10.2f %7.1f%%\n", part_names[part],
           1e3 * parts[part].median, 1e3 * parts[part].p5, 1e3 * parts[part].p95,
           1e3 * parts[part].mean, 1e3 * parts[part].deviation, 100.0 * share(bench, parts, part));
  }
}

static void print_operation(const BenchOperation *row, const char *pass, double whole_s) {
  printf("%-56s %-8s %6.0f %9.3f %9.3f %8.2f %7.1f%%\n", row->text, pass, row->uses,
         1e3 * row->seconds, 1e3 * row->floor_s,
         row->floor_s > 0 ? row->seconds / row->floor_s : 0.0, 100.0 * row->seconds / whole_s);
}

static BenchOperation sum_operations(const BenchOperations *operations, int first,
                                     const char *name) {
  BenchOperation sum = {0};
  (void)snprintf(sum.text, sizeof sum.text, "%s", name);
  for (int i = first; i < operations->count; i++) {
    sum.uses += operations->rows[i].uses;
    sum.seconds += operations->rows[i].seconds;
    sum.floor_s += operations->rows[i].floor_s;
  }
  return sum;
}

// Those that take longest, and all together.
static void print_operations(const BenchOperations *operations) {
  enum { SHOWN = 20 };
  BenchOperation all = sum_operations(operations, 0, "all");
  BenchOperation others = sum_operations(operations, SHOWN, "others");
  printf("operations of %" PRId64 " more steps. The floor is the time for their bytes at %.1f GB/s, or "
         "that for their multiplications at %.3f T/s if it is longer\n",
         operations->steps, operations->speeds.bytes_s * 1e-9,
         operations->speeds.multiplications_s * 1e-12);
  printf("%-56s %-8s %6s %9s %9s %8s %8s\n", "", "pass", "uses", "ms", "floor ms", "x floor",
         "share");
  for (int i = 0; i < operations->count && i < SHOWN; i++)
    print_operation(&operations->rows[i], step_pass_name(operations->rows[i].pass), all.seconds);
  if (operations->count > SHOWN) print_operation(&others, "", all.seconds);
  print_operation(&all, "", all.seconds);
}

static void print_text(const Bench *bench) {
  const BenchOptions *options = bench->options;
  const Job *job = &bench->job;
  const Shape image = graph_shape(job->graph, 0);
  char device[160];
  job->backend->device_describe(job->device, device, sizeof device);
  printf("model     %s at %" PRId64 " x %" PRId64 ", %s, %" PRId64 " classes, %.2f GMAC an image\n",
         model_name(bench), image.dim[0], image.dim[1], dtype_name(job->dtype), class_count(bench),
         graph_mac_total(job->graph) * 1e-9);
  printf("device    %s: %s; %d rank%s, %d virtual worker%s%s\n", job->backend->name, device,
         bench->world->size, bench->world->size == 1 ? "" : "s", job->virtual_workers,
         job->virtual_workers == 1 ? "" : "s",
         bench->config.train.reproducible ? ", reproducible" : "");
  printf("steps     %" PRId64 " of %" PRId64 " images after %" PRId64 " of warm-up\n",
         options->steps, bench->largest_batch, options->warmup);
  if (job->backend->record_begin) printf("launches  %s\n", train_step_describe(bench->step));
  if (bench__goes_on_by_itself(bench))
    printf("parts     forward to update: of %" PRId64 " more steps, each part waited for\n",
           bench__part_steps(bench, BENCH_FORWARD));
  bool has_own = job_has_device_memory(job);
  if (has_own)
    printf("memory    GPU: %.0f MiB taken, %.0f MiB planned, a rank\n",
           (double)bench->device_taken_bytes / mib, (double)bench->device_planned_bytes / mib);
  printf("memory    %s%.0f MiB at the peak, %.0f MiB planned, a rank\n", has_own ? "host: " : "",
         (double)bench->peak_bytes / mib, (double)bench->planned_bytes / mib);
  ExecutorRecompute recompute = workers_recompute(job->workers);
  if (recompute.rebuilt > 0)
    printf(
        "recompute %d results; activations and their gradients take %.0f MiB a worker instead of "
        "%.0f\n",
        recompute.rebuilt, (double)recompute.arena_bytes / mib, (double)recompute.kept_bytes / mib);
  for (int r = 0; r < bench->run_count; r++) print_run(bench, &bench->runs[r]);
  if (bench->operations.count > 0) print_operations(&bench->operations);
}

// --- JSON ---

static json_t *pack_run(const Bench *bench, const BenchRun *run) {
  Summary parts[BENCH_PART_COUNT];
  summarize_run(parts, bench, run);
  json_t *times = json_object();
  for (int part = 0; part < BENCH_PART_COUNT; part++)
    if (json_object_set_new(
            times, part_names[part],
            json_pack("{s:f, s:f, s:f, s:f, s:f}", "median_ms", 1e3 * parts[part].median, "p5_ms",
                      1e3 * parts[part].p5, "p95_ms", 1e3 * parts[part].p95, "mean_ms",
                      1e3 * parts[part].mean, "sd_ms", 1e3 * parts[part].deviation)) != 0) {
      json_decref(times);
      return NULL;
    }
  return json_pack("{s:s, s:f, s:f, s:o, s:f, s:f}", "data", run->data, "images_per_second",
                   images_per_second(bench, &parts[BENCH_STEP]), "wait_share",
                   share(bench, parts, BENCH_DATA), "times", times, "first_loss", run->first_loss,
                   "last_loss", run->last_loss);
}

static json_t *pack_operations(const BenchOperations *operations) {
  json_t *rows = json_array();
  int failed = rows == NULL;
  for (int i = 0; !failed && i < operations->count; i++) {
    const BenchOperation *row = &operations->rows[i];
    failed = json_array_append_new(
        rows, json_pack("{s:s, s:s, s:f, s:f, s:f, s:f, s:f}", "operation", row->text, "pass",
                        step_pass_name(row->pass), "uses", row->uses, "ms", 1e3 * row->seconds,
                        "floor_ms", 1e3 * row->floor_s, "bytes", row->cost.bytes,
                        "multiplications", row->cost.multiplications));
  }
  if (failed) {
    json_decref(rows);
    return NULL;
  }
  return json_pack("{s:I, s:f, s:f, s:o}", "steps", (json_int_t)operations->steps,
                   "bytes_per_second", operations->speeds.bytes_s, "multiplications_per_second",
                   operations->speeds.multiplications_s, "rows", rows);
}

// The variables that change how steps are computed, or how fast. Others of Slurm and Open MPI hold
// tokens and keys.
static json_t *pack_environment(void) {
  static const char *const prefixes[] = {
      "IMGCLS_", "OMP_",       "GOMP_",        "DNNL_",        "OMPI_MCA_btl", "OMPI_MCA_pml",
      "NCCL_",   "CUDA_",      "CUBLAS",       "CUDNN_",       "OMPI_MCA_mpi", "OMPI_MCA_coll",
      "UCX_",    "SLURM_CPUS", "SLURM_NTASKS", "SLURM_NNODES", "SLURM_TASKS"};
  json_t *all = json_object();
  for (char **entry = environ; *entry; entry++)
    for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++) {
      const char *value = strchr(*entry, '=');
      if (!value || strncmp(*entry, prefixes[i], strlen(prefixes[i])) != 0) continue;
      // A name or a value that is not UTF-8 is left out.
      char name[128];
      (void)snprintf(name, sizeof name, "%.*s", (int)(value - *entry), *entry);
      (void)json_object_set_new(all, name, json_string(value + 1));
    }
  return all;
}

// Where, when and with what.
static json_t *pack_place(const Bench *bench) {
  static char devices[1 << 16];
  char started[32], hash[CONFIG_HASH_CAPACITY];
  clock_format_utc(started, sizeof started);
  if (config_hash(&bench->config, hash) != STATUS_OK ||
      bench->job.backend->describe_host(devices, sizeof devices) != STATUS_OK)
    return NULL;
  return json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:o}", "version", version_number(),
                   "commit", version_commit(), "compiler", version_compiler(), "libraries",
                   version_libraries(), "host", bench->world->host, "host_devices", devices, "time",
                   started, "config_hash", hash, "environment", pack_environment());
}

static Status print_json(const Bench *bench) {
  const BenchOptions *options = bench->options;
  const Job *job = &bench->job;
  char device[160];
  job->backend->device_describe(job->device, device, sizeof device);
  json_t *runs = json_array();
  int failed = runs == NULL;
  for (int r = 0; !failed && r < bench->run_count; r++)
    failed = json_array_append_new(runs, pack_run(bench, &bench->runs[r]));
  json_t *all = json_pack(
      "{s:s, s:s, s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:i, s:i, s:b, s:b, s:I, s:I, s:I, s:I, s:I, "
      "s:I, "
      "s:o}",
      "program", "imgcls", "model", model_name(bench), "device", device, "launches",
      train_step_describe(bench->step), "precision", dtype_name(job->dtype), "batch",
      (json_int_t)bench->largest_batch, "image_size", (json_int_t)graph_shape(job->graph, 0).dim[0],
      "classes", (json_int_t)class_count(bench), "threads", (json_int_t)job->threads, "ranks",
      bench->world->size, "virtual_workers", job->virtual_workers, "reproducible",
      (int)bench->config.train.reproducible, "recompute",
      workers_recompute(job->workers).rebuilt > 0, "steps", (json_int_t)options->steps, "warmup",
      (json_int_t)options->warmup, "peak_bytes", (json_int_t)bench->peak_bytes, "planned_bytes",
      (json_int_t)bench->planned_bytes, "device_taken_bytes", (json_int_t)bench->device_taken_bytes,
      "device_planned_bytes", (json_int_t)bench->device_planned_bytes, "runs", runs);
  json_t *place = pack_place(bench);
  failed = failed || !all || !place || json_object_update(all, place) != 0;
  if (!failed && bench->operations.count > 0)
    failed = json_object_set_new(all, "operations", pack_operations(&bench->operations));
  char *text = failed ? NULL : json_dumps(all, JSON_COMPACT);
  json_decref(place);
  json_decref(all);
  if (!text) return status_set(STATUS_OS, "bench: no memory for the JSON");
  (void)puts(text);
  free(text); // jansson's own allocation
  return STATUS_OK;
}

Status bench__print(Bench *bench) {
  if (bench->options->common.json) return print_json(bench);
  print_text(bench);
  return STATUS_OK;
}

Status bench__check_rate(const Bench *bench) {
  double least = (double)bench->options->least_rate;
  for (int r = 0; r < bench->run_count; r++) {
    const BenchRun *run = &bench->runs[r];
    Summary step = bench__summarize(run->seconds[BENCH_STEP], bench->options->steps);
    double rate = images_per_second(bench, &step);
    if (rate < least)
      return status_set(STATUS_ERROR,
                        "bench: %s data: %.2f images a second are fewer than the %.0f of "
                        "--min-images-per-second",
                        run->data, rate, least);
  }
  return STATUS_OK;
}
