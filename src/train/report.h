// What an evaluation says beyond its averages: confusion matrix, figures of each class, and the
// wrong predictions, worst first. Filled by `imgcls eval`; knows neither models nor files of
// images.
#ifndef IMGCLS_TRAIN_REPORT_H
#define IMGCLS_TRAIN_REPORT_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

// A wrong prediction.
typedef struct Mistake {
  int64_t sample; // the caller's number
  int32_t label, predicted;
  float loss;                           // cross-entropy
  float probability, label_probability; // of the predicted and of the true class
} Mistake;

// One image's outcome.
typedef struct ReportSample {
  int64_t sample;
  int32_t label;
  const float *probabilities; // of all classes
  float loss;
} ReportSample;

typedef struct Report {
  int64_t classes;
  int64_t *counts;   // (classes, classes): true class by predicted class; owned
  Mistake *mistakes; // owned
  int64_t mistake_count;
  size_t mistake_capacity;
} Report;

MUST_CHECK Status report_init(Report *out, int64_t classes);
void report_deinit(Report *report);

// Counts one image. The prediction is the first class of the highest probability.
MUST_CHECK Status report_add(Report *report, const ReportSample *sample);

// The highest loss first; ties by sample. Call it after the last report_add.
void report_sort(Report *report);

// Figures of one class. A ratio without a denominator is 0, as scikit-learn reports it.
typedef struct ClassFigures {
  int64_t support;   // images of this class
  int64_t predicted; // images taken for it
  int64_t correct;
  double precision, recall, f1;
} ClassFigures;
ClassFigures report_class(const Report *report, int64_t label);
double report_macro_f1(const Report *report); // mean over the classes that have images

// Where names come from. Class names are borrowed; sample names are owned by the report's caller of
// `copy_sample_name`, which frees them with memory_free.
typedef struct ReportNames {
  const char *const *classes;
  Status (*copy_sample_name)(char **out, const void *context, int64_t sample);
  const void *context;
} ReportNames;

// Makes the folder where it is missing. Call it before hours of evaluation.
MUST_CHECK Status report_make_folder(const char *folder);

// Writes confusion.csv, confusion.svg, per_class.csv and mistakes.csv into `folder`, each replaced
// as a whole.
MUST_CHECK Status report_write(const Report *report, const char *folder, const ReportNames *names);

#endif
