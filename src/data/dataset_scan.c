// Lists a folder with one folder per class, in the order of Keras' index_directory: classes sorted
// (or as given), below each its folders sorted by their whole path, in each its files sorted.
// Called by dataset_open on one rank.
//
// A file's kind comes with its name from readdir: no stat per file, which costs ten times the time
// on a cold disk. A folder is held open only while it is listed.
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/memory.h"
#include "data/dataset_internal.h"

enum { NO_PARENT = -1 };

// A folder that was found below the class folder that is being scanned.
typedef struct Found {
  uint64_t path;  // in texts
  int64_t parent; // in Scan.found, or NO_PARENT
  dev_t device;   // these two: to see a link that leads back up
  ino_t inode;
  int64_t first_file, file_count; // in Scan.files
} Found;

typedef struct Scan {
  Dataset *dataset;
  Log *log;
  bool follow;
  Found *found; // of one class
  size_t found_count, found_capacity;
  uint64_t *files; // names in texts, of one class
  size_t file_count, file_capacity;
  uint64_t *classes; // names in texts, of all class folders
  size_t class_count, class_capacity;
  size_t name_capacity, folder_of_capacity, folder_capacity; // of the dataset's arrays
  int64_t links, dangling, loops, specials, outside;         // left out, for one warning each
} Scan;

typedef enum EntryKind { ENTRY_FILE, ENTRY_FOLDER, ENTRY_OTHER } EntryKind;

static EntryKind kind_of_mode(mode_t mode) {
  return S_ISREG(mode) ? ENTRY_FILE : S_ISDIR(mode) ? ENTRY_FOLDER : ENTRY_OTHER;
}

// What an entry is; links are followed where allowed, and counted where not.
static EntryKind entry_kind(Scan *scan, DIR *dir, const struct dirent *entry) {
  struct stat info;
  unsigned char type = entry->d_type;
  if (type == DT_REG) return ENTRY_FILE;
  if (type == DT_DIR) return ENTRY_FOLDER;
  if (type == DT_UNKNOWN) { // some file systems do not say
    if (fstatat(dirfd(dir), entry->d_name, &info, AT_SYMLINK_NOFOLLOW) != 0) return ENTRY_OTHER;
    if (!S_ISLNK(info.st_mode)) return kind_of_mode(info.st_mode);
  } else if (type != DT_LNK) {
    scan->specials += image_has_name(entry->d_name);
    return ENTRY_OTHER;
  }
  if (!scan->follow) {
    scan->links++;
    return ENTRY_OTHER;
  }
  if (fstatat(dirfd(dir), entry->d_name, &info, 0) != 0) {
    scan->dangling++;
    return ENTRY_OTHER;
  }
  return kind_of_mode(info.st_mode);
}

static const char *text(const Scan *scan, uint64_t offset) {
  return scan->dataset->texts.data + offset;
}

static int compare_texts(const void *a, const void *b, void *texts) {
  return strcmp((const char *)texts + *(const uint64_t *)a,
                (const char *)texts + *(const uint64_t *)b);
}

static int compare_found(const void *a, const void *b, void *texts) {
  return strcmp((const char *)texts + ((const Found *)a)->path,
                (const char *)texts + ((const Found *)b)->path);
}

static Status add_text(Scan *scan, const char *name, uint64_t **list, size_t *count,
                       size_t *capacity) {
  TRY(memory_reserve(list, capacity, *count + 1, sizeof **list));
  TRY(data__texts_add(&scan->dataset->texts, name, &(*list)[*count]));
  (*count)++;
  return STATUS_OK;
}

// Opens a folder below the dataset's; "" is the dataset's own.
static Status open_folder(DIR **out, const Scan *scan, const char *below) {
  char path[PATH_MAX], shown[PATH_MAX];
  const char *source = scan->dataset->source;
  int length = snprintf(path, sizeof path, "%s%s%s", source, *below ? "/" : "", below);
  (void)data__printable(shown, sizeof shown, path);
  if (length < 0 || (size_t)length >= sizeof path)
    return status_set(STATUS_NO_INPUT, "folder '%s...': its path is longer than %d bytes", shown,
                      PATH_MAX);
  int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  *out = fd >= 0 ? fdopendir(fd) : NULL;
  if (*out) return STATUS_OK;
  int error = errno;
  if (fd >= 0) (void)close(fd);
  errno = error;
  return status_set_errno(STATUS_IO, "folder '%s' cannot be listed", shown);
}

// The next entry, or NULL at the end.
static Status next_entry(struct dirent **out, DIR *dir, const Scan *scan, const char *below) {
  do {
    errno = 0;
    *out = readdir(dir);
  } while (*out && (strcmp((*out)->d_name, ".") == 0 || strcmp((*out)->d_name, "..") == 0));
  if (*out || errno == 0) return STATUS_OK;
  return status_set_errno(STATUS_IO, "folder '%s/%s': listing it failed", scan->dataset->source,
                          below);
}

// --- one class -----------------------------------------------------------------------------------

static Status add_found(Scan *scan, const char *parent_path, const char *name, int64_t parent) {
  char path[PATH_MAX];
  int length = snprintf(path, sizeof path, "%s%s%s", parent_path, *parent_path ? "/" : "", name);
  if (length < 0 || (size_t)length >= sizeof path)
    return status_set(STATUS_NO_INPUT, "folder '%.200s...': its path is longer than %d bytes", path,
                      PATH_MAX);
  TRY(memory_reserve(&scan->found, &scan->found_capacity, scan->found_count + 1,
                     sizeof *scan->found));
  Found *found = &scan->found[scan->found_count++];
  *found = (Found){.parent = parent};
  return data__texts_add(&scan->dataset->texts, path, &found->path);
}

// Whether the folder is one of those above it.
static bool leads_back(const Scan *scan, int64_t index) {
  const Found *found = &scan->found[index];
  for (int64_t up = found->parent; up != NO_PARENT; up = scan->found[up].parent)
    if (scan->found[up].device == found->device && scan->found[up].inode == found->inode)
      return true;
  return false;
}

static Status take_entry(Scan *scan, DIR *dir, const struct dirent *entry, int64_t index) {
  switch (entry_kind(scan, dir, entry)) {
  case ENTRY_FILE:
    if (!image_has_name(entry->d_name)) return STATUS_OK;
    return add_text(scan, entry->d_name, &scan->files, &scan->file_count, &scan->file_capacity);
  case ENTRY_FOLDER: {
    char path[PATH_MAX]; // a copy: adding to the texts may move them
    (void)snprintf(path, sizeof path, "%s", text(scan, scan->found[index].path));
    return add_found(scan, path, entry->d_name, index);
  }
  case ENTRY_OTHER:
    break;
  }
  return STATUS_OK;
}

static Status list_found(Scan *scan, int64_t index) {
  DIR *dir;
  struct stat info;
  TRY(open_folder(&dir, scan, text(scan, scan->found[index].path)));
  Status status = STATUS_OK;
  if (scan->follow && fstat(dirfd(dir), &info) == 0) {
    scan->found[index].device = info.st_dev;
    scan->found[index].inode = info.st_ino;
    if (leads_back(scan, index)) {
      scan->loops++;
      goto out;
    }
  }
  size_t first = scan->file_count;
  for (;;) {
    struct dirent *entry;
    GUARD(next_entry(&entry, dir, scan, text(scan, scan->found[index].path)));
    if (!entry) break;
    GUARD(take_entry(scan, dir, entry, index));
  }
  if (scan->file_count > first)
    qsort_r(scan->files + first, scan->file_count - first, sizeof *scan->files, compare_texts,
            scan->dataset->texts.data);
  scan->found[index].first_file = (int64_t)first;
  scan->found[index].file_count = (int64_t)(scan->file_count - first);
out:
  (void)closedir(dir);
  return status;
}

// Appends one folder's files to the dataset.
static Status take_folder(Scan *scan, const Found *found, int32_t label) {
  Dataset *d = scan->dataset;
  if (d->folder_count >= UINT32_MAX)
    return status_set(STATUS_DATA, "%s: more than 4,294,967,295 folders", d->source);
  size_t first = (size_t)d->sample_count, count = (size_t)found->file_count;
  TRY(memory_reserve(&d->folders, &scan->folder_capacity, (size_t)d->folder_count + 1,
                     sizeof *d->folders));
  TRY(memory_reserve(&d->names, &scan->name_capacity, first + count, sizeof *d->names));
  TRY(memory_reserve(&d->folder_of, &scan->folder_of_capacity, first + count,
                     sizeof *d->folder_of));
  d->folders[d->folder_count] = (DatasetFolder){.path = found->path, .label = label};
  memcpy(d->names + first, scan->files + found->first_file, count * sizeof *d->names);
  for (size_t i = 0; i < count; i++) d->folder_of[first + i] = (uint32_t)d->folder_count;
  d->folder_count++;
  d->sample_count += found->file_count;
  d->classes[label].size += found->file_count;
  return STATUS_OK;
}

static Status scan_class(Scan *scan, int32_t label) {
  char name[NAME_MAX + 1];
  (void)snprintf(name, sizeof name, "%s", dataset_class_name(scan->dataset, label));
  scan->found_count = scan->file_count = 0;
  TRY(add_found(scan, "", name, NO_PARENT));
  for (int64_t i = 0; i < (int64_t)scan->found_count; i++) TRY(list_found(scan, i));
  qsort_r(scan->found, scan->found_count, sizeof *scan->found, compare_found,
          scan->dataset->texts.data);
  for (size_t i = 0; i < scan->found_count; i++)
    if (scan->found[i].file_count > 0) TRY(take_folder(scan, &scan->found[i], label));
  return STATUS_OK;
}

// --- the classes ---------------------------------------------------------------------------------

static Status list_classes(Scan *scan) {
  DIR *dir;
  TRY(open_folder(&dir, scan, ""));
  Status status = STATUS_OK;
  for (;;) {
    struct dirent *entry;
    GUARD(next_entry(&entry, dir, scan, ""));
    if (!entry) break;
    if (entry->d_name[0] == '.') continue; // hidden, as in Keras
    EntryKind kind = entry_kind(scan, dir, entry);
    scan->outside += kind == ENTRY_FILE && image_has_name(entry->d_name);
    if (kind == ENTRY_FOLDER)
      GUARD(
          add_text(scan, entry->d_name, &scan->classes, &scan->class_count, &scan->class_capacity));
  }
  if (scan->class_count > 0)
    qsort_r(scan->classes, scan->class_count, sizeof *scan->classes, compare_texts,
            scan->dataset->texts.data);
out:
  (void)closedir(dir);
  return status;
}

static Status no_classes(const Scan *scan) {
  const char *source = scan->dataset->source;
  if (scan->outside > 0)
    return status_set(STATUS_NO_INPUT,
                      "%s has %" PRId64 " images but no folder per class: put the images of each "
                      "class into a folder of that name",
                      source, scan->outside);
  if (scan->links > 0)
    return status_set(STATUS_NO_INPUT,
                      "%s has only symbolic links (%" PRId64
                      "), which are not followed: set follow_symlinks = yes",
                      source, scan->links);
  return status_set(STATUS_NO_INPUT, "%s has no folders: one folder per class is needed", source);
}

static Status find_class(const Scan *scan, const char *name, uint64_t *offset) {
  for (size_t i = 0; i < scan->class_count; i++)
    if (strcmp(text(scan, scan->classes[i]), name) == 0) {
      *offset = scan->classes[i];
      return STATUS_OK;
    }
  char shown[NAME_MAX + 1], first[NAME_MAX + 1];
  return status_set(STATUS_CONFIG,
                    "%s has no class folder '%s' (it has %zu, the first is '%s'); correct "
                    "class_names, or the folder's name",
                    scan->dataset->source, data__printable(shown, sizeof shown, name),
                    scan->class_count,
                    data__printable(first, sizeof first, text(scan, scan->classes[0])));
}

static Status choose_classes(Scan *scan, const DatasetDesc *desc) {
  Dataset *d = scan->dataset;
  size_t count = desc->class_names ? (size_t)desc->class_count : scan->class_count;
  if (scan->class_count == 0) return no_classes(scan);
  if (count > INT32_MAX)
    return status_set(STATUS_CONFIG, "%s: more than %d classes", d->source, INT32_MAX);
  TRY(memory_alloc(&d->classes, count, sizeof *d->classes));
  for (size_t i = 0; i < count; i++) {
    if (desc->class_names)
      TRY(find_class(scan, desc->class_names[i], &d->classes[i].name));
    else
      d->classes[i].name = scan->classes[i];
    TRY(data__check_class_name(text(scan, d->classes[i].name), d->source));
    for (size_t k = 0; desc->class_names && k < i; k++)
      if (d->classes[k].name == d->classes[i].name)
        return status_set(STATUS_CONFIG, "class_names has '%s' twice", desc->class_names[i]);
    d->class_count++;
  }
  return STATUS_OK;
}

static int compare_without_case(const void *a, const void *b) {
  return strcasecmp(*(const char *const *)a, *(const char *const *)b);
}

// "Cat" and "cat" are often one class that was copied from a system that sees no difference.
static Status warn_of_case_twins(const Scan *scan) {
  const Dataset *d = scan->dataset;
  const char **names;
  TRY(memory_alloc(&names, (size_t)d->class_count, sizeof *names));
  for (int64_t i = 0; i < d->class_count; i++) names[i] = dataset_class_name(d, i);
  qsort(names, (size_t)d->class_count, sizeof *names, compare_without_case);
  for (int64_t i = 1; i < d->class_count; i++)
    if (strcasecmp(names[i - 1], names[i]) == 0)
      log_warning(scan->log,
                  "%s: the classes '%s' and '%s' differ in case only; they are two classes",
                  d->source, names[i - 1], names[i]);
  memory_free(names);
  return STATUS_OK;
}

static void warn_of_left_out(const Scan *scan) {
  const struct {
    int64_t count;
    const char *what;
  } rows[] = {
      {scan->links, "symbolic links were left out; set follow_symlinks = yes to read them"},
      {scan->dangling, "symbolic links lead nowhere and were left out"},
      {scan->loops, "links lead back to a folder above them and were left out"},
      {scan->specials, "pipes, sockets or devices with the name of an image were left out"},
      {scan->outside, "images lie outside of the class folders and were left out"},
  };
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
    if (rows[i].count > 0)
      log_warning(scan->log, "%s: %" PRId64 " %s", scan->dataset->source, rows[i].count,
                  rows[i].what);
}

Status data__scan_folder(Dataset *dataset, const DatasetDesc *desc, Log *log) {
  Scan scan = {.dataset = dataset, .log = log, .follow = desc->follow_symlinks};
  Status status;
  GUARD(list_classes(&scan));
  GUARD(choose_classes(&scan, desc));
  GUARD(warn_of_case_twins(&scan));
  for (int32_t label = 0; label < dataset->class_count; label++) GUARD(scan_class(&scan, label));
  warn_of_left_out(&scan);
out:
  memory_free(scan.classes);
  memory_free(scan.files);
  memory_free(scan.found);
  return status;
}
