// Ends a rank that makes no progress, so that a dead peer, a cut network or a stopped process costs
// minutes and not the allocation. One thread on every rank; the trainer tells it of progress.
//
// It leaves by _exit(STATUS_STOPPED): the one place besides main that ends the process, because the
// main thread sits in a collective that never returns. Time during which this process itself was
// stopped (SIGSTOP, suspend) does not count. A transport that sees another rank fail is a reason to
// leave too. While it leaves, the training thread stands still: nothing computed from a broken sum
// reaches a checkpoint.
#ifndef IMGCLS_DIST_WATCHDOG_H
#define IMGCLS_DIST_WATCHDOG_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

typedef struct Comm Comm; // dist/comm.h
typedef struct Watchdog Watchdog;

typedef struct WatchdogDesc {
  const char *program; // first word of its line on standard error; borrowed
  const char *host;    // borrowed
  const char *run_dir; // flight.RANK.json is written here; borrowed; must exist
  int rank;
  double timeout_s;       // no progress for so long: leave. 0: never
  double stop_deadline_s; // a request to stop (base/signals.h) older than this: leave. 0: never
} WatchdogDesc;

// Starts the thread. Call it from the thread that trains: its stack goes into the flight file.
// Strings are borrowed until watchdog_stop. Not collective.
MUST_CHECK Status watchdog_start(Watchdog **out, const WatchdogDesc *desc);
void watchdog_stop(Watchdog *watchdog); // NULL is fine

// Says that `step` has reached `phase` ("forward", "sum", "evaluate", ...; a string literal). Call
// it a few times a step, and in every loop that may outlast the timeout. Lock-free, tens of
// nanoseconds, from any thread; NULL is fine. The last 64 calls go into the flight file.
void watchdog_progress(Watchdog *watchdog, int64_t step, const char *phase);

// Watches a transport (dist/comm.h) in addition: ten times a second it is asked, and it is aborted
// before the process ends. NULL ends that. comm_open and comm_close call it. `watchdog` NULL is
// fine.
void watchdog_watch(Watchdog *watchdog, Comm *comm);

// Ends this rank as if no progress had been made, with `reason` in its line and its flight file.
// For the training thread, when it finds out itself.
_Noreturn void watchdog_leave(Watchdog *watchdog, const char *reason);

// While a save is in progress a stop deadline does not end the process (the timeout still does).
// Calls nest. Any thread; NULL is fine.
void watchdog_save_begin(Watchdog *watchdog);
void watchdog_save_end(Watchdog *watchdog);

#endif
