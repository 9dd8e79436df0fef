// TensorBoard's event file. See tensorboard.h.
#include "train/tensorboard.h"

#include <event.pb-c.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/memory.h"
#include "io/tfrecord.h"

struct TensorBoard {
  TfRecordWriter records;
};

static Status append(TensorBoard *board, Tensorboard__Event *event) {
  event->has_wall_time = 1;
  event->wall_time = clock_wall_s();
  uint8_t *packed;
  size_t size = tensorboard__event__get_packed_size(event);
  TRY(memory_alloc(&packed, size, 1));
  (void)tensorboard__event__pack(event, packed);
  Status status = tfrecord_append(&board->records, packed, size);
  memory_free(packed);
  return status;
}

// TIME is in seconds, and a run can be resumed within one.
static Status create_file(TensorBoard *board, const char *folder, const char *host) {
  Status status = STATUS_CANT_CREATE;
  for (int64_t time_s = (int64_t)clock_wall_s(), last_s = time_s + 60; time_s < last_s; time_s++) {
    char *path;
    TRY(memory_print_string(&path, "%s/events.out.tfevents.%010" PRId64 ".%s", folder, time_s,
                            host));
    bool is_taken = access(path, F_OK) == 0;
    if (!is_taken) status = tfrecord_create(&board->records, path);
    memory_free(path);
    if (!is_taken) return status;
  }
  return status_set(STATUS_CANT_CREATE,
                    "%s: holds too many events.out.tfevents files of this minute", folder);
}

static Status begin_file(TensorBoard *board, const char *folder, const char *host, int64_t step) {
  TRY(create_file(board, folder, host));
  Tensorboard__Event version = TENSORBOARD__EVENT__INIT;
  version.file_version = "brain.Event:2";
  TRY(append(board, &version));
  Tensorboard__SessionLog start = TENSORBOARD__SESSION_LOG__INIT;
  start.has_status = 1;
  start.status = TENSORBOARD__SESSION_LOG__SESSION_STATUS__START;
  Tensorboard__Event begin = TENSORBOARD__EVENT__INIT;
  begin.has_step = 1;
  begin.step = step + 1; // the first that is to come
  begin.session_log = &start;
  return append(board, &begin);
}

Status tensorboard_open(TensorBoard **out, const char *folder, const char *host, int64_t step) {
  *out = NULL;
  TensorBoard *board;
  TRY(memory_alloc(&board, 1, sizeof *board));
  Status status = begin_file(board, folder, host, step);
  if (status == STATUS_OK)
    *out = board;
  else
    tensorboard_close(board);
  return status;
}

void tensorboard_close(TensorBoard *board) {
  if (!board) return;
  tfrecord_close(&board->records);
  memory_free(board);
}

Status tensorboard_write(TensorBoard *board, const HistoryRow *row, int64_t step) {
  Tensorboard__Summary__Value values[HISTORY_COLUMN_COUNT];
  Tensorboard__Summary__Value *list[HISTORY_COLUMN_COUNT];
  Tensorboard__Summary summary = TENSORBOARD__SUMMARY__INIT;
  summary.value = list;
  for (int c = 0; c < HISTORY_COLUMN_COUNT; c++) {
    double x = history_value(row, c);
    if (isnan(x)) continue;
    Tensorboard__Summary__Value *value = list[summary.n_value] = &values[summary.n_value];
    summary.n_value++;
    tensorboard__summary__value__init(value);
    value->tag = (char *)history_column_name(c); // read only
    value->has_simple_value = 1;
    value->simple_value = (float)x;
  }
  Tensorboard__Event event = TENSORBOARD__EVENT__INIT;
  event.has_step = 1;
  event.step = step;
  event.summary = &summary;
  return append(board, &event);
}
