// The sum over virtual workers in the order of a fixed tree. See reduce_tree.h.
//
// Each rank keeps a stack of the subtrees it has finished; two siblings on top become their parent
// at once. What is left after the last worker are the largest subtrees inside the rank's block.
// Every rank knows everybody's (they follow from V and R alone), so the exchange needs no headers:
// for each chunk of elements, every rank receives its slice of all subtrees of all ranks, goes on
// adding siblings until the root is left, and the slices are gathered again. The next chunk travels
// meanwhile.
#include "dist/reduce_tree.h"

#include <assert.h>
#include <stdbool.h>

#include "base/memory.h"

enum {
  HOST_SCRATCH_FLOATS = 1 << 20,   // received slices of one chunk: 4 MiB, which caches hold
  DEVICE_SCRATCH_FLOATS = 1 << 22, // 16 MiB: few launches
  SLICE_MIN = 1024,                // floats of a message below which latency rules
  LINE_FLOATS = MEMORY_ALIGNMENT / (int)sizeof(float),
};

typedef struct Node { // the workers [lo, hi)
  int lo, hi;
} Node;

typedef struct Addition { // slot[into] += slot[from]
  int into, from;
} Addition;

struct ReduceTree {
  Comm *comm;
  const Backend *backend;
  Device *device;
  int rank, size;
  int workers; // of all ranks
  int64_t count;

  // this rank's own workers
  int first, end, next; // [first, end); next to be pushed
  Node *stack;          // finished subtrees, left to right
  int depth;
  float *buffers; // the stack's sums, device memory
  int64_t stride; // floats from one buffer to the next

  // the exchange
  int *first_slot; // [size + 1]: where rank r's subtrees start among everybody's
  Addition *additions;
  int addition_count;
  float *scratch;            // [2][slots][slice]: one half is added while the other travels
  int64_t slice;             // floats
  CommExchange *exchange[2]; // of the halves
  int *counts;               // [size] slices of a chunk, for the gather
};

// --- the shape of the tree -----------------------------------------------------------------------

static int tree_split(Node node) { // the first worker of the right part
  int left = 1;
  while (left * 2 < node.hi - node.lo) left *= 2;
  return node.lo + left;
}

// Whether `left` and `right`, which touch, are the two parts of one node of the tree over
// `workers`.
static bool are_siblings(int workers, Node left, Node right) {
  Node node = {0, workers};
  while (node.lo < left.lo || node.hi > right.hi) {
    int middle = tree_split(node);
    if (right.hi <= middle)
      node.hi = middle;
    else if (left.lo >= middle)
      node.lo = middle;
    else
      return false;
  }
  return tree_split(node) == left.hi;
}

// Puts `node` on the stack and joins siblings. Returns how many joins: the node went into the
// buffer below, that one into the next below, and so on.
static int stack_push(Node *stack, int *depth, int workers, Node node) {
  int joins = 0;
  stack[(*depth)++] = node;
  while (*depth > 1 && are_siblings(workers, stack[*depth - 2], stack[*depth - 1])) {
    stack[*depth - 2].hi = stack[*depth - 1].hi;
    (*depth)--;
    joins++;
  }
  return joins;
}

enum { STACK_CAPACITY = 64 }; // 2 log2(2^31) + 1 at most

// The subtrees left when workers [first, end) have been pushed. `*buffers` is the most that were
// there at one time after a push.
static int subtrees_of_block(Node stack[STACK_CAPACITY], int *buffers, int workers, int first,
                             int end) {
  int depth = 0;
  *buffers = 0;
  for (int w = first; w < end; w++) {
    (void)stack_push(stack, &depth, workers, (Node){w, w + 1});
    if (depth > *buffers) *buffers = depth;
  }
  return depth;
}

static int slot_count(int workers, int size) {
  Node stack[STACK_CAPACITY];
  int slots = 0, buffers;
  for (int r = 0; r < size; r++)
    slots +=
        subtrees_of_block(stack, &buffers, workers, workers / size * r, workers / size * (r + 1));
  return slots;
}

static int64_t padded(int64_t count) {
  return (count + LINE_FLOATS - 1) / LINE_FLOATS * LINE_FLOATS;
}

static int64_t slice_length(const Backend *backend, int slots, int size, int64_t count) {
  int64_t slice = (backend->native_stream ? DEVICE_SCRATCH_FLOATS : HOST_SCRATCH_FLOATS) / slots;
  if (slice < SLICE_MIN) slice = SLICE_MIN;
  int64_t whole = (count + size - 1) / size;
  return padded(slice < whole ? slice : whole);
}

size_t reduce_tree_memory_bytes(const ReduceTreeDesc *desc) {
  Node stack[STACK_CAPACITY];
  int size = desc->world->size, rank = desc->world->rank;
  int share = desc->virtual_workers / size, buffers;
  (void)subtrees_of_block(stack, &buffers, desc->virtual_workers, share * rank, share * (rank + 1));
  int64_t floats = buffers * padded(desc->count);
  if (size > 1) {
    int slots = slot_count(desc->virtual_workers, size);
    floats += 2 * slots * slice_length(desc->backend, slots, size, desc->count);
  }
  return (size_t)floats * sizeof(float);
}

// --- create and free -----------------------------------------------------------------------------

static Status alloc_floats(const ReduceTree *tree, float **out, int64_t count) {
  void *memory;
  TRY(tree->backend->memory_alloc(tree->device, &memory, (size_t)count * sizeof(float)));
  *out = memory;
  return STATUS_OK;
}

// Where everybody's subtrees lie among the slots, and the additions that leave the root in slot 0.
static Status plan_exchange(ReduceTree *tree) {
  int size = tree->size, share = tree->workers / size;
  int slots = slot_count(tree->workers, size), depth = 0;
  Node *nodes = NULL;
  int *slot_of = NULL;
  Status status = STATUS_OK;
  GUARD(memory_alloc(&tree->first_slot, (size_t)size + 1, sizeof *tree->first_slot));
  GUARD(memory_alloc(&tree->additions, (size_t)slots, sizeof *tree->additions));
  GUARD(memory_alloc(&nodes, (size_t)slots, sizeof *nodes));
  GUARD(memory_alloc(&slot_of, (size_t)slots, sizeof *slot_of));
  for (int r = 0, slot = 0; r < size; r++) {
    Node block[STACK_CAPACITY];
    int buffers,
        left = subtrees_of_block(block, &buffers, tree->workers, share * r, share * (r + 1));
    tree->first_slot[r] = slot;
    for (int i = 0; i < left; i++, slot++) {
      slot_of[depth] = slot;
      for (int joins = stack_push(nodes, &depth, tree->workers, block[i]), top = depth + joins - 1;
           joins > 0; joins--, top--)
        tree->additions[tree->addition_count++] = (Addition){slot_of[top - 1], slot_of[top]};
    }
    tree->first_slot[r + 1] = slot;
  }
  assert(depth == 1 && tree->addition_count == slots - 1);
  tree->slice = slice_length(tree->backend, slots, size, tree->count);
  GUARD(alloc_floats(tree, &tree->scratch, 2 * slots * tree->slice));
  int own = tree->first_slot[tree->rank + 1] - tree->first_slot[tree->rank];
  int received = slots - own, sent = own * (size - 1);
  for (int half = 0; half < 2; half++)
    GUARD(
        comm_exchange_create(&tree->exchange[half], tree->comm, received > sent ? received : sent));
  GUARD(memory_alloc(&tree->counts, (size_t)size, sizeof *tree->counts));
out:
  memory_free(slot_of);
  memory_free(nodes);
  return status;
}

Status reduce_tree_create(ReduceTree **out, Comm *comm, const ReduceTreeDesc *desc) {
  *out = NULL;
  int workers = desc->virtual_workers, size = desc->world->size;
  if (workers < 1 || workers % size != 0)
    return status_set(STATUS_CONFIG,
                      "%d virtual workers cannot be shared equally by %d ranks: choose a number of "
                      "ranks that divides virtual_workers",
                      workers, size);
  Status status = STATUS_OK;
  ReduceTree *tree = NULL;
  int buffers, share = workers / size;
  Node block[STACK_CAPACITY];
  TRY(memory_alloc(&tree, 1, sizeof *tree));
  tree->comm = comm;
  tree->backend = desc->backend;
  tree->device = comm->desc.device;
  tree->rank = desc->world->rank;
  tree->size = size;
  tree->workers = workers;
  tree->count = desc->count;
  tree->first = tree->next = share * tree->rank;
  tree->end = tree->first + share;
  tree->stride = padded(desc->count);
  (void)subtrees_of_block(block, &buffers, workers, tree->first, tree->end);
  GUARD(memory_alloc(&tree->stack, (size_t)buffers + 1, sizeof *tree->stack)); // 1: before a join
  GUARD(alloc_floats(tree, &tree->buffers, buffers * tree->stride));
  if (size > 1) GUARD(plan_exchange(tree));
  *out = tree;
  tree = NULL;
out:
  reduce_tree_free(tree);
  return status;
}

void reduce_tree_free(ReduceTree *tree) {
  if (tree == NULL) return;
  memory_free(tree->counts);
  for (int half = 0; half < 2; half++) comm_exchange_free(tree->exchange[half]);
  tree->backend->memory_free(tree->device, tree->scratch);
  memory_free(tree->additions);
  memory_free(tree->first_slot);
  tree->backend->memory_free(tree->device, tree->buffers);
  memory_free(tree->stack);
  memory_free(tree);
}

void reduce_tree_workers(const ReduceTree *tree, int *first, int *count) {
  *first = tree->first;
  *count = tree->end - tree->first;
}

// --- adding --------------------------------------------------------------------------------------

static Status add(const ReduceTree *tree, float *into, const float *from, int64_t count) {
  return tree->backend->vector_add(tree->device, into, from, count);
}

static Status copy(const ReduceTree *tree, float *to, const float *from, int64_t count) {
  return tree->backend->vector_scale(tree->device, to, from, 1.0f, count); // exact
}

Status reduce_tree_push(ReduceTree *tree, int worker, const float *gradients) {
  if (worker != tree->next || worker >= tree->end)
    return status_set(STATUS_INTERNAL, "reduce tree: worker %d pushed where %d of [%d, %d) is due",
                      worker, tree->next, tree->first, tree->end);
  tree->next++;
  int joins = stack_push(tree->stack, &tree->depth, tree->workers, (Node){worker, worker + 1});
  float *top = tree->buffers + (tree->depth + joins - 1) * tree->stride;
  if (joins == 0) return copy(tree, top, gradients, tree->count);
  top -= tree->stride; // a right part goes straight into its left one
  TRY(add(tree, top, gradients, tree->count));
  for (; joins > 1; joins--, top -= tree->stride)
    TRY(add(tree, top - tree->stride, top, tree->count));
  return STATUS_OK;
}

// --- the exchange --------------------------------------------------------------------------------

static int64_t min_count(int64_t a, int64_t b) {
  return a < b ? a : b;
}

// The elements of rank r in a chunk of `length` elements: [begin, begin + count).
static void slice_of_rank(const ReduceTree *tree, int64_t length, int r, int64_t *begin,
                          int *count) {
  int64_t share = (length + tree->size - 1) / tree->size;
  *begin = min_count(r * share, length);
  *count = (int)(min_count((r + 1) * share, length) - *begin);
}

static int64_t chunk_length(const ReduceTree *tree, int64_t base) {
  return min_count(tree->slice * tree->size, tree->count - base);
}

static float *slot_of_half(const ReduceTree *tree, int half, int slot) {
  return tree->scratch + (half * tree->first_slot[tree->size] + slot) * tree->slice;
}

// Starts to bring this rank's slice of the others' subtrees into the slots of one half of the
// scratch, for the chunk at `base`. Peers start at the next rank, so that not all talk to rank 0
// first.
static Status begin_exchange(ReduceTree *tree, int half, int64_t base) {
  CommExchange *exchange = tree->exchange[half];
  int size = tree->size, rank = tree->rank, mine;
  int64_t length = chunk_length(tree, base), begin;
  slice_of_rank(tree, length, rank, &begin, &mine);
  exchange->send_count = exchange->receive_count = 0;
  for (int k = 1; k < size; k++) {
    int from = (rank + size - k) % size;
    for (int i = tree->first_slot[from]; i < tree->first_slot[from + 1]; i++)
      exchange->receives[exchange->receive_count++] =
          (CommBlock){.data = slot_of_half(tree, half, i), .count = mine, .peer = from};
  }
  for (int k = 1; k < size; k++) {
    int to = (rank + k) % size, count;
    slice_of_rank(tree, length, to, &begin, &count);
    for (int i = 0; i < tree->depth; i++)
      exchange->sends[exchange->send_count++] = (CommBlock){
          .data = tree->buffers + i * tree->stride + base + begin, .count = count, .peer = to};
  }
  return comm_begin_exchange(exchange);
}

// Puts this rank's slice of its own subtrees beside what has come. That must be behind the exchange
// and thus behind the gather before it, which reads slot 0 of this half: on rank 0 that is an own
// one.
static Status copy_own(ReduceTree *tree, int half, int64_t base) {
  int64_t begin;
  int count;
  slice_of_rank(tree, chunk_length(tree, base), tree->rank, &begin, &count);
  for (int i = 0; i < tree->depth; i++)
    TRY(copy(tree, slot_of_half(tree, half, tree->first_slot[tree->rank] + i),
             tree->buffers + i * tree->stride + base + begin, count));
  return STATUS_OK;
}

// Adds the slots of one half in tree order, and shows everybody the sum, left in slot 0.
static Status finish_exchange(ReduceTree *tree, int half, int64_t base, float *sum) {
  int64_t length = chunk_length(tree, base), begin;
  for (int r = 0; r < tree->size; r++) slice_of_rank(tree, length, r, &begin, &tree->counts[r]);
  TRY(comm_wait_exchange(tree->exchange[half]));
  TRY(copy_own(tree, half, base));
  for (int i = 0; i < tree->addition_count; i++)
    TRY(add(tree, slot_of_half(tree, half, tree->additions[i].into),
            slot_of_half(tree, half, tree->additions[i].from), tree->counts[tree->rank]));
  return comm_begin_gather(tree->comm, sum + base, slot_of_half(tree, half, 0), tree->counts);
}

Status reduce_tree_finish(ReduceTree *tree, float *sum) {
  if (tree->next != tree->end)
    return status_set(STATUS_INTERNAL, "reduce tree: finished with worker %d of [%d, %d) missing",
                      tree->next, tree->first, tree->end);
  tree->next = tree->first;
  if (tree->size == 1) {
    tree->depth = 0;
    return copy(tree, sum, tree->buffers, tree->count);
  }
  int64_t chunk = tree->slice * tree->size;
  int half = 0;
  if (tree->count > 0) TRY(begin_exchange(tree, 0, 0));
  for (int64_t base = 0; base < tree->count; base += chunk, half ^= 1) {
    if (base + chunk < tree->count) TRY(begin_exchange(tree, half ^ 1, base + chunk));
    TRY(finish_exchange(tree, half, base, sum));
  }
  tree->depth = 0;
  return comm_wait_all(tree->comm);
}

void reduce_tree_cancel(ReduceTree *tree) {
  tree->next = tree->first;
  tree->depth = 0;
}
