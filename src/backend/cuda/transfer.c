// Batches on their way: copies and what makes values of them, on streams of their own, while the
// device computes on what came before. See transfer and UploadOrder in backend/backend.h.
#include <time.h>

#include "backend/cuda/device.h"

Status cuda__wait_for(cudaEvent_t event) {
  enum { BUSY_ASKS = 2000 }; // about a millisecond: steps are shorter than the scheduler's pause
  const struct timespec pause = {.tv_nsec = 50000};
  for (int asked = 0;; asked++) {
    cudaError_t result = cudaEventQuery(event);
    if (result == cudaSuccess) return STATUS_OK;
    if (result != cudaErrorNotReady) return cuda__error(result, "cudaEventQuery");
    if (asked > BUSY_ASKS) (void)nanosleep(&pause, NULL);
  }
}

// What this slot held was read by work that stands before the transfer to the other one; the device
// may still be at what came behind that.
Status cuda_transfer(Device *device, int slot, const TransferPiece *pieces, int count) {
  int other = 1 - slot;
  if (slot == device->last_slot)
    return status_set(STATUS_INTERNAL, "two transfers to slot %d, one after the other", slot);
  if (device->last_slot >= 0) {
    CUDA_TRY(cudaEventRecord(device->consumed[other], device->stream));
    CUDA_TRY(cudaStreamWaitEvent(device->transfers, device->consumed[slot], 0));
  }
  device->last_slot = slot;
  for (int i = 0; i < count; i++)
    if (pieces[i].size_bytes > 0)
      CUDA_TRY(cudaMemcpyAsync(pieces[i].to, pieces[i].from, pieces[i].size_bytes,
                               cudaMemcpyHostToDevice, device->transfers));
  CUDA_TRY(cudaEventRecord(device->sent, device->transfers));
  CUDA_TRY(cudaStreamWaitEvent(device->stream, device->sent, 0));
  return cuda__wait_for(device->sent);
}

Status cuda__upload_begin(Device *device, cudaStream_t *stream, UploadOrder order) {
  *stream = order == UPLOAD_BESIDE          ? device->uploads
            : order == UPLOAD_WITH_TRANSFER ? device->transfers
                                            : device->stream;
  if (order != UPLOAD_BESIDE) return STATUS_OK;
  CUDA_TRY(cudaEventRecord(device->before_upload, device->stream));
  CUDA_TRY(cudaStreamWaitEvent(device->uploads, device->before_upload, 0));
  return STATUS_OK;
}

Status cuda__upload_end(Device *device, UploadOrder order) {
  if (order == UPLOAD_BESIDE) CUDA_TRY(cudaEventRecord(device->uploaded, device->uploads));
  if (order != UPLOAD_WITH_TRANSFER) return STATUS_OK;
  CUDA_TRY(cudaEventRecord(device->sent, device->transfers));
  CUDA_TRY(cudaStreamWaitEvent(device->stream, device->sent, 0));
  return STATUS_OK;
}

Status cuda_upload_join(Device *device) {
  CUDA_TRY(cudaStreamWaitEvent(device->stream, device->uploaded, 0));
  return STATUS_OK;
}
