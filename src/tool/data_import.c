// `imgcls data import-idx`: IDX files (yann.lecun.com/exdb/mnist), plain or gzip'd, to a folder of
// PNG files per class.
//
// Everything is written beside the wanted folder and renamed when complete, so that a folder that
// is there is a whole one, and running again finds nothing to do.
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include "base/clock.h"
#include "base/memory.h"
#include "data/dataset.h"
#include "io/file.h"
#include "io/png_write.h"
#include "tool/data_tool.h"

enum { IDX_IMAGES = 0x00000803, IDX_LABELS = 0x00000801, MAX_SIDE = 4096, LABELS = 256 };

static const double PROGRESS_SECONDS = 0.5;

typedef struct Import {
  const DataOptions *options;
  Log *log;
  gzFile images;
  uint8_t *labels; // count; owned
  uint32_t count, height, width;
  int64_t class_size[LABELS], class_count;
  char **names;        // class_count; one owned block, or NULL: the labels as numbers
  char *partial;       // the folder while it is incomplete; owned
  int folders[LABELS]; // of the classes, open while writing: short paths are found sooner
  int64_t folders_open;
} Import;

// --- reading -------------------------------------------------------------------------------------

static Status idx_error(const char *path, gzFile file) {
  int code;
  const char *text = gzerror(file, &code);
  if (code == Z_ERRNO) return status_set_errno(STATUS_IO, "%s: reading failed", path);
  return status_set(STATUS_DATA, "%s: damaged or cut off%s%s; get the file again", path,
                    code == Z_OK ? "" : ": ", code == Z_OK ? "" : text);
}

static Status idx_read(gzFile file, const char *path, void *out, size_t size) {
  int got = gzread(file, out, (unsigned)size);
  return got >= 0 && (size_t)got == size ? STATUS_OK : idx_error(path, file);
}

static Status idx_read_number(gzFile file, const char *path, uint32_t *out) {
  uint8_t b[4];
  TRY(idx_read(file, path, b, sizeof b));
  *out = (uint32_t)b[0] << 24 | (uint32_t)b[1] << 16 | (uint32_t)b[2] << 8 | b[3];
  return STATUS_OK;
}

static Status idx_open(gzFile *out, const char *path, uint32_t magic, const char *what) {
  size_t size;
  int fd;
  TRY(file_open(&fd, &size, path));
  *out = gzdopen(fd, "rb");
  if (!*out) {
    (void)close(fd);
    return status_set(STATUS_OS, "out of memory for %s", path);
  }
  uint32_t found;
  TRY(idx_read_number(*out, path, &found));
  if (found != magic)
    return status_set(STATUS_DATA,
                      "%s: not an IDX file of %s (it begins with %08" PRIx32 ", not %08" PRIx32 ")",
                      path, what, found, magic);
  return STATUS_OK;
}

static Status idx_expect_end(gzFile file, const char *path) {
  uint8_t more;
  int got = gzread(file, &more, 1);
  if (got < 0) return idx_error(path, file);
  return got == 0 ? STATUS_OK
                  : status_set(STATUS_DATA, "%s: longer than its header says; get it again", path);
}

static Status read_labels(Import *im) {
  const char *path = im->options->operands[1];
  gzFile file = NULL;
  uint32_t count;
  Status status;
  GUARD(idx_open(&file, path, IDX_LABELS, "labels"));
  GUARD(idx_read_number(file, path, &count));
  if (count != im->count)
    GUARD(status_set(STATUS_DATA,
                     "%s has %" PRIu32 " labels for the %" PRIu32 " images of %s; give "
                     "files that belong together",
                     path, count, im->count, im->options->operands[0]));
  GUARD(memory_alloc(&im->labels, count, 1));
  GUARD(idx_read(file, path, im->labels, count));
  GUARD(idx_expect_end(file, path));
  for (uint32_t i = 0; i < count; i++) {
    im->class_size[im->labels[i]]++;
    if (im->labels[i] >= im->class_count) im->class_count = im->labels[i] + 1;
  }
out:
  if (file) (void)gzclose(file);
  return status;
}

static Status open_images(Import *im) {
  const char *path = im->options->operands[0];
  TRY(idx_open(&im->images, path, IDX_IMAGES, "images"));
  (void)gzbuffer(im->images, 1 << 17);
  TRY(idx_read_number(im->images, path, &im->count));
  TRY(idx_read_number(im->images, path, &im->height));
  TRY(idx_read_number(im->images, path, &im->width));
  if (im->count < 1 || im->count > INT32_MAX || im->height < 1 || im->height > MAX_SIDE ||
      im->width < 1 || im->width > MAX_SIDE)
    return status_set(
        STATUS_DATA, "%s: %" PRIu32 " images of %" PRIu32 " x %" PRIu32 ": the sides must be 1..%d",
        path, im->count, im->height, im->width, MAX_SIDE);
  return STATUS_OK;
}

// --- names ---------------------------------------------------------------------------------------

static Status check_name(const char *name) {
  bool good = *name && *name != '.' && !strchr(name, '/') && strlen(name) < 256;
  for (const unsigned char *c = (const unsigned char *)name; *c; c++) good &= *c >= 0x20;
  if (good) return STATUS_OK;
  return status_set(STATUS_USAGE,
                    "--class-names: '%s' cannot name a folder: not empty, no leading "
                    "dot, no '/'",
                    name);
}

static Status read_names(Import *im) {
  if (!im->options->class_names) return STATUS_OK;
  int64_t count;
  TRY(data_split_names(&im->names, &count, im->options->class_names));
  if (count > LABELS)
    return status_set(STATUS_USAGE, "--class-names has %" PRId64 " names; an IDX file has up to %d",
                      count, LABELS);
  for (int64_t i = 0; i < count; i++) {
    TRY(check_name(im->names[i]));
    for (int64_t k = 0; k < i; k++)
      if (strcmp(im->names[k], im->names[i]) == 0)
        return status_set(STATUS_USAGE, "--class-names has '%s' twice", im->names[i]);
  }
  if (count < im->class_count)
    return status_set(STATUS_USAGE,
                      "--class-names has %" PRId64 " names, the labels go up to %" PRId64, count,
                      im->class_count - 1);
  im->class_count = count;
  return STATUS_OK;
}

// The folder's name of a label; numbers have leading zeros, so that they sort by value.
static const char *class_folder(const Import *im, int64_t label, char text[24]) {
  if (im->names) return im->names[label];
  int digits = im->class_count > 100 ? 3 : im->class_count > 10 ? 2 : 1;
  (void)snprintf(text, 24, "%0*d", digits, (int)label);
  return text;
}

// --- writing -------------------------------------------------------------------------------------

static int remove_entry(const char *path, const struct stat *info, int type, struct FTW *walk) {
  (void)info, (void)type, (void)walk;
  return remove(path);
}

static Status make_folder(const char *path) {
  if (mkdir(path, 0777) == 0) return STATUS_OK;
  return status_set_errno(STATUS_CANT_CREATE, "%s: cannot be made", path);
}

static Status make_class_folder(Import *im, int64_t label) {
  char number[24], *path;
  TRY(memory_print_string(&path, "%s/%s", im->partial, class_folder(im, label, number)));
  Status status;
  GUARD(make_folder(path));
  int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) GUARD(status_set_errno(STATUS_CANT_CREATE, "%s: cannot be opened", path));
  im->folders[im->folders_open++] = fd;
out:
  memory_free(path);
  return status;
}

static Status make_folders(Import *im) {
  enum { DESCRIPTORS = 8 };
  struct stat info;
  if (lstat(im->partial, &info) == 0 &&
      nftw(im->partial, remove_entry, DESCRIPTORS, FTW_DEPTH | FTW_PHYS) != 0)
    return status_set_errno(STATUS_CANT_CREATE,
                            "%s: left over from an earlier run, cannot be removed", im->partial);
  TRY(make_folder(im->partial));
  for (int64_t label = 0; label < im->class_count; label++) TRY(make_class_folder(im, label));
  return STATUS_OK;
}

// Without the safe replacing of io/file.h: nobody reads this folder before it is renamed.
static Status write_image(const Import *im, uint32_t index, const uint8_t *pixels, Bytes *png) {
  TRY(png_write(png, pixels, im->height, im->width, 1));
  char name[24];
  (void)snprintf(name, sizeof name, "%06" PRIu32 ".png", index);
  int fd =
      openat(im->folders[im->labels[index]], name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  if (fd < 0)
    return status_set_errno(STATUS_CANT_CREATE, "%s: %s: cannot be made", im->partial, name);
  size_t done = 0;
  while (done < png->size) {
    ssize_t put = write(fd, png->data + done, png->size - done);
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) break;
    done += (size_t)put;
  }
  Status status = STATUS_OK;
  if (done < png->size)
    status = status_set_errno(STATUS_IO, "%s: %s: writing failed", im->partial, name);
  if (close(fd) != 0 && status == STATUS_OK)
    status = status_set_errno(STATUS_IO, "%s: %s: writing failed", im->partial, name);
  return status;
}

static Status write_images(Import *im) {
  const char *path = im->options->operands[0];
  size_t size = (size_t)im->height * im->width;
  uint8_t *pixels = NULL;
  Bytes png = {0};
  double told_s = clock_now_s();
  Status status;
  GUARD(memory_alloc(&pixels, size, 1));
  for (uint32_t i = 0; i < im->count; i++) {
    GUARD(idx_read(im->images, path, pixels, size));
    GUARD(write_image(im, i, pixels, &png));
    if (clock_now_s() - told_s < PROGRESS_SECONDS) continue;
    told_s = clock_now_s();
    log_progress(im->log, "wrote %" PRIu32 " of %" PRIu32 " images", i + 1, im->count);
  }
  GUARD(idx_expect_end(im->images, path));
out:
  bytes_deinit(&png);
  memory_free(pixels);
  return status;
}

// --- all of it -----------------------------------------------------------------------------------

// Whether the wanted folder holds just these images already. STATUS_CANT_CREATE when it holds
// something else.
static Status look_for_earlier(const Import *im, bool *done) {
  const char *dir = im->options->operands[2];
  struct stat info;
  *done = false;
  if (lstat(dir, &info) != 0 || rmdir(dir) == 0) return STATUS_OK; // an empty one is no hindrance
  Dataset *dataset;
  bool same =
      dataset_open(&dataset, &(DatasetDesc){.path = dir, .min_classes = 1}, NULL) == STATUS_OK;
  if (same) {
    same = dataset_sample_count(dataset) == im->count &&
           dataset_class_count(dataset) == im->class_count;
    for (int64_t i = 0; same && i < im->class_count; i++) {
      char number[24];
      int64_t at = 0;
      while (at < im->class_count &&
             strcmp(dataset_class_name(dataset, at), class_folder(im, i, number)) != 0)
        at++;
      same = at < im->class_count && dataset_class_size(dataset, at) == im->class_size[i];
    }
    dataset_close(dataset);
  }
  if (!same)
    return status_set(
        STATUS_CANT_CREATE,
        "%s: there already, with something else in it; remove it or name another folder", dir);
  *done = true;
  return STATUS_OK;
}

static Status import(Import *im) {
  const char *dir = im->options->operands[2];
  size_t length = strlen(dir);
  while (length > 1 && dir[length - 1] == '/') length--;
  TRY(memory_print_string(&im->partial, "%.*s.partial", (int)length, dir));
  TRY(open_images(im));
  TRY(read_labels(im));
  TRY(read_names(im));
  bool done;
  TRY(look_for_earlier(im, &done));
  if (done) {
    log_info(im->log, "%s: all %" PRIu32 " images in %" PRId64 " classes are there already", dir,
             im->count, im->class_count);
    return STATUS_OK;
  }
  double begin = clock_now_s();
  TRY(make_folders(im));
  TRY(write_images(im));
  if (rename(im->partial, dir) != 0)
    return status_set_errno(STATUS_CANT_CREATE, "%s: cannot be renamed to %s", im->partial, dir);
  log_info(im->log,
           "%s: %" PRIu32 " images of %" PRIu32 " x %" PRIu32 " in %" PRId64
           " classes, written in %.1f s",
           dir, im->count, im->height, im->width, im->class_count, clock_now_s() - begin);
  return STATUS_OK;
}

Status data_import_idx(const DataOptions *options, Log *log) {
  Import im = {.options = options, .log = log};
  Status status = import(&im);
  for (int64_t i = 0; i < im.folders_open; i++) (void)close(im.folders[i]);
  if (im.images) (void)gzclose(im.images);
  memory_free(im.partial);
  memory_free(im.names);
  memory_free(im.labels);
  return status;
}
