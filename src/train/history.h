// What a run has measured, epoch by epoch, and the files that show it: history.json in the shape of
// Keras' History.history, history.csv, and the two curves as SVG.
#ifndef IMGCLS_TRAIN_HISTORY_H
#define IMGCLS_TRAIN_HISTORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef struct HistoryRow {
  int64_t epoch; // from 1
  double loss, accuracy;
  bool has_validation;
  double val_loss, val_accuracy;
  double lr; // of the epoch's last step
} HistoryRow;

typedef struct History {
  HistoryRow *rows; // owned
  int64_t count;
  size_t capacity;
} History;

// The columns by Keras' names, in its order: loss, accuracy, val_loss, val_accuracy, lr.
enum { HISTORY_COLUMN_COUNT = 5 };
const char *history_column_name(int column);
double history_value(const HistoryRow *row, int column); // NaN where the row has none

void history_deinit(History *history);
MUST_CHECK Status history_append(History *history, const HistoryRow *row);

// What tells which epoch is the best: its accuracy on the validation images where the run has any,
// so that an epoch without an evaluation cannot be it, else on the training images. NaN: none, as
// where the loss on these images is not finite.
double history_score(const HistoryRow *row, bool by_validation);
// The highest; -1: no epoch has one.
double history_best(const History *history, bool by_validation);

// The rows as JSON text in Keras' shape, owned by the caller; the checkpoint carries it. What is not
// finite, which JSON lacks, is written as null.
MUST_CHECK Status history_format_json(char **out, const History *history);
// Replaces the rows by those of history_format_json's text. STATUS_DATA where it is none.
MUST_CHECK Status history_parse_json(History *history, const char *json);

// The files: history.json, history.csv, loss.svg, accuracy.svg.
enum { HISTORY_FILE_COUNT = 4 };

// Writes one of them into `folder`, replaced as a whole.
MUST_CHECK Status history_write(const History *history, const char *folder, int file);

#endif
