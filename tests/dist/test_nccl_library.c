// The real NCCL has every function that we call, and is new enough. No GPU is needed for that; skips
// where the library is not.
#include <stdio.h>
#include <string.h>

#include "dist/comm_nccl.h"

int main(void) {
  int version = 0;
  if (nccl__library_load() != STATUS_OK) {
    (void)printf("%s\n", status_message());
    return strstr(status_message(), "cannot open shared object") ? 77 : 1;
  }
  if (ncclGetVersion(&version) != ncclSuccess || version < NCCL_VERSION(2, 28, 9)) {
    (void)printf("NCCL %d\n", version);
    return 1;
  }
  return strcmp(ncclGetErrorString(ncclSuccess), "no error") != 0;
}
