// Files of a run's folder that it can go on without: history, curves, the list of bad files. Training
// writes them anew again and again, so a failed write (a full disk, a limit) costs a warning while it
// goes on, and is an error only where it is the last.
#ifndef IMGCLS_TRAIN_SIDE_FILE_H
#define IMGCLS_TRAIN_SIDE_FILE_H

#include <stdbool.h>

#include "base/log.h"
#include "base/status.h"

// One such file. Starts zeroed.
typedef struct SideFile {
  bool is_missing; // what it should hold now could not be written
} SideFile;

// Takes note of how writing has gone. A failure is a warning where the write before has worked.
void side_file_note(SideFile *file, Status status, Log *log);

#endif
