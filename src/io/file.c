// Safe reading and replacing of files. See file.h.
#include "io/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/hold.h"
#include "base/memory.h"

void bytes_deinit(Bytes *bytes) {
  memory_free(bytes->data);
  *bytes = (Bytes){0};
}

// --- reading -------------------------------------------------------------------------------------

Status file_open(int *out, size_t *size, const char *path) {
  struct stat info;
  int fd;
  do // without O_NONBLOCK, opening a pipe that nobody writes to would wait for ever
    fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
  while (fd < 0 && errno == EINTR);
  if (fd < 0) return status_set_errno(STATUS_NO_INPUT, "%s: cannot be opened", path);
  Status status = STATUS_OK;
  if (fstat(fd, &info) != 0)
    status = status_set_errno(STATUS_IO, "%s", path);
  else if (S_ISDIR(info.st_mode))
    status = status_set(STATUS_DATA, "%s: is a folder; name a file in it", path);
  else if (!S_ISREG(info.st_mode))
    status = status_set(STATUS_DATA, "%s: not a regular file; use another", path);
  if (status != STATUS_OK) {
    (void)close(fd);
    return status;
  }
  *out = fd;
  *size = (size_t)info.st_size;
  return STATUS_OK;
}

// `size` bytes, or an error.
static Status read_bytes(uint8_t *out, int fd, size_t size, const char *path) {
  for (size_t done = 0; done < size;) {
    ssize_t got = read(fd, out + done, size - done);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return status_set_errno(STATUS_IO, "%s: reading failed", path);
    if (got == 0)
      return status_set(STATUS_DATA, "%s: became shorter while it was read (%zu of %zu bytes)",
                        path, done, size);
    done += (size_t)got;
  }
  return STATUS_OK;
}

static Status read_open(Bytes *inout, int fd, size_t size, const char *path, size_t max_bytes) {
  if (size > max_bytes)
    return status_set(STATUS_DATA,
                      "%s: %zu bytes, more than the limit of %zu; remove the file or "
                      "raise the limit",
                      path, size, max_bytes);
  TRY(memory_reserve(&inout->data, &inout->capacity, size, 1));
  TRY(read_bytes(inout->data, fd, size, path));
  inout->size = size;
  return STATUS_OK;
}

Status file_read(Bytes *inout, const char *path, size_t max_bytes) {
  int fd;
  size_t size;
  inout->size = 0;
  TRY(file_open(&fd, &size, path));
  Status status = read_open(inout, fd, size, path, max_bytes);
  (void)close(fd); // nothing was written
  return status;
}

Status file_read_head(uint8_t *out, size_t *got, size_t size, const char *path) {
  int fd;
  size_t file_size;
  TRY(file_open(&fd, &file_size, path));
  *got = size < file_size ? size : file_size;
  Status status = read_bytes(out, fd, *got, path);
  (void)close(fd);
  return status;
}

// --- writing -------------------------------------------------------------------------------------

// The error of a failed write to the temporary file, from errno.
static Status write_error(const FileWriter *writer, const char *doing, uint64_t needed) {
  int error = errno;
  struct statvfs disk;
  if ((error == ENOSPC || error == EDQUOT) && fstatvfs(writer->fd, &disk) == 0)
    return status_set(STATUS_IO,
                      "%s: %s: %s: %llu bytes are needed, %llu are free; free some space",
                      writer->path, doing, strerror(error), (unsigned long long)needed,
                      (unsigned long long)disk.f_bavail * disk.f_frsize);
  if (error == EFBIG)
    return status_set(STATUS_IO,
                      "%s: %s: %s; raise the limit on file sizes (ulimit -f), or choose a file "
                      "system that holds such files",
                      writer->path, doing, strerror(error));
  errno = error;
  return status_set_errno(STATUS_IO, "%s: %s", writer->path, doing);
}

static void writer_clear(FileWriter *writer) {
  memory_free(writer->path);
  memory_free(writer->temporary_path);
  *writer = (FileWriter){.fd = -1};
}

// Where a file of this name is written: a link stays, and what it leads to is replaced. Anything
// but a file, such as a device or a pipe, must not turn into one.
static Status find_target(char **target, const char *path) {
  struct stat info;
  bool exists = lstat(path, &info) == 0, is_link = exists && S_ISLNK(info.st_mode);
  if (is_link && stat(path, &info) != 0)
    return status_set(STATUS_CANT_CREATE, "%s: a link that leads nowhere; remove it", path);
  if (exists && !S_ISREG(info.st_mode))
    return status_set(STATUS_CANT_CREATE, "%s: exists and is %s, not a file; choose another name",
                      path, S_ISDIR(info.st_mode) ? "a folder" : "a device, a pipe or a socket");
  if (!is_link) return memory_copy_string(target, path);
  char *resolved = realpath(path, NULL);
  if (!resolved) return status_set_errno(STATUS_CANT_CREATE, "%s: cannot be followed", path);
  Status status = memory_copy_string(target, resolved);
  free(resolved);
  return status;
}

static const char *name_of(const char *path) {
  const char *slash = strrchr(path, '/');
  return slash ? slash + 1 : path;
}

static Status name_files(FileWriter *writer, const char *path) {
  if (*name_of(path) == '\0')
    return status_set(STATUS_CANT_CREATE, "'%s': not the name of a file", path);
  TRY(find_target(&writer->path, path));
  const char *name = name_of(writer->path);
  return memory_print_string(&writer->temporary_path, "%.*s.%s.tmp.%ld", (int)(name - writer->path),
                             writer->path, name, (long)getpid());
}

static Status reserve(const FileWriter *writer, uint64_t size) {
  if (size == 0) return STATUS_OK;
  int failed;
  do // not posix_fallocate, which writes every block where the file system cannot reserve
    failed = fallocate(writer->fd, 0, 0, (off_t)size);
  while (failed && errno == EINTR);
  if (!failed || errno == EOPNOTSUPP || errno == ENOSYS) return STATUS_OK;
  return write_error(writer, "reserving space failed", size);
}

Status file_writer_open(FileWriter *writer, const char *path, uint64_t size_hint) {
  *writer = (FileWriter){.fd = -1, .size_hint = size_hint};
  Status status;
  GUARD(name_files(writer, path));
  (void)unlink(writer->temporary_path); // of a crashed process that had our number
  writer->fd = open(writer->temporary_path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  if (writer->fd < 0) {
    int error = errno;
    status = error == ENOENT
                 ? status_set(STATUS_CANT_CREATE, "%s: its folder does not exist; create it", path)
                 : status_set_errno(STATUS_CANT_CREATE, "%s: cannot be created", path);
    goto out;
  }
  status = reserve(writer, size_hint);
out:
  if (status != STATUS_OK) file_writer_abort(writer);
  return status;
}

static Status write_at(const FileWriter *writer, uint64_t offset, const void *data, size_t size) {
  const char *from = data;
  size_t done = 0;
  while (done < size) {
    ssize_t wrote = pwrite(writer->fd, from + done, size - done, (off_t)(offset + done));
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote < 0) return write_error(writer, "writing failed", size - done);
    done += (size_t)wrote;
  }
  return STATUS_OK;
}

Status file_writer_append(FileWriter *writer, const void *data, size_t size) {
  TRY(write_at(writer, writer->offset, data, size));
  writer->offset += size;
  return STATUS_OK;
}

Status file_writer_rewrite(FileWriter *writer, uint64_t offset, const void *data, size_t size) {
  if (offset + size > writer->offset)
    return status_set(STATUS_INTERNAL, "%s: rewriting past the end", writer->path);
  return write_at(writer, offset, data, size);
}

// A rename is safe only when the folder itself is on the disk.
static Status sync_folder(const char *path) {
  const char *slash = strrchr(path, '/');
  char *folder = NULL;
  if (!slash)
    TRY(memory_copy_string(&folder, "."));
  else
    TRY(memory_print_string(&folder, "%.*s", (int)(slash - path) + 1, path));
  Status status = STATUS_OK;
  int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) {
    // A folder that one may write but not list cannot be synced.
    if (errno != EACCES) status = status_set_errno(STATUS_IO, "%s: cannot be opened", folder);
  } else if (fsync(fd) != 0 && errno != EINVAL && errno != EROFS) { // EINVAL: no such thing here
    status = status_set_errno(STATUS_IO, "%s: flushing the folder failed", folder);
  }
  if (fd >= 0) (void)close(fd);
  memory_free(folder);
  return status;
}

Status file_writer_commit(FileWriter *writer, bool sync) {
  Status status = STATUS_OK;
  if (sync) hold_for_test("before_fsync", writer->path);
  if (writer->size_hint > writer->offset && ftruncate(writer->fd, (off_t)writer->offset) != 0)
    GUARD(write_error(writer, "cutting to size failed", writer->offset));
  if (sync && fsync(writer->fd) != 0)
    GUARD(write_error(writer, "flushing to the disk failed", writer->offset));
  int fd = writer->fd;
  writer->fd = -1; // closed even where close reports an error
  if (close(fd) != 0) GUARD(status_set_errno(STATUS_IO, "%s: closing failed", writer->path));
  if (sync) hold_for_test("before_rename", writer->path);
  if (rename(writer->temporary_path, writer->path) != 0)
    GUARD(status_set_errno(STATUS_CANT_CREATE, "%s: renaming failed", writer->path));
  if (sync) hold_for_test("before_dirsync", writer->path);
  if (sync) status = sync_folder(writer->path);
  writer_clear(writer);
  return status;
out:
  file_writer_abort(writer);
  return status;
}

void file_writer_abort(FileWriter *writer) {
  if (!writer->path) return;
  if (writer->fd >= 0) (void)close(writer->fd);
  if (writer->temporary_path) (void)unlink(writer->temporary_path);
  writer_clear(writer);
}

static Status replace(const char *path, const void *data, size_t size, bool sync) {
  FileWriter writer = {0};
  size_t half = size / 2;
  TRY(file_writer_open(&writer, path, sync ? size : 0));
  Status status = file_writer_append(&writer, data, half);
  if (sync) hold_for_test("mid_write", path);
  if (status == STATUS_OK)
    status = file_writer_append(&writer, (const uint8_t *)data + half, size - half);
  if (status == STATUS_OK) return file_writer_commit(&writer, sync);
  file_writer_abort(&writer);
  return status;
}

Status file_replace(const char *path, const void *data, size_t size) {
  return replace(path, data, size, true);
}

Status file_replace_unsynced(const char *path, const void *data, size_t size) {
  return replace(path, data, size, false);
}

// --- what a crash leaves -------------------------------------------------------------------------

// Whether `name` is the temporary file `.NAME.tmp.PID` of a process that is gone.
static bool is_leftover(const char *name) {
  static const char mark[] = ".tmp.";
  const char *found = name[0] == '.' ? strstr(name + 1, mark) : NULL;
  if (!found) return false;
  char *end;
  long pid = strtol(found + strlen(mark), &end, 10);
  return pid > 0 && *end == '\0' && kill((pid_t)pid, 0) != 0 && errno == ESRCH;
}

void file_remove_leftovers(const char *folder) {
  DIR *stream = opendir(folder);
  if (!stream) return;
  for (struct dirent *entry; (entry = readdir(stream));)
    if (is_leftover(entry->d_name)) (void)unlinkat(dirfd(stream), entry->d_name, 0);
  (void)closedir(stream);
}
