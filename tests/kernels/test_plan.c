// Has the real cuDNN plan every convolution of backbones, forward and backward, for a GPU that is
// not there (src/backend/cuda/models.c), with a stand-in for the driver. A problem that occurs twice
// is planned once. Fails where the library refuses one. Prints a row for each backbone: for each pass
// its engines, each with the number of its problems, and the largest workspace; check_plans.py
// compares the rows with those that are kept.
//
// usage: test_plan GPU TYPE all|some [BACKBONE...]; without names, all of them. TYPE is fp32, tf32,
// bf16 or fp16. some: of the weight gradients one for each kind of window, as in 16 bits cuDNN
// compiles each of them, a second each.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/backend.h"
#include "exec/lower.h"
#include "model/registry.h"

enum { BATCH = 64, PROBLEMS_MAX = 4096, RECORDS_MAX = 3 * PROBLEMS_MAX, ENGINES_MAX = 256 };
enum { FORWARD, DATA, WEIGHTS, PASS_COUNT };
static const char *const pass_names[PASS_COUNT] = {"forward", "data gradient", "weight gradient"};

typedef struct Problem {
  StepDesc desc;
  const PlanRecord *records[PASS_COUNT]; // NULL: not planned
} Problem;

typedef struct Session {
  const Backend *backend;
  Device *device;
  DType dtype;
  bool all_weights;
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

// Whether weights of such a window have been planned before.
static bool is_sampled(const Session *session, const StepDesc *desc) {
  for (int i = 0; i < session->problem_count; i++) {
    const StepDesc *known = &session->problems[i].desc;
    if (session->problems[i].records[WEIGHTS] && known->kernel_h == desc->kernel_h &&
        known->kernel_w == desc->kernel_w && known->stride_h == desc->stride_h &&
        known->dilation == desc->dilation && known->groups == desc->groups &&
        memcmp(&known->pads, &desc->pads, sizeof known->pads) == 0)
      return true;
  }
  return false;
}

static void count_uses(const Session *session, int uses[RECORDS_MAX]) {
  const PlanRecord *record;
  for (int i = 0; (record = session->backend->plan_record(session->device, i)); i++)
    uses[i] = record->uses;
}

// Planning uses one record for each pass: those whose count has grown.
static void take_records(const Session *session, Problem *problem, const int uses[RECORDS_MAX]) {
  const PlanRecord *record;
  for (int i = 0; (record = session->backend->plan_record(session->device, i)); i++)
    for (int pass = 0; pass < PASS_COUNT; pass++)
      if (record->uses > uses[i] && strcmp(record->pass, pass_names[pass]) == 0)
        problem->records[pass] = record;
}

static Problem *plan(Session *session, const StepDesc *desc, const char *backbone) {
  static int uses[RECORDS_MAX];
  const StepImpl *impl = session->backend->steps[desc->kind];
  StepDesc asked = *desc;
  StepNeeds needs = {0};
  void *state = NULL;
  if (!session->all_weights && is_sampled(session, desc)) asked.need_dparams = false;
  memset(uses, 0, sizeof uses);
  count_uses(session, uses);
  Status status = impl->plan(&state, session->device, &asked, &needs);
  if (session->problem_count == PROBLEMS_MAX) exit(1);
  Problem *problem = &session->problems[session->problem_count++];
  *problem = (Problem){.desc = *desc};
  take_records(session, problem, uses);
  if (status == STATUS_OK) impl->unplan(state);
  else printf("REFUSED: %s: %s\n", backbone, status_message());
  session->refused += status != STATUS_OK;
  return problem;
}

// --- rows -----------------------------------------------------------------------------------------

typedef struct Row {
  int engines[PASS_COUNT][ENGINES_MAX]; // problems of each
  size_t workspace[PASS_COUNT];         // the largest
  int problems, planned[PASS_COUNT];
} Row;

static void count(Row *row, const Problem *problem) {
  row->problems++;
  for (int pass = 0; pass < PASS_COUNT; pass++) {
    const PlanRecord *record = problem->records[pass];
    if (!record || record->engine < 0 || record->engine >= ENGINES_MAX) continue;
    row->engines[pass][record->engine]++;
    row->planned[pass]++;
    if (record->workspace_size > row->workspace[pass])
      row->workspace[pass] = record->workspace_size;
  }
}

static void print_row(const Row *row, const char *backbone) {
  printf("%s | %d", backbone, row->problems);
  for (int pass = 0; pass < PASS_COUNT; pass++) {
    printf(" |");
    for (int e = 0; e < ENGINES_MAX; e++)
      if (row->engines[pass][e]) printf(" %dx%d", row->engines[pass][e], e);
    printf(" %.2f", (double)row->workspace[pass] * 0x1p-20);
  }
  printf("\n");
  fflush(stdout);
}

static void plan_backbone(Session *session, const char *name) {
  Graph *graph;
  Program *program;
  Row row = {0};
  check(model_build(&graph, &(ModelSpec){.backbone = name,
                                         .class_count = 1000,
                                         .fine_tune = true,
                                         .batch_norm_momentum = -1.0,
                                         .batch_norm_epsilon = -1.0,
                                         .stochastic_depth = -1.0}),
        name);
  check(program_create(&program, &(ProgramDesc){.graph = graph, .mode = LOWER_TRAINING}), name);
  static bool seen[PROBLEMS_MAX];
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
  print_row(&row, name);
  program_free(program);
  graph_free(graph);
}

int main(int argc, char **argv) {
  static Session session;
  char text[256];
  if (argc < 4) {
    fprintf(stderr, "usage: test_plan GPU fp32|tf32|bf16|fp16 all|some [BACKBONE...]\n");
    return 64;
  }
  bool is_tf32 = strcmp(argv[2], "tf32") == 0;
  session.backend = backend_find("cuda");
  session.all_weights = strcmp(argv[3], "all") == 0;
  while (!is_tf32 && session.dtype <= DTYPE_F16 &&
         strcmp(dtype_name(session.dtype), argv[2]) != 0)
    session.dtype++;
  DeviceDesc desc = {.model = argv[1],
                     .plans = {.deterministic = true, .tensor_float32 = is_tf32}};
  check(session.backend->device_open(&session.device, &desc), argv[1]);
  session.backend->device_describe(session.device, text, sizeof text);
  printf("%s\n", text);
  for (int i = 4; i < argc; i++) plan_backbone(&session, argv[i]);
  for (int i = 0; argc == 4 && i < model_count(); i++)
    plan_backbone(&session, model_at(i)->name);
  session.backend->device_close(session.device);
  fprintf(stderr, "%d convolutions for %s in %s, %d refused\n", session.problem_count, argv[1],
          argv[2], session.refused);
  return session.refused > 0;
}
