// From the name of a backbone to a whole classifier: image → backbone → dropout → dense. exec/,
// train/ and the tools build their graphs here.
//
// Images come in as RGB in [0, 1]; each backbone rescales inside. The output is logits.
#ifndef IMGCLS_MODEL_MODEL_H
#define IMGCLS_MODEL_MODEL_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "graph/graph.h"

// What the configuration says about the network. Negative numbers of the last three leave them as
// the backbone's graph has them.
typedef struct ModelSpec {
  const char *backbone; // a name of model/registry.h
  int image_h, image_w; // 0: the backbone's own size
  int64_t class_count;
  double dropout; // rate before the classifier; 0: no such layer
  double l2;      // of the classifier's kernel
  bool fine_tune; // false: the backbone is frozen, and runs as in inference
  double batch_norm_momentum, batch_norm_epsilon;
  double stochastic_depth; // rate that the last block tends to; grows linearly with depth
} ModelSpec;

// The classifier, owned by the caller: layers "image", the backbone as a nested model of its name,
// "dropout" and "logits". A frozen backbone has no stochastic depth, which changes no weight.
// STATUS_CONFIG for an unknown name, an image below the backbone's smallest, a value out of range.
MUST_CHECK Status model_build(Graph **out, const ModelSpec *spec);

// The backbone's feature vector in a graph of model_build: the value that the head begins with.
Value model_features(const Graph *graph);

// Its length.
int64_t model_feature_length(const Graph *graph);

// Exchanges the red and blue inputs of the first convolution's kernel in `values` (one array per
// parameter). For weights that expect blue first: see ModelDesc.public_weights_take_bgr.
void model_swap_red_blue(const Graph *graph, float *const *values);

#endif
