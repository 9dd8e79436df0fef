// What of CUDA this host has: driver, GPUs, the links between them. For the choice of a device and
// for `imgcls-train --check`; opens nothing.
#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>

#include "backend/cuda/device.h"

Status cuda_device_count(DeviceCount *out) {
  int driver = 0;
  *out = (DeviceCount){0};
  CUDA_TRY(cudaDriverGetVersion(&driver));
  if (driver == 0) {
    (void)snprintf(out->why_none, sizeof out->why_none,
                   "no GPU: no NVIDIA driver (libcuda.so.1) is installed");
    return STATUS_OK;
  }
  cudaError_t result = cudaGetDeviceCount(&out->count);
  if (result == cudaErrorInsufficientDriver)
    return status_set(
        STATUS_CONFIG,
        "the NVIDIA driver knows CUDA %d.%d, this program needs %d.0: update the driver "
        "or compute on the CPU (device = cpu)",
        driver / 1000, driver % 1000 / 10, CUDART_VERSION / 1000);
  if (result == cudaErrorNoDevice || (result == cudaSuccess && out->count == 0)) {
    (void)cudaGetLastError(); // it is told here
    out->count = 0;
    (void)snprintf(out->why_none, sizeof out->why_none, "no GPU: the NVIDIA driver shows none");
    return STATUS_OK;
  }
  return result == cudaSuccess ? STATUS_OK : cuda__error(result, "cudaGetDeviceCount");
}

Status cuda_device_identify(DeviceIdentity *out, int index) {
  struct cudaDeviceProp properties;
  *out = (DeviceIdentity){0};
  CUDA_TRY(cudaGetDeviceProperties(&properties, index));
  for (int i = 0; i < 16; i++) // two digits a byte
    (void)snprintf(out->id + 2 * i, 3, "%02x", (unsigned char)properties.uuid.bytes[i]);
  CUDA_TRY(cudaDeviceGetPCIBusId(out->bus, sizeof out->bus, index));
  for (char *c = out->bus; *c; c++) *c = (char)tolower((unsigned char)*c); // as Linux writes it
  return STATUS_OK;
}

typedef struct Text {
  char *text;
  size_t capacity, length;
} Text;

__attribute__((format(printf, 2, 3))) static void say(Text *to, const char *format, ...) {
  va_list args;
  va_start(args, format);
  int more = vsnprintf(to->text + to->length, to->capacity - to->length, format, args);
  va_end(args);
  if (more > 0) to->length += (size_t)more;
  if (to->length >= to->capacity) to->length = to->capacity - 1; // the rest is cut off
}

static Status say_device(Text *to, int index) {
  struct cudaDeviceProp properties;
  size_t available = 0, total = 0;
  char bus[24];
  CUDA_TRY(cudaGetDeviceProperties(&properties, index));
  CUDA_TRY(cudaDeviceGetPCIBusId(bus, sizeof bus, index));
  say(to, "GPU %d: %s, %s, compute capability %d.%d, ", index, properties.name, bus,
      properties.major, properties.minor);
  if (cudaSetDevice(index) == cudaSuccess && cudaMemGetInfo(&available, &total) == cudaSuccess)
    say(to, "%.1f of %.1f GiB free\n", (double)available * 0x1p-30, (double)total * 0x1p-30);
  else // of another process alone (exclusive mode), or broken
    say(to, "%.1f GiB, not to be used: %s\n", (double)properties.totalGlobalMem * 0x1p-30,
        cudaGetErrorString(cudaGetLastError()));
  return STATUS_OK;
}

// Asking a GPU for its free memory makes it the thread's current one.
static Status say_devices(Text *to, int count) {
  int current;
  CUDA_TRY(cudaGetDevice(&current));
  Status status = STATUS_OK;
  for (int i = 0; i < count && status == STATUS_OK; i++) status = say_device(to, i);
  if (status == STATUS_OK)
    CUDA_TRY(cudaSetDevice(current));
  else
    (void)cudaSetDevice(current);
  return status;
}

// A link is named by what it can do: NVLink has native atomics between the two, PCIe has not.
static Status say_links(Text *to, int index, int count) {
  for (int peer = index + 1; peer < count; peer++) {
    int access = 0, atomics = 0;
    CUDA_TRY(cudaDeviceCanAccessPeer(&access, index, peer));
    if (access)
      CUDA_TRY(
          cudaDeviceGetP2PAttribute(&atomics, cudaDevP2PAttrNativeAtomicSupported, index, peer));
    say(to, "GPU %d - GPU %d: %s\n", index, peer,
        !access   ? "no direct access: through host memory"
        : atomics ? "NVLink"
                  : "PCIe");
  }
  return STATUS_OK;
}

Status cuda_describe_host(char *text, size_t capacity) {
  Text to = {.text = text, .capacity = capacity};
  DeviceCount devices;
  int driver = 0, runtime = 0;
  TRY(cuda_device_count(&devices));
  say(&to, "%s", "");
  if (devices.count == 0) return STATUS_OK;
  TRY(cuda__libraries_load());
  CUDA_TRY(cudaDriverGetVersion(&driver));
  CUDA_TRY(cudaRuntimeGetVersion(&runtime));
  size_t cudnn = cudnnGetVersion(), blas = cublasLtGetVersion();
  say(&to, "driver for CUDA %d.%d, CUDA %d.%d, cuDNN %zu.%zu.%zu, cuBLASLt %zu.%zu.%zu\n",
      driver / 1000, driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10, cudnn / 10000,
      cudnn / 100 % 100, cudnn % 100, blas / 10000, blas / 100 % 100, blas % 100);
  TRY(say_devices(&to, devices.count));
  for (int i = 0; i < devices.count; i++) TRY(say_links(&to, i, devices.count));
  return STATUS_OK;
}
