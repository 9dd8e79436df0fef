// The ranks and their control plane on MPI. See world.h.
//
// All of it runs on a communicator of its own, so that it never meets the data plane's messages.
#include "dist/world.h"

#include <mpi.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/memory.h"
#include "dist/mpi_try.h"

enum {
  PIECE_BYTES = 1 << 30, // MPI counts are int: longer blocks travel in pieces
  TEXT_CAPACITY = 3072,  // what of a message travels between ranks
};

struct WorldLinks {
  MPI_Comm control; // all ranks
};

Status dist__mpi_failed(int code, const char *call) {
  char text[MPI_MAX_ERROR_STRING] = "unknown error";
  int length = 0;
  (void)MPI_Error_string(code, text, &length);
  return status_set(STATUS_OS, "%.80s: %s", call, text);
}

// --- start and end -------------------------------------------------------------------------------

static bool in_environment(const char *name) {
  return getenv(name) != NULL;
}

// A process that no launcher started would fork a daemon that serves MPI_Comm_spawn: 0.1 s for
// nothing. Without it all such processes of a user would share one session folder under TMPDIR, and
// the end of one takes it from another that starts; a process alone needs none.
static void start_alone(void) {
  static const char *const launchers[] = {"OMPI_COMM_WORLD_SIZE", "PMIX_NAMESPACE", "PMIX_RANK",
                                          "PMI_RANK", "PMI_FD"};
  for (size_t i = 0; i < sizeof launchers / sizeof *launchers; i++)
    if (in_environment(launchers[i])) return;
  (void)setenv("OMPI_MCA_ess_singleton_isolated", "1", 0);
  (void)setenv("OMPI_MCA_orte_create_session_dirs", "0", 0);
}

void world_find_launch(int *rank, int *size) {
  // mpirun's come first: under it, Slurm's are of the daemon that it runs in.
  static const struct {
    const char *size, *rank;
  } launchers[] = {{"OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"},
                   {"PMI_SIZE", "PMI_RANK"},
                   {"SLURM_STEP_NUM_TASKS", "SLURM_PROCID"}};
  *rank = 0;
  *size = 1;
  for (size_t i = 0; i < sizeof launchers / sizeof *launchers; i++) {
    const char *size_text = getenv(launchers[i].size), *rank_text = getenv(launchers[i].rank);
    if (!size_text || !rank_text) continue;
    *size = atoi(size_text);
    *rank = atoi(rank_text);
    return;
  }
}

// srun without PMIx starts n processes that each believe to be alone and would train n times.
static Status check_launcher(int size) {
  const char *tasks = getenv("SLURM_STEP_NUM_TASKS");
  if (size > 1 || tasks == NULL || atoi(tasks) < 2 || in_environment("OMPI_COMM_WORLD_SIZE"))
    return STATUS_OK;
  return status_set(STATUS_CONFIG,
                    "srun started %s tasks but MPI sees one process: use `srun --mpi=pmix` "
                    "(`srun --mpi=list` shows what this cluster has) or mpirun",
                    tasks);
}

static Status find_neighbours(World *world) {
  Status status = STATUS_OK;
  MPI_Comm node = MPI_COMM_NULL;
  GUARD(MPI_STATUS(MPI_Comm_split_type(world->links->control, MPI_COMM_TYPE_SHARED, world->rank,
                                       MPI_INFO_NULL, &node)));
  GUARD(MPI_STATUS(MPI_Comm_rank(node, &world->local_rank)));
  GUARD(MPI_STATUS(MPI_Comm_size(node, &world->local_size)));
  world->node_rank = world->rank;
  GUARD(MPI_STATUS(MPI_Bcast(&world->node_rank, 1, MPI_INT, 0, node)));
  world->host_count = world->local_rank == 0;
  GUARD(MPI_STATUS(MPI_Allreduce(MPI_IN_PLACE, &world->host_count, 1, MPI_INT, MPI_SUM,
                                 world->links->control)));
out:
  if (node != MPI_COMM_NULL) (void)MPI_Comm_free(&node);
  return status;
}

Status world_open(World **out, int *argc, char ***argv) {
  *out = NULL;
  Status status = STATUS_OK;
  World *world = NULL;
  int provided = 0;
  start_alone();
  MPI_TRY(MPI_Init_thread(argc, argv, MPI_THREAD_SERIALIZED, &provided));
  (void)MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  (void)MPI_Comm_set_errhandler(MPI_COMM_SELF, MPI_ERRORS_RETURN);
  GUARD(memory_alloc(&world, 1, sizeof *world));
  GUARD(memory_alloc(&world->links, 1, sizeof *world->links));
  world->links->control = MPI_COMM_NULL;
  if (provided < MPI_THREAD_SERIALIZED) {
    status = status_set(STATUS_OS, "this MPI allows no threads beside it: use an Open MPI built "
                                   "with thread support (Debian's is)");
    goto out;
  }
  GUARD(MPI_STATUS(MPI_Comm_dup(MPI_COMM_WORLD, &world->links->control))); // keeps ERRORS_RETURN
  GUARD(MPI_STATUS(MPI_Comm_rank(world->links->control, &world->rank)));
  GUARD(MPI_STATUS(MPI_Comm_size(world->links->control, &world->size)));
  GUARD(check_launcher(world->size));
  if (gethostname(world->host, sizeof world->host) != 0) (void)strcpy(world->host, "localhost");
  world->host[sizeof world->host - 1] = '\0';
  GUARD(find_neighbours(world));
  *out = world;
  world = NULL;
out:
  if (world != NULL && world->links == NULL)
    memory_free(world);
  else if (world != NULL)
    world_close(world);
  return status;
}

void world_close(World *world) {
  if (world == NULL) return;
  if (world->links->control != MPI_COMM_NULL) (void)MPI_Comm_free(&world->links->control);
  (void)MPI_Finalize();
  memory_free(world->links);
  memory_free(world);
}

_Noreturn void world_abort(World *world, int exit_code) {
  if (world != NULL && world->size > 1) (void)MPI_Abort(MPI_COMM_WORLD, exit_code);
  exit(exit_code);
}

_Noreturn void world_fail(World *world, Log *log, Status code) {
  enum { PATIENCE_MS = 2500 }; // MPI_Abort took more than half a second to reach three ranks
  if (world->rank > 0) clock_sleep_ms(PATIENCE_MS);
  log_error(log, "%s", status_message());
  world_abort(world, (int)code);
}

const char *world_library(char text[WORLD_LIBRARY_CAPACITY]) {
  char library[MPI_MAX_LIBRARY_VERSION_STRING] = "";
  int length, level = MPI_THREAD_SERIALIZED;
  (void)MPI_Get_library_version(library, &length);
  (void)MPI_Query_thread(&level);
  library[strcspn(library, ",\n")] = '\0'; // behind it: who built it and when
  (void)snprintf(text, WORLD_LIBRARY_CAPACITY, "%.80s, its calls %s", library,
                 level == MPI_THREAD_MULTIPLE ? "from any thread" : "serialized");
  return text;
}

// --- collectives ---------------------------------------------------------------------------------

Status world_barrier(World *world) {
  MPI_TRY(MPI_Barrier(world->links->control));
  return STATUS_OK;
}

static size_t piece_of(size_t left_bytes) {
  return left_bytes < PIECE_BYTES ? left_bytes : PIECE_BYTES;
}

Status world_broadcast(World *world, void *data, size_t size_bytes, int root) {
  char *bytes = data;
  for (size_t done = 0; done < size_bytes;) {
    size_t piece = piece_of(size_bytes - done);
    MPI_TRY(MPI_Bcast(bytes + done, (int)piece, MPI_BYTE, root, world->links->control));
    done += piece;
  }
  return STATUS_OK;
}

Status world_allgather_bytes(World *world, void *out, const void *data, size_t size_bytes) {
  if (size_bytes <= PIECE_BYTES) {
    MPI_TRY(MPI_Allgather(data, (int)size_bytes, MPI_BYTE, out, (int)size_bytes, MPI_BYTE,
                          world->links->control));
    return STATUS_OK;
  }
  char *bytes = out;
  memcpy(bytes + (size_t)world->rank * size_bytes, data, size_bytes);
  for (int r = 0; r < world->size; r++)
    TRY(world_broadcast(world, bytes + (size_t)r * size_bytes, size_bytes, r));
  return STATUS_OK;
}

Status world_allgather_f64(World *world, double *out, const double *values, int count) {
  return world_allgather_bytes(world, out, values, (size_t)count * sizeof *values);
}

Status world_reduce_i64(World *world, WorldOp op, int64_t *values, int count) {
  MPI_Op mpi_op = op == WORLD_SUM ? MPI_SUM : op == WORLD_MAX ? MPI_MAX : MPI_MIN;
  MPI_TRY(MPI_Allreduce(MPI_IN_PLACE, values, count, MPI_INT64_T, mpi_op, world->links->control));
  return STATUS_OK;
}

static double combine_f64(WorldOp op, double a, double b) {
  switch (op) {
  case WORLD_SUM:
    return a + b;
  case WORLD_MAX:
    return b > a || b != b ? b : a; // a NaN stays to be seen
  case WORLD_MIN:
    return b < a || b != b ? b : a;
  }
  return a;
}

Status world_reduce_f64(World *world, WorldOp op, double *values, int count) {
  if (world->size == 1) return STATUS_OK;
  double *all = NULL;
  Status status = STATUS_OK;
  GUARD(memory_alloc(&all, (size_t)world->size * (size_t)count, sizeof *all));
  GUARD(world_allgather_f64(world, all, values, count));
  memcpy(values, all, (size_t)count * sizeof *all);
  for (int r = 1; r < world->size; r++)
    for (int i = 0; i < count; i++)
      values[i] = combine_f64(op, values[i], all[(size_t)r * (size_t)count + (size_t)i]);
out:
  memory_free(all);
  return status;
}

// Sends this rank's block to rank 0 in pieces, or receives rank `from`'s block there.
static Status send_block(World *world, const char *data, size_t size_bytes) {
  for (size_t done = 0; done < size_bytes;) {
    size_t piece = piece_of(size_bytes - done);
    MPI_TRY(MPI_Send(data + done, (int)piece, MPI_BYTE, 0, 0, world->links->control));
    done += piece;
  }
  return STATUS_OK;
}

static Status receive_block(World *world, int from, char *data, size_t size_bytes) {
  for (size_t done = 0; done < size_bytes;) {
    size_t piece = piece_of(size_bytes - done);
    MPI_TRY(MPI_Recv(data + done, (int)piece, MPI_BYTE, from, 0, world->links->control,
                     MPI_STATUS_IGNORE));
    done += piece;
  }
  return STATUS_OK;
}

static Status receive_all(World *world, char *out, const size_t *sizes, const void *mine) {
  if (sizes[0] > 0) memcpy(out, mine, sizes[0]);
  out += sizes[0];
  for (int r = 1; r < world->size; r++) {
    TRY(receive_block(world, r, out, sizes[r]));
    out += sizes[r];
  }
  return STATUS_OK;
}

Status world_gather_bytes(World *world, void **out, size_t *sizes, const void *data,
                          size_t size_bytes) {
  *out = NULL;
  Status status = STATUS_OK;
  size_t *lengths = NULL, total = 0;
  char *block = NULL;
  GUARD(world_agree_status(world, memory_alloc(&lengths, (size_t)world->size, sizeof *lengths)));
  GUARD(world_allgather_bytes(world, lengths, &size_bytes, sizeof size_bytes));
  for (int r = 0; r < world->size; r++) total += lengths[r];
  if (world->rank == 0) status = memory_alloc(&block, total, 1);
  GUARD(world_agree_status(world, status));
  if (world->rank != 0) {
    status = send_block(world, data, size_bytes);
    goto out;
  }
  GUARD(receive_all(world, block, lengths, data));
  memcpy(sizes, lengths, (size_t)world->size * sizeof *sizes);
  *out = block;
  block = NULL;
out:
  memory_free(block);
  memory_free(lengths);
  return status;
}

static void place_blocks(int *places, const int *counts, int ranks) {
  for (int r = 0, next = 0; r < ranks; r++) {
    places[r] = next;
    next += counts[r];
  }
}

Status world_exchange_rows(World *world, const WorldExchange *exchange) {
  int *places = NULL;
  MPI_Datatype row = MPI_DATATYPE_NULL;
  size_t ranks = (size_t)world->size;
  Status status = STATUS_OK;
  GUARD(memory_alloc(&places, 2 * ranks, sizeof *places));
  place_blocks(places, exchange->send_counts, world->size);
  place_blocks(places + ranks, exchange->receive_counts, world->size);
  GUARD(MPI_STATUS(MPI_Type_contiguous((int)exchange->row_bytes, MPI_BYTE, &row)));
  GUARD(MPI_STATUS(MPI_Type_commit(&row)));
  GUARD(MPI_STATUS(MPI_Alltoallv(exchange->send, exchange->send_counts, places, row,
                                 exchange->receive, exchange->receive_counts, places + ranks, row,
                                 world->links->control)));
out:
  if (row != MPI_DATATYPE_NULL) (void)MPI_Type_free(&row);
  memory_free(places);
  return status;
}

// --- agreement -----------------------------------------------------------------------------------

// How bad a status is: a rank that only stopped early gives way to one that failed.
static int severity(int status) {
  if (status == STATUS_OK) return 0;
  return status == STATUS_STOPPED ? 1 : 1 + status;
}

// "rank 2 of 4 on HOST", "ranks 1, 3 of 4", "all 4 ranks".
static void name_ranks(char *text, size_t capacity, const World *world, const int *codes) {
  enum { NAMED = 8 };
  int failed = 0;
  for (int r = 0; r < world->size; r++) failed += codes[r] != STATUS_OK;
  if (failed == 1) {
    (void)snprintf(text, capacity, "rank %d of %d on %s", world->rank, world->size, world->host);
    return;
  }
  if (failed == world->size) {
    (void)snprintf(text, capacity, "all %d ranks", world->size);
    return;
  }
  int used = snprintf(text, capacity, "ranks");
  for (int r = 0, named = 0; r < world->size && named < NAMED; r++)
    if (codes[r] != STATUS_OK)
      used += snprintf(text + used, capacity - (size_t)used, "%s %d", named++ == 0 ? "" : ",", r);
  if (failed > NAMED)
    used += snprintf(text + used, capacity - (size_t)used, " and %d more", failed - NAMED);
  (void)snprintf(text + used, capacity - (size_t)used, " of %d", world->size);
}

static Status share_message(World *world, const int *codes, int root) {
  char text[TEXT_CAPACITY] = "";
  if (world->rank == root) {
    char ranks[256];
    name_ranks(ranks, sizeof ranks, world, codes);
    (void)snprintf(text, sizeof text, "%s: %.2700s", ranks, status_message());
  }
  TRY(world_broadcast(world, text, sizeof text, root));
  return status_set((Status)codes[root], "%s", text);
}

Status world_agree_status(World *world, Status mine) {
  if (world->size == 1) return mine;
  int64_t worst = severity((int)mine);
  TRY(world_reduce_i64(world, WORLD_MAX, &worst,
                       1)); // all is well nearly always: one small message
  if (worst == 0) return STATUS_OK;

  int *codes = NULL, code = (int)mine, root = 0;
  Status status = memory_alloc(&codes, (size_t)world->size, sizeof *codes);
  if (status != STATUS_OK) return status; // the job is failing anyway and ends with this rank
  GUARD(world_allgather_bytes(world, codes, &code, sizeof code));
  while (severity(codes[root]) != worst) root++;
  status = share_message(world, codes, root);
out:
  memory_free(codes);
  return status;
}
