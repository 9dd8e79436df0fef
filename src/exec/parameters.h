// Where each parameter of a graph stands in the flat arenas of weights, gradients and momentum.
//
// One layout serves all of them: first the parameters that gradients train, then the moving
// statistics of trainable BatchNorms (whose "gradient" is the batch statistic), then the frozen
// rest. Update, all-reduce and checkpoint are loops over flat slices. Offsets are multiples of 16
// floats; the gaps hold zeros and stay zero.
#ifndef IMGCLS_EXEC_PARAMETERS_H
#define IMGCLS_EXEC_PARAMETERS_H

#include "backend/backend.h"
#include "graph/graph.h"

// Neighbours that the optimizer treats alike: one flat call each.
typedef struct ParameterSlice {
  int64_t first, count; // floats
  bool decay;           // weight decay applies
  double l2;
  double momentum; // of the moving average; statistics only
} ParameterSlice;

typedef struct ParameterLayout {
  int parameter_count;
  int64_t *offsets; // of each parameter of the graph, in floats; owned
  int64_t *counts;  // elements of each; owned
  int64_t trained;  // [0, trained): trained by gradients
  int64_t reduced;  // [trained, reduced): statistics; gradient arenas have `reduced` floats
  int64_t total;    // weight arenas have `total` floats
  ParameterSlice *slices; // of [0, trained); owned
  int slice_count;
  ParameterSlice *statistics; // of [trained, reduced); owned
  int statistic_count;
} ParameterLayout;

// Lays out the parameters of `graph` in graph order within each of the three parts.
MUST_CHECK Status parameters_layout(ParameterLayout *out, const Graph *graph);
void parameters_layout_deinit(ParameterLayout *layout);

// Host copies, one dense array per parameter, all zeros at first. For files and initialisation.
typedef struct ParameterValues {
  int count;
  float **values; // where each stands in `block`; owned
  float *block;   // owned
} ParameterValues;

MUST_CHECK Status parameter_values_create(ParameterValues *out, const Graph *graph);
void parameter_values_free(ParameterValues *values);

// Fills every array from its initializer.
void parameter_values_initialize(ParameterValues *values, const Graph *graph, uint64_t seed);

// Between host arrays and a weight-shaped arena on a device. `only_trained` leaves out parameters
// beyond the trained part (momentum arenas end there).
MUST_CHECK Status parameters_upload(const ParameterLayout *layout, const Backend *backend,
                                    Device *device, float *arena, const ParameterValues *values,
                                    bool only_trained);
MUST_CHECK Status parameters_download(const ParameterLayout *layout, const Backend *backend,
                                      Device *device, ParameterValues *values, const float *arena,
                                      bool only_trained);

#endif
