// Shared inside keras/: the network as Keras' files list it, and what a file holds.
#ifndef IMGCLS_KERAS_KERAS_INTERNAL_H
#define IMGCLS_KERAS_KERAS_INTERNAL_H

#include <jansson.h>

#include "io/h5.h"
#include "keras/keras.h"

// --- net.c: a graph as layers that both Keras generations have -----------------------------------

// One Keras layer. A layer of the graph becomes one to four of them.
typedef struct KerasNode {
  const char *class_name; // static
  char *name;             // owned
  json_t *config;         // owned; NULL for a nested model
  int layer;              // of the graph, -1 for a nested model and a nested model's input
  int submodel;           // the nested model, -1 for others
  int input_count;
  int inputs[LAYER_MAX_INPUTS]; // nodes of the same net
} KerasNode;

// The outer model or one nested model. Nodes stand in topological order; `order` lists them as
// Keras does, by falling distance from the output, which is also the order of the weights.
typedef struct KerasNet {
  KerasNode *nodes;
  int count;
  size_t capacity;
  int *order;
  int output;      // node
  bool sequential; // a chain
} KerasNet;

// The net of a submodel, or of the outer model for -1. The graph outlives it.
MUST_CHECK Status keras__net_create(KerasNet **out, const Graph *graph, int submodel);
void keras__net_free(KerasNet *net);

// The layers with parameters in the order of Keras' weights, those of nested models in the place of
// the model. Owned by the caller.
MUST_CHECK Status keras__weighted_layers(int **layers, int *count, const Graph *graph);

// --- config.c: the configuration of one layer ----------------------------------------------------

// Keras' config of a layer of the graph, but for expanded activations (net.c); NULL when memory is
// short.
json_t *keras__layer_config(const Layer *layer, const char *name);

// --- source.c: the weights in a file -------------------------------------------------------------

enum { SOURCE_MAX_ARRAYS = 8 };

typedef struct SourceArray {
  char *path;       // in the file; owned
  const char *role; // "kernel:0", inside path; NULL where the file does not tell
  Shape shape;
} SourceArray;

typedef struct SourceLayer {
  char *group;    // what holds it: arrays of one group and one name are one layer; owned
  char *name;     // the layer's name; owned
  LayerKind kind; // LAYER_KIND_COUNT: none of the graph's
  int array_count;
  SourceArray arrays[SOURCE_MAX_ARRAYS]; // in Keras' order
  int64_t rank;                          // sorts layers into the file's own order
  int64_t first_array;                   // how many arrays stand before the layer's
} SourceLayer;

typedef struct Source {
  SourceLayer *layers;
  int count;
  size_t capacity;
} Source;

// Lists the layers with weights of a file, in Keras' order as far as the file tells it. `config` is
// the model_config, NULL where there is none.
MUST_CHECK Status keras__source_create(Source **out, const H5File *file, KerasFileKind kind,
                                       const json_t *config);
void keras__source_free(Source *source);

// --- file.c --------------------------------------------------------------------------------------

struct KerasFile {
  H5File *h5;
  json_t *config; // model_config, NULL for weights only
  json_t *own;    // what keras_save_image wrote beside, NULL in foreign files
  char *state;
  char *keras_version;
  const char **class_names; // owned array of texts inside `own`
  Source *source;
  KerasInfo info;
};

enum { KERAS_FORMAT = 1 }; // of the group "imgcls"
#define KERAS_OWN_GROUP "imgcls"
// Kernels that are standardised when they are used, as they are: KERAS_RAW_GROUP/LAYER/kernel. What
// Keras reads in their place is the standardised kernel.
#define KERAS_RAW_GROUP KERAS_OWN_GROUP "/raw"
#define KERAS_UNAVERAGED_GROUP KERAS_OWN_GROUP "/unaveraged"

// The epsilon with which a file of ours says that the kernel of this layer is standardised; 0 where
// it is not, and in files of others.
double keras__standardize_epsilon(const KerasFile *file, const char *layer);

// Reads an array of floats and verifies its checksum, where the file keeps one.
MUST_CHECK Status keras__read_floats(float *values, const KerasFile *file, const char *path,
                                     int64_t count);

// The first entry of the source with this layer name; NULL for none.
const SourceLayer *keras__source_find(const Source *source, const char *name);

// --- parse.c, parse_operators.c and parse_layers.c -----------------------------------------------

// What a layer of a file becomes in the graph.
typedef enum ParsedRole {
  PARSED_LAYER,
  PARSED_PART,         // of an activation that is spelled with several layers: nothing by itself
  PARSED_HARD_SIGMOID, // the last of such a group, fed by `origin`
  PARSED_HARD_SWISH
} ParsedRole;

// One layer as a model_config lists it. All is borrowed from the JSON.
typedef struct ParsedNode {
  const char *class_name, *name;
  const json_t *json, *config;
  int input_count;
  int inputs[LAYER_MAX_INPUTS]; // nodes of the same model
  int uses;                     // by other nodes, and as the model's output
  ParsedRole role;
  int origin;
  bool is_affine; // an operator on one input and a number: x scale + offset
  double scale, offset;
  Value value; // in the graph
} ParsedNode;

typedef struct Parser {
  const KerasFile *file;
  Graph *graph;
  json_t *names;     // of the graph's layers, as keys
  bool is_keras3;    // hard_sigmoid means another function than in Keras 2
  bool in_nested;    // a submodel is open
  int64_t open_side; // as keras_file_graph
} Parser;

// STATUS_DATA: "FILE: layer NAME (CLASS): ...".
Status keras__refuse(const Parser *parser, const ParsedNode *node, const char *format, ...)
    PRINTF_LIKE(3, 4);

// Operators on tensors, which Keras 2 writes as layers of one class and Keras 3 as the operations:
// one with a number becomes affine, one of two tensors gets the class of the layer that does it.
// Layers are left alone. The inputs of the node are known.
MUST_CHECK Status keras__parse_operator(const Parser *parser, ParsedNode *node);

// A name for a new layer: NAME with SUFFIX, without '/', new to the graph; owned by the caller.
MUST_CHECK Status keras__layer_name(char **out, Parser *parser, const char *name,
                                    const char *suffix);

// Adds the layers that one node stands for; `inputs` are the values of its inputs.
MUST_CHECK Status keras__build_layer(Value *out, Parser *parser, const ParsedNode *node,
                                     const Value *inputs);

// Whether the layer does nothing when a model predicts: Keras' random augmentation.
bool keras__is_identity(const char *class_name);

// A shape option without its batch dimension. A size that is open is the parser's.
MUST_CHECK Status keras__parse_shape(Shape *out, const Parser *parser, const ParsedNode *node,
                                     const json_t *list);

// Builds the graph that a model_config describes; values of Normalization layers come from `file`.
MUST_CHECK Status keras__graph_from_config(Graph **out, const KerasFile *file, int64_t open_side);

#endif
