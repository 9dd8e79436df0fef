// Plans kept on disk, so that no later run chooses, compiles and times again. Used by cudnn_plan.c.
//
// A file for each problem, named after the checksum of its key: the GPU, the library's version and
// the whole graph in words. Many processes of many hosts may use one folder at a time: files appear
// complete by renaming, and whoever comes second writes the same again. A file is taken only where
// its checksum and its key are right; any other is left alone with one line in the log. A plan may
// hold code for the GPU: the folder is to be trusted as the program is.
#ifndef IMGCLS_BACKEND_CUDA_PLAN_CACHE_H
#define IMGCLS_BACKEND_CUDA_PLAN_CACHE_H

#include <stdbool.h>
#include <stddef.h>

#include "base/log.h"
#include "base/status.h"

enum { PLAN_CANDIDATES_MAX = 8 };

// One engine that fits, as the library writes a plan down.
typedef struct PlanCandidate {
  int engine;
  bool is_compiled; // by the library at run time
  size_t workspace_size;
  double time_us; // measured; 0: not
  char *json;     // owned
} PlanCandidate;

typedef struct PlanEntry {
  PlanCandidate candidates[PLAN_CANDIDATES_MAX]; // as the library ranks them
  int count;
  bool is_complete; // has all that a measurement would compare
} PlanEntry;

void plan_entry_deinit(PlanEntry *entry);

typedef struct PlanCache {
  char *folder; // owned; NULL: nothing is kept
  Log *log;     // borrowed; may be NULL
} PlanCache;

// Opens the cache in a folder, which is made when the first plan is kept. "auto": imgcls/plans in
// the user's cache folder ($XDG_CACHE_HOME or ~/.cache), nothing where there is neither. "none" or
// NULL: nothing is kept.
MUST_CHECK Status plan_cache_open(PlanCache *cache, const char *folder, Log *log);
void plan_cache_close(PlanCache *cache);

// Whether there is an entry of this key; the caller ends with plan_entry_deinit.
bool plan_cache_read(PlanCache *cache, PlanEntry *out, const char *key);

// Keeps an entry. Where the folder cannot be written, says so once and keeps nothing more.
void plan_cache_write(PlanCache *cache, const PlanEntry *entry, const char *key);

#endif
