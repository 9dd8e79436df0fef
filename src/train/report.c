// Confusion matrix, figures of classes, mistakes, and their files. See report.h.
#include "train/report.h"

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/memory.h"
#include "base/text.h"
#include "io/file.h"

Status report_init(Report *out, int64_t classes) {
  *out = (Report){.classes = classes};
  return memory_alloc(&out->counts, (size_t)classes, (size_t)classes * sizeof *out->counts);
}

void report_deinit(Report *report) {
  memory_free(report->counts);
  memory_free(report->mistakes);
  *report = (Report){0};
}

Status report_add(Report *report, const ReportSample *sample) {
  int32_t predicted = 0;
  const float *p = sample->probabilities;
  for (int32_t k = 1; k < report->classes; k++)
    if (p[k] > p[predicted]) predicted = k;
  report->counts[sample->label * report->classes + predicted]++;
  if (predicted == sample->label) return STATUS_OK;
  TRY(memory_reserve(&report->mistakes, &report->mistake_capacity,
                     (size_t)report->mistake_count + 1, sizeof *report->mistakes));
  report->mistakes[report->mistake_count++] = (Mistake){.sample = sample->sample,
                                                        .label = sample->label,
                                                        .predicted = predicted,
                                                        .loss = sample->loss,
                                                        .probability = p[predicted],
                                                        .label_probability = p[sample->label]};
  return STATUS_OK;
}

static int compare_mistakes(const void *a, const void *b) {
  const Mistake *first = a, *second = b;
  if (first->loss != second->loss) return first->loss > second->loss ? -1 : 1;
  return (first->sample > second->sample) - (first->sample < second->sample);
}

void report_sort(Report *report) {
  if (report->mistake_count > 0)
    qsort(report->mistakes, (size_t)report->mistake_count, sizeof *report->mistakes,
          compare_mistakes);
}

static double ratio(int64_t part, int64_t whole) {
  return whole > 0 ? (double)part / (double)whole : 0.0;
}

ClassFigures report_class(const Report *report, int64_t label) {
  ClassFigures figures = {.correct = report->counts[label * report->classes + label]};
  for (int64_t k = 0; k < report->classes; k++) {
    figures.support += report->counts[label * report->classes + k];
    figures.predicted += report->counts[k * report->classes + label];
  }
  figures.precision = ratio(figures.correct, figures.predicted);
  figures.recall = ratio(figures.correct, figures.support);
  figures.f1 = ratio(2 * figures.correct, figures.support + figures.predicted);
  return figures;
}

double report_macro_f1(const Report *report) {
  double sum = 0.0;
  int64_t present = 0;
  for (int64_t label = 0; label < report->classes; label++) {
    ClassFigures figures = report_class(report, label);
    if (figures.support == 0) continue;
    sum += figures.f1;
    present++;
  }
  return present > 0 ? sum / (double)present : 0.0;
}

// --- texts ---------------------------------------------------------------------------------------

// RFC 4180: quoted where needed, quotes doubled.
static void print_csv(FILE *csv, const char *text) {
  if (!strpbrk(text, ",\"\r\n")) {
    (void)fputs(text, csv);
    return;
  }
  (void)fputc('"', csv);
  for (; *text; text++) {
    if (*text == '"') (void)fputc('"', csv);
    (void)fputc(*text, csv);
  }
  (void)fputc('"', csv);
}

static Status print_xml(FILE *svg, const char *text) {
  char *printable;
  TRY(text_copy_printable(&printable, text));
  for (const char *c = printable; *c; c++) {
    const char *name = *c == '&' ? "&amp;" : *c == '<' ? "&lt;" : *c == '>' ? "&gt;" : NULL;
    if (name)
      (void)fputs(name, svg);
    else
      (void)fputc(*c, svg);
  }
  memory_free(printable);
  return STATUS_OK;
}

// --- tables --------------------------------------------------------------------------------------

typedef struct Writing {
  const Report *report;
  const ReportNames *names;
} Writing;

static Status print_confusion_csv(FILE *csv, const Writing *w) {
  (void)fputs("true \\ predicted", csv);
  for (int64_t k = 0; k < w->report->classes; k++) {
    (void)fputc(',', csv);
    print_csv(csv, w->names->classes[k]);
  }
  (void)fputc('\n', csv);
  for (int64_t label = 0; label < w->report->classes; label++) {
    print_csv(csv, w->names->classes[label]);
    for (int64_t k = 0; k < w->report->classes; k++)
      (void)fprintf(csv, ",%" PRId64, w->report->counts[label * w->report->classes + k]);
    (void)fputc('\n', csv);
  }
  return STATUS_OK;
}

static Status print_classes_csv(FILE *csv, const Writing *w) {
  (void)fputs("class,precision,recall,f1,support,predicted,correct\n", csv);
  for (int64_t label = 0; label < w->report->classes; label++) {
    ClassFigures f = report_class(w->report, label);
    print_csv(csv, w->names->classes[label]);
    (void)fprintf(csv, ",%.6f,%.6f,%.6f,%" PRId64 ",%" PRId64 ",%" PRId64 "\n", f.precision,
                  f.recall, f.f1, f.support, f.predicted, f.correct);
  }
  return STATUS_OK;
}

static Status print_mistakes_csv(FILE *csv, const Writing *w) {
  (void)fputs("file,true,predicted,loss,probability,true_probability\n", csv);
  for (int64_t i = 0; i < w->report->mistake_count; i++) {
    const Mistake *mistake = &w->report->mistakes[i];
    char *name;
    TRY(w->names->copy_sample_name(&name, w->names->context, mistake->sample));
    print_csv(csv, name);
    memory_free(name);
    (void)fputc(',', csv);
    print_csv(csv, w->names->classes[mistake->label]);
    (void)fputc(',', csv);
    print_csv(csv, w->names->classes[mistake->predicted]);
    (void)fprintf(csv, ",%.6g,%.6g,%.6g\n", (double)mistake->loss, (double)mistake->probability,
                  (double)mistake->label_probability);
  }
  return STATUS_OK;
}

// --- the picture ---------------------------------------------------------------------------------

// In pixels. Numbers and names are left out where the cells are too small for them.
enum {
  LARGEST_CELL = 44,
  MATRIX_SIDE = 900,
  NAME_CELL = 10,
  NUMBER_CELL = 26,
  MARGIN = 24,
  TITLE_HEIGHT = 40,
  NAME_LETTER = 7,
  MOST_NAME_ROOM = 300
};

typedef struct Matrix {
  double cell;
  double left, top; // of the first cell
} Matrix;

static void print_cells(FILE *svg, const Writing *w, const Matrix *m) {
  const Report *report = w->report;
  for (int64_t label = 0; label < report->classes; label++) {
    int64_t support = report_class(report, label).support;
    for (int64_t k = 0; k < report->classes; k++) {
      int64_t count = report->counts[label * report->classes + k];
      if (count == 0) continue;
      double share = ratio(count, support), x = m->left + (double)k * m->cell,
             y = m->top + (double)label * m->cell;
      (void)fprintf(svg,
                    "<rect x='%.2f' y='%.2f' width='%.2f' height='%.2f' fill='%s' "
                    "fill-opacity='%.3f'/>\n",
                    x, y, m->cell, m->cell, label == k ? "#0072b2" : "#d55e00",
                    0.08 + 0.92 * share);
      if (m->cell < NUMBER_CELL) continue;
      (void)fprintf(svg,
                    "<text x='%.2f' y='%.2f' text-anchor='middle' font-size='11' fill='%s'>%" PRId64
                    "</text>\n",
                    x + m->cell / 2, y + m->cell / 2 + 4, share > 0.5 ? "#fff" : "#222", count);
    }
  }
}

// Room for the longest name, within bounds.
static double name_room(const Writing *w) {
  size_t longest = 0;
  for (int64_t k = 0; k < w->report->classes; k++) {
    size_t length = strlen(w->names->classes[k]);
    if (length > longest) longest = length;
  }
  double room = 8.0 + NAME_LETTER * (double)longest;
  return room < MOST_NAME_ROOM ? room : MOST_NAME_ROOM;
}

static Status print_names(FILE *svg, const Writing *w, const Matrix *m) {
  if (m->cell < NAME_CELL) return STATUS_OK;
  for (int64_t label = 0; label < w->report->classes; label++) {
    double middle = ((double)label + 0.5) * m->cell;
    (void)fprintf(svg, "<text x='%.2f' y='%.2f' text-anchor='end'>", m->left - 6,
                  m->top + middle + 4);
    TRY(print_xml(svg, w->names->classes[label]));
    (void)fprintf(svg, "</text>\n<text transform='translate(%.2f %.2f) rotate(-90)'>",
                  m->left + middle + 4, m->top - 6);
    TRY(print_xml(svg, w->names->classes[label]));
    (void)fputs("</text>\n", svg);
  }
  return STATUS_OK;
}

static Status print_confusion_svg(FILE *svg, const Writing *w) {
  double classes = (double)w->report->classes, cell = MATRIX_SIDE / classes;
  if (cell > LARGEST_CELL) cell = LARGEST_CELL;
  double names = cell < NAME_CELL ? MARGIN : name_room(w), side = cell * classes;
  Matrix m = {.cell = cell, .left = MARGIN + names, .top = TITLE_HEIGHT + names};
  double width = m.left + side + MARGIN, height = m.top + side + MARGIN;
  if (width < 420) width = 420;
  (void)fprintf(svg,
                "<svg xmlns='http://www.w3.org/2000/svg' width='%.0f' height='%.0f' "
                "viewBox='0 0 %.0f %.0f' font-family='sans-serif' font-size='%d' fill='#222'>\n"
                "<rect width='%.0f' height='%.0f' fill='white'/>\n"
                "<text x='%d' y='24' font-size='15'>Rows: true class. Columns: predicted.</text>\n",
                width, height, width, height, cell < 14 ? 9 : 12, width, height, MARGIN);
  print_cells(svg, w, &m);
  TRY(print_names(svg, w, &m));
  (void)fprintf(svg,
                "<rect x='%.2f' y='%.2f' width='%.2f' height='%.2f' fill='none' stroke='#333'/>\n"
                "</svg>\n",
                m.left, m.top, side, side);
  return STATUS_OK;
}

// --- files ---------------------------------------------------------------------------------------

static const struct {
  const char *name;
  Status (*print)(FILE *stream, const Writing *writing);
} files[] = {
    {"confusion.csv", print_confusion_csv},
    {"confusion.svg", print_confusion_svg},
    {"per_class.csv", print_classes_csv},
    {"mistakes.csv", print_mistakes_csv},
};

static Status write_file(const char *folder, size_t file, const Writing *writing) {
  char *path = NULL, *text = NULL;
  size_t size = 0;
  TRY(memory_print_string(&path, "%s/%s", folder, files[file].name));
  FILE *stream = open_memstream(&text, &size);
  Status status =
      stream ? files[file].print(stream, writing) : status_set_errno(STATUS_OS, "%s", path);
  if (stream && fclose(stream) != 0 && status == STATUS_OK)
    status = status_set_errno(STATUS_OS, "%s", path);
  if (status == STATUS_OK) status = file_replace_unsynced(path, text, size);
  memory_free(text);
  memory_free(path);
  return status;
}

Status report_make_folder(const char *folder) {
  if (mkdir(folder, 0777) != 0 && errno != EEXIST)
    return status_set_errno(STATUS_CANT_CREATE, "folder '%s' cannot be made", folder);
  struct stat info;
  if (stat(folder, &info) == 0 && !S_ISDIR(info.st_mode))
    return status_set(STATUS_CANT_CREATE, "'%s' is a file, not a folder; name another folder",
                      folder);
  return STATUS_OK;
}

Status report_write(const Report *report, const char *folder, const ReportNames *names) {
  Writing writing = {report, names};
  for (size_t i = 0; i < sizeof files / sizeof *files; i++) TRY(write_file(folder, i, &writing));
  return STATUS_OK;
}
