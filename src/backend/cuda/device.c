// Opening a GPU: its stream, its library handles, its memory. See device.h.
#include "backend/cuda/device.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"

_Static_assert((int)KERNEL_F32 == (int)DTYPE_F32 && (int)KERNEL_BF16 == (int)DTYPE_BF16 &&
                   (int)KERNEL_F16 == (int)DTYPE_F16,
               "the kernels' types stand in the order of DType");
_Static_assert((int)KERNEL_RELU == (int)ACTIVATION_RELU &&
                   (int)KERNEL_RELU6 == (int)ACTIVATION_RELU6 &&
                   (int)KERNEL_SWISH == (int)ACTIVATION_SWISH &&
                   (int)KERNEL_SIGMOID == (int)ACTIVATION_SIGMOID &&
                   (int)KERNEL_HARD_SIGMOID == (int)ACTIVATION_HARD_SIGMOID &&
                   (int)KERNEL_HARD_SWISH == (int)ACTIVATION_HARD_SWISH &&
                   (int)KERNEL_SOFTMAX == (int)ACTIVATION_SOFTMAX &&
                   (int)KERNEL_TANH == (int)ACTIVATION_TANH,
               "the kernels' activations stand in the order of ActivationKind");
_Static_assert((int)KERNEL_UPLOAD_CHANNELS == (int)RESCALING_MAX_CHANNELS,
               "an upload scales every channel of an image");

static const size_t workspace_limit = (size_t)256 << 20;
static const int oldest_capability = 80; // of the kernels in the program

Status cuda__error(cudaError_t result, const char *call) {
  return status_set(STATUS_OS, "CUDA: %s: %s (%s)", call, cudaGetErrorString(result),
                    cudaGetErrorName(result));
}

Status cuda__cudnn_error(cudnnStatus_t result, const char *call) {
  return status_set(STATUS_OS, "cuDNN: %s: %s", call, cudnnGetErrorString(result));
}

Status cuda__cublas_error(cublasStatus_t result, const char *call) {
  return status_set(STATUS_OS, "cuBLASLt: %s: %s", call, cublasLtGetStatusString(result));
}

Status cuda__launched(const char *kernel) {
  cudaError_t result = cudaGetLastError();
  return result == cudaSuccess ? STATUS_OK : cuda__error(result, kernel);
}

static Status check_capability(int index) {
  int major, minor;
  CUDA_TRY(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, index));
  CUDA_TRY(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, index));
  if (10 * major + minor >= oldest_capability) return STATUS_OK;
  return status_set(STATUS_CONFIG,
                    "GPU %d has compute capability %d.%d: at least %d.%d is needed; set [run] "
                    "device = cpu",
                    index, major, minor, oldest_capability / 10, oldest_capability % 10);
}

void cuda__name_kind(Device *device, const char *name, int capability, int multiprocessors) {
  (void)snprintf(device->kind, sizeof device->kind, "%.80s, %d.%d, %d multiprocessors", name,
                 capability / 10, capability % 10, multiprocessors);
}

static Status name_kind(Device *device) {
  struct cudaDeviceProp properties;
  CUDA_TRY(cudaGetDeviceProperties(&properties, device->index));
  cuda__name_kind(device, properties.name, 10 * properties.major + properties.minor,
                  properties.multiProcessorCount);
  device->has_driver = true;
  return STATUS_OK;
}

// All that a device has.
typedef struct Events {
  cudaEvent_t *all[6];
} Events;

static Events events_of(Device *device) {
  return (Events){{&device->reached, &device->sent, &device->consumed[0], &device->consumed[1],
                   &device->before_upload, &device->uploaded}};
}

static Status open_handles(Device *device) {
  void *sums;
  CUDA_TRY(cudaSetDevice(device->index));
  TRY(name_kind(device));
  CUDA_TRY(cudaStreamCreateWithFlags(&device->stream, cudaStreamNonBlocking));
  CUDA_TRY(cudaStreamCreateWithFlags(&device->transfers, cudaStreamNonBlocking));
  CUDA_TRY(cudaStreamCreateWithFlags(&device->uploads, cudaStreamNonBlocking));
  Events events = events_of(device);
  for (size_t i = 0; i < sizeof events.all / sizeof *events.all; i++)
    CUDA_TRY(cudaEventCreateWithFlags(events.all[i], cudaEventDisableTiming));
  CUDNN_TRY(cudnnCreate(&device->cudnn));
  CUDNN_TRY(cudnnSetStream(device->cudnn, device->stream));
  CUBLAS_TRY(cublasLtCreate(&device->blas));
  TRY(cuda_memory_alloc(device, &sums, KERNEL_SUM_BLOCKS * sizeof *device->sums));
  device->sums = sums;
  return STATUS_OK;
}

// cuDNN compiles engines where it can load the driver's library, also without a GPU.
static bool can_load_driver(void) {
  void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (library) (void)dlclose(library);
  return library != NULL;
}

static Status open_as(Device **out, const DeviceDesc *desc) {
  Device *device;
  TRY(memory_alloc(&device, 1, sizeof *device));
  Status status;
  device->index = desc->index;
  device->last_slot = -1;
  device->workspace_limit = workspace_limit;
  device->options = desc->plans;
  GUARD(plan_cache_open(&device->plan_cache, desc->plans.cache, desc->plans.log));
  device->has_driver = desc->model && can_load_driver();
  GUARD(desc->model ? cuda__model_open(device, desc->model) : open_handles(device));
  *out = device;
  return STATUS_OK;
out:
  cuda_device_close(device);
  return status;
}

Status cuda_device_open(Device **out, const DeviceDesc *desc) {
  *out = NULL;
  TRY(cuda__libraries_load());
  if (desc->model) return open_as(out, desc);
  TRY(check_capability(desc->index));
  return open_as(out, desc);
}

// Errors on the way out have nobody to tell: the device goes away.
void cuda_device_close(Device *device) {
  if (!device) return;
  cuda__plans_free(device);
  plan_cache_close(&device->plan_cache);
  if (device->model) (void)cudnnBackendDestroyDescriptor(device->model);
  if (device->stream) (void)cudaSetDevice(device->index);
  cuda_memory_free(device, device->sums);
  cuda_memory_free(device, device->staging);
  if (device->blas) (void)cublasLtDestroy(device->blas);
  if (device->cudnn) (void)cudnnDestroy(device->cudnn);
  Events events = events_of(device);
  for (size_t i = 0; i < sizeof events.all / sizeof *events.all; i++)
    if (*events.all[i]) (void)cudaEventDestroy(*events.all[i]);
  const cudaStream_t streams[] = {device->uploads, device->transfers, device->stream};
  for (size_t i = 0; i < sizeof streams / sizeof *streams; i++)
    if (streams[i]) (void)cudaStreamDestroy(streams[i]);
  memory_free(device);
}

void cuda_device_describe(const Device *device, char *text, size_t capacity) {
  struct cudaDeviceProp properties;
  if (device->model)
    (void)snprintf(text, capacity, "%s, not here, by cuDNN %zu", device->kind, cudnnGetVersion());
  else if (cudaGetDeviceProperties(&properties, device->index) != cudaSuccess)
    (void)snprintf(text, capacity, "GPU %d", device->index);
  else
    (void)snprintf(text, capacity, "GPU %d, %s, %.0f GiB, compute capability %d.%d", device->index,
                   properties.name, (double)properties.totalGlobalMem * 0x1p-30, properties.major,
                   properties.minor);
}

void *cuda_native_stream(Device *device) { return device->stream; }

bool cuda_device_multiplies(const Device *device, DType dtype) {
  (void)device; // every device that opens has tensor cores for both
  return dtype == DTYPE_F32 || dtype == DTYPE_BF16 || dtype == DTYPE_F16;
}

Status cuda_memory_available(Device *device, size_t *out) {
  size_t total;
  *out = SIZE_MAX;
  if (device->model) return STATUS_OK;
  CUDA_TRY(cudaMemGetInfo(out, &total));
  return STATUS_OK;
}

Status cuda_memory_alloc(Device *device, void **out, size_t size_bytes) {
  *out = NULL;
  if (size_bytes == 0) return STATUS_OK;
  if (device->model)
    return status_set(STATUS_CONFIG, "a GPU that is only planned for has no memory");
  cudaError_t result = cudaMalloc(out, size_bytes);
  if (result == cudaErrorMemoryAllocation) {
    size_t available = 0, total = 0;
    (void)cudaGetLastError(); // it is told here
    (void)cudaMemGetInfo(&available, &total);
    return status_set(STATUS_OS,
                      "GPU %d: no memory for %.0f MiB, %.0f of %.0f MiB are free; lower [train] "
                      "batch",
                      device->index, (double)size_bytes * 0x1p-20, (double)available * 0x1p-20,
                      (double)total * 0x1p-20);
  }
  if (result != cudaSuccess) return cuda__error(result, "cudaMalloc");
  Status status = cuda_memory_clear(device, *out, size_bytes);
  if (status != STATUS_OK) {
    cuda_memory_free(device, *out);
    *out = NULL;
  }
  return status;
}

void cuda_memory_free(Device *device, void *memory) {
  if (!memory) return;
  const cudaStream_t streams[] = {device->transfers, device->uploads, device->stream};
  for (size_t i = 0; i < sizeof streams / sizeof *streams; i++)
    (void)cudaStreamSynchronize(streams[i]); // a kernel may still use it
  (void)cudaFree(memory);
}

Status cuda_memory_clear(Device *device, void *memory, size_t size_bytes) {
  if (size_bytes > 0) CUDA_TRY(cudaMemsetAsync(memory, 0, size_bytes, device->stream));
  return STATUS_OK;
}

Status cuda_wait(Device *device) {
  CUDA_TRY(cudaEventRecord(device->reached, device->stream));
  return cuda__wait_for(device->reached);
}

Status cuda_host_alloc(Device *device, void **out, size_t size_bytes) {
  (void)device;
  *out = NULL;
  if (size_bytes > 0) CUDA_TRY(cudaHostAlloc(out, size_bytes, cudaHostAllocPortable));
  return STATUS_OK;
}

void cuda_host_free(Device *device, void *memory) {
  (void)device;
  if (memory) (void)cudaFreeHost(memory);
}

Status cuda__send(Device *device, void *to, const void *from, size_t size_bytes) {
  if (size_bytes > 0)
    CUDA_TRY(cudaMemcpyAsync(to, from, size_bytes, cudaMemcpyHostToDevice, device->stream));
  return STATUS_OK;
}

Status cuda_copy_to_device(Device *device, void *to, const void *from, size_t size_bytes) {
  if (size_bytes == 0) return STATUS_OK;
  TRY(cuda__send(device, to, from, size_bytes));
  return cuda_wait(device); // the caller may change `from` now
}

Status cuda_copy_to_host(Device *device, void *to, const void *from, size_t size_bytes) {
  if (size_bytes == 0) return STATUS_OK;
  TRY(cuda_read_begin(device, to, from, size_bytes));
  return cuda_wait(device);
}

Status cuda_read_begin(Device *device, void *to, const void *from, size_t size_bytes) {
  CUDA_TRY(cudaMemcpyAsync(to, from, size_bytes, cudaMemcpyDeviceToHost, device->stream));
  return STATUS_OK;
}

Status cuda_staging(Device *device, void **out, size_t size_bytes) {
  if (device->staging_size < size_bytes) {
    cuda_memory_free(device, device->staging);
    device->staging_size = 0;
    TRY(cuda_memory_alloc(device, &device->staging, size_bytes));
    device->staging_size = size_bytes;
  }
  *out = device->staging;
  return STATUS_OK;
}

Status cuda_stage(Device *device, const void **out, const void *from, size_t size_bytes) {
  void *staging;
  TRY(cuda_staging(device, &staging, size_bytes));
  *out = staging;
  return cuda__send(device, staging, from, size_bytes);
}
