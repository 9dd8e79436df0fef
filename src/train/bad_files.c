// bad_files.txt. See bad_files.h.
#include "train/bad_files.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/memory.h"
#include "io/file.h"
#include "train/side_file.h"

static const size_t file_max_bytes = (size_t)1 << 30;

typedef struct Line {
  char *text; // without its end; owned
  bool is_named;
} Line;

struct BadFiles {
  World *world;
  char *path;  // of the file; on rank 0
  Line *lines; // one for each path, sorted; rank 0
  size_t count, capacity;
  SideFile file;
  Log *log;
};

// --- lines ---------------------------------------------------------------------------------------

static int compare_paths(const Line *a, const Line *b) {
  size_t a_size = strcspn(a->text, "\t"), b_size = strcspn(b->text, "\t");
  int order = memcmp(a->text, b->text, a_size < b_size ? a_size : b_size);
  return order != 0 ? order : (a_size > b_size) - (a_size < b_size);
}

// Of one path, what was named comes first.
static int compare_lines(const void *a, const void *b) {
  const Line *x = a, *y = b;
  int order = compare_paths(x, y);
  return order != 0 ? order : y->is_named - x->is_named;
}

// Adds the lines of a text and keeps one for each path. `text` is taken apart.
static Status add_lines(BadFiles *bad, char *text) {
  for (char *rest = text, *line; (line = strtok_r(rest, "\n", &rest));) {
    TRY(memory_reserve(&bad->lines, &bad->capacity, bad->count + 1, sizeof *bad->lines));
    bad->lines[bad->count].is_named = false;
    TRY(memory_copy_string(&bad->lines[bad->count].text, line));
    bad->count++;
  }
  if (bad->count == 0) return STATUS_OK;
  qsort(bad->lines, bad->count, sizeof *bad->lines, compare_lines);
  size_t kept = 1;
  for (size_t i = 1; i < bad->count; i++) {
    if (compare_paths(&bad->lines[i], &bad->lines[kept - 1]) == 0)
      memory_free(bad->lines[i].text);
    else
      bad->lines[kept++] = bad->lines[i];
  }
  bad->count = kept;
  return STATUS_OK;
}

static void name_new_lines(BadFiles *bad) {
  for (size_t i = 0; i < bad->count; i++) {
    Line *line = &bad->lines[i];
    if (line->is_named) continue;
    int path = (int)strcspn(line->text, "\t");
    log_warning(bad->log, "bad image, left out: %.*s: %s", path, line->text, line->text + path + 1);
    line->is_named = true;
  }
}

static Status append(Bytes *text, const char *piece, char end) {
  size_t length = strlen(piece);
  TRY(memory_reserve(&text->data, &text->capacity, text->size + length + 1, 1));
  memcpy(text->data + text->size, piece, length);
  text->size += length;
  text->data[text->size++] = (uint8_t)end;
  return STATUS_OK;
}

static Status append_bad_file(Bytes *text, const Dataset *dataset, int64_t sample,
                              const char *reason) {
  char *name = NULL, *path = NULL;
  Status status = STATUS_OK;
  GUARD(dataset_copy_name(&name, dataset, sample));
  GUARD(memory_print_string(&path, "%s%s%s", dataset_source(dataset),
                            dataset_is_packed(dataset) ? ": " : "/", name));
  for (char *c = path; *c; c++) // a name may hold anything; the loader's reasons are clean
    if ((unsigned char)*c < 0x20 || *c == 0x7f) *c = '?';
  GUARD(append(text, path, '\t'));
  size_t length = strlen(path);
  if (strncmp(reason, path, length) == 0 && strncmp(reason + length, ": ", 2) == 0)
    reason += length + 2;
  GUARD(append(text, reason, '\n'));
out:
  memory_free(name);
  memory_free(path);
  return status;
}

// --- the file ------------------------------------------------------------------------------------

static Status write_file(const BadFiles *bad) {
  Bytes text = {0};
  Status status = STATUS_OK;
  for (size_t i = 0; i < bad->count; i++) GUARD(append(&text, bad->lines[i].text, '\n'));
  status = file_replace_unsynced(bad->path, text.data, text.size);
out:
  bytes_deinit(&text);
  return status;
}

static Status begin_file(BadFiles *bad, const char *folder, bool is_continued) {
  TRY(memory_print_string(&bad->path, "%s/bad_files.txt", folder));
  if (!is_continued) {
    if (unlink(bad->path) != 0 && errno != ENOENT)
      return status_set_errno(STATUS_CANT_CREATE, "%s: cannot be removed", bad->path);
    return STATUS_OK;
  }
  if (access(bad->path, F_OK) != 0) return STATUS_OK;
  Bytes text = {0};
  Status status = STATUS_OK;
  GUARD(file_read(&text, bad->path, file_max_bytes));
  GUARD(memory_reserve(&text.data, &text.capacity, text.size + 1, 1));
  text.data[text.size] = '\0';
  status = add_lines(bad, (char *)text.data);
  for (size_t i = 0; i < bad->count; i++) bad->lines[i].is_named = true; // by that part
out:
  bytes_deinit(&text);
  return status;
}

Status bad_files_open(BadFiles **out, World *world, const char *folder, bool is_continued,
                      Log *log) {
  *out = NULL;
  BadFiles *bad = NULL;
  Status status = memory_alloc(&bad, 1, sizeof *bad);
  if (status == STATUS_OK) {
    bad->world = world;
    bad->log = log;
    if (world->rank == 0) status = begin_file(bad, folder, is_continued);
  }
  GUARD(world_agree_status(world, status));
  *out = bad;
  bad = NULL;
out:
  bad_files_close(bad);
  return status;
}

void bad_files_close(BadFiles *bad) {
  if (!bad) return;
  for (size_t i = 0; i < bad->count; i++) memory_free(bad->lines[i].text);
  memory_free(bad->lines);
  memory_free(bad->path);
  memory_free(bad);
}

Status bad_files_finish(BadFiles *bad) {
  return bad->file.is_missing ? write_file(bad) : STATUS_OK;
}

int64_t bad_files_count(const BadFiles *bad) {
  return (int64_t)bad->count;
}

// --- gathering -----------------------------------------------------------------------------------

static Status describe_new(Bytes *text, Loader *loader, const Dataset *dataset, int64_t *told) {
  for (int64_t count = loader_bad_count(loader); *told < count; ++*told) {
    int64_t sample;
    const char *reason;
    loader_bad_file(loader, *told, &sample, &reason);
    TRY(append_bad_file(text, dataset, sample, reason));
  }
  return STATUS_OK;
}

static Status take_in(BadFiles *bad, const void *lines, size_t size) {
  char *text;
  TRY(memory_alloc(&text, size + 1, 1)); // ends in a NUL
  if (size > 0) memcpy(text, lines, size);
  Status status = add_lines(bad, text);
  memory_free(text);
  TRY(status);
  name_new_lines(bad);
  if (bad->path) side_file_note(&bad->file, write_file(bad), bad->log);
  return STATUS_OK;
}

static int compare_samples(const void *a, const void *b) {
  int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
  return (x > y) - (x < y);
}

static int64_t count_distinct(int64_t *samples, size_t count) {
  if (count == 0) return 0;
  qsort(samples, count, sizeof *samples, compare_samples);
  int64_t distinct = 1;
  for (size_t i = 1; i < count; i++) distinct += samples[i] != samples[i - 1];
  return distinct;
}

// Each rank's loader has seen to the limit among those that this rank has met; here all of one list
// are counted, each once. `sizes` has room for every rank.
static Status check_count(World *world, Loader *loader, size_t *sizes) {
  int64_t *mine, count = loader_bad_count(loader);
  void *gathered = NULL;
  Status status = memory_alloc(&mine, (size_t)count + 1, sizeof *mine);
  GUARD(world_agree_status(world, status));
  for (int64_t i = 0; i < count; i++) {
    const char *reason;
    loader_bad_file(loader, i, &mine[i], &reason);
  }
  GUARD(world_gather_bytes(world, &gathered, sizes, mine, (size_t)count * sizeof *mine));
  size_t total = 0;
  for (int r = 0; world->rank == 0 && r < world->size; r++) total += sizes[r] / sizeof *mine;
  status = loader_check_bad_count(loader, count_distinct(gathered, total), NULL);
  status = world_agree_status(world, status);
out:
  memory_free(mine);
  memory_free(gathered);
  return status;
}

Status bad_files_collect(BadFiles *bad, Loader *loader, const Dataset *dataset, int64_t *told) {
  if (!bad) return STATUS_OK;
  World *world = bad->world;
  Bytes text = {0};
  size_t *sizes = NULL;
  void *gathered = NULL;
  int64_t is_new = loader && loader_bad_count(loader) > *told;
  Status status = world_reduce_i64(world, WORLD_MAX, &is_new, 1);
  if (status != STATUS_OK || !is_new) return status;
  status = memory_alloc(&sizes, (size_t)world->size, sizeof *sizes);
  if (status == STATUS_OK && loader) status = describe_new(&text, loader, dataset, told);
  GUARD(world_agree_status(world, status));
  GUARD(world_gather_bytes(world, &gathered, sizes, text.data, text.size));
  size_t total = 0;
  for (int r = 0; world->rank == 0 && r < world->size; r++) total += sizes[r];
  if (world->rank == 0) status = take_in(bad, gathered, total);
  GUARD(world_agree_status(world, status));
  if (loader) status = check_count(world, loader, sizes);
out:
  bytes_deinit(&text);
  memory_free(sizes);
  memory_free(gathered);
  return status;
}

static Status take_in_own(BadFiles *bad, Loader *loader, const Dataset *dataset, int64_t *told) {
  Bytes text = {0};
  Status status = describe_new(&text, loader, dataset, told);
  if (status == STATUS_OK && text.size > 0) status = take_in(bad, text.data, text.size);
  bytes_deinit(&text);
  return status;
}

Status bad_files_leave(BadFiles *bad, Loader *loader, const Dataset *dataset, int64_t *told,
                       Status why) {
  if (!bad || !loader) return why;
  KeptStatus reason;
  status_keep(&reason, why);
  Status named = why == STATUS_STOPPED ? bad_files_collect(bad, loader, dataset, told)
                                       : take_in_own(bad, loader, dataset, told);
  if (named != STATUS_OK) log_warning(bad->log, "%s", status_message());
  return status_restore(&reason);
}
