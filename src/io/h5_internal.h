// What the files of io/h5*.c share: the only ones that include <hdf5.h>.
#ifndef IMGCLS_IO_H5_INTERNAL_H
#define IMGCLS_IO_H5_INTERNAL_H

#include <hdf5.h>

#include "io/h5.h"

enum { H5_IMAGE_GROWTH_BYTES = 4 << 20 };

struct H5Image {
  hid_t file;
};

struct H5File {
  hid_t file;
  char *name;
};

// The library's own words for its latest failure become the message; STATUS_OS instead of `code`
// where that was a lack of memory.
Status h5__error(Status code, const char *what, const char *detail);

// Evaluates an HDF5 call; a negative result ends the function with `status` set, at out:.
#define H5_GUARD(call, code, what, detail)                                                         \
  do {                                                                                             \
    if ((call) < 0) {                                                                              \
      status = h5__error(code, what, detail);                                                      \
      goto out;                                                                                    \
    }                                                                                              \
  } while (0)

// Errors are ours to print, plugins are never loaded, and nothing of the library runs at exit
// (where it crashes after a failed write). Per thread, since the error stack is.
void h5__quieten(void);

void h5__close_id(hid_t id); // any kind of object; H5I_INVALID_HID is fine

const char *h5__shown(const char *path); // "/" for the root

// Whether every step of `path` exists; the library fails when an inner one does not.
bool h5__path_exists(hid_t file, const char *path);

// The texts of an open attribute. `*is_list` tells an array from a scalar; an empty array of any
// type is an empty list (numpy gives one of floats). Other types leave `*is_text` false.
MUST_CHECK Status h5__read_texts(H5Strings *out, bool *is_text, bool *is_list, hid_t attribute,
                                 const char *what);

// Type and shape of an open array. STATUS_DATA for types and ranks that Keras' weights never have.
MUST_CHECK Status h5__describe_array(DType *dtype, Shape *shape, size_t *element_bytes,
                                     hid_t dataset, const char *what);

#endif
