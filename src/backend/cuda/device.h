// What the files of this folder share: the device, the adaptors of the libraries, the layout of
// values.
//
// Layout: values of rank 3 are NHWC in the compute type, C rounded up to packs of 16 bytes whose
// extra lanes hold zeros, always (kernels/kernels.h). Values of rank 1 are dense fp32 rows. All
// work of a device goes to one stream, in order; only transfers and uploads of what the work to
// come computes on run beside it. The host waits where it says so: wait, copies to the host, a
// transfer's own copies.
#ifndef IMGCLS_BACKEND_CUDA_DEVICE_H
#define IMGCLS_BACKEND_CUDA_DEVICE_H

#include <cublasLt.h>
#include <cuda_runtime_api.h>
#include <cudnn.h>

#include "backend/backend.h"
#include "backend/cuda/plan_cache.h"
#include "io/checksum.h"
#include "kernels/kernels.h"

// A plan that layers share.
typedef struct DevicePlan {
  char key[CHECKSUM_TEXT_CAPACITY]; // of what was planned
  cudnnBackendDescriptor_t plan;
  PlanRecord record;
} DevicePlan;

struct Device {
  int index;
  cudaStream_t stream;
  cudaEvent_t reached; // what the host waits for
  cudaStream_t transfers;  // batches to come: copies, and the uploads that go with them
  cudaEvent_t sent;        // the last of them
  cudaEvent_t consumed[2]; // for each slot: what it held has been read
  int last_slot;           // of transfers; -1: there was none
  cudaStream_t uploads;    // those that go beside
  cudaEvent_t before_upload, uploaded;
  cudnnHandle_t cudnn;
  cublasLtHandle_t blas;
  // Of a GPU that is not there: what cuDNN plans for instead of `cudnn`. Such a device has no memory
  // and runs nothing.
  cudnnBackendDescriptor_t model;
  bool has_driver;        // so that the library can compile engines
  char kind[128];         // "NVIDIA H200, 9.0, 132 multiprocessors"
  size_t workspace_limit; // of one convolution or matrix product, bytes
  PlanOptions options;
  PlanCache plan_cache;
  DevicePlan **plans; // of all that was planned, owned
  size_t plan_count, plan_capacity;
  double *sums;           // device memory: KERNEL_SUM_BLOCKS partial sums
  void *staging;          // device memory: bytes on their way to a value
  size_t staging_size;
};

// Each names the call that failed. Evaluates its argument once.
#define CUDA_TRY(call)                                                                             \
  do {                                                                                             \
    cudaError_t cuda_try_result = (call);                                                          \
    if (cuda_try_result != cudaSuccess) return cuda__error(cuda_try_result, #call);                \
  } while (0)
#define CUDNN_TRY(call)                                                                            \
  do {                                                                                             \
    cudnnStatus_t cudnn_try_result = (call);                                                       \
    if (cudnn_try_result != CUDNN_STATUS_SUCCESS)                                                  \
      return cuda__cudnn_error(cudnn_try_result, #call);                                           \
  } while (0)
#define CUBLAS_TRY(call)                                                                           \
  do {                                                                                             \
    cublasStatus_t cublas_try_result = (call);                                                     \
    if (cublas_try_result != CUBLAS_STATUS_SUCCESS)                                                \
      return cuda__cublas_error(cublas_try_result, #call);                                         \
  } while (0)

Status cuda__error(cudaError_t result, const char *call);
Status cuda__cudnn_error(cudnnStatus_t result, const char *call);
Status cuda__cublas_error(cublasStatus_t result, const char *call);

// Behind a kernel's launcher: whether the device took it.
MUST_CHECK Status cuda__launched(const char *kernel);

// Loads cuDNN and cuBLASLt, whose functions may be called from then on.
MUST_CHECK Status cuda__libraries_load(void);

// host.c
MUST_CHECK Status cuda_device_count(DeviceCount *out);
MUST_CHECK Status cuda_device_identify(DeviceIdentity *out, int index);
MUST_CHECK Status cuda_describe_host(char *text, size_t capacity);

// device.c
void *cuda_native_stream(Device *device);
MUST_CHECK Status cuda_device_open(Device **out, const DeviceDesc *desc);
void cuda_device_close(Device *device);
void cuda_device_describe(const Device *device, char *text, size_t capacity);
bool cuda_device_multiplies(const Device *device, DType dtype);
MUST_CHECK Status cuda_memory_available(Device *device, size_t *out);
Status cuda_memory_alloc(Device *device, void **out, size_t size_bytes);
void cuda_memory_free(Device *device, void *memory);
MUST_CHECK Status cuda_memory_clear(Device *device, void *memory, size_t size_bytes);
MUST_CHECK Status cuda_copy_to_device(Device *device, void *to, const void *from, size_t size_bytes);
MUST_CHECK Status cuda_copy_to_host(Device *device, void *to, const void *from, size_t size_bytes);
MUST_CHECK Status cuda_read_begin(Device *device, void *to, const void *from, size_t size_bytes);
MUST_CHECK Status cuda_wait(Device *device);

// transfer.c
MUST_CHECK Status cuda_transfer(Device *device, int slot, const TransferPiece *pieces, int count);
// Around the launch of an upload: the stream that it goes to, behind what must be done before it;
// and what must be done behind it.
MUST_CHECK Status cuda__upload_begin(Device *device, cudaStream_t *stream, UploadOrder order);
MUST_CHECK Status cuda__upload_end(Device *device, UploadOrder order);
MUST_CHECK Status cuda_upload_join(Device *device);

// Until an event has come. Asks instead of blocking in the driver, whose call does not return when
// a GPU or another rank is lost; the watchdog's time runs meanwhile.
MUST_CHECK Status cuda__wait_for(cudaEvent_t event);

// recording.c
MUST_CHECK Status cuda_record_begin(Device *device);
MUST_CHECK Status cuda_record_end(Device *device, Recording **out);
MUST_CHECK Status cuda_replay(Device *device, const Recording *recording);
void cuda_recording_free(Recording *recording);

// timeline.c
MUST_CHECK Status cuda_timeline_create(Device *device, Timeline **out, int capacity);
void cuda_timeline_free(Timeline *timeline);
MUST_CHECK Status cuda_timeline_mark(Timeline *timeline);
MUST_CHECK Status cuda_timeline_read(Timeline *timeline, double *seconds);

// value.c: args->values to a value.
MUST_CHECK Status cuda__import(Device *device, const UploadArgs *args, cudaStream_t stream);

// Makes `device` stand for a GPU of this name, for planning without one; STATUS_CONFIG names those
// known.
MUST_CHECK Status cuda__model_open(Device *device, const char *name);

// Fills device->kind; `capability` is 10 major + minor. Plans are of a kind.
void cuda__name_kind(Device *device, const char *name, int capability, int multiprocessors);

// cudnn_plan.c
const PlanRecord *cuda_plan_record(const Device *device, int i);
void cuda__plans_free(Device *device);

MUST_CHECK Status cuda_host_alloc(Device *device, void **out, size_t size_bytes);
void cuda_host_free(Device *device, void *memory);

// Copies in the order of the device's other work; `from` may change again once the host has waited
// for any later work, as every copy to the host does.
MUST_CHECK Status cuda__send(Device *device, void *to, const void *from, size_t size_bytes);

// At least `size_bytes` of device memory for bytes on their way to a value; grows in the first steps
// and stays.
MUST_CHECK Status cuda_staging(Device *device, void **out, size_t size_bytes);
// A copy of `from` there.
MUST_CHECK Status cuda_stage(Device *device, const void **out, const void *from, size_t size_bytes);

// The kernels' type of a value: rows for rank 1.
static inline KernelType cuda_type(Shape shape, DType dtype) {
  return shape.rank == 1       ? KERNEL_ROW
         : dtype == DTYPE_BF16 ? KERNEL_BF16
         : dtype == DTYPE_F16  ? KERNEL_F16
                               : KERNEL_F32;
}

// What memory of the runtime starts at, and what libraries measure and use as a workspace.
enum { CUDA_ALIGNMENT = 256 }; // bytes
static inline size_t cuda_round_up(size_t size_bytes) {
  return (size_bytes + CUDA_ALIGNMENT - 1) / CUDA_ALIGNMENT * CUDA_ALIGNMENT;
}

static inline size_t cuda_type_size(KernelType type) {
  return type == KERNEL_BF16 || type == KERNEL_F16 ? 2 : 4;
}

// Pixels of one sample; 1 for rank 1.
static inline int64_t cuda_pixels(Shape shape) {
  return shape.rank == 1 ? 1 : shape.dim[0] * shape.dim[1];
}

#endif
