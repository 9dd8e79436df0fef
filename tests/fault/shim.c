// A library to preload that lets the k-th call of some functions fail, for test_faults.py.
//
//   FAULT_CALLS   names of functions, "malloc,calloc,realloc"
//   FAULT_AT      which of these calls fails, from 1; counted together
//   FAULT_ERRNO   the errno it fails with; for read and write 0 means: moves half of the bytes
//   FAULT_LASTS   "1": all later ones fail too, as on a full disk
//   FAULT_REPORT  a file that is made when a call fails
//
// Only calls that our own program makes count, not those that libraries make among themselves.
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *calls, *report;
static long at;
static int error_number;
static bool lasts;
static atomic_long count;
static uintptr_t program_begin, program_end;

static int find_program(struct dl_phdr_info *info, size_t size, void *context) {
  (void)size, (void)context;
  for (int i = 0; i < info->dlpi_phnum; i++) {
    const ElfW(Phdr) *part = &info->dlpi_phdr[i];
    if (part->p_type != PT_LOAD || !(part->p_flags & PF_X)) continue;
    program_begin = info->dlpi_addr + part->p_vaddr;
    program_end = program_begin + part->p_memsz;
  }
  return 1; // the first object is the program
}

__attribute__((constructor)) static void begin(void) {
  const char *text = getenv("FAULT_AT");
  at = text ? atol(text) : 0;
  text = getenv("FAULT_ERRNO");
  error_number = text ? atoi(text) : EIO;
  lasts = getenv("FAULT_LASTS") != NULL;
  report = getenv("FAULT_REPORT");
  (void)dl_iterate_phdr(find_program, NULL);
  calls = getenv("FAULT_CALLS");
}

static bool is_wanted(const char *name) {
  size_t length = strlen(name);
  for (const char *c = calls; c && *c;) {
    size_t part = strcspn(c, ",");
    if (part == length && memcmp(c, name, length) == 0) return true;
    c += part + (c[part] == ',');
  }
  return false;
}

// Whether this call, which returns to `caller`, is to fail; sets errno then.
static bool fails(const char *name, void *caller) {
  uintptr_t place = (uintptr_t)caller;
  if (place < program_begin || place >= program_end || !is_wanted(name)) return false;
  long number = atomic_fetch_add(&count, 1) + 1;
  if (at == 0 || (lasts ? number < at : number != at)) return false;
  static int (*real_open)(const char *, int, ...);
  if (!real_open) *(void **)&real_open = dlsym(RTLD_NEXT, "open");
  int fd = report ? real_open(report, O_WRONLY | O_CREAT | O_CLOEXEC, 0666) : -1;
  if (fd >= 0) (void)close(fd);
  errno = error_number;
  return true;
}

// SHIM(RESULT, NAME, FAILED, PARAMETERS, ARGUMENTS)
#define SHIM(result, name, failed, parameters, arguments)                                          \
  result name parameters {                                                                         \
    static result(*real) parameters;                                                               \
    if (!real) *(void **)&real = dlsym(RTLD_NEXT, #name);                                          \
    return fails(#name, __builtin_return_address(0)) ? failed : real arguments;                    \
  }

// dlsym itself may want memory before the real allocator is known.
static char early[4096];
static size_t early_used;

static void *early_block(size_t size) {
  size_t begin_at = early_used;
  early_used += (size + 15) / 16 * 16;
  return early_used <= sizeof early ? early + begin_at : NULL;
}

static bool is_early(const void *block) {
  return (const char *)block >= early && (const char *)block < early + sizeof early;
}

static void *(*real_calloc)(size_t, size_t);

void *calloc(size_t number, size_t size) {
  static bool looking;
  if (!real_calloc) {
    if (looking) return early_block(number * size);
    looking = true;
    *(void **)&real_calloc = dlsym(RTLD_NEXT, "calloc");
    looking = false;
  }
  return fails("calloc", __builtin_return_address(0)) ? NULL : real_calloc(number, size);
}

void free(void *block) {
  static void (*real)(void *);
  if (is_early(block)) return;
  if (!real) *(void **)&real = dlsym(RTLD_NEXT, "free");
  real(block);
}

SHIM(void *, malloc, NULL, (size_t size), (size))
SHIM(void *, realloc, NULL, (void *block, size_t size), (block, size))
SHIM(void *, aligned_alloc, NULL, (size_t alignment, size_t size), (alignment, size))
SHIM(char *, strdup, NULL, (const char *text), (text))
SHIM(int, fsync, -1, (int fd), (fd))
SHIM(int, rename, -1, (const char *from, const char *to), (from, to))
SHIM(int, symlink, -1, (const char *target, const char *path), (target, path))
SHIM(int, mkdir, -1, (const char *path, mode_t mode), (path, mode))
SHIM(int, ftruncate, -1, (int fd, off_t size), (fd, size))
SHIM(int, fallocate, -1, (int fd, int mode, off_t offset, off_t size), (fd, mode, offset, size))
SHIM(int, fstat, -1, (int fd, struct stat *info), (fd, info))
SHIM(DIR *, opendir, NULL, (const char *path), (path))
SHIM(DIR *, fdopendir, NULL, (int fd), (fd))
SHIM(struct dirent *, readdir, NULL, (DIR * stream), (stream))
SHIM(void *, mmap, MAP_FAILED,
     (void *place, size_t size, int protection, int flags, int fd, off_t offset),
     (place, size, protection, flags, fd, offset))
SHIM(FILE *, fopen, NULL, (const char *path, const char *mode), (path, mode))
SHIM(pid_t, fork, -1, (void), ())
SHIM(int, pthread_create, EAGAIN,
     (pthread_t * thread, const pthread_attr_t *attributes, void *(*start)(void *), void *context),
     (thread, attributes, start, context))
SHIM(int, pipe2, -1, (int fds[2], int flags), (fds, flags))
SHIM(int, memfd_create, -1, (const char *name, unsigned flags), (name, flags))

// As many of `size` bytes as a call moves that is not to fail altogether.
static size_t short_size(size_t size) {
  return size > 1 ? size / 2 : size;
}

// SHIM_IO: as SHIM; with FAULT_ERRNO=0 the call is cut short instead, which is no failure.
#define SHIM_IO(name, parameters, full, halved)                                                    \
  ssize_t name parameters {                                                                        \
    static ssize_t(*real) parameters;                                                              \
    if (!real) *(void **)&real = dlsym(RTLD_NEXT, #name);                                          \
    if (!fails(#name, __builtin_return_address(0))) return real full;                              \
    return error_number == 0 ? real halved : -1;                                                   \
  }
SHIM_IO(read, (int fd, void *to, size_t size), (fd, to, size), (fd, to, short_size(size)))
SHIM_IO(pread, (int fd, void *to, size_t size, off_t offset), (fd, to, size, offset),
        (fd, to, short_size(size), offset))
SHIM_IO(write, (int fd, const void *from, size_t size), (fd, from, size),
        (fd, from, short_size(size)))
SHIM_IO(pwrite, (int fd, const void *from, size_t size, off_t offset), (fd, from, size, offset),
        (fd, from, short_size(size), offset))

// A file is closed even where close reports an error.
int close(int fd) {
  static int (*real)(int);
  if (!real) *(void **)&real = dlsym(RTLD_NEXT, "close");
  int result = real(fd);
  return fails("close", __builtin_return_address(0)) ? -1 : result;
}

int open(const char *path, int flags, ...) {
  static int (*real)(const char *, int, ...);
  if (!real) *(void **)&real = dlsym(RTLD_NEXT, "open");
  va_list rest;
  va_start(rest, flags);
  mode_t mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0;
  va_end(rest);
  return fails("open", __builtin_return_address(0)) ? -1 : real(path, flags, mode);
}

int openat(int folder, const char *path, int flags, ...) {
  static int (*real)(int, const char *, int, ...);
  if (!real) *(void **)&real = dlsym(RTLD_NEXT, "openat");
  va_list rest;
  va_start(rest, flags);
  mode_t mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0;
  va_end(rest);
  return fails("openat", __builtin_return_address(0)) ? -1 : real(folder, path, flags, mode);
}
