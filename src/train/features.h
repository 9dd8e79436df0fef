// The features that a frozen backbone gives the images of a list, computed once and kept in memory,
// so that steps and evaluations run the head alone.
//
// Each rank computes and keeps its part of the list, (F + 1) * 4 bytes for each image; a batch is
// brought together by one exchange between the ranks. Which samples form a batch, and who computes
// which of them, is what the sampler and the share of the list's loader say, as for images. Nothing
// is written to disk: a resumed run computes them again.
#ifndef IMGCLS_TRAIN_FEATURES_H
#define IMGCLS_TRAIN_FEATURES_H

#include "data/loader.h"
#include "dist/watchdog.h"
#include "dist/world.h"
#include "train/bad_files.h"
#include "train/extractor.h"

typedef struct Features Features;

typedef struct FeaturesDesc {
  World *world;             // borrowed until features_free
  const LoaderDesc *loader; // the list, its images, and the sampler and share of later batches
  Extractor *extractor;     // allocated; borrowed for features_compute alone, as the rest
  Watchdog *watchdog;       // may be NULL
  BadFiles *bad_files;      // where bad ones are written down
  Log *log;
  const char *what; // "training", for messages
} FeaturesDesc;

// Bytes that a rank keeps of a list, at most.
size_t features_memory_bytes(int64_t samples, const Extractor *extractor, int ranks);

// Loads every image once and computes its features. STATUS_STOPPED after a request to stop.
// Collective.
MUST_CHECK Status features_compute(Features **out, const FeaturesDesc *desc);
void features_free(Features *features); // NULL is fine

// This rank's share of global batch `step`: values and labels, no pixels and no sample ids. Valid
// until the next call. Collective.
MUST_CHECK Status features_read(Features *features, const Batch **out, int64_t step);

#endif
