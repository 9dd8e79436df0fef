// Shared by tensor_file.c and safetensors.c: the list of tensors and where their values stand.
#ifndef IMGCLS_IO_TENSOR_FILE_INTERNAL_H
#define IMGCLS_IO_TENSOR_FILE_INTERNAL_H

#include "io/file.h"
#include "io/tensor_file.h"

typedef enum TensorKind { TENSOR_F32, TENSOR_F16, TENSOR_BF16, TENSOR_OTHER } TensorKind;

typedef struct Tensor {
  char *name; // owned
  char *path; // in the .h5; owned, NULL in a safetensors file
  Shape shape;
  TensorKind kind;
  size_t offset, size; // of the values in the safetensors file, in bytes
} Tensor;

struct TensorFile {
  char *name; // of the file; owned
  Tensor *tensors;
  int count;
  size_t capacity;
  H5File *h5;  // owned, NULL for safetensors
  Bytes bytes; // of the safetensors file
};

// Appends a tensor of this name, its other fields zero.
MUST_CHECK Status tensor_file__add(Tensor **out, TensorFile *file, const char *name);

// Lists the tensors of `file->bytes`.
MUST_CHECK Status tensor_file__parse_safetensors(TensorFile *file);

// `count` elements as floats.
void tensor_file__convert(float *values, const uint8_t *bytes, TensorKind kind, size_t count);

#endif
