// Keras' .h5 files, in and out. The only module that knows Keras' rules.
//
// Written files are opened as whole models by Keras 2 and Keras 3 alike; docs/checkpoint-format.md
// describes the dialect. Read are whole models of Keras 2, Keras 3 and ours, and the two kinds of
// files that hold weights only. Parameter values travel as float arrays in Keras' element order,
// one pointer per parameter of the graph. Nothing here is collective: one rank reads or writes.
#ifndef IMGCLS_KERAS_KERAS_H
#define IMGCLS_KERAS_KERAS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "graph/graph.h"
#include "io/h5.h"

// --- writing -------------------------------------------------------------------------------------

// The loss and the optimizer as Keras' training_config tells them.
typedef struct KerasTraining {
  double learning_rate; // of the coming step
  double momentum;
  bool nesterov;
  double label_smoothing;
} KerasTraining;

// Everything a file holds. All is borrowed.
typedef struct KerasModel {
  const Graph *graph;
  const float *const *values; // one array per parameter
  // Where `values` are averages over the steps: what is trained as the last step left it; NULL:
  // none.
  const float *const *unaveraged;
  const float *const *momentum;  // the same; NULL entries where nothing is trained; NULL: none kept
  const KerasTraining *training; // NULL: the model is not compiled
  const char *const *class_names;
  int64_t class_count; // 0: no names
  int64_t step;        // optimizer steps done
  uint64_t seed;
  const char *state; // the caller's own JSON object, kept beside the weights; NULL: none
} KerasModel;

// The bytes of an .h5 file, owned by the caller. Same model, same bytes.
MUST_CHECK Status keras_save_image(uint8_t **bytes, size_t *size_bytes, const KerasModel *model);

// Keras' model_config of a graph: JSON, owned by the caller.
MUST_CHECK Status keras_write_config(char **json, const Graph *graph);

// --- reading -------------------------------------------------------------------------------------

typedef enum KerasFileKind {
  KERAS_FILE_MODEL,   // model_config and weights: Keras 2, Keras 3 or ours
  KERAS_FILE_WEIGHTS, // weights only, by layer names (Keras 2 and the keras.applications files)
  KERAS_FILE_WEIGHTS_STORE, // Keras 3's *.weights.h5
} KerasFileKind;

typedef struct KerasFile KerasFile;

// What a file says about itself beside its layers. Strings are borrowed from the file.
typedef struct KerasInfo {
  KerasFileKind kind;
  bool is_ours;              // written by this program: the rest is filled, checksums are kept
  const char *keras_version; // "" where unknown
  const char *const *class_names;
  int64_t class_count;
  int64_t step;
  uint64_t seed;
  const char *state; // the JSON object given to keras_save_image; NULL: none
} KerasInfo;

// Whether an HDF5 file is of any of the kinds.
bool keras_recognizes(const H5File *h5);

// Opens a file that keras_recognizes; takes `h5` over, also on failure.
MUST_CHECK Status keras_open_h5(KerasFile **out, H5File *h5);

// Opens a file of any of the kinds. Safe on any input; STATUS_DATA with the reason for what is none
// of them. Checksums are verified for every array that is read.
MUST_CHECK Status keras_open(KerasFile **out, const char *path);

// The same for bytes whose checksum the caller has verified: no child process is needed.
MUST_CHECK Status keras_open_bytes(KerasFile **out, const uint8_t *bytes, size_t size_bytes,
                                   const char *name);
void keras_close(KerasFile *file);
const KerasInfo *keras_file_info(const KerasFile *file);
const char *keras_file_name(const KerasFile *file); // as given to open, for messages

// The graph of a whole model, owned by the caller. A layer, or an option of a layer, that this
// program does not have is refused by class and name. `open_side` stands for the sizes of an image
// that the model leaves open; 0: such a model is refused.
MUST_CHECK Status keras_file_graph(Graph **out, const KerasFile *file, int64_t open_side);

typedef enum KerasScope {
  KERAS_SCOPE_MODEL,    // every parameter must be in the file
  KERAS_SCOPE_BACKBONE, // those of submodels must; the head's are taken where they fit
} KerasScope;

// How a file fitted a graph.
typedef struct KerasFit {
  int64_t loaded;   // parameters read
  int64_t left;     // parameters of the graph left as they were (the head's)
  int64_t unused;   // arrays of weights in the file that the graph has no place for
  bool head_loaded; // false: the head was absent or of another class count
} KerasFit;

// Whether a file of weights alone lists a layer or nested model of this name, with weights or
// without, outermost or in one nested model. Keras 3's store names layers by their class.
bool keras_file_has_layer(const KerasFile *file, const char *name);

// Reads parameters into `values` (one array per parameter of `graph`). Layers are matched by name
// where all names are known to the file, else kind by kind in order; shapes must agree. STATUS_DATA
// names the first weight that does not fit, both shapes, and the cure; `values` may be half filled
// then.
MUST_CHECK Status keras_file_read_parameters(KerasFit *fit, const KerasFile *file,
                                             const Graph *graph, KerasScope scope,
                                             float *const *values);

// Whether keras_file_read_parameters would find the backbone's weights in place, by their shapes.
bool keras_file_fits(const KerasFile *file, const Graph *graph);

// Puts the weights of the last step into the entries of what is trained, where the file's weights
// are averages; leaves them alone where not.
MUST_CHECK Status keras_file_read_unaveraged(const KerasFile *file, const Graph *graph,
                                             float *const *values);

// Reads the optimizer's momentum for the trained parameters of `graph` (other entries of `momentum`
// may be NULL). `*found` is false, and nothing is read, where the file has none.
MUST_CHECK Status keras_file_read_momentum(bool *found, const KerasFile *file, const Graph *graph,
                                           float *const *momentum);

// One array of weights as the file holds it, in the order of its layers. Texts are borrowed from
// the file.
typedef struct KerasArray {
  const char *path;       // in the file
  const char *layer;      // the layer's name
  const char *role;       // "kernel", the same for both Keras generations; its number where unknown
  const char *class_name; // "Conv2D", "" for a layer that the graph has not
  Shape shape;
} KerasArray;

int64_t keras_file_array_count(const KerasFile *file);
KerasArray keras_file_array(const KerasFile *file, int64_t index); // 0 .. count - 1

// The values of an array, shape_count(shape) of them. Its checksum, where the file keeps one, is
// verified.
MUST_CHECK Status keras_file_read_array(float *values, const KerasFile *file, int64_t index);

// The model_config, indented, its keys sorted; owned by the caller, NULL for weights only.
MUST_CHECK Status keras_file_config(char **json, const KerasFile *file);

// Recomputes every checksum of a file of ours. STATUS_DATA names the first array that is damaged or
// missing; `*checked` counts those that were right.
MUST_CHECK Status keras_file_verify(int64_t *checked, const KerasFile *file);

#endif
