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
