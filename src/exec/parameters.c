// Where each parameter stands in the flat arenas. See parameters.h.
#include "exec/parameters.h"

#include "base/memory.h"

enum { ALIGNMENT_FLOATS = MEMORY_ALIGNMENT / (int)sizeof(float) };

typedef enum Part { PART_TRAINED, PART_STATISTIC, PART_FROZEN, PART_COUNT } Part;

static Part part_of(const Graph *graph, int parameter) {
  if (graph_parameter_is_trained(graph, parameter)) return PART_TRAINED;
  const Parameter *p = &graph->parameters[parameter];
  return p->is_statistic && graph->layers[p->layer].trainable ? PART_STATISTIC : PART_FROZEN;
}

static bool slices_alike(const ParameterSlice *a, const ParameterSlice *b) {
  return a->decay == b->decay && a->l2 == b->l2 && a->momentum == b->momentum;
}

// Adds a parameter to the last slice where it is treated alike, else opens a new one.
static void extend_slices(ParameterSlice *slices, int *count, ParameterSlice next) {
  ParameterSlice *last = *count > 0 ? &slices[*count - 1] : NULL;
  if (last && slices_alike(last, &next))
    last->count = next.first + next.count - last->first;
  else
    slices[(*count)++] = next;
}

Status parameters_layout(ParameterLayout *out, const Graph *graph) {
  *out = (ParameterLayout){.parameter_count = graph->parameter_count};
  size_t count = (size_t)graph->parameter_count;
  Status status = STATUS_OK;
  GUARD(memory_alloc(&out->offsets, count, sizeof *out->offsets));
  GUARD(memory_alloc(&out->counts, count, sizeof *out->counts));
  GUARD(memory_alloc(&out->slices, count, sizeof *out->slices));
  GUARD(memory_alloc(&out->statistics, count, sizeof *out->statistics));
  int64_t end = 0;
  for (Part part = PART_TRAINED; part < PART_COUNT; part++) {
    for (int i = 0; i < graph->parameter_count; i++) {
      if (part_of(graph, i) != part) continue;
      const Parameter *p = &graph->parameters[i];
      out->offsets[i] = end;
      out->counts[i] = shape_count(p->shape);
      int64_t padded =
          (out->counts[i] + ALIGNMENT_FLOATS - 1) / ALIGNMENT_FLOATS * ALIGNMENT_FLOATS;
      ParameterSlice slice = {.first = end, .count = padded, .decay = p->decay, .l2 = p->l2};
      end += padded;
      if (part == PART_TRAINED) extend_slices(out->slices, &out->slice_count, slice);
      if (part == PART_STATISTIC) {
        slice.momentum = graph->layers[p->layer].batch_norm.momentum;
        extend_slices(out->statistics, &out->statistic_count, slice);
      }
    }
    if (part == PART_TRAINED) out->trained = end;
    if (part == PART_STATISTIC) out->reduced = end;
  }
  out->total = end;
out:
  if (status != STATUS_OK) parameters_layout_deinit(out);
  return status;
}

void parameters_layout_deinit(ParameterLayout *layout) {
  memory_free(layout->offsets);
  memory_free(layout->counts);
  memory_free(layout->slices);
  memory_free(layout->statistics);
  *layout = (ParameterLayout){0};
}

// One block for all. The parts of a large one that are never written, as the momentum of a frozen
// backbone, take no memory, and all of it goes back at its end: in pieces below malloc's threshold
// for mapping it would stay with the heap and be cleared, hence written, at every save but the
// first.
Status parameter_values_create(ParameterValues *out, const Graph *graph) {
  *out = (ParameterValues){.count = graph->parameter_count};
  size_t elements = 0;
  for (int i = 0; i < out->count; i++) elements += (size_t)shape_count(graph->parameters[i].shape);
  Status status = STATUS_OK;
  GUARD(memory_alloc(&out->values, (size_t)out->count, sizeof *out->values));
  GUARD(memory_alloc(&out->block, elements, sizeof *out->block));
  float *next = out->block;
  for (int i = 0; i < out->count; i++) {
    out->values[i] = next;
    next += shape_count(graph->parameters[i].shape);
  }
out:
  if (status != STATUS_OK) parameter_values_free(out);
  return status;
}

void parameter_values_free(ParameterValues *values) {
  memory_free(values->block);
  memory_free(values->values);
  *values = (ParameterValues){0};
}

void parameter_values_initialize(ParameterValues *values, const Graph *graph, uint64_t seed) {
  for (int i = 0; i < values->count; i++)
    graph_initialize_parameter(graph, i, seed, values->values[i]);
}

Status parameters_upload(const ParameterLayout *layout, const Backend *backend, Device *device,
                         float *arena, const ParameterValues *values, bool only_trained) {
  for (int i = 0; i < layout->parameter_count; i++) {
    if (only_trained && layout->offsets[i] >= layout->trained) continue;
    TRY(backend->copy_to_device(device, arena + layout->offsets[i], values->values[i],
                                (size_t)layout->counts[i] * sizeof(float)));
  }
  return STATUS_OK;
}

Status parameters_download(const ParameterLayout *layout, const Backend *backend, Device *device,
                           ParameterValues *values, const float *arena, bool only_trained) {
  for (int i = 0; i < layout->parameter_count; i++) {
    if (only_trained && layout->offsets[i] >= layout->trained) continue;
    TRY(backend->copy_to_host(device, values->values[i], arena + layout->offsets[i],
                              (size_t)layout->counts[i] * sizeof(float)));
  }
  return STATUS_OK;
}
