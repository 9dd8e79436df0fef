// The list of transports, and the calls that pass through to one. See comm.h.
#include "dist/comm.h"

#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "dist/comm_kinds.h"

static const CommKind *const kinds[] = {
    &comm__none,
    &comm__mpi,
#ifdef IMGCLS_CUDA
    &comm__nccl,
#endif
};

enum { KINDS = sizeof kinds / sizeof *kinds };

static const char *kind_of_ranks(const Backend *backend) {
  return backend->native_stream ? "nccl" : "mpi";
}

const char *comm_kind_for(const World *world, const Backend *backend) {
  return world->size == 1 ? "none" : kind_of_ranks(backend);
}

Status comm_describe(char *text, size_t capacity, const Backend *backend) {
  *text = '\0';
  for (size_t i = 0; i < KINDS; i++)
    if (strcmp(kinds[i]->name, kind_of_ranks(backend)) == 0 && kinds[i]->describe)
      return kinds[i]->describe(text, capacity);
  return STATUS_OK;
}

static Status unknown_kind(const char *name) {
  char known[64] = "";
  for (size_t i = 0; i < KINDS; i++) {
    size_t used = strlen(known);
    (void)snprintf(known + used, sizeof known - used, "%s%s", i == 0 ? "" : ", ", kinds[i]->name);
  }
  return status_set(STATUS_CONFIG, "no transport is called '%s': this build has %s", name, known);
}

Status comm_open(Comm **out, const char *name, const CommDesc *desc) {
  *out = NULL;
  for (size_t i = 0; i < KINDS; i++) {
    if (strcmp(kinds[i]->name, name) != 0) continue;
    TRY(kinds[i]->open(out, desc));
    (*out)->kind = kinds[i];
    (*out)->desc = *desc;
    watchdog_watch(desc->watchdog, *out);
    return STATUS_OK;
  }
  return unknown_kind(name);
}

Status comm_memory_alloc(Comm *comm, float **out, int64_t count) {
  *out = NULL;
  if (comm->kind->memory_alloc) return comm->kind->memory_alloc(comm, out, count);
  void *memory;
  TRY(comm->desc.backend->memory_alloc(comm->desc.device, &memory, (size_t)count * sizeof(float)));
  *out = memory;
  return STATUS_OK;
}

void comm_memory_free(Comm *comm, float *memory) {
  if (!memory) return;
  if (comm->kind->memory_free)
    comm->kind->memory_free(comm, memory);
  else
    comm->desc.backend->memory_free(comm->desc.device, memory);
}

Status comm_begin_sum(Comm *comm, float *data, int64_t count) {
  comm->sums_begun++;
  comm->bytes_begun += count * (int64_t)sizeof *data;
  return count > 0 && comm->kind->begin_sum ? comm->kind->begin_sum(comm, data, count) : STATUS_OK;
}

Status comm_progress(Comm *comm) {
  return comm->kind->progress ? comm->kind->progress(comm) : STATUS_OK;
}

Status comm_wait_all(Comm *comm) {
  return comm->kind->wait_all ? comm->kind->wait_all(comm) : STATUS_OK;
}

Status comm_exchange_create(CommExchange **out, Comm *comm, int max_blocks) {
  *out = NULL;
  CommExchange *exchange;
  TRY(memory_alloc(&exchange, 1, sizeof *exchange));
  Status status = STATUS_OK;
  exchange->comm = comm;
  exchange->max_blocks = max_blocks;
  GUARD(memory_alloc(&exchange->sends, (size_t)max_blocks, sizeof *exchange->sends));
  GUARD(memory_alloc(&exchange->receives, (size_t)max_blocks, sizeof *exchange->receives));
  GUARD(comm->kind->exchange_create(exchange));
  *out = exchange;
  exchange = NULL;
out:
  comm_exchange_free(exchange);
  return status;
}

void comm_exchange_free(CommExchange *exchange) {
  if (!exchange) return;
  if (exchange->links) exchange->comm->kind->exchange_free(exchange);
  memory_free(exchange->sends);
  memory_free(exchange->receives);
  memory_free(exchange);
}

Status comm_begin_exchange(CommExchange *exchange) {
  return exchange->comm->kind->begin_exchange(exchange);
}

Status comm_wait_exchange(CommExchange *exchange) {
  return exchange->comm->kind->wait_exchange(exchange);
}

Status comm_begin_gather(Comm *comm, float *out, const float *mine, const int *counts) {
  return comm->kind->begin_gather(comm, out, mine, counts);
}

Status comm_check(Comm *comm) {
  return comm && comm->kind->check ? comm->kind->check(comm) : STATUS_OK;
}

void comm_abort(Comm *comm) {
  if (comm && comm->kind->abort) comm->kind->abort(comm);
}

void comm_close(Comm *comm) {
  if (!comm) return;
  watchdog_watch(comm->desc.watchdog, NULL);
  comm->kind->close(comm);
}
