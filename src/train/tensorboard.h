// The curves of a run as TensorBoard reads them: events.out.tfevents.TIME.HOST in the run's folder,
// with the values of history.csv under the same names, by optimizer step. Rank 0 has one.
//
// Each part of a run, from its start or from where it was resumed, writes a file of its own. It
// begins with the step it starts from, and TensorBoard then drops what a killed part had written
// beyond that step.
#ifndef IMGCLS_TRAIN_TENSORBOARD_H
#define IMGCLS_TRAIN_TENSORBOARD_H

#include "train/history.h"

typedef struct TensorBoard TensorBoard;

// Creates the file in `folder`; `step` steps are done already. STATUS_CANT_CREATE.
MUST_CHECK Status tensorboard_open(TensorBoard **out, const char *folder, const char *host,
                                   int64_t step);
void tensorboard_close(TensorBoard *board); // NULL is fine

// Adds an epoch that ended with `step` steps done.
MUST_CHECK Status tensorboard_write(TensorBoard *board, const HistoryRow *row, int64_t step);

#endif
