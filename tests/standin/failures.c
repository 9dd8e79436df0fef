// Which call of a stand-in fails, and how one refuses what it does not know. See standin.h.
#include <execinfo.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "standin.h"

static int number_of(const char *variable) {
  const char *text = getenv(variable);
  return text ? atoi(text) : 0;
}

// --- places ---------------------------------------------------------------------------------------
// A place is a call and the three functions that led to it: a wrapper is as many places as it has
// users.

enum { PLACES_MAX = 4096, OWN_FRAMES = 2, FRAMES = OWN_FRAMES + 4 };

static bool is_new_place(void) {
  static uint64_t known[PLACES_MAX];
  static int count;
  void *frames[FRAMES];
  uint64_t place = 14695981039346656037u;
  int depth = backtrace(frames, FRAMES);
  for (int i = OWN_FRAMES; i < depth; i++) place = (place ^ (uintptr_t)frames[i]) * 1099511628211u;
  for (int i = 0; i < count; i++)
    if (known[i] == place) return false;
  if (count == PLACES_MAX) standin_unknown("more than %d places that call", PLACES_MAX);
  known[count++] = place;
  return true;
}

// Leaves a note of the failure, for the test to know that there was one.
static void tell(void) {
  const char *path = getenv("STANDIN_REPORT");
  FILE *file = path ? fopen(path, "w") : NULL;
  if (!file) return;
  void *frames[FRAMES + 4];
  int depth = backtrace(frames, FRAMES + 4);
  fflush(file);
  backtrace_symbols_fd(frames + OWN_FRAMES, depth - OWN_FRAMES, fileno(file));
  fclose(file);
}

bool standin_call_fails(void) {
  static int calls, places, recorded, failing_call = -1, failing_place, failing_recorded;
  if (failing_call < 0) {
    failing_call = number_of("STANDIN_FAIL");
    failing_recorded = number_of("STANDIN_FAIL_RECORDING");
    failing_place = number_of("STANDIN_FAIL_PLACE");
  }
  bool fails = failing_place > 0 && places < failing_place && is_new_place() &&
               ++places == failing_place;
  fails |= failing_call > 0 && __atomic_add_fetch(&calls, 1, __ATOMIC_RELAXED) == failing_call;
  fails |= failing_recorded > 0 && standin_is_recording() && ++recorded == failing_recorded;
  if (fails) tell();
  return fails;
}

void standin_unknown(const char *format, ...) {
  va_list list;
  va_start(list, format);
  fprintf(stderr, "stand-in: ");
  vfprintf(stderr, format, list);
  fprintf(stderr, "\n");
  va_end(list);
  abort();
}

int status_set(int code, const char *format, ...); // of base/status.h

int standin_missing(const char *file) { return status_set(78, "stand-in: no %s", file); }
