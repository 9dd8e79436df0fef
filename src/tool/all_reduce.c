// `imgcls all-reduce`: how fast the ranks sum, over sizes, by the transport that training would
// use. Run by main_tool.c under mpirun or srun.
//
// Bandwidths are those of nccl-tests: the algorithm's is size / time, the bus' is 2 (n - 1) / n
// times that, what each of n ranks must send and receive, whatever the algorithm. Every size is
// first summed with known results.
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/memory.h"
#include "dist/binding.h"
#include "dist/reduce_tree.h"
#include "tool/arguments.h"
#include "tool/tool.h"
#include "train/placement.h"

enum { ROUNDS = 5, SIZES_MAX = 64, CYCLE = 97, LIMIT_S = 300 };

static const int64_t most_bytes = (int64_t)1 << 34;

typedef struct Options {
  CommonOptions common;
  int64_t least, most; // bytes
  int64_t steps;       // sums of a round
  bool reproducible;
} Options;

typedef struct Size {
  int64_t bytes;
  double seconds; // of one sum: the median of the rounds, of the slowest rank
} Size;

typedef struct Benchmark {
  const Options *options;
  World *world;
  Placement placement;
  Binding binding;
  const Backend *backend;
  Device *device;
  Comm *comm;
  float *data; // of the device
  float *host;
  Size sizes[SIZES_MAX];
  int size_count;
} Benchmark;

// --- command line ---

static const struct argp_option argp_options[] = {
    {"min-bytes", 'b', "N", 0, "The smallest sum (4096)", 0},
    {"max-bytes", 'e', "N", 0, "The largest; sizes double up to it (67108864)", 0},
    {"steps", 's', "N", 0, "Sums of a size, in each of 5 rounds (20)", 0},
    {"reproducible", 'r', NULL, 0, "The sum of [train] reproducible = yes, a worker a rank", 0},
    {0},
};

static error_t parse_option(int key, char *text, struct argp_state *state) {
  ArgumentsParse *parse = state->input;
  Options *o = parse->options;
  switch (key) {
  case 'b':
    parse->status = arguments_parse_count(&o->least, "--min-bytes", text, 4, most_bytes);
    break;
  case 'e':
    parse->status = arguments_parse_count(&o->most, "--max-bytes", text, 4, most_bytes);
    break;
  case 's':
    parse->status = arguments_parse_count(&o->steps, "--steps", text, 1, 1000000);
    break;
  case 'r':
    o->reproducible = true;
    break;
  default:
    return ARGP_ERR_UNKNOWN;
  }
  return arguments_result(parse);
}

static const ArgumentsDesc arguments = {
    .name = "all-reduce",
    .takes_threads = true,
    .takes_device = true,
    .takes_json = true,
    .argp.options = argp_options,
    .argp.parser = parse_option,
    .argp.doc =
        "Times sums over the ranks by the transport that training would use: time, and the "
        "bandwidths of nccl-tests.\vTo be started by mpirun or srun with two ranks or more.",
};

// --- one size ---

static int64_t floats_of(const Size *size) {
  return size->bytes / (int64_t)sizeof(float);
}

// A single number that comes back: the device has done all that it was given.
static Status wait_for_device(Benchmark *b) {
  return b->backend->copy_to_host(b->device, b->host, b->data, sizeof *b->host);
}

static Status sum_once(Benchmark *b, ReduceTree *tree, const Size *size) {
  if (tree) {
    TRY(reduce_tree_push(tree, b->world->rank, b->data));
    return reduce_tree_finish(tree, b->data);
  }
  TRY(comm_begin_sum(b->comm, b->data, floats_of(size)));
  return comm_wait_all(b->comm);
}

// Small whole numbers, which every order adds up to the same; afterwards all are zero.
static Status check_sum(Benchmark *b, ReduceTree *tree, const Size *size) {
  int64_t count = floats_of(size);
  int ranks = b->world->size;
  Status status = STATUS_OK;
  for (int64_t i = 0; i < count; i++) b->host[i] = (float)(b->world->rank + i % CYCLE);
  TRY(b->backend->copy_to_device(b->device, b->data, b->host, (size_t)size->bytes));
  TRY(sum_once(b, tree, size));
  TRY(b->backend->copy_to_host(b->device, b->host, b->data, (size_t)size->bytes));
  for (int64_t i = 0; i < count && status == STATUS_OK; i++) {
    float want = (float)(ranks * (i % CYCLE) + (int64_t)ranks * (ranks - 1) / 2);
    if (b->host[i] != want)
      status = status_set(STATUS_OS,
                          "all-reduce of %" PRId64 " bytes: element %" PRId64
                          " is %g, not %g: the network or its drivers lose data",
                          size->bytes, i, (double)b->host[i], (double)want);
  }
  TRY(world_agree_status(b->world, status));
  return b->backend->vector_scale(b->device, b->data, b->data, 0.0f, count);
}

static int compare_doubles(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static Status time_rounds(Benchmark *b, ReduceTree *tree, Size *size) {
  double rounds[ROUNDS];
  TRY(check_sum(b, tree, size));
  for (int round = 0; round < ROUNDS; round++) {
    TRY(wait_for_device(b));
    TRY(world_barrier(b->world));
    double start_s = clock_now_s();
    for (int64_t i = 0; i < b->options->steps; i++) TRY(sum_once(b, tree, size));
    TRY(wait_for_device(b));
    rounds[round] = (clock_now_s() - start_s) / (double)b->options->steps;
  }
  TRY(world_reduce_f64(b->world, WORLD_MAX, rounds, ROUNDS));
  qsort(rounds, ROUNDS, sizeof *rounds, compare_doubles);
  size->seconds = rounds[ROUNDS / 2];
  return STATUS_OK;
}

static Status time_size(Benchmark *b, Size *size) {
  if (!b->options->reproducible) return time_rounds(b, NULL, size);
  ReduceTree *tree;
  TRY(reduce_tree_create(&tree, b->comm,
                         &(ReduceTreeDesc){.world = b->world,
                                           .backend = b->backend,
                                           .virtual_workers = b->world->size,
                                           .count = floats_of(size)}));
  Status status = time_rounds(b, tree, size);
  reduce_tree_free(tree);
  return status;
}

// --- what it says ---

static double algorithm_bandwidth(const Size *size) {
  return (double)size->bytes / size->seconds * 1e-9;
}

static double bus_bandwidth(const Size *size, int ranks) {
  return algorithm_bandwidth(size) * 2.0 * (ranks - 1) / ranks;
}

static void print_text(const Benchmark *b) {
  char device[160];
  b->backend->device_describe(b->device, device, sizeof device);
  printf("transport %s, %d ranks on %d host%s%s\n", b->comm->kind->name, b->world->size,
         b->world->host_count, b->world->host_count == 1 ? "" : "s", b->options->reproducible ? ", reproducible" : "");
  printf("device    %s: %s\n", b->backend->name, device);
  printf("%12s %12s %12s %12s\n", "bytes", "us", "alg GB/s", "bus GB/s");
  for (const Size *size = b->sizes; size < b->sizes + b->size_count; size++)
    printf("%12" PRId64 " %12.1f %12.3f %12.3f\n", size->bytes, 1e6 * size->seconds,
           algorithm_bandwidth(size), bus_bandwidth(size, b->world->size));
}

static Status print_json(const Benchmark *b) {
  char device[160];
  b->backend->device_describe(b->device, device, sizeof device);
  json_t *sizes = json_array();
  int failed = sizes == NULL;
  for (const Size *size = b->sizes; !failed && size < b->sizes + b->size_count; size++)
    failed = json_array_append_new(
        sizes, json_pack("{s:I, s:f, s:f, s:f}", "bytes", (json_int_t)size->bytes, "seconds",
                         size->seconds, "algorithm_gb_per_s", algorithm_bandwidth(size),
                         "bus_gb_per_s", bus_bandwidth(size, b->world->size)));
  json_t *all =
      json_pack("{s:s, s:s, s:s, s:i, s:i, s:b, s:I, s:o}", "program", "imgcls", "transport",
                b->comm->kind->name, "device", device, "ranks", b->world->size, "hosts", b->world->host_count,
                "reproducible", (int)b->options->reproducible, "steps",
                (json_int_t)b->options->steps, "sizes", sizes);
  char *text = all && !failed ? json_dumps(all, JSON_COMPACT) : NULL;
  json_decref(all);
  if (!text) return status_set(STATUS_OS, "all-reduce: no memory for the JSON");
  (void)puts(text);
  free(text); // jansson's own allocation
  return STATUS_OK;
}

// --- all of it ---

static Status open_device(Benchmark *b) {
  const CommonOptions *common = &b->options->common;
  TRY(placement_find(&b->placement, &(PlacementDesc){.device = common->device, .world = b->world}));
  TRY(binding_find(&b->binding, b->world, b->placement.identity.bus));
  TRY(world_agree_status(b->world, binding_apply(&b->binding)));
  b->backend = b->placement.backend;
  int threads = common->threads > 0 ? (int)common->threads : b->binding.cores;
  Status status = b->backend->device_open(
      &b->device, &(DeviceDesc){.threads = threads, .index = b->placement.index});
  return world_agree_status(b->world, status);
}

static Status measure(Benchmark *b) {
  const Options *options = b->options;
  TRY(open_device(b));
  TRY(comm_open(
      &b->comm, comm_kind_for(b->world, b->backend),
      &(CommDesc){
          .world = b->world, .backend = b->backend, .device = b->device, .timeout_s = LIMIT_S}));
  TRY(world_agree_status(b->world, memory_alloc_aligned(&b->host, (size_t)options->most)));
  TRY(comm_memory_alloc(b->comm, &b->data, options->most / (int64_t)sizeof *b->data));
  for (int64_t bytes = options->least; bytes <= options->most; bytes *= 2) {
    Size *size = &b->sizes[b->size_count++];
    size->bytes = bytes / (int64_t)sizeof(float) * (int64_t)sizeof(float);
    TRY(time_size(b, size));
  }
  if (b->world->rank > 0) return STATUS_OK;
  if (options->common.json) return print_json(b);
  print_text(b);
  return STATUS_OK;
}

static Status run(const Options *options, Log *log) {
  Benchmark b = {.options = options};
  TRY(world_open(&b.world, NULL, NULL));
  if (b.world->size > 1) log->rank = b.world->rank;
  Status status = b.world->size > 1
                      ? measure(&b)
                      : status_set(STATUS_USAGE, "all-reduce: one rank sums nothing: start it by "
                                                 "mpirun -np N imgcls all-reduce, or by srun");
  if (status != STATUS_OK && b.world->size > 1) world_fail(b.world, log, status);
  comm_memory_free(b.comm, b.data);
  comm_close(b.comm);
  memory_free(b.host);
  if (b.device) b.backend->device_close(b.device);
  world_close(b.world);
  return status;
}

Status tool_all_reduce(int argc, char **argv, Log *log) {
  Options options = {.least = 4096, .most = 64 << 20, .steps = 20};
  TRY(arguments_parse(&options.common, &options, &arguments, argc, argv));
  if (options.common.help) return STATUS_OK;
  if (options.least > options.most)
    return status_set(STATUS_USAGE, "--min-bytes %" PRId64 ": more than --max-bytes %" PRId64,
                      options.least, options.most);
  return run(&options, log);
}
