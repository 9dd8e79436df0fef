// The CUDA runtime, as far as imgcls uses it. See standin.h; streams are in stream.c.
#include <cuda_runtime_api.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "capture.h"
#include "standin.h"

#define FAIL_WHEN_DUE(error)                                                                       \
  if (standin_call_fails()) return standin_error(error)

enum { ALIGNMENT = 4096 }; // what the strictest call asks for

// --- memory ---------------------------------------------------------------------------------------
// Under the guard it is one region, handed out from its start and never again, so that one call opens
// or closes all of it.

static const size_t guarded_size = (size_t)16 << 30;
static struct {
  char *start; // NULL: no guard
  size_t used;
  int touches; // under way
} guarded;

static bool is_guarded(void) {
  static int wanted = -1;
  if (wanted < 0) {
    const char *text = getenv("STANDIN_GUARD");
    wanted = text && atoi(text) > 0;
    if (wanted)
      guarded.start = mmap(NULL, guarded_size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                           -1, 0);
    if (guarded.start == MAP_FAILED) standin_unknown("no room for guarded memory");
  }
  return wanted;
}

void standin_touch_begin(void) {
  if (guarded.used > 0 && guarded.touches++ == 0)
    (void)mprotect(guarded.start, guarded.used, PROT_READ | PROT_WRITE);
}

void standin_touch_end(void) {
  if (guarded.used > 0 && --guarded.touches == 0)
    (void)mprotect(guarded.start, guarded.used, PROT_NONE);
}

static void *take_guarded(size_t size) {
  size_t page = 4096, rounded = (size + page - 1) / page * page;
  if (guarded.used + rounded > guarded_size) return NULL;
  void *memory = guarded.start + guarded.used;
  guarded.used += rounded;
  return memory;
}

static bool lies_guarded(const void *memory) {
  const char *at = memory;
  return guarded.start && at >= guarded.start && at < guarded.start + guarded.used;
}

// What is taken, block by block: what the plan of a job is compared with.
static const size_t total_memory = (size_t)16 << 30;
static struct {
  void **blocks;
  size_t *sizes;
  size_t count, capacity;
  size_t taken, peak;
  size_t uploaded, unpinned; // copied to the device, and of that from memory that it cannot read itself
} account;

static void note_taken(void *memory, size_t size) {
  if (account.count == account.capacity) {
    account.capacity = 2 * account.capacity + 16;
    account.blocks = realloc(account.blocks, account.capacity * sizeof *account.blocks);
    account.sizes = realloc(account.sizes, account.capacity * sizeof *account.sizes);
    if (!account.blocks || !account.sizes) standin_unknown("no memory to count memory");
  }
  account.blocks[account.count] = memory;
  account.sizes[account.count++] = size;
  account.taken += size;
  if (account.taken > account.peak) account.peak = account.taken;
}

static void note_freed(const void *memory) {
  for (size_t i = account.count; i-- > 0;) {
    if (account.blocks[i] != memory) continue;
    account.taken -= account.sizes[i];
    account.blocks[i] = account.blocks[--account.count];
    account.sizes[i] = account.sizes[account.count];
    return;
  }
}

__attribute__((destructor)) static void tell_peak(void) {
  const char *path = getenv("STANDIN_MEMORY");
  FILE *file = path ? fopen(path, "a") : NULL;
  if (file) {
    fprintf(file, "%zu %zu %zu\n", account.peak, account.uploaded, account.unpinned);
    fclose(file);
  }
  free(account.blocks);
  free(account.sizes);
}

// --- devices --------------------------------------------------------------------------------------

static int device_count(void) {
  const char *text = getenv("STANDIN_GPUS");
  return text ? atoi(text) : 1;
}

const char *cudaGetErrorString(cudaError_t error) {
  return error == cudaSuccess                          ? "no error"
         : error == cudaErrorStreamCaptureUnsupported  ? "operation not permitted when stream is "
                                                         "capturing"
         : error == cudaErrorStreamCaptureInvalidated  ? "operation failed due to a previous error "
                                                         "during capture"
         : error == cudaErrorStreamCaptureUnjoined     ? "capturing stream has unjoined work"
         : error == cudaErrorStreamCaptureIsolation    ? "dependency created on uncaptured work in "
                                                         "another stream"
         : error == cudaErrorCapturedEvent    ? "operation not permitted on an event last recorded in "
                                                "a capturing stream"
         : error == cudaErrorMemoryAllocation ? "out of memory"
         : error == cudaErrorNoDevice         ? "no CUDA-capable device is detected"
                                              : "unspecified launch failure";
}

const char *cudaGetErrorName(cudaError_t error) {
  return error == cudaSuccess ? "cudaSuccess" : "cudaErrorStandIn";
}

static _Thread_local cudaError_t last_error;

cudaError_t standin_error(cudaError_t error) {
  if (error != cudaSuccess && error != cudaErrorNotReady) last_error = error;
  return error;
}

// Where it is due, a launch before has failed.
cudaError_t cudaGetLastError(void) {
  cudaError_t error = standin_call_fails() ? cudaErrorLaunchFailure : last_error;
  last_error = cudaSuccess;
  return error;
}

cudaError_t cudaDriverGetVersion(int *version) {
  FAIL_WHEN_DUE(cudaErrorInvalidValue);
  *version = device_count() < 0 ? 0 : CUDART_VERSION;
  return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version) {
  FAIL_WHEN_DUE(cudaErrorInvalidValue);
  *version = CUDART_VERSION;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetPCIBusId(char *bus, int size, int device) {
  FAIL_WHEN_DUE(cudaErrorInvalidDevice);
  snprintf(bus, (size_t)size, "0000:FF:%02X.0", (unsigned)device);
  return cudaSuccess;
}

cudaError_t cudaDeviceCanAccessPeer(int *can, int device, int peer) {
  FAIL_WHEN_DUE(cudaErrorInvalidDevice);
  *can = device / 4 == peer / 4; // as on a machine of two sockets
  return cudaSuccess;
}

cudaError_t cudaDeviceGetP2PAttribute(int *value, enum cudaDeviceP2PAttr attribute, int device,
                                      int peer) {
  FAIL_WHEN_DUE(cudaErrorInvalidDevice);
  if (attribute != cudaDevP2PAttrNativeAtomicSupported)
    standin_unknown("peer attribute %d", (int)attribute);
  *value = device / 2 == peer / 2;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int *count) {
  FAIL_WHEN_DUE(cudaErrorInitializationError);
  *count = device_count();
  return standin_error(*count > 0 ? cudaSuccess : cudaErrorNoDevice);
}

static _Thread_local int current_device;

int standin_device(void) { return current_device; }

cudaError_t cudaSetDevice(int device) {
  FAIL_WHEN_DUE(cudaErrorInvalidDevice);
  if (device < 0 || device >= device_count()) return standin_error(cudaErrorInvalidDevice);
  current_device = device;
  return cudaSuccess;
}

cudaError_t cudaGetDevice(int *device) {
  FAIL_WHEN_DUE(cudaErrorInvalidDevice);
  *device = current_device;
  return cudaSuccess;
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
  const char *name = getenv("STANDIN_NAME");
  if (name) snprintf(properties->name, sizeof properties->name, "%s", name);
  else snprintf(properties->name, sizeof properties->name, "stand-in %d", device);
  properties->totalGlobalMem = total_memory;
  properties->major = 9;
  properties->uuid.bytes[15] = (char)device;
  properties->multiProcessorCount = 132;
  return cudaSuccess;
}

void *standin_memory_take(size_t size) {
  void *memory = NULL;
  if (is_guarded()) memory = take_guarded(size);
  else if (posix_memalign(&memory, ALIGNMENT, size) != 0) return NULL;
  if (!memory) return NULL;
  standin_touch_begin();
  memset(memory, 0xff, size); // NaNs: nobody may count on zeros
  standin_touch_end();
  note_taken(memory, size);
  return memory;
}

cudaError_t cudaMalloc(void **memory, size_t size) {
  FAIL_WHEN_DUE(cudaErrorMemoryAllocation);
  if (standin_capture_breaks()) return standin_error(cudaErrorStreamCaptureUnsupported);
  *memory = standin_memory_take(size);
  return standin_error(*memory ? cudaSuccess : cudaErrorMemoryAllocation);
}

// Of a device: where a block begins.
cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *out, const void *memory) {
  FAIL_WHEN_DUE(cudaErrorInvalidValue);
  *out = (struct cudaPointerAttributes){.type = cudaMemoryTypeUnregistered};
  for (size_t i = 0; i < account.count; i++)
    if (account.blocks[i] == memory) out->type = cudaMemoryTypeDevice;
  return cudaSuccess;
}

// What is queued may still touch it, because the call that was to wait for that has failed.
static void keep_for_good(void *memory) {
  static void **kept;
  static size_t count;
  kept = realloc(kept, (count + 1) * sizeof *kept);
  if (!kept) standin_unknown("no memory to keep memory");
  kept[count++] = memory;
}

cudaError_t cudaFree(void *memory) {
  if (standin_capture_breaks()) return standin_error(cudaErrorStreamCaptureUnsupported);
  note_freed(memory);
  if (lies_guarded(memory)) return cudaSuccess;
  if (standin_streams_are_idle())
    free(memory);
  else
    keep_for_good(memory);
  return cudaSuccess;
}

// Memory of the host that copies may reach while it goes on.
enum { MAX_PINNED = 64 };
static struct {
  char *memory;
  size_t size;
} pinned[MAX_PINNED];

static bool is_pinned(const void *memory) {
  for (int i = 0; i < MAX_PINNED; i++)
    if (pinned[i].memory && (size_t)((const char *)memory - pinned[i].memory) < pinned[i].size)
      return true;
  return false;
}

cudaError_t cudaHostAlloc(void **memory, size_t size, unsigned flags) {
  FAIL_WHEN_DUE(cudaErrorMemoryAllocation);
  if (standin_capture_breaks()) return standin_error(cudaErrorStreamCaptureUnsupported);
  if (flags != cudaHostAllocPortable) standin_unknown("host memory with flags %u", flags);
  *memory = aligned_alloc(ALIGNMENT, (size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT);
  if (!*memory) return standin_error(cudaErrorMemoryAllocation);
  memset(*memory, 0xff, size);
  int free_place = 0;
  while (free_place < MAX_PINNED && pinned[free_place].memory) free_place++;
  if (free_place == MAX_PINNED) standin_unknown("more than %d blocks of pinned memory", MAX_PINNED);
  pinned[free_place].memory = *memory;
  pinned[free_place].size = size;
  return cudaSuccess;
}

cudaError_t cudaFreeHost(void *memory) {
  if (standin_capture_breaks()) return standin_error(cudaErrorStreamCaptureUnsupported);
  for (int i = 0; i < MAX_PINNED; i++)
    if (pinned[i].memory == memory) pinned[i].memory = NULL;
  free(memory);
  return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *available, size_t *total) {
  FAIL_WHEN_DUE(cudaErrorInvalidDevice);
  *total = total_memory;
  *available = account.taken < total_memory ? total_memory - account.taken : 0;
  return cudaSuccess;
}

// --- copies ---------------------------------------------------------------------------------------

typedef struct Copy {
  void *to;
  const void *from; // NULL: `value` instead
  size_t size;
  int value;
} Copy;

static void run_copy(void *argument) {
  const Copy *copy = argument;
  standin_touch_begin();
  if (copy->from) memmove(copy->to, copy->from, copy->size);
  else memset(copy->to, copy->value, copy->size);
  standin_touch_end();
}

static void run_copy_once(void *argument) {
  run_copy(argument);
  free(argument);
}

// As late as a GPU might: memory of the host may not change, or be read, before something has waited.
static cudaError_t give_copy(Copy how, cudaStream_t stream) {
  Copy *copy = malloc(sizeof *copy);
  if (!copy) return cudaErrorMemoryAllocation;
  *copy = how;
  if (!standin_stream_records(stream, run_copy, free, copy))
    standin_stream_add(stream, run_copy_once, copy);
  return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void *memory, int value, size_t size, cudaStream_t stream) {
  FAIL_WHEN_DUE(cudaErrorInvalidValue);
  return give_copy((Copy){.to = memory, .size = size, .value = value}, stream);
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t size, enum cudaMemcpyKind kind,
                            cudaStream_t stream) {
  FAIL_WHEN_DUE(cudaErrorInvalidValue);
  if (kind == cudaMemcpyHostToDevice) {
    account.uploaded += size;
    if (!is_pinned(from)) account.unpinned += size;
  }
  cudaError_t given = give_copy((Copy){.to = to, .from = from, .size = size}, stream);
  // As CUDA does: to memory that is not pinned the copy is done when the call returns.
  if (given == cudaSuccess && kind == cudaMemcpyDeviceToHost && !is_pinned(to) &&
      !standin_is_recording())
    standin_stream_run(stream);
  return given;
}
