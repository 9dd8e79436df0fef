// See step_state.h.
#include "backend/cuda/step_state.h"

#include "base/memory.h"

Status cuda_step_state_create(void **out, Device *device, const StepDesc *desc) {
  StepState *state;
  *out = NULL;
  TRY(memory_alloc(&state, 1, sizeof *state));
  *state = (StepState){device, *desc};
  *out = state;
  return STATUS_OK;
}

void cuda_step_state_free(void *state) { memory_free(state); }

Status cuda_norm_check(const StepDesc *desc) {
  int64_t channels = shape_channels(desc->output);
  if (desc->output.rank != 1 || kernel_stored_channels(KERNEL_F32, channels) == channels)
    return STATUS_OK;
  return status_set(STATUS_CONFIG,
                    "%s: a normalisation of vectors needs a multiple of 4 channels on the GPU, not "
                    "%d; train on the CPU (device = cpu)",
                    desc->name, (int)channels);
}
