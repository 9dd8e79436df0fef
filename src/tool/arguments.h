// What the subcommands' command lines have in common, beside argp.
#ifndef IMGCLS_TOOL_ARGUMENTS_H
#define IMGCLS_TOOL_ARGUMENTS_H

#include <argp.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "config/config.h"
#include "dist/world.h"

// A whole number of `least`..`most`; STATUS_USAGE names `option` otherwise.
MUST_CHECK Status arguments_parse_count(int64_t *out, const char *option, const char *text,
                                        int64_t least, int64_t most);

// The options that many subcommands take; every one takes --help.
typedef struct CommonOptions {
  int64_t threads; // 0: not given
  ConfigDevice device;
  bool json;
  bool help; // it has been printed: nothing else is to be done
} CommonOptions;

typedef struct ArgumentsDesc {
  const char *name; // "predict"
  struct argp argp; // the subcommand's own options
  bool takes_threads, takes_device, takes_json;
} ArgumentsDesc;

// What an argp parser works on: its `input`. The parser stores its failure in `status` and returns
// arguments_result.
typedef struct ArgumentsParse {
  const ArgumentsDesc *desc;
  CommonOptions *common;
  void *options; // the subcommand's own
  Status status;
  int next; // of argv, where argp found an error
} ArgumentsParse;

error_t arguments_result(const ArgumentsParse *parse);

// Runs the subcommand's parser and that of the common options over argv, argv[0] being a name.
// STATUS_USAGE names what is wrong and where help is. Answers --help on standard output.
MUST_CHECK Status arguments_parse(CommonOptions *common, void *options, const ArgumentsDesc *desc,
                                  int argc, char **argv);

// Loads a configuration on every rank; rank 0 says each of several problems. Collective.
MUST_CHECK Status arguments_load_config(Config *out, const ConfigInput *input, World *world,
                                        Log *log);

// The threads asked for, or else this process' share of the machine (dist/binding.h). Where they
// compute, `log` hears that more were asked for than that; NULL where they read, which may pay.
MUST_CHECK Status arguments_threads(int *out, const CommonOptions *common, Log *log);

#endif
