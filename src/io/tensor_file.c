// The list of a file's tensors, in order of their names, whatever the file. See tensor_file.h.
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "io/tensor_file_internal.h"

// Far beyond any network of this program; a damaged file must not ask for more memory than this.
enum { MAX_TENSORS = 100000 };
static const size_t MAX_FILE_BYTES = (size_t)16 << 30;

Status tensor_file__add(Tensor **out, TensorFile *file, const char *name) {
  *out = NULL;
  if (file->count >= MAX_TENSORS)
    return status_set(STATUS_DATA, "%s: holds more than %d tensors", file->name, MAX_TENSORS);
  TRY(memory_reserve(&file->tensors, &file->capacity, (size_t)file->count + 1,
                     sizeof *file->tensors));
  Tensor *tensor = &file->tensors[file->count];
  *tensor = (Tensor){0};
  TRY(memory_copy_string(&tensor->name, name));
  file->count++;
  *out = tensor;
  return STATUS_OK;
}

static int compare_names(const void *a, const void *b) {
  const Tensor *x = a, *y = b;
  return strcmp(x->name, y->name);
}

static Status sort_tensors(TensorFile *file) {
  if (file->count > 0)
    qsort(file->tensors, (size_t)file->count, sizeof *file->tensors, compare_names);
  for (int i = 1; i < file->count; i++)
    if (strcmp(file->tensors[i - 1].name, file->tensors[i].name) == 0)
      return status_set(STATUS_DATA, "%s: holds tensor %s twice", file->name,
                        file->tensors[i].name);
  return STATUS_OK;
}

// --- safetensors ---------------------------------------------------------------------------------

// Takes the bytes over.
static Status open_bytes(TensorFile **out, Bytes *bytes, const char *name) {
  Status status = STATUS_OK;
  TensorFile *file = NULL;
  GUARD(memory_alloc(&file, 1, sizeof *file));
  file->bytes = *bytes;
  *bytes = (Bytes){0};
  GUARD(memory_copy_string(&file->name, name));
  GUARD(tensor_file__parse_safetensors(file));
  GUARD(sort_tensors(file));
  *out = file;
  file = NULL;
out:
  tensor_file_close(file);
  bytes_deinit(bytes);
  return status;
}

Status tensor_file_open(TensorFile **out, const char *path) {
  Bytes bytes = {0};
  *out = NULL;
  Status status = file_read(&bytes, path, MAX_FILE_BYTES);
  if (status == STATUS_OK) return open_bytes(out, &bytes, path);
  bytes_deinit(&bytes);
  return status;
}

Status tensor_file_open_bytes(TensorFile **out, const uint8_t *data, size_t size_bytes,
                              const char *name) {
  Bytes bytes = {0};
  *out = NULL;
  TRY(memory_reserve(&bytes.data, &bytes.capacity, size_bytes, 1));
  if (size_bytes > 0) memcpy(bytes.data, data, size_bytes);
  bytes.size = size_bytes;
  return open_bytes(out, &bytes, name);
}

// --- .h5 -----------------------------------------------------------------------------------------

static Status list_group(TensorFile *file, const char *path);

// Takes `path` over.
static Status list_member(TensorFile *file, char *path) {
  Status status = STATUS_OK;
  char *name = NULL;
  DType dtype;
  Tensor *tensor;
  if (h5_kind(file->h5, path) == H5_KIND_GROUP) {
    status = list_group(file, path);
    goto out;
  }
  GUARD(memory_copy_string(&name, path));
  for (char *c = name; *c; c++)
    if (*c == '/') *c = '.';
  GUARD(tensor_file__add(&tensor, file, name));
  tensor->path = path;
  path = NULL;
  GUARD(h5_array_info(&dtype, &tensor->shape, file->h5, tensor->path));
  tensor->kind = dtype == DTYPE_F32 ? TENSOR_F32 : TENSOR_OTHER;
out:
  memory_free(name);
  memory_free(path);
  return status;
}

// Groups are not nested deeper than h5_open allows.
static Status list_group(TensorFile *file, const char *path) {
  Status status = STATUS_OK;
  H5Strings names = {0};
  GUARD(h5_list(&names, file->h5, path));
  for (int64_t i = 0; i < names.count; i++) {
    char *member;
    GUARD(memory_print_string(&member, "%s%s%s", path, *path ? "/" : "", names.items[i]));
    GUARD(list_member(file, member));
  }
out:
  h5_strings_free(&names);
  return status;
}

Status tensor_file_open_h5(TensorFile **out, H5File *h5) {
  TensorFile *file;
  *out = NULL;
  Status status = memory_alloc(&file, 1, sizeof *file);
  if (status != STATUS_OK) {
    h5_close(h5);
    return status;
  }
  file->h5 = h5;
  GUARD(memory_copy_string(&file->name, h5_name(h5)));
  GUARD(list_group(file, ""));
  GUARD(sort_tensors(file));
  *out = file;
  file = NULL;
out:
  tensor_file_close(file);
  return status;
}

// --- both ----------------------------------------------------------------------------------------

void tensor_file_close(TensorFile *file) {
  if (!file) return;
  for (int i = 0; i < file->count; i++) {
    memory_free(file->tensors[i].name);
    memory_free(file->tensors[i].path);
  }
  memory_free(file->tensors);
  memory_free(file->name);
  bytes_deinit(&file->bytes);
  h5_close(file->h5);
  memory_free(file);
}

const char *tensor_file_name(const TensorFile *file) {
  return file->name;
}

int tensor_file_count(const TensorFile *file) {
  return file->count;
}

TensorEntry tensor_file_entry(const TensorFile *file, int index) {
  const Tensor *tensor = &file->tensors[index];
  return (TensorEntry){tensor->name, tensor->shape, tensor->kind != TENSOR_OTHER};
}

int tensor_file_find(const TensorFile *file, const char *name) {
  int low = 0, high = file->count;
  while (low < high) {
    int middle = low + (high - low) / 2;
    int order = strcmp(file->tensors[middle].name, name);
    if (order == 0) return middle;
    if (order < 0)
      low = middle + 1;
    else
      high = middle;
  }
  return -1;
}

Status tensor_file_read(float *values, const TensorFile *file, int index) {
  const Tensor *tensor = &file->tensors[index];
  int64_t count = shape_count(tensor->shape);
  if (tensor->kind == TENSOR_OTHER)
    return status_set(STATUS_DATA, "%s: %s holds no floats", file->name, tensor->name);
  if (file->h5) return h5_read_array(values, file->h5, tensor->path, DTYPE_F32, count);
  tensor_file__convert(values, file->bytes.data + tensor->offset, tensor->kind, (size_t)count);
  return STATUS_OK;
}
