// Mistakes that a step must not make, planted under the launchers of kernels (the linker's --wrap):
// a value of device memory is read when a kernel is given, not when it runs, so a graph has it for
// good; or the input of a step is overwritten before the step has read it. test_cuda_graph.py must
// see the difference.
//
// STANDIN_BAKE = rate, key or scale: which value. input: an upload goes to its own place and to
// that of the upload before, which is harmless only where the step between them is done.
#include <stdlib.h>
#include <string.h>

#include "kernels.h"

static bool bakes(const char *what) {
  const char *text = getenv("STANDIN_BAKE");
  return text && strcmp(text, what) == 0;
}

// What a graph then points to, for good.
static void *keep(const void *from, size_t size) {
  void *kept = malloc(size);
  if (!kept) abort();
  return memcpy(kept, from, size);
}

void __real_kernel_sgd(const KernelSgd *args, KernelStream stream);
void __wrap_kernel_sgd(const KernelSgd *args, KernelStream stream);
void __wrap_kernel_sgd(const KernelSgd *args, KernelStream stream) {
  KernelSgd sgd = *args;
  if (bakes("rate")) sgd.learning_rate = keep(args->learning_rate, sizeof *args->learning_rate);
  __real_kernel_sgd(&sgd, stream);
}

void __real_kernel_dropout(const KernelDropout *args, KernelStream stream);
void __wrap_kernel_dropout(const KernelDropout *args, KernelStream stream);
void __wrap_kernel_dropout(const KernelDropout *args, KernelStream stream) {
  KernelDropout dropout = *args;
  if (bakes("key") && args->key) dropout.key = keep(args->key, sizeof *args->key);
  __real_kernel_dropout(&dropout, stream);
}

void __real_kernel_softmax_cross_entropy(const KernelLoss *args, KernelStream stream);
void __wrap_kernel_softmax_cross_entropy(const KernelLoss *args, KernelStream stream);
void __wrap_kernel_softmax_cross_entropy(const KernelLoss *args, KernelStream stream) {
  KernelLoss loss = *args;
  if (bakes("scale") && args->loss_scale)
    loss.loss_scale = keep(args->loss_scale, sizeof *args->loss_scale);
  __real_kernel_softmax_cross_entropy(&loss, stream);
}

void __real_kernel_upload(const KernelUpload *args, KernelStream stream);
void __wrap_kernel_upload(const KernelUpload *args, KernelStream stream);
void __wrap_kernel_upload(const KernelUpload *args, KernelStream stream) {
  static KernelUpload before;
  KernelUpload again = *args;
  __real_kernel_upload(args, stream);
  again.value = before.value;
  if (bakes("input") && before.value && before.samples >= args->samples)
    __real_kernel_upload(&again, stream);
  before = *args;
}
