// The events of a rank and their file. See flight.h.
//
// The file is JSON written by hand into a fixed buffer: when it is written, the training thread may
// hold the allocator's lock for ever.
#include "dist/flight.h"

#include <execinfo.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/signals.h"

// --- recording -----------------------------------------------------------------------------------

void flight_record(Flight *flight, int64_t step, const char *phase) {
  int64_t index = atomic_fetch_add_explicit(&flight->count, 1, memory_order_relaxed);
  FlightSlot *slot = &flight->slots[index % FLIGHT_EVENTS];
  atomic_store_explicit(&slot->time_ns, clock_now_ns(), memory_order_relaxed);
  atomic_store_explicit(&slot->step, step, memory_order_relaxed);
  atomic_store_explicit(&slot->phase, phase, memory_order_release);
}

int64_t flight_count(Flight *flight) {
  return atomic_load_explicit(&flight->count, memory_order_relaxed);
}

static FlightEvent event_at(Flight *flight, int64_t index) {
  FlightSlot *slot = &flight->slots[index % FLIGHT_EVENTS];
  FlightEvent event = {.phase = atomic_load_explicit(&slot->phase, memory_order_acquire)};
  event.time_ns = atomic_load_explicit(&slot->time_ns, memory_order_relaxed);
  event.step = atomic_load_explicit(&slot->step, memory_order_relaxed);
  if (event.phase == NULL) event.phase = "start"; // counted, not yet filled
  return event;
}

FlightEvent flight_last(Flight *flight) {
  int64_t count = flight_count(flight);
  return count == 0 ? (FlightEvent){.step = -1, .phase = "start"} : event_at(flight, count - 1);
}

// --- the file ------------------------------------------------------------------------------------

typedef struct Text {
  char *data;
  size_t used, capacity;
} Text;

static void put(Text *text, const char *format, ...) PRINTF_LIKE(2, 3);

static void put(Text *text, const char *format, ...) {
  va_list args;
  va_start(args, format);
  size_t room = text->capacity - text->used;
  int length = vsnprintf(text->data + text->used, room, format, args);
  va_end(args);
  if (length > 0) text->used += (size_t)length < room ? (size_t)length : room - 1;
}

// At most 300 bytes of a JSON string with its quotes. Bytes outside ASCII become '?': names of
// files need not be UTF-8, a JSON file must be.
static void put_string(Text *text, const char *string, size_t length) {
  if (length > 300) length = 300;
  put(text, "\"");
  for (size_t i = 0; i < length; i++) {
    char c = string[i];
    if (c == '"' || c == '\\')
      put(text, "\\%c", c);
    else
      put(text, "%c", c >= ' ' && c <= '~' ? c : '?');
  }
  put(text, "\"");
}

static void put_events(Text *text, Flight *flight) {
  int64_t count = flight_count(flight), now_ns = clock_now_ns();
  int64_t first = count > FLIGHT_EVENTS ? count - FLIGHT_EVENTS : 0;
  put(text, "  \"events\": [");
  for (int64_t i = first; i < count; i++) {
    FlightEvent event = event_at(flight, i);
    put(text, "%s\n    {\"step\": %lld, \"phase\": ", i == first ? "" : ",", (long long)event.step);
    put_string(text, event.phase, strlen(event.phase));
    put(text, ", \"seconds_ago\": %.6f}", (double)(now_ns - event.time_ns) * 1e-9);
  }
  put(text, "],\n");
}

// Names of the stack's functions come from the library through a file descriptor, since its other
// form allocates; a pipe holds the few kilobytes.
static void put_stack(Text *text, void *const *stack, int depth) {
  char lines[16 * 1024];
  size_t used = 0;
  int ends[2];
  if (depth > 0 && pipe2(ends, O_CLOEXEC | O_NONBLOCK) == 0) {
    backtrace_symbols_fd(stack, depth, ends[1]);
    (void)close(ends[1]);
    for (ssize_t got; (got = read(ends[0], lines + used, sizeof lines - used)) > 0;)
      used += (size_t)got;
    (void)close(ends[0]);
  }
  put(text, "  \"backtrace\": [");
  const char *separator = "";
  for (size_t begin = 0; begin < used;) {
    const char *end = memchr(lines + begin, '\n', used - begin);
    size_t length = end != NULL ? (size_t)(end - (lines + begin)) : used - begin;
    put(text, "%s\n    ", separator);
    put_string(text, lines + begin, length);
    separator = ",";
    begin += length + 1;
  }
  put(text, "]\n");
}

static void put_report(Text *text, Flight *flight, const FlightReport *report) {
  char utc[32];
  clock_format_utc(utc, sizeof utc);
  FlightEvent last = flight_last(flight);
  put(text, "{\n  \"program\": ");
  put_string(text, report->program, strlen(report->program));
  put(text, ",\n  \"host\": ");
  put_string(text, report->host, strlen(report->host));
  put(text, ",\n  \"rank\": %d,\n  \"pid\": %ld,\n  \"time\": \"%s\",\n", report->rank,
      (long)getpid(), utc);
  put(text, "  \"reason\": ");
  put_string(text, report->reason, strlen(report->reason));
  put(text, ",\n  \"idle_s\": %.3f,\n  \"stop_requests\": %d,\n", report->idle_s,
      signals_stop_count());
  put(text, "  \"step\": %lld,\n  \"phase\": ", (long long)last.step);
  put_string(text, last.phase, strlen(last.phase));
  put(text, ",\n");
  put_events(text, flight);
  put_stack(text, report->stack, report->stack_depth);
  put(text, "}\n");
}

static Status write_all(int file, const char *data, size_t size_bytes, const char *path) {
  while (size_bytes > 0) {
    ssize_t written = write(file, data, size_bytes);
    if (written <= 0) return status_set_errno(STATUS_IO, "%s: cannot write", path);
    data += written;
    size_bytes -= (size_t)written;
  }
  return STATUS_OK;
}

Status flight_write(Flight *flight, const FlightReport *report) {
  char path[PATH_MAX], temporary[PATH_MAX];
  int length = snprintf(path, sizeof path, "%s/flight.%d.json", report->run_dir, report->rank);
  int longer =
      snprintf(temporary, sizeof temporary, "%s/.flight.%d.tmp", report->run_dir, report->rank);
  if (length >= PATH_MAX || longer >= PATH_MAX)
    return status_set(STATUS_CANT_CREATE, "%s: path too long for a flight file", report->run_dir);
  Text text = {.data = flight->text, .capacity = sizeof flight->text};
  put_report(&text, flight, report);

  Status status = STATUS_OK;
  int file = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (file < 0) return status_set_errno(STATUS_CANT_CREATE, "%s", temporary);
  GUARD(write_all(file, text.data, text.used, temporary));
  if (rename(temporary, path) != 0) status = status_set_errno(STATUS_IO, "%s", path);
out:
  (void)close(file);
  return status;
}
