// The list of everything wrong with a configuration, each line with its place.
#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "config/internal.h"

enum { TEXT_CAPACITY = 1024 };

const char *config__clip(char out[CLIP_CAPACITY], const char *text) {
  size_t length = 0;
  for (; text[length] && length < CLIP_CAPACITY - 4; length++)
    out[length] = iscntrl((unsigned char)text[length]) ? '?' : text[length];
  (void)strcpy(out + length, text[length] ? "..." : "");
  return out;
}

Status config__problem_add(ConfigProblems *problems, const char *file, ConfigOrigin origin,
                           const char *format, ...) {
  char text[TEXT_CAPACITY];
  va_list args;
  va_start(args, format);
  (void)vsnprintf(text, sizeof text, format, args);
  va_end(args);
  TRY(memory_reserve(&problems->items, &problems->capacity, problems->count + 1,
                     sizeof *problems->items));
  struct ConfigProblem *problem = &problems->items[problems->count];
  *problem = (struct ConfigProblem){
      .source = origin.source, .line = origin.line, .order = problems->count};
  if (origin.source == CONFIG_COMMAND_LINE)
    TRY(memory_print_string(&problem->text, "command line: %s", text));
  else if (origin.source == CONFIG_ENVIRONMENT)
    TRY(memory_print_string(&problem->text, "environment: %s", text));
  else if (origin.line > 0)
    TRY(memory_print_string(&problem->text, "%s:%d: %s", file, origin.line, text));
  else if (file[0])
    TRY(memory_print_string(&problem->text, "%s: %s", file, text));
  else
    TRY(memory_copy_string(&problem->text, text));
  problems->count++;
  return STATUS_OK;
}

// Problems of no line of their own (source CONFIG_DEFAULT) come last of all: they are about what
// is missing.
static int compare(const void *a_, const void *b_) {
  const struct ConfigProblem *a = a_, *b = b_;
  int a_rank = a->source == CONFIG_DEFAULT ? CONFIG_COMMAND_LINE + 1 : (int)a->source;
  int b_rank = b->source == CONFIG_DEFAULT ? CONFIG_COMMAND_LINE + 1 : (int)b->source;
  if (a_rank != b_rank) return a_rank - b_rank;
  if (a->line != b->line) return a->line < b->line ? -1 : 1;
  return a->order < b->order ? -1 : a->order > b->order;
}

Status config__problems_finish(ConfigProblems *problems, const char *file) {
  if (problems->count == 0) return STATUS_OK;
  qsort(problems->items, problems->count, sizeof *problems->items, compare);
  if (problems->count == 1) return status_set(STATUS_CONFIG, "%s", problems->items[0].text);
  return status_set(STATUS_CONFIG, "%s%s%zu problems in the configuration", file,
                    file[0] ? ": " : "", problems->count);
}

const char *config_problems_text(const ConfigProblems *problems, size_t i) {
  return problems->items[i].text;
}

void config_problems_log(const ConfigProblems *problems, Log *log) {
  for (size_t i = 0; problems->count > 1 && i < problems->count; i++)
    log_error(log, "%s", config_problems_text(problems, i));
}

void config_problems_deinit(ConfigProblems *problems) {
  for (size_t i = 0; i < problems->count; i++) memory_free(problems->items[i].text);
  memory_free(problems->items);
  *problems = (ConfigProblems){0};
}
