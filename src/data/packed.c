// Reading packed files. See packed.h, packed_format.h and docs/data-format.md.
#include "data/packed.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/memory.h"
#include "data/packed_format.h"

static const uint64_t MAX_SIDE = 65535, MAX_CLASSES = INT32_MAX;

struct Packed {
  char *path; // owned
  int fd;
  const uint8_t *map;
  size_t map_size;
  PackedHeader header; // a copy
  const uint64_t *classes;
  const char *text;
  const PackedRecord *records;
};

static bool checksum_is(const uint8_t wanted[16], const void *data, size_t size) {
  XXH128_canonical_t canonical;
  XXH128_canonicalFromHash(&canonical, XXH3_128bits(data, size));
  return memcmp(canonical.digest, wanted, sizeof canonical.digest) == 0;
}

static Status damaged(const Packed *p, const char *what) {
  return status_set(STATUS_DATA, "%s: damaged packed file: %s; pack it again", p->path, what);
}

// --- opening -------------------------------------------------------------------------------------

static Status map_file(Packed *p) {
  p->fd = open(p->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  if (p->fd < 0) return status_set_errno(STATUS_NO_INPUT, "%s: cannot be opened", p->path);
  struct stat info;
  if (fstat(p->fd, &info) != 0) return status_set_errno(STATUS_IO, "%s", p->path);
  if (!S_ISREG(info.st_mode) || (uint64_t)info.st_size < sizeof p->header)
    return status_set(
        STATUS_DATA,
        "%s: not a file of `imgcls data pack`; give such a file, or a folder with one "
        "folder per class",
        p->path);
  void *map = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_SHARED, p->fd, 0);
  if (map == MAP_FAILED) return status_set_errno(STATUS_OS, "%s: cannot be mapped", p->path);
  p->map = map;
  p->map_size = (size_t)info.st_size;
  memcpy(&p->header, p->map, sizeof p->header);
  return STATUS_OK;
}

static Status check_header(const Packed *p) {
  const PackedHeader *h = &p->header;
  if (memcmp(h->magic, PACKED_MAGIC, sizeof h->magic) != 0)
    return status_set(
        STATUS_DATA,
        "%s: not a file of `imgcls data pack`; give such a file, or a folder with one "
        "folder per class",
        p->path);
  if (h->byte_order != PACKED_BYTE_ORDER)
    return status_set(STATUS_DATA, "%s: packed for the other byte order; pack it on such a machine",
                      p->path);
  if (h->version != PACKED_VERSION)
    return status_set(STATUS_DATA,
                      "%s: version %" PRIu32
                      " of the packed format, this program reads %d; pack it "
                      "again",
                      p->path, h->version, PACKED_VERSION);
  if (!checksum_is(h->header_checksum, h, offsetof(PackedHeader, header_checksum)))
    return damaged(p, "the header's checksum is wrong");
  if (h->file_size != p->map_size)
    return status_set(STATUS_DATA, "%s: %zu bytes instead of %" PRIu64 ": cut off; copy it again",
                      p->path, p->map_size, h->file_size);
  return STATUS_OK;
}

// Whether count elements of `size` bytes from `offset` on lie before `end`, aligned to 8.
static bool lies_before(uint64_t offset, uint64_t count, uint64_t size, uint64_t end) {
  return offset % 8 == 0 && offset >= sizeof(PackedHeader) && offset <= end &&
         count <= (end - offset) / size;
}

static Status find_index(Packed *p) {
  const PackedHeader *h = &p->header;
  if (h->class_count < 1 || h->class_count > MAX_CLASSES || h->sample_count < 1 ||
      h->kind > PACKED_KIND_PIXELS || h->text_size < 1 || h->data_offset > h->file_size ||
      !lies_before(h->classes_offset, h->class_count, sizeof *p->classes, h->data_offset) ||
      !lies_before(h->text_offset, h->text_size, 1, h->data_offset) ||
      !lies_before(h->records_offset, h->sample_count, sizeof *p->records, h->data_offset))
    return damaged(p, "the header leads outside of the file");
  uint64_t end = h->records_offset + h->sample_count * sizeof *p->records;
  if (h->classes_offset + h->class_count * sizeof *p->classes > end ||
      h->text_offset + h->text_size > end)
    return damaged(p, "the index is not in order");
  if (!checksum_is(h->index_checksum, p->map + sizeof *h, (size_t)end - sizeof *h))
    return damaged(p, "the index's checksum is wrong");
  p->classes = (const uint64_t *)(const void *)(p->map + h->classes_offset);
  p->text = (const char *)p->map + h->text_offset;
  p->records = (const PackedRecord *)(const void *)(p->map + h->records_offset);
  return STATUS_OK;
}

static bool record_is_sound(const PackedHeader *h, const PackedRecord *r) {
  if (r->name >= h->text_size || r->label >= h->class_count) return false;
  if (r->offset < h->data_offset || r->offset > h->file_size || r->size > h->file_size - r->offset)
    return false;
  if (h->kind == PACKED_KIND_ENCODED) return true;
  return r->height >= 1 && r->height <= MAX_SIDE && r->width >= 1 && r->width <= MAX_SIDE &&
         r->size == (uint64_t)r->height * r->width * 3;
}

// A checksum only shows that nothing changed by accident; a file may be made to be wrong.
static Status check_index(const Packed *p) {
  const PackedHeader *h = &p->header;
  if (p->text[h->text_size - 1] != '\0') return damaged(p, "a name has no end");
  for (uint64_t i = 0; i < h->class_count; i++)
    if (p->classes[i] >= h->text_size) return damaged(p, "a class name lies outside of the file");
  for (uint64_t i = 0; i < h->sample_count; i++)
    if (!record_is_sound(h, &p->records[i]))
      return damaged(p, "an image lies outside of the file or has an impossible size or label");
  return STATUS_OK;
}

Status packed_open(Packed **out, const char *path) {
  *out = NULL;
  Packed *packed;
  TRY(memory_alloc(&packed, 1, sizeof *packed));
  packed->fd = -1;
  Status status;
  GUARD(memory_copy_string(&packed->path, path));
  GUARD(map_file(packed));
  GUARD(check_header(packed));
  GUARD(find_index(packed));
  GUARD(check_index(packed));
  *out = packed;
  return STATUS_OK;
out:
  packed_close(packed);
  return status;
}

void packed_close(Packed *packed) {
  if (!packed) return;
  if (packed->map) (void)munmap((void *)(uintptr_t)packed->map, packed->map_size);
  if (packed->fd >= 0) (void)close(packed->fd);
  memory_free(packed->path);
  memory_free(packed);
}

// --- what is in it -------------------------------------------------------------------------------

int64_t packed_class_count(const Packed *packed) {
  return (int64_t)packed->header.class_count;
}
int64_t packed_sample_count(const Packed *packed) {
  return (int64_t)packed->header.sample_count;
}

const char *packed_class_name(const Packed *packed, int64_t label) {
  return packed->text + packed->classes[label];
}

int32_t packed_label(const Packed *packed, int64_t sample) {
  return (int32_t)packed->records[sample].label;
}

const char *packed_name(const Packed *packed, int64_t sample) {
  return packed->text + packed->records[sample].name;
}

uint64_t packed_fingerprint(const Packed *packed) {
  uint64_t fingerprint; // the index has the checksum of each image
  memcpy(&fingerprint, packed->header.header_checksum, sizeof fingerprint);
  return fingerprint;
}

Status packed_image(PackedImage *out, const Packed *p, int64_t sample) {
  const PackedRecord *r = &p->records[sample];
  struct stat info; // a page beyond the end of a file that was cut off meanwhile would kill us
  if (fstat(p->fd, &info) != 0 || (uint64_t)info.st_size < p->header.file_size)
    return status_set(STATUS_DATA, "%s: became shorter while it was in use; copy it again",
                      p->path);
  const uint8_t *data = p->map + r->offset;
  if (!checksum_is(r->checksum, data, (size_t)r->size))
    return status_set(STATUS_DATA, "%s: the checksum of image %" PRId64 " (%.255s) is wrong",
                      p->path, sample, packed_name(p, sample));
  *out = (PackedImage){.data = data,
                       .size = (size_t)r->size,
                       .is_pixels = p->header.kind == PACKED_KIND_PIXELS,
                       .height = r->height,
                       .width = r->width};
  return STATUS_OK;
}
