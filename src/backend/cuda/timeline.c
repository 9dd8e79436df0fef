// Moments in a GPU's work: an event each, which the GPU itself times.
#include "backend/cuda/device.h"
#include "base/memory.h"

struct Timeline {
  Device *device;
  int capacity, count;
  cudaEvent_t events[];
};

Status cuda_timeline_create(Device *device, Timeline **out, int capacity) {
  *out = NULL;
  Timeline *timeline;
  TRY(memory_alloc(&timeline, 1, sizeof *timeline + (size_t)capacity * sizeof(cudaEvent_t)));
  timeline->device = device;
  Status status = STATUS_OK;
  for (; timeline->capacity < capacity; timeline->capacity++) {
    cudaError_t result = cudaEventCreate(&timeline->events[timeline->capacity]);
    if (result == cudaSuccess) continue;
    status = cuda__error(result, "cudaEventCreate");
    break;
  }
  if (status != STATUS_OK) {
    cuda_timeline_free(timeline);
    return status;
  }
  *out = timeline;
  return STATUS_OK;
}

void cuda_timeline_free(Timeline *timeline) {
  for (int i = 0; timeline && i < timeline->capacity; i++)
    (void)cudaEventDestroy(timeline->events[i]);
  memory_free(timeline);
}

Status cuda_timeline_mark(Timeline *timeline) {
  if (timeline->count == timeline->capacity)
    return status_set(STATUS_INTERNAL, "a timeline of %d moments is full", timeline->capacity);
  CUDA_TRY(cudaEventRecord(timeline->events[timeline->count], timeline->device->stream));
  timeline->count++;
  return STATUS_OK;
}

Status cuda_timeline_read(Timeline *timeline, double *seconds) {
  int count = timeline->count;
  timeline->count = 0;
  if (count > 0) TRY(cuda__wait_for(timeline->events[count - 1]));
  for (int i = 0; i + 1 < count; i++) {
    float ms;
    CUDA_TRY(cudaEventElapsedTime(&ms, timeline->events[i], timeline->events[i + 1]));
    seconds[i] = ms * 1e-3;
  }
  return STATUS_OK;
}
