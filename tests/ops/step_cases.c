// The cases of the operation tests: small shapes that reach every corner of a layout (channels of
// the image, of half a block, of a block and a bit). Those of windows are in step_cases_window.c.
#include "ops/step_cases.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// Shapes of the steps that work element by element or by channel.
static const Shape images[] = {HWC(3, 5, 3),  HWC(4, 3, 8),  HWC(5, 7, 17), HWC(3, 3, 24),
                               HWC(2, 3, 40), HWC(1, 1, 40), HWC(3, 3, 64)};
enum { IMAGE_COUNT = sizeof images / sizeof images[0] };

StepDesc *case_append(CaseList *list, const StepDesc *desc, const char *name) {
  if (list->count == list->capacity) {
    list->capacity = list->capacity ? 2 * list->capacity : 64;
    list->cases = realloc(list->cases, (size_t)list->capacity * sizeof *list->cases);
    if (!list->cases) abort();
  }
  StepCase *added = &list->cases[list->count++];
  *added = (StepCase){.desc = *desc};
  snprintf(added->name, sizeof added->name, "%s", name);
  StepDesc *d = &added->desc;
  d->training = d->need_dparams = true;
  if (!d->batch) d->batch = 3;
  if (!d->input_count) d->input_count = 1;
  for (int k = 0; k < d->input_count; k++) d->need_dx[k] = true;
  return d;
}

// "KIND DETAIL HxWxC".
static StepDesc *append_on(CaseList *list, StepKind kind, const char *what, Shape shape) {
  char name[STEP_NAME_CAPACITY], text[SHAPE_TEXT_CAPACITY];
  snprintf(name, sizeof name, "%s %s", what, shape_format(shape, text));
  return case_append(list, &(StepDesc){.kind = kind, .inputs = {shape, shape}, .output = shape},
                     name);
}

static void join_second(StepDesc *desc) {
  desc->input_count = 2;
  desc->need_dx[1] = true;
}

static void append_dense(CaseList *list) {
  static const int64_t sizes[][2] = {{1, 1}, {3, 5}, {40, 17}, {64, 10}, {129, 33}, {1280, 3}};
  for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
    for (int bias = 0; bias < 2; bias++) {
      char name[STEP_NAME_CAPACITY];
      snprintf(name, sizeof name, "dense %d->%d%s", (int)sizes[i][0], (int)sizes[i][1],
               bias ? " bias" : "");
      case_append(list,
                  &(StepDesc){.kind = STEP_DENSE,
                              .batch = 5,
                              .inputs = {FLAT(sizes[i][0])},
                              .output = FLAT(sizes[i][1]),
                              .has_bias = bias},
                  name);
    }
}

static void append_activations(CaseList *list) {
  for (int kind = 0; kind < ACTIVATION_KIND_COUNT; kind++) {
    char what[STEP_NAME_CAPACITY];
    snprintf(what, sizeof what, "activation %s", activation_name((ActivationKind)kind));
    bool is_softmax = kind == ACTIVATION_SOFTMAX;
    StepDesc *desc = append_on(list, STEP_ACTIVATION, what, (Shape)FLAT(19));
    desc->activation = (ActivationKind)kind;
    if (is_softmax) desc->training = desc->need_dx[0] = false;
    for (int i = 0; i < IMAGE_COUNT && !is_softmax; i++)
      append_on(list, STEP_ACTIVATION, what, images[i])->activation = (ActivationKind)kind;
  }
}

static void append_adds(CaseList *list) {
  for (int kind = 0; kind < ACTIVATION_KIND_COUNT; kind++) {
    if (kind == ACTIVATION_SOFTMAX) continue;
    char what[STEP_NAME_CAPACITY];
    snprintf(what, sizeof what, "add %s", activation_name((ActivationKind)kind));
    for (int i = 0; i < IMAGE_COUNT; i++) {
      StepDesc *desc = append_on(list, STEP_ADD, what, images[i]);
      desc->activation = (ActivationKind)kind;
      join_second(desc);
    }
  }
}

static void append_scaled_adds(CaseList *list) {
  for (int i = 0; i < IMAGE_COUNT + 2; i++) {
    static const ActivationKind kinds[] = {ACTIVATION_RELU, ACTIVATION_LINEAR, ACTIVATION_SWISH};
    StepDesc *desc = append_on(list, STEP_ADD, "add scaled", images[i % IMAGE_COUNT]);
    desc->factor = 0.1875;
    desc->activation = kinds[i % 3];
    join_second(desc);
  }
}

static void append_norms(CaseList *list) {
  for (int variant = 0; variant < ACTIVATION_KIND_COUNT * 4; variant++) {
    ActivationKind kind = (ActivationKind)(variant / 4);
    bool of_batch = variant & 1, joins = variant & 2;
    if (kind == ACTIVATION_SOFTMAX) continue;
    char what[STEP_NAME_CAPACITY];
    snprintf(what, sizeof what, "norm %s%s %s", of_batch ? "batch" : "moving",
             joins ? " residual" : "", activation_name(kind));
    for (int i = 0; i < IMAGE_COUNT; i++) {
      StepDesc *desc = append_on(list, STEP_NORM, what, images[i]);
      desc->batch = 4;
      desc->activation = kind;
      desc->use_batch_statistics = of_batch;
      desc->epsilon = 1e-3;
      if (joins) join_second(desc);
    }
  }
  for (int variant = 1; variant < 4; variant++) {
    const char *what =
        (const char *[]){"", "norm no scale", "norm no center", "norm plain"}[variant];
    StepDesc *desc = append_on(list, STEP_NORM, what, images[2]);
    desc->no_scale = variant & 1;
    desc->no_center = variant & 2;
    desc->use_batch_statistics = true;
    desc->epsilon = 1e-5;
  }
}

// Norms and scalings of vectors, as behind pooling and dense layers.
static void append_vectors(CaseList *list) {
  static const ActivationKind kinds[] = {ACTIVATION_RELU, ACTIVATION_LINEAR, ACTIVATION_SWISH};
  static const int64_t channels[] = {48, 4, 24};
  for (int i = 0; i < 12; i++) {
    bool of_batch = i & 1, joins = i >= 6;
    StepDesc *desc = append_on(list, STEP_NORM, of_batch ? "norm batch" : "norm moving",
                               (Shape)FLAT(channels[i % 3]));
    desc->batch = 7;
    desc->activation = kinds[i / 2 % 3];
    desc->use_batch_statistics = of_batch;
    desc->epsilon = 1e-3;
    if (joins) join_second(desc);
  }
  append_on(list, STEP_RESCALE, "rescale", (Shape)FLAT(19))->rescaling =
      (RescalingDesc){.count = 1, .scale = {0.5}, .offset = {-1.0}};
}

static StepDesc *append_batch_norm(CaseList *list, const char *what, Shape shape, int64_t batch) {
  StepDesc *desc = append_on(list, STEP_NORM, what, shape);
  desc->batch = batch;
  desc->use_batch_statistics = true;
  desc->epsilon = 1e-3;
  return desc;
}

// Norms whose convolution has summed already.
static void append_norms_of_sums(CaseList *list) {
  static const ActivationKind kinds[] = {ACTIVATION_RELU, ACTIVATION_LINEAR, ACTIVATION_SWISH};
  for (int i = 0; i < 2 * IMAGE_COUNT; i++) {
    bool joins = i >= IMAGE_COUNT;
    StepDesc *desc = append_batch_norm(list, joins ? "norm of sums residual" : "norm of sums",
                                       images[i % IMAGE_COUNT], 4);
    desc->takes_statistics = true;
    desc->activation = kinds[i % 3];
    if (joins) join_second(desc);
  }
}

static void append_norm_extremes(CaseList *list) {
  append_batch_norm(list, "norm of many pixels", (Shape)HWC(23, 29, 8), 2);
  append_batch_norm(list, "norm of many samples", (Shape)HWC(2, 2, 16), 19);
  append_batch_norm(list, "norm of single pixels", (Shape)HWC(1, 1, 40), 13);
  append_batch_norm(list, "norm far from zero", (Shape)HWC(9, 9, 24), 3);
  list->cases[list->count - 1].x_offset = 1000.0;
  append_batch_norm(list, "norm of large values", images[2], 3);
  list->cases[list->count - 1].x_range = 1e4;
  append_batch_norm(list, "norm of small values", images[2], 3)->epsilon = 1e-5;
  list->cases[list->count - 1].x_range = 1e-3;
}

// Groups inside a block of channels, of whole blocks, and across them; images of several chunks.
static void append_group_norms(CaseList *list) {
  static const struct {
    Shape shape;
    int groups;
  } cases[] = {{HWC(4, 5, 3), 1},  {HWC(4, 5, 3), 3},    {HWC(3, 5, 8), 2},    {HWC(5, 3, 17), 17},
               {HWC(3, 3, 24), 8}, {HWC(3, 4, 24), 2},   {HWC(2, 3, 40), 5},   {HWC(4, 3, 64), 32},
               {HWC(3, 2, 64), 4}, {HWC(2, 2, 96), 2},   {HWC(1, 1, 64), 8},   {HWC(23, 19, 16), 1},
               {FLAT(24), 3},      {HWC(3, 4, 128), 32}, {HWC(25, 21, 24), 2}, {HWC(2, 2, 256), 1}};
  static const ActivationKind kinds[] = {ACTIVATION_RELU, ACTIVATION_LINEAR, ACTIVATION_SWISH,
                                         ACTIVATION_SIGMOID};
  for (size_t i = 0; i < 2 * sizeof cases / sizeof cases[0]; i++) {
    char what[STEP_NAME_CAPACITY];
    const int groups = cases[i / 2].groups;
    snprintf(what, sizeof what, "group norm %s %d of", activation_name(kinds[i % 4]), groups);
    StepDesc *desc = append_on(list, STEP_GROUP_NORM, what, cases[i / 2].shape);
    desc->groups = groups;
    desc->activation = kinds[i % 4];
    desc->epsilon = i % 3 ? 1e-5 : 1e-3;
    desc->no_scale = i % 5 == 1;
    desc->no_center = i % 7 == 2;
  }
  StepDesc *desc = append_on(list, STEP_GROUP_NORM, "group norm far from zero", images[3]);
  desc->groups = 4;
  desc->epsilon = 1e-3;
  list->cases[list->count - 1].x_offset = 1000.0;
}

// So many pixels that the blocks of a GPU share those of a sample.
static void append_large_samples(CaseList *list) {
  const Shape shape = HWC(47, 53, 24);
  StepDesc *desc = append_on(list, STEP_GLOBAL_POOL, "global pool of many pixels", shape);
  desc->batch = 2;
  desc->output = (Shape)FLAT(24);
  desc = append_on(list, STEP_SQUEEZE_EXCITE, "squeeze of many pixels", shape);
  desc->batch = 2;
  desc->activation = ACTIVATION_SWISH;
  desc->gate = ACTIVATION_SIGMOID;
  desc->squeeze = 3;
}

// One sample: fewer than threads.
static void append_single_samples(CaseList *list) {
  append_batch_norm(list, "norm of one sample", images[2], 1)->activation = ACTIVATION_RELU;
  append_on(list, STEP_ACTIVATION, "activation of one sample", images[2])->batch = 1;
  append_on(list, STEP_GLOBAL_POOL, "global pool of one sample", images[2])->batch = 1;
  list->cases[list->count - 1].desc.output = (Shape)FLAT(17);
}

static void append_squeezes(CaseList *list) {
  static const ActivationKind pairs[][2] = {{ACTIVATION_SWISH, ACTIVATION_SIGMOID},
                                            {ACTIVATION_RELU, ACTIVATION_HARD_SIGMOID}};
  for (int p = 0; p < 2; p++)
    for (int i = 0; i < IMAGE_COUNT; i++) {
      StepDesc *desc =
          append_on(list, STEP_SQUEEZE_EXCITE,
                    p ? "squeeze relu hard_sigmoid" : "squeeze swish sigmoid", images[i]);
      desc->activation = pairs[p][0];
      desc->gate = pairs[p][1];
      desc->squeeze = 2 + i;
    }
}

static void append_dropouts(CaseList *list) {
  for (int variant = 0; variant < 4; variant++)
    for (int i = 0; i < IMAGE_COUNT + 1; i++) {
      bool per_sample = variant & 1, joins = variant & 2, is_flat = i == IMAGE_COUNT;
      char what[STEP_NAME_CAPACITY];
      snprintf(what, sizeof what, "dropout%s%s", per_sample ? " by sample" : "",
               joins ? " residual" : "");
      StepDesc *desc = append_on(list, STEP_DROPOUT, what, is_flat ? (Shape)FLAT(37) : images[i]);
      desc->batch = 6;
      desc->rate = 0.375;
      desc->per_sample = per_sample;
      desc->layer = 3 + variant;
      if (joins) join_second(desc);
    }
  join_second(append_on(list, STEP_DROPOUT, "dropout at rate 0 residual", images[2]));
  // More than 2^16 groups of four draws: past one word of the counter.
  StepDesc *desc = append_on(list, STEP_DROPOUT, "dropout of many", (Shape)HWC(65, 63, 68));
  desc->batch = 1;
  desc->rate = 0.25;
  list->cases[list->count - 1].is_large = true;
}

// Padding by so many pixels, and cropping where as many are there.
static void append_edges(CaseList *list, Shape shape, Pads pads) {
  char what[STEP_NAME_CAPACITY];
  int64_t height = pads.top + pads.bottom, width = pads.left + pads.right;
  snprintf(what, sizeof what, "pad %d %d %d %d of", pads.top, pads.bottom, pads.left, pads.right);
  StepDesc *desc = append_on(list, STEP_PAD, what, shape);
  desc->pads = pads;
  desc->output = (Shape)HWC(shape.dim[0] + height, shape.dim[1] + width, shape.dim[2]);
  if (shape.dim[0] <= height || shape.dim[1] <= width) return;
  snprintf(what, sizeof what, "crop %d %d %d %d of", pads.top, pads.bottom, pads.left, pads.right);
  desc = append_on(list, STEP_CROP, what, shape);
  desc->pads = pads;
  desc->output = (Shape)HWC(shape.dim[0] - height, shape.dim[1] - width, shape.dim[2]);
}

static void append_by_shape(CaseList *list) {
  for (int i = 0; i < IMAGE_COUNT; i++) {
    Shape shape = images[i];
    append_on(list, STEP_GLOBAL_POOL, "global pool", shape)->output = (Shape)FLAT(shape.dim[2]);
    append_on(list, STEP_FLATTEN, "flatten", shape)->output = (Shape)FLAT(shape_count(shape));
    StepDesc *desc = append_on(list, STEP_MULTIPLY, "multiply", shape);
    desc->inputs[1] = (Shape)FLAT(shape.dim[2]);
    join_second(desc);
    append_edges(list, shape, (Pads){1, 2, 0, 3});
    append_edges(list, shape, (Pads){0, 1, 2, 1});
    append_edges(list, shape, (Pads){1, 0, 1, 0}); // NASNet's, cropped
    append_edges(list, shape, (Pads){1, 1, 0, 1});
    append_on(list, STEP_RESCALE, "rescale", shape)->rescaling =
        (RescalingDesc){.count = 1, .scale = {0.5}, .offset = {-1.0}};
  }
  append_on(list, STEP_GLOBAL_POOL, "global pool far from zero", images[2])->output =
      (Shape)FLAT(17);
  list->cases[list->count - 1].x_offset = 100.0;
  join_second(append_on(list, STEP_MULTIPLY, "multiply", (Shape)FLAT(19)));
  join_second(append_on(list, STEP_ADD, "add linear", (Shape)FLAT(37)));
  append_on(list, STEP_RESCALE, "rescale by channel", images[0])->rescaling =
      (RescalingDesc){.count = 3, .scale = {0.5, 2.0, -1.0}, .offset = {-1.0, 0.0, 3.0}};
}

static void append_concats(CaseList *list, bool is_flat) {
  static const int64_t channels[][STEP_MAX_INPUTS] = {{8, 8},
                                                      {16, 32},
                                                      {3, 8},
                                                      {17, 24},
                                                      {24, 17, 40},
                                                      {3, 1, 5, 8},
                                                      {8, 8, 8, 8},
                                                      {3, 5, 16, 7},
                                                      {16, 32, 48, 16, 16},
                                                      {54, 54, 54, 54, 54}, // PNASNet-5 mobile
                                                      {5, 16, 7, 24, 9},
                                                      {16, 16, 64, 16, 32, 16},
                                                      {44, 44, 44, 44, 44, 44}, // NASNet mobile
                                                      {17, 8, 24, 3, 40, 1},
                                                      {1, 16, 2, 20, 8, 33, 5, 12}};
  for (size_t i = 0; i < sizeof channels / sizeof channels[0]; i++) {
    const int64_t *parts = channels[i];
    StepDesc desc = {.kind = STEP_CONCAT};
    char name[STEP_NAME_CAPACITY];
    int64_t sum = 0;
    snprintf(name, sizeof name, "concat%s", is_flat ? " of vectors" : "");
    for (; desc.input_count < STEP_MAX_INPUTS && parts[desc.input_count]; desc.input_count++) {
      int64_t c = parts[desc.input_count];
      desc.inputs[desc.input_count] = is_flat ? (Shape)FLAT(c) : (Shape)HWC(3, 5, c);
      sum += c;
      size_t used = strlen(name);
      snprintf(name + used, sizeof name - used, " %d", (int)c);
    }
    desc.output = is_flat ? (Shape)FLAT(sum) : (Shape)HWC(3, 5, sum);
    case_append(list, &desc, name);
  }
}

static void append_nans(CaseList *list) {
  int first = list->count;
  for (int kind = 0; kind < ACTIVATION_KIND_COUNT; kind++) {
    char what[STEP_NAME_CAPACITY];
    if (kind == ACTIVATION_SOFTMAX) continue;
    snprintf(what, sizeof what, "NaN through %s", activation_name((ActivationKind)kind));
    append_on(list, STEP_ACTIVATION, what, images[2])->activation = (ActivationKind)kind;
    snprintf(what, sizeof what, "NaN through add %s", activation_name((ActivationKind)kind));
    StepDesc *desc = append_on(list, STEP_ADD, what, images[2]);
    desc->activation = (ActivationKind)kind;
    join_second(desc);
    snprintf(what, sizeof what, "NaN through norm %s", activation_name((ActivationKind)kind));
    desc = append_on(list, STEP_NORM, what, images[2]);
    desc->activation = (ActivationKind)kind;
    desc->epsilon = 1e-3;
  }
  cases_append_nan_pools(list);
  for (int i = first; i < list->count; i++) list->cases[i].x_nan = true;
}

int step_cases(StepCase **out) {
  CaseList list = {0};
  cases_append_convolutions(&list);
  cases_append_pools(&list);
  append_dense(&list);
  append_norms(&list);
  append_norm_extremes(&list);
  append_group_norms(&list);
  append_activations(&list);
  append_adds(&list);
  append_scaled_adds(&list);
  append_squeezes(&list);
  append_dropouts(&list);
  append_by_shape(&list);
  append_concats(&list, false);
  append_single_samples(&list);
  append_large_samples(&list);
  cases_append_folded(&list);
  cases_append_statistics(&list);
  append_norms_of_sums(&list);
  append_vectors(&list);
  append_concats(&list, true);
  append_nans(&list);
  *out = list.cases;
  return list.count;
}
