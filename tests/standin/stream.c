// Streams and events of the CUDA runtime. See standin.h.
#include <cuda_runtime_api.h>

#include <stdint.h>
#include <stdlib.h>

#include "capture.h"
#include "standin.h"

#define FAIL_WHEN_DUE(error)                                                                       \
  if (standin_call_fails()) return standin_error(error)

typedef struct Work {
  void (*run)(void *);
  void (*drop)(void *); // behind it; NULL: nothing
  void *context;
} Work;

struct CUstream_st {
  int number;  // in the order of creation, from 1
  int device;  // current at its creation
  Work *queue; // a ring: works [done, added)
  int64_t done, added, capacity;
  bool is_late, has_waited;
  bool hangs; // beyond `done`
};

struct CUevent_st {
  int device;
  cudaStream_t stream; // NULL: never recorded
  int64_t position;    // what the stream had been given
  bool never;          // behind what is never done
  CaptureView view;    // of a capture
  bool asked;
  bool is_timing;
  double time_us;
};

static int64_t queued; // on all streams

bool standin_streams_are_idle(void) {
  return __atomic_load_n(&queued, __ATOMIC_RELAXED) == 0;
}

// The device's time: what its work said that it takes. Nothing else lets it pass.
static double clock_us;

void standin_pass_time(double us) {
  clock_us += us;
}

// Whether the variable names this stream.
static bool is_named(cudaStream_t stream, const char *variable) {
  const char *text = getenv(variable);
  return text && atoi(text) == stream->number;
}

static void run_until(cudaStream_t stream, int64_t position) {
  while (!stream->hangs && stream->done < position) {
    Work work = stream->queue[stream->done++ % stream->capacity];
    __atomic_sub_fetch(&queued, 1, __ATOMIC_RELAXED);
    work.run(work.context);
    if (work.drop) work.drop(work.context);
  }
}

static void grow(cudaStream_t stream) {
  int64_t capacity = 2 * stream->capacity + 64;
  Work *queue = malloc((size_t)capacity * sizeof *queue);
  if (!queue) standin_unknown("out of memory");
  for (int64_t i = stream->done; i < stream->added; i++)
    queue[i % capacity] = stream->queue[i % stream->capacity];
  free(stream->queue);
  stream->queue = queue;
  stream->capacity = capacity;
}

static void add(cudaStream_t stream, Work work) {
  if (stream->added - stream->done == stream->capacity) grow(stream);
  stream->queue[stream->added++ % stream->capacity] = work;
  __atomic_add_fetch(&queued, 1, __ATOMIC_RELAXED);
  if (is_named(stream, "STANDIN_EAGER")) standin_stream_run(stream);
}

void standin_stream_add(cudaStream_t stream, void (*work)(void *), void *context) {
  add(stream, (Work){work, NULL, context});
}

bool standin_stream_takes(cudaStream_t stream, void (*run)(void *), void (*drop)(void *),
                          void *context) {
  if (!stream) return false;
  if (standin_stream_records(stream, run, drop, context)) return true;
  if (stream->is_late) {
    add(stream, (Work){run, drop, context});
    return true;
  }
  standin_stream_run(stream);
  return false;
}

int standin_stream_number(cudaStream_t stream) {
  return stream ? stream->number : 0;
}

void standin_stream_hang(cudaStream_t stream) {
  standin_stream_run(stream);
  stream->hangs = true;
}

void standin_stream_run(cudaStream_t stream) {
  run_until(stream, stream->added);
}

bool standin_stream_has_waited(cudaStream_t stream) {
  bool has = stream->has_waited;
  stream->has_waited = false;
  return has;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags) {
  FAIL_WHEN_DUE(cudaErrorMemoryAllocation);
  if (flags != cudaStreamNonBlocking) standin_unknown("a stream that the default one blocks");
  static int streams;
  *stream = calloc(1, sizeof **stream);
  if (!*stream) return standin_error(cudaErrorMemoryAllocation);
  (*stream)->number = ++streams;
  (*stream)->device = standin_device();
  return cudaSuccess;
}

cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest) {
  FAIL_WHEN_DUE(cudaErrorInvalidDevice);
  *least = 0;
  *greatest = -5;
  return cudaSuccess;
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned flags, int priority) {
  if (priority > 0 || priority < -5) return standin_error(cudaErrorInvalidValue);
  return cudaStreamCreateWithFlags(stream, flags);
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  standin_stream_run(stream);
  free(stream->queue);
  free(stream);
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  FAIL_WHEN_DUE(cudaErrorLaunchFailure);
  if (standin_capture_breaks()) return standin_error(cudaErrorStreamCaptureUnsupported);
  standin_stream_run(stream);
  return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags) {
  FAIL_WHEN_DUE(cudaErrorLaunchFailure);
  if (flags != 0) standin_unknown("flags of a wait");
  stream->is_late = true;
  if (is_named(stream, "STANDIN_DEAF")) {
    stream->has_waited = true;
    return cudaSuccess;
  }
  cudaError_t captured = standin_capture_wait(stream, &event->view);
  if (captured == cudaSuccess && event->stream != stream) stream->has_waited = true;
  if (captured != cudaErrorNotReady) return standin_error(captured);
  if (event->stream == stream) return cudaSuccess;
  stream->has_waited = true;
  if (event->stream) run_until(event->stream, event->position);
  if (event->never) standin_stream_hang(stream);
  return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags) {
  FAIL_WHEN_DUE(cudaErrorMemoryAllocation);
  if (flags != cudaEventDisableTiming) standin_unknown("an event that measures time");
  *event = calloc(1, sizeof **event);
  if (!*event) return standin_error(cudaErrorMemoryAllocation);
  (*event)->device = standin_device();
  return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t *event) {
  FAIL_WHEN_DUE(cudaErrorMemoryAllocation);
  *event = calloc(1, sizeof **event);
  if (!*event) return standin_error(cudaErrorMemoryAllocation);
  (*event)->is_timing = true;
  (*event)->device = standin_device();
  return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  FAIL_WHEN_DUE(cudaErrorLaunchFailure);
  if (event->view.serial != 0) {
    (void)standin_capture_breaks();
    return standin_error(cudaErrorCapturedEvent);
  }
  if (standin_capture_breaks()) return standin_error(cudaErrorStreamCaptureUnsupported);
  if (event->stream) run_until(event->stream, event->position);
  return cudaSuccess;
}

cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t start, cudaEvent_t stop) {
  FAIL_WHEN_DUE(cudaErrorInvalidValue);
  if (!start->is_timing || !stop->is_timing || !start->stream || !stop->stream)
    standin_unknown("the time between events that measure none");
  *ms = (float)((stop->time_us - start->time_us) * 1e-3);
  return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  if (event->is_timing && event->stream) run_until(event->stream, event->position);
  free(event);
  return cudaSuccess;
}

// The first to ask finds it not ready yet, as on a GPU; by the second time it is.
cudaError_t cudaEventQuery(cudaEvent_t event) {
  FAIL_WHEN_DUE(cudaErrorLaunchFailure);
  if (event->view.serial != 0) {
    (void)standin_capture_breaks();
    return standin_error(cudaErrorCapturedEvent);
  }
  if (standin_capture_breaks()) return standin_error(cudaErrorStreamCaptureUnsupported);
  event->asked = !event->asked;
  if (event->asked || event->never) return cudaErrorNotReady;
  if (event->stream) run_until(event->stream, event->position);
  return cudaSuccess;
}

// What the event measures: the time when all before it is done.
static void take_time(void *context) {
  cudaEvent_t event = context;
  event->time_us = clock_us;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  FAIL_WHEN_DUE(cudaErrorLaunchFailure);
  if (event->device != stream->device) return standin_error(cudaErrorInvalidResourceHandle);
  event->stream = stream;
  if (standin_capture_event(&event->view, stream)) return cudaSuccess;
  if (event->is_timing && !standin_stream_takes(stream, take_time, NULL, event)) take_time(event);
  event->position = stream->added;
  event->never = stream->hangs;
  return cudaSuccess;
}
