// Opening a file that nobody has vouched for. See h5.h.
//
// What a damaged file can do to the library happens in a child process (`clean_copy`), which copies
// all that is understood to a new image; this process opens only that image. Messages of the copy
// speak of paths in the file; clean_copy puts the file's name before them.
#include <string.h>

#include "base/memory.h"
#include "io/file.h"
#include "io/h5_internal.h"
#include "io/sandbox.h"

enum {
  MAX_DEPTH = 32,       // of groups in groups
  MAX_OBJECTS = 200000, // in one file
  DEFLATE_LIMIT = 1100, // deflate shrinks by less than this
};
static const size_t MAX_FILE_BYTES = (size_t)16 << 30;

typedef struct Copy {
  H5Image *image;
  size_t file_bytes;
  int objects;
} Copy;

static Status copy_group(Copy *copy, hid_t group, const char *path, int depth);

// Storage elsewhere, filters that need plugins, and shapes that the stored bytes cannot fill.
static Status refuse_storage(const Copy *copy, hid_t dataset, Shape shape, size_t element_bytes,
                             const char *path) {
  Status status = STATUS_OK;
  hid_t creation = H5Dget_create_plist(dataset);
  if (creation < 0) return h5__error(STATUS_DATA, path, "is damaged");
  bool compressed = false;
  if (H5Pget_layout(creation) == H5D_VIRTUAL) {
    status =
        status_set(STATUS_DATA, "%s takes its values from other files (virtual dataset)", path);
    goto out;
  }
  if (H5Pget_external_count(creation) != 0) {
    status =
        status_set(STATUS_DATA, "%s keeps its values in another file (external storage)", path);
    goto out;
  }
  int filters = H5Pget_nfilters(creation);
  for (int i = 0; i < filters; i++) {
    unsigned flags, config;
    size_t values = 0;
    H5Z_filter_t filter =
        H5Pget_filter2(creation, (unsigned)i, &flags, &values, NULL, 0, NULL, &config);
    compressed |= filter == H5Z_FILTER_DEFLATE;
    if (filter != H5Z_FILTER_DEFLATE && filter != H5Z_FILTER_SHUFFLE &&
        filter != H5Z_FILTER_FLETCHER32) {
      status = status_set(STATUS_DATA, "%s is stored with filter %d; save it plain or with gzip",
                          path, (int)filter);
      goto out;
    }
  }
  size_t stored = H5Dget_storage_size(dataset);
  size_t expected;
  bool overflow = __builtin_mul_overflow((size_t)shape_count(shape), element_bytes, &expected);
  if (overflow || stored > copy->file_bytes ||
      expected / (compressed ? DEFLATE_LIMIT : 1) > stored) {
    char text[SHAPE_TEXT_CAPACITY];
    status = status_set(STATUS_DATA, "%s of shape %s cannot be in a file of %zu bytes", path,
                        shape_format(shape, text), copy->file_bytes);
  }
out:
  h5__close_id(creation);
  return status;
}

static Status copy_array(Copy *copy, hid_t dataset, const char *path) {
  DType dtype;
  Shape shape;
  size_t element_bytes;
  hid_t type = H5Dget_type(dataset);
  H5T_class_t type_class = type < 0 ? H5T_NO_CLASS : H5Tget_class(type);
  h5__close_id(type);
  // Texts and flags in a file of weights are nobody's weights.
  if (type_class != H5T_FLOAT && type_class != H5T_INTEGER) return STATUS_OK;
  Status status = h5__describe_array(&dtype, &shape, &element_bytes, dataset, path);
  TRY(status);
  TRY(refuse_storage(copy, dataset, shape, element_bytes, path));
  void *values = NULL;
  GUARD(memory_alloc(&values, (size_t)shape_count(shape), dtype_size(dtype)));
  if (shape_count(shape) > 0)
    H5_GUARD(H5Dread(dataset, dtype == DTYPE_F32 ? H5T_NATIVE_FLOAT : H5T_NATIVE_INT64, H5S_ALL,
                     H5S_ALL, H5P_DEFAULT, values),
             STATUS_DATA, path, "is damaged");
  GUARD(h5_image_add_array(copy->image, path, dtype, shape, values));
out:
  memory_free(values);
  return status;
}

// Text attributes of an object; others mean nothing to Keras' loaders.
static Status copy_attributes(Copy *copy, hid_t object, const char *path) {
  Status status = STATUS_OK;
  H5O_info_t info;
  hid_t attribute = H5I_INVALID_HID;
  H5Strings texts = {0};
  if (H5Oget_info2(object, &info, H5O_INFO_NUM_ATTRS) < 0)
    return h5__error(STATUS_DATA, h5__shown(path), "is damaged");
  for (hsize_t i = 0; i < info.num_attrs; i++) {
    char name[256];
    bool is_text, is_list;
    H5_GUARD(attribute = H5Aopen_by_idx(object, ".", H5_INDEX_NAME, H5_ITER_INC, i, H5P_DEFAULT,
                                        H5P_DEFAULT),
             STATUS_DATA, h5__shown(path), "an attribute is damaged");
    H5_GUARD(H5Aget_name(attribute, sizeof name, name), STATUS_DATA, h5__shown(path),
             "an attribute is damaged");
    GUARD(h5__read_texts(&texts, &is_text, &is_list, attribute, name));
    if (is_text && is_list)
      GUARD(h5_image_set_strings(copy->image, path, name, (const char *const *)texts.items,
                                 texts.count));
    else if (is_text && texts.count == 1)
      GUARD(h5_image_set_string(copy->image, path, name, texts.items[0]));
    h5_strings_free(&texts);
    h5__close_id(attribute);
    attribute = H5I_INVALID_HID;
  }
out:
  h5_strings_free(&texts);
  h5__close_id(attribute);
  return status;
}

static Status copy_object(Copy *copy, hid_t object, const char *path, int depth) {
  H5O_info_t info;
  if (H5Oget_info2(object, &info, H5O_INFO_BASIC) < 0)
    return h5__error(STATUS_DATA, path, "is damaged");
  if (info.rc != 1)
    return status_set(STATUS_DATA, "%s has %u names; one is allowed", path, info.rc);
  if (++copy->objects > MAX_OBJECTS || depth > MAX_DEPTH)
    return status_set(STATUS_DATA, "more than %d objects, or groups %d deep", MAX_OBJECTS,
                      MAX_DEPTH);
  if (info.type == H5O_TYPE_DATASET) return copy_array(copy, object, path);
  if (info.type != H5O_TYPE_GROUP) return STATUS_OK;
  TRY(h5_image_add_group(copy->image, path));
  return copy_group(copy, object, path, depth);
}

static Status copy_link(Copy *copy, hid_t group, const char *path, hsize_t index, int depth) {
  Status status = STATUS_OK;
  hid_t object = H5I_INVALID_HID;
  H5L_info_t link;
  char *child = NULL;
  char name[512];
  ssize_t length = H5Lget_name_by_idx(group, ".", H5_INDEX_NAME, H5_ITER_INC, index, name,
                                      sizeof name, H5P_DEFAULT);
  if (length <= 0 || (size_t)length >= sizeof name)
    return h5__error(STATUS_DATA, h5__shown(path), "a name in a group is damaged or too long");
  GUARD(memory_print_string(&child, "%s%s%s", path, *path ? "/" : "", name));
  H5_GUARD(H5Lget_info(group, name, &link, H5P_DEFAULT), STATUS_DATA, child, "is damaged");
  if (link.type != H5L_TYPE_HARD) {
    status = status_set(STATUS_DATA, "%s is %s link; only plain members are read", child,
                        link.type == H5L_TYPE_EXTERNAL ? "an external"
                        : link.type == H5L_TYPE_SOFT   ? "a soft"
                                                       : "an unknown kind of");
    goto out;
  }
  H5_GUARD(object = H5Oopen(group, name, H5P_DEFAULT), STATUS_DATA, child, "is damaged");
  GUARD(copy_object(copy, object, child, depth));
out:
  h5__close_id(object);
  memory_free(child);
  return status;
}

static Status copy_group(Copy *copy, hid_t group, const char *path, int depth) {
  H5G_info_t info;
  TRY(copy_attributes(copy, group, path));
  if (H5Gget_info(group, &info) < 0) return h5__error(STATUS_DATA, h5__shown(path), "is damaged");
  for (hsize_t i = 0; i < info.nlinks; i++) TRY(copy_link(copy, group, path, i, depth + 1));
  return STATUS_OK;
}

typedef struct CopyTask {
  const Bytes *bytes;
  const char *name;
} CopyTask;

// In the child: everything understood of the file goes to a new image.
static Status clean_copy(uint8_t **result, size_t *size_bytes, void *context) {
  const CopyTask *task = context;
  Status status = STATUS_OK;
  H5File *file = NULL;
  hid_t root = H5I_INVALID_HID;
  Copy copy = {.file_bytes = task->bytes->size};
  TRY(h5_open_bytes(&file, task->bytes->data, task->bytes->size, task->name));
  GUARD(h5_image_create(&copy.image));
  H5_GUARD(root = H5Gopen2(file->file, "/", H5P_DEFAULT), STATUS_DATA, "/", "is damaged");
  GUARD(copy_group(&copy, root, "", 0));
  GUARD(h5_image_finish(copy.image, result, size_bytes));
out:
  h5__close_id(root);
  h5_image_free(copy.image);
  h5_close(file);
  return status == STATUS_OK ? status : status_prepend(status, "%s", task->name);
}

bool h5_recognizes(const uint8_t *head, size_t size) {
  static const uint8_t hdf5[8] = {0x89, 'H', 'D', 'F', '\r', '\n', 0x1a, '\n'};
  return size > sizeof hdf5 && memcmp(head, hdf5, sizeof hdf5) == 0;
}

static Status check_signature(const Bytes *bytes, const char *path) {
  if (h5_recognizes(bytes->data, bytes->size)) return STATUS_OK;
  if (bytes->size > 4 && memcmp(bytes->data, "PK\3\4", 4) == 0)
    return status_set(
        STATUS_DATA,
        "%s: is a zip archive (.keras, or torch's .pt): save the model as .h5, or its "
        "weights as .weights.h5 or .safetensors",
        path);
  return status_set(STATUS_DATA, "%s: is no HDF5 file (%zu bytes); use an .h5 of imgcls or Keras", path, bytes->size);
}

Status h5_read_clean(uint8_t **clean, size_t *size_bytes, const char *path) {
  Status status = STATUS_OK;
  Bytes bytes = {0};
  *clean = NULL;
  *size_bytes = 0;
  GUARD(file_read(&bytes, path, MAX_FILE_BYTES));
  GUARD(check_signature(&bytes, path));
  // Time and memory for a sound file of this size, many times over.
  SandboxLimits limits = {.deadline_s = 10 + (double)bytes.size / 20e6,
                          .memory_bytes = ((size_t)1 << 29) + 8 * bytes.size};
  CopyTask task = {.bytes = &bytes, .name = path};
  status = sandbox_run(clean, size_bytes, &limits, clean_copy, &task, path);
out:
  bytes_deinit(&bytes);
  return status;
}

Status h5_open(H5File **out, const char *path) {
  uint8_t *clean;
  size_t size_bytes;
  *out = NULL;
  TRY(h5_read_clean(&clean, &size_bytes, path));
  Status status = h5_open_bytes(out, clean, size_bytes, path);
  memory_free(clean);
  return status;
}
