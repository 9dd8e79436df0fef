// NASNet-A (arXiv 1707.07012) and PNASNet-5 (arXiv 1712.00559): cells that were found by search.
//
//   nasnet_mobile, nasnet_large, pnasnet_large   the hub's, built by TF-Slim: pools are SAME, and
//                                drop-path has the strength that TF-Slim's training ends with.
//   NASNetMobile, NASNetLarge    Keras': the reductions' pools see zeros beyond the border, and
//                                there is no drop-path.
//
// Inputs in [-1, 1], BatchNorm with epsilon 0.001. A cell sees the outputs of the two cells before
// it, brings both to its filters, joins them pair by pair and concatenates what it made. Layers
// stand cell by cell; the order of weights in a file is found by keras/, not here.
#include <stdarg.h>
#include <stdio.h>

#include "model/blocks.h"
#include "model/family.h"

typedef enum OperationKind {
  SEPARABLE, // twice: ReLU, separable convolution, BatchNorm; the stride in the first
  AVERAGE,   // pool of 3 x 3
  MAXIMUM,
  IDENTITY // a 1 x 1 convolution where stride or filters change
} OperationKind;

// What an operation reads: the cell's input, the one before it, or a sum of this cell.
typedef enum Source { CURRENT, PREVIOUS, SUM_1, SUM_2, SUM_3, SUM_4, SUM_5, SOURCE_COUNT } Source;

typedef struct Operation {
  OperationKind kind;
  Source source;
  int kernel;       // of a separable convolution
  const char *name; // as in Keras
} Operation;

enum { PAIRS = 5 };

typedef struct Cell {
  const char *name;
  Operation pairs[PAIRS][2]; // each pair is summed up
  int output_count;
  Source outputs[PAIRS + 1]; // concatenated
} Cell;

static const Cell normal_a = {
    "normal",
    {{{SEPARABLE, CURRENT, 5, "left1"}, {SEPARABLE, PREVIOUS, 3, "right1"}},
     {{SEPARABLE, PREVIOUS, 5, "left2"}, {SEPARABLE, PREVIOUS, 3, "right2"}},
     {{AVERAGE, CURRENT, 0, "left3"}, {IDENTITY, PREVIOUS, 0, "right3"}},
     {{AVERAGE, PREVIOUS, 0, "left4"}, {AVERAGE, PREVIOUS, 0, "right4"}},
     {{SEPARABLE, CURRENT, 3, "left5"}, {IDENTITY, CURRENT, 0, "right5"}}},
    6,
    {PREVIOUS, SUM_1, SUM_2, SUM_3, SUM_4, SUM_5},
};
static const Cell reduction_a = {
    "reduction",
    {{{SEPARABLE, CURRENT, 5, "left1"}, {SEPARABLE, PREVIOUS, 7, "right1"}},
     {{MAXIMUM, CURRENT, 0, "left2"}, {SEPARABLE, PREVIOUS, 7, "right2"}},
     {{AVERAGE, CURRENT, 0, "left3"}, {SEPARABLE, PREVIOUS, 5, "right3"}},
     {{IDENTITY, SUM_2, 0, "right4"}, {AVERAGE, SUM_1, 0, "left4"}},
     {{SEPARABLE, SUM_1, 3, "left4"}, {MAXIMUM, CURRENT, 0, "right5"}}},
    4,
    {SUM_2, SUM_3, SUM_4, SUM_5},
};
static const Cell progressive_5 = {
    "cell",
    {{{SEPARABLE, PREVIOUS, 5, "left1"}, {MAXIMUM, PREVIOUS, 0, "right1"}},
     {{SEPARABLE, CURRENT, 7, "left2"}, {MAXIMUM, CURRENT, 0, "right2"}},
     {{SEPARABLE, CURRENT, 5, "left3"}, {SEPARABLE, CURRENT, 3, "right3"}},
     {{SEPARABLE, SUM_3, 3, "left4"}, {MAXIMUM, CURRENT, 0, "right4"}},
     {{SEPARABLE, PREVIOUS, 3, "left5"}, {IDENTITY, CURRENT, 0, "right5"}}},
    5,
    {SUM_1, SUM_2, SUM_3, SUM_4, SUM_5},
};

// Where the hub's graphs and Keras' differ.
typedef struct Form {
  double momentum;
  Initializer kernel, separable_kernel;
  bool pad_pools; // the reductions' pools are padded with zeros by hand, else SAME
} Form;

#define HUB_KERNEL                                                                                 \
  { INITIALIZER_VARIANCE_SCALING, 2, FAN_OUT, DISTRIBUTION_TRUNCATED_NORMAL }
static const Form slim = {
    .momentum = 0.99,
    .kernel = HUB_KERNEL,
    .separable_kernel = HUB_KERNEL,
};
static const Form keras = {
    .momentum = 0.9997,
    .kernel = {INITIALIZER_VARIANCE_SCALING, 2, FAN_IN, DISTRIBUTION_TRUNCATED_NORMAL},
    .separable_kernel = {.kind = INITIALIZER_GLOROT_UNIFORM},
    .pad_pools = true,
};

typedef struct NasnetOptions {
  const Form *form;
  const Cell *normal;
  const Cell *reduction; // NULL: the first normal cell of a later stage halves the image
  int stem_filters, filters;
  int cells;           // normal ones in each of three stages
  bool skip_reduction; // the cell after a reduction sees what stood before it, not its input
  double drop_rate;    // of drop-path in the last cell
} NasnetOptions;

// The cell that is being added, and the network so far.
typedef struct Builder {
  Net *net;
  const Form *form;
  Value current, previous; // outputs of the last two cells; NO_VALUE before the first
  int cell_index, cell_count;
  double last_drop_rate;
  const Cell *cell;
  char id[16];
  int64_t filters;
  int stride;
  Value padded; // its input with zeros around, NO_VALUE where none is yet
  char text[64];
} Builder;

// The name of a layer of this cell, until the next call.
static const char *label(Builder *b, const char *format, ...) PRINTF_LIKE(2, 3);
static const char *label(Builder *b, const char *format, ...) {
  va_list args;
  va_start(args, format);
  int length = vsnprintf(b->text, sizeof b->text, format, args);
  va_end(args);
  (void)snprintf(b->text + length, sizeof b->text - (size_t)length, "_%s", b->id);
  return b->text;
}

static int64_t channels_of(const Builder *b, Value x) {
  return graph_channels(b->net->graph, x);
}

static Value add_relu(Builder *b, Value x, const char *name) {
  return model__activation(b->net, x, ACTIVATION_RELU, name);
}

static Value add_projection(Builder *b, Value x, int stride, int64_t filters, const char *name) {
  return model__conv(b->net, x, (Conv2dDesc){.filters = filters, .kernel_h = 1, .stride_h = stride},
                     name);
}

// --- operations ----------------------------------------------------------------------------------

static Value add_separable(Builder *b, Value x, const Operation *op, int stride) {
  const char *cell = b->cell->name;
  for (int i = 1; i <= 2; i++) {
    Conv2dDesc desc = {.filters = b->filters,
                       .kernel_h = op->kernel,
                       .stride_h = i == 1 ? stride : 1,
                       .padding = PADDING_SAME,
                       .initializer = b->form->separable_kernel};
    x = add_relu(b, x, label(b, "separable_relu_%d_%s_%s", i, cell, op->name));
    x = graph_separable_conv2d(b->net->graph, x, &desc,
                               label(b, "separable_conv_%d_%s_%s", i, cell, op->name));
    x = model__norm(b->net, x, label(b, "separable_conv_%d_bn_%s_%s", i, cell, op->name));
  }
  return x;
}

// Zeros where SAME would pad, once for all pools of a reduction, which all read the cell's input.
static Value pad_current(Builder *b, Value x) {
  Shape shape = graph_shape(b->net->graph, x);
  Pads pads = {(int)(shape.dim[0] % 2), 1, (int)(shape.dim[1] % 2), 1};
  if (b->padded == NO_VALUE)
    b->padded = graph_zero_padding2d(b->net->graph, x, pads, label(b, "%s_pad_1", b->cell->name));
  return b->padded;
}

static Value add_pool(Builder *b, Value x, const Operation *op, int stride) {
  PoolDesc desc = {.size_h = 3, .stride_h = stride, .padding = PADDING_SAME};
  if (stride > 1 && b->form->pad_pools) {
    x = pad_current(b, x);
    desc.padding = PADDING_VALID;
  }
  const char *name = label(b, "%s_%s", b->cell->name, op->name);
  x = op->kind == MAXIMUM ? model__max_pool(b->net, x, desc, name)
                          : model__average_pool(b->net, x, desc, name);
  if (channels_of(b, x) == b->filters) return x;
  x = add_projection(b, x, 1, b->filters, label(b, "%s_%s_conv", b->cell->name, op->name));
  return model__norm(b->net, x, label(b, "%s_%s_bn", b->cell->name, op->name));
}

static Value add_identity(Builder *b, Value x, const Operation *op, int stride) {
  if (stride == 1 && channels_of(b, x) == b->filters) return x;
  x = add_relu(b, x, label(b, "%s_%s_relu", b->cell->name, op->name));
  x = add_projection(b, x, stride, b->filters, label(b, "%s_%s_conv", b->cell->name, op->name));
  return model__norm(b->net, x, label(b, "%s_%s_bn", b->cell->name, op->name));
}

static Value add_operation(Builder *b, Value x, const Operation *op) {
  int stride = op->source == CURRENT || op->source == PREVIOUS ? b->stride : 1;
  if (op->kind == IDENTITY) return add_identity(b, x, op, stride);
  x = op->kind == SEPARABLE ? add_separable(b, x, op, stride) : add_pool(b, x, op, stride);
  // Drop-path grows linearly with depth, stems and reductions counted too.
  DropoutDesc drop = {b->last_drop_rate * (b->cell_index + 1) / b->cell_count, true};
  if (drop.rate == 0) return x;
  const char *kind = op->kind == SEPARABLE ? "separable_" : "";
  return graph_dropout(b->net->graph, x, &drop,
                       label(b, "%s%s_%s_drop", kind, b->cell->name, op->name));
}

// --- cells ---------------------------------------------------------------------------------------

// Halves height and width without loss: every second pixel beside the pixels diagonally after them.
static Value add_factorized_reduction(Builder *b, Value x) {
  Graph *graph = b->net->graph;
  PoolDesc every_second = {.size_h = 1, .stride_h = 2};
  x = add_relu(b, x, label(b, "adjust_relu_1"));
  Value even = model__average_pool(b->net, x, every_second, label(b, "adjust_avg_pool_1"));
  even = add_projection(b, even, 1, b->filters / 2, label(b, "adjust_conv_1"));
  Value odd = graph_zero_padding2d(graph, x, (Pads){0, 1, 0, 1}, label(b, "adjust_pad_2"));
  odd = graph_cropping2d(graph, odd, (Pads){1, 0, 1, 0}, label(b, "adjust_crop_2"));
  odd = model__average_pool(b->net, odd, every_second, label(b, "adjust_avg_pool_2"));
  odd = add_projection(b, odd, 1, b->filters / 2, label(b, "adjust_conv_2"));
  x = model__concatenate(b->net, (Value[]){even, odd}, 2, label(b, "adjust_concat"));
  return model__norm(b->net, x, label(b, "adjust_bn"));
}

// Brings the output of the cell before the last to the last one's size and the cell's filters.
static Value adjust_previous(Builder *b) {
  Value x = b->previous;
  if (x == NO_VALUE) return b->current;
  Shape theirs = graph_shape(b->net->graph, x), ours = graph_shape(b->net->graph, b->current);
  if (theirs.dim[0] != ours.dim[0] || theirs.dim[1] != ours.dim[1])
    return add_factorized_reduction(b, x);
  if (channels_of(b, x) == b->filters) return x;
  x = add_relu(b, x, label(b, "adjust_relu_1"));
  x = add_projection(b, x, 1, b->filters, label(b, "adjust_conv_projection"));
  return model__norm(b->net, x, label(b, "adjust_bn"));
}

static void add_cell(Builder *b, const Cell *cell, int64_t filters, int stride) {
  b->cell = cell;
  b->filters = filters;
  b->stride = stride;
  b->padded = NO_VALUE;
  Value values[SOURCE_COUNT], outputs[PAIRS + 1];
  values[PREVIOUS] = adjust_previous(b);
  Value x = add_relu(b, b->current, label(b, "%s_relu_1", cell->name));
  x = add_projection(b, x, 1, filters, label(b, "%s_conv_1", cell->name));
  values[CURRENT] = model__norm(b->net, x, label(b, "%s_bn_1", cell->name));
  for (int i = 0; i < PAIRS; i++) {
    Value left = add_operation(b, values[cell->pairs[i][0].source], &cell->pairs[i][0]);
    Value right = add_operation(b, values[cell->pairs[i][1].source], &cell->pairs[i][1]);
    values[SUM_1 + i] = model__add(b->net, left, right, label(b, "%s_add_%d", cell->name, i + 1));
  }
  for (int i = 0; i < cell->output_count; i++) outputs[i] = values[cell->outputs[i]];
  b->previous = b->current;
  b->current =
      model__concatenate(b->net, outputs, cell->output_count, label(b, "%s_concat", cell->name));
  b->cell_index++;
}

static void add_stage(Builder *b, const NasnetOptions *options, int stage) {
  int64_t filters = (int64_t)options->filters << stage;
  int first = stage * options->cells;
  bool reduce = stage > 0 && options->reduction;
  if (reduce) {
    Value before = b->previous;
    (void)snprintf(b->id, sizeof b->id, "reduce_%d", first);
    add_cell(b, options->reduction, filters, 2);
    if (options->skip_reduction) b->previous = before;
    first++;
  }
  for (int i = 0; i < options->cells; i++) {
    (void)snprintf(b->id, sizeof b->id, "%d", first + i);
    add_cell(b, options->normal, filters, stage > 0 && !reduce && i == 0 ? 2 : 1);
  }
}

static Value build(Graph *graph, Value image, const ModelDesc *desc, const ModelSpec *spec) {
  const NasnetOptions *options = desc->options;
  Net net = model__net(graph, spec, options->form->momentum, 1e-3, options->form->kernel);
  Builder b = {.net = &net,
               .form = options->form,
               .previous = NO_VALUE,
               .cell_count = 2 + 3 * options->cells + (options->reduction ? 2 : 0),
               .last_drop_rate = model__stochastic_depth(spec, options->drop_rate)};
  Conv2dDesc stem = {.filters = options->stem_filters, .kernel_h = 3, .stride_h = 2};
  Value x = graph_rescaling(graph, image, &(RescalingDesc){1, {2}, {-1}}, "rescaling");
  x = model__conv(&net, x, stem, "stem_conv1");
  b.current = model__norm(&net, x, "stem_bn1");
  for (int i = 1; i <= 2; i++) {
    (void)snprintf(b.id, sizeof b.id, "stem_%d", i);
    add_cell(&b, options->reduction ? options->reduction : options->normal,
             (int64_t)options->filters * i / 4, 2);
  }
  for (int stage = 0; stage < 3; stage++) add_stage(&b, options, stage);
  x = model__activation(&net, b.current, ACTIVATION_RELU, "top_relu");
  return model__global_pool(&net, x, false, "avg_pool");
}

#define ROW(name_, size_, torch_, ...)                                                             \
  {                                                                                                \
    .name = name_, .image_size = size_, .smallest_image = 32, .build = build, .torch = torch_,     \
    .options = &(const NasnetOptions) {                                                            \
      __VA_ARGS__                                                                                  \
    }                                                                                              \
  }
static const ModelDesc models[] = {
    ROW("nasnet_mobile", 224, NULL, &slim, &normal_a, &reduction_a, 32, 44, 4, false, 0),
    ROW("nasnet_large", 331, &torch_nasnet, &slim, &normal_a, &reduction_a, 96, 168, 6, true, 0.3),
    ROW("NASNetMobile", 224, NULL, &keras, &normal_a, &reduction_a, 32, 44, 4, false, 0),
    ROW("NASNetLarge", 331, NULL, &keras, &normal_a, &reduction_a, 96, 168, 6, true, 0),
    ROW("pnasnet_large", 331, &torch_pnasnet, &slim, &progressive_5, NULL, 96, 216, 4, true, 0.4),
};
#undef ROW

const ModelFamily model__nasnet = {models, sizeof models / sizeof *models};
