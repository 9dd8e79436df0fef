// Standard output. See output.h.
#include "base/output.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PATH_CAPACITY = 64, LINE_CAPACITY = 512 };

// 0 where it is not known. The name of a program, in parentheses, may hold anything.
static pid_t parent_of(pid_t pid) {
  char path[PATH_CAPACITY], line[LINE_CAPACITY];
  (void)snprintf(path, sizeof path, "/proc/%ld/stat", (long)pid);
  FILE *file = fopen(path, "r");
  if (!file) return 0;
  const char *end = fgets(line, sizeof line, file) ? strrchr(line, ')') : NULL;
  (void)fclose(file);
  int parent = 0;
  return end && sscanf(end, ") %*c %d", &parent) == 1 ? (pid_t)parent : 0;
}

// Opens nothing but a device: a pipe or a file must not notice that it is looked at.
static bool is_terminal(const char *path, const struct stat *info) {
  if (!S_ISCHR(info->st_mode)) return false;
  int fd = open(path, O_WRONLY | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
  bool answer = fd >= 0 && isatty(fd) == 1;
  if (fd >= 0) (void)close(fd);
  return answer;
}

// Goes up to the first process with another output than ours: that is the launcher, past a shell
// or a script that it has started in our place.
static bool launcher_has_terminal(void) {
  struct stat ours, info;
  if (fstat(STDOUT_FILENO, &ours) != 0) return false;
  for (pid_t pid = getppid(); pid > 1; pid = parent_of(pid)) {
    char path[PATH_CAPACITY];
    (void)snprintf(path, sizeof path, "/proc/%ld/fd/%d", (long)pid, STDOUT_FILENO);
    if (stat(path, &info) != 0) return false;
    if (info.st_rdev != ours.st_rdev || info.st_ino != ours.st_ino || info.st_dev != ours.st_dev)
      return is_terminal(path, &info);
  }
  return false;
}

bool output_is_terminal(void) {
  if (isatty(STDOUT_FILENO) != 1) return false;
  return !getenv("OMPI_COMM_WORLD_SIZE") || launcher_has_terminal();
}

Status output_flush(void) {
  bool is_lost = ferror(stdout) != 0; // at an earlier flush, whose errno is gone
  if (fflush(stdout) != 0) return status_set_errno(STATUS_IO, "cannot write to standard output");
  if (is_lost)
    return status_set(STATUS_IO, "cannot write to standard output; free some space where it goes, "
                                 "or let its reader stay");
  return STATUS_OK;
}
