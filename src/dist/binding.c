// The rank's share of its machine's cores, found with hwloc. See binding.h.
#include "dist/binding.h"

#include <errno.h>
#include <hwloc.h>
#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

// What ranks tell each other: those with equal words share their cores.
typedef struct Seat {
  int64_t node_rank;
  uint64_t cpuset_hash;
} Seat;

// --- what the machine has ------------------------------------------------------------------------

static hwloc_obj_type_t core_type(hwloc_topology_t topology) {
  return hwloc_get_nbobjs_by_type(topology, HWLOC_OBJ_CORE) > 0 ? HWLOC_OBJ_CORE : HWLOC_OBJ_PU;
}

// How many cores have at least one processor in `set`.
static int count_cores(hwloc_topology_t topology, hwloc_const_cpuset_t set) {
  hwloc_obj_type_t type = core_type(topology);
  int cores = 0;
  for (hwloc_obj_t core = NULL; (core = hwloc_get_next_obj_by_type(topology, type, core)) != NULL;)
    cores += hwloc_bitmap_intersects(core->cpuset, set);
  return cores;
}

// The processors of cores [first, first + count) among those that meet `allowed`.
static void take_cores(hwloc_topology_t topology, hwloc_const_cpuset_t allowed, int first,
                       int count, hwloc_bitmap_t share) {
  hwloc_obj_type_t type = core_type(topology);
  int index = 0;
  for (hwloc_obj_t core = NULL;
       (core = hwloc_get_next_obj_by_type(topology, type, core)) != NULL;) {
    if (!hwloc_bitmap_intersects(core->cpuset, allowed)) continue;
    if (index >= first && index < first + count) hwloc_bitmap_or(share, share, core->cpuset);
    index++;
  }
  hwloc_bitmap_and(share, share, allowed);
}

// Whole cores' worth of time that the container's quota grants, 0 for no limit.
static int quota_cores(void) {
  long long quota = -1, period = 0;
  FILE *file = fopen("/sys/fs/cgroup/cpu.max", "re");
  if (file != NULL) { // version 2: "max 100000" or "200000 100000"
    if (fscanf(file, "%lld %lld", &quota, &period) != 2) quota = -1;
    (void)fclose(file);
  } else if ((file = fopen("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "re")) != NULL) {
    if (fscanf(file, "%lld", &quota) != 1) quota = -1;
    (void)fclose(file);
    file = fopen("/sys/fs/cgroup/cpu/cpu.cfs_period_us", "re");
    if (file != NULL && fscanf(file, "%lld", &period) != 1) period = 0;
    if (file != NULL) (void)fclose(file);
  }
  if (quota <= 0 || period <= 0) return 0;
  return quota < period ? 1 : (int)(quota / period);
}

// Cores that Slurm grants a task, 0 where it does not say. Slurm counts processors.
static int slurm_cores(hwloc_topology_t topology, int cores_machine) {
  const char *text = getenv("SLURM_CPUS_PER_TASK");
  int cpus = text != NULL ? atoi(text) : 0;
  int processors = hwloc_get_nbobjs_by_type(topology, HWLOC_OBJ_PU);
  if (cpus <= 0 || processors <= 0) return 0;
  return (int)(((int64_t)cpus * cores_machine + processors - 1) / processors);
}

// --- sharing -------------------------------------------------------------------------------------

static uint64_t hash_set(hwloc_const_cpuset_t set) {
  uint64_t hash = UINT64_C(14695981039346656037); // FNV-1a over the numbers of the processors
  for (int cpu = hwloc_bitmap_first(set); cpu >= 0; cpu = hwloc_bitmap_next(set, cpu))
    hash = (hash ^ (uint64_t)cpu) * UINT64_C(1099511628211);
  return hash;
}

// How many ranks sit on the same cores, and which of them this one is.
static Status find_sharers(World *world, hwloc_const_cpuset_t allowed, int *sharers, int *place) {
  *sharers = 1;
  *place = 0;
  if (world == NULL) return STATUS_OK;
  Status status = STATUS_OK;
  Seat *seats = NULL, mine = {world->node_rank, hash_set(allowed)};
  GUARD(memory_alloc(&seats, (size_t)world->size, sizeof *seats));
  GUARD(world_allgather_bytes(world, seats, &mine, sizeof mine));
  *sharers = *place = 0;
  for (int r = 0; r < world->size; r++) {
    if (memcmp(&seats[r], &mine, sizeof mine) != 0) continue;
    *sharers += 1;
    *place += r < world->rank;
  }
out:
  memory_free(seats);
  return status;
}

static void cap(Binding *binding, int limit, const char **why, const char *reason) {
  if (limit <= 0 || limit >= binding->cores) return;
  binding->cores = limit;
  *why = reason;
}

// `ranks`: those of this machine.
static void divide(Binding *binding, int ranks, hwloc_topology_t topology,
                   hwloc_const_cpuset_t allowed, int place) {
  int cores = binding->cores_allowed, sharers = binding->sharers;
  binding->overcommitted = sharers > cores;
  int share = binding->overcommitted ? 1 : cores / sharers;
  int extra = binding->overcommitted ? 0 : cores % sharers; // one more for the first ones
  int first =
      binding->overcommitted ? place % cores : place * share + (place < extra ? place : extra);
  binding->cores = share + (place < extra);
  const char *why = "";
  int quota = quota_cores();
  if (quota > 0 && quota < ranks) quota = ranks;
  cap(binding, quota / ranks, &why, ", limited by the container's CPU quota");
  cap(binding, slurm_cores(topology, binding->cores_machine), &why, ", as --cpus-per-task says");

  hwloc_bitmap_t share_set = hwloc_bitmap_alloc();
  if (share_set != NULL) {
    take_cores(topology, allowed, first, binding->cores, share_set);
    if (hwloc_bitmap_list_snprintf(binding->cpus, sizeof binding->cpus, share_set) >=
        (int)sizeof binding->cpus)
      binding->cpus[0] = '\0'; // a set too odd to write down: no binding
    hwloc_bitmap_free(share_set);
  }
  const char *launcher = "";
  if (sharers == 1 && !binding->near_device && cores < binding->cores_machine && ranks * cores < binding->cores_machine)
    launcher = "; the launcher leaves cores idle: mpirun --bind-to none lets ranks share them all";
  if (binding->overcommitted) launcher = "; more ranks than cores: they will take turns";
  (void)snprintf(binding->text, sizeof binding->text,
                 "%d thread%s%s on processors %.64s%s; may use %d of %d cores, shared by %d rank%s%s",
                 binding->cores, binding->cores == 1 ? "" : "s", why, binding->cpus,
                 binding->near_device ? " near its GPU" : "", cores,
                 binding->cores_machine, sharers, sharers == 1 ? "" : "s", launcher);
}

static Status load_topology(hwloc_topology_t *topology, hwloc_bitmap_t *allowed) {
  *allowed = hwloc_bitmap_alloc();
  if (*allowed == NULL || hwloc_topology_init(topology) != 0)
    return status_set(STATUS_OS, "hwloc: out of memory");
  if (hwloc_topology_load(*topology) != 0)
    return status_set_errno(STATUS_OS, "hwloc cannot read this machine's topology");
  // Not being told is not an error: without it, all processors count.
  if (hwloc_get_cpubind(*topology, *allowed, HWLOC_CPUBIND_THREAD) != 0 ||
      hwloc_bitmap_iszero(*allowed))
    (void)hwloc_bitmap_copy(*allowed, hwloc_topology_get_topology_cpuset(*topology));
  return STATUS_OK;
}

// Leaves of `allowed` the processors near a device, as the kernel lists them. Machines with one memory
// list all, virtual ones may list none that are allowed: then nothing changes.
static Status keep_near(Binding *binding, hwloc_bitmap_t allowed, const char *bus) {
  char path[96], list[512] = "";
  if (!bus || bus[0] == '\0') return STATUS_OK;
  (void)snprintf(path, sizeof path, "/sys/bus/pci/devices/%s/local_cpulist", bus);
  FILE *file = fopen(path, "re");
  if (file == NULL) return STATUS_OK;
  bool has_list = fgets(list, sizeof list, file) != NULL;
  (void)fclose(file);
  list[strcspn(list, "\n")] = '\0';
  hwloc_bitmap_t close = hwloc_bitmap_alloc();
  if (close == NULL) return status_set(STATUS_OS, "hwloc: out of memory");
  if (has_list && hwloc_bitmap_list_sscanf(close, list) == 0 &&
      hwloc_bitmap_intersects(close, allowed) && !hwloc_bitmap_isincluded(allowed, close)) {
    (void)hwloc_bitmap_and(allowed, allowed, close);
    binding->near_device = true;
  }
  hwloc_bitmap_free(close);
  return STATUS_OK;
}

Status binding_find(Binding *out, World *world, const char *bus) {
  memset(out, 0, sizeof *out);
  Status status = STATUS_OK;
  hwloc_topology_t topology = NULL;
  hwloc_bitmap_t allowed = NULL;
  int place = 0;
  status = load_topology(&topology, &allowed);
  if (status == STATUS_OK) status = keep_near(out, allowed, bus);
  GUARD(world != NULL ? world_agree_status(world, status) : status);
  out->cores_machine = hwloc_get_nbobjs_by_type(topology, core_type(topology));
  out->cores_allowed = count_cores(topology, allowed);
  if (out->cores_allowed < 1) out->cores_allowed = 1;
  GUARD(find_sharers(world, allowed, &out->sharers, &place));
  divide(out, world != NULL ? world->local_size : 1, topology, allowed, place);
out:
  if (topology != NULL) hwloc_topology_destroy(topology);
  hwloc_bitmap_free(allowed);
  return status;
}

void binding_check_threads(const Binding *binding, int64_t threads, const char *setting, Log *log) {
  int cores = binding->cores_allowed, ranks = binding->sharers;
  char cure[96];
  if (threads <= binding->cores && !binding->overcommitted) return;
  if (threads > binding->cores)
    (void)snprintf(cure, sizeof cure, "leave %s out to have %d", setting, binding->cores);
  else
    (void)snprintf(cure, sizeof cure, "start at most %d rank%s here", cores, cores == 1 ? "" : "s");
  log_warning(log,
              "%" PRId64
              " thread%s a rank, but a rank's share is %d core%s (%d rank%s on %d core%s of "
              "this host): threads take turns, and work is many times slower; %s",
              threads, threads == 1 ? "" : "s", binding->cores, binding->cores == 1 ? "" : "s",
              ranks, ranks == 1 ? "" : "s", cores, cores == 1 ? "" : "s", cure);
}

Status binding_apply(const Binding *binding) {
  bool has_all = binding->sharers == 1 && !binding->near_device;
  if (binding->cpus[0] == '\0' || binding->overcommitted || has_all) return STATUS_OK;
  Status status = STATUS_OK;
  cpu_set_t *cpus = NULL;
  hwloc_bitmap_t set = hwloc_bitmap_alloc();
  if (set == NULL || hwloc_bitmap_list_sscanf(set, binding->cpus) != 0) {
    status = status_set(STATUS_OS, "hwloc: cannot read the processors '%s'", binding->cpus);
    goto out;
  }
  int count = hwloc_bitmap_last(set) + 1;
  if ((cpus = CPU_ALLOC((size_t)count)) == NULL) {
    status = status_set(STATUS_OS, "out of memory for a set of %d processors", count);
    goto out;
  }
  size_t size_bytes = CPU_ALLOC_SIZE((size_t)count);
  CPU_ZERO_S(size_bytes, cpus);
  for (int cpu = hwloc_bitmap_first(set); cpu >= 0; cpu = hwloc_bitmap_next(set, cpu))
    CPU_SET_S((size_t)cpu, size_bytes, cpus);
  if (sched_setaffinity(0, size_bytes, cpus) != 0)
    status = status_set_errno(STATUS_OS, "cannot bind this rank to processors %s", binding->cpus);
out:
  if (cpus != NULL) CPU_FREE(cpus);
  hwloc_bitmap_free(set);
  return status;
}
