// Stream capture and graphs of the CUDA runtime. See standin.h.
//
// Works of a capture that came to its first stream are done again in the order in which they were
// given; those of other streams as late as their events allow: before the first work that stands
// behind them. What the runtime refuses during a capture is refused with its codes
// and breaks the capture: waiting, asking, allocating and freeing by the thread that captures,
// events from before, streams that do not come back to the first.
#include <cuda_runtime_api.h>

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "capture.h"

#define FAIL_WHEN_DUE(error)                                                                       \
  if (standin_call_fails()) return standin_error(error)

typedef struct Node {
  void (*run)(void *);
  void (*drop)(void *);
  void *context;
  int stream;
  CaptureView behind;
} Node;

typedef struct Nodes { // shared by a graph, what was made from it, and launches under way
  int references;
  size_t count, capacity;
  Node *nodes;
} Nodes;

struct CUgraph_st {
  Nodes *nodes;
};

struct CUgraphExec_st {
  Nodes *nodes;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; // NCCL gives work from other threads
static struct {
  int64_t serial; // of the one under way or the last
  bool is_under_way;
  pthread_t thread;
  bool is_broken;
  cudaStream_t streams[CAPTURE_STREAMS]; // the first began it
  int stream_count;
  CaptureView views[CAPTURE_STREAMS]; // of each: the works of all that its next one comes behind
  int64_t given[CAPTURE_STREAMS];
  Nodes *nodes;
} capture;

static void *must(void *memory) {
  if (!memory) standin_unknown("out of memory");
  return memory;
}

static void release(Nodes *nodes) {
  if (--nodes->references > 0) return;
  for (size_t i = 0; i < nodes->count; i++) nodes->nodes[i].drop(nodes->nodes[i].context);
  free(nodes->nodes);
  free(nodes);
}

static int index_of(cudaStream_t stream) {
  for (int i = 0; capture.is_under_way && i < capture.stream_count; i++)
    if (capture.streams[i] == stream) return i;
  return -1;
}

bool standin_is_recording(void) {
  return capture.is_under_way && pthread_equal(capture.thread, pthread_self());
}

bool standin_stream_is_captured(cudaStream_t stream) {
  return index_of(stream) >= 0;
}

bool standin_capture_breaks(void) {
  if (!standin_is_recording()) return false;
  capture.is_broken = true;
  return true;
}

bool standin_stream_records(cudaStream_t stream, void (*run)(void *), void (*drop)(void *),
                            void *context) {
  pthread_mutex_lock(&lock);
  int at = index_of(stream);
  if (at >= 0) {
    Nodes *nodes = capture.nodes;
    if (nodes->count == nodes->capacity) {
      nodes->capacity = nodes->capacity ? 2 * nodes->capacity : 256;
      nodes->nodes = must(realloc(nodes->nodes, nodes->capacity * sizeof *nodes->nodes));
    }
    nodes->nodes[nodes->count++] = (Node){run, drop, context, at, capture.views[at]};
    capture.views[at].seen[at] = ++capture.given[at];
  }
  pthread_mutex_unlock(&lock);
  return at >= 0;
}

// --- events ---------------------------------------------------------------------------------------

bool standin_capture_event(CaptureView *view, cudaStream_t stream) {
  int at = index_of(stream);
  *view = at >= 0 ? capture.views[at] : (CaptureView){0};
  if (at >= 0) view->serial = capture.serial;
  return at >= 0;
}

cudaError_t standin_capture_wait(cudaStream_t stream, const CaptureView *event) {
  int at = index_of(stream);
  bool is_of_now = capture.is_under_way && event->serial == capture.serial;
  if (at < 0 && event->serial == 0) return cudaErrorNotReady; // no business of a capture
  if (!is_of_now) {
    if (at >= 0) capture.is_broken = true;
    return at >= 0 ? cudaErrorStreamCaptureIsolation : cudaErrorCapturedEvent;
  }
  if (at < 0) {
    if (capture.stream_count == CAPTURE_STREAMS) standin_unknown("a capture of so many streams");
    at = capture.stream_count++;
    capture.streams[at] = stream;
  }
  for (int i = 0; i < CAPTURE_STREAMS; i++)
    if (capture.views[at].seen[i] < event->seen[i]) capture.views[at].seen[i] = event->seen[i];
  return cudaSuccess;
}

// --- the runtime's calls --------------------------------------------------------------------------

// STANDIN_FAIL_RECORDING names a call before or behind what is recorded.
static bool is_told(const char *word) {
  const char *text = getenv("STANDIN_FAIL_RECORDING");
  return text && strcmp(text, word) == 0;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, enum cudaStreamCaptureMode mode) {
  FAIL_WHEN_DUE(cudaErrorLaunchFailure);
  if (is_told("begin")) return standin_error(cudaErrorLaunchFailure);
  if (mode != cudaStreamCaptureModeThreadLocal) standin_unknown("capture mode %d", (int)mode);
  if (capture.is_under_way) return standin_error(cudaErrorIllegalState);
  int64_t serial = capture.serial + 1;
  memset(&capture, 0, sizeof capture);
  capture.serial = serial;
  capture.thread = pthread_self();
  capture.streams[0] = stream;
  capture.stream_count = 1;
  capture.nodes = must(calloc(1, sizeof *capture.nodes));
  capture.nodes->references = 1;
  capture.is_under_way = true;
  return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, enum cudaStreamCaptureStatus *status) {
  FAIL_WHEN_DUE(cudaErrorLaunchFailure);
  *status = !standin_stream_is_captured(stream) ? cudaStreamCaptureStatusNone
            : capture.is_broken                 ? cudaStreamCaptureStatusInvalidated
                                                : cudaStreamCaptureStatusActive;
  return cudaSuccess;
}

static cudaError_t end_of_capture(cudaStream_t stream) {
  if (!pthread_equal(capture.thread, pthread_self())) return cudaErrorStreamCaptureWrongThread;
  if (index_of(stream) != 0) return cudaErrorStreamCaptureUnmatched;
  if (capture.is_broken) return cudaErrorStreamCaptureInvalidated;
  for (int i = 1; i < capture.stream_count; i++)
    if (capture.views[0].seen[i] < capture.given[i]) return cudaErrorStreamCaptureUnjoined;
  return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph) {
  *graph = NULL;
  if (!capture.is_under_way) return standin_error(cudaErrorIllegalState);
  cudaError_t error = standin_call_fails() ? cudaErrorLaunchFailure : end_of_capture(stream);
  capture.is_under_way = false;
  if (error == cudaSuccess) {
    *graph = must(malloc(sizeof **graph));
    (*graph)->nodes = capture.nodes;
  } else {
    release(capture.nodes);
  }
  return standin_error(error);
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph,
                                 unsigned long long flags) {
  FAIL_WHEN_DUE(cudaErrorMemoryAllocation);
  if (is_told("instantiate")) return standin_error(cudaErrorMemoryAllocation);
  if (flags != 0) standin_unknown("flags of a graph");
  if (standin_capture_breaks()) return standin_error(cudaErrorStreamCaptureUnsupported);
  *exec = must(malloc(sizeof **exec));
  (*exec)->nodes = graph->nodes;
  graph->nodes->references++;
  return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  release(graph->nodes);
  free(graph);
  return cudaSuccess;
}

// How far a launch is: of each stream, how many works are done, and where the next one may be.
typedef struct Progress {
  const Nodes *nodes;
  int64_t done[CAPTURE_STREAMS];
  size_t next[CAPTURE_STREAMS];
} Progress;

static void run_through(Progress *progress, int stream, int64_t count) {
  const Nodes *nodes = progress->nodes;
  for (; progress->done[stream] < count; progress->done[stream]++) {
    size_t *at = &progress->next[stream];
    while (*at < nodes->count && nodes->nodes[*at].stream != stream) ++*at;
    if (*at == nodes->count) return;
    const Node *node = &nodes->nodes[(*at)++];
    for (int other = 0; other < CAPTURE_STREAMS; other++)
      if (other != stream) run_through(progress, other, node->behind.seen[other]);
    node->run(node->context);
  }
}

static void run_all(void *argument) {
  Nodes *nodes = argument;
  Progress progress = {.nodes = nodes};
  for (int stream = 0; stream < CAPTURE_STREAMS; stream++)
    run_through(&progress, stream, INT64_MAX);
  release(nodes);
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
  FAIL_WHEN_DUE(cudaErrorLaunchFailure);
  if (standin_stream_is_captured(stream)) standin_unknown("a graph in a graph");
  exec->nodes->references++;
  standin_stream_add(stream, run_all, exec->nodes);
  return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  release(exec->nodes);
  free(exec);
  return cudaSuccess;
}
