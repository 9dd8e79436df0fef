// The list of backbones: one row a name. model_build, `imgcls models` and the configuration ask it.
//
// The name picks the graph, exactly; rows of one family share a builder and differ in options.
#ifndef IMGCLS_MODEL_REGISTRY_H
#define IMGCLS_MODEL_REGISTRY_H

#include <stdbool.h>

#include "graph/graph.h"
#include "model/model.h"
#include "model/torch.h"

typedef struct ModelDesc ModelDesc;
struct ModelDesc {
  const char *name;
  int image_size;     // pixels a side, where nothing else is asked for
  int smallest_image; // as Keras' applications allow
  // Adds the backbone's layers from the image (RGB in [0, 1]) to its feature vector.
  Value (*build)(Graph *graph, Value image, const ModelDesc *desc, const ModelSpec *spec);
  const void *options;      // the family's own
  const TorchNames *torch;  // where torch's network of this graph keeps its weights; NULL: none
  const char *unlike_torch; // how torch's networks of the name differ from the graph; NULL: unknown
  // The graph's public weights were trained on blue, green, red. The graph here takes red first, so
  // model_swap_red_blue must follow when weights come from such a file and not from one of ours.
  bool public_weights_take_bgr;
};

int model_count(void);
const ModelDesc *model_at(int index); // 0 .. model_count() - 1, families together

// The row of a name, spelled exactly. STATUS_CONFIG with the nearest name for an unknown one.
MUST_CHECK Status model_find(const ModelDesc **out, const char *name);

#endif
