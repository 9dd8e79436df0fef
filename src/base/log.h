// Messages for people. Results and progress go to standard output, from one rank only; warnings
// and errors go to standard error, each in one write, as "PROGRAM: host rank R: text".
//
// The logger is a value that main owns and passes down; NULL is a logger that stays silent.
#ifndef IMGCLS_BASE_LOG_H
#define IMGCLS_BASE_LOG_H

#include <stdbool.h>
#include <stdio.h>

#include "base/status.h"

typedef enum LogLevel { LOG_QUIET, LOG_NORMAL, LOG_VERBOSE } LogLevel;

typedef struct Log {
  const char *program; // borrowed
  char host[64];
  int rank;       // -1 where there are no ranks: host and rank are not printed then
  LogLevel level; // what log_info and log_verbose print
  bool json;      // one JSON object a line instead of text
  bool color;     // warnings and errors stand out, by ANSI colours
  bool terminal;  // output_is_terminal: progress may rewrite its line
  bool line_open; // a progress line stands unfinished on the terminal
  FILE *copy;     // also gets every line, with the time, even where `level` is quiet; owned
  char *kept;     // what log_keep has kept; copy writes there
  size_t kept_size;
} Log;

// Fills a logger for this process: host name, terminal or not. rank -1.
void log_init(Log *log, const char *program);

// Keeps the lines from now on in memory, until log_open_copy names their file. Without memory,
// nothing is kept.
void log_keep(Log *log);

// Appends the kept lines, and each one from now on, to the file at `path`.
MUST_CHECK Status log_open_copy(Log *log, const char *path);
void log_close_copy(Log *log);

void log_info(Log *log, const char *format, ...) PRINTF_LIKE(2, 3);    // not when quiet; rank 0 or -1
void log_verbose(Log *log, const char *format, ...) PRINTF_LIKE(2, 3); // verbose only; rank 0 or -1
void log_warning(Log *log, const char *format, ...) PRINTF_LIKE(2, 3); // any rank, standard error
void log_error(Log *log, const char *format, ...) PRINTF_LIKE(2, 3);   // any rank, standard error

// A line that replaces the previous progress line on a terminal; nothing elsewhere. Rank 0 or -1.
void log_progress(Log *log, const char *format, ...) PRINTF_LIKE(2, 3);

#endif
