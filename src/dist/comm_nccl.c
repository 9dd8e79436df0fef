// Sums over the ranks in GPU memory, by NCCL. See comm.h; bootstrap and agreement go over MPI.
//
// Operations run on a stream of their own, of high priority: each waits for an event of the
// device's stream, and comm_wait_all makes that stream wait for them; the host goes on. The
// communicator is non-blocking: NCCL launches an operation in a thread of its own, and until it
// has, the communicator takes no other and its stream shows nothing to wait for (settle). While a
// step is recorded that thread must be through before the next launch: a graph under capture is for
// one thread at a time. NCCL's calls are one at a time, under `busy`, because asking for its state
// may also end a launch.
#include "dist/comm_nccl.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/memory.h"
#include "dist/comm_kinds.h"

enum {
  OLDEST_VERSION = NCCL_VERSION(2, 28, 9),
  POLL_US = 20,
  TELL_NS = 1000000000, // how often the watchdog hears that the ranks still look for each other
};

static const int64_t abort_ns = 5000000000; // for an end that may never come

// --- errors --------------------------------------------------------------------------------------

Status nccl__failed(const CommNccl *self, Status code, ncclResult_t result, const char *what) {
  const World *world = self->base.desc.world;
  const char *detail = ncclGetLastError(self->comm);
  int length = detail ? (int)strcspn(detail, "\n") : 0;
  return status_set(code, "rank %d on %s: NCCL: %s: %s%s%.*s", world->rank, world->host, what,
                    ncclGetErrorString(result), length > 0 ? ": " : "", length,
                    detail ? detail : "");
}

Status nccl__cuda_failed(const CommNccl *self, cudaError_t result, const char *call) {
  const World *world = self->base.desc.world;
  return status_set(STATUS_OS, "rank %d on %s: CUDA: %s: %s", world->rank, world->host, call,
                    cudaGetErrorString(result));
}

static void pause_briefly(void) {
  (void)nanosleep(&(struct timespec){.tv_nsec = POLL_US * 1000}, NULL);
}

void nccl__enter(CommNccl *self) {
  while (atomic_flag_test_and_set(&self->busy)) pause_briefly();
}

void nccl__leave(CommNccl *self) {
  atomic_flag_clear(&self->busy);
}

// Another rank, or the way to it, is lost: whoever watches this rank ends it.
static Status lost(CommNccl *self, Status status) {
  if (self->base.desc.watchdog) watchdog_leave(self->base.desc.watchdog, status_message());
  return status;
}

static ncclResult_t ask(CommNccl *self) {
  ncclResult_t state = ncclInternalError;
  ncclResult_t result = ncclCommGetAsyncError(self->comm, &state);
  return result == ncclSuccess ? state : result;
}

// What this rank has asked for and not got, with the cure; no rank is lost then. NULL: nothing.
static const char *refused(CommNccl *self, ncclResult_t state) {
  if (state == ncclSuccess || state == ncclInProgress || state == ncclRemoteError) return NULL;
  if (atomic_load(&self->records))
    return "cannot put an operation into a CUDA graph; set [run] cuda_graph = no";
  if (atomic_load(&self->registers))
    return "cannot register memory; set NCCL_WIN_ENABLE=0 in the environment of all ranks, and "
           "NCCL_LOCAL_REGISTER=0 where that is not enough";
  return NULL;
}

Status nccl__broken(CommNccl *self, ncclResult_t state) {
  const char *what = refused(self, state);
  if (what) return nccl__failed(self, STATUS_CONFIG, state, what);
  return lost(self, nccl__failed(self, STATUS_STOPPED, state, "lost the other ranks"));
}

static Status nccl_check(Comm *comm) {
  CommNccl *self = (CommNccl *)comm;
  // Where the flag is taken, the training thread is in NCCL itself and will see it.
  if (atomic_load(&self->aborting) || atomic_flag_test_and_set(&self->busy)) return STATUS_OK;
  ncclResult_t state = ask(self);
  nccl__leave(self);
  if (state == ncclSuccess || state == ncclInProgress) return STATUS_OK;
  if (refused(self, state)) return STATUS_OK; // the training thread tells
  return nccl__failed(self, STATUS_STOPPED, state, "lost the other ranks");
}

// --- operations ----------------------------------------------------------------------------------

static bool is_over(const CommNccl *self, int64_t start_ns) {
  double limit_s = self->base.desc.timeout_s;
  return limit_s > 0 && (double)(clock_now_ns() - start_ns) * 1e-9 >= limit_s;
}

static Status not_launched(const CommNccl *self) {
  const CommDesc *desc = &self->base.desc;
  return status_set(STATUS_STOPPED, "rank %d on %s: NCCL has not launched an operation for %.0f s",
                    desc->world->rank, desc->world->host, desc->timeout_s);
}

Status nccl__settle(CommNccl *self) {
  int64_t start_ns = clock_now_ns();
  for (;; pause_briefly()) {
    nccl__enter(self);
    ncclResult_t state = ask(self);
    nccl__leave(self);
    if (state == ncclSuccess) break;
    if (state != ncclInProgress) return nccl__broken(self, state);
    if (is_over(self, start_ns)) return lost(self, not_launched(self));
  }
  atomic_store(&self->records, false);
  if (!self->unrecorded) return STATUS_OK;
  CUDA_TRY(cudaEventRecord(self->unrecorded, self->stream));
  self->unrecorded = NULL;
  return STATUS_OK;
}

// Puts what the device has been given until now before the next operation.
static Status begin(CommNccl *self) {
  enum cudaStreamCaptureStatus capture;
  TRY(nccl__settle(self));
  CUDA_TRY(cudaStreamIsCapturing(self->compute, &capture));
  atomic_store(&self->records, capture != cudaStreamCaptureStatusNone);
  CUDA_TRY(cudaEventRecord(self->ready, self->compute));
  CUDA_TRY(cudaStreamWaitEvent(self->stream, self->ready, 0));
  return STATUS_OK;
}

// Behind an operation, whose end `event` stands for.
static Status given(CommNccl *self, cudaEvent_t event) {
  self->unrecorded = event;
  return atomic_load(&self->records) ? nccl__settle(self) : STATUS_OK;
}

// The device's stream waits for the operation that `event` belongs to.
static Status wait_for(CommNccl *self, cudaEvent_t event) {
  if (self->unrecorded == event) TRY(nccl__settle(self));
  CUDA_TRY(cudaStreamWaitEvent(self->compute, event, 0));
  return STATUS_OK;
}

static Status nccl_begin_sum(Comm *comm, float *data, int64_t count) {
  CommNccl *self = (CommNccl *)comm;
  TRY(begin(self));
  NCCL_TRY(ncclAllReduce(data, data, (size_t)count, ncclFloat, ncclSum, self->comm, self->stream));
  return given(self, self->done);
}

static Status nccl_wait_all(Comm *comm) {
  CommNccl *self = (CommNccl *)comm;
  return wait_for(self, self->done);
}

// A group goes on after a failure, for its end must come: that one tells.
static void send_and_receive(CommNccl *self, const CommExchange *exchange) {
  for (int i = 0; i < exchange->receive_count; i++) {
    const CommBlock *block = &exchange->receives[i];
    if (block->count > 0)
      (void)ncclRecv(block->data, (size_t)block->count, ncclFloat, block->peer, self->comm,
                     self->stream);
  }
  for (int i = 0; i < exchange->send_count; i++) {
    const CommBlock *block = &exchange->sends[i];
    if (block->count > 0)
      (void)ncclSend(block->data, (size_t)block->count, ncclFloat, block->peer, self->comm,
                     self->stream);
  }
}

static Status nccl_begin_exchange(CommExchange *exchange) {
  CommNccl *self = (CommNccl *)exchange->comm;
  TRY(begin(self));
  NCCL_TRY(ncclGroupStart());
  send_and_receive(self, exchange);
  NCCL_TRY(ncclGroupEnd());
  return given(self, exchange->links);
}

static Status nccl_wait_exchange(CommExchange *exchange) {
  return wait_for((CommNccl *)exchange->comm, exchange->links);
}

static void nccl_exchange_free(CommExchange *exchange) {
  CommNccl *self = (CommNccl *)exchange->comm;
  if (self->unrecorded == exchange->links) self->unrecorded = NULL;
  (void)cudaEventDestroy(exchange->links);
}

static Status nccl_exchange_create(CommExchange *exchange) {
  CommNccl *self = (CommNccl *)exchange->comm;
  cudaEvent_t event;
  CUDA_TRY(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
  exchange->links = event;
  return STATUS_OK;
}

// Blocks of unlike lengths, as the last ones of an arena are.
static void broadcast_each(CommNccl *self, float *out, const float *mine, const int *counts) {
  const World *world = self->base.desc.world;
  for (int r = 0; r < world->size; out += counts[r++])
    if (counts[r] > 0)
      (void)ncclBroadcast(r == world->rank ? mine : out, out, (size_t)counts[r], ncclFloat, r,
                          self->comm, self->stream);
}

static Status nccl_begin_gather(Comm *comm, float *out, const float *mine, const int *counts) {
  CommNccl *self = (CommNccl *)comm;
  const World *world = comm->desc.world;
  bool all_alike = true;
  for (int r = 1; r < world->size; r++) all_alike = all_alike && counts[r] == counts[0];
  if (all_alike && counts[0] == 0) return STATUS_OK;
  TRY(begin(self));
  if (all_alike) {
    NCCL_TRY(ncclAllGather(mine, out, (size_t)counts[0], ncclFloat, self->comm, self->stream));
  } else {
    NCCL_TRY(ncclGroupStart());
    broadcast_each(self, out, mine, counts);
    NCCL_TRY(ncclGroupEnd());
  }
  return given(self, self->done);
}

// --- the end -------------------------------------------------------------------------------------

// NCCL comes back to the thread's current device, and would take a context there where it is
// another rank's. What it began to destroy is gone, even where it says that this failed.
static void *end_when_wanted(void *argument) {
  CommNccl *self = argument;
  (void)cudaSetDevice(self->device);
  while (sem_wait(&self->end_wanted) != 0) continue;
  if (self->comm && self->destroys)
    (void)ncclCommDestroy(self->comm);
  else if (self->comm)
    (void)ncclCommAbort(self->comm);
  (void)sem_post(&self->end_done);
  return NULL;
}

static Status start_ender(CommNccl *self) {
  sigset_t all, before; // signals are for the training thread
  CUDA_TRY(cudaGetDevice(&self->device));
  (void)sem_init(&self->end_wanted, 0, 0);
  (void)sem_init(&self->end_done, 0, 0);
  (void)sigfillset(&all);
  (void)pthread_sigmask(SIG_SETMASK, &all, &before);
  int error = pthread_create(&self->ender, NULL, end_when_wanted, self);
  (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
  self->has_ender = error == 0;
  return error == 0 ? STATUS_OK
                    : status_set(STATUS_OS, "cannot start a thread: %s", strerror(error));
}

// Whether the thread has done it in time; several may wait for it.
static bool wait_for_ender(CommNccl *self) {
  for (int64_t start_ns = clock_now_ns(); clock_now_ns() - start_ns < abort_ns; clock_sleep_ms(5)) {
    if (sem_trywait(&self->end_done) != 0) continue;
    (void)sem_post(&self->end_done);
    return true;
  }
  return false;
}

static void nccl_abort(Comm *comm) {
  CommNccl *self = (CommNccl *)comm;
  if (!self->has_ender) return;
  if (!atomic_exchange(&self->aborting, true)) (void)sem_post(&self->end_wanted);
  (void)wait_for_ender(self);
}

// The state once NCCL has finished what it is at; ncclInProgress where that takes too long.
static ncclResult_t wait_for_state(CommNccl *self, ncclResult_t state) {
  for (int64_t start_ns = clock_now_ns();
       state == ncclInProgress && clock_now_ns() - start_ns < abort_ns; state = ask(self))
    pause_briefly();
  return state;
}

// Ends this rank's part of the communicator, which can be destroyed then; false: it is at work still.
static bool finalize(CommNccl *self) {
  return ask(self) == ncclSuccess &&
         wait_for_state(self, ncclCommFinalize(self->comm)) == ncclSuccess;
}

// Errors on the way out have nobody to tell.
static void nccl_close(Comm *comm) {
  CommNccl *self = (CommNccl *)comm;
  self->destroys = !self->comm || (!atomic_load(&self->aborting) && finalize(self));
  if (!self->destroys) nccl_abort(comm);
  else if (self->has_ender) (void)sem_post(&self->end_wanted);
  if (self->has_ender && !wait_for_ender(self)) {
    (void)pthread_detach(self->ender); // it never came back: what it uses stays
    return;
  }
  if (self->has_ender) (void)pthread_join(self->ender, NULL);
  if (self->ready) (void)cudaEventDestroy(self->ready);
  if (self->done) (void)cudaEventDestroy(self->done);
  if (self->stream) (void)cudaStreamDestroy(self->stream);
  memory_free(self);
}

// --- the beginning -------------------------------------------------------------------------------

static Status check_version(CommNccl *self) {
  NCCL_TRY(ncclGetVersion(&self->version));
  int version = self->version;
  if (version >= OLDEST_VERSION) return STATUS_OK;
  return status_set(STATUS_CONFIG,
                    "NCCL %d.%d.%d is too old: 2.28.9 or newer is needed; install it, or name its "
                    "folder in LD_LIBRARY_PATH",
                    version / 10000, version / 100 % 100, version % 100);
}

static Status nccl_describe(char *text, size_t capacity) {
  int version = 0;
  TRY(nccl__library_load());
  if (ncclGetVersion(&version) != ncclSuccess)
    return status_set(STATUS_OS, "NCCL does not tell its version");
  (void)snprintf(text, capacity, "NCCL %d.%d.%d", version / 10000, version / 100 % 100,
                 version % 100);
  return STATUS_OK;
}

static Status make_streams(CommNccl *self) {
  int least, greatest;
  CUDA_TRY(cudaDeviceGetStreamPriorityRange(&least, &greatest));
  CUDA_TRY(cudaStreamCreateWithPriority(&self->stream, cudaStreamNonBlocking, greatest));
  CUDA_TRY(cudaEventCreateWithFlags(&self->ready, cudaEventDisableTiming));
  CUDA_TRY(cudaEventCreateWithFlags(&self->done, cudaEventDisableTiming));
  return STATUS_OK;
}

static Status make_id(CommNccl *self, ncclUniqueId *id) {
  if (self->base.desc.world->rank == 0) NCCL_TRY(ncclGetUniqueId(id));
  return STATUS_OK;
}

// Until all ranks have found each other, or the time is over.
static Status wait_for_ranks(CommNccl *self) {
  const CommDesc *desc = &self->base.desc;
  int64_t start_ns = clock_now_ns(), told_ns = 0;
  for (;; pause_briefly()) {
    ncclResult_t state = ask(self);
    if (state == ncclSuccess) return STATUS_OK;
    if (state != ncclInProgress)
      return nccl__failed(self, STATUS_OS, state, "cannot connect the ranks");
    if (is_over(self, start_ns)) break;
    if (clock_now_ns() - told_ns < TELL_NS) continue;
    watchdog_progress(desc->watchdog, -1, "connecting NCCL"); // this wait has a limit of its own
    told_ns = clock_now_ns();
  }
  return status_set(STATUS_OS,
                    "rank %d on %s: NCCL has not connected the %d ranks after %.0f s; see what it "
                    "waits for with NCCL_DEBUG=INFO, name the network in NCCL_SOCKET_IFNAME, or "
                    "raise [run] comm_timeout_s",
                    desc->world->rank, desc->world->host, desc->world->size, desc->timeout_s);
}

static Status connect_ranks(CommNccl *self) {
  const CommDesc *desc = &self->base.desc;
  ncclUniqueId id;
  memset(&id, 0, sizeof id);
  TRY(world_agree_status(desc->world, make_id(self, &id)));
  TRY(world_broadcast(desc->world, &id, sizeof id, 0));
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  config.commName = "imgcls";
  NCCL_TRY(ncclCommInitRankConfig(&self->comm, desc->world->size, id, desc->world->rank, &config));
  return wait_for_ranks(self);
}

static Status nccl_open(Comm **out, const CommDesc *desc) {
  if (!desc->backend->native_stream)
    return status_set(STATUS_INTERNAL, "NCCL sums memory of a GPU, not of '%s'",
                      desc->backend->name);
  Status status = STATUS_OK;
  CommNccl *self = NULL;
  TRY(memory_alloc(&self, 1, sizeof *self));
  self->base.desc = *desc;
  self->compute = desc->backend->native_stream(desc->device);
  atomic_flag_clear(&self->busy);
  status = nccl__library_load();
  if (status == STATUS_OK) status = check_version(self);
  if (status == STATUS_OK) status = make_streams(self);
  if (status == STATUS_OK) status = start_ender(self);
  GUARD(world_agree_status(desc->world, status));
  GUARD(nccl__allow_sharing(self));
  GUARD(connect_ranks(self));
  *out = &self->base;
  self = NULL;
out:
  if (self != NULL) nccl_close(&self->base);
  return status;
}

const CommKind comm__nccl = {
    .name = "nccl",
    .describe = nccl_describe,
    .open = nccl_open,
    .memory_alloc = nccl__memory_alloc,
    .memory_free = nccl__memory_free,
    .begin_sum = nccl_begin_sum,
    .wait_all = nccl_wait_all,
    .exchange_create = nccl_exchange_create,
    .exchange_free = nccl_exchange_free,
    .begin_exchange = nccl_begin_exchange,
    .wait_exchange = nccl_wait_exchange,
    .begin_gather = nccl_begin_gather,
    .check = nccl_check,
    .abort = nccl_abort,
    .close = nccl_close,
};
