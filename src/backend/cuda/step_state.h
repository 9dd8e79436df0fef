// The state of a step that needs no more than its description: shared by the simple steps.
#ifndef IMGCLS_BACKEND_CUDA_STEP_STATE_H
#define IMGCLS_BACKEND_CUDA_STEP_STATE_H

#include "backend/cuda/device.h"

typedef struct StepState {
  Device *device; // borrowed
  StepDesc desc;
} StepState;

MUST_CHECK Status cuda_step_state_create(void **out, Device *device, const StepDesc *desc);
void cuda_step_state_free(void *state);

// Sums over the pixels of each sample of a value; what is summed and where to is left to the caller.
static inline KernelSumPixels cuda_sum_pixels(const StepDesc *desc, Shape shape) {
  return (KernelSumPixels){.type = cuda_type(shape, desc->dtype),
                           .samples = desc->batch,
                           .sample_pixels = cuda_pixels(shape),
                           .channels = (int)shape_channels(shape),
                           .factor = 1.0f};
}
static inline size_t cuda_sum_pixels_scratch(const StepDesc *desc, Shape shape) {
  KernelSumPixels sums = cuda_sum_pixels(desc, shape);
  return (size_t)kernel_sum_pixels_scratch(&sums) * sizeof(float);
}

// A slice as kernels take it: where its first channel is (NULL for NULL), and its pitch.
static inline void *cuda_slice_at(const StepDesc *desc, Slice slice, const void *value) {
  if (!value) return NULL;
  return (char *)value + (size_t)slice.first * cuda_type_size(cuda_type(desc->output, desc->dtype));
}
static inline int cuda_slice_pitch(const StepDesc *desc, Slice slice) {
  return (int)kernel_stored_channels(cuda_type(desc->output, desc->dtype), slice.channels);
}

// Norms take a vector for a pixel of fp32 packs, so its channels must fill them.
MUST_CHECK Status cuda_norm_check(const StepDesc *desc);
static inline KernelType cuda_norm_type(const StepDesc *desc) {
  KernelType type = cuda_type(desc->output, desc->dtype);
  return type == KERNEL_ROW ? KERNEL_F32 : type;
}

// Pixels of the whole batch of a value.
static inline int64_t cuda_batch_pixels(const StepDesc *desc, Shape shape) {
  return desc->batch * cuda_pixels(shape);
}

#endif
