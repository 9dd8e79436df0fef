// Decodes every image of a dataset by the loader's threads, to find the broken ones. For `imgcls
// data scan` and imgcls-train --check-data.
#ifndef IMGCLS_TOOL_DECODE_ALL_H
#define IMGCLS_TOOL_DECODE_ALL_H

#include "data/dataset.h"
#include "dist/world.h"

typedef struct DecodeAll {
  const Dataset *dataset;
  SampleLimits limits;
  int threads;
  const World *world; // NULL: alone; else each rank decodes its share, without a collective call
  Log *log;           // of progress
  // Hears of this rank's samples in order; `reason` names a broken file, NULL for a good one.
  Status (*on_image)(void *context, int64_t sample, const char *reason);
  void *context;
} DecodeAll;

MUST_CHECK Status decode_all(const DecodeAll *desc);

#endif
