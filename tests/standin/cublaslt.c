// cuBLASLt, as far as imgcls uses it: fp32 products of column-major matrices, with sums in double.
// See standin.h.
#include <cublasLt.h>

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "standin.h"

typedef struct Layout {
  uint64_t rows, columns;
  int64_t leading;
} Layout;

typedef struct Operation {
  cublasOperation_t a, b;
} Operation;

enum { MATRICES = 4 }; // A, B, C, D

// What an algorithm was found for, and is: 256 bytes where the program does not say.
typedef struct Preference {
  uint32_t alignments[MATRICES];
} Preference;
_Static_assert(sizeof(Preference) <= sizeof(cublasLtMatmulAlgo_t), "an algorithm keeps them");

#define FAIL_WHEN_DUE()                                                                            \
  if (standin_call_fails()) return CUBLAS_STATUS_INTERNAL_ERROR

const char *cublasLtGetStatusString(cublasStatus_t status) {
  return status == CUBLAS_STATUS_SUCCESS ? "success" : "internal error";
}

size_t cublasLtGetVersion(void) { return CUBLAS_VERSION; }

cublasStatus_t cublasLtCreate(cublasLtHandle_t *handle) {
  FAIL_WHEN_DUE();
  *handle = malloc(1);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
  free(handle);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *out, cublasComputeType_t compute,
                                        cudaDataType_t scale) {
  FAIL_WHEN_DUE();
  if (scale != CUDA_R_32F) standin_unknown("a matrix product of type %d", (int)compute);
  *out = calloc(1, sizeof(Operation));
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t operation) {
  free(operation);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t descriptor,
                                              cublasLtMatmulDescAttributes_t attribute,
                                              const void *value, size_t size) {
  FAIL_WHEN_DUE();
  Operation *operation = (Operation *)descriptor;
  cublasOperation_t *field = attribute == CUBLASLT_MATMUL_DESC_TRANSA   ? &operation->a
                             : attribute == CUBLASLT_MATMUL_DESC_TRANSB ? &operation->b
                                                                        : NULL;
  if (!field || size != sizeof *field) standin_unknown("product attribute %d", (int)attribute);
  memcpy(field, value, size);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *out, cudaDataType type,
                                          uint64_t rows, uint64_t columns, int64_t leading) {
  FAIL_WHEN_DUE();
  if (type != CUDA_R_32F || leading < (int64_t)rows)
    standin_unknown("a matrix of type %d with a leading dimension of %d", (int)type, (int)leading);
  Layout *layout = malloc(sizeof *layout);
  *layout = (Layout){rows, columns, leading};
  *out = (cublasLtMatrixLayout_t)layout;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
  free(layout);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *out) {
  FAIL_WHEN_DUE();
  Preference *preference = malloc(sizeof *preference);
  for (int i = 0; i < MATRICES; i++) preference->alignments[i] = WORKSPACE_ALIGNMENT;
  *out = (cublasLtMatmulPreference_t)preference;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
  free(preference);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t
cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                     cublasLtMatmulPreferenceAttributes_t attribute,
                                     const void *value, size_t size) {
  FAIL_WHEN_DUE();
  if (attribute == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES) return CUBLAS_STATUS_SUCCESS;
  int matrix = (int)attribute - (int)CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES; // then B, C, D
  if (matrix < 0 || matrix >= MATRICES || size != sizeof(uint32_t))
    standin_unknown("product preference %d", (int)attribute);
  memcpy(&((Preference *)preference)->alignments[matrix], value, size);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t operation,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int wanted,
                                              cublasLtMatmulHeuristicResult_t results[],
                                              int *found) {
  FAIL_WHEN_DUE();
  (void)handle, (void)operation, (void)a, (void)b, (void)c, (void)d;
  memset(results, 0, (size_t)wanted * sizeof *results);
  memcpy(&results[0].algo, preference, sizeof(Preference));
  results[0].workspaceSize = 64;
  *found = 1;
  return CUBLAS_STATUS_SUCCESS;
}

static double element(const float *matrix, const Layout *layout, cublasOperation_t operation,
                      int64_t row, int64_t column) {
  bool is_plain = operation == CUBLAS_OP_N;
  return matrix[is_plain ? row + column * layout->leading : column + row * layout->leading];
}

// Everything by value: a graph keeps what a call was given.
typedef struct Product {
  Operation operation;
  Layout a, b, d;
  const float *from_a, *from_b;
  float *to;
  void *workspace;
  size_t workspace_size;
} Product;

static void run_product(void *argument) {
  const Product *p = argument;
  uint64_t k = p->operation.a == CUBLAS_OP_N ? p->a.columns : p->a.rows;
  standin_touch_begin();
  memset(p->workspace, 0xff, p->workspace_size);
  for (uint64_t column = 0; column < p->d.columns; column++)
    for (uint64_t row = 0; row < p->d.rows; row++) {
      double sum = 0.0;
      for (uint64_t i = 0; i < k; i++)
        sum += element(p->from_a, &p->a, p->operation.a, (int64_t)row, (int64_t)i) *
               element(p->from_b, &p->b, p->operation.b, (int64_t)i, (int64_t)column);
      p->to[row + column * (uint64_t)p->d.leading] = (float)sum;
    }
  standin_touch_end();
}

static void check_alignment(const void *memory, size_t alignment) {
  if ((uintptr_t)memory % alignment != 0)
    standin_unknown("a matrix or workspace that is not at %d bytes, as was said", (int)alignment);
}

static void check_sizes(const Product *p) {
  uint64_t k = p->operation.a == CUBLAS_OP_N ? p->a.columns : p->a.rows;
  uint64_t a_rows = p->operation.a == CUBLAS_OP_N ? p->a.rows : p->a.columns;
  uint64_t b_rows = p->operation.b == CUBLAS_OP_N ? p->b.rows : p->b.columns;
  uint64_t b_columns = p->operation.b == CUBLAS_OP_N ? p->b.columns : p->b.rows;
  if (b_rows != k || p->d.rows != a_rows || p->d.columns != b_columns)
    standin_unknown("a matrix product whose sizes do not fit");
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t descriptor,
                              const void *alpha, const void *a, cublasLtMatrixLayout_t a_layout,
                              const void *b, cublasLtMatrixLayout_t b_layout, const void *beta,
                              const void *c, cublasLtMatrixLayout_t c_layout, void *d,
                              cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t *algorithm,
                              void *workspace, size_t workspace_size, cudaStream_t stream) {
  FAIL_WHEN_DUE();
  (void)handle;
  const void *matrices[MATRICES] = {a, b, c, d};
  const Preference *said = (const Preference *)algorithm;
  for (int i = 0; i < MATRICES; i++) check_alignment(matrices[i], said->alignments[i]);
  check_alignment(workspace, WORKSPACE_ALIGNMENT);
  if (*(const float *)alpha != 1.0f || *(const float *)beta != 0.0f || c != d || c_layout != d_layout)
    standin_unknown("a matrix product that adds");
  Product *product = malloc(sizeof *product);
  if (!product) return CUBLAS_STATUS_ALLOC_FAILED;
  *product = (Product){.operation = *(const Operation *)descriptor,
                       .a = *(const Layout *)a_layout,
                       .b = *(const Layout *)b_layout,
                       .d = *(const Layout *)d_layout,
                       .from_a = a,
                       .from_b = b,
                       .to = d,
                       .workspace = workspace,
                       .workspace_size = workspace_size};
  check_sizes(product);
  if (standin_stream_takes(stream, run_product, free, product)) return CUBLAS_STATUS_SUCCESS;
  run_product(product);
  free(product);
  return CUBLAS_STATUS_SUCCESS;
}
