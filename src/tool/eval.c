// `imgcls eval`: a model against a folder of labelled images. Run by main_tool.c. Figures go to
// standard output; with --output also tables, the picture of the confusion matrix and every
// mistake.
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>

#include "base/memory.h"
#include "base/text.h"
#include "tool/arguments.h"
#include "tool/tool.h"
#include "train/evaluate.h"
#include "train/inference.h"
#include "train/report.h"

enum { DEFAULT_BATCH = 32, MAX_BATCH = 65536, LOADER_DEPTH = 3, WORST_SHOWN = 10 };

typedef struct EvalOptions {
  CommonOptions common;
  const char *model, *dir, *output; // output NULL: figures only
  int64_t batch;
} EvalOptions;

// --- command line --------------------------------------------------------------------------------

static const struct argp_option argp_options[] = {
    {"output", 'o', "DIR", 0, "Write confusion.csv, confusion.svg, per_class.csv, mistakes.csv", 0},
    {"batch", 'b', "N", 0, "Images computed together (32); changes speed and memory only", 0},
    {0},
};

static error_t parse_option(int key, char *text, struct argp_state *state) {
  ArgumentsParse *parse = state->input;
  EvalOptions *options = parse->options;
  switch (key) {
  case 'o':
    options->output = text;
    break;
  case 'b':
    parse->status = arguments_parse_count(&options->batch, "--batch", text, 1, MAX_BATCH);
    break;
  case ARGP_KEY_ARG:
    if (options->dir) parse->status = status_set(STATUS_USAGE, "%s: one DIR at a time", text);
    if (options->model)
      options->dir = text;
    else
      options->model = text;
    break;
  default:
    return ARGP_ERR_UNKNOWN;
  }
  return arguments_result(parse);
}

static const ArgumentsDesc arguments = {
    .name = "eval",
    .takes_threads = true,
    .takes_device = true,
    .takes_json = true,
    .argp.options = argp_options,
    .argp.parser = parse_option,
    .argp.args_doc = "MODEL.h5 DIR",
    .argp.doc =
        "Measures a model on DIR, a folder with one folder per class or a packed file: accuracy, "
        "top-5 accuracy, mean cross-entropy, and the wrong predictions of highest loss. The "
        "model sees pixels as 0..1, or as 0..255 where its first layer scales such pixels down.\v"
        "Images that cannot be read are named and left out; the exit status is 65 then.",
};

static Status parse_arguments(EvalOptions *options, int argc, char **argv) {
  TRY(arguments_parse(&options->common, options, &arguments, argc, argv));
  if (!options->common.help && !options->dir)
    return status_set(STATUS_USAGE,
                      "eval: needs a model and a folder of images: imgcls eval MODEL.h5 DIR");
  return STATUS_OK;
}

// --- measuring -----------------------------------------------------------------------------------

typedef struct Eval {
  const EvalOptions *options;
  Inference inference;
  Dataset *dataset;
  Evaluator *evaluator;
  Report report;
  EvaluateResult result;
  float *probabilities;     // of one image
  const char **class_names; // of the dataset
  Log *log;
} Eval;

static Status open_dataset(Eval *eval) {
  const Inference *inference = &eval->inference;
  bool named = inference->class_names != NULL;
  DatasetDesc desc = {.path = eval->options->dir,
                      .class_names = inference->class_names,
                      .class_count = named ? inference->classes : 0,
                      .min_classes = 1};
  Status status = dataset_open(&eval->dataset, &desc, eval->log);
  if (status == STATUS_CONFIG && named)
    return status_prepend(status,
                          "%s knows its classes by name, and the images need a folder for each "
                          "(an empty one is fine)",
                          inference->path);
  TRY(status);
  int64_t count = dataset_class_count(eval->dataset);
  if (count != inference->classes)
    return status_set(STATUS_CONFIG,
                      "%s has %" PRId64 " classes, the model %s knows %" PRId64
                      " and keeps no names to choose by; evaluate with the folder layout it was "
                      "trained on, an empty folder for a class without images",
                      eval->options->dir, count, inference->path, inference->classes);
  TRY(memory_alloc(&eval->class_names, (size_t)count, sizeof *eval->class_names));
  for (int64_t i = 0; i < count; i++) eval->class_names[i] = dataset_class_name(eval->dataset, i);
  return STATUS_OK;
}

static Status prepare_evaluator(Eval *eval) {
  const Inference *inference = &eval->inference;
  EvaluatorDesc desc = {.backend = inference->backend,
                        .device = inference->device,
                        .graph = inference->graph,
                        .layout = &inference->layout,
                        .dtype = DTYPE_F32,
                        .sample_count = dataset_sample_count(eval->dataset)};
  TRY(sampler_init(&desc.sampler, &(SamplerDesc){.mode = SAMPLER_EVALUATE,
                                                 .sample_count = desc.sample_count,
                                                 .batch = eval->options->batch}));
  TRY(evaluator_create(&eval->evaluator, &desc));
  return evaluator_allocate(eval->evaluator, inference->weights);
}

static Status add_batch(void *context, const Batch *batch, const float *logits,
                        const float *losses) {
  Eval *eval = context;
  for (int64_t i = 0; i < batch->count; i++) {
    if (batch->labels[i] < 0) continue;
    TRY(inference_softmax(&eval->inference, eval->probabilities,
                          logits + i * eval->inference.classes));
    TRY(report_add(&eval->report, &(ReportSample){.sample = batch->samples[i],
                                                  .label = batch->labels[i],
                                                  .probabilities = eval->probabilities,
                                                  .loss = losses[i]}));
  }
  log_progress(eval->log, "%" PRId64 " of %" PRId64 " images", batch->samples[batch->count - 1] + 1,
               dataset_sample_count(eval->dataset));
  return STATUS_OK;
}

static Status measure(Eval *eval) {
  const Inference *inference = &eval->inference;
  LoaderDesc loader = {.dataset = eval->dataset,
                       .target = inference->target,
                       .limits = sample_limits_default(),
                       .threads = inference->threads,
                       .depth = LOADER_DEPTH,
                       .max_bad_fraction = 1.0,
                       .log = eval->log};
  TRY(report_init(&eval->report, inference->classes));
  TRY(memory_alloc(&eval->probabilities, (size_t)inference->classes, sizeof(float)));
  TRY(evaluator_open(eval->evaluator, &(EvaluatorInput){.images = &loader, .round_count = 1}));
  TRY(evaluator_run(eval->evaluator, &eval->result,
                    &(EvaluateArgs){.on_batch = add_batch, .context = eval}));
  TRY(evaluate_check(&eval->result, eval->dataset));
  report_sort(&eval->report);
  return STATUS_OK;
}

// --- results -------------------------------------------------------------------------------------

static Status copy_sample_name(char **out, const void *context, int64_t sample) {
  return dataset_copy_name(out, context, sample);
}

// The name of a mistake's image, printable; owned by the caller.
static Status copy_shown_name(char **out, const Eval *eval, const Mistake *mistake) {
  char *name;
  TRY(dataset_copy_name(&name, eval->dataset, mistake->sample));
  Status status = text_copy_printable(out, name);
  memory_free(name);
  return status;
}

static int64_t worst_count(const Eval *eval) {
  return eval->report.mistake_count < WORST_SHOWN ? eval->report.mistake_count : WORST_SHOWN;
}

static Status print_text(const Eval *eval) {
  const EvaluateResult *r = &eval->result;
  (void)printf("images    %" PRId64 "\n", r->samples);
  if (r->bad > 0) (void)printf("broken    %" PRId64 ", left out\n", r->bad);
  (void)printf("accuracy  %.4f\ntop-5     %.4f\nloss      %.4f\nmacro F1  %.4f\n", r->accuracy,
               r->top5, r->loss, report_macro_f1(&eval->report));
  int64_t shown = worst_count(eval);
  if (shown > 0)
    (void)printf("\n%" PRId64 " wrong, the worst first:\n%8s %8s  %s\n", eval->report.mistake_count,
                 "loss", "prob.", "file: predicted class");
  for (int64_t i = 0; i < shown; i++) {
    const Mistake *mistake = &eval->report.mistakes[i];
    char *name;
    TRY(copy_shown_name(&name, eval, mistake));
    (void)printf("%8.3f %8.4f  %s: %s\n", (double)mistake->loss, (double)mistake->probability, name,
                 eval->class_names[mistake->predicted]);
    memory_free(name);
  }
  return STATUS_OK;
}

static json_t *classes_json(const Eval *eval) {
  json_t *list = json_array();
  for (int64_t label = 0; label < eval->report.classes; label++) {
    ClassFigures f = report_class(&eval->report, label);
    (void)json_array_append_new(list, json_pack("{s:s, s:f, s:f, s:f, s:I}", "class",
                                                eval->class_names[label], "precision", f.precision,
                                                "recall", f.recall, "f1", f.f1, "support",
                                                (json_int_t)f.support));
  }
  return list;
}

static Status print_json(const Eval *eval) {
  const EvaluateResult *r = &eval->result;
  json_t *worst = json_array();
  for (int64_t i = 0; i < worst_count(eval); i++) {
    const Mistake *mistake = &eval->report.mistakes[i];
    char *name;
    Status status = copy_shown_name(&name, eval, mistake);
    if (status != STATUS_OK) {
      json_decref(worst);
      return status;
    }
    (void)json_array_append_new(worst, json_pack("{s:s, s:s, s:s, s:f, s:f}", "file", name, "true",
                                                 eval->class_names[mistake->label], "predicted",
                                                 eval->class_names[mistake->predicted], "loss",
                                                 (double)mistake->loss, "probability",
                                                 (double)mistake->probability));
    memory_free(name);
  }
  json_t *root = json_pack(
      "{s:I, s:I, s:f, s:f, s:f, s:f, s:I, s:o, s:o}", "images", (json_int_t)r->samples, "broken",
      (json_int_t)r->bad, "accuracy", r->accuracy, "top5", r->top5, "loss", r->loss, "macro_f1",
      report_macro_f1(&eval->report), "wrong", (json_int_t)eval->report.mistake_count, "worst",
      worst, "classes", classes_json(eval));
  if (!root) return status_set(STATUS_OS, "out of memory");
  int failed = json_dumpf(root, stdout, JSON_INDENT(1) | JSON_REAL_PRECISION(9));
  json_decref(root);
  if (failed) return status_set_errno(STATUS_IO, "standard output");
  (void)putchar('\n');
  return STATUS_OK;
}

static Status tell(const Eval *eval) {
  const EvaluateResult *r = &eval->result;
  const char *output = eval->options->output;
  TRY(eval->options->common.json ? print_json(eval) : print_text(eval));
  if (output) {
    ReportNames names = {eval->class_names, copy_sample_name, eval->dataset};
    TRY(report_write(&eval->report, output, &names));
    if (!eval->options->common.json) (void)printf("\ntables and matrix in %s\n", output);
  }
  if (r->bad > 0)
    return status_set(STATUS_DATA,
                      "%" PRId64 " of %" PRId64 " images could not be read; replace or remove them",
                      r->bad, r->bad + r->samples);
  return STATUS_OK;
}

static Status eval_run(Eval *eval) {
  int threads;
  TRY(arguments_threads(&threads, &eval->options->common, eval->log));
  TRY(inference_open(&eval->inference,
                     &(InferenceDesc){.path = eval->options->model,
                                      .threads = threads,
                                      .device = eval->options->common.device}));
  if (!eval->inference.class_names)
    log_warning(
        eval->log,
        "%s holds no class names: the folders of %s are taken for its classes, in sorted order",
        eval->options->model, eval->options->dir);
  TRY(open_dataset(eval));
  TRY(prepare_evaluator(eval));
  if (eval->options->output) TRY(report_make_folder(eval->options->output));
  TRY(measure(eval));
  return tell(eval);
}

Status tool_eval(int argc, char **argv, Log *log) {
  EvalOptions options = {.batch = DEFAULT_BATCH};
  TRY(parse_arguments(&options, argc, argv));
  if (options.common.help) return STATUS_OK;
  Eval eval = {.options = &options, .log = log};
  Status status = eval_run(&eval);
  evaluator_free(eval.evaluator);
  report_deinit(&eval.report);
  memory_free(eval.class_names);
  memory_free(eval.probabilities);
  dataset_close(eval.dataset);
  inference_close(&eval.inference);
  return status;
}
