// Memory for sums that NCCL moves without copies: allocated by NCCL and registered as a symmetric
// window, or plainly where it gives none, or else the device's own. Where it fails to make a
// window, the communicator is of no use any more, and the other ranks wait in it: that ends the
// job.
#include "base/memory.h"
#include "dist/comm_nccl.h"

// From NCCL 2.28 until before this version, kernels on symmetric windows are launched so that they
// may begin before the work in front of them has ended, and lack the barrier that waits for it (on
// GPUs of compute capability 9 and above): a sum could miss gradients that were just computed.
enum { SOUND_WINDOWS = NCCL_VERSION(2, 30, 7) };

// Registered memory is for all ranks or none: NCCL's algorithms differ.
static Status all_have(CommNccl *self, bool *has) {
  double least = *has;
  TRY(world_reduce_f64(self->base.desc.world, WORLD_MIN, &least, 1));
  *has = least > 0.0;
  return STATUS_OK;
}

static Status register_window(CommNccl *self, NcclBuffer *buffer, size_t size) {
  atomic_store(&self->registers, true);
  nccl__enter(self);
  ncclResult_t result = ncclCommWindowRegister(self->comm, buffer->data, size, &buffer->window,
                                               NCCL_WIN_COLL_SYMMETRIC);
  nccl__leave(self);
  if (result != ncclSuccess && result != ncclInProgress) return nccl__broken(self, result);
  TRY(nccl__settle(self)); // NCCL fills the window in while it is at work
  atomic_store(&self->registers, false);
  bool has = buffer->window != NULL;
  TRY(all_have(self, &has));
  if (has || !buffer->window) return STATUS_OK;
  NCCL_TRY(ncclCommWindowDeregister(self->comm, buffer->window));
  buffer->window = NULL;
  return nccl__settle(self);
}

// Where the GPUs do not reach each other, or NCCL_WIN_ENABLE=0, NCCL gives its handle of a plain
// registration for a window, which lies in memory of the host; a window lies in that of the device.
static bool is_symmetric(const NcclBuffer *buffer) {
  struct cudaPointerAttributes attributes = {.type = cudaMemoryTypeUnregistered};
  if (!buffer->window) return false;
  cudaError_t result = cudaPointerGetAttributes(&attributes, buffer->window);
  return result == cudaSuccess && attributes.type == cudaMemoryTypeDevice;
}

static const char *describe(const CommNccl *self, const NcclBuffer *buffer) {
  if (is_symmetric(buffer)) return "symmetric memory";
  if (!buffer->window && !buffer->handle) return "plain memory: NCCL has none that is registered";
  if (self->version < SOUND_WINDOWS)
    return "registered memory: sums in symmetric memory need NCCL 2.30.7 to be safe";
  return "registered memory: NCCL has none that is symmetric";
}

static Status register_plainly(CommNccl *self, NcclBuffer *buffer, size_t size) {
  nccl__enter(self);
  ncclResult_t result = ncclCommRegister(self->comm, buffer->data, size, &buffer->handle);
  nccl__leave(self);
  bool has = result == ncclSuccess && buffer->handle != NULL;
  TRY(all_have(self, &has));
  if (has || !buffer->handle) return STATUS_OK;
  NCCL_TRY(ncclCommDeregister(self->comm, buffer->handle));
  buffer->handle = NULL;
  return STATUS_OK;
}

// Errors on the way out have nobody to tell.
static void free_buffer(CommNccl *self, NcclBuffer *buffer) {
  const CommDesc *desc = &self->base.desc;
  if (!atomic_load(&self->aborting)) {
    (void)cudaStreamSynchronize(self->stream); // an operation may still use it, or a kernel
    (void)cudaStreamSynchronize(self->compute);
    nccl__enter(self);
    if (buffer->window) (void)ncclCommWindowDeregister(self->comm, buffer->window);
    if (buffer->handle) (void)ncclCommDeregister(self->comm, buffer->handle);
    nccl__leave(self);
    Status settled = nccl__settle(self);
    (void)settled;
  }
  if (buffer->is_nccls)
    (void)ncclMemFree(buffer->data);
  else
    desc->backend->memory_free(desc->device, buffer->data);
  memory_free(buffer);
}

void nccl__memory_free(Comm *comm, float *memory) {
  CommNccl *self = (CommNccl *)comm;
  for (NcclBuffer **link = &self->buffers; *link; link = &(*link)->next) {
    NcclBuffer *buffer = *link;
    if (buffer->data != memory) continue;
    *link = buffer->next;
    free_buffer(self, buffer);
    return;
  }
}

static Status fill_buffer(CommNccl *self, NcclBuffer *buffer, size_t size) {
  const CommDesc *desc = &self->base.desc;
  void *memory = NULL;
  bool has = ncclMemAlloc(&memory, size) == ncclSuccess;
  buffer->data = memory;
  buffer->is_nccls = has;
  TRY(all_have(self, &has));
  if (has) {
    if (self->version >= SOUND_WINDOWS) TRY(register_window(self, buffer, size));
    if (!buffer->window) TRY(register_plainly(self, buffer, size));
  } else {
    if (buffer->is_nccls) (void)ncclMemFree(buffer->data);
    buffer->data = NULL;
    buffer->is_nccls = false;
    TRY(desc->backend->memory_alloc(desc->device, &memory, size));
    buffer->data = memory;
  }
  log_verbose(desc->log, "NCCL: %.1f MiB of sums in %s", (double)size * 0x1p-20,
              describe(self, buffer));
  CUDA_TRY(cudaMemsetAsync(buffer->data, 0, size, self->compute));
  return STATUS_OK;
}

Status nccl__memory_alloc(Comm *comm, float **out, int64_t count) {
  CommNccl *self = (CommNccl *)comm;
  size_t size = (size_t)count * sizeof(float);
  if (size == 0) return STATUS_OK;
  NcclBuffer *buffer;
  TRY(memory_alloc(&buffer, 1, sizeof *buffer));
  Status status = fill_buffer(self, buffer, size);
  if (status != STATUS_OK) {
    free_buffer(self, buffer);
    return status;
  }
  buffer->next = self->buffers;
  self->buffers = buffer;
  *out = buffer->data;
  return STATUS_OK;
}
