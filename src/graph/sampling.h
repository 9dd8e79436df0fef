// Where on the image the convolutions of a graph look. model/pretrained.c asks whether two graphs
// of equal weights are one, which shapes do not tell: a stride or a pad in another place changes
// what a network computes, and no weight.
#ifndef IMGCLS_GRAPH_SAMPLING_H
#define IMGCLS_GRAPH_SAMPLING_H

#include "graph/graph.h"

// Finds the first convolution of a submodel of `graph` that `other`, at the same image size, has
// not: one of the same kind and kernel whose output looks at the same places of the image. `*out`
// is borrowed from `graph`, NULL where every one has a partner of its own.
MUST_CHECK Status graph_find_unlike(const Layer **out, const Graph *graph, int submodel,
                                    const Graph *other);

#endif
