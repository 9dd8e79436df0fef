// Shared libraries that are loaded when they are first needed, so that a program starts without them:
// large ones cost 0.1 s to map, and not every machine has them. Used by the folder that includes the
// library's header, which defines the functions as calls through the addresses found here.
#ifndef IMGCLS_BASE_LIBRARY_H
#define IMGCLS_BASE_LIBRARY_H

#include <stddef.h>

#include "base/status.h"

typedef struct LibraryFunction {
  const char *name;
  void *address; // of a pointer to a function: filled in
} LibraryFunction;

typedef struct LibraryDesc {
  const char *file; // "libcudnn.so.9"
  const char *cure; // what to do where it is missing or too old: "install cuDNN 9"
  const LibraryFunction *functions;
  size_t function_count;
} LibraryDesc;

// Loads the library, for the rest of the process, and finds the functions; again is fine. STATUS_CONFIG
// names the file, the loader's reason and the cure. The first call comes from one thread alone.
MUST_CHECK Status library_load(const LibraryDesc *desc);

#endif
