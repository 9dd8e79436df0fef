// What reading and writing HDF5 have in common: errors, handles, paths. See h5.h.
//
// The library keeps an error stack of its own; each failing call is turned into one Status message
// that carries the innermost reason.
#include "io/h5.h"

#include <stdio.h>
#include <string.h>

#include "io/h5_internal.h"

typedef struct Reason {
  char text[160]; // of the innermost failure
  bool lacks_memory;
} Reason;

static herr_t take_reason(unsigned index, const H5E_error2_t *error, void *context) {
  Reason *reason = context;
  if (index == 0 && error->desc)
    (void)snprintf(reason->text, sizeof reason->text, "%s", error->desc);
  reason->lacks_memory |= error->min_num == H5E_NOSPACE || error->min_num == H5E_CANTALLOC;
  return 0;
}

Status h5__error(Status code, const char *what, const char *detail) {
  Reason reason = {0};
  (void)H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, take_reason, &reason);
  (void)H5Eclear2(H5E_DEFAULT);
  if (reason.lacks_memory)
    return status_set(STATUS_OS, "%s: out of memory: HDF5 says %s", what, reason.text);
  return status_set(code, "%s: %s%s%s", what, detail, *reason.text ? ": HDF5 says " : "",
                    reason.text);
}

void h5__quieten(void) {
  (void)H5dont_atexit();
  (void)H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
  (void)H5PLset_loading_state(0);
}

void h5__close_id(hid_t id) {
  if (id >= 0 && H5Iis_valid(id) > 0) (void)H5Idec_ref(id);
}

const char *h5__shown(const char *path) {
  return *path ? path : "/";
}

bool h5__path_exists(hid_t file, const char *path) {
  char prefix[1024];
  size_t length = strlen(path);
  if (length >= sizeof prefix) return false;
  for (size_t i = 1; i <= length; i++) {
    if (path[i] != '/' && path[i] != '\0') continue;
    memcpy(prefix, path, i);
    prefix[i] = '\0';
    if (H5Lexists(file, prefix, H5P_DEFAULT) <= 0) {
      (void)H5Eclear2(H5E_DEFAULT);
      return false;
    }
  }
  return true;
}
