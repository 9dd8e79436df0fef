// Concatenations without copies. See slices.h.
#include "exec/slices.h"

#include "base/memory.h"

static const StepImpl *impl_of(const Backend *backend, const Step *step) {
  return backend->steps[step->desc.kind];
}

static bool producer_writes_slices(const Program *program, const Backend *backend, int value) {
  for (int i = 0; i < program->step_count; i++)
    if (program->steps[i].output == value) {
      const StepImpl *impl = impl_of(backend, &program->steps[i]);
      return impl && impl->writes_slices;
    }
  return false; // the input
}

static int count_reads(const Step *step, int value) {
  int reads = 0;
  for (int k = 0; k < step->desc.input_count; k++) reads += step->inputs[k] == value;
  return reads;
}

static bool others_read_slices(const Program *program, const Backend *backend, const Step *concat,
                               int value) {
  for (int i = 0; i < program->step_count; i++) {
    const Step *step = &program->steps[i];
    const StepImpl *impl = impl_of(backend, step);
    if (step != concat && count_reads(step, value) > 0 && !(impl && impl->reads_slices))
      return false;
  }
  return true;
}

// What the inputs of one concatenation could become. Returns how many channels lie in place.
static int64_t slice_concat(ValueSlice *slices, const Program *program, const Backend *backend,
                            const Device *device, const Step *step) {
  int64_t first = 0, in_place = 0;
  for (int k = 0; k < step->desc.input_count; k++) {
    int value = step->inputs[k];
    int64_t channels = shape_channels(step->desc.inputs[k]);
    Slice slice = {.channels = shape_channels(step->desc.output), .first = first};
    first += channels;
    if (slices[value].parent >= 0 || value == program->output || count_reads(step, value) != 1 ||
        !backend->can_slice(device, step->desc.inputs[k], slice) ||
        !producer_writes_slices(program, backend, value) ||
        !others_read_slices(program, backend, step, value))
      continue;
    slices[value] = (ValueSlice){step->output, slice};
    in_place += channels;
  }
  return in_place;
}

// The wide value lives from its first slice on: where most of it is copied anyway, that costs more
// memory than it saves time.
static bool is_worth_it(const Step *step, int64_t in_place) {
  return 2 * in_place >= shape_channels(step->desc.output);
}

Status slices_create(ValueSlice **out, const Program *program, const Backend *backend,
                     const Device *device) {
  ValueSlice *slices;
  TRY(memory_alloc(&slices, (size_t)program->value_count, sizeof *slices));
  for (int v = 0; v < program->value_count; v++) slices[v].parent = -1;
  for (int i = 0; i < program->step_count && backend->can_slice; i++) {
    const Step *step = &program->steps[i];
    if (step->desc.kind != STEP_CONCAT ||
        is_worth_it(step, slice_concat(slices, program, backend, device, step)))
      continue;
    for (int v = 0; v < program->value_count; v++)
      if (slices[v].parent == step->output) slices[v] = (ValueSlice){.parent = -1};
  }
  *out = slices;
  return STATUS_OK;
}

void slices_describe(StepDesc *desc, const ValueSlice *slices, const Step *step) {
  desc->y_slice = slices[step->output].slice;
  for (int k = 0; k < desc->input_count; k++) {
    desc->x_slice[k] = slices[step->inputs[k]].slice;
    desc->in_place[k] = slices[step->inputs[k]].parent == step->output;
  }
}
