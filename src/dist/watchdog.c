// The thread that ends a rank without progress. See watchdog.h.
//
// It wakes a few times within each limit and counts idle time itself, wake-up by wake-up: when the
// whole process was stopped, one wake-up comes late and counts no more than a few others. The stack
// of the training thread is taken by that thread, in a handler for a signal that carries the
// watchdog's address; so there is no static state.
#include "dist/watchdog.h"

#include <errno.h>
#include <execinfo.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/memory.h"
#include "base/signals.h"
#include "dist/comm.h"
#include "dist/flight.h"

enum {
  INTERVAL_MAX_MS = 100, // a failed peer is seen within it
  INTERVAL_MIN_MS = 5,
  LATE_INTERVALS = 4, // a wake-up later than so many intervals means that we were stopped
  GRACE_MS = 1000, // for other ranks to write their flight files before this one brings them down
  SECOND_STOP_MS = 1000, // requests closer together than this are one, sent by several parties
  STACK_WAIT_MS = 500,
};

struct Watchdog {
  WatchdogDesc desc;
  Flight flight;
  atomic_int saves;

  pthread_t thread, trainee;
  pthread_mutex_t mutex;
  pthread_cond_t wake;
  // under mutex
  bool stopping;
  Comm *comm;         // NULL: none to watch
  const char *reason; // of the training thread to leave; it stays there

  // the thread's own
  int64_t interval_ms;
  double idle_s, stop_age_s;
  int64_t seen; // of flight.count
  int seen_stops;
  bool stop_again;
  bool flight_written;

  // written in the signal handler by the training thread
  struct sigaction previous;
  atomic_bool stack_taken;
  atomic_bool leaving;
  void *stack[FLIGHT_STACK_CAPACITY];
  int stack_depth;
};

static int stack_signal(void) {
  return SIGRTMAX - 3;
}

// --- what the trainer calls ----------------------------------------------------------------------

void watchdog_progress(Watchdog *watchdog, int64_t step, const char *phase) {
  if (watchdog != NULL) flight_record(&watchdog->flight, step, phase);
}

void watchdog_save_begin(Watchdog *watchdog) {
  if (watchdog != NULL) atomic_fetch_add(&watchdog->saves, 1);
}

void watchdog_save_end(Watchdog *watchdog) {
  if (watchdog != NULL) atomic_fetch_sub(&watchdog->saves, 1);
}

// --- leaving -------------------------------------------------------------------------------------

static void on_stack_signal(int number, siginfo_t *info, void *context) {
  (void)number;
  (void)context;
  if (info->si_code != SI_QUEUE || info->si_pid != getpid()) return; // not from our thread
  Watchdog *watchdog = info->si_value.sival_ptr;
  int error = errno;
  watchdog->stack_depth = backtrace(watchdog->stack, FLIGHT_STACK_CAPACITY);
  atomic_store(&watchdog->stack_taken, true);
  while (atomic_load(&watchdog->leaving)) clock_sleep_ms(1000);
  errno = error;
}

// The training thread's stack; empty where it does not answer, as in uninterruptible I/O. When we
// are leaving, that thread stays in its handler: aborting the transport would let it go on with
// sums that are none.
static int take_stack(Watchdog *watchdog) {
  union sigval value = {.sival_ptr = watchdog};
  atomic_store(&watchdog->stack_taken, false);
  if (pthread_sigqueue(watchdog->trainee, stack_signal(), value) != 0) return 0;
  for (int waited = 0; waited < STACK_WAIT_MS; waited += 5) {
    if (atomic_load(&watchdog->stack_taken)) return watchdog->stack_depth;
    clock_sleep_ms(5);
  }
  return 0;
}

static void write_flight(Watchdog *watchdog, const char *reason) {
  const WatchdogDesc *desc = &watchdog->desc;
  if (watchdog->flight_written) return;
  watchdog->flight_written = true;
  FlightReport report = {
      .program = desc->program,
      .host = desc->host,
      .run_dir = desc->run_dir,
      .rank = desc->rank,
      .reason = reason,
      .idle_s = watchdog->idle_s,
      .stack = watchdog->stack,
      .stack_depth = take_stack(watchdog),
  };
  if (flight_write(&watchdog->flight, &report) != STATUS_OK)
    (void)fprintf(stderr, "%s: %s rank %d: %s\n", desc->program, desc->host, desc->rank,
                  status_message());
}

static _Noreturn void leave(Watchdog *watchdog, const char *reason) {
  const WatchdogDesc *desc = &watchdog->desc;
  char line[1024];
  FlightEvent last = flight_last(&watchdog->flight);
  int length =
      snprintf(line, sizeof line,
               "%s: %s rank %d: %s, at step %lld in '%s': leaving with exit code %d, start "
               "again to continue; see %s/flight.%d.json\n",
               desc->program, desc->host, desc->rank, reason, (long long)last.step, last.phase,
               STATUS_STOPPED, desc->run_dir, desc->rank);
  if (length >= (int)sizeof line) length = (int)sizeof line - 1;
  ssize_t written = write(STDERR_FILENO, line, (size_t)length);
  (void)written; // nobody is left to be told
  atomic_store(&watchdog->leaving, true);
  if (watchdog->flight_written)
    (void)take_stack(watchdog);
  else
    write_flight(watchdog, reason);
  comm_abort(watchdog->comm); // under the mutex, or nobody else is left to change it
  clock_sleep_ms(GRACE_MS);
  _exit(STATUS_STOPPED);
}

static _Noreturn void leave_after(Watchdog *watchdog, const char *what, double seconds) {
  char reason[96];
  (void)snprintf(reason, sizeof reason, "%s for %.1f s", what, seconds);
  leave(watchdog, reason);
}

void watchdog_watch(Watchdog *watchdog, Comm *comm) {
  if (watchdog == NULL) return;
  (void)pthread_mutex_lock(&watchdog->mutex);
  watchdog->comm = comm;
  (void)pthread_mutex_unlock(&watchdog->mutex);
}

void watchdog_leave(Watchdog *watchdog, const char *reason) {
  (void)pthread_mutex_lock(&watchdog->mutex);
  watchdog->reason = reason;
  (void)pthread_cond_signal(&watchdog->wake);
  (void)pthread_mutex_unlock(&watchdog->mutex);
  for (;;) clock_sleep_ms(1000);
}

// --- the thread ----------------------------------------------------------------------------------

// Sleeps one interval; true when watchdog_stop was called.
static bool sleep_interval(Watchdog *watchdog) {
  struct timespec until;
  (void)clock_gettime(CLOCK_MONOTONIC, &until);
  int64_t ns = until.tv_nsec + watchdog->interval_ms * 1000000;
  until.tv_sec += (time_t)(ns / 1000000000);
  until.tv_nsec = (long)(ns % 1000000000);
  (void)pthread_mutex_lock(&watchdog->mutex);
  int result = 0;
  while (!watchdog->stopping && !watchdog->reason && result == 0)
    result = pthread_cond_timedwait(&watchdog->wake, &watchdog->mutex, &until);
  bool stopping = watchdog->stopping;
  (void)pthread_mutex_unlock(&watchdog->mutex);
  return stopping;
}

static void check_progress(Watchdog *watchdog, double elapsed_s) {
  double timeout_s = watchdog->desc.timeout_s;
  int64_t count = flight_count(&watchdog->flight);
  watchdog->idle_s = count == watchdog->seen ? watchdog->idle_s + elapsed_s : 0;
  watchdog->seen = count;
  if (timeout_s > 0 && watchdog->idle_s >= timeout_s)
    leave_after(watchdog, "no progress", watchdog->idle_s);
}

static void check_stop(Watchdog *watchdog, double elapsed_s) {
  const WatchdogDesc *desc = &watchdog->desc;
  int requests = signals_stop_count();
  if (requests == 0) return;
  watchdog->stop_age_s += elapsed_s;
  if (requests > watchdog->seen_stops && watchdog->stop_age_s * 1000 >= SECOND_STOP_MS)
    watchdog->stop_again = true;
  watchdog->seen_stops = requests;
  // Another rank ran out of time first and the launcher is ending the job: leave our record too.
  if (desc->timeout_s > 0 && watchdog->idle_s >= desc->timeout_s / 2)
    write_flight(watchdog, "asked to stop after no progress");
  if (atomic_load(&watchdog->saves) > 0) return;
  if (desc->stop_deadline_s > 0 && watchdog->stop_age_s >= desc->stop_deadline_s)
    leave_after(watchdog, "a request to stop went unanswered", watchdog->stop_age_s);
  if (watchdog->stop_again)
    leave_after(watchdog, "a second request to stop came, the first had waited",
                watchdog->stop_age_s);
}

// The mutex keeps the transport from being closed meanwhile.
static void check_transport(Watchdog *watchdog) {
  (void)pthread_mutex_lock(&watchdog->mutex);
  if (watchdog->reason) leave(watchdog, watchdog->reason);
  if (comm_check(watchdog->comm) != STATUS_OK) leave(watchdog, status_message());
  (void)pthread_mutex_unlock(&watchdog->mutex);
}

static void *watch(void *argument) {
  Watchdog *watchdog = argument;
  int64_t last_ns = clock_now_ns();
  while (!sleep_interval(watchdog)) {
    int64_t now_ns = clock_now_ns();
    int64_t most_ns = LATE_INTERVALS * watchdog->interval_ms * 1000000;
    int64_t elapsed_ns = now_ns - last_ns < most_ns ? now_ns - last_ns : most_ns;
    last_ns = now_ns;
    check_transport(watchdog);
    check_progress(watchdog, (double)elapsed_ns * 1e-9);
    check_stop(watchdog, (double)elapsed_ns * 1e-9);
  }
  return NULL;
}

static int64_t interval_for(const WatchdogDesc *desc) {
  double ms = INTERVAL_MAX_MS;
  if (desc->timeout_s > 0) ms = fmin(ms, desc->timeout_s * 1000 / 16);
  if (desc->stop_deadline_s > 0) ms = fmin(ms, desc->stop_deadline_s * 1000 / 16);
  return (int64_t)fmax(ms, INTERVAL_MIN_MS);
}

static Status init_locks(Watchdog *watchdog) {
  pthread_condattr_t attributes;
  int error = pthread_condattr_init(&attributes);
  if (error == 0) error = pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
  if (error == 0) error = pthread_cond_init(&watchdog->wake, &attributes);
  if (error == 0) error = pthread_mutex_init(&watchdog->mutex, NULL);
  if (error == 0) return STATUS_OK;
  errno = error;
  return status_set_errno(STATUS_OS, "watchdog");
}

static Status start_thread(Watchdog *watchdog) {
  sigset_t all, before; // signals are for the training thread
  (void)sigfillset(&all);
  (void)pthread_sigmask(SIG_SETMASK, &all, &before);
  int error = pthread_create(&watchdog->thread, NULL, watch, watchdog);
  (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
  if (error == 0) return STATUS_OK;
  errno = error;
  return status_set_errno(STATUS_OS, "cannot start the watchdog's thread");
}

Status watchdog_start(Watchdog **out, const WatchdogDesc *desc) {
  *out = NULL;
  Status status = STATUS_OK;
  Watchdog *watchdog = NULL;
  TRY(memory_alloc(&watchdog, 1, sizeof *watchdog));
  watchdog->desc = *desc;
  watchdog->trainee = pthread_self();
  watchdog->interval_ms = interval_for(desc);
  (void)backtrace(watchdog->stack, 1); // loads its library now, where allocating is safe
  GUARD(init_locks(watchdog));
  struct sigaction action;
  memset(&action, 0, sizeof action);
  action.sa_sigaction = on_stack_signal;
  action.sa_flags = SA_SIGINFO | SA_RESTART;
  (void)sigemptyset(&action.sa_mask);
  if (sigaction(stack_signal(), &action, &watchdog->previous) != 0) {
    status = status_set_errno(STATUS_OS, "watchdog: cannot handle its signal");
    goto out;
  }
  GUARD(start_thread(watchdog));
  *out = watchdog;
  watchdog = NULL;
out:
  memory_free(watchdog);
  return status;
}

void watchdog_stop(Watchdog *watchdog) {
  if (watchdog == NULL) return;
  (void)pthread_mutex_lock(&watchdog->mutex);
  watchdog->stopping = true;
  (void)pthread_cond_signal(&watchdog->wake);
  (void)pthread_mutex_unlock(&watchdog->mutex);
  (void)pthread_join(watchdog->thread, NULL);
  (void)sigaction(stack_signal(), &watchdog->previous, NULL);
  (void)pthread_cond_destroy(&watchdog->wake);
  (void)pthread_mutex_destroy(&watchdog->mutex);
  memory_free(watchdog);
}
