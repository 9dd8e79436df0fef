// The subcommands of the program `imgcls`: one file each in this folder, one row each in the table
// of main_tool.c.
#ifndef IMGCLS_TOOL_TOOL_H
#define IMGCLS_TOOL_TOOL_H

#include <stdbool.h>

#include "base/log.h"
#include "base/status.h"

typedef struct Tool {
  const char *name;
  const char *usage;   // after the name: "MODEL.h5 IMAGE..."
  const char *summary; // one line for `imgcls help`
  bool parallel;       // the ranks of a job do it together; else one process does it and the others
                       // nothing
  // argv[0] is the subcommand's name. Returns STATUS_USAGE with a message for a wrong command line;
  // answers --help itself. Results go to standard output.
  Status (*run)(int argc, char **argv, Log *log);
} Tool;

Status tool_all_reduce(int argc, char **argv, Log *log);
Status tool_bench(int argc, char **argv, Log *log);
Status tool_data(int argc, char **argv, Log *log);
Status tool_eval(int argc, char **argv, Log *log);
Status tool_h5(int argc, char **argv, Log *log);
Status tool_models(int argc, char **argv, Log *log);
Status tool_plan(int argc, char **argv, Log *log);
Status tool_predict(int argc, char **argv, Log *log);

#endif
