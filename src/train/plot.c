// Line plots as SVG. See plot.h.
#include "train/plot.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>

#include "base/memory.h"

enum {
  WIDTH = 720,
  HEIGHT = 440,
  LEFT = 70,
  RIGHT = 20,
  TOP = 44,
  BOTTOM = 56,
  TICKS = 5,
  MOST_DOTS = 60
};

// Colour-blind safe (Okabe and Ito).
static const char *const colours[] = {"#0072b2", "#d55e00", "#009e73", "#cc79a7"};

static double largest_value(const PlotDesc *plot) {
  double top = plot->y_top;
  for (int s = 0; s < plot->series_count; s++)
    for (int64_t i = 0; i < plot->point_count; i++)
      if (isfinite(plot->series[s].values[i]) && plot->series[s].values[i] > top)
        top = plot->series[s].values[i];
  return top;
}

// The smallest of 1, 2, 5 times a power of ten that cuts `range` in at most TICKS parts.
static double round_tick(double range) {
  double power = pow(10.0, floor(log10(range / TICKS)));
  static const double factors[] = {1, 2, 5, 10};
  for (int i = 0; i < 4; i++)
    if (range / (factors[i] * power) <= TICKS) return factors[i] * power;
  return 10.0 * power;
}

static double x_place(const PlotDesc *plot, double x) {
  double span = plot->point_count > 1 ? (double)(plot->point_count - 1) : 1.0;
  return LEFT + (x - 1.0) / span * (WIDTH - LEFT - RIGHT);
}

static double y_place(double y, double top) {
  return HEIGHT - BOTTOM - y / top * (HEIGHT - TOP - BOTTOM);
}

static void print_axes(FILE *svg, const PlotDesc *plot, double tick, double top) {
  for (int i = 0; i * tick <= top * 1.0001; i++) {
    double y = y_place(i * tick, top);
    (void)fprintf(svg,
                  "<path d='M%d %.1fH%d' stroke='#ddd'/>"
                  "<text x='%d' y='%.1f' text-anchor='end'>%g</text>\n",
                  LEFT, y, WIDTH - RIGHT, LEFT - 8, y + 4, i * tick);
  }
  double step = plot->point_count > 1 ? round_tick((double)plot->point_count) : 1.0;
  if (step < 1.0) step = 1.0;
  for (double x = 1.0; x <= (double)plot->point_count; x = x == 1.0 && step > 1.0 ? step : x + step)
    (void)fprintf(svg, "<text x='%.1f' y='%d' text-anchor='middle'>%g</text>\n", x_place(plot, x),
                  HEIGHT - BOTTOM + 18, x);
  (void)fprintf(svg, "<path d='M%d %dV%dH%d' fill='none' stroke='#333'/>\n", LEFT, TOP,
                HEIGHT - BOTTOM, WIDTH - RIGHT);
  (void)fprintf(svg, "<text x='%d' y='24' font-size='16'>%s</text>\n", LEFT, plot->title);
  (void)fprintf(svg, "<text x='%d' y='%d' text-anchor='middle'>%s</text>\n",
                (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 14, plot->x_label);
  (void)fprintf(svg,
                "<text transform='translate(18 %d) rotate(-90)' text-anchor='middle'>%s</text>\n",
                (TOP + HEIGHT - BOTTOM) / 2, plot->y_label);
}

static void print_series(FILE *svg, const PlotDesc *plot, int s, double top) {
  (void)fprintf(svg, "<path fill='none' stroke='%s' stroke-width='2' d='", colours[s]);
  int64_t points = 0;
  for (int64_t i = 0; i < plot->point_count; i++) {
    double y = plot->series[s].values[i];
    if (!isfinite(y)) continue;
    (void)fprintf(svg, "%c%.1f %.1f", points > 0 ? 'L' : 'M', x_place(plot, (double)i + 1.0),
                  y_place(y, top));
    points++;
  }
  (void)fprintf(svg, "'/>\n");
  for (int64_t i = 0; i < plot->point_count && points <= MOST_DOTS; i++)
    if (isfinite(plot->series[s].values[i]))
      (void)fprintf(svg, "<circle cx='%.1f' cy='%.1f' r='2.5' fill='%s'/>\n",
                    x_place(plot, (double)i + 1.0), y_place(plot->series[s].values[i], top),
                    colours[s]);
  (void)fprintf(svg, "<text x='%d' y='24' fill='%s'>&#9632; %s</text>\n", WIDTH - 260 + 120 * s,
                colours[s], plot->series[s].name);
}

Status plot_format_svg(char **out, const PlotDesc *plot) {
  *out = NULL;
  char *text = NULL;
  size_t size = 0;
  FILE *svg = open_memstream(&text, &size);
  if (!svg) return status_set_errno(STATUS_OS, "plot '%s'", plot->title);
  double largest = largest_value(plot);
  double tick = round_tick(largest), top = ceil(largest / tick - 1e-9) * tick;
  (void)fprintf(svg,
                "<svg xmlns='http://www.w3.org/2000/svg' width='%d' height='%d' "
                "viewBox='0 0 %d %d' font-family='sans-serif' font-size='13' fill='#222'>\n"
                "<rect width='%d' height='%d' fill='white'/>\n",
                WIDTH, HEIGHT, WIDTH, HEIGHT, WIDTH, HEIGHT);
  print_axes(svg, plot, tick, top);
  for (int s = 0; s < plot->series_count; s++) print_series(svg, plot, s, top);
  (void)fprintf(svg, "</svg>\n");
  if (fclose(svg) != 0) {
    memory_free(text);
    return status_set_errno(STATUS_OS, "plot '%s'", plot->title);
  }
  *out = text;
  return STATUS_OK;
}
