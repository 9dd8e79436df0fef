// Softmax cross-entropy: the labels go to the device where they are not there yet, the rest is one
// kernel.
#include "backend/cuda/device.h"
#include "backend/cuda/steps.h"

Status cuda_softmax_cross_entropy(Device *device, const LossArgs *args) {
  const void *labels = args->labels;
  if (!args->labels_on_device)
    TRY(cuda_stage(device, &labels, labels, (size_t)args->batch * sizeof *args->labels));
  kernel_softmax_cross_entropy(&(KernelLoss){.logits = args->logits,
                                             .labels = labels,
                                             .rows = args->batch,
                                             .classes = (int)args->classes,
                                             .smoothing = args->smoothing,
                                             .gradient_scale = args->gradient_scale,
                                             .loss_scale = args->loss_scale,
                                             .dlogits = args->dlogits,
                                             .losses = args->losses,
                                             .ranks = args->ranks},
                               device->stream);
  return cuda__launched("softmax cross-entropy");
}
