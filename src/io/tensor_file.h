// Named arrays of floats, as torch's state_dicts are kept: a safetensors file, or an .h5 whose
// arrays are the tensors. model/torch.c gives them their places in a graph.
//
// Nothing in a file is trusted: what is listed lies inside the file, and no two tensors overlap.
#ifndef IMGCLS_IO_TENSOR_FILE_H
#define IMGCLS_IO_TENSOR_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "io/h5.h"
#include "tensor/tensor.h"

typedef struct TensorFile TensorFile;

typedef struct TensorEntry {
  const char *name; // "layer1.0.conv1.weight"; borrowed from the file
  Shape shape;
  bool is_float; // false: counters and the like, which cannot be read
} TensorEntry;

// Whether these first bytes of a file may be those of a safetensors file; eight or more.
bool tensor_file_is_safetensors(const uint8_t *head, size_t size);

// Opens a safetensors file of F32, F16 and BF16 tensors, which is read as a whole. STATUS_DATA
// names the tensor that is damaged.
MUST_CHECK Status tensor_file_open(TensorFile **out, const char *path);

// The same for bytes, which are copied. `name` is for messages.
MUST_CHECK Status tensor_file_open_bytes(TensorFile **out, const uint8_t *bytes, size_t size_bytes,
                                         const char *name);

// Every array of an .h5 file, which is taken over, also on failure. Groups are parts of the names:
// "layer1/0/conv1/weight" is "layer1.0.conv1.weight".
MUST_CHECK Status tensor_file_open_h5(TensorFile **out, H5File *h5);

void tensor_file_close(TensorFile *file); // NULL is fine
const char *tensor_file_name(const TensorFile *file);

// Entries stand in ASCII order of their names; no name stands twice.
int tensor_file_count(const TensorFile *file);
TensorEntry tensor_file_entry(const TensorFile *file, int index);
int tensor_file_find(const TensorFile *file, const char *name); // -1: absent

// The values of a float tensor, shape_count(shape) of them, in the file's order.
MUST_CHECK Status tensor_file_read(float *values, const TensorFile *file, int index);

#endif
