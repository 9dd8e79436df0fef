// HDF5 images that h5_image_finish made, read. See h5.h; keras/ is the caller.
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "io/h5_internal.h"

enum { MAX_TEXT_BYTES = 64 << 20 }; // of one attribute

Status h5_open_bytes(H5File **out, const uint8_t *bytes, size_t size_bytes, const char *name) {
  h5__quieten();
  Status status = STATUS_OK;
  hid_t access = H5I_INVALID_HID;
  H5File *file = NULL;
  *out = NULL;
  GUARD(memory_alloc(&file, 1, sizeof *file));
  file->file = H5I_INVALID_HID;
  GUARD(memory_copy_string(&file->name, name));
  // The library takes two images of one name for one file.
  char unique[64];
  (void)snprintf(unique, sizeof unique, "image-%p", (void *)file);
  H5_GUARD(access = H5Pcreate(H5P_FILE_ACCESS), STATUS_OS, name, "no property list");
  H5_GUARD(H5Pset_fapl_core(access, H5_IMAGE_GROWTH_BYTES, 0), STATUS_OS, name, "no memory driver");
  // The call only reads its input, whatever its type says.
  H5_GUARD(H5Pset_file_image(access, (void *)(uintptr_t)bytes, size_bytes), STATUS_OS, name,
           "no memory for the file");
  H5_GUARD(file->file = H5Fopen(unique, H5F_ACC_RDONLY, access), STATUS_DATA, name,
           "is damaged, take another copy of it");
  *out = file;
  file = NULL;
out:
  h5__close_id(access);
  h5_close(file);
  return status;
}

void h5_close(H5File *file) {
  if (!file) return;
  if (file->file >= 0) (void)H5Fclose(file->file);
  memory_free(file->name);
  memory_free(file);
}

const char *h5_name(const H5File *file) {
  return file->name;
}

H5Kind h5_kind(const H5File *file, const char *path) {
  if (!*path) return H5_KIND_GROUP;
  if (!h5__path_exists(file->file, path)) return H5_ABSENT;
  hid_t object = H5Oopen(file->file, path, H5P_DEFAULT);
  H5I_type_t type = object < 0 ? H5I_BADID : H5Iget_type(object);
  h5__close_id(object);
  return type == H5I_GROUP ? H5_KIND_GROUP : type == H5I_DATASET ? H5_KIND_ARRAY : H5_ABSENT;
}

bool h5_has_attribute(const H5File *file, const char *path, const char *name) {
  if (*path && !h5__path_exists(file->file, path)) return false;
  return H5Aexists_by_name(file->file, *path ? path : "/", name, H5P_DEFAULT) > 0;
}

void h5_strings_free(H5Strings *strings) {
  for (int64_t i = 0; i < strings->count; i++) memory_free(strings->items[i]);
  memory_free(strings->items);
  *strings = (H5Strings){0};
}

Status h5_list(H5Strings *out, const H5File *file, const char *path) {
  Status status = STATUS_OK;
  H5Strings list = {0};
  H5G_info_t info;
  *out = (H5Strings){0};
  hid_t group = H5Gopen2(file->file, *path ? path : "/", H5P_DEFAULT);
  if (group < 0) return h5__error(STATUS_DATA, file->name, "no such group");
  H5_GUARD(H5Gget_info(group, &info), STATUS_DATA, file->name, "cannot list a group");
  GUARD(memory_alloc(&list.items, (size_t)info.nlinks, sizeof *list.items));
  for (hsize_t i = 0; i < info.nlinks; i++) {
    ssize_t length;
    H5_GUARD(length = H5Lget_name_by_idx(group, ".", H5_INDEX_NAME, H5_ITER_INC, i, NULL, 0,
                                         H5P_DEFAULT),
             STATUS_DATA, file->name, "cannot list a group");
    GUARD(memory_alloc(&list.items[i], (size_t)length + 1, 1));
    list.count++;
    H5_GUARD(H5Lget_name_by_idx(group, ".", H5_INDEX_NAME, H5_ITER_INC, i, list.items[i],
                                (size_t)length + 1, H5P_DEFAULT),
             STATUS_DATA, file->name, "cannot list a group");
  }
  *out = list;
  list = (H5Strings){0};
out:
  h5_strings_free(&list);
  h5__close_id(group);
  return status;
}

// Texts of variable length: the library allocates each, and takes them back.
static Status read_variable_texts(H5Strings *list, hid_t attribute, hid_t space, int64_t count,
                                  const char *what) {
  Status status = STATUS_OK;
  char **texts = NULL;
  hid_t type = H5I_INVALID_HID;
  bool reclaim = false;
  GUARD(memory_alloc(&texts, (size_t)count, sizeof *texts));
  H5_GUARD(type = H5Tcopy(H5T_C_S1), STATUS_OS, what, "no string type");
  H5_GUARD(H5Tset_size(type, H5T_VARIABLE), STATUS_OS, what, "no string type");
  hid_t stored = H5Aget_type(attribute);
  H5T_cset_t encoding = H5Tget_cset(stored);
  h5__close_id(stored);
  H5_GUARD(H5Tset_cset(type, encoding), STATUS_DATA, what, "text of an unknown encoding");
  H5_GUARD(H5Aread(attribute, type, texts), STATUS_DATA, what, "cannot be read");
  reclaim = true;
  for (int64_t i = 0; i < count; i++) {
    GUARD(memory_copy_string(&list->items[i], texts[i] ? texts[i] : ""));
    list->count++;
  }
out:
  if (reclaim) (void)H5Dvlen_reclaim(type, space, H5P_DEFAULT, texts);
  h5__close_id(type);
  memory_free(texts);
  return status;
}

static Status read_fixed_texts(H5Strings *list, hid_t attribute, hid_t type, int64_t count,
                               const char *what) {
  Status status = STATUS_OK;
  char *packed = NULL;
  size_t width = H5Tget_size(type);
  H5T_str_t padding = H5Tget_strpad(type);
  if (width == 0 || width > MAX_TEXT_BYTES || (size_t)count > MAX_TEXT_BYTES / width)
    return status_set(STATUS_DATA, "%s: texts of %zu bytes", what, width);
  GUARD(memory_alloc(&packed, (size_t)count, width));
  H5_GUARD(H5Aread(attribute, type, packed), STATUS_DATA, what, "cannot be read");
  for (int64_t i = 0; i < count; i++) {
    const char *text = packed + (size_t)i * width;
    size_t length = strnlen(text, width);
    while (padding == H5T_STR_SPACEPAD && length > 0 && text[length - 1] == ' ') length--;
    GUARD(memory_alloc(&list->items[i], length + 1, 1));
    list->count++;
    memcpy(list->items[i], text, length);
  }
out:
  memory_free(packed);
  return status;
}

Status h5__read_texts(H5Strings *out, bool *is_text, bool *is_list, hid_t attribute,
                      const char *what) {
  Status status = STATUS_OK;
  H5Strings list = {0};
  hid_t type = H5I_INVALID_HID, space = H5I_INVALID_HID;
  *out = (H5Strings){0};
  H5_GUARD(type = H5Aget_type(attribute), STATUS_DATA, what, "has no sound type");
  H5_GUARD(space = H5Aget_space(attribute), STATUS_DATA, what, "has no sound shape");
  *is_list = H5Sget_simple_extent_ndims(space) > 0;
  hssize_t count = H5Sget_simple_extent_npoints(space);
  *is_text = H5Tget_class(type) == H5T_STRING || (*is_list && count == 0);
  if (!*is_text || count == 0) goto out;
  if (count < 0 || count > MAX_TEXT_BYTES) {
    status = status_set(STATUS_DATA, "%s: %lld texts", what, (long long)count);
    goto out;
  }
  GUARD(memory_alloc(&list.items, (size_t)count, sizeof *list.items));
  if (H5Tis_variable_str(type) > 0)
    GUARD(read_variable_texts(&list, attribute, space, count, what));
  else
    GUARD(read_fixed_texts(&list, attribute, type, count, what));
  *out = list;
  list = (H5Strings){0};
out:
  h5_strings_free(&list);
  h5__close_id(space);
  h5__close_id(type);
  return status;
}

// As h5__read_texts, for an attribute given by name that must be text.
static Status read_attribute(H5Strings *out, bool *is_list, const H5File *file, const char *path,
                             const char *name) {
  *out = (H5Strings){0};
  if (!h5_has_attribute(file, path, name))
    return status_set(STATUS_DATA, "%s: no attribute %s at %s", file->name, name, h5__shown(path));
  hid_t attribute = H5Aopen_by_name(file->file, *path ? path : "/", name, H5P_DEFAULT, H5P_DEFAULT);
  if (attribute < 0) return h5__error(STATUS_DATA, file->name, name);
  bool is_text;
  Status status = h5__read_texts(out, &is_text, is_list, attribute, name);
  h5__close_id(attribute);
  if (status != STATUS_OK) return status_prepend(status, "%s", file->name);
  if (!is_text)
    return status_set(STATUS_DATA, "%s: the attribute %s at %s is no text", file->name, name,
                      h5__shown(path));
  return STATUS_OK;
}

Status h5_read_string(char **out, const H5File *file, const char *path, const char *name) {
  H5Strings texts;
  bool is_list;
  *out = NULL;
  TRY(read_attribute(&texts, &is_list, file, path, name));
  if (texts.count != 1) {
    h5_strings_free(&texts);
    return status_set(STATUS_DATA, "%s: the attribute %s at %s is a list, not one text", file->name,
                      name, h5__shown(path));
  }
  *out = texts.items[0];
  memory_free(texts.items);
  return STATUS_OK;
}

Status h5_read_strings(H5Strings *out, const H5File *file, const char *path, const char *name) {
  bool is_list;
  *out = (H5Strings){0};
  if (h5_has_attribute(file, path, name)) return read_attribute(out, &is_list, file, path, name);
  Status status = STATUS_OK;
  H5Strings all = {0}, piece = {0};
  size_t capacity = 0;
  for (int i = 0;; i++) {
    char numbered[256];
    (void)snprintf(numbered, sizeof numbered, "%s%d", name, i);
    if (i > 0 && !h5_has_attribute(file, path, numbered)) break;
    if (i == 0 && !h5_has_attribute(file, path, numbered)) {
      status =
          status_set(STATUS_DATA, "%s: no attribute %s at %s", file->name, name, h5__shown(path));
      goto out;
    }
    GUARD(read_attribute(&piece, &is_list, file, path, numbered));
    GUARD(memory_reserve(&all.items, &capacity, (size_t)(all.count + piece.count),
                         sizeof *all.items));
    for (int64_t j = 0; j < piece.count; j++) all.items[all.count++] = piece.items[j];
    memory_free(piece.items);
    piece = (H5Strings){0};
  }
  *out = all;
  all = (H5Strings){0};
out:
  h5_strings_free(&piece);
  h5_strings_free(&all);
  return status;
}

Status h5__describe_array(DType *dtype, Shape *shape, size_t *element_bytes, hid_t dataset,
                          const char *what) {
  Status status = STATUS_OK;
  hsize_t dims[H5S_MAX_RANK];
  hid_t type = H5I_INVALID_HID, space = H5I_INVALID_HID;
  H5_GUARD(type = H5Dget_type(dataset), STATUS_DATA, what, "has no sound type");
  H5_GUARD(space = H5Dget_space(dataset), STATUS_DATA, what, "has no sound shape");
  H5T_class_t type_class = H5Tget_class(type);
  if (type_class != H5T_FLOAT && type_class != H5T_INTEGER) {
    status = status_set(STATUS_DATA, "%s: holds neither floats nor integers", what);
    goto out;
  }
  int rank = H5Sget_simple_extent_ndims(space);
  if (rank < 0 || rank > SHAPE_MAX_RANK) {
    status = status_set(STATUS_DATA, "%s: has %d dimensions; at most %d are read", what, rank,
                        SHAPE_MAX_RANK);
    goto out;
  }
  H5_GUARD(H5Sget_simple_extent_dims(space, dims, NULL), STATUS_DATA, what, "has no sound shape");
  *dtype = type_class == H5T_FLOAT ? DTYPE_F32 : DTYPE_I64;
  *element_bytes = H5Tget_size(type);
  *shape = (Shape){.rank = rank};
  int64_t count = 1;
  for (int i = 0; i < rank; i++) {
    if (dims[i] > INT64_MAX || __builtin_mul_overflow(count, (int64_t)dims[i], &count)) {
      status = status_set(STATUS_DATA, "%s: absurd shape", what);
      goto out;
    }
    shape->dim[i] = (int64_t)dims[i];
  }
out:
  h5__close_id(space);
  h5__close_id(type);
  return status;
}

static Status open_array(hid_t *out, const H5File *file, const char *path) {
  if (h5_kind(file, path) != H5_KIND_ARRAY)
    return status_set(STATUS_DATA, "%s: no array %s", file->name, path);
  *out = H5Dopen2(file->file, path, H5P_DEFAULT);
  if (*out < 0) return h5__error(STATUS_DATA, file->name, path);
  return STATUS_OK;
}

Status h5_array_info(DType *dtype, Shape *shape, const H5File *file, const char *path) {
  hid_t dataset = H5I_INVALID_HID;
  size_t element_bytes;
  TRY(open_array(&dataset, file, path));
  Status status = h5__describe_array(dtype, shape, &element_bytes, dataset, path);
  h5__close_id(dataset);
  return status == STATUS_OK ? status : status_prepend(status, "%s", file->name);
}

Status h5_read_array(void *values, const H5File *file, const char *path, DType dtype,
                     int64_t count) {
  Status status = STATUS_OK;
  hid_t dataset = H5I_INVALID_HID;
  DType stored;
  Shape shape;
  size_t element_bytes;
  TRY(open_array(&dataset, file, path));
  GUARD(h5__describe_array(&stored, &shape, &element_bytes, dataset, path));
  if (shape_count(shape) != count) {
    char text[SHAPE_TEXT_CAPACITY];
    status = status_set(STATUS_DATA, "%s: %s has shape %s, not %lld elements", file->name, path,
                        shape_format(shape, text), (long long)count);
    goto out;
  }
  if (count > 0)
    H5_GUARD(H5Dread(dataset, dtype == DTYPE_F32 ? H5T_NATIVE_FLOAT : H5T_NATIVE_INT64, H5S_ALL,
                     H5S_ALL, H5P_DEFAULT, values),
             STATUS_DATA, file->name, path);
out:
  h5__close_id(dataset);
  return status;
}
