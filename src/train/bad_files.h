// The images that a run could not read, gathered from all ranks: rank 0 names each once, however
// many ranks and passes meet it, and writes it into bad_files.txt in the run's folder: a line for
// each, PATH TAB REASON, sorted by path. A resumed run adds to the file and names what is not in it
// yet.
#ifndef IMGCLS_TRAIN_BAD_FILES_H
#define IMGCLS_TRAIN_BAD_FILES_H

#include <stdbool.h>

#include "data/loader.h"
#include "dist/world.h"

typedef struct BadFiles BadFiles;

// Rank 0 reads what an earlier part of the run has written into `folder`, where this one goes on
// with it, or else removes it. `log` names images, and warns where the file cannot be written
// later; borrowed, may be NULL. Collective.
MUST_CHECK Status bad_files_open(BadFiles **out, World *world, const char *folder,
                                 bool is_continued, Log *log);
void bad_files_close(BadFiles *bad); // NULL is fine

// Names and writes down those that `loader` has met since `*told`, which counts them; a loader of
// NULL has met none, and where `bad` is NULL nobody writes. STATUS_DATA, behind the writing, where
// the ranks' loaders of one list have together met more than it may have. Collective.
MUST_CHECK Status bad_files_collect(BadFiles *bad, Loader *loader, const Dataset *dataset,
                                    int64_t *told);

// The same for a loader whose use has ended with the failure `why`, which is returned with its
// message. Each rank names its own, since others may not have failed; where all are to stop
// (STATUS_STOPPED) this is collective.
MUST_CHECK Status bad_files_leave(BadFiles *bad, Loader *loader, const Dataset *dataset,
                                  int64_t *told, Status why);

// The end of the run: writes once more what could not be written. Rank 0 alone.
MUST_CHECK Status bad_files_finish(BadFiles *bad);

// How many there are; on rank 0, elsewhere 0.
int64_t bad_files_count(const BadFiles *bad);

#endif
