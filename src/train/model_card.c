// model_card.md. See model_card.h. Markdown that starts with the metadata of a model hub.
#include "train/model_card.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/memory.h"
#include "base/text.h"
#include "config/version.h"
#include "graph/summary.h"
#include "io/file.h"
#include "train/schedule.h"

// Text from outside, with what Markdown's tables and control characters would break on replaced.
static void put_text(FILE *out, const char *text) {
  char *printable;
  if (text_copy_printable(&printable, text) != STATUS_OK) return;
  for (const char *c = printable; *c; c++) {
    if (*c == '|' || *c == '`' || *c == '\\' || *c == '<') (void)fputc('\\', out);
    (void)fputc(*c, out);
  }
  memory_free(printable);
}

static void put_row(FILE *out, const char *name, const char *text) {
  (void)fprintf(out, "| %s | ", name);
  put_text(out, text);
  (void)fputs(" |\n", out);
}

static void put_model(FILE *out, const Job *job) {
  char count[COUNT_TEXT_CAPACITY];
  const char *backbone = job->config->model.backbone;
  const char *file = checkpoints_have_best(job->checkpoints) ? "best.h5" : "last.h5";
  (void)fprintf(out,
                "---\nlibrary_name: keras\npipeline_tag: image-classification\nlicense: unknown\n"
                "---\n\n# %s_classifier\n\nSorts images into %" PRId64 " classes. Input: RGB, "
                "%" PRId64 " x %" PRId64 " pixels, values from 0 to 1; output: a logit for each "
                "class, in this order:\n\n",
                backbone, dataset_class_count(job->dataset), job->target.height, job->target.width);
  for (int64_t i = 0; i < dataset_class_count(job->dataset); i++) {
    (void)fprintf(out, "%" PRId64 ". ", i);
    put_text(out, dataset_class_name(job->dataset, i));
    (void)fputc('\n', out);
  }
  (void)fprintf(out,
                "\nBackbone %s%s, %s parameters, %.2f billion multiplications an image.\n\n"
                "```\nimgcls predict %s IMAGE...\n```\n\n"
                "```python\nmodel = keras.models.load_model(\"%s\")  # Keras 2 and Keras 3\n"
                "```\n\n",
                backbone, job->config->model.fine_tune ? "" : " (frozen)",
                count_format(graph_parameter_total(job->graph, false), count),
                graph_mac_total(job->graph) * 1e-9, file, file);
}

static void put_data(FILE *out, const Job *job) {
  const Config *config = job->config;
  (void)fputs("## Data\n\n| | |\n| --- | --- |\n", out);
  put_row(out, "source", dataset_source(job->dataset));
  (void)fprintf(out,
                "| fingerprint | %016" PRIx64 " |\n| training images | %" PRId64 " |\n"
                "| validation images | %" PRId64 " (split %g, seed %" PRId64 ") |\n",
                dataset_fingerprint(job->dataset), job->split.training_count,
                job->split.validation_count, config->data.validation_split, config->data.seed);
  if (job->test_dataset) put_row(out, "test images", dataset_source(job->test_dataset));
  (void)fprintf(out, "| images left out as unreadable | %" PRId64 " |\n| augmentation | %s |\n\n",
                bad_files_count(job->bad_files), config->augment.enabled ? "yes" : "no");
}

static void put_result(FILE *out, const char *what, double value) {
  (void)fprintf(out, "| %s | %.4f |\n", what, value);
}

static void put_results(FILE *out, const Job *job, const EvaluateResult *test) {
  const HistoryRow *last =
      job->history.count > 0 ? &job->history.rows[job->history.count - 1] : NULL;
  if (!last) return;
  (void)fprintf(out, "## Results after epoch %" PRId64 " (last.h5)\n\n| | |\n| --- | --- |\n",
                last->epoch);
  put_result(out, "training loss", last->loss);
  put_result(out, "training accuracy", last->accuracy);
  if (last->has_validation) {
    put_result(out, "validation loss", last->val_loss);
    put_result(out, "validation accuracy", last->val_accuracy);
  }
  if (test) {
    put_result(out, "test loss", test->loss);
    put_result(out, "test accuracy", test->accuracy);
    put_result(out, "test top-5 accuracy", test->top5);
  }
  if (checkpoints_have_best(job->checkpoints))
    put_result(out,
               job->evaluator ? "best validation accuracy (best.h5)"
                              : "best training accuracy (best.h5)",
               job->best_accuracy);
  (void)fputc('\n', out);
}

static Status put_training(FILE *out, const Job *job) {
  const Config *config = job->config;
  char hash[CONFIG_HASH_CAPACITY];
  TRY(config_hash(config, hash));
  (void)fprintf(
      out,
      "## Training\n\n| | |\n| --- | --- |\n| optimizer | %s, momentum %g%s |\n"
      "| learning rate | %g, %s |\n| batch | %" PRId64 " |\n| label smoothing | %g |\n"
      "| dropout, L2 of the head | %g, %g |\n| arithmetic | %s |\n"
      "| ranks, virtual workers | %d, %d%s |\n| configuration | %s |\n"
      "| program | imgcls %s (commit %s) |\n\nconfig.resolved.ini holds every setting.\n\n"
      "## Licence\n\nTo be filled in, with that of the images in mind.\n",
      config_choice_name("optimizer", "name", (int)config->optimizer.name),
      config->optimizer.momentum, config->optimizer.nesterov ? ", Nesterov" : "",
      schedule_peak_rate(config, job->batch),
      config_choice_name("schedule", "name", (int)config->schedule.name), job->batch,
      config->train.label_smoothing, config->model.dropout, config->model.l2,
      dtype_name(job->dtype), job->world->size, job->virtual_workers,
      config->train.reproducible ? ", reproducible" : "", hash, version_number(), version_commit());
  return STATUS_OK;
}

Status model_card_write(const Job *job, const EvaluateResult *test) {
  char *text = NULL, *path = NULL;
  size_t size = 0;
  FILE *out = open_memstream(&text, &size);
  if (!out) return status_set(STATUS_OS, "out of memory for the model card");
  put_model(out, job);
  put_data(out, job);
  put_results(out, job, test);
  Status status = put_training(out, job);
  bool failed = ferror(out) != 0;
  failed = fclose(out) != 0 || failed;
  if (status == STATUS_OK && failed)
    status = status_set(STATUS_OS, "out of memory for the model card");
  if (status == STATUS_OK)
    status = memory_print_string(&path, "%s/model_card.md", job->config->run.output);
  if (status == STATUS_OK) status = file_replace_unsynced(path, text, size);
  memory_free(path);
  free(text);
  return status;
}
