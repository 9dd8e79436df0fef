// imgcls-train --check. See check.h.
#include "tool/check.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/memory.h"
#include "config/version.h"
#include "dist/binding.h"
#include "dist/comm.h"
#include "train/gradsync.h"
#include "train/placement.h"

// What each rank says about itself.
typedef struct RankReport {
  char host[64];
  int process;
  char device[192];
  char binding[384];
} RankReport;

typedef struct Check {
  World *world;
  Placement placement;
  Binding binding;
  Device *device;
} Check;

// --- what there is --------------------------------------------------------------------------------

// What sums over several ranks would be made by, on devices that have a library for it.
static void print_transport(const Backend *backend) {
  char text[64];
  Status status = comm_describe(text, sizeof text, backend);
  if (status != STATUS_OK)
    (void)printf("sums over ranks: %s\n", status_message());
  else if (text[0])
    (void)printf("sums over ranks: %s\n", text);
}

static void print_hosts(const Check *check) {
  static char text[1 << 16];
  for (const Backend *const *backend = backend_list(); *backend; backend++) {
    DeviceCount devices;
    Status status = (*backend)->device_count(&devices);
    if (status == STATUS_OK && devices.count == 0)
      (void)printf("backend %s: %s\n", (*backend)->name, devices.why_none);
    else if (status == STATUS_OK)
      (void)printf("backend %s: %d device%s%s\n", (*backend)->name, devices.count,
                   devices.count == 1 ? "" : "s",
                   *backend == check->placement.backend ? ", taken" : "");
    if (status == STATUS_OK) status = (*backend)->describe_host(text, sizeof text);
    if (status == STATUS_OK) (void)fputs(text, stdout);
    else (void)printf("backend %s: %s\n", (*backend)->name, status_message());
    if (status == STATUS_OK && devices.count > 0) print_transport(*backend);
  }
}

static void print_ranks(const World *world, const RankReport *reports) {
  char mpi[WORLD_LIBRARY_CAPACITY];
  (void)printf("ranks: %d on %d host%s, by %s\n", world->size, world->host_count,
               world->host_count == 1 ? "" : "s", world_library(mpi));
  for (int r = 0; r < world->size; r++)
    (void)printf("rank %3d  %-16s pid %-8d %s; %s\n", r, reports[r].host, reports[r].process,
                 reports[r].device, reports[r].binding);
}

static Status report(const Check *check) {
  World *world = check->world;
  const Backend *backend = check->placement.backend;
  RankReport *reports, mine = {.process = (int)getpid()};
  char device[128];
  backend->device_describe(check->device, device, sizeof device);
  (void)snprintf(mine.host, sizeof mine.host, "%s", world->host);
  (void)snprintf(mine.device, sizeof mine.device, "%s%s%s, precision = auto means %s", device,
                 check->placement.identity.bus[0] ? " at " : "", check->placement.identity.bus,
                 backend->device_multiplies(check->device, DTYPE_BF16) ? "bf16" : "fp32");
  (void)snprintf(mine.binding, sizeof mine.binding, "%s", check->binding.text);
  TRY(world_agree_status(world, memory_alloc(&reports, (size_t)world->size, sizeof *reports)));
  Status status = world_allgather_bytes(world, reports, &mine, sizeof mine);
  if (status == STATUS_OK && world->rank == 0) {
    print_hosts(check);
    print_ranks(world, reports);
  }
  memory_free(reports);
  return status;
}

// --- an all-reduce with known sums ----------------------------------------------------------------

enum { SUM_FLOATS = 1 << 20, SUM_CYCLE = 97, SUM_SECONDS = 60 }; // small whole numbers: every order adds up to the same

static Status compare_sums(const float *sums, const World *world) {
  for (int i = 0; i < SUM_FLOATS; i++) {
    float want = (float)(world->size * (i % SUM_CYCLE) + world->size * (world->size - 1) / 2);
    if (sums[i] != want)
      return status_set(STATUS_OS,
                        "all-reduce: element %d is %g, not %g: the network or its drivers lose data",
                        i, (double)sums[i], (double)want);
  }
  return STATUS_OK;
}

static Status sum_once(double *seconds, const Check *check, Comm *comm, float *data, float *host) {
  const Backend *backend = check->placement.backend;
  size_t size = SUM_FLOATS * sizeof *host;
  for (int i = 0; i < SUM_FLOATS; i++) host[i] = (float)(check->world->rank + i % SUM_CYCLE);
  TRY(backend->copy_to_device(check->device, data, host, size));
  TRY(world_barrier(check->world));
  double start_s = clock_now_s();
  TRY(comm_begin_sum(comm, data, SUM_FLOATS));
  TRY(comm_wait_all(comm));
  TRY(backend->copy_to_host(check->device, host, data, sizeof *host)); // waits for the device
  *seconds = clock_now_s() - start_s;
  TRY(backend->copy_to_host(check->device, host, data, size));
  return world_agree_status(check->world, compare_sums(host, check->world));
}

static Status test_sum(const Check *check) {
  const Backend *backend = check->placement.backend;
  const char *transport = comm_kind_for(check->world, backend);
  Comm *comm = NULL;
  void *data = NULL;
  float *host = NULL;
  double seconds = 0.0;
  Status status = STATUS_OK;
  if (check->world->size == 1) return STATUS_OK;
  GUARD(memory_alloc(&host, SUM_FLOATS, sizeof *host));
  GUARD(backend->memory_alloc(check->device, &data, SUM_FLOATS * sizeof *host));
  GUARD(comm_open(&comm, transport, &(CommDesc){.world = check->world,
                                                .backend = backend,
                                                .device = check->device,
                                                .timeout_s = SUM_SECONDS}));
  for (int i = 0; i < 2; i++) GUARD(sum_once(&seconds, check, comm, data, host)); // one warms up
  if (check->world->rank == 0)
    (void)printf("all-reduce: %d MiB over %d ranks by %s are right, %.2f ms\n",
                 (int)(SUM_FLOATS * sizeof *host) >> 20, check->world->size, transport,
                 1e3 * seconds);
out:
  comm_close(comm);
  backend->memory_free(check->device, data);
  memory_free(host);
  return status;
}

Status check_print(const Config *config, World *world, const char *program) {
  Check check = {.world = world};
  if (world->rank == 0) version_print(stdout, program);
  TRY(placement_find(&check.placement, &(PlacementDesc){.device = config->run.device,
                                                         .share_gpu = config->run.share_gpu,
                                                         .world = world}));
  TRY(binding_find(&check.binding, world, check.placement.identity.bus));
  const Backend *backend = check.placement.backend;
  int64_t threads = config->run.threads > 0 ? config->run.threads : check.binding.cores;
  DeviceDesc device = {.threads = (int)threads, .index = check.placement.index};
  Status status = world_agree_status(world, backend->device_open(&check.device, &device));
  if (status == STATUS_OK) status = report(&check);
  if (status == STATUS_OK) status = test_sum(&check);
  backend->device_close(check.device);
  return status;
}
