// Work that is given again and again, as a CUDA graph: the launches of a step become one. Streams
// that work forks to and joins again, as NCCL's does, are part of it. See record_begin in
// backend/backend.h.
//
// Capture is the calling thread's own (thread-local mode): what loaders and the watchdog do
// meanwhile is no part of it and does not disturb it.
#include "backend/cuda/device.h"
#include "base/memory.h"

struct Recording {
  cudaGraphExec_t graph;
};

// What a recording that fails, in a call of its own or in one that was to be recorded, leaves
// behind as the thread's last error belongs to nobody else: the steps that go on without it would
// find it behind their first launch.
static Status end_of_error(Status status) {
  (void)cudaGetLastError();
  return status;
}

static Status begin_capture(Device *device) {
  CUDA_TRY(cudaStreamBeginCapture(device->stream, cudaStreamCaptureModeThreadLocal));
  return STATUS_OK;
}

Status cuda_record_begin(Device *device) {
  return end_of_error(begin_capture(device));
}

// A capture that has failed ends too, with an error or without a graph.
static Status end_capture(Device *device, cudaGraph_t *graph) {
  *graph = NULL;
  CUDA_TRY(cudaStreamEndCapture(device->stream, graph));
  return *graph ? STATUS_OK : status_set(STATUS_OS, "CUDA: cudaStreamEndCapture: no graph");
}

static Status instantiate(Recording *recording, cudaGraph_t graph) {
  CUDA_TRY(cudaGraphInstantiate(&recording->graph, graph, 0));
  return STATUS_OK;
}

static Status end(Device *device, Recording **out) {
  cudaGraph_t graph;
  TRY(end_capture(device, &graph));
  Recording *recording;
  Status status = memory_alloc(&recording, 1, sizeof *recording);
  if (status == STATUS_OK) status = instantiate(recording, graph);
  (void)cudaGraphDestroy(graph);
  if (status == STATUS_OK)
    *out = recording;
  else
    memory_free(recording);
  return status;
}

Status cuda_record_end(Device *device, Recording **out) {
  *out = NULL;
  return end_of_error(end(device, out));
}

Status cuda_replay(Device *device, const Recording *recording) {
  CUDA_TRY(cudaGraphLaunch(recording->graph, device->stream));
  return STATUS_OK;
}

void cuda_recording_free(Recording *recording) {
  if (!recording) return;
  if (recording->graph) (void)cudaGraphExecDestroy(recording->graph);
  memory_free(recording);
}
