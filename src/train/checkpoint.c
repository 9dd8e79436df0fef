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
#include <unistd.h>

#include "base/clock.h"
#include "base/hold.h"
#include "base/memory.h"
#include "io/checksum.h"
#include "io/file.h"

enum { FAILURES_MAX = 3, NAME_CAPACITY = 64 };
#define SIDECAR_MAX_BYTES ((size_t)1 << 20)
#define MODEL_MAX_BYTES ((size_t)1 << 36)

typedef struct Save {
  uint8_t *bytes; // owned
  size_t size_bytes;
  CheckpointInfo info;
} Save;

struct Checkpoints {
  CheckpointsDesc desc;
  pthread_t thread;
  bool running; // a thread to join
  Save save;    // the thread's, while running
  Status outcome;
  char message[1024];
  int failures; // in a row
};

// --- names ---------------------------------------------------------------------------------------

// "model-000005-00001234": epoch and step, so that the order of names is the order of time.
static void stem_of(char stem[NAME_CAPACITY], const CheckpointInfo *info) {
  (void)snprintf(stem, NAME_CAPACITY, "model-%06" PRId64 "-%010" PRId64, info->epoch, info->step);
}

static bool parse_stem(const char *name, CheckpointInfo *info) {
  int end = 0;
  return sscanf(name, "model-%6" SCNd64 "-%10" SCNd64 ".json%n", &info->epoch, &info->step, &end) ==
             2 &&
         end > 0 && name[end] == '\0';
}

// Of one step the one whose epoch is done: it has been evaluated since.
static int by_step_descending(const void *a, const void *b) {
  const CheckpointInfo *x = a, *y = b;
  if (x->step != y->step) return x->step < y->step ? 1 : -1;
  return (x->epoch < y->epoch) - (x->epoch > y->epoch);
}

// All checkpoints of a folder that have a sidecar, newest first; owned by the caller.
static Status list(CheckpointInfo **out, size_t *count, const char *folder) {
  size_t capacity = 0;
  *out = NULL;
  *count = 0;
  DIR *dir = opendir(folder);
  if (!dir && (errno == ENOENT || errno == ENOTDIR)) return STATUS_OK; // there has been no run
  if (!dir) return status_set_errno(STATUS_IO, "cannot read the folder '%s'", folder);
  Status status = STATUS_OK;
  while (status == STATUS_OK) {
    CheckpointInfo info = {0};
    errno = 0; // a folder that cannot be read to its end must not look like an empty one
    struct dirent *entry = readdir(dir);
    if (!entry && errno != 0)
      status = status_set_errno(STATUS_IO, "cannot read the folder '%s'", folder);
    if (!entry) break;
    if (!parse_stem(entry->d_name, &info)) continue;
    status = memory_reserve(out, &capacity, *count + 1, sizeof **out);
    if (status == STATUS_OK) (*out)[(*count)++] = info;
  }
  (void)closedir(dir);
  if (*count > 0) qsort(*out, *count, sizeof **out, by_step_descending);
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
  clock_format_utc(time, sizeof time);
  int length =
      snprintf(text, sizeof text,
               "{\"format\": 1, \"size\": %zu, \"xxh3_128\": \"%s\", \"step\": %" PRId64
               ", \"epoch\": %" PRId64 ", \"epoch_end\": %s, \"best\": %s, \"written\": \"%s\"}\n",
               save->size_bytes, checksum_bytes(checksum, save->bytes, save->size_bytes),
               save->info.step, save->info.epoch, save->info.is_epoch_end ? "true" : "false",
               save->info.is_best ? "true" : "false", time);
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

// best.h5 first: where last.h5 is right, both are.
static Status set_links(const char *folder, const CheckpointInfo *info) {
  char stem[NAME_CAPACITY], file[NAME_CAPACITY + 8];
  stem_of(stem, info);
  (void)snprintf(file, sizeof file, "%s.h5", stem);
  if (info->is_best) TRY(replace_link(folder, "best.h5", file));
  return replace_link(folder, "last.h5", file);
}

static void remove_file(const char *folder, const char *stem, const char *suffix) {
  char path[4096];
  if (snprintf(path, sizeof path, "%s/%s%s", folder, stem, suffix) < (int)sizeof path)
    (void)unlink(path); // a file left over is no harm
}

static bool link_names(const char *folder, const char *link, const char *stem) {
  char path[4096], target[4096];
  (void)snprintf(path, sizeof path, "%s/%s", folder, link);
  ssize_t length = readlink(path, target, sizeof target - 1);
  if (length <= 0) return false;
  target[length] = '\0';
  return strncmp(target, stem, strlen(stem)) == 0;
}

// Removes what the retention rule lets go after `saved`: the sidecar last, so that a pair half
// removed when the program was killed is still listed, and goes with the next save. Later steps,
// damaged or left behind by resuming from an earlier file, neither count nor go.
static Status retain(const Checkpoints *checkpoints, const CheckpointInfo *saved) {
  const CheckpointsDesc *desc = &checkpoints->desc;
  CheckpointInfo *all;
  size_t count;
  Status status = list(&all, &count, desc->folder);
  size_t first = 0;
  while (first < count && all[first].step > saved->step) first++;
  for (size_t i = first + (size_t)desc->keep; status == STATUS_OK && i < count; i++) {
    char stem[NAME_CAPACITY];
    stem_of(stem, &all[i]);
    bool is_milestone = desc->keep_every > 0 && all[i].epoch % desc->keep_every == 0 &&
                        (i + 1 == count || all[i + 1].epoch != all[i].epoch);
    if (is_milestone || link_names(desc->folder, "best.h5", stem)) continue;
    remove_file(desc->folder, stem, ".h5");
    hold_for_test("mid_retention", stem);
    remove_file(desc->folder, stem, ".json");
  }
  memory_free(all);
  return status;
}

static Status write_pair(const Checkpoints *checkpoints, const Save *save) {
  const char *folder = checkpoints->desc.folder;
  char stem[NAME_CAPACITY];
  char *model = NULL, *sidecar = NULL;
  Status status = STATUS_OK;
  stem_of(stem, &save->info);
  GUARD(memory_print_string(&model, "%s/%s.h5", folder, stem));
  GUARD(memory_print_string(&sidecar, "%s/%s.json", folder, stem));
  hold_for_test("after_snapshot", model);
  GUARD(file_replace(model, save->bytes, save->size_bytes));
  hold_for_test("between_renames", model);
  GUARD(write_sidecar(sidecar, save));
  hold_for_test("before_links", model);
  GUARD(set_links(folder, &save->info));
  GUARD(retain(checkpoints, &save->info));
out:
  memory_free(model);
  memory_free(sidecar);
  return status;
}

static void *save_in_background(void *context) {
  Checkpoints *checkpoints = context;
  watchdog_save_begin(checkpoints->desc.watchdog);
  checkpoints->outcome = write_pair(checkpoints, &checkpoints->save);
  if (checkpoints->outcome != STATUS_OK)
    (void)snprintf(checkpoints->message, sizeof checkpoints->message, "%s", status_message());
  watchdog_save_end(checkpoints->desc.watchdog);
  return NULL;
}

// A run killed between a sidecar and the links left links of the checkpoint before it.
static Status mend_links(const char *folder) {
  CheckpointInfo *all;
  size_t count;
  json_t *root = NULL;
  char stem[NAME_CAPACITY];
  Status status = list(&all, &count, folder);
  if (status != STATUS_OK || count == 0) goto out;
  stem_of(stem, &all[0]);
  GUARD(read_sidecar(&root, folder, stem));
  all[0].is_best = json_is_true(json_object_get(root, "best"));
  if (!link_names(folder, "last.h5", stem)) GUARD(set_links(folder, &all[0]));
out:
  json_decref(root);
  memory_free(all);
  return status;
}

Status checkpoints_open(Checkpoints **out, const CheckpointsDesc *desc) {
  TRY(memory_alloc(out, 1, sizeof **out));
  (*out)->desc = *desc;
  file_remove_leftovers(desc->folder);
  Status status = mend_links(desc->folder);
  if (status != STATUS_OK) log_warning(desc->log, "%s", status_message());
  return STATUS_OK;
}

bool checkpoints_have_best(const char *folder) {
  char path[4096];
  return snprintf(path, sizeof path, "%s/best.h5", folder) < (int)sizeof path &&
         access(path, R_OK) == 0;
}

Status checkpoints_wait(Checkpoints *checkpoints) {
  if (!checkpoints->running) return STATUS_OK;
  (void)pthread_join(checkpoints->thread, NULL);
  checkpoints->running = false;
  memory_free(checkpoints->save.bytes);
  checkpoints->save.bytes = NULL;
  if (checkpoints->outcome == STATUS_OK) {
    checkpoints->failures = 0;
    return STATUS_OK;
  }
  checkpoints->failures++;
  return status_set(checkpoints->outcome, "checkpoint not saved: %s", checkpoints->message);
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
  checkpoints->save = (Save){bytes, size_bytes, *info};
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
  CheckpointInfo *all;
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
