// The ranks of a job and their control plane: configuration, metrics, agreement. MPI underneath.
//
// main opens one World and passes it down. Everything marked "collective" is called by every rank
// with the same arguments where they must match, in the same order, from one thread at a time; on
// failure every such function sets a message. One process without mpirun is a World of size 1.
#ifndef IMGCLS_DIST_WORLD_H
#define IMGCLS_DIST_WORLD_H

#include <stddef.h>
#include <stdint.h>

#include "base/log.h"
#include "base/status.h"

typedef struct World {
  int rank, size;             // of all ranks
  int local_rank, local_size; // of those on this machine
  int node_rank;              // lowest rank on this machine: equal on ranks that share a machine
  int host_count;             // machines
  char host[64];
  struct WorldLinks *links; // MPI's own objects, private to world.c
} World;

typedef enum WorldOp { WORLD_SUM, WORLD_MAX, WORLD_MIN } WorldOp;

// This process' place in its job, and the job's size, as mpirun or srun say in the environment,
// before and without MPI; 0 and 1 where neither did. Not collective.
void world_find_launch(int *rank, int *size);

// Starts MPI. `argc` and `argv` may be NULL. STATUS_CONFIG where srun started several tasks that
// MPI cannot see as one job. Collective. Once per process.
MUST_CHECK Status world_open(World **out, int *argc, char ***argv);

// Ends MPI; NULL is fine. Collective: a rank that failed alone calls world_abort instead.
void world_close(World *world);

// Ends the job on every rank with `exit_code`. Not collective; for main alone. NULL ends just this
// process.
_Noreturn void world_abort(World *world, int exit_code);

// Says this thread's message and ends the job with `code`, of a failure that others may not share:
// they may wait in a collective call. Where all have failed, rank 0 alone speaks. For main alone.
_Noreturn void world_fail(World *world, Log *log, Status code);

// MPI as it is loaded, for people: "Open MPI v4.1.4, its calls serialized". Returns `text`.
enum { WORLD_LIBRARY_CAPACITY = 128 };
const char *world_library(char text[WORLD_LIBRARY_CAPACITY]);

// Waits until every rank is here. Collective.
MUST_CHECK Status world_barrier(World *world);

// Copies `size_bytes` bytes of rank `root` to all; any size. Collective.
MUST_CHECK Status world_broadcast(World *world, void *data, size_t size_bytes, int root);

// Every rank brings the outcome of something it did alone, with its message set if it failed.
// Returns on all ranks STATUS_OK if all succeeded, else the worst status (a real failure beats
// STATUS_STOPPED) and the message of the lowest rank that has it, naming the failing ranks.
// Collective.
MUST_CHECK Status world_agree_status(World *world, Status mine);

// Replaces each of `count` values by its sum, maximum or minimum over the ranks. The sum of doubles
// is taken in rank order, the same on all ranks. Collective.
MUST_CHECK Status world_reduce_i64(World *world, WorldOp op, int64_t *values, int count);
MUST_CHECK Status world_reduce_f64(World *world, WorldOp op, double *values, int count);

// Collects `count` doubles, or `size_bytes` bytes, of every rank in `out`, in rank order, on every
// rank: out has size * count doubles or size * size_bytes bytes. Collective.
MUST_CHECK Status world_allgather_f64(World *world, double *out, const double *values, int count);
MUST_CHECK Status world_allgather_bytes(World *world, void *out, const void *data,
                                        size_t size_bytes);

// Collects blocks of any length on rank 0, one behind the other in rank order. On rank 0 `*out` is
// owned by the caller (memory_free) and sizes[r] is the length of rank r's block (`sizes` has room
// for world->size); elsewhere `*out` is NULL and `sizes` may be NULL. Collective.
MUST_CHECK Status world_gather_bytes(World *world, void **out, size_t *sizes, const void *data,
                                     size_t size_bytes);

// Rows that every rank sends to every rank. Blocks for (and from) the ranks lie one behind the
// other in rank order; `counts` are rows, world->size of them.
typedef struct WorldExchange {
  size_t row_bytes;
  const void *send;
  const int *send_counts;
  void *receive;
  const int *receive_counts; // what the others send: both sides know
} WorldExchange;

// Collective.
MUST_CHECK Status world_exchange_rows(World *world, const WorldExchange *exchange);

#endif
