// Has the real cuDNN plan every convolution of backbones for a GPU that is not there
// (src/backend/cuda/models.c), with stand-ins for the driver and for NVRTC: as a training step runs
// them, forward and backward, or as inference does; and with each what the CUDA backend asks the
// library to do in one go with it, which is the statistics of the norm behind it in training, and
// norm, sum and activation in inference. A problem that occurs twice is planned once. Fails where
// the library refuses a convolution. Prints a row for each backbone: its problems, and for each
// column the engines, each with the number of its problems, how many of them leave the rest to a
// kernel of ours, and the largest workspace; check_plans.py compares the rows with those that are
// kept. With "cases" it plans those of the operation tests instead, which the backbones do not
// reach (groups, dilations, odd channels), and the depthwise ones once more as convolutions of many
// groups.
//
// usage: test_plan GPU fp32|tf32|bf16|fp16 training|inference [BACKBONE...]; without names, all of
// them
//        test_plan GPU fp32|tf32|bf16|fp16 cases
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/backend.h"
#include "exec/lower.h"
#include "model/registry.h"
#include "ops/step_test.h"

enum { BATCH = 64, PROBLEMS_MAX = 4096, RECORDS_MAX = 4 * PROBLEMS_MAX, ENGINES_MAX = 256 };

// Inference has the first alone. Forward with statistics is a column of its own.
enum { FORWARD, DATA, WEIGHTS, STATISTICS, COLUMN_COUNT };

typedef struct Problem {
  StepDesc desc;
  const PlanRecord *records[COLUMN_COUNT]; // NULL: not planned
} Problem;

typedef struct Session {
  const Backend *backend;
  Device *device;
  DType dtype;
  bool trains;
  Problem problems[PROBLEMS_MAX];
  int problem_count, refused;
} Session;

static void check(Status status, const char *what) {
  if (status == STATUS_OK) return;
  fprintf(stderr, "%s: %s\n", what, status_message());
  exit(1);
}

// The same problem for the library: everything but the layer's name.
static Problem *find(Session *session, const StepDesc *desc) {
  for (int i = 0; i < session->problem_count; i++) {
    StepDesc known = session->problems[i].desc;
    known.name = desc->name;
    known.layer = desc->layer;
    if (memcmp(&known, desc, sizeof known) == 0) return &session->problems[i];
  }
  return NULL;
}

static void count_uses(const Session *session, int uses[RECORDS_MAX]) {
  const PlanRecord *record;
  for (int i = 0; (record = session->backend->plan_record(session->device, i)); i++)
    uses[i] = record->uses;
}

static bool ends_with(const char *text, const char *end) {
  size_t length = strlen(text), end_length = strlen(end);
  return length >= end_length && strcmp(text + length - end_length, end) == 0;
}

static int column_of(const PlanRecord *record) {
  if (strcmp(record->pass, "data gradient") == 0) return DATA;
  if (strcmp(record->pass, "weight gradient") == 0) return WEIGHTS;
  return ends_with(record->problem, " statistics") ? STATISTICS : FORWARD;
}

// Planning uses one record for each column at most: those whose count has grown.
static void take_records(const Session *session, Problem *problem, const int uses[RECORDS_MAX]) {
  const PlanRecord *record;
  for (int i = 0; (record = session->backend->plan_record(session->device, i)); i++)
    if (record->uses > uses[i]) problem->records[column_of(record)] = record;
}

static Problem *plan(Session *session, const StepDesc *desc, const char *whose) {
  static int uses[RECORDS_MAX];
  const StepImpl *impl = session->backend->steps[desc->kind];
  StepNeeds needs = {0};
  void *state = NULL;
  memset(uses, 0, sizeof uses);
  count_uses(session, uses);
  Status status = impl->plan(&state, session->device, desc, &needs);
  if (session->problem_count == PROBLEMS_MAX) exit(1);
  Problem *problem = &session->problems[session->problem_count++];
  *problem = (Problem){.desc = *desc};
  take_records(session, problem, uses);
  if (status == STATUS_OK)
    impl->unplan(state);
  else
    printf("REFUSED: %s: %s\n", whose, status_message());
  session->refused += status != STATUS_OK;
  return problem;
}

// --- rows -----------------------------------------------------------------------------------------

typedef struct Cell {
  int engines[ENGINES_MAX]; // problems of each
  int own;                  // problems of which a kernel of ours does a part, or the sums
  size_t workspace_size;    // the largest
} Cell;

typedef struct Row {
  Cell cells[COLUMN_COUNT];
  int problems;
} Row;

static bool asks_for_activation(const StepDesc *desc) {
  return desc->has_norm && (desc->input_count > 1 || desc->activation != ACTIVATION_LINEAR);
}

static bool is_own(const Problem *problem, int column) {
  const StepDesc *desc = &problem->desc;
  const PlanRecord *record = problem->records[column];
  if (column == STATISTICS) return desc->gives_statistics && !record;
  return column == FORWARD && asks_for_activation(desc) &&
         !(record && ends_with(record->problem, activation_name(desc->activation)));
}

static void count(Row *row, const Problem *problem) {
  row->problems++;
  for (int column = 0; column < COLUMN_COUNT; column++) {
    Cell *cell = &row->cells[column];
    const PlanRecord *record = problem->records[column];
    cell->own += is_own(problem, column);
    if (!record || record->engine < 0 || record->engine >= ENGINES_MAX) continue;
    cell->engines[record->engine]++;
    if (record->workspace_size > cell->workspace_size)
      cell->workspace_size = record->workspace_size;
  }
}

static void print_row(const Row *row, const char *backbone, int columns) {
  printf("%s | %d", backbone, row->problems);
  for (int column = 0; column < columns; column++) {
    const Cell *cell = &row->cells[column];
    printf(" |");
    for (int e = 0; e < ENGINES_MAX; e++)
      if (cell->engines[e]) printf(" %dx%d", cell->engines[e], e);
    if (cell->own) printf(" own %d", cell->own);
    printf(" %.2f", (double)cell->workspace_size * 0x1p-20);
  }
  printf("\n");
  fflush(stdout);
}

static void plan_backbone(Session *session, const char *name) {
  static bool seen[PROBLEMS_MAX];
  Graph *graph;
  Program *program;
  Row row = {0};
  LowerMode mode = session->trains ? LOWER_TRAINING : LOWER_INFERENCE;
  check(model_build(&graph, &(ModelSpec){.backbone = name,
                                         .class_count = 1000,
                                         .fine_tune = true,
                                         .batch_norm_momentum = -1.0,
                                         .batch_norm_epsilon = -1.0,
                                         .stochastic_depth = -1.0}),
        name);
  check(
      program_create(&program,
                     &(ProgramDesc){.graph = graph, .mode = mode, .folds_norms = !session->trains}),
      name);
  memset(seen, 0, sizeof seen);
  for (int i = 0; i < program->step_count; i++) {
    StepDesc desc = program->steps[i].desc;
    desc.batch = BATCH;
    desc.dtype = session->dtype;
    if (desc.kind != STEP_CONV2D) continue;
    Problem *problem = find(session, &desc);
    if (!problem) problem = plan(session, &desc, name);
    if (!seen[problem - session->problems]) count(&row, problem);
    seen[problem - session->problems] = true;
  }
  print_row(&row, name, session->trains ? COLUMN_COUNT : FORWARD + 1);
  program_free(program);
  graph_free(graph);
}

// A value of which a group has no whole packs in memory is refused by us.
static bool fits_groups(const StepDesc *desc) {
  enum { LANES = 8 };
  return shape_channels(desc->inputs[0]) % LANES == 0 && shape_channels(desc->output) % LANES == 0;
}

static void plan_cases(Session *session) {
  StepCase *cases;
  int count = step_cases(&cases);
  for (int i = 0; i < count; i++) {
    StepDesc desc = cases[i].desc;
    desc.name = cases[i].name;
    desc.dtype = session->dtype;
    if (desc.kind == STEP_DEPTHWISE_CONV2D && fits_groups(&desc)) desc.kind = STEP_CONV2D;
    if (desc.kind == STEP_CONV2D) (void)plan(session, &desc, "case");
  }
  free(cases);
}

int main(int argc, char **argv) {
  static Session session;
  char text[256];
  if (argc < 4) {
    fprintf(stderr, "usage: test_plan GPU fp32|tf32|bf16|fp16 training|inference [BACKBONE...]\n"
                    "       test_plan GPU fp32|tf32|bf16|fp16 cases\n");
    return 64;
  }
  bool is_tf32 = strcmp(argv[2], "tf32") == 0;
  session.backend = backend_find("cuda");
  while (!is_tf32 && session.dtype <= DTYPE_F16 && strcmp(dtype_name(session.dtype), argv[2]) != 0)
    session.dtype++;
  bool plans_cases = strcmp(argv[3], "cases") == 0;
  session.trains = strcmp(argv[3], "training") == 0;
  // An engine that sums for statistics and is compiled at run time is asked for only to be
  // measured.
  bool has_compiled_sums = session.trains && session.dtype != DTYPE_F32;
  DeviceDesc desc = {
      .model = argv[1],
      .plans = {.deterministic = true, .autotune = has_compiled_sums, .tensor_float32 = is_tf32}};
  check(session.backend->device_open(&session.device, &desc), argv[1]);
  session.backend->device_describe(session.device, text, sizeof text);
  printf("%s\n", text);
  if (plans_cases) plan_cases(&session);
  for (int i = 4; i < argc; i++) plan_backbone(&session, argv[i]);
  for (int i = 0; argc == 4 && !plans_cases && i < model_count(); i++)
    plan_backbone(&session, model_at(i)->name);
  session.backend->device_close(session.device);
  fprintf(stderr, "%d convolutions for %s in %s, %s: %d refused\n", session.problem_count, argv[1],
          argv[2], argv[3], session.refused);
  return session.refused > 0;
}
