// Standard output: whether people watch it, and whether it took what was written. Asked by the log
// and by the two programs before they end.
#ifndef IMGCLS_BASE_OUTPUT_H
#define IMGCLS_BASE_OUTPUT_H

#include <stdbool.h>

#include "base/status.h"

// Whether standard output ends on a terminal. Open MPI gives each of its ranks a terminal of its
// own making, whatever its own output is: there the output of the launcher decides, and one that
// cannot be looked at (mpirun is on another host) counts as a file.
bool output_is_terminal(void);

// STATUS_IO where something that was printed to standard output is lost.
MUST_CHECK Status output_flush(void);

#endif
