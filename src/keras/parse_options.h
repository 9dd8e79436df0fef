// The options of one layer of a model_config, typed and checked; Keras 2 and Keras 3 are read
// alike. Called by parse_layers.c. An option that is absent, or null, has Keras' default.
#ifndef IMGCLS_KERAS_PARSE_OPTIONS_H
#define IMGCLS_KERAS_PARSE_OPTIONS_H

#include "keras/keras_internal.h"

typedef struct LayerBuild {
  Parser *parser;
  const ParsedNode *node;
  const Value *inputs;
  const char *name; // of the layer to make
} LayerBuild;

#define REFUSE(build, ...) keras__refuse((build)->parser, (build)->node, __VA_ARGS__)

const json_t *keras__option(const LayerBuild *build, const char *key); // NULL: absent, or null

// Each is STATUS_DATA, with the layer and the option, where the value is of another type or out of
// range.
MUST_CHECK Status keras__get_integer(int64_t *out, const LayerBuild *build, const char *key,
                                     int64_t otherwise, int64_t least, int64_t most);
MUST_CHECK Status keras__get_real(double *out, const LayerBuild *build, const char *key,
                                  double otherwise);
MUST_CHECK Status keras__get_bool(bool *out, const LayerBuild *build, const char *key,
                                  bool otherwise);

// One number for both dimensions, or a list of two; absent: (otherwise, otherwise).
MUST_CHECK Status keras__get_pair(int *h, int *w, const LayerBuild *build, const char *key,
                                  int otherwise);

// Pixels at the edges: one number, one for each dimension, or one for each edge.
MUST_CHECK Status keras__get_edges(Pads *out, const LayerBuild *build, const char *key);

MUST_CHECK Status keras__get_padding(Padding *out, const LayerBuild *build);

// The option "activation" as a kind; absent is linear.
MUST_CHECK Status keras__get_activation(ActivationKind *out, const LayerBuild *build);

// L2 of a regularizer, 0 for none.
MUST_CHECK Status keras__get_l2(double *out, const LayerBuild *build, const char *key);

// One number, or one for each channel. Returns the count, 0 where it is neither.
int keras__get_channel_values(double values[RESCALING_MAX_CHANNELS], const json_t *value);

MUST_CHECK Status keras__require_absent(const LayerBuild *build, const char *const *keys,
                                        int count);
MUST_CHECK Status keras__require_channels_last(const LayerBuild *build);

// The last axis, however it is written: -1, the rank, or a list of one of them.
MUST_CHECK Status keras__require_last_axis(const LayerBuild *build);

#endif
