// Requests to stop, as sticky flags. See signals.h.
#include "base/signals.h"

#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>

static atomic_int stop_count;
static atomic_int last_stop;

static void on_stop(int number) {
  atomic_fetch_add(&stop_count, 1);
  atomic_store(&last_stop, number);
}

void signals_survive_file_limit(void) {
  (void)signal(SIGXFSZ, SIG_IGN);
}

Status signals_install(void) {
  static const int stops[] = {SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2};
  struct sigaction action, before;
  memset(&action, 0, sizeof action);
  action.sa_handler = on_stop;
  action.sa_flags = SA_RESTART;
  (void)sigemptyset(&action.sa_mask);
  for (size_t i = 0; i < sizeof stops / sizeof *stops; i++) {
    bool failed = sigaction(stops[i], NULL, &before) != 0;
    bool stays = stops[i] == SIGHUP && before.sa_handler == SIG_IGN;
    if (failed || (!stays && sigaction(stops[i], &action, NULL) != 0))
      return status_set_errno(STATUS_OS, "cannot handle signal %d", stops[i]);
  }
  action.sa_handler = SIG_IGN;
  if (sigaction(SIGPIPE, &action, NULL) != 0)
    return status_set_errno(STATUS_OS, "cannot ignore SIGPIPE");
  return STATUS_OK;
}

int signals_stop_count(void) {
  return atomic_load(&stop_count);
}
int signals_last_stop(void) {
  return atomic_load(&last_stop);
}
