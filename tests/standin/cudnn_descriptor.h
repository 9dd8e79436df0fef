// Descriptors of cuDNN's backend interface as cudnn.c keeps them: what has been set in them, by
// name.
#ifndef IMGCLS_TESTS_STANDIN_CUDNN_DESCRIPTOR_H
#define IMGCLS_TESTS_STANDIN_CUDNN_DESCRIPTOR_H

#include <cudnn.h>
#include <stdbool.h>
#include <stdint.h>

enum { ATTRIBUTES_MAX = 16 };

typedef struct Attribute {
  cudnnBackendAttributeName_t name;
  cudnnBackendAttributeType_t type;
  int64_t count;
  void *values;
} Attribute;

typedef struct Descriptor {
  cudnnBackendDescriptorType_t type;
  int references; // of its maker and of descriptors that hold it, as in the library
  bool is_final;
  int attribute_count;
  Attribute attributes[ATTRIBUTES_MAX];
} Descriptor;

// NULL: not set.
const Attribute *descriptor_find(const Descriptor *d, cudnnBackendAttributeName_t name);

// What must be set: its values, or the descriptor that it is.
const void *descriptor_get(const Descriptor *d, cudnnBackendAttributeName_t name);
const Descriptor *descriptor_part(const Descriptor *d, cudnnBackendAttributeName_t name);

// A copy of the values; descriptors among them are kept until this one is let go.
void descriptor_put(Descriptor *d, cudnnBackendAttributeName_t name,
                    cudnnBackendAttributeType_t type, int64_t count, const void *values);

// One reference less; the last one frees it.
void descriptor_release(Descriptor *d);

// A descriptor and all that it holds as one line of text, owned by the caller, and back: NULL where
// the text, of `size` bytes, is none of descriptor_write's.
char *descriptor_write(Descriptor *d);
Descriptor *descriptor_read(const char *text, size_t size);

// Whether the library takes an operation, and whether it has an engine for a graph of operations
// that it takes.
bool cudnn_graph_takes(const Descriptor *operation);
bool cudnn_graph_is_planned(const Descriptor *graph);

// Computes the operations of a graph over the memory that the variant pack names.
void cudnn_graph_run(const Descriptor *graph, const Descriptor *variant);

#endif
