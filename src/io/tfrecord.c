// TFRecord files. See tfrecord.h.
#include "io/tfrecord.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include "base/memory.h"

enum { LENGTH_BYTES = 8, CRC_BYTES = 4 };

// CRC-32C (Castagnoli, polynomial 0x1EDC6F41 reflected), bit by bit: records are short and rare.
static uint32_t crc32c(const uint8_t *bytes, size_t size) {
  uint32_t crc = 0xffffffffu;
  for (size_t i = 0; i < size; i++) {
    crc ^= bytes[i];
    for (int bit = 0; bit < 8; bit++) crc = (crc >> 1) ^ (0x82f63b78u & (0u - (crc & 1u)));
  }
  return ~crc;
}

// TFRecord's mask, which keeps the checksum of data that holds checksums from degenerating.
static uint32_t masked_crc(const uint8_t *bytes, size_t size) {
  uint32_t crc = crc32c(bytes, size);
  return ((crc >> 15) | (crc << 17)) + 0xa282ead8u;
}

static void put_little_endian(uint8_t *out, uint64_t value, int byte_count) {
  for (int i = 0; i < byte_count; i++) out[i] = (uint8_t)(value >> (8 * i));
}

Status tfrecord_create(TfRecordWriter *writer, const char *path) {
  *writer = (TfRecordWriter){0};
  TRY(memory_copy_string(&writer->path, path));
  writer->fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0666);
  if (writer->fd >= 0) return STATUS_OK;
  Status status = status_set_errno(STATUS_CANT_CREATE, "%s: cannot be created", path);
  memory_free(writer->path);
  *writer = (TfRecordWriter){0};
  return status;
}

Status tfrecord_append(TfRecordWriter *writer, const void *data, size_t size) {
  size_t total = LENGTH_BYTES + CRC_BYTES + size + CRC_BYTES;
  Bytes *record = &writer->record;
  TRY(memory_reserve(&record->data, &record->capacity, total, 1));
  uint8_t *out = record->data;
  put_little_endian(out, size, LENGTH_BYTES);
  put_little_endian(out + LENGTH_BYTES, masked_crc(out, LENGTH_BYTES), CRC_BYTES);
  out += LENGTH_BYTES + CRC_BYTES;
  memcpy(out, data, size);
  put_little_endian(out + size, masked_crc(out, size), CRC_BYTES);
  ssize_t written;
  do written = write(writer->fd, record->data, total);
  while (written < 0 && errno == EINTR);
  if (written < 0) return status_set_errno(STATUS_IO, "%s: cannot be written", writer->path);
  if ((size_t)written < total)
    return status_set(STATUS_IO, "%s: cannot be written whole; is the disk full?", writer->path);
  return STATUS_OK;
}

void tfrecord_close(TfRecordWriter *writer) {
  if (!writer->path) return;
  (void)close(writer->fd);
  bytes_deinit(&writer->record);
  memory_free(writer->path);
  *writer = (TfRecordWriter){0};
}
