// Ranks that share a GPU ([run] share_gpu). NCCL refuses them unless variables of the environment
// say otherwise, which it reads in its first call but ncclGetVersion: from 2.30.3 on one of its
// own, before that a name of a host for each rank, so that data goes as between hosts. What the
// user has set stays.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "dist/comm_nccl.h"

enum { TAKES_SHARED_GPUS = NCCL_VERSION(2, 30, 3) };

typedef struct Seat {
  int node_rank;
  char bus[20]; // "0000:17:00.0", by which NCCL knows a GPU
} Seat;

typedef struct Variable {
  const char *name, *value;
  bool for_one_host; // only where all ranks are on one
} Variable;

static const Variable variables[] = {
    {"NCCL_NVLS_ENABLE", "0", false}, // cannot be with ranks that share
    {"NCCL_MAX_CTAS", "4", false},    // kernels of all that share must be at work at one time
    {"NCCL_IB_DISABLE", "1", true},   // data between them stays on the host
    {"NCCL_SOCKET_IFNAME", "lo", true},
};

static bool has_twice(const Seat *seats, int count) {
  for (int i = 0; i < count; i++)
    for (int j = 0; j < i; j++)
      if (seats[i].node_rank == seats[j].node_rank && strcmp(seats[i].bus, seats[j].bus) == 0)
        return true;
  return false;
}

static Status take_seat(const CommNccl *self, Seat *out) {
  *out = (Seat){.node_rank = self->base.desc.world->node_rank};
  CUDA_TRY(cudaDeviceGetPCIBusId(out->bus, sizeof out->bus, self->device));
  return STATUS_OK;
}

static Status find_sharing(const CommNccl *self, bool *shares) {
  World *world = self->base.desc.world;
  Seat *seats = NULL, mine;
  Status status = take_seat(self, &mine);
  if (status == STATUS_OK) status = memory_alloc(&seats, (size_t)world->size, sizeof *seats);
  GUARD(world_agree_status(world, status));
  GUARD(world_allgather_bytes(world, seats, &mine, sizeof mine));
  *shares = has_twice(seats, world->size);
out:
  memory_free(seats);
  return status;
}

static Status set(const char *name, const char *value) {
  if (setenv(name, value, 0) == 0) return STATUS_OK;
  return status_set_errno(STATUS_OS, "cannot set %s", name);
}

static Status set_variables(const CommNccl *self) {
  const World *world = self->base.desc.world;
  char host[32];
  for (size_t i = 0; i < sizeof variables / sizeof *variables; i++)
    if (!variables[i].for_one_host || world->host_count == 1)
      TRY(set(variables[i].name, variables[i].value));
  if (self->version >= TAKES_SHARED_GPUS) return set("NCCL_MULTI_RANK_GPU_ENABLE", "1");
  (void)snprintf(host, sizeof host, "imgcls-rank-%d", world->rank);
  return set("NCCL_HOSTID", host);
}

Status nccl__allow_sharing(const CommNccl *self) {
  bool shares = false;
  TRY(find_sharing(self, &shares));
  if (!shares) return STATUS_OK;
  log_info(self->base.desc.log, "NCCL: ranks share a GPU, which is for trying out: %s",
           self->version >= TAKES_SHARED_GPUS
               ? "their sums are slow"
               : "each is a host of its own to NCCL, and sums go through the network stack");
  return world_agree_status(self->base.desc.world, set_variables(self));
}
