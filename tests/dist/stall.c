// A small job for watchdog.sh: ranks that meet in a sum step by step, and go wrong as told.
//
//   stall RUN_DIR TIMEOUT DEADLINE STEPS MODE [TRANSPORT]
//
// TRANSPORT: "mpi" on the CPU, or "nccl" on GPUs, one a rank where there are so many. MODE: none; hang (the last rank falls asleep at
// step 5); deaf (no rank answers a request to stop, all go on); save (as deaf, while a save that
// lasts 2 s is in progress, then leaves with 0); json FILE... as the first words checks that files
// are JSON and prints nothing. Each rank writes its process id to RUN_DIR/pid.RANK.
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/signals.h"
#include "dist/comm.h"
#include "dist/watchdog.h"

enum { COUNT = 1000, STEP_MS = 20, SAVE_MS = 2000 };

typedef struct Job {
  World *world;
  Log log;
  const Backend *backend;
  Device *device;
  float *sums;
  Comm *comm;
  Watchdog *watchdog;
  const char *run_dir, *mode, *transport;
  int64_t steps;
} Job;

static int fail(const char *file, const char *why) {
  (void)fprintf(stderr, "%s: %s\n", file, why);
  return 1;
}

// A flight file has what its reader needs: who, why, where, and the last events in order.
static int check_json(const char *file) {
  json_error_t error;
  json_t *root = json_load_file(file, 0, &error);
  if (root == NULL) return fail(file, error.text);
  const char *phase, *reason, *host;
  int rank, step;
  double idle_s;
  json_t *events, *backtrace;
  if (json_unpack_ex(root, &error, 0, "{s:i, s:s, s:s, s:i, s:s, s:F, s:o, s:o}", "rank", &rank,
                     "host", &host, "reason", &reason, "step", &step, "phase", &phase, "idle_s",
                     &idle_s, "events", &events, "backtrace", &backtrace) != 0)
    return fail(file, error.text);
  size_t count = json_array_size(events);
  if (count == 0 || count > 64) return fail(file, "wrong number of events");
  json_t *last = json_array_get(events, count - 1);
  if (json_integer_value(json_object_get(last, "step")) != step ||
      strcmp(json_string_value(json_object_get(last, "phase")), phase) != 0)
    return fail(file, "the last event is not the step and phase of the head");
  if (json_array_size(backtrace) < 3) return fail(file, "no backtrace");
  json_decref(root);
  return 0;
}

static Status write_pid(const Job *job) {
  char path[4096];
  (void)snprintf(path, sizeof path, "%s/pid.%d", job->run_dir, job->world->rank);
  FILE *file = fopen(path, "we");
  if (file == NULL) return status_set_errno(STATUS_CANT_CREATE, "%s", path);
  (void)fprintf(file, "%ld\n", (long)getpid());
  (void)fclose(file);
  return STATUS_OK;
}

// *asked, equal on all ranks: how many of them had seen a request to stop when the step began.
static Status run_step(Job *job, int64_t step, float *asked) {
  float data[COUNT];
  for (int i = 0; i < COUNT; i++) data[i] = (float)(job->world->rank + i % 7);
  data[COUNT - 1] = signals_stop_count() > 0;
  watchdog_progress(job->watchdog, step, "forward");
  clock_sleep_ms(STEP_MS);
  if (strcmp(job->mode, "hang") == 0 && step == 5 && job->world->rank == job->world->size - 1)
    for (;;) clock_sleep_ms(1000);
  watchdog_progress(job->watchdog, step, "sum");
  TRY(job->backend->copy_to_device(job->device, job->sums, data, sizeof data));
  TRY(comm_begin_sum(job->comm, job->sums, COUNT));
  TRY(comm_wait_all(job->comm));
  TRY(job->backend->copy_to_host(job->device, data, job->sums, sizeof data));
  float ranks = (float)job->world->size;
  if (data[0] != ranks * (ranks - 1) / 2)
    return status_set(STATUS_INTERNAL, "step %lld: wrong sum %g", (long long)step, (double)data[0]);
  *asked = data[COUNT - 1];
  return STATUS_OK;
}

static Status run_steps(Job *job) {
  for (int64_t step = 0; step < job->steps; step++) {
    float asked; // the signal reaches one rank before and another after the same step
    TRY(run_step(job, step, &asked));
    if (asked == 0 || strcmp(job->mode, "save") != 0) continue;
    watchdog_save_begin(job->watchdog);
    clock_sleep_ms(SAVE_MS);
    watchdog_progress(job->watchdog, step, "saved");
    return STATUS_OK; // the save is not ended: no deadline may strike until we are out
  }
  return STATUS_OK;
}

static Status open_comm(Job *job, double timeout_s) {
  log_init(&job->log, "stall");
  job->log.rank = job->world->rank;
  job->log.level = LOG_VERBOSE;
  job->backend = backend_find(strcmp(job->transport, "nccl") == 0 ? "cuda" : "cpu");
  if (!job->backend) return status_set(STATUS_CONFIG, "no backend for %s", job->transport);
  DeviceCount devices;
  TRY(job->backend->device_count(&devices));
  if (devices.count == 0) return status_set(STATUS_CONFIG, "%s", devices.why_none);
  DeviceDesc device = {.threads = 1, .index = job->world->local_rank % devices.count};
  TRY(job->backend->device_open(&job->device, &device));
  TRY(comm_open(&job->comm, job->transport,
                &(CommDesc){.world = job->world,
                            .backend = job->backend,
                            .device = job->device,
                            .watchdog = job->watchdog,
                            .log = &job->log,
                            .timeout_s = timeout_s}));
  return comm_memory_alloc(job->comm, &job->sums, COUNT);
}

static void close_comm(Job *job) {
  comm_memory_free(job->comm, job->sums);
  comm_close(job->comm);
  if (job->device) job->backend->device_close(job->device);
}

int main(int argc, char **argv) {
  if (argc > 2 && strcmp(argv[1], "json") == 0) {
    int failed = 0;
    for (int i = 2; i < argc; i++) failed += check_json(argv[i]);
    return failed != 0;
  }
  if (argc < 6) return STATUS_USAGE;
  Job job = {.run_dir = argv[1],
             .mode = argv[5],
             .steps = atoll(argv[4]),
             .transport = argc > 6 ? argv[6] : "mpi"};
  WatchdogDesc desc = {.program = "stall",
                       .run_dir = job.run_dir,
                       .timeout_s = atof(argv[2]),
                       .stop_deadline_s = atof(argv[3])};
  Status status = STATUS_OK;
  GUARD(signals_install());
  GUARD(world_open(&job.world, &argc, &argv));
  desc.rank = job.world->rank;
  desc.host = job.world->host;
  GUARD(watchdog_start(&job.watchdog, &desc));
  GUARD(open_comm(&job, desc.timeout_s));
  GUARD(write_pid(&job));
  GUARD(run_steps(&job));
out:
  if (status != STATUS_OK) (void)fprintf(stderr, "%s\n", status_message());
  close_comm(&job);
  watchdog_stop(job.watchdog);
  if (status != STATUS_OK) world_abort(job.world, (int)status);
  world_close(job.world);
  return 0;
}
