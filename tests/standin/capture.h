// What of a capture (capture.c) the other calls of the runtime must know. See standin.h.
#ifndef IMGCLS_TESTS_STANDIN_CAPTURE_H
#define IMGCLS_TESTS_STANDIN_CAPTURE_H

#include <cuda_runtime_api.h>
#include <stdint.h>

#include "standin.h"

enum { CAPTURE_STREAMS = 4 };

// How many works of each stream of a capture come before something.
typedef struct CaptureView {
  int64_t serial; // of the capture; 0: of none
  int64_t seen[CAPTURE_STREAMS];
} CaptureView;

// What a call of the runtime returns, kept as the thread's last error where it is one.
cudaError_t standin_error(cudaError_t error);

// The calling thread's current device.
int standin_device(void);

bool standin_stream_is_captured(cudaStream_t stream);

// In a call that a capturing thread must not make: breaks its capture. False: it does not capture.
bool standin_capture_breaks(void);

// What an event that is recorded on `stream` stands behind; false: it is no part of a capture.
bool standin_capture_event(CaptureView *view, cudaStream_t stream);

// A stream waits for such an event. cudaErrorNotReady: neither has to do with a capture.
cudaError_t standin_capture_wait(cudaStream_t stream, const CaptureView *event);

#endif
