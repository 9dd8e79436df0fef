// The steps and functions of the CPU backend, one file each; cpu.c makes the table of them.
#ifndef IMGCLS_BACKEND_CPU_STEPS_H
#define IMGCLS_BACKEND_CPU_STEPS_H

#include "backend/backend.h"

extern const StepImpl cpu_conv2d;
extern const StepImpl cpu_depthwise_conv2d;
extern const StepImpl cpu_dense;
extern const StepImpl cpu_norm;
extern const StepImpl cpu_group_norm;
extern const StepImpl cpu_activation;
extern const StepImpl cpu_add;
extern const StepImpl cpu_multiply;
extern const StepImpl cpu_squeeze_excite;
extern const StepImpl cpu_dropout;
extern const StepImpl cpu_pool2d;
extern const StepImpl cpu_global_pool;
extern const StepImpl cpu_rescale;
extern const StepImpl cpu_pad;
extern const StepImpl cpu_crop;
extern const StepImpl cpu_concat;
extern const StepImpl cpu_flatten;

// standardize.c: weight standardisation of a dense kernel (rows, filters), and its gradient in
// place.
void cpu_standardize(const Device *device, float *out, const float *kernel, const StepDesc *desc);
void cpu_standardize_backward(const Device *device, float *gradient, const float *kernel,
                              const StepDesc *desc);

// layout.c
size_t cpu_value_size(const Device *device, Shape shape, int64_t batch, DType dtype);
bool cpu_can_slice(const Device *device, Shape shape, Slice slice);
MUST_CHECK Status cpu_value_import(Device *device, void *value, Shape shape, int64_t batch,
                                   DType dtype, const float *dense);
MUST_CHECK Status cpu_value_export(Device *device, float *dense, const void *value, Shape shape,
                                   int64_t batch, DType dtype);
MUST_CHECK Status cpu_value_add(Device *device, void *to, const void *from, size_t size_bytes,
                                DType dtype);

// upload.c
MUST_CHECK Status cpu_upload(Device *device, const UploadArgs *args);

// loss.c
MUST_CHECK Status cpu_softmax_cross_entropy(Device *device, const LossArgs *args);

// flat.c
MUST_CHECK Status cpu_vector_add(Device *device, float *to, const float *from, int64_t count);
MUST_CHECK Status cpu_vector_scale(Device *device, float *to, const float *from, float factor,
                                   int64_t count);
MUST_CHECK Status cpu_vector_sum_squares(Device *device, double *out, const float *values,
                                         int64_t count);
MUST_CHECK Status cpu_sgd_update(Device *device, const SgdArgs *args);
MUST_CHECK Status cpu_update_begin(Device *device, UpdateState *state, const UpdateRules *rules);
MUST_CHECK Status cpu_moving_average_update(Device *device, const MovingAverageArgs *args);

#endif
