// The CUDA backend: cuDNN, cuBLASLt and the kernels of kernels/ behind backend/backend.h.
#ifndef IMGCLS_BACKEND_CUDA_CUDA_H
#define IMGCLS_BACKEND_CUDA_CUDA_H

#include "backend/backend.h"

extern const Backend cuda_backend;

#endif
