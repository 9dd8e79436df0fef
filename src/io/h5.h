// HDF5, as little of it as Keras' files need: groups, string attributes, lists of strings, dense
// arrays of float32 and int64. The only module (io/h5*) that includes
// <hdf5.h>.
//
// Files are written as an image in memory and never in place (HDF5 leaves wreckage when a write
// fails half-way); file_replace puts the bytes on disk. HDF5 1.10 crashes and hangs on damaged
// files, so a file that nobody has vouched for is first copied, in a child process with limits, to
// a clean image of what is understood, and only that image is opened here (h5_open).
//
// Paths go from the root, without a leading slash; "" is the root itself.
#ifndef IMGCLS_IO_H5_H
#define IMGCLS_IO_H5_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "tensor/tensor.h"

// Keras splits a list of strings into NAME0, NAME1, ... where it would take more bytes than this.
enum { H5_ATTRIBUTE_LIMIT = 64512 };

// --- writing -------------------------------------------------------------------------------------
typedef struct H5Image H5Image;

// An empty file in memory, owned by the caller. Equal calls give equal bytes: no times are stored.
MUST_CHECK Status h5_image_create(H5Image **out);
void h5_image_free(H5Image *image);

// Groups on the way to `path` are made where absent; a group that exists is fine.
MUST_CHECK Status h5_image_add_group(H5Image *image, const char *path);

// A contiguous, uncompressed, little-endian array. `dtype` is DTYPE_F32 or DTYPE_I64; rank 0 is a
// scalar.
MUST_CHECK Status h5_image_add_array(H5Image *image, const char *path, DType dtype, Shape shape,
                                     const void *values);

// An attribute of the object at `path`: one UTF-8 text of any length, or a list of texts, split as
// Keras splits it.
MUST_CHECK Status h5_image_set_string(H5Image *image, const char *path, const char *name,
                                      const char *text);
MUST_CHECK Status h5_image_set_strings(H5Image *image, const char *path, const char *name,
                                       const char *const *texts, int64_t count);

// The bytes of the file, owned by the caller; the image takes no more calls but h5_image_free.
MUST_CHECK Status h5_image_finish(H5Image *image, uint8_t **bytes, size_t *size_bytes);

// --- reading -------------------------------------------------------------------------------------
typedef struct H5File H5File;

typedef enum H5Kind { H5_ABSENT, H5_KIND_GROUP, H5_KIND_ARRAY } H5Kind;

typedef struct H5Strings {
  char **items; // owned, as each of them
  int64_t count;
} H5Strings;

// Whether these first bytes of a file are those of an HDF5 file.
bool h5_recognizes(const uint8_t *head, size_t size);

// Opens any file, however damaged, without harm to this process. Floats of any width are read as
// float32, integers as int64. STATUS_DATA, with the reason, for what is no HDF5 file, is damaged,
// or holds links to other files, external or virtual storage, unknown filters or absurd sizes.
MUST_CHECK Status h5_open(H5File **out, const char *path);

// The clean image of any file, as h5_open makes it and h5_open_bytes opens it, here or in another
// process. Owned by the caller.
MUST_CHECK Status h5_read_clean(uint8_t **bytes, size_t *size_bytes, const char *path);

// Opens bytes that are known to be what h5_image_finish made: just built, clean, or checksum verified.
// `name` is for messages; both are copied.
MUST_CHECK Status h5_open_bytes(H5File **out, const uint8_t *bytes, size_t size_bytes,
                                const char *name);
void h5_close(H5File *file);
const char *h5_name(const H5File *file); // as given to open, for messages

H5Kind h5_kind(const H5File *file, const char *path);
bool h5_has_attribute(const H5File *file, const char *path, const char *name);

// The names in a group, by ASCII order.
MUST_CHECK Status h5_list(H5Strings *out, const H5File *file, const char *path);

// One text; a list of texts, joined where Keras split it. STATUS_DATA where absent or no text.
MUST_CHECK Status h5_read_string(char **out, const H5File *file, const char *path,
                                 const char *name);
MUST_CHECK Status h5_read_strings(H5Strings *out, const H5File *file, const char *path,
                                  const char *name);
void h5_strings_free(H5Strings *strings);

// What an array is, and its elements; h5_read_array converts to `dtype` (DTYPE_F32 or DTYPE_I64)
// and fails unless the array has exactly `count` elements.
MUST_CHECK Status h5_array_info(DType *dtype, Shape *shape, const H5File *file, const char *path);
MUST_CHECK Status h5_read_array(void *values, const H5File *file, const char *path, DType dtype,
                                int64_t count);

#endif
