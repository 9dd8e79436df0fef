// The command line of imgcls-train, parsed with argp before anything else starts.
#ifndef IMGCLS_CONFIG_OPTIONS_H
#define IMGCLS_CONFIG_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include "base/log.h"
#include "base/status.h"

typedef enum OptionsMode {
  OPTIONS_TRAIN,
  OPTIONS_HELP,         // print the help and end
  OPTIONS_USAGE,        // print a short help and end
  OPTIONS_VERSION,      // print version_print's text and end
  OPTIONS_CHECK,        // say what ranks, cores and devices there are
  OPTIONS_CHECK_DATA,   // read every image
  OPTIONS_PRINT_CONFIG, // print the resolved configuration
  OPTIONS_DRY_RUN,      // all but training
} OptionsMode;

typedef enum OptionsColor {
  OPTIONS_COLOR_AUTO,
  OPTIONS_COLOR_ALWAYS,
  OPTIONS_COLOR_NEVER
} OptionsColor;

typedef struct Options {
  OptionsMode mode;
  const char *config_path; // NULL: none was named. Borrowed from argv
  // "section.key=value" of --set and of the options that stand for a key, in the order given.
  char **settings; // owned
  size_t setting_count, setting_capacity;
  LogLevel level;
  OptionsColor color;
  bool json; // --log-format json: so are messages from before the configuration is read
} Options;

// Parses argv. STATUS_USAGE with a message that names the argument and the cure. Prints nothing.
// `out` is owned by the caller (options_deinit), also after a failure.
MUST_CHECK Status options_parse(Options *out, int argc, char **argv);

void options_deinit(Options *options);

void options_print_help(FILE *stream, const char *program);
void options_print_usage(FILE *stream, const char *program);

#endif
