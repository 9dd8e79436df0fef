// The images that a run could not read, as bad_files.txt in its folder: a line for each, PATH TAB
// REASON, sorted by path, gathered from all ranks. A resumed run adds to the file.
#ifndef IMGCLS_TRAIN_BAD_FILES_H
#define IMGCLS_TRAIN_BAD_FILES_H

#include <stdbool.h>

#include "data/loader.h"
#include "dist/world.h"

typedef struct BadFiles BadFiles;

// Rank 0 reads what an earlier part of the run has written into `folder`, where this one goes on
// with it, or else removes it. `log` warns where the file cannot be written later; borrowed, may be
// NULL. Collective.
MUST_CHECK Status bad_files_open(BadFiles **out, World *world, const char *folder,
                                 bool is_continued, Log *log);
void bad_files_close(BadFiles *bad); // NULL is fine

// Writes down those that `loader` has met since `*told`, which counts them; a loader of NULL has
// met none, and where `bad` is NULL nobody writes. STATUS_DATA, behind the writing, where the ranks'
// loaders of one list have together met more than it may have. Collective.
MUST_CHECK Status bad_files_collect(BadFiles *bad, Loader *loader, const Dataset *dataset,
                                    int64_t *told);

// The end of the run: writes once more what could not be written. Rank 0 alone.
MUST_CHECK Status bad_files_finish(BadFiles *bad);

// How many there are; on rank 0, elsewhere 0.
int64_t bad_files_count(const BadFiles *bad);

#endif
