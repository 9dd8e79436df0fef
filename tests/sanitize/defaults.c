// Linked into every program of a sanitizer build: what the sanitizers must know about libraries
// that are not ours. No line here may name a function or a file of this project.
#include <dlfcn.h>

const char *__asan_default_options(void);
const char *__lsan_default_options(void);
const char *__lsan_default_suppressions(void);
const char *__tsan_default_options(void);
const char *__tsan_default_suppressions(void);
const char *__ubsan_default_options(void);

// Open MPI unloads its modules at the end. LeakSanitizer could then no longer tell whose a leaked
// block was, so nothing is unloaded.
int dlclose(void *handle) {
  (void)handle;
  return 0;
}

// An allocation that cannot be met returns NULL, as it does without a sanitizer.
const char *__asan_default_options(void) {
  // No detect_stack_use_after_return: gcc 12 lays its false frames out for vectors of 32 bytes at
  // most.
  return "allocator_may_return_null=1:strict_string_checks=1";
}

const char *__ubsan_default_options(void) {
  return "print_stacktrace=1";
}

const char *__lsan_default_options(void) {
  return "print_suppressions=0";
}

// Open MPI and what it loads keep blocks until the process ends. A stack without frame pointers
// ends in the C library where that allocated for them, by functions that our code never calls (all
// of its memory comes from base/memory.c).
const char *__lsan_default_suppressions(void) {
  return "leak:libopen-pal\nleak:libopen-rte\nleak:libmpi\nleak:libpmix\nleak:libevent\n"
         "leak:libhwloc\nleak:mca_\nleak:libucp\nleak:libucs\nleak:libfabric\nleak:libibverbs\n"
         "leak:libnl\nleak:libpsm\nleak:__vasprintf_internal\nleak:__interceptor_strdup\n"
         "leak:__interceptor_asprintf\nleak:__interceptor_vasprintf\n";
}

const char *__tsan_default_options(void) {
  // Open MPI's own locks are taken in more than one order.
  return "detect_deadlocks=0:second_deadlock_stack=1";
}

// Libraries built without ThreadSanitizer, whose atomics and locks it cannot see: GLib's under
// gdk-pixbuf (the BMP reader), the barriers of libgomp, the progress threads of Open MPI.
const char *__tsan_default_suppressions(void) {
  return "called_from_lib:libglib-2.0.so.0\ncalled_from_lib:libgobject-2.0.so.0\n"
         "called_from_lib:libgdk_pixbuf-2.0.so.0\nrace:libglib-2.0.so.0\n"
         "called_from_lib:libgomp.so.1\nrace:libgomp.so.1\n"
         "race:libopen-pal\nrace:libopen-rte\nrace:libmpi\nrace:libpmix\nrace:mca_\n";
}
