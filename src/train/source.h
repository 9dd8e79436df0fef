// Where the batches of a list of samples come from: a loader that decodes images ahead, images that
// lie on the device, or features that were computed before. What trains and what evaluates asks
// here and need not know which.
#ifndef IMGCLS_TRAIN_SOURCE_H
#define IMGCLS_TRAIN_SOURCE_H

#include "data/loader.h"
#include "train/bad_files.h"
#include "train/features.h"
#include "train/resident.h"

// Zeroed when closed. Read-only for users.
typedef struct Source {
  Loader *loader;     // owned; NULL: one of the others
  Features *features; // borrowed
  Resident *resident; // borrowed
  int64_t step;       // the next one of features or resident images
  int64_t bad_told;   // of the loader's bad files, those that were collected
} Source;

// Starts a loader of this desc, or reads `features`, where they are not NULL, from its first step
// on.
MUST_CHECK Status source_open(Source *out, const LoaderDesc *desc, Features *features);

// Reads resident images, from this step on.
void source_open_resident(Source *out, Resident *resident, int64_t first_step);
void source_close(Source *source);

// The next batch, in step order; valid until source_release, which comes before the next call.
// Collective where there are features.
MUST_CHECK Status source_next(Source *source, const Batch **out);
void source_release(Source *source, const Batch *batch);

// Whether this rank's loader has met bad files that were not collected.
bool source_has_bad_files(const Source *source);

// Has the loader's bad files of `dataset` named and written down. Collective.
MUST_CHECK Status source_collect_bad_files(Source *source, BadFiles *bad, const Dataset *dataset);

// bad_files_leave: when source_next has failed.
MUST_CHECK Status source_leave_bad_files(Source *source, BadFiles *bad, const Dataset *dataset,
                                         Status why);

double source_wait_seconds(const Source *source); // that source_next has waited for a loader

#endif
