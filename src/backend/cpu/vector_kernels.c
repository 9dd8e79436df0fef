// The table of one instruction set's kernels. Compiled once for each; see vector_kernels.h.
#include "backend/cpu/vector_kernels.h"

#include "backend/cpu/vector.h"

extern const DenseKernels VECTOR_NAME(dense_kernels);
extern const DepthwiseKernels VECTOR_NAME(depthwise_kernels)[VECTOR_TYPES];
extern const PoolKernels VECTOR_NAME(pool_kernels)[VECTOR_TYPES];
extern const NormKernels VECTOR_NAME(norm_kernels)[VECTOR_TYPES];
extern const PointwiseKernels VECTOR_NAME(pointwise_kernels)[VECTOR_TYPES];
extern const StandardizeKernels VECTOR_NAME(standardize_kernels);

const VectorKernels VECTOR_NAME(vector_kernels) = {
    .block = BLOCK,
    .norm = VECTOR_NAME(norm_kernels),
    .depthwise = VECTOR_NAME(depthwise_kernels),
    .pool = VECTOR_NAME(pool_kernels),
    .pointwise = VECTOR_NAME(pointwise_kernels),
    .dense = &VECTOR_NAME(dense_kernels),
    .standardize = &VECTOR_NAME(standardize_kernels),
};
