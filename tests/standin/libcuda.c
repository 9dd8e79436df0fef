// A driver library of a machine without a GPU, so that cuDNN's runtime-compiled engines pass their
// support checks and really compile: it takes every module and shows no device. With it in front of
// the library path, tests plan for GPUs that are not there; nothing can run.
//
// cuDNN finds most functions by their exported names and the runtime by cuGetProcAddress. What is
// not named below answers CUDA_SUCCESS and does nothing.
#include <stdint.h>
#include <string.h>

enum { SUCCESS = 0, NOT_FOUND = 500, DRIVER_VERSION = 13000 };

#define NOTHING(name)                                                                              \
  int name(void);                                                                                  \
  int name(void) { return SUCCESS; }

NOTHING(cuCtxGetCurrent)
NOTHING(cuCtxGetDevice)
NOTHING(cuCtxGetLimit)
NOTHING(cuCtxPopCurrent)
NOTHING(cuCtxPushCurrent)
NOTHING(cuDeviceGet)
NOTHING(cuDeviceGetAttribute)
NOTHING(cuDevicePrimaryCtxRelease)
NOTHING(cuDevicePrimaryCtxReset)
NOTHING(cuDevicePrimaryCtxRetain)
NOTHING(cuFuncGetAttribute)
NOTHING(cuFuncSetAttribute)
NOTHING(cuGetErrorName)
NOTHING(cuGetErrorString)
NOTHING(cuKernelGetAttribute)
NOTHING(cuKernelSetAttribute)
NOTHING(cuLaunchCooperativeKernel)
NOTHING(cuLaunchKernel)
NOTHING(cuLaunchKernelEx)
NOTHING(cuLibraryLoadFromFile)
NOTHING(cuLibraryUnload)
NOTHING(cuLinkAddData)
NOTHING(cuLinkAddData_v2)
NOTHING(cuLinkAddFile_v2)
NOTHING(cuLinkComplete)
NOTHING(cuLinkCreate)
NOTHING(cuLinkCreate_v2)
NOTHING(cuLinkDestroy)
NOTHING(cuMemcpyDtoH_v2)
NOTHING(cuModuleGetFunction)
NOTHING(cuModuleGetGlobal_v2)
NOTHING(cuModuleLoadData)
NOTHING(cuModuleLoadDataEx)
NOTHING(cuModuleLoadFatBinary)
NOTHING(cuModuleUnload)
NOTHING(cuOccupancyMaxActiveBlocksPerMultiprocessor)
NOTHING(cuOccupancyMaxPotentialClusterSize)
NOTHING(cuStreamGetCtx)
NOTHING(cuStreamSynchronize)
NOTHING(cuTensorMapEncodeTiled)

int cuInit(unsigned flags);
int cuInit(unsigned flags) {
  (void)flags;
  return SUCCESS;
}

int cuDriverGetVersion(int *version);
int cuDriverGetVersion(int *version) {
  *version = DRIVER_VERSION;
  return SUCCESS;
}

int cuDeviceGetCount(int *count);
int cuDeviceGetCount(int *count) {
  *count = 0;
  return SUCCESS;
}

// The private tables of the runtime: it does without them.
int cuGetExportTable(const void **table, const void *id);
int cuGetExportTable(const void **table, const void *id) {
  (void)table;
  (void)id;
  return NOT_FOUND;
}

int cuLibraryLoadData(void **library, const void *code, void *options, void *values, unsigned count,
                      void *library_options, void *library_values, unsigned library_count);
int cuLibraryLoadData(void **library, const void *code, void *options, void *values, unsigned count,
                      void *library_options, void *library_values, unsigned library_count) {
  static int some_library;
  (void)code, (void)options, (void)values, (void)count;
  (void)library_options, (void)library_values, (void)library_count;
  *library = &some_library;
  return SUCCESS;
}

int cuLibraryGetKernel(void **kernel, void *library, const char *name);
int cuLibraryGetKernel(void **kernel, void *library, const char *name) {
  static int some_kernel;
  (void)library, (void)name;
  *kernel = &some_kernel;
  return SUCCESS;
}

int cuGetProcAddress_v2(const char *name, void **function, int version, uint64_t flags, int *found);
int cuGetProcAddress_v2(const char *name, void **function, int version, uint64_t flags,
                        int *found) {
  static const struct {
    const char *name;
    void *function;
  } rows[] = {
      {"cuInit", (void *)cuInit},
      {"cuDriverGetVersion", (void *)cuDriverGetVersion},
      {"cuDeviceGetCount", (void *)cuDeviceGetCount},
      {"cuGetExportTable", (void *)cuGetExportTable},
      {"cuGetProcAddress", (void *)cuGetProcAddress_v2},
      {"cuLibraryLoadData", (void *)cuLibraryLoadData},
      {"cuLibraryGetKernel", (void *)cuLibraryGetKernel},
  };
  (void)version, (void)flags;
  *function = (void *)cuCtxGetCurrent; // any that does nothing
  for (unsigned i = 0; i < sizeof rows / sizeof rows[0]; i++)
    if (strcmp(rows[i].name, name) == 0) *function = rows[i].function;
  if (found) *found = 0;
  return SUCCESS;
}
