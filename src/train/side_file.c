// Files that a run can go on without. See side_file.h.
#include "train/side_file.h"

void side_file_note(SideFile *file, Status status, Log *log) {
  if (status != STATUS_OK && !file->is_missing)
    log_warning(log, "%s; the run goes on and will write it again", status_message());
  file->is_missing = status != STATUS_OK;
}
