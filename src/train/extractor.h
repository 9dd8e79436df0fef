// Runs images through the frozen backbone alone, in inference mode. Used by features.c.
//
// Images are computed in slices of a fixed size, whatever comes in. In reproducible mode on a backend
// that depends on the number of threads, a slice is small and runs on one thread, as many side by side
// as there are threads: a feature then depends on its image alone, not on ranks or threads.
#ifndef IMGCLS_TRAIN_EXTRACTOR_H
#define IMGCLS_TRAIN_EXTRACTOR_H

#include "exec/executor.h"

typedef struct Extractor Extractor;

typedef struct ExtractorDesc {
  const Backend *backend;
  Device *device;                // the weights'
  const Graph *graph;            // a model of model_build
  const ParameterLayout *layout; // borrowed, as all above
  DType dtype;
  int threads;
  bool reproducible;
} ExtractorDesc;

// Plans; takes no memory for activations yet.
MUST_CHECK Status extractor_create(Extractor **out, const ExtractorDesc *desc);
void extractor_free(Extractor *extractor); // NULL is fine
size_t extractor_memory_bytes(const Extractor *extractor);
MUST_CHECK Status extractor_allocate(Extractor *extractor, const float *weights);

int64_t extractor_length(const Extractor *extractor); // of a feature vector
int64_t extractor_block(const Extractor *extractor);  // images that fill all threads once

// Fills `features` (count, length) from `pixels` (count, H, W, 3); any count.
MUST_CHECK Status extractor_run(Extractor *extractor, float *features, const uint8_t *pixels,
                                int64_t count);

#endif
