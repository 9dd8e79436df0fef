// The safetensors container: eight bytes with the length of a JSON header, the header, the values.
// The header has for each tensor its type, its shape, and where its values begin and end. The
// values fill the rest of the file without holes. See tensor_file.h.
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "io/tensor_file_internal.h"

enum {
  LENGTH_BYTES = 8,
  MAX_HEADER_BYTES = 64 << 20, // ten thousand tensors take two
};

typedef struct Type {
  const char *name;
  size_t size;
  TensorKind kind;
} Type;

static const Type types[] = {
    {"F32", 4, TENSOR_F32},    {"F16", 2, TENSOR_F16},   {"BF16", 2, TENSOR_BF16},
    {"F64", 8, TENSOR_OTHER},  {"I64", 8, TENSOR_OTHER}, {"U64", 8, TENSOR_OTHER},
    {"I32", 4, TENSOR_OTHER},  {"U32", 4, TENSOR_OTHER}, {"I16", 2, TENSOR_OTHER},
    {"U16", 2, TENSOR_OTHER},  {"I8", 1, TENSOR_OTHER},  {"U8", 1, TENSOR_OTHER},
    {"BOOL", 1, TENSOR_OTHER},
};

static Status damaged(const TensorFile *file, const char *name, const char *what) {
  return status_set(STATUS_DATA, "%s: tensor %s: %s: the file is damaged", file->name, name, what);
}

static Status read_type(const Type **out, const TensorFile *file, const char *name,
                        const json_t *entry) {
  *out = NULL;
  const char *text = json_string_value(json_object_get(entry, "dtype"));
  for (size_t i = 0; text && i < sizeof types / sizeof *types; i++)
    if (strcmp(types[i].name, text) == 0) {
      *out = &types[i];
      return STATUS_OK;
    }
  return status_set(STATUS_DATA, "%s: tensor %s has dtype %s: save it as F32, F16 or BF16",
                    file->name, name, text ? text : "of no name");
}

static Status read_shape(Shape *out, const TensorFile *file, const char *name,
                         const json_t *entry) {
  const json_t *dims = json_object_get(entry, "shape");
  size_t rank = json_array_size(dims);
  int64_t count = 1;
  if (!json_is_array(dims)) return damaged(file, name, "it has no shape");
  if (rank > SHAPE_MAX_RANK)
    return status_set(STATUS_DATA, "%s: tensor %s has %zu dimensions; %d are read at most",
                      file->name, name, rank, SHAPE_MAX_RANK);
  *out = (Shape){.rank = (int)rank};
  for (size_t i = 0; i < rank; i++) {
    const json_t *dim = json_array_get(dims, i);
    out->dim[i] = json_integer_value(dim);
    if (!json_is_integer(dim) || out->dim[i] < 0 ||
        __builtin_mul_overflow(count, out->dim[i], &count))
      return damaged(file, name, "its shape is none");
  }
  return STATUS_OK;
}

// Offsets count from the end of the header, at `start`.
static Status read_place(Tensor *tensor, const TensorFile *file, const json_t *entry,
                         size_t start) {
  const json_t *offsets = json_object_get(entry, "data_offsets");
  const json_t *begin = json_array_get(offsets, 0), *end = json_array_get(offsets, 1);
  json_int_t from = json_integer_value(begin), to = json_integer_value(end);
  if (json_array_size(offsets) != 2 || !json_is_integer(begin) || !json_is_integer(end) ||
      from < 0 || to < from)
    return damaged(file, tensor->name, "its data_offsets are none");
  if ((uint64_t)to > file->bytes.size - start)
    return damaged(file, tensor->name, "its values end behind the file's end");
  tensor->offset = start + (size_t)from;
  tensor->size = (size_t)(to - from);
  return STATUS_OK;
}

static Status add_entry(TensorFile *file, const char *name, const json_t *entry, size_t start) {
  const Type *type;
  Tensor *tensor;
  size_t size;
  TRY(tensor_file__add(&tensor, file, name));
  TRY(read_type(&type, file, name, entry));
  TRY(read_shape(&tensor->shape, file, name, entry));
  TRY(read_place(tensor, file, entry, start));
  tensor->kind = type->kind;
  if (__builtin_mul_overflow((size_t)shape_count(tensor->shape), type->size, &size) ||
      size != tensor->size)
    return damaged(file, name, "its shape and its data_offsets disagree");
  return STATUS_OK;
}

static int compare_offsets(const void *a, const void *b) {
  const Tensor *x = a, *y = b;
  if (x->offset != y->offset) return x->offset < y->offset ? -1 : 1;
  return (x->size > y->size) - (x->size < y->size); // empty ones before what begins there
}

// Neither holes nor overlaps.
static Status check_places(TensorFile *file, size_t start) {
  size_t end = start;
  if (file->count > 0)
    qsort(file->tensors, (size_t)file->count, sizeof *file->tensors, compare_offsets);
  for (int i = 0; i < file->count; i++) {
    const Tensor *tensor = &file->tensors[i];
    if (tensor->offset < end)
      return damaged(file, tensor->name, "its values overlap those of another");
    if (tensor->offset > end) return damaged(file, tensor->name, "a hole precedes its values");
    end += tensor->size;
  }
  if (end != file->bytes.size)
    return status_set(STATUS_DATA, "%s: has %zu bytes behind its last tensor: it is damaged",
                      file->name, file->bytes.size - end);
  return STATUS_OK;
}

static uint64_t header_length(const uint8_t *bytes) {
  uint64_t length = 0;
  for (int i = LENGTH_BYTES; i-- > 0;) length = length << 8 | bytes[i];
  return length;
}

bool tensor_file_is_safetensors(const uint8_t *head, size_t size) {
  return size > LENGTH_BYTES && head[LENGTH_BYTES] == '{' &&
         header_length(head) <= MAX_HEADER_BYTES;
}

static Status list_entries(TensorFile *file, json_t *header, size_t start) {
  const char *name;
  json_t *entry;
  if (!json_is_object(header))
    return status_set(STATUS_DATA, "%s: its header is no object: it is damaged", file->name);
  json_object_foreach(header, name, entry) {
    if (strcmp(name, "__metadata__") != 0) TRY(add_entry(file, name, entry, start));
  }
  return STATUS_OK;
}

Status tensor_file__parse_safetensors(TensorFile *file) {
  const Bytes *bytes = &file->bytes;
  json_error_t error;
  if (!tensor_file_is_safetensors(bytes->data, bytes->size))
    return status_set(STATUS_DATA,
                      "%s: is no safetensors file (%zu bytes): its download was cut off, or it was "
                      "not written by save_file of safetensors",
                      file->name, bytes->size);
  uint64_t length = header_length(bytes->data);
  if (length > bytes->size - LENGTH_BYTES)
    return status_set(STATUS_DATA,
                      "%s: its header has %llu bytes, the whole file %zu: it was cut off",
                      file->name, (unsigned long long)length, bytes->size);
  size_t start = LENGTH_BYTES + (size_t)length;
  json_t *header = json_loadb((const char *)bytes->data + LENGTH_BYTES, (size_t)length,
                              JSON_REJECT_DUPLICATES, &error);
  if (!header)
    return status_set(STATUS_DATA, "%s: its header is no JSON: %s at byte %d", file->name,
                      error.text, error.position);
  Status status = list_entries(file, header, start);
  json_decref(header);
  return status == STATUS_OK ? check_places(file, start) : status;
}

// --- values --------------------------------------------------------------------------------------

static float from_bits(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

static float from_half(uint16_t half) {
  uint32_t sign = (uint32_t)(half & 0x8000) << 16;
  uint32_t exponent = half >> 10 & 0x1f, fraction = half & 0x3ff;
  if (exponent == 0) { // zero and numbers too small for a leading one
    float value = (float)fraction * 0x1p-24F;
    return sign ? -value : value;
  }
  if (exponent == 0x1f) return from_bits(sign | 0x7f800000 | fraction << 13);
  return from_bits(sign | (exponent + 112) << 23 | fraction << 13);
}

void tensor_file__convert(float *values, const uint8_t *bytes, TensorKind kind, size_t count) {
  if (kind == TENSOR_F32) {
    if (count > 0) memcpy(values, bytes, count * sizeof *values);
    return;
  }
  for (size_t i = 0; i < count; i++) {
    uint16_t bits = (uint16_t)(bytes[2 * i] | bytes[2 * i + 1] << 8);
    values[i] = kind == TENSOR_F16 ? from_half(bits) : from_bits((uint32_t)bits << 16);
  }
}
