// Batches on their way to the device: two places in its memory that are filled in turn, one while
// the device computes on the other. Used by train_step.
//
// What one worker alone takes in needs one place: its upload goes with the transfer, before the
// next one writes there. Of several workers the step itself uploads those behind the first.
//
// Where the device's memory is the host's there is nothing to move, and a step computes on the
// host's own.
#ifndef IMGCLS_TRAIN_FEED_H
#define IMGCLS_TRAIN_FEED_H

#include "backend/backend.h"

typedef struct Feed Feed;

typedef struct FeedDesc {
  const Backend *backend;
  Device *device;     // both borrowed until feed_free
  int64_t samples;    // of this rank in the largest batch
  size_t sample_size; // bytes, the most
  bool has_maps;
  int workers; // of this rank
} FeedDesc;

// What a step takes in, on the host or, after feed_send, in memory of the device.
typedef struct FeedBatch {
  int slot; // where feed_send has put it, 0 or 1 in turn; batches in the same slot lie in the same
            // places
  int64_t count;
  const void *samples; // pixels, features, or which resident images
  size_t sample_size;  // bytes of one
  const double *maps; // NULL: none
  const int32_t *labels;
  const StepKey *keys; // of each worker
  const float *learning_rate;
} FeedBatch;

MUST_CHECK Status feed_create(Feed **out, const FeedDesc *desc);
void feed_free(Feed *feed); // NULL is fine
size_t feed_memory_bytes(const FeedDesc *desc);

// Moves a batch to the device, beside its work on the one before. What was given before the last
// call is done then. Keys and rate may change at once, samples, maps and labels when the step on
// `out` was given to the device.
MUST_CHECK Status feed_send(Feed *feed, FeedBatch *out, const FeedBatch *host);

#endif
