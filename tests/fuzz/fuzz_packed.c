// Any bytes as a file of `imgcls data pack`, its checksums made right: a hostile file has right
// ones.
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/memory.h"
#include "data/dataset.h"
#include "data/packed_format.h"

enum { SAMPLES_MAX = 16 }; // looked at

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void put_checksum(uint8_t to[16], const uint8_t *bytes, size_t size) {
  XXH128_canonical_t sum;
  XXH128_canonicalFromHash(&sum, XXH3_128bits(bytes, size));
  memcpy(to, sum.digest, sizeof sum.digest);
}

// `file` has room for a header at least.
static void seal(uint8_t *file, size_t size) {
  PackedHeader header;
  memcpy(&header, file, sizeof header);
  header.file_size = size;
  uint64_t room = header.records_offset < size ? size - header.records_offset : 0;
  uint64_t count = header.sample_count;
  if (count > room / sizeof(PackedRecord)) count = 0;
  for (uint64_t i = 0; i < count && i < SAMPLES_MAX; i++) {
    PackedRecord record;
    uint8_t *place = file + header.records_offset + i * sizeof record;
    memcpy(&record, place, sizeof record);
    if (record.offset > size || record.size > size - record.offset) continue;
    put_checksum(record.checksum, file + record.offset, record.size);
    memcpy(place, &record, sizeof record);
  }
  uint64_t end = header.records_offset + count * sizeof(PackedRecord);
  if (end >= sizeof header && end <= size)
    put_checksum(header.index_checksum, file + sizeof header, end - sizeof header);
  memcpy(file, &header, sizeof header);
  put_checksum(header.header_checksum, file, offsetof(PackedHeader, header_checksum));
  memcpy(file, &header, sizeof header);
}

static void read_all(const char *path) {
  Dataset *dataset;
  if (dataset_open(&dataset, &(DatasetDesc){.path = path}, NULL) != STATUS_OK) return;
  SampleLimits limits = sample_limits_default();
  limits.image.max_pixels = 1 << 18;
  limits.image.jpeg_memory_bytes = 16 << 20;
  Bytes scratch = {0};
  int64_t count = dataset_sample_count(dataset);
  for (int64_t i = 0; i < count && i < SAMPLES_MAX; i++) {
    Image image;
    char *name;
    if (dataset_copy_name(&name, dataset, i) == STATUS_OK) memory_free(name);
    (void)strlen(dataset_class_name(dataset, dataset_label(dataset, i)));
    if (dataset_read_image(&image, dataset, i, &limits, &scratch) == STATUS_OK)
      image_deinit(&image);
  }
  bytes_deinit(&scratch);
  dataset_close(dataset);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  char path[64];
  uint8_t *file;
  if (size < sizeof(PackedHeader) || memory_alloc(&file, size, 1) != STATUS_OK) return 0;
  memcpy(file, data, size);
  seal(file, size);
  int fd = memfd_create("input", MFD_CLOEXEC);
  (void)snprintf(path, sizeof path, "/proc/%d/fd/%d", (int)getpid(), fd);
  if (write(fd, file, size) == (ssize_t)size) read_all(path);
  (void)close(fd);
  memory_free(file);
  return 0;
}
