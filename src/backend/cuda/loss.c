// Softmax cross-entropy: the labels go to the device, the rest is one kernel.
#include "backend/cuda/device.h"
#include "backend/cuda/steps.h"

Status cuda_softmax_cross_entropy(Device *device, const LossArgs *args) {
  void *labels;
  size_t size = (size_t)args->batch * sizeof *args->labels;
  TRY(cuda_staging(device, &labels, size));
  TRY(cuda__send(device, labels, args->labels, size));
  kernel_softmax_cross_entropy(&(KernelLoss){.logits = args->logits,
                                             .labels = labels,
                                             .rows = args->batch,
                                             .classes = (int)args->classes,
                                             .smoothing = args->smoothing,
                                             .gradient_scale = args->gradient_scale,
                                             .dlogits = args->dlogits,
                                             .losses = args->losses,
                                             .ranks = args->ranks},
                               device->stream);
  return cuda__launched("softmax cross-entropy");
}
