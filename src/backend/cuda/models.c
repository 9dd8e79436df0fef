// GPUs that cuDNN can plan for without one: their properties in the library's own words. A plan made
// here is the plan made there; whether it is fast is measured there.
#include <stdio.h>
#include <string.h>

#include "backend/cuda/device.h"

typedef struct ModelRow {
  const char *key, *name;
  int capability; // 100 major + 10 minor
  int multiprocessors, blocks_per_multiprocessor, threads_per_multiprocessor;
  int shared_optin; // bytes of shared memory that a block can ask for
  long long memory, cache; // bytes
  int core_khz, memory_khz;
} ModelRow;

static const ModelRow models[] = {
    {"h200", "NVIDIA H200", 900, 132, 32, 2048, 232448, 150754820096, 62914560, 1980000, 3201000},
    {"h100", "NVIDIA H100 80GB HBM3", 900, 132, 32, 2048, 232448, 85029158912, 52428800, 1980000,
     2619000},
    {"a100", "NVIDIA A100-SXM4-80GB", 800, 108, 32, 2048, 166912, 85031714816, 41943040, 1410000,
     1593000},
    {"l40s", "NVIDIA L40S", 890, 142, 24, 1536, 101376, 47810936832, 100663296, 2520000, 9001000},
};
enum { MODEL_COUNT = sizeof models / sizeof models[0] };

static const ModelRow *find(const char *name) {
  for (int i = 0; i < MODEL_COUNT; i++)
    if (strcmp(models[i].key, name) == 0) return &models[i];
  return NULL;
}

Status cuda__model_open(Device *device, const char *name) {
  const ModelRow *row = find(name);
  if (!row)
    return status_set(STATUS_CONFIG, "no GPU is known as '%s': plans can be made for %s, %s, %s, %s",
                      name, models[0].key, models[1].key, models[2].key, models[3].key);
  cuda__name_kind(device, row->name, row->capability / 10, row->multiprocessors);
  char text[1024];
  int length = snprintf(
      text, sizeof text,
      "{\"maxGridSize\":[2147483647,65535,65535],\"maxBlockSize\":[1024,1024,64],"
      "\"regsPerBlock\":65536,\"multiProcessorCount\":%d,\"warpSize\":32,"
      "\"maxSharedMemoryPerBlock\":49152,\"maxSharedMemoryPerBlockOptin\":%d,"
      "\"reservedSharedMemoryPerBlock\":1024,\"maxRegistersPerSM\":65536,\"maxCtasPerSM\":%d,"
      "\"maxThreadsPerBlock\":1024,\"maxThreadsPerSM\":%d,\"pciDeviceId\":0,\"isTccDriver\":0,"
      "\"supportCoopLaunch\":1,\"totalGlobalMem\":%lld,\"smClockRateKHz\":%d,"
      "\"memClockRateKHz\":%d,\"l2CacheSize\":%lld,\"cudaDeviceId\":0,\"deviceVer\":%d,"
      "\"driverVer\":13000,\"deviceName\":\"%s\"}",
      row->multiprocessors, row->shared_optin, row->blocks_per_multiprocessor,
      row->threads_per_multiprocessor, row->memory, row->core_khz, row->memory_khz, row->cache,
      row->capability, row->name);
  CUDNN_TRY(cudnnBackendCreateDescriptor(CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR, &device->model));
  CUDNN_TRY(cudnnBackendSetAttribute(device->model, CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION,
                                     CUDNN_TYPE_CHAR, length + 1, text));
  CUDNN_TRY(cudnnBackendFinalize(device->model));
  return STATUS_OK;
}
