// The list of backends: one of the two places that know what the program was built with.
#include "backend/backend.h"

#include <string.h>

#include "backend/cpu/cpu.h"
#ifdef IMGCLS_CUDA
#include "backend/cuda/cuda.h"
#endif

const Backend *const *backend_list(void) {
  static const Backend *const list[] = {
#ifdef IMGCLS_CUDA
      &cuda_backend,
#endif
      &cpu_backend, NULL};
  return list;
}

const Backend *backend_find(const char *name) {
  for (const Backend *const *backend = backend_list(); *backend; backend++)
    if (strcmp((*backend)->name, name) == 0) return *backend;
  return NULL;
}
