// Checkpoints. See checkpoint.h; the protocol is told in docs/checkpoint-format.md.
#include "train/checkpoint.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/hold.h"
#include "base/memory.h"
#include "io/checksum.h"
#include "io/file.h"

enum { FAILURES_MAX = 3, NAME_CAPACITY = 96 };
#define SIDECAR_MAX_BYTES ((size_t)1 << 20)
#define MODEL_MAX_BYTES ((size_t)1 << 36)

// A checkpoint of a folder. Runs that began anew in it, or at an older checkpoint, are numbered.
typedef struct Entry {
  CheckpointInfo info;
  int64_t run;       // from 1
  bool forgets_best; // best.h5 is of a run that was abandoned for this one
} Entry;

typedef struct Save {
  uint8_t *bytes; // owned
  size_t size_bytes;
  Entry entry;
} Save;

struct Checkpoints {
  CheckpointsDesc desc;
  int64_t run;
  bool forgets_best; // until this run has saved
  pthread_t thread;
  bool running; // a thread to join
  Save save;    // the thread's, while running
  KeptStatus outcome;
  int failures; // in a row
};

// --- names ---------------------------------------------------------------------------------------

// "model-000005-0000001234", or "model-000005-0000001234-run2": epoch and step, so that the order
// of names is the order of time within a run.
static void stem_of(char stem[NAME_CAPACITY], const Entry *entry) {
  int used = snprintf(stem, NAME_CAPACITY, "model-%06" PRId64 "-%010" PRId64, entry->info.epoch,
                      entry->info.step);
  if (entry->run > 1)
    (void)snprintf(stem + used, NAME_CAPACITY - (size_t)used, "-run%" PRId64, entry->run);
}

static void name_of(char name[NAME_CAPACITY], const Entry *entry, const char *suffix) {
  stem_of(name, entry);
  (void)strcat(name, suffix); // a stem has at most 71 bytes
}

// Whether this is the name, and the only name, of a checkpoint's sidecar.
static bool parse_name(const char *name, Entry *entry) {
  char exact[NAME_CAPACITY];
  CheckpointInfo *info = &entry->info;
  *entry = (Entry){.run = 1};
  if (sscanf(name, "model-%18" SCNd64 "-%18" SCNd64 "-run%9" SCNd64, &info->epoch, &info->step,
             &entry->run) < 2)
    return false;
  name_of(exact, entry, ".json");
  return info->epoch >= 0 && info->step >= 0 && entry->run >= 1 && strcmp(name, exact) == 0;
}

// Of one step the one whose epoch is done: it has been evaluated since.
static int newest_first(const void *a, const void *b) {
  const Entry *x = a, *y = b;
  if (x->run != y->run) return x->run < y->run ? 1 : -1;
  if (x->info.step != y->info.step) return x->info.step < y->info.step ? 1 : -1;
  return (x->info.epoch < y->info.epoch) - (x->info.epoch > y->info.epoch);
}

// All checkpoints of a folder that have a sidecar, newest first; owned by the caller.
static Status list(Entry **out, size_t *count, const char *folder) {
  size_t capacity = 0;
  *out = NULL;
  *count = 0;
  DIR *dir = opendir(folder);
  if (!dir && (errno == ENOENT || errno == ENOTDIR)) return STATUS_OK; // there has been no run
  if (!dir) return status_set_errno(STATUS_IO, "cannot read the folder '%s'", folder);
  Status status = STATUS_OK;
  while (status == STATUS_OK) {
    Entry found;
    errno = 0; // a folder that cannot be read to its end must not look like an empty one
    struct dirent *entry = readdir(dir);
    if (!entry && errno != 0)
      status = status_set_errno(STATUS_IO, "cannot read the folder '%s'", folder);
    if (!entry) break;
    if (!parse_name(entry->d_name, &found)) continue;
    status = memory_reserve(out, &capacity, *count + 1, sizeof **out);
    if (status == STATUS_OK) (*out)[(*count)++] = found;
  }
  (void)closedir(dir);
  if (*count > 0) qsort(*out, *count, sizeof **out, newest_first);
  return status;
}

// --- sidecars ------------------------------------------------------------------------------------

// `*root` holds a checksum; to be released by json_decref.
static Status read_sidecar(json_t **root, const char *folder, const char *stem) {
  Bytes text = {0};
  char *path = NULL;
  Status status = STATUS_OK;
  *root = NULL;
  GUARD(memory_print_string(&path, "%s/%s.json", folder, stem));
  GUARD(file_read(&text, path, SIDECAR_MAX_BYTES));
  *root = json_loadb((const char *)text.data, text.size, 0, NULL);
  if (!json_string_value(json_object_get(*root, "xxh3_128")))
    status = status_set(STATUS_DATA, "%s: no checksum in it", path);
out:
  bytes_deinit(&text);
  memory_free(path);
  return status;
}

static Status write_sidecar(const char *path, const Save *save) {
  char checksum[CHECKSUM_TEXT_CAPACITY], time[32], text[512];
  const Entry *entry = &save->entry;
  clock_format_utc(time, sizeof time);
  int length = snprintf(
      text, sizeof text,
      "{\"format\": 1, \"size\": %zu, \"xxh3_128\": \"%s\", \"step\": %" PRId64
      ", \"epoch\": %" PRId64 ", \"run\": %" PRId64
      ", \"epoch_end\": %s, \"best\": %s, \"forgets_best\": %s, \"written\": \"%s\"}\n",
      save->size_bytes, checksum_bytes(checksum, save->bytes, save->size_bytes), entry->info.step,
      entry->info.epoch, entry->run, entry->info.is_epoch_end ? "true" : "false",
      entry->info.is_best ? "true" : "false", entry->forgets_best ? "true" : "false", time);
  return file_replace(path, text, (size_t)length);
}

// --- writing -------------------------------------------------------------------------------------

// Points `link` of the folder at `target` by renaming a fresh link over it.
static Status replace_link(const char *folder, const char *link, const char *target) {
  char *path = NULL, *fresh = NULL;
  Status status = STATUS_OK;
  GUARD(memory_print_string(&path, "%s/%s", folder, link));
  GUARD(memory_print_string(&fresh, "%s/.%s.tmp.%d", folder, link, (int)getpid()));
  (void)unlink(fresh);
  if (symlink(target, fresh) != 0 || rename(fresh, path) != 0) {
    status = status_set_errno(STATUS_CANT_CREATE, "cannot link '%s' to '%s'", path, target);
    (void)unlink(fresh);
  }
out:
  memory_free(path);
  memory_free(fresh);
  return status;
}

static void remove_file(const char *folder, const char *stem, const char *suffix) {
  char path[4096];
  if (snprintf(path, sizeof path, "%s/%s%s", folder, stem, suffix) < (int)sizeof path)
    (void)unlink(path); // a file left over is no harm
}

// best.h5 first: where last.h5 is right, both are.
static Status set_links(const char *folder, const Entry *entry) {
  char file[NAME_CAPACITY];
  name_of(file, entry, ".h5");
  if (entry->info.is_best)
    TRY(replace_link(folder, "best.h5", file));
  else if (entry->forgets_best)
    remove_file(folder, "best", ".h5");
  return replace_link(folder, "last.h5", file);
}

static bool link_names(const char *folder, const char *link, const Entry *entry) {
  char path[4096], target[4096], file[NAME_CAPACITY];
  name_of(file, entry, ".h5");
  (void)snprintf(path, sizeof path, "%s/%s", folder, link);
  ssize_t length = readlink(path, target, sizeof target - 1);
  if (length <= 0) return false;
  target[length] = '\0';
  return strcmp(target, file) == 0;
}

// Removes what the retention rule lets go: the sidecar last, so that a pair half removed when the
// program was killed is still listed, and goes with the next save. Those of earlier runs neither
// count nor go.
static Status retain(const Checkpoints *checkpoints) {
  const CheckpointsDesc *desc = &checkpoints->desc;
  Entry *all;
  size_t count;
  TRY(list(&all, &count, desc->folder));
  size_t own = 0;
  while (own < count && all[own].run == checkpoints->run) own++;
  for (size_t i = (size_t)desc->keep; i < own; i++) {
    char stem[NAME_CAPACITY];
    int64_t epoch = all[i].info.epoch;
    stem_of(stem, &all[i]);
    bool is_milestone = desc->keep_every > 0 && epoch % desc->keep_every == 0 &&
                        (i + 1 == own || all[i + 1].info.epoch != epoch);
    if (is_milestone || link_names(desc->folder, "best.h5", &all[i])) continue;
    remove_file(desc->folder, stem, ".h5");
    hold_for_test("mid_retention", stem);
    remove_file(desc->folder, stem, ".json");
  }
  memory_free(all);
  return STATUS_OK;
}

static Status write_pair(const Checkpoints *checkpoints, const Save *save) {
  const char *folder = checkpoints->desc.folder;
  char stem[NAME_CAPACITY];
  char *model = NULL, *sidecar = NULL;
  Status status = STATUS_OK;
  stem_of(stem, &save->entry);
  GUARD(memory_print_string(&model, "%s/%s.h5", folder, stem));
  GUARD(memory_print_string(&sidecar, "%s/%s.json", folder, stem));
  hold_for_test("after_snapshot", model);
  GUARD(file_replace(model, save->bytes, save->size_bytes));
  hold_for_test("between_renames", model);
  GUARD(write_sidecar(sidecar, save));
  hold_for_test("before_links", model);
  GUARD(set_links(folder, &save->entry));
  GUARD(retain(checkpoints));
out:
  memory_free(model);
  memory_free(sidecar);
  return status;
}

static void *save_in_background(void *context) {
  Checkpoints *checkpoints = context;
  watchdog_save_begin(checkpoints->desc.watchdog);
  status_keep(&checkpoints->outcome, write_pair(checkpoints, &checkpoints->save));
  watchdog_save_end(checkpoints->desc.watchdog);
  return NULL;
}

// A run killed between a sidecar and the links left links of the checkpoint before it.
static Status mend_links(const char *folder, const Entry *newest) {
  Entry entry = *newest;
  json_t *root = NULL;
  char stem[NAME_CAPACITY];
  Status status;
  stem_of(stem, newest);
  GUARD(read_sidecar(&root, folder, stem));
  entry.info.is_best = json_is_true(json_object_get(root, "best"));
  entry.forgets_best = json_is_true(json_object_get(root, "forgets_best"));
  if (!link_names(folder, "last.h5", newest)) status = set_links(folder, &entry);
out:
  json_decref(root);
  return status;
}

// Whether `path`, by whatever name, is this checkpoint.
static bool is_file_of(const char *folder, const Entry *entry, const char *path) {
  char file[NAME_CAPACITY], own[4096];
  struct stat x, y;
  name_of(file, entry, ".h5");
  return snprintf(own, sizeof own, "%s/%s", folder, file) < (int)sizeof own &&
         stat(own, &x) == 0 && stat(path, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

// Which run of a folder with these checkpoints this one is: the last, where it goes on from its
// newest. Otherwise what is newer than its beginning is abandoned, and best.h5 with it unless it is
// older.
static void find_run(Checkpoints *checkpoints, const Entry *all, size_t count) {
  const CheckpointsDesc *desc = &checkpoints->desc;
  size_t begin = 0, best = 0;
  while (begin < count && !(desc->resumed && is_file_of(desc->folder, &all[begin], desc->resumed)))
    begin++;
  while (best < count && !link_names(desc->folder, "best.h5", &all[best])) best++;
  checkpoints->run = all[0].run + (begin > 0);
  bool is_past = begin < count && best < count && all[best].run <= all[begin].run &&
                 all[best].info.step <= all[begin].info.step &&
                 all[best].info.epoch <= all[begin].info.epoch;
  checkpoints->forgets_best = begin > 0 && !is_past;
  if (begin > 0)
    log_info(desc->log,
             "saves     as run %" PRId64 " of this folder; what is there (%zu checkpoints) stays "
             "until you remove it",
             checkpoints->run, count);
}

Status checkpoints_open(Checkpoints **out, const CheckpointsDesc *desc) {
  TRY(memory_alloc(out, 1, sizeof **out));
  **out = (Checkpoints){.desc = *desc, .run = 1};
  file_remove_leftovers(desc->folder);
  Entry *all;
  size_t count;
  Status status = list(&all, &count, desc->folder);
  if (status == STATUS_OK && count > 0) {
    if (mend_links(desc->folder, &all[0]) != STATUS_OK)
      log_warning(desc->log, "%s", status_message());
    find_run(*out, all, count);
  }
  memory_free(all);
  (*out)->desc.resumed = NULL;
  return status;
}

bool checkpoints_have_best(const Checkpoints *checkpoints) {
  char path[4096];
  return !checkpoints->forgets_best &&
         snprintf(path, sizeof path, "%s/best.h5", checkpoints->desc.folder) < (int)sizeof path &&
         access(path, R_OK) == 0;
}

Status checkpoints_wait(Checkpoints *checkpoints) {
  if (!checkpoints->running) return STATUS_OK;
  (void)pthread_join(checkpoints->thread, NULL);
  checkpoints->running = false;
  memory_free(checkpoints->save.bytes);
  checkpoints->save.bytes = NULL;
  Status outcome = status_restore(&checkpoints->outcome);
  if (outcome == STATUS_OK) {
    checkpoints->failures = 0;
    checkpoints->forgets_best = false;
    return STATUS_OK;
  }
  checkpoints->failures++;
  return status_prepend(outcome, "checkpoint not saved");
}

void checkpoints_close(Checkpoints *checkpoints) {
  if (!checkpoints) return;
  if (checkpoints_wait(checkpoints) != STATUS_OK)
    log_warning(checkpoints->desc.log, "%s", status_message());
  memory_free(checkpoints);
}

Status checkpoints_save(Checkpoints *checkpoints, uint8_t *bytes, size_t size_bytes,
                        const CheckpointInfo *info) {
  Status status = checkpoints_wait(checkpoints);
  if (status != STATUS_OK && checkpoints->failures >= FAILURES_MAX) {
    memory_free(bytes);
    return status_prepend(STATUS_IO, "%d times in a row", checkpoints->failures);
  }
  if (status != STATUS_OK)
    log_warning(checkpoints->desc.log, "%s; trying again now", status_message());
  checkpoints->save =
      (Save){bytes, size_bytes, {*info, checkpoints->run, checkpoints->forgets_best}};
  if (pthread_create(&checkpoints->thread, NULL, save_in_background, checkpoints) != 0) {
    memory_free(bytes);
    checkpoints->save.bytes = NULL;
    return status_set(STATUS_OS, "cannot start the thread that saves checkpoints");
  }
  checkpoints->running = true;
  return STATUS_OK;
}

// --- reading -------------------------------------------------------------------------------------

// Reads one checkpoint whole; STATUS_DATA where sidecar and file disagree.
static Status read_pair(Bytes *model, const char *folder, const char *stem) {
  char *path = NULL;
  json_t *root = NULL;
  Status status = STATUS_OK;
  GUARD(memory_print_string(&path, "%s/%s.h5", folder, stem));
  GUARD(read_sidecar(&root, folder, stem));
  const char *expected = json_string_value(json_object_get(root, "xxh3_128"));
  GUARD(file_read(model, path, MODEL_MAX_BYTES));
  char checksum[CHECKSUM_TEXT_CAPACITY];
  if (strcmp(checksum_bytes(checksum, model->data, model->size), expected) != 0)
    GUARD(
        status_set(STATUS_DATA, "%s: damaged: checksum %s, expected %s", path, checksum, expected));
out:
  json_decref(root);
  memory_free(path);
  return status;
}

Status checkpoint_find_newest(uint8_t **bytes, size_t *size_bytes, char **path, const char *folder,
                              Log *log) {
  *bytes = NULL;
  *path = NULL;
  *size_bytes = 0;
  Entry *all;
  size_t count;
  TRY(list(&all, &count, folder));
  Status status = STATUS_OK;
  for (size_t i = 0; i < count && !*bytes; i++) {
    char stem[NAME_CAPACITY];
    Bytes model = {0};
    stem_of(stem, &all[i]);
    status = read_pair(&model, folder, stem);
    if (status == STATUS_OK) {
      *bytes = model.data;
      *size_bytes = model.size;
      GUARD(memory_print_string(path, "%s/%s.h5", folder, stem));
    } else {
      bytes_deinit(&model);
      if (status == STATUS_OS) goto out; // it may be as good as ever
      log_warning(log, "checkpoint passed over: %s", status_message());
      status = STATUS_OK;
    }
  }
  if (count > 0 && !*bytes)
    GUARD(status_set(STATUS_DATA,
                     "%s: %zu checkpoints and none is valid; move them away to start anew, or name "
                     "one with --resume FILE",
                     folder, count));
out:
  memory_free(all);
  return status;
}
