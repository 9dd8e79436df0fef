// Any text as the model_config of a Keras file. A graph that is accepted is written as Keras'
// config and read again.
#include <stdlib.h>

#include "base/memory.h"
#include "io/h5.h"
#include "keras/keras.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static Status read_config(Graph **out, const char *config) {
  H5Image *image;
  uint8_t *bytes = NULL;
  size_t size = 0;
  KerasFile *file = NULL;
  Status status = STATUS_OK;
  *out = NULL;
  TRY(h5_image_create(&image));
  GUARD(h5_image_set_string(image, "", "keras_version", "2.15.0"));
  GUARD(h5_image_set_string(image, "", "model_config", config));
  GUARD(h5_image_add_group(image, "model_weights"));
  GUARD(h5_image_set_strings(image, "model_weights", "layer_names", NULL, 0));
  GUARD(h5_image_finish(image, &bytes, &size));
  GUARD(keras_open_bytes(&file, bytes, size, "input"));
  status = keras_file_graph(out, file, 0);
out:
  keras_close(file);
  memory_free(bytes);
  h5_image_free(image);
  return status;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  char *text, *written = NULL;
  Graph *graph, *again;
  if (memory_print_string(&text, "%.*s", (int)size, (const char *)data) != STATUS_OK) return 0;
  if (read_config(&graph, text) == STATUS_OK && keras_write_config(&written, graph) == STATUS_OK) {
    if (read_config(&again, written) != STATUS_OK) abort();
    graph_free(again);
  }
  graph_free(graph);
  memory_free(text);
  memory_free(written);
  return 0;
}
