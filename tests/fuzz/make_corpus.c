// Writes what the fuzzers start from: make_corpus FOLDER makes FOLDER/image, FOLDER/h5,
// FOLDER/keras, FOLDER/safetensors.
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/memory.h"
#include "io/file.h"
#include "keras/every_layer.h"
#include "keras/keras.h"
#include "unit/image_samples.h"

static Status write_file(const char *folder, const char *kind, const char *name, const void *data,
                         size_t size) {
  char path[512];
  (void)snprintf(path, sizeof path, "%s/%s", folder, kind);
  (void)mkdir(path, 0777); // an existing one is fine
  (void)snprintf(path, sizeof path, "%s/%s/%s", folder, kind, name);
  return file_replace_unsynced(path, data, size);
}

static Status write_images(const char *folder) {
  for (size_t i = 0; i < SAMPLE_COUNT; i++) {
    Bytes bytes = {0};
    samples[i].make(&bytes, samples[i].option);
    Status status = write_file(folder, "image", samples[i].name, bytes.data, bytes.size);
    bytes_deinit(&bytes);
    TRY(status);
  }
  return STATUS_OK;
}

static Status write_config(const char *folder, const char *name) {
  Graph *graph = every_layer_graph(name);
  if (!graph) return status_set(STATUS_INTERNAL, "no graph '%s'", name);
  char *config = NULL;
  Status status = keras_write_config(&config, graph);
  if (status == STATUS_OK) status = write_file(folder, "keras", name, config, strlen(config));
  memory_free(config);
  graph_free(graph);
  return status;
}

// A whole model of ours, as small as can be: most of a large one would be values.
static Status write_h5(const char *folder) {
  Graph *graph;
  float **values = NULL;
  uint8_t *bytes = NULL;
  size_t size;
  Status status = STATUS_OK;
  GUARD(graph_create(&graph, "small"));
  Value x = graph_input(graph, SHAPE(2, 2, 3), "image");
  x = graph_flatten(graph, x, "flatten");
  x = graph_dense(graph, x, &(DenseDesc){.units = 2}, "dense");
  GUARD(graph_finish(graph, x));
  values = every_layer_values(graph, 1);
  GUARD(keras_save_image(&bytes, &size,
                         &(KerasModel){.graph = graph,
                                       .values = (const float *const *)values,
                                       .momentum = (const float *const *)values,
                                       .training = &(KerasTraining){.learning_rate = 0.1},
                                       .state = "{}"}));
  GUARD(write_file(folder, "h5", "small.h5", bytes, size));
out:
  memory_free(bytes);
  if (values) every_layer_values_free(graph, values);
  graph_free(graph);
  return status;
}

static Status write_safetensors(const char *folder) {
  static const char header[] = "{\"bn1.weight\":{\"dtype\":\"F16\",\"shape\":[2],"
                               "\"data_offsets\":[0,4]},"
                               "\"fc.weight\":{\"dtype\":\"F32\",\"shape\":[1,1],"
                               "\"data_offsets\":[4,8]},"
                               "\"n\":{\"dtype\":\"I64\",\"shape\":[],\"data_offsets\":[8,16]}}";
  char bytes[8 + sizeof header - 1 + 16] = {(char)(sizeof header - 1)};
  memcpy(bytes + 8, header, sizeof header - 1);
  return write_file(folder, "safetensors", "small.safetensors", bytes, sizeof bytes);
}

int main(int argc, char **argv) {
  Status status =
      argc == 2 ? write_images(argv[1]) : status_set(STATUS_USAGE, "make_corpus FOLDER");
  if (status == STATUS_OK) status = write_config(argv[1], "flat");
  if (status == STATUS_OK) status = write_config(argv[1], "nested");
  if (status == STATUS_OK) status = write_h5(argv[1]);
  if (status == STATUS_OK) status = write_safetensors(argv[1]);
  if (status != STATUS_OK) (void)fprintf(stderr, "make_corpus: %s\n", status_message());
  return (int)status;
}
