// cuDNN and cuBLASLt, loaded when a GPU is first opened: each function here calls the one of the
// library. The programs so start as fast as without CUDA, and run where neither library is.
#include "base/library.h"

#include "backend/cuda/device.h"

#define CUDNN_FUNCTIONS(F)                                                                         \
  F(size_t, cudnnGetVersion, (void), ())                                                           \
  F(size_t, cudnnGetCudartVersion, (void), ())                                                     \
  F(const char *, cudnnGetErrorString, (cudnnStatus_t status), (status))                           \
  F(cudnnStatus_t, cudnnCreate, (cudnnHandle_t * out), (out))                                      \
  F(cudnnStatus_t, cudnnDestroy, (cudnnHandle_t handle), (handle))                                 \
  F(cudnnStatus_t, cudnnSetStream, (cudnnHandle_t handle, cudaStream_t stream), (handle, stream))  \
  F(cudnnStatus_t, cudnnBackendCreateDescriptor,                                                   \
    (cudnnBackendDescriptorType_t type, cudnnBackendDescriptor_t * out), (type, out))              \
  F(cudnnStatus_t, cudnnBackendDestroyDescriptor, (cudnnBackendDescriptor_t descriptor),           \
    (descriptor))                                                                                  \
  F(cudnnStatus_t, cudnnBackendFinalize, (cudnnBackendDescriptor_t descriptor), (descriptor))      \
  F(cudnnStatus_t, cudnnBackendSetAttribute,                                                       \
    (cudnnBackendDescriptor_t descriptor, cudnnBackendAttributeName_t name,                        \
     cudnnBackendAttributeType_t type, int64_t count, const void *values),                         \
    (descriptor, name, type, count, values))                                                       \
  F(cudnnStatus_t, cudnnBackendGetAttribute,                                                       \
    (cudnnBackendDescriptor_t const descriptor, cudnnBackendAttributeName_t name,                  \
     cudnnBackendAttributeType_t type, int64_t capacity, int64_t *count, void *values),            \
    (descriptor, name, type, capacity, count, values))                                             \
  F(cudnnStatus_t, cudnnBackendExecute,                                                            \
    (cudnnHandle_t handle, cudnnBackendDescriptor_t plan, cudnnBackendDescriptor_t variants),      \
    (handle, plan, variants))

#define CUBLAS_FUNCTIONS(F)                                                                        \
  F(size_t, cublasLtGetVersion, (void), ())                                                        \
  F(const char *, cublasLtGetStatusString, (cublasStatus_t status), (status))                      \
  F(cublasStatus_t, cublasLtCreate, (cublasLtHandle_t * out), (out))                               \
  F(cublasStatus_t, cublasLtDestroy, (cublasLtHandle_t handle), (handle))                          \
  F(cublasStatus_t, cublasLtMatmulDescCreate,                                                      \
    (cublasLtMatmulDesc_t * out, cublasComputeType_t compute, cudaDataType_t scale),               \
    (out, compute, scale))                                                                         \
  F(cublasStatus_t, cublasLtMatmulDescDestroy, (cublasLtMatmulDesc_t operation), (operation))      \
  F(cublasStatus_t, cublasLtMatmulDescSetAttribute,                                                \
    (cublasLtMatmulDesc_t operation, cublasLtMatmulDescAttributes_t attribute, const void *value,  \
     size_t size),                                                                                 \
    (operation, attribute, value, size))                                                           \
  F(cublasStatus_t, cublasLtMatrixLayoutCreate,                                                    \
    (cublasLtMatrixLayout_t * out, cudaDataType type, uint64_t rows, uint64_t columns,             \
     int64_t leading),                                                                             \
    (out, type, rows, columns, leading))                                                           \
  F(cublasStatus_t, cublasLtMatrixLayoutDestroy, (cublasLtMatrixLayout_t layout), (layout))        \
  F(cublasStatus_t, cublasLtMatmulPreferenceCreate, (cublasLtMatmulPreference_t * out), (out))     \
  F(cublasStatus_t, cublasLtMatmulPreferenceDestroy, (cublasLtMatmulPreference_t preference),      \
    (preference))                                                                                  \
  F(cublasStatus_t, cublasLtMatmulPreferenceSetAttribute,                                          \
    (cublasLtMatmulPreference_t preference, cublasLtMatmulPreferenceAttributes_t attribute,        \
     const void *value, size_t size),                                                              \
    (preference, attribute, value, size))                                                          \
  F(cublasStatus_t, cublasLtMatmulAlgoGetHeuristic,                                                \
    (cublasLtHandle_t handle, cublasLtMatmulDesc_t operation, cublasLtMatrixLayout_t a,            \
     cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,                 \
     cublasLtMatmulPreference_t preference, int wanted, cublasLtMatmulHeuristicResult_t results[], \
     int *found),                                                                                  \
    (handle, operation, a, b, c, d, preference, wanted, results, found))                           \
  F(cublasStatus_t, cublasLtMatmul,                                                                \
    (cublasLtHandle_t handle, cublasLtMatmulDesc_t operation, const void *alpha, const void *a,    \
     cublasLtMatrixLayout_t a_layout, const void *b, cublasLtMatrixLayout_t b_layout,              \
     const void *beta, const void *c, cublasLtMatrixLayout_t c_layout, void *d,                    \
     cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t *algorithm, void *workspace,      \
     size_t workspace_size, cudaStream_t stream),                                                  \
    (handle, operation, alpha, a, a_layout, b, b_layout, beta, c, c_layout, d, d_layout,           \
     algorithm, workspace, workspace_size, stream))

#define FORWARD(type, name, parameters, arguments)                                                 \
  static type(*address_of_##name) parameters;                                                      \
  type name parameters { return address_of_##name arguments; }
#define ROW(type, name, parameters, arguments) {#name, (void *)&address_of_##name},

CUDNN_FUNCTIONS(FORWARD)
CUBLAS_FUNCTIONS(FORWARD)

#define TEXT_OF(number) #number
#define TEXT(number) TEXT_OF(number)

Status cuda__libraries_load(void) {
  static const LibraryFunction cudnn[] = {CUDNN_FUNCTIONS(ROW)};
  static const LibraryFunction cublas[] = {CUBLAS_FUNCTIONS(ROW)};
  static const char *const cure = "install it, name its folder in LD_LIBRARY_PATH, or compute on "
                                  "the CPU (device = cpu)";
  TRY(library_load(&(LibraryDesc){.file = "libcudnn.so." TEXT(CUDNN_MAJOR),
                                  .cure = cure,
                                  .functions = cudnn,
                                  .function_count = sizeof cudnn / sizeof *cudnn}));
  return library_load(&(LibraryDesc){.file = "libcublasLt.so." TEXT(CUBLAS_VER_MAJOR),
                                     .cure = cure,
                                     .functions = cublas,
                                     .function_count = sizeof cublas / sizeof *cublas});
}
