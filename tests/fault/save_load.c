// One save and one load of a small model with its momentum, for test_faults.py, which lets calls
// inside fail.
//
//   save_load FOLDER         loads the newest checkpoint, saves the next step, waits, loads again
//   save_load FOLDER check   loads the newest one and prints its step; 0: there is none
//
// The values of step s are all s: a checkpoint that mixes two steps is found out.
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "exec/parameters.h"
#include "keras/keras.h"
#include "train/checkpoint.h"

static Status make_graph(Graph **out) {
  TRY(graph_create(out, "small"));
  Value x = graph_input(*out, SHAPE(6, 6, 3), "image");
  x = graph_conv2d(*out, x, &(Conv2dDesc){.filters = 4, .kernel_h = 3}, "conv");
  x = graph_batch_normalization(*out, x, &(BatchNormDesc){.momentum = 0.9, .epsilon = 1e-3}, "bn");
  x = graph_flatten(*out, x, "flatten");
  x = graph_dense(*out, x, &(DenseDesc){.units = 10}, "dense");
  return graph_finish(*out, x);
}

static Status check_values(const Graph *graph, const ParameterValues *values, int64_t step) {
  for (int i = 0; i < values->count; i++)
    for (int64_t j = 0; j < shape_count(graph->parameters[i].shape); j++)
      if (values->values[i][j] != (float)step)
        return status_set(STATUS_INTERNAL, "step %" PRId64 " holds a value of step %g", step,
                          (double)values->values[i][j]);
  return STATUS_OK;
}

// The newest checkpoint's step, 0 where there is none.
static Status load(int64_t *step, const char *folder, const Graph *graph, Log *log) {
  uint8_t *bytes = NULL;
  size_t size;
  char *path = NULL;
  KerasFile *file = NULL;
  KerasFit fit;
  bool found;
  ParameterValues values = {0};
  Status status = STATUS_OK;
  *step = 0;
  GUARD(checkpoint_find_newest(&bytes, &size, &path, folder, log));
  if (!bytes) goto out;
  GUARD(keras_open_bytes(&file, bytes, size, path));
  GUARD(parameter_values_create(&values, graph));
  GUARD(keras_file_read_parameters(&fit, file, graph, KERAS_SCOPE_MODEL, values.values));
  *step = keras_file_info(file)->step;
  GUARD(check_values(graph, &values, *step));
  parameter_values_free(&values);
  GUARD(parameter_values_create(&values, graph));
  GUARD(keras_file_read_momentum(&found, file, graph, values.values));
out:
  keras_close(file);
  parameter_values_free(&values);
  memory_free(bytes);
  memory_free(path);
  return status;
}

static Status save(const char *folder, const Graph *graph, int64_t step, Log *log) {
  Checkpoints *checkpoints = NULL;
  ParameterValues values = {0};
  uint8_t *bytes;
  size_t size;
  CheckpointInfo info = {.step = step, .epoch = step, .is_epoch_end = true, .is_best = step % 2};
  KerasTraining training = {.learning_rate = 0.1, .momentum = 0.9};
  Status status = STATUS_OK;
  GUARD(
      checkpoints_open(&checkpoints, &(CheckpointsDesc){.folder = folder, .keep = 2, .log = log}));
  GUARD(parameter_values_create(&values, graph));
  for (int i = 0; i < values.count; i++)
    for (int64_t j = 0; j < shape_count(graph->parameters[i].shape); j++)
      values.values[i][j] = (float)step;
  GUARD(keras_save_image(&bytes, &size,
                         &(KerasModel){.graph = graph,
                                       .values = (const float *const *)values.values,
                                       .momentum = (const float *const *)values.values,
                                       .training = &training,
                                       .step = step,
                                       .state = "{}"}));
  GUARD(checkpoints_save(checkpoints, bytes, size, &info));
  GUARD(checkpoints_wait(checkpoints));
out:
  parameter_values_free(&values);
  checkpoints_close(checkpoints);
  return status;
}

static Status run(int argc, char **argv, Log *log) {
  if (argc < 2) return status_set(STATUS_USAGE, "save_load FOLDER [check]");
  Graph *graph = NULL;
  int64_t before, after;
  Status status = STATUS_OK;
  GUARD(make_graph(&graph));
  GUARD(load(&before, argv[1], graph, log));
  if (argc > 2) {
    printf("%" PRId64 "\n", before);
    goto out;
  }
  GUARD(save(argv[1], graph, before + 1, log));
  GUARD(load(&after, argv[1], graph, log));
  if (after != before + 1)
    status = status_set(STATUS_DATA, "step %" PRId64 " is not what was saved", after);
out:
  graph_free(graph);
  return status;
}

int main(int argc, char **argv) {
  Log log;
  log_init(&log, "save_load");
  Status status = run(argc, argv, &log);
  if (status != STATUS_OK) log_error(&log, "%s", status_message());
  return (int)status;
}
