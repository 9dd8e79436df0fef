// The backbone alone. See extractor.h.
#include "train/extractor.h"

#include <string.h>

#include "base/memory.h"
#include "model/model.h"

static const int64_t slice_of_all_threads = 16, slice_of_one_thread = 4; // images

// What computes one slice at a time.
typedef struct Lane {
  Device *own_device; // NULL where it is the one of the job
  Executor *executor;
  uint8_t *pixels; // of a slice that is not full
  float *features; // of a slice
  KeptStatus status; // of its last run, in the lane's thread
} Lane;

struct Extractor {
  const Backend *backend;
  int64_t slice, length;
  size_t image_bytes;
  Lane *lanes;
  int lane_count;
};

static bool runs_side_by_side(const ExtractorDesc *desc) {
  return desc->reproducible && desc->backend->depends_on_threads;
}

static Status create_lane(Extractor *extractor, Lane *lane, const ExtractorDesc *desc) {
  if (runs_side_by_side(desc))
    TRY(desc->backend->device_open(&lane->own_device, &(DeviceDesc){.threads = 1}));
  TRY(memory_alloc(&lane->pixels, (size_t)extractor->slice, extractor->image_bytes));
  TRY(memory_alloc(&lane->features, (size_t)(extractor->slice * extractor->length), sizeof(float)));
  return executor_create(&lane->executor, &(ExecutorDesc){.backend = desc->backend,
                                                          .device = lane->own_device
                                                                        ? lane->own_device
                                                                        : desc->device,
                                                          .graph = desc->graph,
                                                          .layout = desc->layout,
                                                          .mode = LOWER_INFERENCE,
                                                          .output = model_features(desc->graph),
                                                          .dtype = desc->dtype,
                                                          .batches = &extractor->slice,
                                                          .batch_count = 1});
}

Status extractor_create(Extractor **out, const ExtractorDesc *desc) {
  *out = NULL;
  Extractor *extractor;
  TRY(memory_alloc(&extractor, 1, sizeof *extractor));
  Status status = STATUS_OK;
  int lanes = runs_side_by_side(desc) ? desc->threads : 1;
  extractor->backend = desc->backend;
  extractor->slice = runs_side_by_side(desc) ? slice_of_one_thread : slice_of_all_threads;
  extractor->length = model_feature_length(desc->graph);
  extractor->image_bytes = (size_t)shape_count(desc->graph->layers[0].shape);
  GUARD(memory_alloc(&extractor->lanes, (size_t)lanes, sizeof *extractor->lanes));
  extractor->lane_count = lanes;
  for (int i = 0; i < lanes; i++) GUARD(create_lane(extractor, &extractor->lanes[i], desc));
  *out = extractor;
  extractor = NULL;
out:
  extractor_free(extractor);
  return status;
}

void extractor_free(Extractor *extractor) {
  if (!extractor) return;
  for (int i = 0; i < extractor->lane_count; i++) {
    Lane *lane = &extractor->lanes[i];
    executor_free(lane->executor);
    if (lane->own_device) extractor->backend->device_close(lane->own_device);
    memory_free(lane->pixels);
    memory_free(lane->features);
  }
  memory_free(extractor->lanes);
  memory_free(extractor);
}

size_t extractor_memory_bytes(const Extractor *extractor) {
  size_t bytes = 0;
  for (int i = 0; i < extractor->lane_count; i++)
    bytes += executor_memory_bytes(extractor->lanes[i].executor);
  return bytes;
}

Status extractor_allocate(Extractor *extractor, const float *weights) {
  for (int i = 0; i < extractor->lane_count; i++) {
    TRY(executor_allocate(extractor->lanes[i].executor));
    TRY(executor_bind(extractor->lanes[i].executor, weights, NULL));
  }
  return STATUS_OK;
}

int64_t extractor_length(const Extractor *extractor) {
  return extractor->length;
}

int64_t extractor_block(const Extractor *extractor) {
  return extractor->slice * extractor->lane_count;
}

// A slice that is not full is filled up with black, so that every image meets the same kernels.
static Status run_slice(const Extractor *extractor, Lane *lane, float *features,
                        const uint8_t *pixels, int64_t count) {
  size_t bytes = (size_t)count * extractor->image_bytes;
  if (count < extractor->slice) {
    memset(lane->pixels, 0, (size_t)extractor->slice * extractor->image_bytes);
    memcpy(lane->pixels, pixels, bytes);
    pixels = lane->pixels;
  }
  TRY(executor_forward(lane->executor,
                       &(ExecutorInput){.batch = extractor->slice, .pixels = pixels}));
  TRY(executor_read_output(lane->executor, lane->features));
  memcpy(features, lane->features, (size_t)(count * extractor->length) * sizeof(float));
  return STATUS_OK;
}

// The slices of lane i: i, i + lanes, ...
static Status run_lane(Extractor *extractor, int i, float *features, const uint8_t *pixels,
                       int64_t count) {
  int64_t slice = extractor->slice;
  for (int64_t first = i * slice; first < count; first += extractor->lane_count * slice) {
    int64_t left = count - first;
    TRY(run_slice(extractor, &extractor->lanes[i], features + first * extractor->length,
                  pixels + (size_t)first * extractor->image_bytes, left < slice ? left : slice));
  }
  return STATUS_OK;
}

Status extractor_run(Extractor *extractor, float *features, const uint8_t *pixels, int64_t count) {
  if (extractor->lane_count == 1) return run_lane(extractor, 0, features, pixels, count);
#pragma omp parallel for num_threads(extractor->lane_count) schedule(static, 1)
  for (int i = 0; i < extractor->lane_count; i++) {
    Lane *lane = &extractor->lanes[i];
    status_keep(&lane->status, run_lane(extractor, i, features, pixels, count));
  }
  for (int i = 0; i < extractor->lane_count; i++)
    TRY(status_restore(&extractor->lanes[i].status));
  return STATUS_OK;
}
