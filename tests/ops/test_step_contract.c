// Holds every step of a backend against the reference, called in every way that its StepNeeds
// allows (step_run.h). Arguments: the backend, "cpu", and which of the cases, all: patterns of
// their names, and K/N for every N-th from the K-th on, counted from 1.
#include <fnmatch.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "exec/lower.h"
#include "ops/step_run.h"
#include "ops/step_separable.h"

static const int thread_counts[] = {1, 3};
enum { DEVICE_COUNT = sizeof thread_counts / sizeof thread_counts[0] };

static const Backend *backend;
static Device *devices[DEVICE_COUNT];
static Target target; // what runs now, and where
static StepCase *cases;

// --- comparisons ---------------------------------------------------------------------------------

// Results in `dtype` against the reference: its bound, twice, and the rounding of the result.
static void check_bounded(const float *got, const Bounded *want, DType dtype, const char *what) {
  if (!got) return;
  for (int64_t i = 0; i < want->count; i++) {
    double off = 2.0 * want->bound[i];
    double tolerance = off + step_rounding(fabs(want->value[i]) + off, dtype);
    if (fabs((double)got[i] - want->value[i]) <= tolerance) continue;
    fail_msg("%s: %s[%lld] is %.9g, not %.9g (tolerance %.3g)", target.context, what, (long long)i,
             (double)got[i], want->value[i], tolerance);
  }
}

static DType value_type(const StepDesc *desc, Shape shape) {
  return shape.rank == 3 ? desc->dtype : DTYPE_F32;
}

static void check_results(const StepResults *got, const Reference *want, const StepDesc *desc) {
  check_bounded(got->y, &want->y, value_type(desc, desc->output), "y");
  for (int k = 0; k < desc->input_count; k++)
    check_bounded(got->dx[k], &want->dx[k], value_type(desc, desc->inputs[k]), k ? "dx1" : "dx0");
  static const char *const names[STEP_MAX_PARAMETERS] = {"dparams0", "dparams1", "dparams2",
                                                         "dparams3", "dparams4", "dparams5"};
  for (int k = 0; k < STEP_MAX_PARAMETERS; k++)
    check_bounded(got->dparams[k], &want->dparams[k], DTYPE_F32, names[k]);
}

static void check_bits(const float *a, const float *b, int64_t count, const char *what) {
  if (a && b && memcmp(a, b, (size_t)count * sizeof *a) != 0)
    fail_msg("%s: %s has other bits than plainly", target.context, what);
}

static void check_same_bits(const StepResults *a, const StepResults *b, const StepDesc *desc) {
  check_bits(a->y, b->y, desc->batch * shape_count(desc->output), "y");
  for (int k = 0; k < desc->input_count; k++)
    check_bits(a->dx[k], b->dx[k], desc->batch * shape_count(desc->inputs[k]), "dx");
  for (int k = 0; k < STEP_MAX_PARAMETERS; k++)
    check_bits(a->dparams[k], b->dparams[k], step_parameter_count(desc, k), "dparams");
}

// --- tests ---------------------------------------------------------------------------------------

// Whether a way of calling must give the very bits of VARIANT_PLAIN: all that only move memory.
static bool repeats_plain(StepVariant variant) {
  return variant == VARIANT_AGAIN || variant == VARIANT_FORWARD_IN_PLACE ||
         variant == VARIANT_BACKWARD_IN_PLACE || variant == VARIANT_RESIDUAL_IN_PLACE ||
         variant == VARIANT_SLICED;
}

static void check_variants(const StepCase *test, const StepData *data, const Reference *trained,
                           const Reference *inferred, int d) {
  const StepDesc *desc = &test->desc;
  StepResults first = {0};
  for (StepVariant v = VARIANT_PLAIN; v < (test->is_large ? VARIANT_AGAIN : VARIANT_COUNT); v++) {
    char text[2 * STEP_NAME_CAPACITY];
    snprintf(text, sizeof text, "%s, %s, %d threads, %s", test->name, dtype_name(desc->dtype),
             thread_counts[d], step_variant_names[v]);
    target = (Target){backend, devices[d], text};
    StepResults got;
    if (!step_run(&got, &target, desc, data, v)) continue;
    check_results(&got, v >= VARIANT_INFERENCE ? inferred : trained, desc);
    if (repeats_plain(v)) check_same_bits(&got, &first, desc);
    if (v == VARIANT_PLAIN)
      first = got;
    else
      step_results_free(&got);
  }
  step_results_free(&first);
}

// A training that has diverged must show it, so no step may turn a NaN into a number.
static void check_nan(const StepCase *test, const StepData *data) {
  const StepDesc *desc = &test->desc;
  StepResults got;
  target = (Target){backend, devices[0], test->name};
  assert_true(step_run(&got, &target, desc, data, VARIANT_INFERENCE));
  bool is_kept = false;
  for (int64_t i = 0; i < desc->batch * shape_count(desc->output); i++)
    is_kept = is_kept || isnan(got.y[i]);
  step_results_free(&got);
  if (!is_kept) fail_msg("%s, %s: a NaN is gone", test->name, dtype_name(desc->dtype));
}

static void check_case(const StepCase *named, DType dtype) {
  StepCase test = *named;
  test.desc.name = test.name;
  test.desc.dtype = dtype;
  StepData data;
  Reference trained, inferred;
  step_data_draw(&data, &test, 1 + (uint64_t)(named - cases));
  if (test.x_nan) {
    check_nan(&test, &data);
    step_data_deinit(&data);
    return;
  }
  reference_compute(&trained, &test.desc, &data);
  StepDesc inference = test.desc;
  inference.training = false;
  reference_compute(&inferred, &inference, &data);
  int device_count = backend->depends_on_threads ? DEVICE_COUNT : 1;
  for (int d = 0; d < device_count; d++) check_variants(&test, &data, &trained, &inferred, d);
  reference_deinit(&trained);
  reference_deinit(&inferred);
  step_data_deinit(&data);
}

// Steps that sum products may want hardware for bf16; the others have no such excuse to refuse.
static bool takes(const char *name, const StepDesc *wanted, DType dtype) {
  if (backend->device_multiplies(devices[0], dtype)) return true;
  if (dtype != DTYPE_BF16) return false;
  const StepImpl *impl = backend->steps[wanted->kind];
  StepDesc desc = *wanted;
  desc.name = name;
  desc.dtype = dtype;
  void *state;
  StepNeeds needs;
  if (impl->plan(&state, devices[0], &desc, &needs) != STATUS_OK) return false;
  if (impl->unplan) impl->unplan(state);
  return true;
}

static void matches_reference(void **state) {
  const StepCase *test = *state;
  if (!backend->steps[test->desc.kind]) {
    print_message("%s: the backend has no such step\n", test->name);
    skip();
  }
  if (test->desc.has_norm && !backend->steps[test->desc.kind]->takes_norm) {
    print_message("%s: this backend leaves the norm to a step of its own\n", test->name);
    skip();
  }
  check_case(test, DTYPE_F32);
  for (DType dtype = DTYPE_BF16; dtype <= DTYPE_F16; dtype++)
    if (!test->is_large && takes(test->name, &test->desc, dtype)) check_case(test, dtype);
}

// --- separable convolutions ----------------------------------------------------------------------

enum { SEPARABLE_STEPS = 2 };

static Program *separable_program(Graph **graph, const SeparableCase *test) {
  Program *program;
  target_check(&target, graph_create(graph, "separable"));
  Value x = graph_input(*graph, test->input, "image");
  target_check(&target, graph_finish(*graph, graph_separable_conv2d(*graph, x, &test->conv, "it")));
  ProgramDesc desc = {.graph = *graph, .mode = LOWER_TRAINING};
  target_check(&target, program_create(&program, &desc));
  assert_int_equal(program->step_count, SEPARABLE_STEPS);
  for (int i = 0; i < SEPARABLE_STEPS; i++) {
    program->steps[i].desc.batch = test->batch;
    program->steps[i].desc.need_dx[0] = true; // of the image too
  }
  return program;
}

// A step with the layer's arrays that lowering gave to it.
static StepResults run_part(const Step *step, const StepData *layer, double *x, double *dy) {
  StepData data = {.x = {x}, .dy = dy};
  StepResults results;
  for (int k = 0; k < STEP_MAX_PARAMETERS; k++)
    if (step->parameters[k] >= 0) data.params[k] = layer->params[step->parameters[k]];
  assert_true(step_run(&results, &target, &step->desc, &data, VARIANT_PLAIN));
  return results;
}

static double *doubles_of(const float *values, int64_t count) {
  double *doubles = host_alloc((size_t)count * sizeof *doubles);
  for (int64_t i = 0; i < count; i++) doubles[i] = values[i];
  return doubles;
}

// Both steps forward, then backward, each on what the other gave.
static void run_separable(StepResults *out, const Program *program, const StepData *layer) {
  const Step *depthwise = &program->steps[0], *pointwise = &program->steps[1];
  int64_t count = depthwise->desc.batch * shape_count(depthwise->desc.output);
  double *nothing = host_alloc((size_t)count * sizeof *nothing);
  StepResults first = run_part(depthwise, layer, layer->x[0], nothing);
  double *between = doubles_of(first.y, count);
  StepResults second = run_part(pointwise, layer, between, layer->dy);
  double *dbetween = doubles_of(second.dx[0], count);
  step_results_free(&first);
  first = run_part(depthwise, layer, layer->x[0], dbetween);
  *out = (StepResults){.y = second.y, .dx = {first.dx[0]}};
  second.y = first.dx[0] = NULL;
  for (int k = 0; k < STEP_MAX_PARAMETERS; k++) {
    if (depthwise->parameters[k] >= 0) out->dparams[depthwise->parameters[k]] = first.dparams[k];
    if (pointwise->parameters[k] >= 0) out->dparams[pointwise->parameters[k]] = second.dparams[k];
    first.dparams[k] = second.dparams[k] = NULL;
  }
  step_results_free(&first);
  step_results_free(&second);
  free(nothing);
  free(between);
  free(dbetween);
}

static void check_separable(const SeparableCase *test, Program *program, DType dtype) {
  StepData data;
  Reference want;
  separable_draw(&data, test, 1);
  separable_compute(&want, test, &data, dtype);
  for (int i = 0; i < SEPARABLE_STEPS; i++) program->steps[i].desc.dtype = dtype;
  for (int d = 0; d < (backend->depends_on_threads ? DEVICE_COUNT : 1); d++) {
    char text[2 * STEP_NAME_CAPACITY];
    StepResults got;
    snprintf(text, sizeof text, "%s, %s, %d threads", test->name, dtype_name(dtype),
             thread_counts[d]);
    target = (Target){backend, devices[d], text};
    run_separable(&got, program, &data);
    check_bounded(got.y, &want.y, dtype, "y");
    check_bounded(got.dx[0], &want.dx[0], dtype, "dx");
    static const char *const names[] = {"depthwise kernel", "pointwise kernel", "bias"};
    for (int k = 0; k < SEPARABLE_PARAMETERS; k++) {
      if (want.dparams[k].count > 0) assert_non_null(got.dparams[k]);
      check_bounded(got.dparams[k], &want.dparams[k], DTYPE_F32, names[k]);
    }
    step_results_free(&got);
  }
  reference_deinit(&want);
  step_data_deinit(&data);
}

static void separable_matches_reference(void **state) {
  const SeparableCase *test = *state;
  Graph *graph;
  target = (Target){backend, devices[0], test->name};
  Program *program = separable_program(&graph, test);
  for (DType dtype = DTYPE_F32; dtype <= DTYPE_F16; dtype++) {
    bool is_taken = true;
    for (int i = 0; i < SEPARABLE_STEPS; i++)
      is_taken = is_taken && takes(test->name, &program->steps[i].desc, dtype);
    if (is_taken) check_separable(test, program, dtype);
  }
  program_free(program);
  graph_free(graph);
}

// --- the program ---------------------------------------------------------------------------------

static int open_devices(void **state) {
  (void)state;
  for (int i = 0; i < DEVICE_COUNT; i++)
    if (backend->device_open(&devices[i], &(DeviceDesc){.threads = thread_counts[i]}) !=
        STATUS_OK) {
      print_error("%s\n", status_message());
      return -1;
    }
  char text[128];
  backend->device_describe(devices[0], text, sizeof text);
  print_message("%s\n", text);
  return 0;
}

static int close_devices(void **state) {
  (void)state;
  for (int i = 0; i < DEVICE_COUNT; i++) backend->device_close(devices[i]);
  return 0;
}

// Whether a case is one of those that the arguments name.
static bool is_wanted(int place, const char *name, const char *const *which, int count) {
  bool names_any = false, is_named = false;
  for (int i = 0; i < count; i++) {
    int part, parts;
    if (sscanf(which[i], "%d/%d", &part, &parts) == 2) {
      if (parts < 1 || place % parts != part - 1) return false;
    } else {
      names_any = true;
      is_named |= fnmatch(which[i], name, 0) == 0;
    }
  }
  return is_named || !names_any;
}

int main(int argc, char **argv) {
  backend = backend_find(argc > 1 ? argv[1] : "cpu");
  if (!backend) {
    printf("this program was built without the backend %s\n", argc > 1 ? argv[1] : "cpu");
    return 77;
  }
  const SeparableCase *separable;
  int case_count = step_cases(&cases), separable_count = separable_cases(&separable), count = 0;
  struct CMUnitTest *tests = calloc((size_t)(case_count + separable_count), sizeof *tests);
  if (!tests) return 1;
  for (int i = 0; i < case_count + separable_count; i++) {
    struct CMUnitTest test = {0};
    if (i < case_count)
      test = (struct CMUnitTest){
          .name = cases[i].name, .test_func = matches_reference, .initial_state = &cases[i]};
    else
      test = (struct CMUnitTest){.name = separable[i - case_count].name,
                                 .test_func = separable_matches_reference,
                                 .initial_state = (void *)&separable[i - case_count]};
    if (is_wanted(i, test.name, (const char *const *)argv + 2, argc - 2)) tests[count++] = test;
  }
  if (count == 0) print_error("no case has such a name\n");
  int failures = count == 0 || _cmocka_run_group_tests("operations", tests, (size_t)count,
                                                       open_devices, close_devices);
  free(tests);
  free(cases);
  return failures;
}
