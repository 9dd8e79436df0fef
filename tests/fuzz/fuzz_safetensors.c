// Any bytes as a safetensors file: it is refused, or every tensor that it lists can be read.
#include <stdlib.h>

#include "io/tensor_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  TensorFile *file;
  if (tensor_file_open_bytes(&file, data, size, "input") != STATUS_OK) return 0;
  for (int i = 0; i < tensor_file_count(file); i++) {
    TensorEntry entry = tensor_file_entry(file, i);
    if (tensor_file_find(file, entry.name) != i) abort();
    if (!entry.is_float) continue;
    // No larger than the file, whatever shape it tells.
    float *values = malloc((size_t)shape_count(entry.shape) * sizeof *values + 1);
    if (!values || tensor_file_read(values, file, i) != STATUS_OK) abort();
    free(values);
  }
  tensor_file_close(file);
  return 0;
}
