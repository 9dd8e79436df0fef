// Reads /proc/self/status. See process.h; the planner of a job and its reports ask.
#include "base/process.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static size_t read_field(const char *name) {
  FILE *file = fopen("/proc/self/status", "r");
  if (!file) return 0;
  char line[256];
  size_t length = strlen(name), kib = 0;
  while (kib == 0 && fgets(line, sizeof line, file))
    if (strncmp(line, name, length) == 0) kib = strtoul(line + length, NULL, 10);
  (void)fclose(file);
  return kib * 1024;
}

size_t process_memory_held(void) {
  return read_field("VmRSS:");
}

size_t process_memory_peak(void) {
  return read_field("VmHWM:");
}
