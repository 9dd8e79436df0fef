// A model file made ready to classify images: file, graph, weights on a device. Shared by `imgcls
// predict` and `imgcls eval`.
//
// A softmax at the model's end is taken off when the file is opened, so that outputs are logits for
// every model, and probabilities are made in one place. Pixels enter as 0..1 (before the model's
// own scaling), as Keras' tutorial feeds them, or as 0..255 where the model's first layer scales
// such pixels down.
#ifndef IMGCLS_TRAIN_INFERENCE_H
#define IMGCLS_TRAIN_INFERENCE_H

#include "config/config.h"
#include "data/dataset.h"
#include "exec/executor.h"
#include "keras/keras.h"

typedef struct InferenceDesc {
  const char *path; // the .h5; borrowed until inference_close
  int threads;      // at least 1
  ConfigDevice device;
} InferenceDesc;

// Read-only for users; all is owned by the struct.
typedef struct Inference {
  const char *path;
  KerasFile *file;
  Graph *graph;
  ParameterLayout layout;
  const Backend *backend;
  Device *device;
  float *weights; // on the device
  int threads;
  int64_t classes;
  const char *const *class_names; // NULL: the file has none
  SampleTarget target;            // the model's image size, resized as in training
  Executor *executor;             // of inference_prepare
  int64_t batch;
} Inference;

// Fills a zeroed `out`. STATUS_NO_INPUT or STATUS_DATA for a missing or wrong file, STATUS_DATA for
// a model that does not give one score a class for an RGB image. `out` can be closed after a
// failure.
MUST_CHECK Status inference_open(Inference *out, const InferenceDesc *desc);
void inference_close(Inference *inference);

// Plans and takes the memory for batches of `batch` images. Once.
MUST_CHECK Status inference_prepare(Inference *inference, int64_t batch);

// Probabilities (batch, classes) of `batch` images (batch, height, width, 3), after
// inference_prepare.
MUST_CHECK Status inference_run(Inference *inference, const uint8_t *pixels, float *probabilities);

// Softmax of one image's logits, written to `probabilities` (may be the same array). STATUS_DATA
// where one is not finite: such a model is worthless.
MUST_CHECK Status inference_softmax(const Inference *inference, float *probabilities,
                                    const float *logits);

// The name of a class, or its number where the file has no names. Returns the name or `text`.
enum { CLASS_TEXT_CAPACITY = 24 };
const char *inference_class_name(const Inference *inference, int64_t label,
                                 char text[CLASS_TEXT_CAPACITY]);

#endif
