// What the files of NCCL share: the state of the transport. See comm_nccl.c.
#ifndef IMGCLS_DIST_COMM_NCCL_H
#define IMGCLS_DIST_COMM_NCCL_H

#include <nccl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "dist/comm.h"

typedef struct NcclBuffer { // what memory_alloc has given out
  struct NcclBuffer *next;
  float *data;
  bool is_nccls; // from ncclMemAlloc; else the device's
  ncclWindow_t window;
  void *handle; // of a plain registration
} NcclBuffer;

typedef struct CommNccl {
  Comm base;
  ncclComm_t comm;
  int device;
  cudaStream_t compute;   // the device's
  cudaStream_t stream;    // of all operations
  cudaEvent_t ready;      // what the device had been given when an operation began
  cudaEvent_t done;       // the last operation, but for exchanges
  cudaEvent_t unrecorded; // belongs behind the operation that NCCL is launching; NULL: none is
  atomic_bool records;    // the operation that NCCL is launching goes into a recording
  atomic_bool registers;  // NCCL is registering memory
  int version;            // as NCCL_VERSION has it
  NcclBuffer *buffers;
  atomic_flag busy;

  // Neither ncclCommAbort nor ncclCommDestroy, which waits for the ranks of this host, may ever
  // return, hence a thread for them, there before there is trouble.
  pthread_t ender;
  bool has_ender;
  sem_t end_wanted, end_done;
  atomic_bool aborting;
  bool destroys; // the thread is to destroy what is finished, not to abort it
} CommNccl;

Status nccl__failed(const CommNccl *self, Status code, ncclResult_t result, const char *what);
Status nccl__cuda_failed(const CommNccl *self, cudaError_t result, const char *call);

#define CUDA_TRY(call)                                                                             \
  do {                                                                                             \
    cudaError_t cuda_try_result = (call);                                                          \
    if (cuda_try_result != cudaSuccess) return nccl__cuda_failed(self, cuda_try_result, #call);    \
  } while (0)

// A call of this rank that NCCL refuses at once. One that it has begun is fine.
#define NCCL_TRY(call)                                                                             \
  do {                                                                                             \
    nccl__enter(self);                                                                             \
    ncclResult_t nccl_try_result = (call);                                                         \
    nccl__leave(self);                                                                             \
    if (nccl_try_result != ncclSuccess && nccl_try_result != ncclInProgress)                       \
      return nccl__failed(self, STATUS_OS, nccl_try_result, #call);                                \
  } while (0)

// Around each call on the communicator.
void nccl__enter(CommNccl *self);
void nccl__leave(CommNccl *self);

// What a failure of NCCL's says: the communicator is of no use any more, by what this rank has
// asked for, or because another one is lost.
Status nccl__broken(CommNccl *self, ncclResult_t state);

// Until NCCL has put the last operation on its stream.
MUST_CHECK Status nccl__settle(CommNccl *self);

// nccl_library.c: loads NCCL, whose functions may be called from then on.
MUST_CHECK Status nccl__library_load(void);

// nccl_sharing.c: lets NCCL connect ranks that share a GPU, before its first call but ncclGetVersion.
// Collective.
MUST_CHECK Status nccl__allow_sharing(const CommNccl *self);

// nccl_memory.c: memory_alloc and memory_free of the transport.
MUST_CHECK Status nccl__memory_alloc(Comm *comm, float **out, int64_t count);
void nccl__memory_free(Comm *comm, float *memory);

#endif
