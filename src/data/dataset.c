// Labelled images from a folder or a packed file. See dataset.h.
#include "data/dataset.h"

#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <xxhash.h>

#include "base/memory.h"
#include "base/text.h"
#include "data/dataset_internal.h"

SampleLimits sample_limits_default(void) {
  return (SampleLimits){.image = image_limits_default(), .max_file_bytes = (size_t)256 << 20};
}

// --- names ---------------------------------------------------------------------------------------

Status data__texts_add(Texts *texts, const char *text, uint64_t *offset) {
  size_t size = strlen(text) + 1;
  TRY(memory_reserve(&texts->data, &texts->capacity, texts->size + size, 1));
  memcpy(texts->data + texts->size, text, size);
  *offset = texts->size;
  texts->size += size;
  return STATUS_OK;
}

const char *data__printable(char *text, size_t capacity, const char *name) {
  size_t used = 0;
  for (; *name && used + 1 < capacity; name++)
    text[used++] = (unsigned char)*name < 0x20 || *name == 0x7f ? '?' : *name;
  text[used] = '\0';
  return text;
}

Status data__check_class_name(const char *name, const char *place) {
  char shown[NAME_MAX + 1];
  if (*name == '\0') return status_set(STATUS_CONFIG, "%s: a class has no name", place);
  if (!text_is_printable(name))
    return status_set(STATUS_CONFIG,
                      "%s: the class name '%s' has control characters or is not UTF-8; rename it",
                      place, data__printable(shown, sizeof shown, name));
  return STATUS_OK;
}

// --- opening and closing -------------------------------------------------------------------------

static Status check_classes(const Dataset *d, int64_t min_classes, Log *log) {
  char shown[NAME_MAX + 1];
  if (d->class_count < min_classes)
    return status_set(
        STATUS_CONFIG,
        "%s has only one class, '%s': a classifier needs at least %" PRId64 " class folders",
        d->source, data__printable(shown, sizeof shown, dataset_class_name(d, 0)), min_classes);
  if (d->sample_count == 0)
    return status_set(
        STATUS_NO_INPUT,
        "%s: no image in any class folder; a file must end in .bmp, .gif, .jpeg, .jpg "
        "or .png",
        d->source);
  for (int64_t i = 0; i < d->class_count; i++)
    if (d->classes[i].size == 0)
      log_warning(log, "%s: the class '%s' has no images; it keeps its label %" PRId64, d->source,
                  data__printable(shown, sizeof shown, dataset_class_name(d, i)), i);
  return STATUS_OK;
}

Status dataset_open(Dataset **out, const DatasetDesc *desc, Log *log) {
  *out = NULL;
  struct stat info;
  if (stat(desc->path, &info) != 0)
    return status_set_errno(STATUS_NO_INPUT, "no images in '%s'", desc->path);
  if (!S_ISDIR(info.st_mode) && !S_ISREG(info.st_mode))
    return status_set(STATUS_NO_INPUT,
                      "dataset '%s': neither a folder nor a packed file; give one of these",
                      desc->path);
  Dataset *dataset;
  TRY(memory_alloc(&dataset, 1, sizeof *dataset));
  Status status;
  GUARD(memory_copy_string(&dataset->source, desc->path));
  GUARD(S_ISDIR(info.st_mode) ? data__scan_folder(dataset, desc, log)
                              : data__open_packed(dataset, desc));
  GUARD(check_classes(dataset, desc->min_classes > 0 ? desc->min_classes : 2, log));
  *out = dataset;
  return STATUS_OK;
out:
  dataset_close(dataset);
  return status;
}

static Status list_files(Dataset *d, const char *const *paths, int64_t count) {
  TRY(memory_copy_string(&d->source, "the files"));
  TRY(memory_alloc(&d->classes, 1, sizeof *d->classes));
  TRY(memory_alloc(&d->folders, 1, sizeof *d->folders));
  TRY(memory_alloc(&d->names, (size_t)count, sizeof *d->names));
  TRY(memory_alloc(&d->folder_of, (size_t)count, sizeof *d->folder_of)); // zeros
  TRY(data__texts_add(&d->texts, "", &d->classes[0].name));
  TRY(data__texts_add(&d->texts, "", &d->folders[0].path));
  for (int64_t i = 0; i < count; i++) TRY(data__texts_add(&d->texts, paths[i], &d->names[i]));
  d->is_list = true;
  d->class_count = d->folder_count = 1;
  d->sample_count = d->classes[0].size = count;
  return STATUS_OK;
}

Status dataset_open_files(Dataset **out, const char *const *paths, int64_t count) {
  *out = NULL;
  Dataset *dataset;
  TRY(memory_alloc(&dataset, 1, sizeof *dataset));
  Status status = list_files(dataset, paths, count);
  if (status == STATUS_OK)
    *out = dataset;
  else
    dataset_close(dataset);
  return status;
}

static Status copy_packed_classes(Dataset *d) {
  d->class_count = packed_class_count(d->packed);
  d->sample_count = packed_sample_count(d->packed);
  TRY(memory_alloc(&d->classes, (size_t)d->class_count, sizeof *d->classes));
  for (int64_t i = 0; i < d->class_count; i++) {
    const char *name = packed_class_name(d->packed, i);
    if (data__check_class_name(name, d->source) != STATUS_OK)
      return status_set(STATUS_DATA, "%s: class %" PRId64 " has no proper name; pack it again",
                        d->source, i);
    TRY(data__texts_add(&d->texts, name, &d->classes[i].name));
  }
  for (int64_t i = 0; i < d->sample_count; i++) d->classes[packed_label(d->packed, i)].size++;
  return STATUS_OK;
}

Status data__open_packed(Dataset *dataset, const DatasetDesc *desc) {
  TRY(packed_open(&dataset->packed, dataset->source));
  TRY(copy_packed_classes(dataset));
  if (!desc->class_names) return STATUS_OK;
  bool same = desc->class_count == dataset->class_count;
  for (int64_t i = 0; same && i < desc->class_count; i++)
    same = strcmp(desc->class_names[i], dataset_class_name(dataset, i)) == 0;
  if (same) return STATUS_OK;
  return status_set(STATUS_CONFIG,
                    "%s: its %" PRId64 " classes are not the %" PRId64
                    " wanted ones in their order; pack a folder with these classes",
                    dataset->source, dataset->class_count, desc->class_count);
}

void dataset_close(Dataset *dataset) {
  if (!dataset) return;
  packed_close(dataset->packed);
  memory_free(dataset->folder_of);
  memory_free(dataset->names);
  memory_free(dataset->folders);
  memory_free(dataset->classes);
  memory_free(dataset->texts.data);
  memory_free(dataset->source);
  memory_free(dataset);
}

// --- the index as one block ----------------------------------------------------------------------

// The block: this head, then source and texts, then classes, folders, names, folder_of, each padded
// to 8 bytes. It travels between processes of one run only, so it has the machine's byte order.
typedef struct IndexHead {
  char magic[8];
  uint64_t source_size, texts_size;
  int64_t class_count, folder_count, sample_count;
  uint64_t fingerprint;
  uint64_t is_packed;
} IndexHead;

static const char INDEX_MAGIC[8] = "imgcidx1";

static size_t padded(size_t size) {
  return (size + 7) / 8 * 8;
}

static void put(Bytes *out, const void *data, size_t size) {
  memcpy(out->data + out->size, data, size);
  memset(out->data + out->size + size, 0, padded(size) - size);
  out->size += padded(size);
}

Status dataset_write_index(Bytes *out, const Dataset *d) {
  IndexHead head = {.source_size = strlen(d->source) + 1,
                    .fingerprint = dataset_fingerprint(d),
                    .is_packed = d->packed != NULL};
  memcpy(head.magic, INDEX_MAGIC, sizeof head.magic);
  if (!d->packed) {
    head.texts_size = d->texts.size;
    head.class_count = d->class_count;
    head.folder_count = d->folder_count;
    head.sample_count = d->sample_count;
  }
  size_t classes = (size_t)head.class_count, folders = (size_t)head.folder_count,
         samples = (size_t)head.sample_count;
  size_t size = sizeof head + padded(head.source_size) + padded(head.texts_size) +
                classes * sizeof *d->classes + folders * sizeof *d->folders +
                samples * sizeof *d->names + padded(samples * sizeof *d->folder_of);
  TRY(memory_reserve(&out->data, &out->capacity, out->size + size, 1));
  put(out, &head, sizeof head);
  put(out, d->source, head.source_size);
  if (d->packed) return STATUS_OK;
  put(out, d->texts.data, head.texts_size);
  put(out, d->classes, classes * sizeof *d->classes);
  put(out, d->folders, folders * sizeof *d->folders);
  put(out, d->names, samples * sizeof *d->names);
  put(out, d->folder_of, samples * sizeof *d->folder_of);
  return STATUS_OK;
}

typedef struct Reader {
  const uint8_t *at;
  size_t left;
} Reader;

static Status damaged_index(void) {
  return status_set(STATUS_DATA, "the list of images from the first rank arrived damaged; start "
                                 "again with the same program on all machines");
}

// Copies `count` elements into a new block.
static Status take(void *out, Reader *reader, uint64_t count, size_t size) {
  if (count > reader->left / size || padded(count * size) > reader->left) return damaged_index();
  void *block;
  TRY(memory_alloc(&block, count, size));
  memcpy(block, reader->at, count * size);
  memcpy(out, &block, sizeof block);
  reader->at += padded(count * size);
  reader->left -= padded(count * size);
  return STATUS_OK;
}

static bool index_is_sound(const Dataset *d) {
  if (d->texts.size == 0 || d->texts.data[d->texts.size - 1] != '\0') return false;
  for (int64_t i = 0; i < d->class_count; i++)
    if (d->classes[i].name >= d->texts.size) return false;
  for (int64_t i = 0; i < d->folder_count; i++)
    if (d->folders[i].path >= d->texts.size || d->folders[i].label < 0 ||
        d->folders[i].label >= d->class_count)
      return false;
  for (int64_t i = 0; i < d->sample_count; i++)
    if (d->names[i] >= d->texts.size || d->folder_of[i] >= (uint64_t)d->folder_count) return false;
  return true;
}

static Status take_folder_index(Dataset *d, Reader *reader, const IndexHead *head) {
  if (head->class_count < 1 || head->folder_count < 1 || head->sample_count < 1)
    return damaged_index();
  TRY(take(&d->texts.data, reader, head->texts_size, 1));
  d->texts.size = d->texts.capacity = head->texts_size;
  TRY(take(&d->classes, reader, (uint64_t)head->class_count, sizeof *d->classes));
  d->class_count = head->class_count;
  TRY(take(&d->folders, reader, (uint64_t)head->folder_count, sizeof *d->folders));
  d->folder_count = head->folder_count;
  TRY(take(&d->names, reader, (uint64_t)head->sample_count, sizeof *d->names));
  TRY(take(&d->folder_of, reader, (uint64_t)head->sample_count, sizeof *d->folder_of));
  d->sample_count = head->sample_count;
  return index_is_sound(d) ? STATUS_OK : damaged_index();
}

static Status open_packed_index(Dataset *d, const IndexHead *head) {
  TRY(packed_open(&d->packed, d->source));
  TRY(copy_packed_classes(d));
  if (dataset_fingerprint(d) == head->fingerprint) return STATUS_OK;
  return status_set(STATUS_DATA,
                    "%s: not the file that the first rank sees under this name; give all machines "
                    "the same one",
                    d->source);
}

Status dataset_read_index(Dataset **out, const uint8_t *bytes, size_t size_bytes) {
  *out = NULL;
  IndexHead head;
  if (size_bytes < sizeof head) return damaged_index();
  memcpy(&head, bytes, sizeof head);
  if (memcmp(head.magic, INDEX_MAGIC, sizeof head.magic) != 0 || head.source_size < 1)
    return damaged_index();
  Reader reader = {.at = bytes + sizeof head, .left = size_bytes - sizeof head};
  Dataset *d;
  TRY(memory_alloc(&d, 1, sizeof *d));
  Status status;
  GUARD(take(&d->source, &reader, head.source_size, 1));
  if (d->source[head.source_size - 1] != '\0') GUARD(damaged_index());
  GUARD(head.is_packed ? open_packed_index(d, &head) : take_folder_index(d, &reader, &head));
  *out = d;
  return STATUS_OK;
out:
  dataset_close(d);
  return status;
}

// --- what is in it -------------------------------------------------------------------------------

int64_t dataset_class_count(const Dataset *dataset) {
  return dataset->class_count;
}
int64_t dataset_sample_count(const Dataset *dataset) {
  return dataset->sample_count;
}
const char *dataset_source(const Dataset *dataset) {
  return dataset->source;
}
bool dataset_is_packed(const Dataset *dataset) {
  return dataset->packed != NULL;
}

const char *dataset_class_name(const Dataset *dataset, int64_t label) {
  return dataset->texts.data + dataset->classes[label].name;
}

int64_t dataset_class_size(const Dataset *dataset, int64_t label) {
  return dataset->classes[label].size;
}

int32_t dataset_label(const Dataset *dataset, int64_t sample) {
  if (dataset->packed) return packed_label(dataset->packed, sample);
  return dataset->folders[dataset->folder_of[sample]].label;
}

static const char *folder_path(const Dataset *d, int64_t sample) {
  return d->texts.data + d->folders[d->folder_of[sample]].path;
}

static const char *file_name(const Dataset *d, int64_t sample) {
  return d->texts.data + d->names[sample];
}

Status dataset_copy_name(char **out, const Dataset *d, int64_t sample) {
  if (d->packed) return memory_copy_string(out, packed_name(d->packed, sample));
  if (d->is_list) return memory_copy_string(out, file_name(d, sample));
  return memory_print_string(out, "%s/%s", folder_path(d, sample), file_name(d, sample));
}

static uint64_t chain_hash(uint64_t hash, const char *text) {
  return XXH3_64bits_withSeed(text, strlen(text), hash);
}

uint64_t dataset_fingerprint(const Dataset *d) {
  if (d->packed) return packed_fingerprint(d->packed);
  uint64_t hash = 0;
  for (int64_t i = 0; i < d->class_count; i++) hash = chain_hash(hash, dataset_class_name(d, i));
  for (int64_t i = 0; i < d->sample_count; i++) {
    hash = chain_hash(hash + (uint64_t)dataset_label(d, i), folder_path(d, i));
    hash = chain_hash(hash, file_name(d, i));
  }
  return hash;
}

// --- pixels --------------------------------------------------------------------------------------

// The sample's path, for opening it (folders) and for messages.
static Status sample_path(char path[PATH_MAX], const Dataset *d, int64_t sample) {
  int length;
  if (d->packed)
    length = snprintf(path, PATH_MAX, "%s: %s", d->source, packed_name(d->packed, sample));
  else if (d->is_list)
    length = snprintf(path, PATH_MAX, "%s", file_name(d, sample));
  else
    length = snprintf(path, PATH_MAX, "%s/%s/%s", d->source, folder_path(d, sample),
                      file_name(d, sample));
  if (length >= 0 && (length < PATH_MAX || d->packed)) return STATUS_OK;
  return status_set(STATUS_NO_INPUT, "%s/...: the path of %s is longer than %d bytes", d->source,
                    file_name(d, sample), PATH_MAX);
}

// The sample as an image. Pixels that lie in a packed file are lent: `*lent` is true then.
static Status open_image(Image *out, bool *lent, const Dataset *d, int64_t sample,
                         const SampleLimits *limits, Bytes *scratch) {
  *lent = false;
  *out = (Image){0};
  char path[PATH_MAX];
  TRY(sample_path(path, d, sample));
  if (!d->packed) {
    TRY(file_read(scratch, path, limits->max_file_bytes));
    return image_decode(out, scratch->data, scratch->size, &limits->image, path);
  }
  PackedImage packed;
  TRY(packed_image(&packed, d->packed, sample));
  *lent = packed.is_pixels;
  if (!packed.is_pixels) return image_decode(out, packed.data, packed.size, &limits->image, path);
  // The cast drops const: borrowed pixels are read only, and image_deinit is never called.
  *out = (Image){packed.height, packed.width, (uint8_t *)(uintptr_t)packed.data};
  return STATUS_OK;
}

Status dataset_read_encoded(Bytes *out, const Dataset *dataset, int64_t sample,
                            const SampleLimits *limits) {
  char path[PATH_MAX];
  TRY(sample_path(path, dataset, sample));
  if (!dataset->packed) {
    TRY(file_read(out, path, limits->max_file_bytes));
  } else {
    PackedImage packed;
    TRY(packed_image(&packed, dataset->packed, sample));
    if (packed.is_pixels)
      return status_set(STATUS_USAGE, "%s has pixels, no image files; pack it without --encoded",
                        dataset->source);
    TRY(memory_reserve(&out->data, &out->capacity, packed.size, 1));
    memcpy(out->data, packed.data, packed.size);
    out->size = packed.size;
  }
  ImageSize size;
  return image_read_size(&size, out->data, out->size, &limits->image, path);
}

Status dataset_read_pixels(uint8_t *out, const Dataset *dataset, int64_t sample,
                           const SampleTarget *target, const SampleLimits *limits, Bytes *scratch) {
  Image image;
  bool lent;
  TRY(open_image(&image, &lent, dataset, sample, limits, scratch));
  Status status = STATUS_OK;
  if (image.height == target->height && image.width == target->width)
    memcpy(out, image.pixels, (size_t)image.height * (size_t)image.width * 3);
  else
    status = image_resize(out, target->height, target->width, &image, target->resize);
  if (!lent) image_deinit(&image);
  return status;
}

Status dataset_read_size(ImageSize *out, const Dataset *dataset, int64_t sample,
                         const SampleLimits *limits, Bytes *scratch) {
  char path[PATH_MAX];
  PackedImage packed;
  TRY(sample_path(path, dataset, sample));
  if (!dataset->packed) {
    TRY(file_read(scratch, path, limits->max_file_bytes));
    return image_read_size(out, scratch->data, scratch->size, &limits->image, path);
  }
  TRY(packed_image(&packed, dataset->packed, sample));
  if (!packed.is_pixels)
    return image_read_size(out, packed.data, packed.size, &limits->image, path);
  *out = (ImageSize){.height = packed.height, .width = packed.width};
  return STATUS_OK;
}

Status dataset_read_image(Image *out, const Dataset *dataset, int64_t sample,
                          const SampleLimits *limits, Bytes *scratch) {
  bool lent;
  TRY(open_image(out, &lent, dataset, sample, limits, scratch));
  if (!lent) return STATUS_OK;
  size_t size = (size_t)out->height * (size_t)out->width * 3;
  const uint8_t *borrowed = out->pixels;
  Status status = memory_alloc(&out->pixels, size, 1);
  if (status == STATUS_OK)
    memcpy(out->pixels, borrowed, size);
  else
    *out = (Image){0};
  return status;
}
