// What a run has measured, and its files. See history.h.
#include "train/history.h"

#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "io/file.h"
#include "train/plot.h"

// Keras' names, in its order. A column with has_validation false has no value in that row.
static const struct {
  const char *name;
  size_t offset;
  bool is_validation;
} columns[HISTORY_COLUMN_COUNT] = {
    {"loss", offsetof(HistoryRow, loss), false},
    {"accuracy", offsetof(HistoryRow, accuracy), false},
    {"val_loss", offsetof(HistoryRow, val_loss), true},
    {"val_accuracy", offsetof(HistoryRow, val_accuracy), true},
    {"lr", offsetof(HistoryRow, lr), false},
};

static double *cell(HistoryRow *row, int column) {
  return (double *)(void *)((char *)row + columns[column].offset);
}

const char *history_column_name(int column) {
  return columns[column].name;
}

double history_value(const HistoryRow *row, int column) {
  if (columns[column].is_validation && !row->has_validation) return NAN;
  return *cell((HistoryRow *)row, column);
}

void history_deinit(History *history) {
  memory_free(history->rows);
  *history = (History){0};
}

Status history_append(History *history, const HistoryRow *row) {
  TRY(memory_reserve(&history->rows, &history->capacity, (size_t)history->count + 1, sizeof *row));
  history->rows[history->count++] = *row;
  return STATUS_OK;
}

double history_score(const HistoryRow *row, bool by_validation) {
  if (!by_validation) return isfinite(row->loss) ? row->accuracy : NAN;
  return row->has_validation && isfinite(row->val_loss) ? row->val_accuracy : NAN;
}

double history_best(const History *history, bool by_validation) {
  double best = -1.0;
  for (int64_t i = 0; i < history->count; i++)
    best = fmax(best, history_score(&history->rows[i], by_validation));
  return best;
}

Status history_format_json(char **out, const History *history) {
  *out = NULL;
  json_t *root = json_object();
  for (int c = 0; c < HISTORY_COLUMN_COUNT; c++) {
    json_t *list = json_array();
    for (int64_t i = 0; i < history->count; i++) {
      double x = history_value(&history->rows[i], c);
      (void)json_array_append_new(list, isfinite(x) ? json_real(x) : json_null());
    }
    (void)json_object_set_new(root, columns[c].name, list);
  }
  char *text = json_dumps(root, JSON_COMPACT | JSON_REAL_PRECISION(17));
  json_decref(root);
  Status status = text ? memory_copy_string(out, text)
                       : status_set(STATUS_OS, "history: out of memory for its JSON");
  free(text);
  return status;
}

Status history_parse_json(History *history, const char *json) {
  history->count = 0;
  json_error_t error;
  json_t *root = json_loads(json, 0, &error);
  Status status = STATUS_OK;
  size_t rows = json_array_size(json_object_get(root, "loss"));
  if (!root) GUARD(status_set(STATUS_DATA, "history: line %d: %s", error.line, error.text));
  for (size_t i = 0; i < rows; i++) {
    HistoryRow row = {.epoch = (int64_t)i + 1};
    for (int c = 0; c < HISTORY_COLUMN_COUNT; c++) {
      json_t *x = json_array_get(json_object_get(root, columns[c].name), i);
      *cell(&row, c) = json_is_number(x) ? json_number_value(x) : NAN;
    }
    row.has_validation = isfinite(row.val_accuracy); // a loss need not be finite
    GUARD(history_append(history, &row));
  }
out:
  json_decref(root);
  return status;
}

static Status write_text(const char *folder, const char *name, const char *text) {
  char *path;
  TRY(memory_print_string(&path, "%s/%s", folder, name));
  Status status = file_replace_unsynced(path, text, strlen(text));
  memory_free(path);
  return status;
}

static Status write_json(const History *history, const char *folder) {
  char *json;
  TRY(history_format_json(&json, history));
  Status status = write_text(folder, "history.json", json);
  memory_free(json);
  return status;
}

// RFC 4180 with LF; a missing value is an empty field.
static Status write_csv(const History *history, const char *folder) {
  char *text;
  size_t capacity = 256 + (size_t)history->count * 160, used = 0;
  TRY(memory_alloc(&text, capacity, 1));
  used += (size_t)snprintf(text, capacity, "epoch,loss,accuracy,val_loss,val_accuracy,lr\n");
  for (int64_t i = 0; i < history->count; i++) {
    used += (size_t)snprintf(text + used, capacity - used, "%" PRId64, history->rows[i].epoch);
    for (int c = 0; c < HISTORY_COLUMN_COUNT; c++) {
      double x = history_value(&history->rows[i], c);
      used += (size_t)snprintf(text + used, capacity - used, isfinite(x) ? ",%.9g" : ",", x);
    }
    text[used++] = '\n';
  }
  text[used] = '\0';
  Status status = write_text(folder, "history.csv", text);
  memory_free(text);
  return status;
}

// The tutorial's plots: training and validation over epochs, loss from 0 to at least 2 and accuracy
// from 0 to 1.
static Status write_plot(const History *history, const char *folder, int column, double top) {
  double *points;
  size_t count = (size_t)history->count;
  TRY(memory_alloc(&points, 2 * count, sizeof *points));
  for (size_t i = 0; i < count; i++) {
    points[i] = history_value(&history->rows[i], column);
    points[count + i] = history_value(&history->rows[i], column + 2);
  }
  const PlotSeries series[] = {{"training", points}, {"validation", points + count}};
  const PlotDesc plot = {.title = columns[column].name,
                         .x_label = "epoch",
                         .y_label = columns[column].name,
                         .series = series,
                         .series_count = 2,
                         .point_count = history->count,
                         .y_top = top};
  char *text = NULL, *name = NULL;
  Status status = STATUS_OK;
  GUARD(plot_format_svg(&text, &plot));
  GUARD(memory_print_string(&name, "%s.svg", columns[column].name));
  GUARD(write_text(folder, name, text));
out:
  memory_free(points);
  memory_free(text);
  memory_free(name);
  return status;
}

static Status write_loss(const History *history, const char *folder) {
  return write_plot(history, folder, 0, 2.0);
}

static Status write_accuracy(const History *history, const char *folder) {
  return write_plot(history, folder, 1, 1.0);
}

Status history_write(const History *history, const char *folder, int file) {
  static Status (*const writers[HISTORY_FILE_COUNT])(const History *, const char *) = {
      write_json, write_csv, write_loss, write_accuracy};
  return writers[file](history, folder);
}
