// NCCL over MPI, on memory that is the host's: the calls that imgcls makes, of a non-blocking
// communicator of all ranks, and the ways in which it fails. See standin.h.
//
// As in NCCL, an operation reaches its stream only some questions for the state after the call, and
// the communicator takes no other meanwhile; then it is done when something waits for it. It must
// stand behind a wait for another stream: without one, it would read what is not there yet.
//
// STANDIN_NCCL is a list of these, separated by commas; STANDIN_NCCL_RANK is the only
// rank that does so (all).
//   version=N       as ncclGetVersion has it (22809)
//   stuck_init      the ranks never find each other
//   stuck=K         the K-th operation is never launched
//   hang=K          the K-th operation is launched and never done
//   remote_error=K  instead of the K-th operation, ncclRemoteError
//   record_error    the first operation of a capture cannot be launched, and none behind it
//   meet            an operation of a capture is launched when all ranks have got that far, as where
//                   NVLS registers memory
//   hang_abort      ncclCommAbort does not return
//   destroy_error   ncclCommDestroy fails behind its work
//   window_error    the first window is begun and fails
//   no_memory, no_windows, no_registration
//   no_symmetry     windows are handles of plain registrations
#include <mpi.h>
#include <nccl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "capture.h"
#include "standin.h"

enum {
  OPERATIONS = 512, // of one group
  QUESTIONS = 2,    // until an operation is launched
  MEMORY_ALIGNMENT = 4096,
};

typedef enum Kind { ALL_REDUCE, ALL_GATHER, BROADCAST, SEND, RECEIVE } Kind;

typedef struct Operation {
  Kind kind;
  const void *from;
  void *to;
  size_t count;
  int peer;
} Operation;

struct ncclComm {
  MPI_Comm mpi;
  int device; // of the thread that made it
  MPI_Request setup; // of what all say of themselves, then of the communicator
  struct Peer *peers;
  MPI_Comm meetings; // their own, as the device's operations come at other times
  MPI_Request meeting;
  ncclResult_t state;
  int questions;
  int operations; // groups begun
  int recorded;   // in graphs that are there
  int aborted;
  int destroyed;
  struct ncclComm *next; // ended ones stay: their works may stand on streams
  struct Launch *launching;
  void *window_memory;
  ncclWindow_t *window;
};

typedef struct Peer {
  char host[64];
  int device;
} Peer;

typedef struct Launch { // a group
  ncclComm_t comm;
  cudaStream_t stream;
  int count;
  Operation operations[];
} Launch;

#define FAIL_WHEN_DUE()                                                                            \
  if (standin_call_fails()) return ncclSystemError

// --- what it is told -----------------------------------------------------------------------------

// The number behind a word of STANDIN_NCCL: 0 where it is absent, 1 where it has none.
static int told(const char *word) {
  const char *list = getenv("STANDIN_NCCL"), *only = getenv("STANDIN_NCCL_RANK");
  int rank;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  if (!list || (only && atoi(only) != rank)) return 0;
  size_t length = strlen(word);
  for (const char *at = list; at; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL)
    if (strncmp(at, word, length) == 0 && strchr("=,", at[length]))
      return at[length] == '=' ? atoi(at + length + 1) : 1;
  return 0;
}

static int version_told(void) {
  int version = told("version");
  return version ? version : 22809;
}

int nccl__library_load(void);
int nccl__library_load(void) {
  return standin_call_fails() ? standin_missing("libnccl.so.2") : 0;
}

ncclResult_t ncclGetVersion(int *version) {
  FAIL_WHEN_DUE();
  *version = version_told();
  return ncclSuccess;
}

const char *ncclGetErrorString(ncclResult_t result) {
  return result == ncclSystemError          ? "unhandled system error"
         : result == ncclUnhandledCudaError ? "unhandled cuda error"
         : result == ncclRemoteError        ? "remote process exited or there was a network error"
         : result == ncclInvalidUsage       ? "invalid usage"
         : result == ncclInternalError      ? "internal error"
                                            : "some error";
}

const char *ncclGetLastError(ncclComm_t comm) {
  (void)comm;
  return "the stand-in was told to\n";
}

// --- communicators -------------------------------------------------------------------------------

ncclResult_t ncclGetUniqueId(ncclUniqueId *id) {
  FAIL_WHEN_DUE();
  memset(id, 7, sizeof *id);
  return ncclSuccess;
}

// As NCCL: the name of the host once, and one rank a GPU of each host, unless from 2.30.3 on that is
// allowed.
static Peer peer_of_this_rank(void) {
  static Peer mine;
  const char *name = getenv("NCCL_HOSTID");
  if (!mine.host[0] && name) snprintf(mine.host, sizeof mine.host, "%s", name);
  else if (!mine.host[0]) gethostname(mine.host, sizeof mine.host - 1);
  mine.device = standin_device();
  return mine;
}

static ncclResult_t check_peers(const Peer *peers) {
  const char *allowed = getenv("NCCL_MULTI_RANK_GPU_ENABLE");
  int size;
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  if (version_told() >= 23003 && allowed && atoi(allowed) != 0) return ncclInProgress;
  for (int i = 0; i < size; i++)
    for (int j = 0; j < i; j++)
      if (memcmp(&peers[i], &peers[j], sizeof *peers) == 0) return ncclInvalidUsage;
  return ncclInProgress;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t *out, int ranks, ncclUniqueId id, int rank,
                                    ncclConfig_t *config) {
  FAIL_WHEN_DUE();
  int size, mine;
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  MPI_Comm_rank(MPI_COMM_WORLD, &mine);
  if (size != ranks || mine != rank) standin_unknown("NCCL ranks that are not MPI's");
  if (config->blocking != 0) standin_unknown("a blocking communicator");
  for (size_t i = 0; i < sizeof id.internal; i++)
    if (id.internal[i] != 7) return ncclInvalidArgument;
  ncclComm_t comm = calloc(1, sizeof *comm);
  if (comm) comm->peers = calloc((size_t)size, sizeof *comm->peers);
  if (!comm || !comm->peers) return ncclSystemError;
  comm->state = ncclInProgress;
  comm->device = standin_device();
  comm->meeting = MPI_REQUEST_NULL;
  comm->setup = MPI_REQUEST_NULL;
  comm->peers[mine] = peer_of_this_rank();
  if (!told("stuck_init"))
    MPI_Iallgather(MPI_IN_PLACE, 0, MPI_BYTE, comm->peers, sizeof *comm->peers, MPI_BYTE,
                   MPI_COMM_WORLD, &comm->setup);
  *out = comm;
  return ncclInProgress;
}

static void launch(ncclComm_t comm);

// Whether the operation that waits may be launched.
static int have_met(ncclComm_t comm) {
  int done = 0;
  if (!comm->launching || !told("meet") || !standin_stream_is_captured(comm->launching->stream))
    return 1;
  if (comm->meeting == MPI_REQUEST_NULL) MPI_Ibarrier(comm->meetings, &comm->meeting);
  MPI_Test(&comm->meeting, &done, MPI_STATUS_IGNORE);
  return done;
}

static void go_on(ncclComm_t comm) {
  int done = 0;
  if (comm->setup != MPI_REQUEST_NULL) {
    MPI_Test(&comm->setup, &done, MPI_STATUS_IGNORE);
    if (!done) return;
    if (comm->peers) {
      comm->state = check_peers(comm->peers);
      free(comm->peers);
      comm->peers = NULL;
      if (comm->state == ncclInProgress) MPI_Comm_idup(MPI_COMM_WORLD, &comm->mpi, &comm->setup);
      return;
    }
    MPI_Comm_dup(comm->mpi, &comm->meetings);
    comm->state = ncclSuccess;
  } else if (comm->mpi != 0 && comm->questions > 0 && --comm->questions == 0) {
    if (!have_met(comm)) {
      comm->questions = 1;
      return;
    }
    comm->state = ncclSuccess;
    if (comm->window && told("window_error"))
      comm->state = ncclSystemError;
    else if (comm->window)
      *comm->window = told("no_symmetry") ? (ncclWindow_t)comm : (ncclWindow_t)comm->window_memory;
    comm->window = NULL;
    if (comm->launching) launch(comm);
  }
}

// No call to count: how often it is asked is chance.
ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t *state) {
  if (comm->state == ncclInProgress) go_on(comm);
  *state = comm->state;
  return ncclSuccess;
}

ncclResult_t ncclCommFinalize(ncclComm_t comm) {
  FAIL_WHEN_DUE();
  if (comm->state != ncclSuccess) return ncclInvalidArgument;
  if (comm->recorded > 0) standin_unknown("NCCL ends before the graphs that it is in");
  comm->questions = QUESTIONS;
  return comm->state = ncclInProgress;
}

// The calls that end a communicator go by the calling thread's device, and take what is gone for there.
static void check_end(ncclComm_t comm) {
  if (comm->destroyed) standin_unknown("NCCL ends a communicator that it has destroyed");
  if (standin_device() != comm->device)
    standin_unknown("NCCL ends what is device %d's on device %d", comm->device, standin_device());
}

static void keep(ncclComm_t comm) {
  static ncclComm_t ended;
  comm->next = ended;
  ended = comm;
}

// As NCCL on one host: the end of a rank's own work is its own, but this one waits for the others.
ncclResult_t ncclCommDestroy(ncclComm_t comm) {
  check_end(comm);
  FAIL_WHEN_DUE();
  if (comm->state != ncclSuccess) return ncclInvalidArgument;
  MPI_Barrier(comm->mpi);
  MPI_Comm_free(&comm->meetings);
  MPI_Comm_free(&comm->mpi);
  comm->destroyed = 1;
  keep(comm);
  return told("destroy_error") ? ncclUnhandledCudaError : ncclSuccess;
}

ncclResult_t ncclCommAbort(ncclComm_t comm) {
  check_end(comm);
  while (told("hang_abort")) (void)nanosleep(&(struct timespec){.tv_sec = 1}, NULL);
  keep(comm);
  __atomic_store_n(&comm->aborted, 1, __ATOMIC_RELEASE);
  return ncclSuccess;
}

// --- operations ----------------------------------------------------------------------------------

// A device gives up an operation that is aborted.
static void wait_for(ncclComm_t comm, MPI_Request *requests, int count) {
  for (int done = 0; !done && !__atomic_load_n(&comm->aborted, __ATOMIC_ACQUIRE);) {
    MPI_Testall(count, requests, &done, MPI_STATUSES_IGNORE);
    if (!done) (void)nanosleep(&(struct timespec){.tv_nsec = 1000}, NULL);
  }
}

static void begin(const Operation *operation, ncclComm_t comm, MPI_Request *request) {
  int count = (int)operation->count;
  const void *from = operation->from == operation->to ? MPI_IN_PLACE : operation->from;
  switch (operation->kind) {
  case ALL_REDUCE:
    MPI_Iallreduce(from, operation->to, count, MPI_FLOAT, MPI_SUM, comm->mpi, request);
    break;
  case ALL_GATHER:
    MPI_Iallgather(operation->from, count, MPI_FLOAT, operation->to, count, MPI_FLOAT, comm->mpi,
                   request);
    break;
  case BROADCAST:
    if (operation->from != operation->to)
      memcpy(operation->to, operation->from, operation->count * sizeof(float));
    MPI_Ibcast(operation->to, count, MPI_FLOAT, operation->peer, comm->mpi, request);
    break;
  case SEND:
    MPI_Isend(operation->from, count, MPI_FLOAT, operation->peer, 1, comm->mpi, request);
    break;
  case RECEIVE:
    MPI_Irecv(operation->to, count, MPI_FLOAT, operation->peer, 1, comm->mpi, request);
    break;
  }
}

static void run(void *argument) {
  Launch *group = argument;
  MPI_Request requests[OPERATIONS];
  standin_touch_begin();
  if (!group->comm->aborted) {
    for (int i = 0; i < group->count; i++) begin(&group->operations[i], group->comm, &requests[i]);
    wait_for(group->comm, requests, group->count);
  }
  standin_touch_end();
}

static void run_once(void *argument) {
  run(argument);
  free(argument);
}

static void drop(void *argument) {
  Launch *group = argument;
  group->comm->recorded--;
  free(group);
}

static void launch(ncclComm_t comm) {
  Launch *ready = comm->launching;
  if (told("hang") && comm->operations >= told("hang")) standin_stream_hang(ready->stream);
  comm->launching = NULL;
  if (standin_stream_records(ready->stream, run, drop, ready))
    comm->recorded++;
  else
    standin_stream_add(ready->stream, run_once, ready);
}

// The group under way; one thread makes groups.
static Launch *group;
static int depth;
static ncclResult_t group_error; // of a call within it: its end tells

static ncclResult_t end_group(void) {
  Launch *ended = group;
  ncclResult_t error = group_error;
  group = NULL;
  group_error = ncclSuccess;
  if (!ended || error != ncclSuccess) {
    free(ended);
    return error;
  }
  ncclComm_t comm = ended->comm;
  comm->operations++;
  if (!standin_stream_has_waited(ended->stream))
    standin_unknown("an operation that waits for no other stream");
  bool fails = told("remote_error") && comm->operations >= told("remote_error");
  bool cannot = told("record_error") && standin_stream_is_captured(ended->stream);
  comm->state = fails ? ncclRemoteError : cannot ? ncclUnhandledCudaError : ncclInProgress;
  comm->questions = told("stuck") && comm->operations >= told("stuck") ? INT_MAX : QUESTIONS;
  if (fails || cannot)
    free(ended);
  else
    comm->launching = ended;
  return ncclInProgress;
}

ncclResult_t ncclGroupStart(void) {
  FAIL_WHEN_DUE();
  depth++;
  return ncclSuccess;
}

ncclResult_t ncclGroupEnd(void) {
  if (depth == 0) return ncclInvalidUsage;
  if (standin_call_fails()) group_error = ncclSystemError;
  return --depth == 0 ? end_group() : ncclSuccess;
}

static ncclResult_t append(Operation operation, ncclDataType_t type, ncclComm_t comm,
                           cudaStream_t stream) {
  FAIL_WHEN_DUE();
  if (comm->state != ncclSuccess) return ncclInvalidArgument;
  if (type != ncclFloat) standin_unknown("NCCL on type %d", (int)type);
  if (operation.count == 0 || operation.count > INT_MAX) standin_unknown("NCCL on so many floats");
  if (!group) {
    group = malloc(sizeof *group + OPERATIONS * sizeof(Operation));
    if (!group) return ncclSystemError;
    *group = (Launch){.comm = comm, .stream = stream};
  }
  if (group->comm != comm || group->stream != stream) standin_unknown("a group of several streams");
  if (group->count == OPERATIONS) standin_unknown("a group of more than %d", OPERATIONS);
  group->operations[group->count++] = operation;
  return ncclSuccess;
}

static ncclResult_t add(Operation operation, ncclDataType_t type, ncclComm_t comm,
                        cudaStream_t stream) {
  ncclResult_t result = append(operation, type, comm, stream);
  if (result != ncclSuccess) group_error = result;
  return depth > 0 ? result : end_group();
}

ncclResult_t ncclAllReduce(const void *from, void *to, size_t count, ncclDataType_t type,
                           ncclRedOp_t reduction, ncclComm_t comm, cudaStream_t stream) {
  if (reduction != ncclSum) standin_unknown("NCCL reduction %d", (int)reduction);
  return add((Operation){ALL_REDUCE, from, to, count, 0}, type, comm, stream);
}

ncclResult_t ncclAllGather(const void *from, void *to, size_t count, ncclDataType_t type,
                           ncclComm_t comm, cudaStream_t stream) {
  return add((Operation){ALL_GATHER, from, to, count, 0}, type, comm, stream);
}

ncclResult_t ncclBroadcast(const void *from, void *to, size_t count, ncclDataType_t type, int root,
                           ncclComm_t comm, cudaStream_t stream) {
  return add((Operation){BROADCAST, from, to, count, root}, type, comm, stream);
}

ncclResult_t ncclSend(const void *from, size_t count, ncclDataType_t type, int peer,
                      ncclComm_t comm, cudaStream_t stream) {
  return add((Operation){SEND, from, NULL, count, peer}, type, comm, stream);
}

ncclResult_t ncclRecv(void *to, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
  return add((Operation){RECEIVE, NULL, to, count, peer}, type, comm, stream);
}

// --- memory --------------------------------------------------------------------------------------

ncclResult_t ncclMemAlloc(void **out, size_t size) {
  FAIL_WHEN_DUE();
  if (told("no_memory")) return ncclSystemError;
  *out = standin_memory_take(size);
  return *out ? ncclSuccess : ncclSystemError;
}

ncclResult_t ncclMemFree(void *memory) {
  return cudaFree(memory) == cudaSuccess ? ncclSuccess : ncclUnhandledCudaError;
}

ncclResult_t ncclCommRegister(const ncclComm_t comm, void *memory, size_t size, void **handle) {
  FAIL_WHEN_DUE();
  if (comm->state != ncclSuccess || size == 0) return ncclInvalidArgument;
  *handle = told("no_registration") ? NULL : memory;
  return ncclSuccess;
}

ncclResult_t ncclCommDeregister(const ncclComm_t comm, void *handle) {
  return comm->state == ncclSuccess && handle ? ncclSuccess : ncclInvalidArgument;
}

ncclResult_t ncclCommWindowRegister(ncclComm_t comm, void *memory, size_t size,
                                    ncclWindow_t *window, int flags) {
  FAIL_WHEN_DUE();
  *window = NULL;
  if (version_told() < 23007) standin_unknown("NCCL whose symmetric kernels wait for nothing");
  if (comm->state != ncclSuccess || size == 0 || flags != NCCL_WIN_COLL_SYMMETRIC ||
      (uintptr_t)memory % NCCL_WIN_REQUIRED_ALIGNMENT != 0)
    return ncclInvalidArgument;
  if (told("no_windows")) return ncclSuccess;
  comm->window = window;
  comm->window_memory = memory;
  comm->questions = QUESTIONS;
  return comm->state = ncclInProgress;
}

ncclResult_t ncclCommWindowDeregister(ncclComm_t comm, ncclWindow_t window) {
  return comm->state == ncclSuccess && window ? ncclSuccess : ncclInvalidArgument;
}
