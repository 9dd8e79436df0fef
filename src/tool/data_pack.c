// `imgcls data pack`: all images of a folder, or of another packed file, into one packed file.
#include <inttypes.h>

#include "base/clock.h"
#include "base/memory.h"
#include "data/dataset.h"
#include "data/packed.h"
#include "tool/data_tool.h"

Status data_pack(const DataOptions *options, Log *log) {
  if (options->encoded && options->size > 0)
    return status_set(STATUS_USAGE, "data pack: --encoded keeps the files as they are and --size "
                                    "resizes them; give one of the two");
  double begin = clock_now_s();
  char **names = NULL;
  Dataset *dataset = NULL;
  DatasetDesc desc = {
      .path = options->operands[0], .follow_symlinks = options->follow_symlinks, .min_classes = 1};
  PackDesc pack = {.encoded = options->encoded,
                   .size = options->size,
                   .limits = sample_limits_default(),
                   .max_bad_fraction = options->max_bad};
  PackResult result;
  int threads;
  TRY(arguments_threads(&threads, &options->common, NULL));
  pack.threads = threads;
  Status status;
  if (options->class_names) {
    GUARD(data_split_names(&names, &desc.class_count, options->class_names));
    desc.class_names = (const char *const *)names;
  }
  GUARD(dataset_open(&dataset, &desc, log));
  GUARD(packed_write(&result, options->operands[1], dataset, &pack, log));
  log_info(log,
           "%s: %" PRId64 " images in %" PRId64 " classes, %.1f MiB, %" PRId64
           " bad ones left out, %.1f s",
           options->operands[1], result.packed, dataset_class_count(dataset),
           (double)result.size_bytes / (1 << 20), result.bad, clock_now_s() - begin);
out:
  dataset_close(dataset);
  memory_free(names);
  return status;
}
