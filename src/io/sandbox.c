// A child process as a wall around code that may crash. h5.c is the caller.
//
// The child hands its result over in a memory file, which begins with a header that is written
// last: whatever happens to the child, the parent sees a complete result or none. A pipe that only
// the child holds open tells when it has ended.
#include "io/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/memory.h"

enum { RESULT_COMPLETE = 0x1395a11, MESSAGE_CAPACITY = 1024, EXIT_OUT_OF_MEMORY = 3 };

typedef struct ResultHeader {
  uint32_t complete; // RESULT_COMPLETE
  int32_t status;
  uint64_t size_bytes; // of the result, which follows
  char message[MESSAGE_CAPACITY];
} ResultHeader;

static bool write_all(int fd, const void *data, size_t size, off_t offset) {
  const char *bytes = data;
  while (size > 0) {
    ssize_t written = pwrite(fd, bytes, size, offset);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return false;
    bytes += written;
    offset += written;
    size -= (size_t)written;
  }
  return true;
}

static bool read_all(int fd, void *data, size_t size, off_t offset) {
  char *bytes = data;
  while (size > 0) {
    ssize_t got = pread(fd, bytes, size, offset);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return false;
    bytes += got;
    offset += got;
    size -= (size_t)got;
  }
  return true;
}

// What the address space holds now, 0 where /proc does not tell.
static size_t address_space_bytes(void) {
  unsigned long pages = 0;
  FILE *file = fopen("/proc/self/statm", "re");
  if (!file) return 0;
  if (fscanf(file, "%lu", &pages) != 1) pages = 0;
  (void)fclose(file);
  return (size_t)pages * (size_t)sysconf(_SC_PAGESIZE);
}

// False where a limit of the user's is lower.
static bool set_limit(__rlimit_resource_t resource, rlim_t value) {
  struct rlimit limit;
  if (getrlimit(resource, &limit) != 0) return true;
  if (limit.rlim_cur != RLIM_INFINITY && value > limit.rlim_cur) return false;
  limit = (struct rlimit){.rlim_cur = value, .rlim_max = value};
  (void)setrlimit(resource, &limit);
  return true;
}

// No signal but those of the task's own faults, no core files, nothing on standard error, bounded
// memory and time. Returns whether the task may have all the memory of `limits`.
static bool confine(const SandboxLimits *limits) {
  static const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGXCPU};
  for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) (void)signal(faults[i], SIG_DFL);
  // A request to stop goes to the whole group of processes. It is the parent's to answer: a child
  // that ended by it would look like a damaged file.
  static const int requests[] = {SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2};
  for (size_t i = 0; i < sizeof requests / sizeof *requests; i++)
    (void)signal(requests[i], SIG_IGN);
  sigset_t none;
  (void)sigemptyset(&none);
  (void)sigprocmask(SIG_SETMASK, &none, NULL);
  (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
  int null_fd = open("/dev/null", O_WRONLY | O_CLOEXEC);
  if (null_fd >= 0) (void)dup2(null_fd, STDERR_FILENO);
  (void)set_limit(RLIMIT_CORE, 0);
  (void)set_limit(RLIMIT_CPU, (rlim_t)limits->deadline_s + 1);
  size_t held = address_space_bytes();
  return held == 0 || set_limit(RLIMIT_AS, (rlim_t)(held + limits->memory_bytes));
}

static _Noreturn void run_child(int result_fd, const SandboxLimits *limits, SandboxTask task,
                                void *context) {
  bool has_all = confine(limits);
  uint8_t *result = NULL;
  size_t size_bytes = 0;
  Status status = task(&result, &size_bytes, context);
  // Memory was there for any sound file: what wants more is the cause itself.
  if (status == STATUS_OS && has_all) status = STATUS_DATA;
  ResultHeader header = {.complete = RESULT_COMPLETE, .status = (int32_t)status};
  if (status != STATUS_OK) {
    (void)snprintf(header.message, sizeof header.message, "%s", status_message());
  } else {
    header.size_bytes = size_bytes;
    if (!write_all(result_fd, result, size_bytes, (off_t)sizeof header)) _exit(EXIT_OUT_OF_MEMORY);
  }
  if (!write_all(result_fd, &header, sizeof header, 0)) _exit(EXIT_OUT_OF_MEMORY);
  _exit(0);
}

// Waits until the child has closed its end of the pipe. False when the deadline passed first.
static bool wait_for_end(int pipe_fd, double deadline_s) {
  double end_s = clock_now_s() + deadline_s;
  for (;;) {
    double left_s = end_s - clock_now_s();
    if (left_s <= 0) return false;
    struct pollfd wanted = {.fd = pipe_fd, .events = POLLIN};
    int ready = poll(&wanted, 1, (int)(left_s * 1000) + 1);
    if (ready > 0) return true;
    if (ready < 0 && errno != EINTR) return false;
  }
}

static Status take_result(uint8_t **result, size_t *size_bytes, int result_fd, int wait_status,
                          const char *what) {
  ResultHeader header;
  if (!read_all(result_fd, &header, sizeof header, 0) || header.complete != RESULT_COMPLETE) {
    if (WIFSIGNALED(wait_status) && WTERMSIG(wait_status) == SIGKILL)
      return status_set(STATUS_OS, "%s: its reader was killed, as is done where memory runs out",
                        what);
    if (WIFSIGNALED(wait_status))
      return status_set(STATUS_DATA, "%s: crashed its reader (signal %d): the file is damaged",
                        what, WTERMSIG(wait_status));
    if (WEXITSTATUS(wait_status) == EXIT_OUT_OF_MEMORY)
      return status_set(STATUS_OS, "%s: out of memory for what its reader made of it", what);
    return status_set(STATUS_DATA, "%s: ended its reader: the file is damaged", what);
  }
  if (header.status != STATUS_OK) {
    header.message[sizeof header.message - 1] = '\0';
    return status_set((Status)header.status, "%s", header.message);
  }
  uint8_t *bytes;
  TRY(memory_alloc(&bytes, header.size_bytes, 1));
  if (!read_all(result_fd, bytes, header.size_bytes, (off_t)sizeof header)) {
    memory_free(bytes);
    return status_set(STATUS_INTERNAL, "%s: cannot take over what its reader made", what);
  }
  *result = bytes;
  *size_bytes = header.size_bytes;
  return STATUS_OK;
}

Status sandbox_run(uint8_t **result, size_t *size_bytes, const SandboxLimits *limits,
                   SandboxTask task, void *context, const char *what) {
  *result = NULL;
  *size_bytes = 0;
  Status status = STATUS_OK;
  int end[2] = {-1, -1};
  int wait_status = 0;
  int result_fd = memfd_create("imgcls-sandbox", MFD_CLOEXEC);
  if (result_fd < 0) return status_set_errno(STATUS_OS, "cannot make a memory file");
  if (pipe2(end, O_CLOEXEC) != 0) {
    status = status_set_errno(STATUS_OS, "cannot make a pipe");
    goto out;
  }
  pid_t child = fork();
  if (child < 0) {
    status = status_set_errno(STATUS_OS, "%s: cannot start a process to read it", what);
    goto out;
  }
  if (child == 0) run_child(result_fd, limits, task, context);
  (void)close(end[1]);
  end[1] = -1;
  bool ended = wait_for_end(end[0], limits->deadline_s);
  if (!ended) (void)kill(child, SIGKILL);
  // ECHILD where this process ignores SIGCHLD: the result still tells whether it is complete.
  while (waitpid(child, &wait_status, 0) < 0 && errno == EINTR) continue;
  if (!ended) {
    status = status_set(STATUS_DATA, "%s: not read within %.0f s: the file is damaged", what,
                        limits->deadline_s);
    goto out;
  }
  status = take_result(result, size_bytes, result_fd, wait_status, what);
out:
  if (end[0] >= 0) (void)close(end[0]);
  if (end[1] >= 0) (void)close(end[1]);
  (void)close(result_fd);
  return status;
}
