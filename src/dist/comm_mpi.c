// Sums over the ranks in host memory, by MPI_Iallreduce on a communicator of its own, and exchanges
// of blocks.
//
// Sums queue up and travel piece by piece, a few at a time, so that what is under way stays in
// cache. All ranks queue the same sums, hence start the same pieces in the same order. MPI moves
// data only inside MPI calls, hence comm_progress. Open MPI's non-blocking all-reduce follows a
// schedule fixed by size and count, so its bits do not depend on timing.
#include <mpi.h>

#include "base/memory.h"
#include "dist/comm_kinds.h"
#include "dist/mpi_try.h"

enum {
  DEFAULT_PENDING = 1024,
  WINDOW = 8,            // pieces under way
  PIECE_COUNT = 1 << 18, // floats of one
};

typedef struct Range { // what of a queued sum has not been started
  float *data;
  int64_t count;
} Range;

typedef struct CommMpi {
  Comm base;
  MPI_Comm comm;
  MPI_Request window[WINDOW]; // null where free
  int under_way;
  Range *queue; // a ring: [head, head + length) modulo capacity
  int head, length, capacity;
  int *starts; // [size] of a gather
} CommMpi;

static void mpi_close(Comm *comm) {
  CommMpi *self = (CommMpi *)comm;
  if (self->comm != MPI_COMM_NULL) (void)MPI_Comm_free(&self->comm);
  memory_free(self->starts);
  memory_free(self->queue);
  memory_free(self);
}

static Status mpi_open(Comm **out, const CommDesc *desc) {
  Status status = STATUS_OK;
  CommMpi *self = NULL;
  TRY(memory_alloc(&self, 1, sizeof *self));
  self->comm = MPI_COMM_NULL;
  for (int i = 0; i < WINDOW; i++) self->window[i] = MPI_REQUEST_NULL;
  self->capacity = desc->max_pending > 0 ? desc->max_pending : DEFAULT_PENDING;
  GUARD(memory_alloc(&self->queue, (size_t)self->capacity, sizeof *self->queue));
  GUARD(memory_alloc(&self->starts, (size_t)desc->world->size, sizeof *self->starts));
  GUARD(MPI_STATUS(MPI_Comm_dup(MPI_COMM_WORLD, &self->comm)));
  *out = &self->base;
  self = NULL;
out:
  if (self != NULL) mpi_close(&self->base);
  return status;
}

// Starts queued pieces while the window has room.
static Status fill_window(CommMpi *self) {
  for (int i = 0; i < WINDOW && self->length > 0; i++) {
    if (self->window[i] != MPI_REQUEST_NULL) continue;
    Range *range = &self->queue[self->head];
    int count = range->count < PIECE_COUNT ? (int)range->count : PIECE_COUNT;
    MPI_TRY(MPI_Iallreduce(MPI_IN_PLACE, range->data, count, MPI_FLOAT, MPI_SUM, self->comm,
                           &self->window[i]));
    self->under_way++;
    range->data += count;
    range->count -= count;
    if (range->count > 0) continue;
    self->head = (self->head + 1) % self->capacity;
    self->length--;
  }
  return STATUS_OK;
}

static Status mpi_progress(Comm *comm) {
  CommMpi *self = (CommMpi *)comm;
  if (self->under_way == 0) return STATUS_OK; // then nothing is queued either
  int done = 0, which[WINDOW];
  MPI_TRY(MPI_Testsome(WINDOW, self->window, &done, which, MPI_STATUSES_IGNORE));
  self->under_way -= done;
  return done > 0 ? fill_window(self) : STATUS_OK;
}

static Status wait_for_some(CommMpi *self) {
  int done = 0, which[WINDOW];
  MPI_TRY(MPI_Waitsome(WINDOW, self->window, &done, which, MPI_STATUSES_IGNORE));
  self->under_way -= done;
  return fill_window(self);
}

static Status mpi_begin_sum(Comm *comm, float *data, int64_t count) {
  CommMpi *self = (CommMpi *)comm;
  while (self->length == self->capacity) TRY(wait_for_some(self));
  self->queue[(self->head + self->length) % self->capacity] = (Range){data, count};
  self->length++;
  return fill_window(self);
}

static Status mpi_wait_all(Comm *comm) {
  CommMpi *self = (CommMpi *)comm;
  while (self->under_way > 0) TRY(wait_for_some(self));
  return STATUS_OK;
}

// --- exchanges -----------------------------------------------------------------------------------

typedef struct Requests { // of one exchange
  MPI_Request *items;     // sends and receives
  int count;              // under way
} Requests;

static void mpi_exchange_free(CommExchange *exchange) {
  Requests *requests = exchange->links;
  memory_free(requests->items);
  memory_free(requests);
}

static Status mpi_exchange_create(CommExchange *exchange) {
  Requests *requests;
  TRY(memory_alloc(&requests, 1, sizeof *requests));
  exchange->links = requests;
  return memory_alloc(&requests->items, 2 * (size_t)exchange->max_blocks, sizeof(MPI_Request));
}

static Status mpi_begin_exchange(CommExchange *exchange) {
  CommMpi *self = (CommMpi *)exchange->comm;
  Requests *requests = exchange->links;
  requests->count = 0;
  for (int i = 0; i < exchange->receive_count; i++) {
    const CommBlock *block = &exchange->receives[i];
    MPI_TRY(MPI_Irecv(block->data, (int)block->count, MPI_FLOAT, block->peer, 0, self->comm,
                      &requests->items[requests->count++]));
  }
  for (int i = 0; i < exchange->send_count; i++) {
    const CommBlock *block = &exchange->sends[i];
    MPI_TRY(MPI_Isend(block->data, (int)block->count, MPI_FLOAT, block->peer, 0, self->comm,
                      &requests->items[requests->count++]));
  }
  return STATUS_OK;
}

static Status mpi_wait_exchange(CommExchange *exchange) {
  Requests *requests = exchange->links;
  MPI_TRY(MPI_Waitall(requests->count, requests->items, MPI_STATUSES_IGNORE));
  return STATUS_OK;
}

// Blocking: Open MPI's ring does not hide behind anything here.
static Status mpi_begin_gather(Comm *comm, float *out, const float *mine, const int *counts) {
  CommMpi *self = (CommMpi *)comm;
  const World *world = comm->desc.world;
  for (int r = 0, start = 0; r < world->size; start += counts[r++]) self->starts[r] = start;
  MPI_TRY(MPI_Allgatherv(mine, counts[world->rank], MPI_FLOAT, out, counts, self->starts, MPI_FLOAT,
                         self->comm));
  return STATUS_OK;
}

const CommKind comm__mpi = {
    .name = "mpi",
    .open = mpi_open,
    .begin_sum = mpi_begin_sum,
    .progress = mpi_progress,
    .wait_all = mpi_wait_all,
    .exchange_create = mpi_exchange_create,
    .exchange_free = mpi_exchange_free,
    .begin_exchange = mpi_begin_exchange,
    .wait_exchange = mpi_wait_exchange,
    .begin_gather = mpi_begin_gather,
    .close = mpi_close,
};
