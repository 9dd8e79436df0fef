// HDF5 files written as an image in memory. See h5.h; keras/save.c is the caller.
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "io/h5_internal.h"

Status h5_image_create(H5Image **out) {
  h5__quieten();
  Status status = STATUS_OK;
  H5Image *image = NULL;
  hid_t access = H5I_INVALID_HID;
  hid_t creation = H5I_INVALID_HID;
  *out = NULL;
  GUARD(memory_alloc(&image, 1, sizeof *image));
  image->file = H5I_INVALID_HID;
  char name[64];
  (void)snprintf(name, sizeof name, "image-%p", (void *)image);
  H5_GUARD(access = H5Pcreate(H5P_FILE_ACCESS), STATUS_OS, "HDF5", "no property list");
  H5_GUARD(creation = H5Pcreate(H5P_FILE_CREATE), STATUS_OS, "HDF5", "no property list");
  H5_GUARD(H5Pset_fapl_core(access, H5_IMAGE_GROWTH_BYTES, 0), STATUS_OS, "HDF5",
           "no memory driver");
  H5_GUARD(H5Pset_obj_track_times(creation, 0), STATUS_OS, "HDF5", "cannot leave out times");
  H5_GUARD(image->file = H5Fcreate(name, H5F_ACC_TRUNC, creation, access), STATUS_OS, "HDF5",
           "cannot make a file in memory");
  *out = image;
  image = NULL;
out:
  h5_image_free(image);
  h5__close_id(access);
  h5__close_id(creation);
  return status;
}

void h5_image_free(H5Image *image) {
  if (!image) return;
  if (image->file >= 0) (void)H5Fclose(image->file);
  memory_free(image);
}

// Links made with this list make the groups on their way and have UTF-8 names.
static hid_t create_link_list(void) {
  hid_t list = H5Pcreate(H5P_LINK_CREATE);
  if (list < 0 || H5Pset_create_intermediate_group(list, 1) < 0 ||
      H5Pset_char_encoding(list, H5T_CSET_UTF8) < 0) {
    h5__close_id(list);
    return H5I_INVALID_HID;
  }
  return list;
}

Status h5_image_add_group(H5Image *image, const char *path) {
  if (!*path || h5__path_exists(image->file, path)) return STATUS_OK;
  Status status = STATUS_OK;
  hid_t links = H5I_INVALID_HID;
  hid_t group = H5I_INVALID_HID;
  H5_GUARD(links = create_link_list(), STATUS_OS, path, "no property list");
  H5_GUARD(group = H5Gcreate2(image->file, path, links, H5P_DEFAULT, H5P_DEFAULT), STATUS_OS, path,
           "cannot make the group");
out:
  h5__close_id(group);
  h5__close_id(links);
  return status;
}

Status h5_image_add_array(H5Image *image, const char *path, DType dtype, Shape shape,
                          const void *values) {
  Status status = STATUS_OK;
  hid_t links = H5I_INVALID_HID, creation = H5I_INVALID_HID;
  hid_t space = H5I_INVALID_HID, dataset = H5I_INVALID_HID;
  bool is_float = dtype == DTYPE_F32;
  hsize_t dims[SHAPE_MAX_RANK];
  for (int i = 0; i < shape.rank; i++) dims[i] = (hsize_t)shape.dim[i];
  H5_GUARD(links = create_link_list(), STATUS_OS, path, "no property list");
  H5_GUARD(creation = H5Pcreate(H5P_DATASET_CREATE), STATUS_OS, path, "no property list");
  H5_GUARD(H5Pset_obj_track_times(creation, 0), STATUS_OS, path, "cannot leave out times");
  H5_GUARD(H5Pset_layout(creation, H5D_CONTIGUOUS), STATUS_OS, path, "no contiguous layout");
  H5_GUARD(space =
               shape.rank > 0 ? H5Screate_simple(shape.rank, dims, NULL) : H5Screate(H5S_SCALAR),
           STATUS_OS, path, "no such shape");
  H5_GUARD(dataset = H5Dcreate2(image->file, path, is_float ? H5T_IEEE_F32LE : H5T_STD_I64LE, space,
                                links, creation, H5P_DEFAULT),
           STATUS_OS, path, "cannot make the array");
  if (shape_count(shape) > 0)
    H5_GUARD(H5Dwrite(dataset, is_float ? H5T_NATIVE_FLOAT : H5T_NATIVE_INT64, H5S_ALL, H5S_ALL,
                      H5P_DEFAULT, values),
             STATUS_OS, path, "cannot store the array");
out:
  h5__close_id(dataset);
  h5__close_id(space);
  h5__close_id(creation);
  h5__close_id(links);
  return status;
}

// Stores `data` as the attribute `name` of type `type`; `count` elements, or a scalar for -1.
static Status write_attribute(H5Image *image, const char *path, const char *name, hid_t type,
                              int64_t count, const void *data) {
  Status status = STATUS_OK;
  hid_t object = H5I_INVALID_HID, space = H5I_INVALID_HID, attribute = H5I_INVALID_HID;
  hsize_t dim = count > 0 ? (hsize_t)count : 0;
  H5_GUARD(object = H5Oopen(image->file, *path ? path : "/", H5P_DEFAULT), STATUS_OS,
           h5__shown(path), "no such object");
  H5_GUARD(space = count < 0 ? H5Screate(H5S_SCALAR) : H5Screate_simple(1, &dim, NULL), STATUS_OS,
           name, "no such shape");
  H5_GUARD(attribute = H5Acreate2(object, name, type, space, H5P_DEFAULT, H5P_DEFAULT), STATUS_OS,
           name, "cannot make the attribute");
  if (count != 0) H5_GUARD(H5Awrite(attribute, type, data), STATUS_OS, name, "cannot be stored");
out:
  h5__close_id(attribute);
  h5__close_id(space);
  h5__close_id(object);
  return status;
}

Status h5_image_set_string(H5Image *image, const char *path, const char *name, const char *text) {
  Status status = STATUS_OK;
  hid_t type = H5I_INVALID_HID;
  // Of variable length, as h5py stores a string: such text lies outside the object header, which
  // ends at 64 KiB.
  H5_GUARD(type = H5Tcopy(H5T_C_S1), STATUS_OS, name, "no string type");
  H5_GUARD(H5Tset_size(type, H5T_VARIABLE), STATUS_OS, name, "no string type");
  H5_GUARD(H5Tset_cset(type, H5T_CSET_UTF8), STATUS_OS, name, "no string type");
  GUARD(write_attribute(image, path, name, type, -1, &text));
out:
  h5__close_id(type);
  return status;
}

// One piece of a list: fixed-length texts padded with zeros, as numpy's bytes arrays.
static Status set_piece(H5Image *image, const char *path, const char *name,
                        const char *const *texts, int64_t count, size_t width) {
  Status status = STATUS_OK;
  hid_t type = H5I_INVALID_HID;
  char *packed = NULL;
  GUARD(memory_alloc(&packed, (size_t)count, width));
  for (int64_t i = 0; i < count; i++)
    memcpy(packed + (size_t)i * width, texts[i], strlen(texts[i]));
  H5_GUARD(type = H5Tcopy(H5T_C_S1), STATUS_OS, name, "no string type");
  H5_GUARD(H5Tset_size(type, width), STATUS_OS, name, "no string type");
  H5_GUARD(H5Tset_strpad(type, H5T_STR_NULLPAD), STATUS_OS, name, "no string type");
  GUARD(write_attribute(image, path, name, type, count, packed));
out:
  memory_free(packed);
  h5__close_id(type);
  return status;
}

Status h5_image_set_strings(H5Image *image, const char *path, const char *name,
                            const char *const *texts, int64_t count) {
  size_t width = 1;
  for (int64_t i = 0; i < count; i++)
    if (strlen(texts[i]) > width) width = strlen(texts[i]);
  if (width > H5_ATTRIBUTE_LIMIT)
    return status_set(STATUS_DATA, "%s of %s: a text of %zu bytes; at most %d fit", name,
                      h5__shown(path), width, H5_ATTRIBUTE_LIMIT);
  // Keras: the fewest equal pieces (numpy.array_split: the first ones may be one longer) that fit.
  int64_t fit = (int64_t)(H5_ATTRIBUTE_LIMIT / width);
  int64_t pieces = count <= fit ? 1 : (count + fit - 1) / fit;
  if (pieces == 1) return set_piece(image, path, name, texts, count, width);
  int64_t start = 0;
  for (int64_t i = 0; i < pieces; i++) {
    int64_t length = count / pieces + (i < count % pieces);
    char numbered[256];
    (void)snprintf(numbered, sizeof numbered, "%s%lld", name, (long long)i);
    TRY(set_piece(image, path, numbered, texts + start, length, width));
    start += length;
  }
  return STATUS_OK;
}

Status h5_image_finish(H5Image *image, uint8_t **bytes, size_t *size_bytes) {
  Status status = STATUS_OK;
  uint8_t *block = NULL;
  ssize_t size;
  H5_GUARD(H5Fflush(image->file, H5F_SCOPE_GLOBAL), STATUS_OS, "HDF5", "cannot finish the file");
  H5_GUARD(size = H5Fget_file_image(image->file, NULL, 0), STATUS_OS, "HDF5",
           "cannot measure the file");
  GUARD(memory_alloc(&block, (size_t)size, 1));
  H5_GUARD(H5Fget_file_image(image->file, block, (size_t)size), STATUS_OS, "HDF5",
           "cannot take the file");
  // What is left in the library is a copy that nobody needs.
  H5_GUARD(H5Fclose(image->file), STATUS_OS, "HDF5", "cannot close the file");
  image->file = H5I_INVALID_HID;
  *bytes = block;
  *size_bytes = (size_t)size;
  block = NULL;
out:
  memory_free(block);
  return status;
}
