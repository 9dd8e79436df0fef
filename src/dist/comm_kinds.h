// The transports that comm.c chooses from; one file each.
#ifndef IMGCLS_DIST_COMM_KINDS_H
#define IMGCLS_DIST_COMM_KINDS_H

#include "dist/comm.h"

extern const CommKind comm__none; // one rank alone, comm_none.c
extern const CommKind comm__mpi;  // host memory, comm_mpi.c
extern const CommKind comm__nccl; // memory of a GPU, comm_nccl.c; where built for CUDA

#endif
