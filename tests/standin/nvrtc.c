// NVRTC with a memory, for tests that let cuDNN plan thousands of convolutions: what has been
// compiled once is not compiled again. cuDNN's runtime-compiled engines generate their code from
// the shape of a tile, not from the sizes of a convolution, so hundreds of problems have a dozen
// kernels, and cuDNN compiles one for each problem anew, a second each.
//
// In front of the library path cuDNN takes this library for NVRTC; it hands every program to the
// real one (NVRTC_LIBRARY) and keeps the machine code by the checksum of source, name and options.
// It stays loaded, as cuDNN opens and closes it for each kernel. For one thread.
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <nvrtc.h>
#include <xxhash.h>

enum { KERNELS_MAX = 4096 };

typedef struct Kernel {
  XXH128_hash_t key;
  char *code; // never freed
  size_t size;
} Kernel;

typedef struct Program {
  nvrtcProgram real;
  XXH128_hash_t key;    // of source and name, then of the options too
  const Kernel *kernel; // once it is compiled
} Program;

static Kernel kernels[KERNELS_MAX];
static int kernel_count;

static void *real(const char *name) {
  static void *library;
  if (!library) library = dlopen(NVRTC_LIBRARY, RTLD_NOW | RTLD_LOCAL);
  void *function = library ? dlsym(library, name) : NULL;
  if (function) return function;
  fprintf(stderr, "%s\n", dlerror());
  abort();
}

// A function that needs nothing but the real program.
#define FORWARD(name, parameter)                                                                   \
  nvrtcResult name(nvrtcProgram program, parameter) {                                              \
    nvrtcResult (*function)(nvrtcProgram, parameter) = real(#name);                                \
    return function(((Program *)program)->real, out);                                              \
  }

FORWARD(nvrtcGetProgramLogSize, size_t *out)
FORWARD(nvrtcGetProgramLog, char *out)
FORWARD(nvrtcGetPTXSize, size_t *out)
FORWARD(nvrtcGetPTX, char *out)

nvrtcResult nvrtcVersion(int *major, int *minor) {
  nvrtcResult (*function)(int *, int *) = real("nvrtcVersion");
  return function(major, minor);
}

const char *nvrtcGetErrorString(nvrtcResult result) {
  const char *(*function)(nvrtcResult) = real("nvrtcGetErrorString");
  return function(result);
}

static XXH128_hash_t add_text(XXH128_hash_t key, const char *text) {
  XXH128_hash_t parts[2] = {key, XXH3_128bits(text, strlen(text))};
  return XXH3_128bits(parts, sizeof parts);
}

static XXH128_hash_t sum_of(const char *source, const char *name, const char *const *headers,
                            int count) {
  XXH128_hash_t key = add_text(XXH3_128bits(NULL, 0), source);
  key = add_text(key, name ? name : "");
  for (int i = 0; i < count; i++) key = add_text(key, headers[i]);
  return key;
}

static nvrtcResult wrap(nvrtcProgram *out, nvrtcResult result, XXH128_hash_t key) {
  Program *program = result == NVRTC_SUCCESS ? calloc(1, sizeof *program) : NULL;
  if (!program) return result == NVRTC_SUCCESS ? NVRTC_ERROR_OUT_OF_MEMORY : result;
  *program = (Program){.real = *out, .key = key};
  *out = (nvrtcProgram)program;
  return result;
}

nvrtcResult nvrtcCreateProgram(nvrtcProgram *out, const char *source, const char *name, int count,
                               const char *const *headers, const char *const *names) {
  nvrtcResult (*function)(nvrtcProgram *, const char *, const char *, int, const char *const *,
                          const char *const *) = real("nvrtcCreateProgram");
  nvrtcResult result = function(out, source, name, count, headers, names);
  return wrap(out, result, sum_of(source, name, headers, count));
}

// The same for sources that cuDNN ships disguised, with the functions by which NVRTC reads them.
nvrtcResult __nvrtcCPEx(nvrtcProgram *out, const char *source, const char *name, int count,
                        const char *const *headers, const char *const *names, int property_count,
                        const int *properties, void *const *values);
nvrtcResult __nvrtcCPEx(nvrtcProgram *out, const char *source, const char *name, int count,
                        const char *const *headers, const char *const *names, int property_count,
                        const int *properties, void *const *values) {
  nvrtcResult (*function)(nvrtcProgram *, const char *, const char *, int, const char *const *,
                          const char *const *, int, const int *, void *const *) =
      real("__nvrtcCPEx");
  nvrtcResult result =
      function(out, source, name, count, headers, names, property_count, properties, values);
  return wrap(out, result, sum_of(source, name, headers, count));
}

nvrtcResult nvrtcDestroyProgram(nvrtcProgram *program) {
  nvrtcResult (*function)(nvrtcProgram *) = real("nvrtcDestroyProgram");
  Program *wrapped = (Program *)*program;
  nvrtcResult result = function(&wrapped->real);
  free(wrapped);
  *program = NULL;
  return result;
}

static const Kernel *find(XXH128_hash_t key) {
  for (int i = 0; i < kernel_count; i++)
    if (XXH128_isEqual(kernels[i].key, key)) return &kernels[i];
  return NULL;
}

static nvrtcResult remember(Program *program) {
  nvrtcResult (*get_size)(nvrtcProgram, size_t *) = real("nvrtcGetCUBINSize");
  nvrtcResult (*get_code)(nvrtcProgram, char *) = real("nvrtcGetCUBIN");
  Kernel kernel = {.key = program->key};
  if (kernel_count == KERNELS_MAX) return NVRTC_ERROR_OUT_OF_MEMORY;
  nvrtcResult result = get_size(program->real, &kernel.size);
  if (result != NVRTC_SUCCESS) return result;
  kernel.code = malloc(kernel.size);
  if (!kernel.code) return NVRTC_ERROR_OUT_OF_MEMORY;
  result = get_code(program->real, kernel.code);
  if (result != NVRTC_SUCCESS) return result;
  kernels[kernel_count] = kernel;
  program->kernel = &kernels[kernel_count++];
  return NVRTC_SUCCESS;
}

nvrtcResult nvrtcCompileProgram(nvrtcProgram program, int count, const char *const *options) {
  nvrtcResult (*compile)(nvrtcProgram, int, const char *const *) = real("nvrtcCompileProgram");
  Program *wrapped = (Program *)program;
  for (int i = 0; i < count; i++) wrapped->key = add_text(wrapped->key, options[i]);
  wrapped->kernel = find(wrapped->key);
  if (wrapped->kernel) return NVRTC_SUCCESS;
  nvrtcResult result = compile(wrapped->real, count, options);
  return result == NVRTC_SUCCESS ? remember(wrapped) : result;
}

nvrtcResult nvrtcGetCUBINSize(nvrtcProgram program, size_t *out) {
  const Kernel *kernel = ((Program *)program)->kernel;
  if (!kernel) return NVRTC_ERROR_INVALID_PROGRAM;
  *out = kernel->size;
  return NVRTC_SUCCESS;
}

nvrtcResult nvrtcGetCUBIN(nvrtcProgram program, char *out) {
  const Kernel *kernel = ((Program *)program)->kernel;
  if (!kernel) return NVRTC_ERROR_INVALID_PROGRAM;
  memcpy(out, kernel->code, kernel->size);
  return NVRTC_SUCCESS;
}
