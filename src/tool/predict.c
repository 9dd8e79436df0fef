// `imgcls predict`: class and probability for image files and folders of them. Run by main_tool.c.
// A loader's threads read ahead of the model; a broken image is named and the others go on.
#include <errno.h>
#include <fts.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/text.h"
#include "data/loader.h"
#include "io/image.h"
#include "tool/arguments.h"
#include "tool/tool.h"
#include "train/inference.h"

enum { BATCH = 16, LOADER_DEPTH = 3, DEFAULT_TOP = 3, MAX_TOP = 1000000 };

typedef struct PredictOptions {
  CommonOptions common;
  const char *model;
  char **inputs; // borrowed from argv
  int input_count;
  int64_t top;
} PredictOptions;

// --- command line --------------------------------------------------------------------------------

static const struct argp_option argp_options[] = {
    {"top", 'k', "K", 0, "How many classes to show, the most probable first (3)", 0},
    {0},
};

static error_t parse_option(int key, char *text, struct argp_state *state) {
  ArgumentsParse *parse = state->input;
  PredictOptions *options = parse->options;
  switch (key) {
  case 'k':
    parse->status = arguments_parse_count(&options->top, "--top", text, 1, MAX_TOP);
    break;
  case ARGP_KEY_ARG:
    if (options->model)
      options->inputs[options->input_count++] = text;
    else
      options->model = text;
    break;
  default:
    return ARGP_ERR_UNKNOWN;
  }
  return arguments_result(parse);
}

static const ArgumentsDesc arguments = {
    .name = "predict",
    .takes_threads = true,
    .takes_device = true,
    .takes_json = true,
    .argp.options = argp_options,
    .argp.parser = parse_option,
    .argp.args_doc = "MODEL.h5 IMAGE|FOLDER...",
    .argp.doc =
        "Prints the most probable classes of each image. Folders are searched for .bmp, .gif, "
        ".jpeg, .jpg and .png files at any depth. The model sees pixels as 0..1, or as 0..255 "
        "where its first layer scales such pixels down. JSON is one object a line for each image.\v"
        "Where an image cannot be read, it is named, the others are done, and the exit status is "
        "65.",
};

static Status parse_arguments(PredictOptions *options, int argc, char **argv) {
  TRY(arguments_parse(&options->common, options, &arguments, argc, argv));
  if (!options->common.help && options->input_count == 0)
    return status_set(STATUS_USAGE, "predict: needs a model and an image or folder: imgcls predict "
                                    "MODEL.h5 IMAGE|FOLDER...");
  return STATUS_OK;
}

// --- which images --------------------------------------------------------------------------------

typedef struct Paths {
  char **items; // each owned
  size_t count, capacity;
} Paths;

static void paths_deinit(Paths *paths) {
  for (size_t i = 0; i < paths->count; i++) memory_free(paths->items[i]);
  memory_free(paths->items);
}

static Status paths_add(Paths *paths, const char *path) {
  TRY(memory_reserve(&paths->items, &paths->capacity, paths->count + 1, sizeof *paths->items));
  TRY(memory_copy_string(&paths->items[paths->count], path));
  paths->count++;
  return STATUS_OK;
}

static int compare_entries(const FTSENT **a, const FTSENT **b) {
  return strcmp((*a)->fts_name, (*b)->fts_name);
}

typedef struct Predict {
  const PredictOptions *options;
  Inference inference;
  Paths paths;
  Dataset *dataset; // of the paths
  int64_t top, broken;
  float *probabilities; // of a batch
  Log *log;
} Predict;

// Prints and releases `object`; NULL means that memory was short.
static Status print_json_line(json_t *object) {
  if (!object) return status_set(STATUS_OS, "out of memory");
  int failed = json_dumpf(object, stdout, JSON_COMPACT | JSON_REAL_PRECISION(7));
  json_decref(object);
  if (failed || putchar('\n') == EOF) return status_set_errno(STATUS_IO, "standard output");
  return STATUS_OK;
}

// Names a broken image and counts it.
static Status tell_broken(Predict *predict, const char *path, const char *reason) {
  log_warning(predict->log, "%s", reason);
  predict->broken++;
  if (!predict->options->common.json) return STATUS_OK;
  char *shown, *shown_reason = NULL;
  TRY(text_copy_printable(&shown, path));
  Status status = text_copy_printable(&shown_reason, reason);
  if (status == STATUS_OK)
    status = print_json_line(json_pack("{s:s, s:s}", "file", shown, "error", shown_reason));
  memory_free(shown_reason);
  memory_free(shown);
  return status;
}

// Adds the images of `root`, a file or a folder. A file that was named is taken whatever its name;
// what cannot be read is told and left out.
static Status find_images(Predict *predict, char *root) {
  Paths *paths = &predict->paths;
  char *roots[] = {root, NULL};
  FTS *tree = fts_open(roots, FTS_LOGICAL | FTS_NOCHDIR, compare_entries);
  if (!tree) return status_set_errno(STATUS_OS, "%s", root);
  size_t before = paths->count;
  int64_t broken_before = predict->broken;
  bool is_folder = false;
  Status status = STATUS_OK;
  for (FTSENT *entry; (entry = fts_read(tree));) {
    is_folder = is_folder || entry->fts_info == FTS_D;
    switch (entry->fts_info) {
    case FTS_DNR:
    case FTS_ERR:
    case FTS_NS:
      errno = entry->fts_errno;
      (void)status_set_errno(STATUS_IO, "%s: cannot be read", entry->fts_path);
      GUARD(tell_broken(predict, entry->fts_path, status_message()));
      break;
    case FTS_D:
    case FTS_DP:
    case FTS_DC:
      break;
    default:
      if (entry->fts_level == 0 || (entry->fts_info == FTS_F && image_has_name(entry->fts_name)))
        GUARD(paths_add(paths, entry->fts_path));
    }
  }
  if (is_folder && paths->count == before && predict->broken == broken_before)
    status = status_set(STATUS_NO_INPUT,
                        "%s: no .bmp, .gif, .jpeg, .jpg or .png file in this folder", root);
out:
  (void)fts_close(tree);
  return status;
}

// --- one batch -----------------------------------------------------------------------------------

// The most probable class that has not been taken; taken ones are below zero.
static int64_t take_best(float *probabilities, int64_t classes, float *probability) {
  int64_t best = 0;
  for (int64_t k = 1; k < classes; k++)
    if (probabilities[k] > probabilities[best]) best = k;
  *probability = probabilities[best];
  probabilities[best] = -1.0f;
  return best;
}

static Status print_text(const Predict *predict, const char *shown, float *probabilities) {
  char number[CLASS_TEXT_CAPACITY];
  (void)fputs(shown, stdout);
  for (int64_t i = 0; i < predict->top; i++) {
    float p;
    int64_t label = take_best(probabilities, predict->inference.classes, &p);
    (void)printf("%s%s %.4f", i == 0 ? ": " : ", ",
                 inference_class_name(&predict->inference, label, number), (double)p);
  }
  (void)putchar('\n');
  return STATUS_OK;
}

static Status print_json(const Predict *predict, const char *shown, float *probabilities) {
  char number[CLASS_TEXT_CAPACITY];
  json_t *list = json_array();
  for (int64_t i = 0; i < predict->top; i++) {
    float p;
    int64_t label = take_best(probabilities, predict->inference.classes, &p);
    (void)json_array_append_new(list,
                                json_pack("{s:s, s:I, s:f}", "class",
                                          inference_class_name(&predict->inference, label, number),
                                          "label", (json_int_t)label, "probability", (double)p));
  }
  return print_json_line(json_pack("{s:s, s:o}", "file", shown, "predictions", list));
}

static Status print_prediction(const Predict *predict, const char *path, float *probabilities) {
  char *shown;
  TRY(text_copy_printable(&shown, path));
  Status status = predict->options->common.json ? print_json(predict, shown, probabilities)
                                                : print_text(predict, shown, probabilities);
  memory_free(shown);
  return status;
}

static Status predict_batch(Predict *predict, Loader *loader, const Batch *batch) {
  TRY(inference_run(&predict->inference, batch->pixels, predict->probabilities));
  for (int64_t i = 0; i < batch->count; i++) {
    const char *path = predict->paths.items[batch->samples[i]];
    if (batch->labels[i] < 0)
      TRY(tell_broken(predict, path, loader_bad_reason(loader, batch->samples[i])));
    else
      TRY(print_prediction(predict, path, predict->probabilities + i * predict->inference.classes));
  }
  return STATUS_OK;
}

static Status open_loader(Loader **out, const Predict *predict) {
  int64_t count = dataset_sample_count(predict->dataset);
  LoaderDesc desc = {.dataset = predict->dataset,
                     .sample_count = count,
                     .target = predict->inference.target,
                     .limits = sample_limits_default(),
                     .threads = predict->inference.threads,
                     .depth = LOADER_DEPTH,
                     .bad_files = LOADER_BAD_MARK,
                     .max_bad_fraction = 1.0};
  TRY(sampler_init(&desc.sampler, &(SamplerDesc){SAMPLER_EVALUATE, count, BATCH, 0}));
  desc.end_step = sampler_steps_per_epoch(&desc.sampler);
  return loader_open(out, &desc);
}

static Status predict_all(Predict *predict) {
  size_t total = predict->paths.count, batch_size = total < BATCH ? total : BATCH;
  int64_t classes = predict->inference.classes;
  Loader *loader = NULL;
  predict->top = predict->options->top < classes ? predict->options->top : classes;
  Status status;
  GUARD(inference_prepare(&predict->inference, (int64_t)batch_size));
  GUARD(memory_alloc(&predict->probabilities, batch_size, (size_t)classes * sizeof(float)));
  GUARD(dataset_open_files(&predict->dataset, (const char *const *)predict->paths.items,
                           (int64_t)total));
  GUARD(open_loader(&loader, predict));
  for (;;) {
    const Batch *batch;
    GUARD(loader_next(loader, &batch));
    if (!batch) break;
    GUARD(predict_batch(predict, loader, batch));
    loader_release(loader, batch);
  }
out:
  loader_close(loader);
  return status;
}

static Status predict_run(Predict *predict) {
  const PredictOptions *options = predict->options;
  for (int i = 0; i < options->input_count; i++)
    TRY(find_images(predict, options->inputs[i]));
  int threads;
  TRY(arguments_threads(&threads, &options->common, predict->log));
  TRY(inference_open(&predict->inference,
                     &(InferenceDesc){.path = options->model,
                                      .threads = threads,
                                      .device = options->common.device}));
  if (!predict->inference.class_names)
    log_warning(predict->log, "%s holds no class names: classes are shown as numbers",
                options->model);
  int64_t total = predict->broken + (int64_t)predict->paths.count;
  if (predict->paths.count > 0) TRY(predict_all(predict));
  if (predict->broken == 0) return STATUS_OK;
  return status_set(predict->broken < total ? STATUS_DATA : STATUS_NO_INPUT,
                    "%" PRId64 " of %" PRId64 " images could not be read; replace or remove them",
                    predict->broken, total);
}

Status tool_predict(int argc, char **argv, Log *log) {
  PredictOptions options = {.top = DEFAULT_TOP};
  Predict predict = {.options = &options, .log = log};
  TRY(memory_alloc(&options.inputs, (size_t)argc, sizeof *options.inputs));
  Status status = parse_arguments(&options, argc, argv);
  if (status == STATUS_OK && !options.common.help) status = predict_run(&predict);
  inference_close(&predict.inference);
  paths_deinit(&predict.paths);
  dataset_close(predict.dataset);
  memory_free(predict.probabilities);
  memory_free(options.inputs);
  return status;
}
