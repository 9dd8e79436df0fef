// Sums gradients over workers and ranks. See gradsync.h.
#include "train/gradsync.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

// Large enough to hide the latency of a message, small enough to leave early: 4 MiB to 32 MiB.
enum { BUCKET_LEAST = 1 << 20, BUCKET_MOST = 1 << 23 }; // floats

typedef struct Bucket {
  int64_t first, count; // floats
  int parameters;       // trained ones in it
  int waiting;          // of them, not final yet
} Bucket;

struct GradSync {
  const Backend *backend;
  Device *device;
  const ParameterLayout *layout;
  Comm *comm;
  ReduceTree *tree; // reproducible mode; it sums over `comm`
  int virtual_workers;
  float *sum;
  bool sum_is_empty; // nothing added in this step
  const float *last; // the arena being filled
  Bucket *buckets;
  int bucket_count;
  int next;       // the first whose sum has not begun
  int *bucket_of; // parameter -> bucket, -1: not reduced
};

static int by_offset_descending(const void *a, const void *b, void *context) {
  const int64_t *offsets = context;
  int64_t x = offsets[*(const int *)a], y = offsets[*(const int *)b];
  return x < y ? 1 : x > y ? -1 : 0;
}

// How many floats leave together where `left` have not left yet. MPI's transport cuts all sums into
// pieces in any case. Between GPUs large ones use the links better (NCCL reaches its bandwidth with
// tens of MiB), but nothing hides the last one, that of a network's first layers: so each takes a
// quarter of what is left. A network of 20 MB has 5, one of 100 MB 11, and 32 MiB is the most.
static int64_t bucket_length(const Backend *backend, int64_t left) {
  if (!backend->native_stream || left / 4 < BUCKET_LEAST) return BUCKET_LEAST;
  return left / 4 < BUCKET_MOST ? left / 4 : BUCKET_MOST;
}

// Statistics stand at the arena's end and are final when the backward pass begins: nothing waits
// for them.
static Status cut_buckets(GradSync *sync) {
  const ParameterLayout *layout = sync->layout;
  int *order, reduced = 0;
  size_t count = (size_t)layout->parameter_count;
  TRY(memory_alloc(&sync->buckets, count, sizeof *sync->buckets));
  TRY(memory_alloc(&sync->bucket_of, count, sizeof *sync->bucket_of));
  TRY(memory_alloc(&order, count, sizeof *order));
  for (int i = 0; i < layout->parameter_count; i++) {
    sync->bucket_of[i] = -1;
    if (layout->offsets[i] < layout->reduced) order[reduced++] = i;
  }
  qsort_r(order, (size_t)reduced, sizeof *order, by_offset_descending, layout->offsets);
  int64_t end = layout->reduced, length = 0;
  for (int i = 0; i < reduced; i++) {
    int64_t first = layout->offsets[order[i]];
    if (sync->bucket_count == 0 || sync->buckets[sync->bucket_count - 1].count >= length) {
      sync->bucket_count++;
      length = bucket_length(sync->backend, end);
    }
    Bucket *bucket = &sync->buckets[sync->bucket_count - 1];
    bucket->first = first;
    bucket->count += end - first;
    if (first < layout->trained) bucket->parameters++;
    sync->bucket_of[order[i]] = sync->bucket_count - 1;
    end = first;
  }
  memory_free(order);
  return STATUS_OK;
}

static ReduceTreeDesc describe_tree(const GradSyncDesc *desc) {
  return (ReduceTreeDesc){.world = desc->world,
                          .backend = desc->backend,
                          .virtual_workers = desc->virtual_workers,
                          .count = desc->layout->reduced};
}

Status gradsync_create(GradSync **out, const GradSyncDesc *desc) {
  *out = NULL;
  GradSync *sync;
  TRY(memory_alloc(&sync, 1, sizeof *sync));
  Status status = STATUS_OK;
  sync->backend = desc->backend;
  sync->device = desc->device;
  sync->layout = desc->layout;
  sync->virtual_workers = desc->virtual_workers;
  sync->sum_is_empty = true;
  GUARD(comm_open(&sync->comm, comm_kind_for(desc->world, desc->backend),
                  &(CommDesc){.world = desc->world,
                              .backend = desc->backend,
                              .device = desc->device,
                              .watchdog = desc->watchdog,
                              .log = desc->log,
                              .timeout_s = desc->timeout_s}));
  GUARD(comm_memory_alloc(sync->comm, &sync->sum, desc->layout->reduced));
  GUARD(cut_buckets(sync));
  if (desc->reproducible) {
    ReduceTreeDesc tree = describe_tree(desc);
    GUARD(reduce_tree_create(&sync->tree, sync->comm, &tree));
  }
  *out = sync;
  sync = NULL;
out:
  gradsync_free(sync);
  return status;
}

void gradsync_free(GradSync *sync) {
  if (!sync) return;
  reduce_tree_free(sync->tree);
  comm_memory_free(sync->comm, sync->sum);
  comm_close(sync->comm);
  memory_free(sync->buckets);
  memory_free(sync->bucket_of);
  memory_free(sync);
}

float *gradsync_gradients(GradSync *sync) {
  return sync->sum;
}

// sum[slice] += or, for the first worker, = gradients[slice].
static Status add_slice(GradSync *sync, const float *gradients, int64_t first, int64_t count) {
  if (sync->sum_is_empty)
    return sync->backend->vector_scale(sync->device, sync->sum + first, gradients + first, 1.0f,
                                       count);
  return sync->backend->vector_add(sync->device, sync->sum + first, gradients + first, count);
}

Status gradsync_add(GradSync *sync, int worker, const float *gradients) {
  if (sync->tree) return reduce_tree_push(sync->tree, worker, gradients);
  TRY(add_slice(sync, gradients, 0, sync->layout->reduced));
  sync->sum_is_empty = false;
  return STATUS_OK;
}

void gradsync_begin_last(GradSync *sync, const float *gradients) {
  sync->last = gradients;
  sync->next = 0;
  for (int b = 0; b < sync->bucket_count; b++)
    sync->buckets[b].waiting = sync->buckets[b].parameters;
}

static Status begin_bucket(GradSync *sync, const Bucket *bucket) {
  if (sync->last != sync->sum) TRY(add_slice(sync, sync->last, bucket->first, bucket->count));
  return comm_begin_sum(sync->comm, sync->sum + bucket->first, bucket->count);
}

// In the order of the arena whatever the order of layers, which a rank without samples does not
// have: all ranks begin the same sums in the same order.
Status gradsync_ready(void *context, int parameter) {
  GradSync *sync = context;
  if (sync->layout->offsets[parameter] < sync->layout->trained)
    sync->buckets[sync->bucket_of[parameter]].waiting--;
  while (sync->next < sync->bucket_count && sync->buckets[sync->next].waiting == 0)
    TRY(begin_bucket(sync, &sync->buckets[sync->next++]));
  return comm_progress(sync->comm);
}

Status gradsync_finish(GradSync *sync) {
  sync->sum_is_empty = true;
  return sync->tree ? reduce_tree_finish(sync->tree, sync->sum) : comm_wait_all(sync->comm);
}

void gradsync_cancel(GradSync *sync) {
  sync->sum_is_empty = true;
  if (sync->tree) reduce_tree_cancel(sync->tree);
}

size_t gradsync_memory_bytes(const GradSyncDesc *desc) {
  size_t bytes = memory_block_bytes((size_t)desc->layout->reduced * sizeof(float));
  ReduceTreeDesc tree = describe_tree(desc);
  return desc->reproducible ? bytes + reduce_tree_memory_bytes(&tree) : bytes;
}
