// Any bytes as an .h5 file of Keras, read as the program reads a stranger's: HDF5 in a child
// process, the rest here.
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/memory.h"
#include "keras/keras.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  char path[64];
  KerasFile *file;
  Graph *graph = NULL;
  int fd = memfd_create("input", MFD_CLOEXEC);
  (void)snprintf(path, sizeof path, "/proc/%d/fd/%d", (int)getpid(), fd);
  if (write(fd, data, size) == (ssize_t)size && keras_open(&file, path) == STATUS_OK) {
    (void)!keras_file_graph(&graph, file, 0);
    for (int64_t i = 0; i < keras_file_array_count(file); i++) {
      float *values;
      int64_t count = shape_count(keras_file_array(file, i).shape);
      if (memory_alloc(&values, (size_t)count, sizeof *values) != STATUS_OK) continue;
      (void)!keras_file_read_array(values, file, i);
      memory_free(values);
    }
    graph_free(graph);
    keras_close(file);
  }
  (void)close(fd);
  return 0;
}
