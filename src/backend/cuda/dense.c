// STEP_DENSE through cuBLASLt, in fp32: y (n, units) = x (n, inputs) W (inputs, units) + bias.
//
// cuBLASLt thinks in columns: a dense (rows, columns) array of ours is its (columns, rows) matrix.
// So y^T = W^T x^T, dx^T = W dy^T, dW^T = dy^T x, with nothing moved.
#include "backend/cuda/step_state.h"
#include "backend/cuda/steps.h"
#include "base/memory.h"

static const size_t workspace_bytes = (size_t)4 << 20; // what NVIDIA's guide gives a product

// C (m, n) = op(A) op(B), all columns first.
typedef struct Product {
  cublasLtMatmulDesc_t operation;
  cublasLtMatrixLayout_t a, b, c;
  cublasLtMatmulAlgo_t algorithm;
} Product;

typedef struct Dense {
  Device *device;
  StepDesc desc;
  Product forward, backward_data, backward_weights;
} Dense;

typedef struct ProductDesc {
  cublasOperation_t a_op, b_op;
  int64_t a_rows, a_columns, b_rows, b_columns, m, n;
} ProductDesc;

static void product_destroy(Product *product) {
  if (product->a) (void)cublasLtMatrixLayoutDestroy(product->a);
  if (product->b) (void)cublasLtMatrixLayoutDestroy(product->b);
  if (product->c) (void)cublasLtMatrixLayoutDestroy(product->c);
  if (product->operation) (void)cublasLtMatmulDescDestroy(product->operation);
}

// Parts of an arena lie at MEMORY_ALIGNMENT, where cuBLASLt takes 256 bytes for granted.
static Status state_preferences(cublasLtMatmulPreference_t preference) {
  static const cublasLtMatmulPreferenceAttributes_t matrices[] = {
      CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
      CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES};
  const uint32_t alignment = MEMORY_ALIGNMENT;
  CUBLAS_TRY(cublasLtMatmulPreferenceSetAttribute(preference,
                                                  CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                                  &workspace_bytes, sizeof workspace_bytes));
  for (size_t i = 0; i < sizeof matrices / sizeof *matrices; i++)
    CUBLAS_TRY(cublasLtMatmulPreferenceSetAttribute(preference, matrices[i], &alignment,
                                                    sizeof alignment));
  return STATUS_OK;
}

static Status find_algorithm(Product *product, Device *device, const char *name,
                             cublasLtMatmulPreference_t preference) {
  cublasLtMatmulHeuristicResult_t found;
  int count = 0;
  TRY(state_preferences(preference));
  cublasStatus_t result =
      cublasLtMatmulAlgoGetHeuristic(device->blas, product->operation, product->a, product->b,
                                     product->c, product->c, preference, 1, &found, &count);
  if (result != CUBLAS_STATUS_SUCCESS || count == 0)
    return status_set(STATUS_OS, "%s: cuBLASLt has no way to compute it: %s", name,
                      cublasLtGetStatusString(result));
  product->algorithm = found.algo;
  return STATUS_OK;
}

static Status choose_algorithm(Product *product, Device *device, const char *name) {
  cublasLtMatmulPreference_t preference;
  CUBLAS_TRY(cublasLtMatmulPreferenceCreate(&preference));
  Status status = find_algorithm(product, device, name, preference);
  (void)cublasLtMatmulPreferenceDestroy(preference);
  return status;
}

static Status product_create(Product *product, Device *device, const ProductDesc *desc,
                             const char *name) {
  cublasComputeType_t compute =
      device->options.tensor_float32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
  CUBLAS_TRY(cublasLtMatmulDescCreate(&product->operation, compute, CUDA_R_32F));
  CUBLAS_TRY(cublasLtMatmulDescSetAttribute(product->operation, CUBLASLT_MATMUL_DESC_TRANSA,
                                            &desc->a_op, sizeof desc->a_op));
  CUBLAS_TRY(cublasLtMatmulDescSetAttribute(product->operation, CUBLASLT_MATMUL_DESC_TRANSB,
                                            &desc->b_op, sizeof desc->b_op));
  CUBLAS_TRY(cublasLtMatrixLayoutCreate(&product->a, CUDA_R_32F, (uint64_t)desc->a_rows,
                                        (uint64_t)desc->a_columns, desc->a_rows));
  CUBLAS_TRY(cublasLtMatrixLayoutCreate(&product->b, CUDA_R_32F, (uint64_t)desc->b_rows,
                                        (uint64_t)desc->b_columns, desc->b_rows));
  CUBLAS_TRY(cublasLtMatrixLayoutCreate(&product->c, CUDA_R_32F, (uint64_t)desc->m,
                                        (uint64_t)desc->n, desc->m));
  return device->model ? STATUS_OK : choose_algorithm(product, device, name);
}

static Status product_run(const Product *product, const Device *device, const float *a,
                          const float *b, float *c, void *workspace) {
  const float one = 1.0f, zero = 0.0f;
  CUBLAS_TRY(cublasLtMatmul(device->blas, product->operation, &one, a, product->a, b, product->b,
                            &zero, c, product->c, c, product->c, &product->algorithm, workspace,
                            workspace_bytes, device->stream));
  return STATUS_OK;
}

static void unplan(void *state) {
  Dense *dense = state;
  if (!dense) return;
  product_destroy(&dense->forward);
  product_destroy(&dense->backward_data);
  product_destroy(&dense->backward_weights);
  memory_free(dense);
}

static Status plan(void **state, Device *device, const StepDesc *desc, StepNeeds *needs) {
  *state = NULL;
  Dense *dense;
  TRY(memory_alloc(&dense, 1, sizeof *dense));
  Status status;
  dense->device = device;
  dense->desc = *desc;
  int64_t n = desc->batch, in = shape_count(desc->inputs[0]), out = shape_count(desc->output);
  GUARD(product_create(&dense->forward, device,
                       &(ProductDesc){CUBLAS_OP_N, CUBLAS_OP_N, out, in, in, n, out, n},
                       desc->name));
  if (desc->training && desc->need_dx[0])
    GUARD(product_create(&dense->backward_data, device,
                         &(ProductDesc){CUBLAS_OP_T, CUBLAS_OP_N, out, in, out, n, in, n},
                         desc->name));
  if (desc->training && desc->need_dparams)
    GUARD(product_create(&dense->backward_weights, device,
                         &(ProductDesc){CUBLAS_OP_N, CUBLAS_OP_T, out, n, in, n, out, in},
                         desc->name));
  *needs = (StepNeeds){.scratch_size = workspace_bytes, .backward_reads_x = {desc->need_dparams}};
  *state = dense;
  return STATUS_OK;
out:
  unplan(dense);
  return status;
}

static Status forward(void *state, const StepArgs *args) {
  const Dense *dense = state;
  const StepDesc *desc = &dense->desc;
  TRY(product_run(&dense->forward, dense->device, args->params[0], args->x[0], args->y,
                  args->scratch));
  if (!desc->has_bias) return STATUS_OK;
  // y + bias: rows of pixels that share one row of shifts.
  kernel_affine(&(KernelAffine){.type = KERNEL_ROW,
                                .pixels = desc->batch,
                                .row_pixels = desc->batch,
                                .channels = (int)shape_count(desc->output),
                                .x = args->y,
                                .shift = args->params[1],
                                .shift_factor = 1.0f,
                                .y = args->y},
                dense->device->stream);
  return cuda__launched("dense bias");
}

static Status backward(void *state, const StepArgs *args) {
  const Dense *dense = state;
  const StepDesc *desc = &dense->desc;
  if (desc->need_dparams) {
    TRY(product_run(&dense->backward_weights, dense->device, args->dy, args->x[0], args->dparams[0],
                    args->scratch));
    kernel_dense_backward(&(KernelDenseBackward){.rows = desc->batch,
                                                 .inputs = (int)shape_count(desc->inputs[0]),
                                                 .outputs = (int)shape_count(desc->output),
                                                 .dy = args->dy,
                                                 .dbias = desc->has_bias ? args->dparams[1] : NULL},
                          dense->device->stream);
    TRY(cuda__launched("dense bias' gradient"));
  }
  if (!args->dx[0]) return STATUS_OK;
  return product_run(&dense->backward_data, dense->device, args->params[0], args->dy, args->dx[0],
                     args->scratch);
}

const StepImpl cuda_dense = {
    .plan = plan, .unplan = unplan, .forward = forward, .backward = backward};
