// The CUDA runtime, as far as imgcls uses it. See standin.h. Streams do nothing: every call is done
// when it returns.
#include <cuda_runtime_api.h>

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "standin.h"

enum { ALIGNMENT = 256 };

bool standin_call_fails(void) {
  static int calls, failing = -1;
  if (failing < 0) {
    const char *text = getenv("IMGCLS_STANDIN_FAIL");
    failing = text ? atoi(text) : 0;
  }
  return failing > 0 && __atomic_add_fetch(&calls, 1, __ATOMIC_RELAXED) == failing;
}

void standin_unknown(const char *format, ...) {
  va_list list;
  va_start(list, format);
  fprintf(stderr, "stand-in: ");
  vfprintf(stderr, format, list);
  fprintf(stderr, "\n");
  va_end(list);
  abort();
}

static int device_count(void) {
  const char *text = getenv("IMGCLS_STANDIN_GPUS");
  return text ? atoi(text) : 1;
}

#define FAIL_WHEN_DUE(error)                                                                       \
  if (standin_call_fails()) return error

const char *cudaGetErrorString(cudaError_t error) {
  return error == cudaSuccess                 ? "no error"
         : error == cudaErrorMemoryAllocation ? "out of memory"
         : error == cudaErrorNoDevice         ? "no CUDA-capable device is detected"
                                              : "unspecified launch failure";
}

const char *cudaGetErrorName(cudaError_t error) {
  return error == cudaSuccess ? "cudaSuccess" : "cudaErrorStandIn";
}

cudaError_t cudaGetLastError(void) {
  FAIL_WHEN_DUE(cudaErrorLaunchFailure);
  return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int *count) {
  FAIL_WHEN_DUE(cudaErrorNoDevice);
  *count = device_count();
  return *count > 0 ? cudaSuccess : cudaErrorNoDevice;
}

cudaError_t cudaSetDevice(int device) {
  FAIL_WHEN_DUE(cudaErrorInvalidDevice);
  return device >= 0 && device < device_count() ? cudaSuccess : cudaErrorInvalidDevice;
}

cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attribute, int device) {
  FAIL_WHEN_DUE(cudaErrorInvalidDevice);
  (void)device;
  if (attribute == cudaDevAttrComputeCapabilityMajor) *value = 9;
  else if (attribute == cudaDevAttrComputeCapabilityMinor) *value = 0;
  else standin_unknown("device attribute %d", (int)attribute);
  return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *properties, int device) {
  FAIL_WHEN_DUE(cudaErrorInvalidDevice);
  memset(properties, 0, sizeof *properties);
  snprintf(properties->name, sizeof properties->name, "stand-in %d", device);
  properties->totalGlobalMem = (size_t)16 << 30;
  properties->major = 9;
  return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags) {
  FAIL_WHEN_DUE(cudaErrorMemoryAllocation);
  (void)flags;
  *stream = malloc(1);
  return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  free(stream);
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  (void)stream;
  FAIL_WHEN_DUE(cudaErrorLaunchFailure);
  return cudaSuccess;
}

cudaError_t cudaMalloc(void **memory, size_t size) {
  FAIL_WHEN_DUE(cudaErrorMemoryAllocation);
  *memory = aligned_alloc(ALIGNMENT, (size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT);
  if (!*memory) return cudaErrorMemoryAllocation;
  memset(*memory, 0xff, size); // NaNs: nobody may count on zeros
  return cudaSuccess;
}

cudaError_t cudaFree(void *memory) {
  free(memory);
  return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *available, size_t *total) {
  FAIL_WHEN_DUE(cudaErrorInvalidDevice);
  *available = *total = (size_t)16 << 30;
  return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void *memory, int value, size_t size, cudaStream_t stream) {
  (void)stream;
  FAIL_WHEN_DUE(cudaErrorInvalidValue);
  memset(memory, value, size);
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t size, enum cudaMemcpyKind kind,
                            cudaStream_t stream) {
  (void)kind;
  (void)stream;
  FAIL_WHEN_DUE(cudaErrorInvalidValue);
  memmove(to, from, size);
  return cudaSuccess;
}
