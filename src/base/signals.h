// Requests to stop, as sticky flags. SIGTERM, SIGINT, SIGHUP, SIGUSR1 and SIGUSR2 ask for a save and
// an exit with STATUS_STOPPED; a SIGHUP that is ignored (nohup) stays so, and SIGCONT is left alone,
// since launchers send it around the others.
//
// A signal handler has no other way to speak than process-wide state, so this module keeps the
// program's only mutable static besides the message of Status.
#ifndef IMGCLS_BASE_SIGNALS_H
#define IMGCLS_BASE_SIGNALS_H

#include "base/status.h"

// From here on a write beyond the limit on file sizes (ulimit -f) fails with EFBIG, as on a full
// disk, in place of SIGXFSZ's silent death. Both programs call it first.
void signals_survive_file_limit(void);

// Installs the handlers. SIGPIPE is ignored, so that a closed log never ends a run.
MUST_CHECK Status signals_install(void);

int signals_stop_count(void);       // how many requests to stop have come
int signals_last_stop(void);        // the last one's number, 0 for none

#endif
