// Weight standardisation (Qiao et al., arXiv 1903.10520; BiT): each filter of a kernel to mean 0
// and deviation 1. conv2d.c calls it once for each update, on the dense fp32 kernel in Keras'
// order, in which the filters are columns. A block of neighbouring columns is one thread's work.
#include "backend/cpu/device.h"
#include "backend/cpu/steps.h"
#include "backend/cpu/vector_kernels.h"

typedef void StandardizeKernel(float *out, const float *kernel, const Filters *filters);

static void run(const Device *device, StandardizeKernel *run_block, float *out, const float *kernel,
                const StepDesc *desc) {
  int64_t columns = shape_channels(desc->output), block = device->block;
  int64_t groups = desc->groups > 1 ? desc->groups : 1;
  int64_t rows =
      (int64_t)desc->kernel_h * desc->kernel_w * shape_channels(desc->inputs[0]) / groups;
#pragma omp parallel for schedule(static) num_threads(device->threads)
  for (int64_t first = 0; first < columns; first += block) {
    int64_t left = columns - first;
    Filters filters = {.rows = rows,
                       .stride = columns,
                       .count = (int)(left < block ? left : block),
                       .epsilon = (float)desc->standardize_epsilon};
    run_block(out + first, kernel + first, &filters);
  }
}

void cpu_standardize(const Device *device, float *out, const float *kernel, const StepDesc *desc) {
  run(device, device->kernels->standardize->forward, out, kernel, desc);
}

void cpu_standardize_backward(const Device *device, float *gradient, const float *kernel,
                              const StepDesc *desc) {
  run(device, device->kernels->standardize->backward, gradient, kernel, desc);
}
