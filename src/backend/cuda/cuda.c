// The table of the CUDA backend. Rows are filled by the files of this folder.
#include "backend/cuda/cuda.h"

#include "backend/cuda/device.h"
#include "backend/cuda/steps.h"

const Backend cuda_backend = {
    .name = "cuda",
    .device_count = cuda_device_count,
    .device_identify = cuda_device_identify,
    .device_open = cuda_device_open,
    .device_close = cuda_device_close,
    .device_describe = cuda_device_describe,
    .describe_host = cuda_describe_host,
    .device_multiplies = cuda_device_multiplies,
    .native_stream = cuda_native_stream,
    .memory_alloc = cuda_memory_alloc,
    .memory_free = cuda_memory_free,
    .memory_clear = cuda_memory_clear,
    .copy_to_device = cuda_copy_to_device,
    .copy_to_host = cuda_copy_to_host,
    .value_size = cuda_value_size,
    .value_import = cuda_value_import,
    .value_export = cuda_value_export,
    .value_add = cuda_value_add,
    .steps =
        {
            [STEP_CONV2D] = &cuda_conv2d,
            [STEP_DEPTHWISE_CONV2D] = &cuda_depthwise_conv2d,
            [STEP_DENSE] = &cuda_dense,
            [STEP_NORM] = &cuda_norm,
            [STEP_GROUP_NORM] = &cuda_group_norm,
            [STEP_ACTIVATION] = &cuda_activation,
            [STEP_ADD] = &cuda_add,
            [STEP_MULTIPLY] = &cuda_multiply,
            [STEP_SQUEEZE_EXCITE] = &cuda_squeeze_excite,
            [STEP_DROPOUT] = &cuda_dropout,
            [STEP_POOL2D] = &cuda_pool2d,
            [STEP_GLOBAL_POOL] = &cuda_global_pool,
            [STEP_RESCALE] = &cuda_rescale,
            [STEP_PAD] = &cuda_pad,
            [STEP_CROP] = &cuda_crop,
            [STEP_CONCAT] = &cuda_concat,
            [STEP_FLATTEN] = &cuda_flatten,
        },
    .resamples = true,
    .upload = cuda_upload,
    .softmax_cross_entropy = cuda_softmax_cross_entropy,
    .vector_add = cuda_vector_add,
    .vector_scale = cuda_vector_scale,
    .vector_sum_squares = cuda_vector_sum_squares,
    .sgd_update = cuda_sgd_update,
    .moving_average_update = cuda_moving_average_update,
};
