// The data plane: sums of gradients over the ranks, in place, while the backward pass goes on, and
// the exchange of blocks that the reproducible sum (reduce_tree.h) is made of.
//
// gradsync begins a sum for every bucket of the gradient arena as it becomes final, calls
// comm_progress between layers and comm_wait_all before the update. The seam is one table of
// functions per transport: MPI for host memory, NCCL for a GPU's, and "none" for one rank alone.
// "Waiting" is what the device does: where its work is queued on a stream, that stream waits, and
// the host goes on. After comm_open and the creation of exchanges nothing is allocated by us.
#ifndef IMGCLS_DIST_COMM_H
#define IMGCLS_DIST_COMM_H

#include <stdint.h>

#include "backend/backend.h"
#include "base/log.h"
#include "base/status.h"
#include "dist/watchdog.h"
#include "dist/world.h"

typedef struct Comm Comm;

typedef struct CommDesc {
  World *world;
  const Backend *backend;
  Device *device; // whose memory is summed
  Watchdog
      *watchdog;    // ends this rank when another one fails; NULL: calls then return STATUS_STOPPED
  Log *log;         // may be NULL. All of the above: borrowed until comm_close
  double timeout_s; // to find the other ranks, and to start an operation. 0: no limit
  int max_pending;  // MPI: sums waiting at one time; a begin beyond that waits itself. 0: 1024
} CommDesc;

// A block of floats for, or from, another rank.
typedef struct CommBlock {
  float *data;
  int64_t count; // below 2^31
  int peer;
} CommBlock;

// Blocks under way between ranks, one round at a time. `begin` of the next round may reuse the
// memory of the last once that has been waited for.
typedef struct CommExchange {
  Comm *comm;
  CommBlock *sends, *receives; // the caller fills them, in the same order on both sides of a pair,
  int send_count, receive_count; // before each begin; room for max_blocks each
  int max_blocks;
  void *links; // of the transport
} CommExchange;

// One transport. `open` allocates its own struct that starts with a Comm. Functions that are NULL
// have nothing to do.
typedef struct CommKind {
  const char *name; // "none", "mpi", "nccl"
  Status (*describe)(char *text, size_t capacity);
  Status (*open)(Comm **out, const CommDesc *desc);
  Status (*memory_alloc)(Comm *comm, float **out, int64_t count); // NULL: the device's
  void (*memory_free)(Comm *comm, float *memory);
  Status (*begin_sum)(Comm *comm, float *data, int64_t count);
  Status (*progress)(Comm *comm);
  Status (*wait_all)(Comm *comm);
  Status (*exchange_create)(CommExchange *exchange);
  void (*exchange_free)(CommExchange *exchange);
  Status (*begin_exchange)(CommExchange *exchange);
  Status (*wait_exchange)(CommExchange *exchange);
  Status (*begin_gather)(Comm *comm, float *out, const float *mine, const int *counts);
  Status (*check)(Comm *comm);
  void (*abort)(Comm *comm);
  void (*close)(Comm *comm);
} CommKind;

struct Comm {
  const CommKind *kind;
  CommDesc desc;
  int64_t sums_begun; // since opening; for reports
  int64_t bytes_begun;
};

// The transport for sums of this world in memory of this backend.
const char *comm_kind_for(const World *world, const Backend *backend);

// The library that sums memory of this backend over several ranks, for people: "NCCL 2.28.9"; ""
// where --version tells. Fails where it cannot be loaded.
MUST_CHECK Status comm_describe(char *text, size_t capacity, const Backend *backend);

// Opens the transport called `name`; STATUS_CONFIG names those of this build. The calling thread is
// the one that opened the device. Collective.
MUST_CHECK Status comm_open(Comm **out, const char *name, const CommDesc *desc);

// Memory of the device for `count` floats, zeroed, placed where the transport is fastest. Freed by
// comm_memory_free before the close; NULL is fine there. Collective.
MUST_CHECK Status comm_memory_alloc(Comm *comm, float **out, int64_t count);
void comm_memory_free(Comm *comm, float *memory);

// Starts to replace data[0..count) by its sum over the ranks, once what the device has been given
// to do until now is done. `data` must stay untouched until comm_wait_all. Every rank begins the
// same sums in the same order. The result has the same bits on all ranks; in every run with this
// number of ranks it has them too, but for NCCL's where a switch adds (NVLS, see docs/numerics.md).
// count 0 is fine. Collective, does not wait.
MUST_CHECK Status comm_begin_sum(Comm *comm, float *data, int64_t count);

// Gives the transport a moment to move data; cheap, never waits. Not collective.
MUST_CHECK Status comm_progress(Comm *comm);

// Waits for all sums and gathers begun. Collective.
MUST_CHECK Status comm_wait_all(Comm *comm);

// An exchange of up to `max_blocks` blocks each way. Two may be under way at one time; they end in
// the order in which they began. Not collective.
MUST_CHECK Status comm_exchange_create(CommExchange **out, Comm *comm, int max_blocks);
void comm_exchange_free(CommExchange *exchange); // NULL is fine

// Sends and receives the blocks that `exchange` lists, then waits for them, and for the gathers begun
// before them. Collective.
MUST_CHECK Status comm_begin_exchange(CommExchange *exchange);
MUST_CHECK Status comm_wait_exchange(CommExchange *exchange);

// Starts to put the blocks of all ranks, counts[rank] floats each, one behind the other in
// out[0..): `mine` is this rank's. Done after comm_wait_all; then `mine` may change. Collective.
MUST_CHECK Status comm_begin_gather(Comm *comm, float *out, const float *mine, const int *counts);

// Whether every rank was well a moment ago, as far as the transport can tell: STATUS_STOPPED with
// the reason otherwise. For loops that wait for the device, and for the watchdog. Cheap, never
// waits, from any thread. NULL is fine. Not collective.
MUST_CHECK Status comm_check(Comm *comm);

// Makes the device give up what the transport has under way, so that the process can end; after 5 s
// it returns in any case. The Comm can only be closed then. From any thread; NULL is fine. Not
// collective.
void comm_abort(Comm *comm);

// NULL is fine. No sum may be under way, and exchanges and memory are freed before. Collective,
// unless the Comm has failed.
void comm_close(Comm *comm);

#endif
