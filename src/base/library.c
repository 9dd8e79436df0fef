// Loading shared libraries late. See library.h.
#include "base/library.h"

#include <dlfcn.h>
#include <string.h>

Status library_load(const LibraryDesc *desc) {
  void *library = dlopen(desc->file, RTLD_NOW | RTLD_LOCAL);
  if (!library) return status_set(STATUS_CONFIG, "%s; %s", dlerror(), desc->cure);
  for (size_t i = 0; i < desc->function_count; i++) {
    void *address = dlsym(library, desc->functions[i].name);
    if (!address) return status_set(STATUS_CONFIG, "%s; %s", dlerror(), desc->cure);
    memcpy(desc->functions[i].address, &address, sizeof address);
  }
  return STATUS_OK;
}
