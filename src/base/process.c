// Reads /proc and the files of cgroups. See process.h; the planner of a job and its reports ask.
#include "base/process.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PATH_CAPACITY = 4096, LINE_CAPACITY = 4096 };

// The number behind the word `name` at the beginning of a line of a file; `otherwise` where there
// is none. An empty name means a file of one number.
static size_t read_field(const char *path, const char *name, size_t otherwise) {
  FILE *file = fopen(path, "r");
  if (!file) return otherwise;
  char line[LINE_CAPACITY], *end;
  size_t length = strlen(name), found = otherwise;
  while (found == otherwise && fgets(line, sizeof line, file)) {
    if (strncmp(line, name, length) != 0) continue;
    size_t number = strtoul(line + length, &end, 10);
    if (end > line + length) found = number;
  }
  (void)fclose(file);
  return found;
}

size_t process_memory_held(void) {
  return read_field("/proc/self/status", "VmRSS:", 0) * 1024;
}

size_t process_memory_peak(void) {
  return read_field("/proc/self/status", "VmHWM:", 0) * 1024;
}

// The files of the two generations of cgroups.
typedef struct GroupFiles {
  const char *folder, *limit, *usage, *droppable;
} GroupFiles;

static const GroupFiles first_generation = {"/sys/fs/cgroup/memory", "memory.limit_in_bytes",
                                            "memory.usage_in_bytes", "total_inactive_file "};
static const GroupFiles second_generation = {"/sys/fs/cgroup", "memory.max", "memory.current",
                                             "inactive_file "};

static size_t read_group_field(const char *group, const char *file, const char *name,
                               size_t otherwise) {
  char path[PATH_CAPACITY];
  int length = snprintf(path, sizeof path, "%s/%s", group, file);
  if (length < 0 || length >= (int)sizeof path) return otherwise;
  return read_field(path, name, otherwise);
}

// What a group may still take; pages of files that nobody uses are given up first.
static size_t group_available(const GroupFiles *files, const char *group) {
  size_t limit = read_group_field(group, files->limit, "", SIZE_MAX);
  if (limit == SIZE_MAX) return SIZE_MAX;
  size_t usage = read_group_field(group, files->usage, "", 0);
  size_t droppable = read_group_field(group, "memory.stat", files->droppable, 0);
  size_t fixed = usage > droppable ? usage - droppable : 0;
  return limit > fixed ? limit - fixed : 0;
}

// The least over a group and those around it, up to the outermost that is seen here.
static size_t groups_available(const GroupFiles *files, const char *root, char *path) {
  char group[PATH_CAPACITY];
  size_t least = SIZE_MAX;
  for (;;) {
    int length = snprintf(group, sizeof group, "%s%s%s", root, files->folder, path);
    size_t available = length < (int)sizeof group ? group_available(files, group) : SIZE_MAX;
    if (available < least) least = available;
    char *end = strrchr(path, '/');
    if (!end) return least;
    *end = '\0';
  }
}

// Lines of /proc/self/cgroup are "0::/path" for the second generation, "4:memory:/path" for the
// first.
static size_t read_groups(const char *root) {
  char path[PATH_CAPACITY], line[LINE_CAPACITY];
  size_t least = SIZE_MAX;
  (void)snprintf(path, sizeof path, "%s/proc/self/cgroup", root);
  FILE *file = fopen(path, "r");
  while (file && fgets(line, sizeof line, file)) {
    line[strcspn(line, "\n")] = '\0';
    char *names = strchr(line, ':'), *group = names ? strchr(names + 1, ':') : NULL;
    if (!group) continue;
    *group++ = '\0';
    bool is_first = strstr(names, "memory") != NULL, is_second = names[1] == '\0';
    if (!is_first && !is_second) continue;
    size_t available =
        groups_available(is_first ? &first_generation : &second_generation, root, group);
    if (available < least) least = available;
  }
  if (file) (void)fclose(file);
  return least;
}

size_t process_memory_available(const char *root) {
  char path[PATH_CAPACITY];
  (void)snprintf(path, sizeof path, "%s/proc/meminfo", root);
  size_t machine = read_field(path, "MemAvailable:", SIZE_MAX);
  if (machine != SIZE_MAX) machine *= 1024;
  size_t groups = read_groups(root);
  return machine < groups ? machine : groups;
}
