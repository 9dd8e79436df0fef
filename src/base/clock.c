// Time. See clock.h.
#include "base/clock.h"

#include <errno.h>
#include <time.h>

int64_t clock_now_ns(void) {
  struct timespec now;
  (void)clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

double clock_now_s(void) { return (double)clock_now_ns() * 1e-9; }

double clock_wall_s(void) {
  struct timespec now;
  (void)clock_gettime(CLOCK_REALTIME, &now);
  return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

void clock_sleep_ms(int64_t ms) {
  struct timespec left = {.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000};
  while (nanosleep(&left, &left) != 0 && errno == EINTR) {}
}

void clock_format_utc(char *text, size_t capacity) {
  time_t now = time(NULL);
  struct tm parts;
  (void)gmtime_r(&now, &parts);
  if (strftime(text, capacity, "%Y-%m-%dT%H:%M:%SZ", &parts) == 0 && capacity > 0) text[0] = '\0';
}
