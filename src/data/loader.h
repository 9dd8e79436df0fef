// Threads that read, decode, resize and augment images ahead of the training step, into a ring of
// batches. Also feeds evaluation. One loader belongs to one rank and is used by one thread.
//
// What a batch holds is a function of the sampler and its step; the number of threads and of ranks
// decides only who computes it and when.
#ifndef IMGCLS_DATA_LOADER_H
#define IMGCLS_DATA_LOADER_H

#include <stdint.h>

#include "backend/backend.h"
#include "base/log.h"
#include "base/status.h"
#include "data/augment.h"
#include "data/dataset.h"
#include "data/sampler.h"

typedef struct Loader Loader;

// This rank's share of one global batch.
typedef struct Batch {
  int64_t step;         // of the sampler
  int64_t pass;         // sampler_pass of it
  int64_t global_count; // samples over all ranks; what the loss divides by
  int64_t first_sample; // position of pixels[0] in the global batch
  int64_t count;        // samples here; may be 0
  uint8_t *pixels;      // (count, height, width, 3), 64-byte aligned
  int32_t *images;      // (count): which images of pixels, which are then all of the list's, on the
                        // device (train/resident.h); here NULL
  AugmentMap *maps;     // (count): the changes that pixels still wait for; NULL: none
  float *values;        // (count, features) in place of pixels (train/features.h); here NULL
  int32_t *labels;      // -1: a broken image of an evaluation, to be left out of every figure
  int64_t *samples;     // ids in the dataset
} Batch;

typedef enum LoaderBadFiles {
  LOADER_BAD_REPLACE, // training: the next good sample of the list stands in, on every rank alike
  LOADER_BAD_MARK,    // evaluation: label -1 and black pixels
} LoaderBadFiles;

// Says which positions of a global batch of `batch_size` samples this rank computes: `*count` from
// `*first` on. Called once for each step.
typedef void LoaderShare(const void *context, int64_t batch_size, int64_t *first, int64_t *count);

typedef struct LoaderDesc {
  const Dataset *dataset; // borrowed until loader_close
  const int64_t *samples; // the list that the sampler indexes, such as Split.training; borrowed.
                          // NULL: the dataset's samples in order
  int64_t sample_count;   // the sampler's too
  Sampler sampler;
  SampleTarget target;
  SampleLimits limits;
  const AugmentDesc *augment; // NULL: none; copied
  bool leave_resampling;      // the changes come as Batch.maps, for whoever computes them faster
  LoaderShare *share;         // NULL: the whole batch
  const void *share_context;  // borrowed
  int64_t first_step;         // where to begin: resume
  int64_t end_step;           // the step after the last; -1: without end
  int64_t threads;            // at least 1
  int64_t depth;              // batches in the ring, including the ones lent out; at least 2
  // Resized images are kept in memory where the whole list fits in this and more than one pass is
  // to come. 0: never.
  size_t cache_bytes;
  LoaderBadFiles bad_files;
  double max_bad_fraction; // 0..1 of the list, rounded up to a whole file; loaders of several ranks
                           // are counted together by bad_files_collect (train/bad_files.h)
  const Backend *backend;  // where uploads to a device read the pixels: borrowed; NULL: nowhere
  Device *device;
  Log *log; // names bad files, each rank its own; borrowed; NULL: somebody else does
} LoaderDesc;

// The most images that a batch of this rank can have, and the bytes of one.
int64_t loader_largest_share(const LoaderDesc *desc);
size_t loader_image_bytes(const LoaderDesc *desc);

// Bytes that a loader of this desc comes to hold, beside the files under way.
size_t loader_memory_bytes(const LoaderDesc *desc);

// Starts the threads. STATUS_OS without memory or threads.
MUST_CHECK Status loader_open(Loader **out, const LoaderDesc *desc);

// Lends the next batch, in step order, waiting for it where needed; NULL in `*out` after the last.
// Fails with STATUS_DATA when more files are bad here than allowed (the message names the last
// one), and then again at every call.
MUST_CHECK Status loader_next(Loader *loader, const Batch **out);

// Gives a batch back, in any order; its memory is filled anew.
void loader_release(Loader *loader, const Batch *batch);

double loader_wait_seconds(const Loader *loader); // that loader_next has waited, in all

// Bad files met so far on this rank, each once, in the order they were met. `*reason` is a message
// that names the file, valid until loader_close.
int64_t loader_bad_count(Loader *loader);
void loader_bad_file(Loader *loader, int64_t index, int64_t *sample, const char **reason);

// STATUS_DATA where so many bad files, met on whichever ranks, are more than the list may have; the
// message names `last` where it is not NULL.
MUST_CHECK Status loader_check_bad_count(const Loader *loader, int64_t count, const char *last);

// Why a sample of a lent batch has label -1; valid until loader_close.
const char *loader_bad_reason(Loader *loader, int64_t sample);

// Stops the threads, at any time, and frees everything. Lent batches become invalid.
void loader_close(Loader *loader);

#endif
