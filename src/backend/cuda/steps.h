// The steps and functions of the CUDA backend, one file each; cuda.c makes the table of them.
#ifndef IMGCLS_BACKEND_CUDA_STEPS_H
#define IMGCLS_BACKEND_CUDA_STEPS_H

#include "backend/backend.h"

extern const StepImpl cuda_conv2d;
extern const StepImpl cuda_depthwise_conv2d;
extern const StepImpl cuda_dense;
extern const StepImpl cuda_norm;
extern const StepImpl cuda_group_norm;
extern const StepImpl cuda_activation;
extern const StepImpl cuda_add;
extern const StepImpl cuda_multiply;
extern const StepImpl cuda_squeeze_excite;
extern const StepImpl cuda_dropout;
extern const StepImpl cuda_pool2d;
extern const StepImpl cuda_global_pool;
extern const StepImpl cuda_rescale;
extern const StepImpl cuda_pad;
extern const StepImpl cuda_crop;
extern const StepImpl cuda_concat;
extern const StepImpl cuda_flatten;

// value.c
bool cuda_can_slice(const Device *device, Shape shape, Slice slice);
size_t cuda_value_size(const Device *device, Shape shape, int64_t batch, DType dtype);
MUST_CHECK Status cuda_value_import(Device *device, void *value, Shape shape, int64_t batch,
                                   DType dtype, const float *dense);
MUST_CHECK Status cuda_value_export(Device *device, float *dense, const void *value, Shape shape,
                                   int64_t batch, DType dtype);
MUST_CHECK Status cuda_value_add(Device *device, void *to, const void *from, size_t size_bytes,
                                DType dtype);

// upload.c
MUST_CHECK Status cuda_upload(Device *device, const UploadArgs *args);

// loss.c
MUST_CHECK Status cuda_softmax_cross_entropy(Device *device, const LossArgs *args);

// flat.c
MUST_CHECK Status cuda_vector_add(Device *device, float *to, const float *from, int64_t count);
MUST_CHECK Status cuda_vector_scale(Device *device, float *to, const float *from, float factor,
                                   int64_t count);
MUST_CHECK Status cuda_vector_sum_squares(Device *device, double *out, const float *values,
                                          int64_t count);
MUST_CHECK Status cuda_sgd_update(Device *device, const SgdArgs *args);
MUST_CHECK Status cuda_update_begin(Device *device, UpdateState *state, const UpdateRules *rules);
MUST_CHECK Status cuda_moving_average_update(Device *device, const MovingAverageArgs *args);

#endif
