// Training and validation images, chosen exactly as Keras' image_dataset_from_directory(
// validation_split, seed) chooses them: numpy's RandomState(seed).shuffle of the list, the last
// int(fraction * N) of it for validation. The order of the shuffled list is kept.
#ifndef IMGCLS_DATA_SPLIT_H
#define IMGCLS_DATA_SPLIT_H

#include <stdint.h>

#include "base/status.h"

typedef struct Split {
  int64_t *training; // sample ids in Keras' order; owned
  int64_t training_count;
  int64_t *validation; // points into the block of `training`
  int64_t validation_count;
} Split;

typedef struct SplitDesc {
  int64_t sample_count;
  double validation_fraction; // 0..1; 0: everything is for training
  int64_t seed;               // 0..2^32-1, as numpy allows
} SplitDesc;

// Fills a zeroed `out`. STATUS_CONFIG where one of the two parts would be empty though
// the fraction is above 0, or where the seed is out of range.
MUST_CHECK Status split_init(Split *out, const SplitDesc *desc);

void split_deinit(Split *split);

// numpy.random.RandomState(seed).shuffle(x) of a list or a vector, in place (legacy MT19937).
void split_shuffle_as_numpy(int64_t *items, int64_t count, uint32_t seed);

#endif
