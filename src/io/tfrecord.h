// TFRecord files, written one record after the other: the container of TensorBoard's events.
//
// A record is its length (u64), the masked CRC-32C of these 8 bytes (u32), its bytes, and their
// masked CRC-32C, all little-endian. Each record goes out in one write, so a reader that follows
// the file, and one that comes after a crash, sees whole records and at most one torn one at the
// end.
#ifndef IMGCLS_IO_TFRECORD_H
#define IMGCLS_IO_TFRECORD_H

#include <stddef.h>

#include "base/status.h"
#include "io/file.h"

// Starts zeroed.
typedef struct TfRecordWriter {
  int fd;
  char *path;   // owned
  Bytes record; // of the append under way; kept for the next
} TfRecordWriter;

// Creates the file; one that exists is an error. STATUS_CANT_CREATE, STATUS_PERMISSION.
MUST_CHECK Status tfrecord_create(TfRecordWriter *writer, const char *path);

// Appends a record. STATUS_IO where it cannot be written whole.
MUST_CHECK Status tfrecord_append(TfRecordWriter *writer, const void *data, size_t size);

void tfrecord_close(TfRecordWriter *writer); // a zeroed writer is fine

#endif
