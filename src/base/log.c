// Messages for people. See log.h.
#include "base/log.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/output.h"

enum { LINE_CAPACITY = 8192 };

void log_init(Log *log, const char *program) {
  *log = (Log){.program = program, .rank = -1, .level = LOG_NORMAL};
  if (gethostname(log->host, sizeof log->host - 1) != 0) (void)strcpy(log->host, "unknown");
  log->terminal = output_is_terminal();
}

void log_keep(Log *log) {
  log->copy = open_memstream(&log->kept, &log->kept_size);
}

static void drop_kept(Log *log) {
  if (log->copy) (void)fclose(log->copy);
  free(log->kept);
  log->copy = NULL;
  log->kept = NULL;
}

Status log_open_copy(Log *log, const char *path) {
  FILE *file = fopen(path, "a");
  if (!file) return status_set_errno(STATUS_CANT_CREATE, "%s: cannot be written", path);
  if (log->copy && fflush(log->copy) == 0) (void)fwrite(log->kept, 1, log->kept_size, file);
  drop_kept(log);
  log->copy = file;
  return STATUS_OK;
}

void log_close_copy(Log *log) {
  drop_kept(log);
}

static bool speaks(const Log *log, LogLevel level) {
  return log && log->rank <= 0 && log->level >= level;
}

static void close_progress_line(Log *log) {
  if (!log->line_open) return;
  (void)fputc('\n', stdout);
  log->line_open = false;
}

static void append(char *line, size_t capacity, size_t *used, const char *text) {
  size_t length = strlen(text);
  if (*used + length >= capacity) length = capacity - 1 - *used;
  memcpy(line + *used, text, length);
  *used += length;
  line[*used] = '\0';
}

// JSON strings escape quotes, backslashes and control characters (RFC 8259, section 7).
static void append_json_string(char *line, size_t capacity, size_t *used, const char *text) {
  append(line, capacity, used, "\"");
  for (const unsigned char *c = (const unsigned char *)text; *c; c++) {
    char piece[8];
    if (*c == '"' || *c == '\\') (void)snprintf(piece, sizeof piece, "\\%c", *c);
    else if (*c < 0x20) (void)snprintf(piece, sizeof piece, "\\u%04x", *c);
    else (void)snprintf(piece, sizeof piece, "%c", *c);
    append(line, capacity, used, piece);
  }
  append(line, capacity, used, "\"");
}

// `line` has `used` characters and its end.
static void show_line(Log *log, FILE *stream, const char *kind, const char *line, size_t used) {
  close_progress_line(log);
  if (stream == stderr) (void)fflush(stdout);
  if (stream == stderr && log->color && !log->json) {
    // Yellow or red, in one write as every line of standard error.
    char colored[LINE_CAPACITY + 272];
    int size = snprintf(colored, sizeof colored, "\033[%dm%.*s\033[0m\n",
                        strcmp(kind, "warning") == 0 ? 33 : 31, (int)used, line);
    (void)fwrite(colored, 1, (size_t)size, stream);
  } else {
    (void)fwrite(line, 1, used + 1, stream);
  }
  (void)fflush(stream);
}

// A copy that cannot be written, on a full disk, is no reason to stop.
static void copy_line(Log *log, const char *line, size_t size) {
  char when[32] = "";
  time_t now = time(NULL);
  struct tm parts;
  if (!log->json && gmtime_r(&now, &parts))
    (void)strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%SZ ", &parts);
  (void)fputs(when, log->copy);
  (void)fwrite(line, 1, size, log->copy);
  (void)fflush(log->copy);
}

static void print_line(Log *log, FILE *stream, const char *kind, const char *text, bool is_shown) {
  char line[LINE_CAPACITY + 256];
  size_t used = 0;
  line[0] = '\0';
  bool is_problem = stream == stderr;
  if (log->json) {
    char rank[16];
    (void)snprintf(rank, sizeof rank, "%d", log->rank);
    append(line, sizeof line - 2, &used, "{\"level\":");
    append_json_string(line, sizeof line - 2, &used, kind);
    append(line, sizeof line - 2, &used, ",\"host\":");
    append_json_string(line, sizeof line - 2, &used, log->host);
    append(line, sizeof line - 2, &used, ",\"rank\":");
    append(line, sizeof line - 2, &used, rank);
    append(line, sizeof line - 2, &used, ",\"text\":");
    append_json_string(line, sizeof line - 2, &used, text);
    append(line, sizeof line - 2, &used, "}");
  } else if (is_problem && log->rank >= 0) {
    (void)snprintf(line, sizeof line, "%s: %s rank %d: %s%s", log->program, log->host, log->rank,
                   strcmp(kind, "warning") == 0 ? "warning: " : "", text);
  } else if (is_problem) {
    (void)snprintf(line, sizeof line, "%s: %s%s", log->program,
                   strcmp(kind, "warning") == 0 ? "warning: " : "", text);
  } else {
    append(line, sizeof line - 2, &used, text);
  }
  used = strlen(line);
  if (used > sizeof line - 2) used = sizeof line - 2;
  line[used] = '\n';
  if (is_shown) show_line(log, stream, kind, line, used);
  if (log->copy) copy_line(log, line, used + 1);
}

#define PRINT(stream, kind, is_shown)                                                              \
  do {                                                                                             \
    char text[LINE_CAPACITY];                                                                      \
    va_list args;                                                                                  \
    va_start(args, format);                                                                        \
    (void)vsnprintf(text, sizeof text, format, args);                                              \
    va_end(args);                                                                                  \
    print_line(log, stream, kind, text, is_shown);                                                 \
  } while (0)

void log_info(Log *log, const char *format, ...) {
  bool is_shown = speaks(log, LOG_NORMAL);
  if (is_shown || (log && log->copy)) PRINT(stdout, "info", is_shown);
}

void log_verbose(Log *log, const char *format, ...) {
  if (speaks(log, LOG_VERBOSE)) PRINT(stdout, "verbose", true);
}

void log_warning(Log *log, const char *format, ...) {
  if (log) PRINT(stderr, "warning", true);
}

void log_error(Log *log, const char *format, ...) {
  if (log) PRINT(stderr, "error", true);
}

void log_progress(Log *log, const char *format, ...) {
  if (!speaks(log, LOG_NORMAL) || !log->terminal || log->json) return;
  va_list args;
  va_start(args, format);
  (void)fputs("\r\033[K", stdout);
  (void)vprintf(format, args);
  va_end(args);
  (void)fflush(stdout);
  log->line_open = true;
}
