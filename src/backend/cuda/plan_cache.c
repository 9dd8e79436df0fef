// See plan_cache.h. A file is one line with the checksum of what follows, and then JSON.
#include "backend/cuda/plan_cache.h"

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/memory.h"
#include "io/checksum.h"
#include "io/file.h"

static const char format_name[] = "imgcls plans 1";
static const size_t file_max_bytes = (size_t)64 << 20;
enum { SUM_LENGTH = CHECKSUM_TEXT_CAPACITY - 1 };

void plan_entry_deinit(PlanEntry *entry) {
  for (int i = 0; i < entry->count; i++) memory_free(entry->candidates[i].json);
  *entry = (PlanEntry){0};
}

// --- the folder ----------------------------------------------------------------------------------

static Status user_folder(char **out) {
  const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
  *out = NULL;
  // The specification has relative paths ignored.
  if (cache && cache[0] == '/') return memory_print_string(out, "%s/imgcls/plans", cache);
  if (home && home[0] == '/') return memory_print_string(out, "%s/.cache/imgcls/plans", home);
  return STATUS_OK;
}

Status plan_cache_open(PlanCache *cache, const char *folder, Log *log) {
  *cache = (PlanCache){.log = log};
  if (!folder || strcmp(folder, "none") == 0) return STATUS_OK;
  return strcmp(folder, "auto") == 0 ? user_folder(&cache->folder)
                                     : memory_copy_string(&cache->folder, folder);
}

void plan_cache_close(PlanCache *cache) {
  memory_free(cache->folder);
  *cache = (PlanCache){0};
}

// Folders above that exist answer in many ways: only the last must be there in the end.
static Status make_folders(char *path) {
  for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
    *slash = '\0';
    (void)mkdir(path, 0777);
    *slash = '/';
  }
  if (mkdir(path, 0777) == 0 || errno == EEXIST) return STATUS_OK;
  return status_set_errno(STATUS_CANT_CREATE, "%s: cannot be created", path);
}

static Status path_of(char **out, const PlanCache *cache, const char *key) {
  char sum[CHECKSUM_TEXT_CAPACITY];
  return memory_print_string(out, "%s/%s.plan", cache->folder,
                             checksum_bytes(sum, key, strlen(key)));
}

// --- reading -------------------------------------------------------------------------------------

static bool read_candidate(PlanCandidate *out, json_t *object) {
  json_int_t engine, workspace;
  int is_compiled;
  double time_us;
  const char *json;
  if (json_unpack(object, "{s:I, s:b, s:I, s:F, s:s}", "engine", &engine, "compiled", &is_compiled,
                  "workspace", &workspace, "time_us", &time_us, "plan", &json) != 0 ||
      workspace < 0 || time_us < 0.0 || memory_copy_string(&out->json, json) != STATUS_OK)
    return false;
  out->engine = (int)engine;
  out->is_compiled = is_compiled;
  out->workspace_size = (size_t)workspace;
  out->time_us = time_us;
  return true;
}

static bool parse(PlanEntry *out, const char *text, size_t size, const char *key) {
  const char *format = "", *found = "";
  json_t *root = json_loadb(text, size, 0, NULL), *list = NULL;
  int is_complete = 0;
  bool fits = root &&
              json_unpack(root, "{s:s, s:s, s:b, s:o}", "format", &format, "key", &found,
                          "complete", &is_complete, "candidates", &list) == 0 &&
              strcmp(format, format_name) == 0 && strcmp(found, key) == 0 &&
              json_array_size(list) > 0 && json_array_size(list) <= PLAN_CANDIDATES_MAX;
  out->is_complete = is_complete;
  for (size_t i = 0; fits && i < json_array_size(list); i++) {
    fits = read_candidate(&out->candidates[i], json_array_get(list, i));
    out->count++;
  }
  json_decref(root);
  return fits;
}

bool plan_cache_read(PlanCache *cache, PlanEntry *out, const char *key) {
  char *path = NULL, sum[CHECKSUM_TEXT_CAPACITY];
  Bytes file = {0};
  *out = (PlanEntry){0};
  if (!cache->folder || path_of(&path, cache, key) != STATUS_OK) return false;
  Status status = file_read(&file, path, file_max_bytes);
  const char *text = (const char *)file.data;
  bool is_whole = status == STATUS_OK && file.size > SUM_LENGTH && text[SUM_LENGTH] == '\n' &&
                  memcmp(checksum_bytes(sum, text + SUM_LENGTH + 1, file.size - SUM_LENGTH - 1),
                         text, SUM_LENGTH) == 0;
  bool fits = is_whole && parse(out, text + SUM_LENGTH + 1, file.size - SUM_LENGTH - 1, key);
  if (status != STATUS_OK && status != STATUS_NO_INPUT)
    log_warning(cache->log, "plan cache: %s", status_message());
  else if (status == STATUS_OK && !fits)
    log_warning(cache->log, "plan cache: %s: %s; it is not used", path,
                is_whole ? "not the plan of this problem and version" : "damaged");
  if (!fits) plan_entry_deinit(out);
  bytes_deinit(&file);
  memory_free(path);
  return fits;
}

// --- writing -------------------------------------------------------------------------------------

static Status format_entry(char **out, const PlanEntry *entry, const char *key) {
  json_t *list = json_array();
  for (int i = 0; i < entry->count; i++) {
    const PlanCandidate *c = &entry->candidates[i];
    (void)json_array_append_new(
        list, json_pack("{s:I, s:b, s:I, s:f, s:s}", "engine", (json_int_t)c->engine, "compiled",
                        (int)c->is_compiled, "workspace", (json_int_t)c->workspace_size, "time_us",
                        c->time_us, "plan", c->json));
  }
  json_t *root = json_pack("{s:s, s:s, s:b, s:o}", "format", format_name, "key", key, "complete",
                           (int)entry->is_complete, "candidates", list);
  char *text = root ? json_dumps(root, JSON_INDENT(1)) : NULL;
  json_decref(root);
  if (!text) return status_set(STATUS_OS, "out of memory for a plan");
  char sum[CHECKSUM_TEXT_CAPACITY];
  Status status = memory_print_string(out, "%s\n%s", checksum_bytes(sum, text, strlen(text)), text);
  free(text);
  return status;
}

void plan_cache_write(PlanCache *cache, const PlanEntry *entry, const char *key) {
  char *path = NULL, *text = NULL;
  Status status;
  if (!cache->folder) return;
  GUARD(path_of(&path, cache, key));
  GUARD(format_entry(&text, entry, key));
  GUARD(make_folders(cache->folder));
  status = file_replace_unsynced(path, text, strlen(text));
out:
  if (status != STATUS_OK) {
    log_warning(cache->log, "plan cache: %s; plans are not kept", status_message());
    memory_free(cache->folder);
    cache->folder = NULL;
  }
  memory_free(text);
  memory_free(path);
}
