// The lock of a run's folder. See run_lock.h.
#include "train/run_lock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/memory.h"
#include "train/run_folder.h"

enum { RETRY_MS = 100, HOLDER_CAPACITY = 128 };
// A rank that was killed may take as long to be gone, the second on a busy host.
static const double wait_s = 3.0, requeued_wait_s = 15.0;

typedef enum Answer { TAKEN, HELD, NO_LOCKS } Answer;

static bool is_unsupported(int error) {
  return error == ENOLCK || error == EOPNOTSUPP || error == ENOSYS || error == EINVAL;
}

// Network file systems may know fcntl's locks alone.
static Answer try_lock(int fd) {
  if (flock(fd, LOCK_EX | LOCK_NB) == 0) return TAKEN;
  if (!is_unsupported(errno)) return HELD;
  struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
  if (fcntl(fd, F_SETLK, &whole) == 0) return TAKEN;
  return is_unsupported(errno) ? NO_LOCKS : HELD;
}

static double patience_s(void) {
  const char *restarts = getenv("SLURM_RESTART_COUNT");
  return restarts && atoi(restarts) > 0 ? requeued_wait_s : wait_s;
}

static Answer wait_for_lock(int fd) {
  double end_s = clock_now_s() + patience_s();
  for (;;) {
    Answer answer = try_lock(fd);
    if (answer != HELD || clock_now_s() >= end_s) return answer;
    clock_sleep_ms(RETRY_MS);
  }
}

// What the file says is for people alone: no harm where it cannot be written.
static void write_holder(int fd, const char *host) {
  char text[HOLDER_CAPACITY];
  int length = snprintf(text, sizeof text, "process %ld on %s\n", (long)getpid(), host);
  if (ftruncate(fd, 0) == 0) (void)!pwrite(fd, text, (size_t)length, 0);
}

static Status say_held(int fd, const char *path) {
  char holder[HOLDER_CAPACITY] = "";
  ssize_t length = pread(fd, holder, sizeof holder - 1, 0);
  holder[length > 0 ? strcspn(holder, "\n") : 0] = '\0';
  return status_set(
      STATUS_CANT_CREATE,
      "%s: another run works in this folder%s%s; wait for its end or stop it, or name "
      "another [run] output",
      path, holder[0] ? ": " : "", holder);
}

static Status take(int *lock, const char *path, World *world, Log *log) {
  int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NONBLOCK, 0666);
  if (fd < 0) return status_set_errno(STATUS_CANT_CREATE, "%s: cannot be written", path);
  Status status = STATUS_OK;
  switch (wait_for_lock(fd)) {
  case TAKEN:
    write_holder(fd, world->host);
    *lock = fd;
    return STATUS_OK;
  case HELD:
    status = say_held(fd, path);
    break;
  case NO_LOCKS:
    log_warning(log, "%s: this file system has no locks: let no other run use the folder", path);
    break;
  }
  (void)close(fd);
  return status;
}

static Status lock_folder(int *lock, const char *folder, World *world, Log *log) {
  char *path;
  TRY(run_folder_make(folder));
  TRY(memory_print_string(&path, "%s/run.lock", folder));
  Status status = take(lock, path, world, log);
  memory_free(path);
  return status;
}

Status run_lock_take(int *lock, const Config *config, World *world, Log *log) {
  *lock = -1;
  Status status = world->rank == 0 ? lock_folder(lock, config->run.output, world, log) : STATUS_OK;
  return world_agree_status(world, status);
}

void run_lock_release(int lock) {
  if (lock >= 0) (void)close(lock);
}
