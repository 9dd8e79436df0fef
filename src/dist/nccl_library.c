// NCCL, loaded when several ranks first sum on GPUs: each function here calls the one of the
// library. The programs so start as fast as without it, and run where it is not.
#include "base/library.h"
#include "dist/comm_nccl.h"

#define NCCL_FUNCTIONS(F)                                                                          \
  F(ncclResult_t, ncclGetVersion, (int *version), (version))                                       \
  F(const char *, ncclGetErrorString, (ncclResult_t result), (result))                             \
  F(const char *, ncclGetLastError, (ncclComm_t comm), (comm))                                     \
  F(ncclResult_t, ncclGetUniqueId, (ncclUniqueId * id), (id))                                      \
  F(ncclResult_t, ncclCommInitRankConfig,                                                          \
    (ncclComm_t * comm, int ranks, ncclUniqueId id, int rank, ncclConfig_t *config),               \
    (comm, ranks, id, rank, config))                                                               \
  F(ncclResult_t, ncclCommGetAsyncError, (ncclComm_t comm, ncclResult_t * state), (comm, state))   \
  F(ncclResult_t, ncclCommFinalize, (ncclComm_t comm), (comm))                                     \
  F(ncclResult_t, ncclCommDestroy, (ncclComm_t comm), (comm))                                      \
  F(ncclResult_t, ncclCommAbort, (ncclComm_t comm), (comm))                                        \
  F(ncclResult_t, ncclMemAlloc, (void **memory, size_t size), (memory, size))                      \
  F(ncclResult_t, ncclMemFree, (void *memory), (memory))                                           \
  F(ncclResult_t, ncclCommRegister,                                                                \
    (const ncclComm_t comm, void *memory, size_t size, void **handle),                             \
    (comm, memory, size, handle))                                                                  \
  F(ncclResult_t, ncclCommDeregister, (const ncclComm_t comm, void *handle), (comm, handle))       \
  F(ncclResult_t, ncclCommWindowRegister,                                                          \
    (ncclComm_t comm, void *memory, size_t size, ncclWindow_t *window, int flags),                 \
    (comm, memory, size, window, flags))                                                           \
  F(ncclResult_t, ncclCommWindowDeregister, (ncclComm_t comm, ncclWindow_t window),                \
    (comm, window))                                                                                \
  F(ncclResult_t, ncclGroupStart, (void), ())                                                      \
  F(ncclResult_t, ncclGroupEnd, (void), ())                                                        \
  F(ncclResult_t, ncclAllReduce,                                                                   \
    (const void *from, void *to, size_t count, ncclDataType_t type, ncclRedOp_t reduction,         \
     ncclComm_t comm, cudaStream_t stream),                                                        \
    (from, to, count, type, reduction, comm, stream))                                              \
  F(ncclResult_t, ncclAllGather,                                                                   \
    (const void *from, void *to, size_t count, ncclDataType_t type, ncclComm_t comm,               \
     cudaStream_t stream),                                                                         \
    (from, to, count, type, comm, stream))                                                         \
  F(ncclResult_t, ncclBroadcast,                                                                   \
    (const void *from, void *to, size_t count, ncclDataType_t type, int root, ncclComm_t comm,     \
     cudaStream_t stream),                                                                         \
    (from, to, count, type, root, comm, stream))                                                   \
  F(ncclResult_t, ncclSend,                                                                        \
    (const void *from, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,               \
     cudaStream_t stream),                                                                         \
    (from, count, type, peer, comm, stream))                                                       \
  F(ncclResult_t, ncclRecv,                                                                        \
    (void *to, size_t count, ncclDataType_t type, int peer, ncclComm_t comm, cudaStream_t stream), \
    (to, count, type, peer, comm, stream))

ncclResult_t ncclGroupStart(void); // which nccl.h declares without a prototype
ncclResult_t ncclGroupEnd(void);

#define FORWARD(type, name, parameters, arguments)                                                 \
  static type(*address_of_##name) parameters;                                                      \
  type name parameters {                                                                           \
    return address_of_##name arguments;                                                            \
  }
#define ROW(type, name, parameters, arguments) {#name, (void *)&address_of_##name},

NCCL_FUNCTIONS(FORWARD)

#define TEXT_OF(number) #number
#define TEXT(number) TEXT_OF(number)

Status nccl__library_load(void) {
  static const LibraryFunction functions[] = {NCCL_FUNCTIONS(ROW)};
  return library_load(
      &(LibraryDesc){.file = "libnccl.so." TEXT(NCCL_MAJOR),
                     .cure = "install NCCL 2.28.9 or newer, name its folder in LD_LIBRARY_PATH, or "
                             "compute on the CPU (device = cpu)",
                     .functions = functions,
                     .function_count = sizeof functions / sizeof *functions});
}
