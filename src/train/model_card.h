// model_card.md: what a trained model is, what it learnt from and how well it does, for the people
// who get the .h5 (Mitchell et al., "Model cards for model reporting", 2019). Called by trainer.c.
#ifndef IMGCLS_TRAIN_MODEL_CARD_H
#define IMGCLS_TRAIN_MODEL_CARD_H

#include "train/job.h"

// Writes the card into the run's folder, over an older one. `test` is the result on the test
// images; NULL: there are none. Rank 0 alone.
MUST_CHECK Status model_card_write(const Job *job, const EvaluateResult *test);

#endif
