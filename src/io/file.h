// Whole files in, whole files out. Used wherever a file must never be seen half written.
//
// A file is written under the name `.NAME.tmp.PID` in its own folder and renamed when complete: a
// reader, and a program that starts after a crash, find the old file or the new one. A link stays
// and what it leads to is replaced; a folder, a device or a pipe is never replaced.
#ifndef IMGCLS_IO_FILE_H
#define IMGCLS_IO_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

// Bytes that grow as needed and are reused from call to call. Starts zeroed.
typedef struct Bytes {
  uint8_t *data; // owned by this struct
  size_t size;   // bytes in use
  size_t capacity;
} Bytes;

void bytes_deinit(Bytes *bytes);

// Reads a whole regular file into `*inout`, over what it held. STATUS_NO_INPUT or
// STATUS_PERMISSION where it cannot be opened, STATUS_DATA where it is longer than `max_bytes`, no
// regular file (never blocks on a pipe or a device) or was cut short meanwhile, STATUS_IO
// where reading fails.
MUST_CHECK Status file_read(Bytes *inout, const char *path, size_t max_bytes);

// The descriptor of a regular file, to be closed by the caller, and its size. Errors as file_read.
MUST_CHECK Status file_open(int *out, size_t *size, const char *path);

// The first `size` bytes of a regular file, or all of a shorter one; `*got` says how many. Errors
// as file_read.
MUST_CHECK Status file_read_head(uint8_t *out, size_t *got, size_t size, const char *path);

// Puts `size` bytes in place of what `path` held, or of nothing, and returns when they are safe on
// the disk. On failure the old file stands: STATUS_CANT_CREATE, STATUS_PERMISSION, or STATUS_IO
// (with the bytes needed and free, where the disk is full).
MUST_CHECK Status file_replace(const char *path, const void *data, size_t size);

// As file_replace, without waiting for the disk: no reader ever sees half a file, but a power cut
// may lose it. For many small files that can be made again.
MUST_CHECK Status file_replace_unsynced(const char *path, const void *data, size_t size);

// Removes the temporary files that killed processes left in `folder`. One that this machine's
// process table may still own stays. Nothing is said where the folder cannot be read.
void file_remove_leftovers(const char *folder);

// The same in pieces, for a file that does not fit in memory: open, append..., then commit or
// abort. One of these two ends the writer; after a failed append abort is due, after a failed
// commit nothing is. Starts zeroed.
typedef struct FileWriter {
  int fd;
  uint64_t offset;      // bytes appended so far
  uint64_t size_hint;   // what open was told
  char *path;           // the final name; owned
  char *temporary_path; // owned
} FileWriter;

// `size_hint` bytes are reserved on the disk at once, so that a full disk is found at the start.
// Use 0 where the size is not known.
MUST_CHECK Status file_writer_open(FileWriter *writer, const char *path, uint64_t size_hint);
MUST_CHECK Status file_writer_append(FileWriter *writer, const void *data, size_t size);
// Writes over bytes that were appended before, such as a header that holds counts.
MUST_CHECK Status file_writer_rewrite(FileWriter *writer, uint64_t offset, const void *data,
                                      size_t size);
MUST_CHECK Status file_writer_commit(FileWriter *writer, bool sync);
void file_writer_abort(FileWriter *writer); // removes the temporary file; a closed writer is fine

#endif
