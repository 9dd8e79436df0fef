// Line plots as SVG text: axes with round ticks, a grid, a legend. Needs no library to be seen.
#ifndef IMGCLS_TRAIN_PLOT_H
#define IMGCLS_TRAIN_PLOT_H

#include <stdint.h>

#include "base/status.h"

typedef struct PlotSeries {
  const char *name;
  const double *values; // NaN: no point there, and the line goes on to the next; borrowed
} PlotSeries;

typedef struct PlotDesc {
  const char *title, *x_label, *y_label;
  const PlotSeries *series;
  int series_count; // at most 4
  int64_t point_count; // of each series, at x = 1, 2, ...
  double y_top; // the axis runs from 0 to at least this
} PlotDesc;

// The SVG document, owned by the caller.
MUST_CHECK Status plot_format_svg(char **out, const PlotDesc *plot);

#endif
