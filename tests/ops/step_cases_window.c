// The cases of steps that look through a window: every kernel size, stride and padding.
#include <stdio.h>

#include "ops/step_cases.h"

// Convolutions and pools. Zero: kernel_w as kernel_h, stride_w as stride_h, and 1 for the rest.
typedef struct WindowCase {
  const char *name;
  Shape input;
  int64_t outputs;
  int kernel_h, kernel_w, stride_h, stride_w;
  Pads pads;
  int dilation, groups;
  bool has_bias;
  int64_t batch;
  double standardize;
} WindowCase;

static const WindowCase convolutions[] = {
    {"1x1 3->8", HWC(5, 4, 3), 8, 1, .has_bias = true},
    {"1x1 8->24", HWC(5, 4, 8), 24, 1, .stride_h = 1},
    {"1x1 24->17 bias", HWC(3, 5, 24), 17, 1, .has_bias = true},
    {"1x1 40->40", HWC(4, 4, 40), 40, 1, .stride_h = 1},
    {"1x1 17->3", HWC(4, 4, 17), 3, 1, .has_bias = true},
    {"1x1 stride 2 24->40", HWC(5, 6, 24), 40, 1, .stride_h = 2},
    {"1x1 on 1x1 40->24", HWC(1, 1, 40), 24, 1, .has_bias = true},
    {"3x3 3->8", HWC(6, 7, 3), 8, 3, .pads = {1, 1, 1, 1}},
    {"3x3 stride 2 3->24, pads after", HWC(8, 8, 3), 24, 3, .stride_h = 2, .pads = {0, 1, 0, 1}},
    {"3x3 8->17 bias", HWC(5, 5, 8), 17, 3, .pads = {1, 1, 1, 1}, .has_bias = true},
    {"3x3 17->24", HWC(5, 5, 17), 24, 3, .pads = {1, 1, 1, 1}},
    {"3x3 valid 24->40", HWC(5, 5, 24), 40, 3, .has_bias = true},
    {"3x3 stride 2 40->24, pads after", HWC(6, 6, 40), 24, 3, .stride_h = 2, .pads = {0, 1, 0, 1}},
    {"3x3 stride 2 odd size 24->17", HWC(7, 5, 24), 17, 3, .stride_h = 2, .pads = {1, 1, 1, 1}},
    {"3x3 dilation 2 8->24", HWC(7, 7, 8), 24, 3, .pads = {2, 2, 2, 2}, .dilation = 2},
    {"3x3 stride 2 by 1 8->8", HWC(6, 5, 8), 8, 3, .stride_h = 2, .stride_w = 1,
     .pads = {0, 1, 1, 1}, .has_bias = true},
    {"1x3 8->24", HWC(4, 6, 8), 24, 1, .kernel_w = 3, .pads = {0, 0, 1, 1}},
    {"5x5 3->24", HWC(7, 7, 3), 24, 5, .pads = {2, 2, 2, 2}, .has_bias = true},
    {"5x5 stride 2 8->17, asymmetric", HWC(8, 7, 8), 17, 5, .stride_h = 2, .pads = {1, 2, 2, 2}},
    {"7x7 stride 2 3->24", HWC(11, 11, 3), 24, 7, .stride_h = 2, .pads = {3, 3, 3, 3}},
    {"7x7 stride 2 3->8, asymmetric", HWC(12, 12, 3), 8, 7, .stride_h = 2, .pads = {2, 3, 2, 3},
     .has_bias = true},
    {"3x3 groups 4 24->40", HWC(5, 5, 24), 40, 3, .pads = {1, 1, 1, 1}, .groups = 4},
    {"3x3 groups 2 32->32 bias", HWC(4, 4, 32), 32, 3, .pads = {1, 1, 1, 1}, .groups = 2,
     .has_bias = true},
    {"3x3 stride 2 groups 3 24->24", HWC(6, 6, 24), 24, 3, .stride_h = 2, .pads = {0, 1, 0, 1},
     .groups = 3},
    {"3x3 groups 8 8->40", HWC(4, 4, 8), 40, 3, .pads = {1, 1, 1, 1}, .groups = 8},
    {"1x1 groups 4 64->32 bias", HWC(9, 9, 64), 32, 1, .groups = 4, .has_bias = true},
    {"3x3 groups 16 16->32 bias", HWC(5, 4, 16), 32, 3, .pads = {1, 1, 1, 1}, .groups = 16,
     .has_bias = true},
    {"1x1 stride 2 40->96", HWC(7, 7, 40), 96, 1, .stride_h = 2},
    {"3x3 3->3", HWC(9, 8, 3), 3, 3, .pads = {1, 1, 1, 1}},
    {"3x3 stride 2 4->17", HWC(9, 8, 4), 17, 3, .stride_h = 2, .pads = {1, 1, 0, 1}},
    {"3x3 stride 2 96->8", HWC(8, 8, 96), 8, 3, .stride_h = 2, .pads = {0, 1, 0, 1}},
    {"3x3 dilation 3 24->17", HWC(12, 13, 24), 17, 3, .pads = {3, 3, 3, 3}, .dilation = 3},
    {"5x5 1->16 bias", HWC(15, 16, 1), 16, 5, .pads = {2, 2, 2, 2}, .has_bias = true},
    {"7x7 stride 2 valid 8->40", HWC(11, 9, 8), 40, 7, .stride_h = 2},
    {"3x3 standardised 8->17 bias", HWC(5, 5, 8), 17, 3, .pads = {1, 1, 1, 1}, .has_bias = true,
     .standardize = 1e-10},
    {"1x1 standardised 40->24", HWC(4, 3, 40), 24, 1, .standardize = 1e-8},
    {"7x7 stride 2 standardised 3->16", HWC(9, 9, 3), 16, 7, .stride_h = 2, .pads = {3, 3, 3, 3},
     .standardize = 1e-3},
    {"3x3 stride 2 standardised odd size 17->24", HWC(7, 5, 17), 24, 3, .stride_h = 2,
     .pads = {1, 1, 1, 1}, .standardize = 1e-10},
    {"3x3 standardised groups 2 32->16", HWC(4, 4, 32), 16, 3, .groups = 2, .standardize = 1e-5},
    {"3x3 of one sample", HWC(5, 6, 17), 17, 3, .pads = {1, 1, 1, 1}, .batch = 1},
};

static const WindowCase depthwise[] = {
    {"3x3 8", HWC(6, 6, 8), 8, 3, .pads = {1, 1, 1, 1}},
    {"3x3 17 bias", HWC(5, 7, 17), 17, 3, .pads = {1, 1, 1, 1}, .has_bias = true},
    {"3x3 3", HWC(5, 5, 3), 3, 3, .pads = {1, 1, 1, 1}},
    {"3x3 on 1x1 40", HWC(1, 1, 40), 40, 3, .pads = {1, 1, 1, 1}},
    {"3x3 on 2x2 24", HWC(2, 2, 24), 24, 3, .pads = {1, 1, 1, 1}},
    {"3x3 valid 24", HWC(5, 6, 24), 24, 3, .stride_h = 1},
    {"3x3 stride 2 24, pads after", HWC(8, 6, 24), 24, 3, .stride_h = 2, .pads = {0, 1, 0, 1}},
    {"3x3 stride 2 odd size 40", HWC(7, 9, 40), 40, 3, .stride_h = 2, .pads = {1, 1, 1, 1}},
    {"3x3 wide 17", HWC(4, 19, 17), 17, 3, .pads = {1, 1, 1, 1}},
    {"3x3 dilation 2 8", HWC(7, 7, 8), 8, 3, .pads = {2, 2, 2, 2}, .dilation = 2},
    {"5x5 24", HWC(7, 7, 24), 24, 5, .pads = {2, 2, 2, 2}},
    {"5x5 stride 2 17, asymmetric", HWC(8, 8, 17), 17, 5, .stride_h = 2, .pads = {1, 2, 1, 2}},
    {"5x5 stride 2 odd size 40 bias", HWC(9, 7, 40), 40, 5, .stride_h = 2, .pads = {2, 2, 2, 2},
     .has_bias = true},
    {"5x5 on 3x3 8", HWC(3, 3, 8), 8, 5, .pads = {2, 2, 2, 2}},
    {"7x7 24", HWC(7, 8, 24), 24, 7, .pads = {3, 3, 3, 3}},
    {"7x7 stride 2 17, asymmetric", HWC(10, 10, 17), 17, 7, .stride_h = 2, .pads = {2, 3, 2, 3}},
    {"1x1 8", HWC(5, 5, 8), 8, 1, .stride_h = 1},
    {"3x3 20", HWC(14, 14, 20), 20, 3, .pads = {1, 1, 1, 1}},
    {"3x3 bias of an image", HWC(9, 11, 3), 3, 3, .pads = {1, 1, 1, 1}, .has_bias = true},
    {"3x3 valid wide 8", HWC(9, 21, 8), 8, 3, .stride_h = 1},
    {"3x3 stride 2 wide 8", HWC(6, 41, 8), 8, 3, .stride_h = 2, .pads = {0, 1, 0, 0}},
    {"3x3 stride 2 on 2x2 24", HWC(2, 2, 24), 24, 3, .stride_h = 2, .pads = {0, 1, 0, 1}},
    {"3x3 stride 3 8", HWC(10, 10, 8), 8, 3, .stride_h = 3, .pads = {1, 1, 1, 1}},
    {"3x3 on a row 8", HWC(1, 17, 8), 8, 3, .pads = {1, 1, 1, 1}},
    {"3x3 on a column 8", HWC(17, 1, 8), 8, 3, .pads = {1, 1, 1, 1}},
    {"3x3 pads beyond the window 8", HWC(5, 5, 8), 8, 3, .pads = {3, 3, 3, 3}},
    {"3x3 of one sample", HWC(5, 6, 17), 17, 3, .pads = {1, 1, 1, 1}, .batch = 1},
    {"3x3 of many samples 16", HWC(4, 4, 16), 16, 3, .pads = {1, 1, 1, 1}, .batch = 17},
    {"3x5 8", HWC(8, 9, 8), 8, 3, .kernel_w = 5, .pads = {1, 1, 2, 2}},
    {"5x3 stride 2 8", HWC(8, 9, 8), 8, 5, .kernel_w = 3, .stride_h = 2, .pads = {1, 2, 1, 1}},
    {"5x5 20", HWC(14, 13, 20), 20, 5, .pads = {2, 2, 2, 2}},
    {"5x5 stride 2 on 3x3 24", HWC(3, 3, 24), 24, 5, .stride_h = 2, .pads = {2, 2, 2, 2}},
    {"7x7 stride 2 12", HWC(12, 9, 12), 12, 7, .stride_h = 2, .pads = {2, 3, 3, 3}},
};

static const WindowCase pools[] = {
    {"2x2 stride 2 24", HWC(6, 6, 24), 24, 2, .stride_h = 2},
    {"2x2 stride 3 5", HWC(8, 7, 5), 5, 2, .stride_h = 3},
    {"3x3 stride 1 17, pads", HWC(5, 5, 17), 17, 3, .pads = {1, 1, 1, 1}},
    {"3x3 stride 1 3", HWC(5, 4, 3), 3, 3, .pads = {1, 1, 1, 1}},
    {"3x3 stride 2 17, pads", HWC(7, 7, 17), 17, 3, .stride_h = 2, .pads = {1, 1, 1, 1}},
    {"3x3 stride 2 40, pads after", HWC(6, 8, 40), 40, 3, .stride_h = 2, .pads = {0, 1, 0, 1}},
    {"3x3 stride 2 valid 40", HWC(9, 12, 40), 40, 3, .stride_h = 2},
    {"3x2 stride 2 by 1 3", HWC(7, 4, 3), 3, 3, .kernel_w = 2, .stride_h = 2, .stride_w = 1},
    {"1x1 stride 2 24", HWC(7, 6, 24), 24, 1, .stride_h = 2},
    {"5x5 stride 3 valid 24", HWC(8, 11, 24), 24, 5, .stride_h = 3},
    {"5x5 stride 1 8, pads", HWC(5, 5, 8), 8, 5, .pads = {2, 2, 2, 2}},
    {"7x7 stride 7 17", HWC(7, 7, 17), 17, 7, .stride_h = 7},
    {"3x3 stride 1 on 1x1 24, pads", HWC(1, 1, 24), 24, 3, .pads = {1, 1, 1, 1}},
    {"3x3 stride 2 odd by even 24, pads", HWC(9, 6, 24), 24, 3, .stride_h = 2,
     .pads = {1, 1, 0, 1}},
    {"3x3 stride 2 on 2x3 16, pads", HWC(2, 3, 16), 16, 3, .stride_h = 2, .pads = {0, 1, 1, 1}},
    {"3x3 stride 1 wide 8, pads before", HWC(3, 19, 8), 8, 3, .pads = {2, 0, 2, 0}},
};

static int64_t window_places(int64_t size, int64_t span, int64_t stride) {
  return (size - span) / stride + 1;
}

static void append_windows(CaseList *list, StepKind kind, const char *prefix,
                           const WindowCase *cases, size_t count) {
  for (size_t i = 0; i < count; i++) {
    WindowCase c = cases[i];
    char name[STEP_NAME_CAPACITY];
    snprintf(name, sizeof name, "%s %s", prefix, c.name);
    if (!c.kernel_w) c.kernel_w = c.kernel_h;
    if (!c.stride_h) c.stride_h = 1;
    if (!c.stride_w) c.stride_w = c.stride_h;
    if (!c.dilation) c.dilation = 1;
    if (!c.groups) c.groups = kind == STEP_DEPTHWISE_CONV2D ? (int)c.outputs : 1;
    int64_t height = window_places(c.input.dim[0] + c.pads.top + c.pads.bottom,
                                   (int64_t)(c.kernel_h - 1) * c.dilation + 1, c.stride_h);
    int64_t width = window_places(c.input.dim[1] + c.pads.left + c.pads.right,
                                  (int64_t)(c.kernel_w - 1) * c.dilation + 1, c.stride_w);
    case_append(list,
                &(StepDesc){.kind = kind,
                            .batch = c.batch,
                            .inputs = {c.input},
                            .output = HWC(height, width, c.outputs),
                            .kernel_h = c.kernel_h,
                            .kernel_w = c.kernel_w,
                            .stride_h = c.stride_h,
                            .stride_w = c.stride_w,
                            .dilation = c.dilation,
                            .groups = c.groups,
                            .standardize_epsilon = c.standardize,
                            .pads = c.pads,
                            .has_bias = c.has_bias},
                name);
  }
}

// Convolutions that take in the norm, the sum and the activation behind them: for inference alone.
void cases_append_folded(CaseList *list) {
  static const WindowCase cases[] = {
      {"1x1 8->24", HWC(5, 4, 8), 24, 1, .stride_h = 1},
      {"1x1 24->17 bias", HWC(3, 5, 24), 17, 1, .has_bias = true},
      {"3x3 17->24", HWC(5, 5, 17), 24, 3, .pads = {1, 1, 1, 1}},
      {"3x3 stride 2 3->8, pads after", HWC(8, 8, 3), 8, 3, .stride_h = 2, .pads = {0, 1, 0, 1}},
      {"3x3 groups 2 32->32 bias", HWC(4, 4, 32), 32, 3, .pads = {1, 1, 1, 1}, .groups = 2,
       .has_bias = true},
      {"3x3 groups 16 16->16", HWC(4, 5, 16), 16, 3, .pads = {1, 1, 1, 1}, .groups = 16},
  };
  for (int variant = 0; variant < ACTIVATION_KIND_COUNT * 2; variant++) {
    ActivationKind kind = (ActivationKind)(variant / 2);
    char what[STEP_NAME_CAPACITY / 2];
    if (kind == ACTIVATION_SOFTMAX) continue;
    snprintf(what, sizeof what, "conv norm %s%s", activation_name(kind), variant % 2 ? " add" : "");
    int first = list->count;
    append_windows(list, STEP_CONV2D, what, cases, sizeof cases / sizeof cases[0]);
    for (int i = first; i < list->count; i++) {
      StepDesc *desc = &list->cases[i].desc;
      desc->training = desc->need_dparams = desc->need_dx[0] = false;
      desc->has_norm = true;
      desc->activation = kind;
      desc->epsilon = 1e-3;
      desc->no_scale = i == first + 1;
      desc->no_center = i == first + 2;
      if (variant % 2) desc->input_count = 2;
      desc->inputs[1] = desc->output;
    }
  }
}

// Convolutions that sum their output for the norm behind them, where the backend can.
void cases_append_statistics(CaseList *list) {
  static const WindowCase cases[] = {
      {"1x1 8->24", HWC(5, 4, 8), 24, 1, .stride_h = 1},
      {"3x3 17->24 bias", HWC(5, 5, 17), 24, 3, .pads = {1, 1, 1, 1}, .has_bias = true},
      {"3x3 stride 2 3->17, pads after", HWC(8, 8, 3), 17, 3, .stride_h = 2, .pads = {0, 1, 0, 1}},
      {"3x3 of one sample", HWC(5, 6, 17), 17, 3, .pads = {1, 1, 1, 1}, .batch = 1},
  };
  int first = list->count;
  append_windows(list, STEP_CONV2D, "conv2d with statistics", cases,
                 sizeof cases / sizeof cases[0]);
  for (int i = first; i < list->count; i++) list->cases[i].desc.gives_statistics = true;
}

void cases_append_pools(CaseList *list) {
  size_t count = sizeof pools / sizeof pools[0];
  append_windows(list, STEP_POOL2D, "average", pools, count);
  int first = list->count;
  append_windows(list, STEP_POOL2D, "max", pools, count);
  append_windows(list, STEP_POOL2D, "max with ties", pools, count);
  for (int i = first; i < list->count; i++) {
    list->cases[i].desc.pool_is_max = true;
    list->cases[i].x_ties = i >= first + (int)count;
  }
}

void cases_append_convolutions(CaseList *list) {
  append_windows(list, STEP_CONV2D, "conv2d", convolutions,
                 sizeof convolutions / sizeof convolutions[0]);
  append_windows(list, STEP_DEPTHWISE_CONV2D, "depthwise", depthwise,
                 sizeof depthwise / sizeof depthwise[0]);
}

// The NaN is the middle number of one sample: the first of some window, or inside of the only one.
void cases_append_nan_pools(CaseList *list) {
  static const WindowCase cases[] = {
      {"3x3 stride 1 17, pads", HWC(5, 5, 17), 17, 3, .pads = {1, 1, 1, 1}, .batch = 1},
      {"7x7 stride 7 17", HWC(7, 7, 17), 17, 7, .stride_h = 7, .batch = 1},
  };
  int first = list->count;
  append_windows(list, STEP_POOL2D, "NaN through max", cases, sizeof cases / sizeof cases[0]);
  for (int i = first; i < list->count; i++) list->cases[i].desc.pool_is_max = true;
}
