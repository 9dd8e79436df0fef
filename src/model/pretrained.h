// Weights from a file, Keras' or torch's, into a backbone, so that its features are those that the
// file's own network gives for the same image; and what a network does to pixels before its first
// convolution. Called where a run starts from [model] weights, and where a model of Keras is
// evaluated.
#ifndef IMGCLS_MODEL_PRETRAINED_H
#define IMGCLS_MODEL_PRETRAINED_H

#include "graph/graph.h"
#include "io/tensor_file.h"
#include "keras/keras.h"

// A file of weights: of Keras, in all kinds that keras_open takes, or of torch, a state_dict as
// safetensors or as .h5.
typedef struct PretrainedFile {
  KerasFile *keras;  // owned; NULL: torch's
  TensorFile *torch; // owned; NULL: Keras'
} PretrainedFile;

// Opens by content, whatever the name. Safe on any input; STATUS_DATA with the reason for what is
// none of them.
MUST_CHECK Status pretrained_open(PretrainedFile *out, const char *path);
void pretrained_close(PretrainedFile *file);

typedef struct PretrainedFit {
  KerasFit weights;
  bool swapped_red_blue; // the file's first convolution took blue first
  bool changed_scaling;  // the graph scales its input as the file says, not as the backbone's row
  bool shapes_only;      // the file does not tell its network: only shapes were compared
  const char *taken_for; // torch's network that the file is taken for; NULL: a file of Keras
} PretrainedFit;

// Reads the backbone's weights, and the head's where they fit, into `values` (one array per
// parameter of `graph`, which is one of model_build), and lets the graph scale images as the file's
// network does; torch's files do not tell, and are taken for the public ones, whose scaling is the
// graph's. STATUS_DATA for a file of another network, with the first difference and the names of
// the backbones that the file fits; where the file tells its network, shapes that fit are not
// enough.
MUST_CHECK Status pretrained_read(PretrainedFit *fit, Graph *graph, float *const *values,
                                  const PretrainedFile *file);

// How a graph of model_build scales its images: the desc inside its first layer, which may be
// changed before the graph is lowered.
RescalingDesc *pretrained_scaling(Graph *graph);

// For a checkpoint that goes on: STATUS_CONFIG where its network scales images otherwise than
// `graph`, which happens when the run had started from weights that are no longer given.
MUST_CHECK Status pretrained_require_scaling(Graph *graph, const KerasFile *checkpoint);

// Whether the graph expects pixels of 0..255: its first layer scales them down so far that nothing
// would be left of 0..1.
bool pretrained_takes_bytes(const Graph *graph);

// Lets such a graph take 0..1 instead, as all graphs of this program do.
void pretrained_take_unit(Graph *graph);

#endif
