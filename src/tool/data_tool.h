// The parts of `imgcls data`, one file each, and what its command line gives them.
#ifndef IMGCLS_TOOL_DATA_TOOL_H
#define IMGCLS_TOOL_DATA_TOOL_H

#include <stdbool.h>
#include <stdint.h>

#include "base/log.h"
#include "base/status.h"
#include "tool/arguments.h"

enum { DATA_MAX_OPERANDS = 3 };

typedef struct DataOptions {
  CommonOptions common;
  const char *operands[DATA_MAX_OPERANDS]; // as many as the subcommand takes
  int operand_count;
  const char *class_names; // "a,b,...", or NULL
  int64_t size;            // 0: not given
  double max_bad;          // fraction
  bool encoded, follow_symlinks, quick;
} DataOptions;

// Splits "a,b,..." into names. One block, owned by the caller; the names point into it.
MUST_CHECK Status data_split_names(char ***out, int64_t *count, const char *text);

MUST_CHECK Status data_import_idx(const DataOptions *options, Log *log);
MUST_CHECK Status data_pack(const DataOptions *options, Log *log);
MUST_CHECK Status data_scan(const DataOptions *options, Log *log);

#endif
