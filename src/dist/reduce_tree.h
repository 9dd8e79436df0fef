// The reproducible sum: gradients of V virtual workers, added in one fixed order however many ranks
// share the workers out. Used by gradsync when `reproducible = yes`.
//
// The order is a binary tree over the workers 0..V-1: a node that covers [lo, hi) is the sum of its
// left part and its right part, split at the largest power of two below hi - lo. Rank r of R owns
// the workers [r V/R, (r+1) V/R). It adds what lies inside its block; the few subtrees that are
// left meet on the rank that owns the slice of elements, and go on there in the same order. Hence
// the sum has the same bits for every R that divides V. Additions are the backend's, the exchange
// is the transport's: one tree for host memory and for that of GPUs.
#ifndef IMGCLS_DIST_REDUCE_TREE_H
#define IMGCLS_DIST_REDUCE_TREE_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "dist/comm.h"

typedef struct ReduceTree ReduceTree;

typedef struct ReduceTreeDesc {
  const World *world;
  const Backend *backend;
  int virtual_workers;
  int64_t count; // floats of a sum
} ReduceTreeDesc;

// A tree for sums of `count` floats over `virtual_workers` workers, in memory of the device of
// `comm`, which is borrowed until the free and has the desc's world and backend. STATUS_CONFIG
// unless world->size divides virtual_workers. Collective. One tree serves the whole gradient arena,
// or one each its buckets. Allocates reduce_tree_memory_bytes and nothing later.
MUST_CHECK Status reduce_tree_create(ReduceTree **out, Comm *comm, const ReduceTreeDesc *desc);
void reduce_tree_free(ReduceTree *tree); // NULL is fine. Collective

// The workers of this rank: [*first, *first + *count).
void reduce_tree_workers(const ReduceTree *tree, int *first, int *count);

// Adds the gradients (`count` floats of the device, free again on return for what the device is
// given next) of this rank's next worker. Workers come in ascending order, each once between two
// finishes, from one thread at a time: workers that run side by side keep their gradients until it
// is their turn. STATUS_INTERNAL otherwise. Not collective.
MUST_CHECK Status reduce_tree_push(ReduceTree *tree, int worker, const float *gradients);

// Stores the sum over all workers in sum[0..count) on every rank and makes the tree ready for the
// next step. Every rank has pushed all its workers. `sum` may be an array that was pushed.
// Collective.
MUST_CHECK Status reduce_tree_finish(ReduceTree *tree, float *sum);

// Forgets what was pushed since the last finish, or by one that failed. Not collective.
void reduce_tree_cancel(ReduceTree *tree);

// Device memory that a tree takes on `rank` of the desc's world, in bytes, for the plan before the
// first step. About 4 * count * (1 + log2(V / size)) + 8 MiB, on a GPU 32 MiB.
size_t reduce_tree_memory_bytes(const ReduceTreeDesc *desc);

#endif
