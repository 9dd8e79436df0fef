// A place where a test stops the program for a minute. See hold.h.
#include "base/hold.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"

void hold_for_test(const char *point, const char *path) {
  const char *wanted = getenv("IMGCLS_TEST_HOLD");
  size_t length = strlen(point);
  if (!wanted || strncmp(wanted, point, length) != 0 || wanted[length] != ':') return;
  if (!strstr(path, wanted + length + 1)) return;
  (void)fprintf(stderr, "held at %s of %s\n", point, path);
  clock_sleep_ms(60000);
}
