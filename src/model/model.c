// The classifier around a backbone. See model.h.
#include "model/model.h"

#include <inttypes.h>

#include "base/memory.h"
#include "model/registry.h"

static Status check_spec(const ModelSpec *spec) {
  if (spec->class_count < 2)
    return status_set(STATUS_CONFIG, "%" PRId64 " classes: a classifier needs two or more",
                      spec->class_count);
  return STATUS_OK;
}

static Value add_head(Graph *graph, Value features, const ModelSpec *spec) {
  Value x = features;
  if (spec->dropout != 0)
    x = graph_dropout(graph, x, &(DropoutDesc){spec->dropout, false}, "dropout");
  return graph_dense(graph, x, &(DenseDesc){.units = spec->class_count, .l2 = spec->l2}, "logits");
}

// Hands the graph to the caller, or frees it where building failed.
static Status finish(Graph **out, Graph *graph, Value output) {
  Status status = graph_finish(graph, output);
  if (status == STATUS_OK)
    *out = graph;
  else
    graph_free(graph);
  return status;
}

Status model_build(Graph **out, const ModelSpec *spec) {
  *out = NULL;
  const ModelDesc *desc;
  TRY(model_find(&desc, spec->backbone));
  TRY(check_spec(spec));
  int height = spec->image_h ? spec->image_h : desc->image_size;
  int width = spec->image_w ? spec->image_w : desc->image_size;
  if (height < desc->smallest_image || width < desc->smallest_image)
    return status_set(STATUS_CONFIG,
                      "backbone %s: image of %d x %d pixels: the smallest is %d x %d", desc->name,
                      height, width, desc->smallest_image, desc->smallest_image);
  ModelSpec inner = *spec;
  if (!spec->fine_tune) inner.stochastic_depth = 0; // inference drops nothing
  char *name;
  TRY(memory_print_string(&name, "%s_classifier", desc->name));
  Graph *graph;
  Status status = graph_create(&graph, name);
  memory_free(name);
  TRY(status);
  Value image = graph_input(graph, SHAPE(height, width, 3), "image");
  graph_submodel_begin(graph, image, desc->name);
  Value features = desc->build(graph, image, desc, &inner);
  features = graph_submodel_end(graph, features);
  if (!spec->fine_tune) graph_set_trainable(graph, 0, false);
  return finish(out, graph, add_head(graph, features, spec));
}

Value model_features(const Graph *graph) { return graph->submodels[0].output; }

int64_t model_feature_length(const Graph *graph) {
  return graph_channels(graph, model_features(graph));
}

void model_swap_red_blue(const Graph *graph, float *const *values) {
  for (int i = 0; i < graph->parameter_count; i++) {
    const Parameter *p = &graph->parameters[i];
    if (graph->layers[p->layer].kind != LAYER_CONV2D || p->role != PARAMETER_KERNEL) continue;
    int64_t filters = p->shape.dim[3], inputs = p->shape.dim[2];
    if (inputs != 3) return; // no image convolution
    float *taps = values[i];
    for (int64_t tap = 0; tap < p->shape.dim[0] * p->shape.dim[1]; tap++, taps += 3 * filters)
      for (int64_t k = 0; k < filters; k++) {
        float red = taps[k];
        taps[k] = taps[2 * filters + k];
        taps[2 * filters + k] = red;
      }
    return;
  }
}
