// Weights as torch's networks hold them (torchvision's and timm's state_dicts), read into a graph.
// model/pretrained.c is the caller; docs/weights.md describes the mapping.
//
// What differs between a graph's parameter and torch's tensor is its name, which a table for each
// family tells (torch_names.c), and the order of its dimensions, which its layer's kind tells.
#ifndef IMGCLS_MODEL_TORCH_H
#define IMGCLS_MODEL_TORCH_H

#include "graph/graph.h"
#include "io/tensor_file.h"
#include "keras/keras.h"

// A layer and the module that holds its tensors. In `layer`, "{s}" stands for a run of digits or of
// lower-case letters. In `module`, "{s}" is that text, "{s-1}" and "{s+1}" the number so far off,
// "{s#}" the place of letters in a, b, ..., z, aa, ..., from 0, and "{s@}" the entry of that number
// in `blocks`.
typedef struct TorchName {
  const char *layer, *module;
  const char *beside[2]; // the row is for blocks that also have these layers, spelled as `layer`
} TorchName;

typedef struct TorchNames {
  const char *network;   // that a file is taken for: whose, and its name there
  const TorchName *rows; // the first that fits a layer counts; ended by layer NULL
  const char *const *blocks;
  const char *ignored; // a prefix of modules that the graph does without; NULL: none
} TorchNames;

// The tensors of each family, one table each.
extern const TorchNames torch_bit, torch_efficientnet, torch_inception_resnet_v2,
    torch_inception_v3, torch_mobilenet_v3_large, torch_mobilenet_v3_small, torch_nasnet,
    torch_pnasnet, torch_resnet;

// The module of a layer; "" where the table has none.
enum { TORCH_NAME_CAPACITY = 128 };
const char *torch_module(char text[TORCH_NAME_CAPACITY], const Graph *graph,
                         const TorchNames *names, const Layer *layer);

// Reads the backbone's parameters, and the head's where they fit, into `values` (one array per
// parameter of `graph`, which is one of model_build). STATUS_DATA names the first tensor that is
// missing, of another shape or too much; nothing is read then.
MUST_CHECK Status torch_read(KerasFit *fit, const TensorFile *file, const Graph *graph,
                             const TorchNames *names, float *const *values);

// Whether torch_read would find every tensor in place.
bool torch_fits(const TensorFile *file, const Graph *graph, const TorchNames *names);

#endif
