// Arrays of floats on the device of a transport, for the tests of sums. The program's argument is
// the transport: "mpi" on the CPU, "nccl" on a GPU.
#ifndef IMGCLS_TESTS_DIST_DEVICE_MEMORY_H
#define IMGCLS_TESTS_DIST_DEVICE_MEMORY_H

#include "dist/comm.h"
#include "ranks.h"

static const char *transport = "mpi";
static const Backend *backend;
static Device *device;

// Each rank takes a device of its own, where there are as many. Exit 77: there is none.
static inline void device_memory_open(int argc, char **argv) {
  DeviceCount devices;
  const char *rank = getenv("OMPI_COMM_WORLD_LOCAL_RANK");
  if (argc > 1) transport = argv[1];
  backend = backend_find(strcmp(transport, "nccl") == 0 ? "cuda" : "cpu");
  if (!backend || backend->device_count(&devices) != STATUS_OK || devices.count == 0) {
    (void)fprintf(stderr, "%s\n", backend ? devices.why_none : "no such backend");
    exit(77);
  }
  DeviceDesc desc = {.threads = 1, .index = rank ? atoi(rank) % devices.count : 0};
  if (backend->device_open(&device, &desc) == STATUS_OK) return;
  (void)fprintf(stderr, "%s\n", status_message());
  exit(1);
}

static inline float *device_floats(int64_t count) {
  void *memory;
  assert_ok(backend->memory_alloc(device, &memory, (size_t)(count + 1) * sizeof(float)));
  return memory;
}

static inline void device_write(float *to, const float *from, int64_t count) {
  assert_ok(backend->copy_to_device(device, to, from, (size_t)count * sizeof *to));
}

static inline void device_read(float *to, const float *from, int64_t count) {
  assert_ok(backend->copy_to_host(device, to, from, (size_t)count * sizeof *to));
}

#endif
