// Plans of the CUDA backend over the stand-ins: which engine is taken, what is kept on disk and
// found again, and what becomes of damaged and foreign files. The stand-in cuDNN has four engines
// (tests/standin/cudnn.c): 11 is ranked first but not deterministic, 12 is, 13 takes too much
// workspace, 14 is the fastest and compiled.
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <dirent.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "backend/backend.h"
#include "base/memory.h"
#include "io/checksum.h"

enum { FILES_MAX = 16, SIDE = 5, CHANNELS = 8, OUT = 16 };
enum { FIRST_RANKED = 11, DETERMINISTIC = 12, FASTEST = 14 };
enum { VALUES = SIDE * SIDE * OUT };

typedef struct Fixture {
  char folder[64], plans[96], errors[96];
  char files[FILES_MAX][256]; // of the cache, in any order
  int file_count;
} Fixture;

static void make(Fixture *f) {
  *f = (Fixture){.folder = "/tmp/imgcls_test_plans.XXXXXX"};
  assert_non_null(mkdtemp(f->folder));
  (void)snprintf(f->plans, sizeof f->plans, "%s/a/b", f->folder);
  (void)snprintf(f->errors, sizeof f->errors, "%s/log", f->folder);
}

static void clear(Fixture *f) {
  char command[128];
  (void)snprintf(command, sizeof command, "rm -rf %s", f->folder);
  assert_int_equal(system(command), 0);
}

static void list(Fixture *f) {
  f->file_count = 0;
  DIR *stream = opendir(f->plans);
  if (!stream) return;
  for (struct dirent *entry; (entry = readdir(stream));) {
    if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
    assert_true(f->file_count < FILES_MAX);
    (void)snprintf(f->files[f->file_count++], sizeof *f->files, "%.80s/%.160s", f->plans,
                   entry->d_name);
  }
  closedir(stream);
}

// What a run made of a training convolution with bias and both gradients.
typedef struct Outcome {
  int records, from_cache, compiled;
  int engines[8];
  double times_us[8];
  float y[VALUES], dw[9 * CHANNELS * OUT];
  int warnings; // lines in the log
} Outcome;

static const StepDesc convolution = {.kind = STEP_CONV2D,
                                     .name = "conv",
                                     .batch = 1,
                                     .dtype = DTYPE_F32,
                                     .input_count = 1,
                                     .inputs = {{3, {SIDE, SIDE, CHANNELS}}},
                                     .output = {3, {SIDE, SIDE, OUT}},
                                     .training = true,
                                     .need_dx = {true},
                                     .need_dparams = true,
                                     .has_bias = true,
                                     .kernel_h = 3,
                                     .kernel_w = 3,
                                     .stride_h = 1,
                                     .stride_w = 1,
                                     .dilation = 1,
                                     .groups = 1,
                                     .pads = {1, 1, 1, 1}};

static void *taken(const Backend *b, Device *device, size_t size) {
  void *memory;
  assert_int_equal(b->memory_alloc(device, &memory, size), STATUS_OK);
  return memory;
}

static void fill(const Backend *b, Device *device, void *to, int count) {
  float values[9 * CHANNELS * OUT];
  for (int i = 0; i < count; i++) values[i] = (float)(i % 7 - 3) * 0.25f;
  assert_int_equal(b->copy_to_device(device, to, values, (size_t)count * sizeof *values),
                   STATUS_OK);
}

static void step(const Backend *b, Device *device, void *state, const StepNeeds *needs,
                 Outcome *out) {
  const StepImpl *impl = b->steps[STEP_CONV2D];
  size_t x = b->value_size(device, convolution.inputs[0], 1, DTYPE_F32),
         y = b->value_size(device, convolution.output, 1, DTYPE_F32);
  StepArgs args = {.x = {taken(b, device, x)},
                   .y = taken(b, device, y),
                   .dx = {taken(b, device, x)},
                   .params = {taken(b, device, sizeof out->dw), taken(b, device, OUT * 4)},
                   .dparams = {taken(b, device, sizeof out->dw), taken(b, device, OUT * 4)},
                   .persistent = taken(b, device, needs->persistent_size),
                   .scratch = taken(b, device, needs->scratch_size)};
  args.dy = args.y;
  fill(b, device, (void *)args.x[0], SIDE * SIDE * CHANNELS);
  fill(b, device, (void *)args.params[0], 9 * CHANNELS * OUT);
  fill(b, device, (void *)args.params[1], OUT);
  assert_int_equal(impl->prepare(state, &args), STATUS_OK);
  assert_int_equal(impl->forward(state, &args), STATUS_OK);
  assert_int_equal(b->copy_to_host(device, out->y, args.y, sizeof out->y), STATUS_OK);
  assert_int_equal(impl->backward(state, &args), STATUS_OK);
  assert_int_equal(b->copy_to_host(device, out->dw, args.dparams[0], sizeof out->dw), STATUS_OK);
  void *all[] = {(void *)args.x[0],
                 args.y,
                 args.dx[0],
                 (void *)args.params[0],
                 (void *)args.params[1],
                 args.dparams[0],
                 args.dparams[1],
                 args.persistent,
                 args.scratch};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) b->memory_free(device, all[i]);
}

static int lines_of(const char *path) {
  FILE *file = fopen(path, "r");
  int lines = 0;
  for (int c; file && (c = fgetc(file)) != EOF;) lines += c == '\n';
  if (file) (void)fclose(file);
  return lines;
}

static void record(const Backend *b, const Device *device, Outcome *out) {
  const PlanRecord *r;
  for (; (r = b->plan_record(device, out->records)); out->records++) {
    assert_true(out->records < 8);
    out->engines[out->records] = r->engine;
    out->times_us[out->records] = r->time_us;
    out->from_cache += r->is_from_cache;
    out->compiled += r->is_compiled;
    assert_int_equal(r->uses, 2);
    assert_string_equal(r->layer, "conv");
    bool is_forward = strcmp(r->pass, "forward") == 0;
    assert_string_equal(r->problem, is_forward ? "5x5 8 -> 16, 3x3 pads 1,1 1,1 bias"
                                               : "5x5 8 -> 16, 3x3 pads 1,1 1,1");
  }
}

// Plans the convolution twice, as two layers of one shape do, and runs one.
static Outcome run(Fixture *f, DeviceDesc desc) {
  const Backend *b = backend_find("cuda");
  Outcome out = {0};
  Log log;
  Device *device;
  void *states[2];
  StepNeeds needs;
  log_init(&log, "test");
  log.level = LOG_QUIET;
  log.copy = fopen(f->errors, "w");
  desc.plans.log = &log;
  assert_int_equal(b->device_open(&device, &desc), STATUS_OK);
  for (int i = 0; i < 2; i++)
    assert_int_equal(b->steps[STEP_CONV2D]->plan(&states[i], device, &convolution, &needs),
                     STATUS_OK);
  if (!desc.model) step(b, device, states[1], &needs, &out);
  record(b, device, &out);
  for (int i = 0; i < 2; i++) b->steps[STEP_CONV2D]->unplan(states[i]);
  b->device_close(device);
  log_close_copy(&log);
  out.warnings = lines_of(f->errors);
  list(f);
  return out;
}

static Outcome run_with(Fixture *f, PlanOptions plans) {
  return run(f, (DeviceDesc){.plans = plans});
}

static void check_engines(const Outcome *outcome, int engine) {
  assert_int_equal(outcome->records, 3);
  for (int i = 0; i < 3; i++) assert_int_equal(outcome->engines[i], engine);
}

static void check_same_numbers(const Outcome *a, const Outcome *b) {
  assert_memory_equal(a->y, b->y, sizeof a->y);
  assert_memory_equal(a->dw, b->dw, sizeof a->dw);
}

// --------------------------------------------------------------------------------------------------

static void test_kept_and_found(void **state) {
  (void)state;
  Fixture f;
  make(&f);
  Outcome none = run_with(&f, (PlanOptions){.cache = "none"});
  assert_int_equal(f.file_count, 0);
  check_engines(&none, FIRST_RANKED);
  Outcome first = run_with(&f, (PlanOptions){.cache = f.plans});
  assert_int_equal(first.from_cache, 0);
  assert_int_equal(f.file_count, 3);
  Outcome second = run_with(&f, (PlanOptions){.cache = f.plans});
  assert_int_equal(second.from_cache, 3);
  check_engines(&second, FIRST_RANKED);
  assert_int_equal(second.warnings, 0);
  check_same_numbers(&none, &first);
  check_same_numbers(&none, &second);
  clear(&f);
}

static void test_deterministic(void **state) {
  (void)state;
  Fixture f;
  make(&f);
  PlanOptions strict = {.cache = f.plans, .deterministic = true};
  Outcome first = run_with(&f, strict), second = run_with(&f, strict);
  check_engines(&first, DETERMINISTIC);
  check_engines(&second, DETERMINISTIC);
  assert_int_equal(second.from_cache, 3);
  // Plans for any order are others.
  Outcome other = run_with(&f, (PlanOptions){.cache = f.plans});
  check_engines(&other, FIRST_RANKED);
  assert_int_equal(other.from_cache, 0);
  assert_int_equal(f.file_count, 6);
  clear(&f);
}

static void test_timed(void **state) {
  (void)state;
  Fixture f;
  make(&f);
  PlanOptions timed = {.cache = f.plans, .autotune = true}, ranked = {.cache = f.plans};
  Outcome heuristic = run_with(&f, ranked);
  assert_int_equal(heuristic.from_cache, 0);
  // A plan of the heuristics alone lacks the candidates that a measurement compares.
  Outcome first = run_with(&f, timed);
  check_engines(&first, FASTEST);
  assert_int_equal(first.compiled, 3);
  assert_int_equal(first.from_cache, 0);
  assert_int_equal(f.file_count, 3);
  for (int i = 0; i < 3; i++) assert_true(first.times_us[i] > 19.9 && first.times_us[i] < 20.1);
  Outcome second = run_with(&f, timed);
  check_engines(&second, FASTEST);
  assert_int_equal(second.from_cache, 3);
  // Without measuring, the first ranked of the same file.
  Outcome third = run_with(&f, ranked);
  check_engines(&third, FIRST_RANKED);
  assert_int_equal(third.from_cache, 3);
  check_same_numbers(&heuristic, &second);
  clear(&f);
}

// Plans made where there is no GPU are taken up by the GPU, timed there, and kept with the times.
static void test_made_ahead(void **state) {
  (void)state;
  Fixture f;
  make(&f);
  PlanOptions timed = {.cache = f.plans, .autotune = true};
  Outcome ahead = run(&f, (DeviceDesc){.model = "h200", .plans = timed});
  assert_int_equal(ahead.from_cache, 0);
  int kept = f.file_count;
  Outcome elsewhere = run_with(&f, timed); // a GPU of another kind
  assert_int_equal(elsewhere.from_cache, 0);
  assert_int_equal(f.file_count, kept + 3);
  assert_int_equal(setenv("STANDIN_NAME", "NVIDIA H200", 1), 0);
  Outcome there = run_with(&f, timed), again = run_with(&f, timed);
  assert_int_equal(unsetenv("STANDIN_NAME"), 0);
  assert_int_equal(f.file_count, kept + 3);
  assert_int_equal(there.from_cache, 3);
  check_engines(&there, FASTEST);
  assert_true(there.times_us[0] > 0.0 && again.times_us[0] > 0.0);
  clear(&f);
}

// --------------------------------------------------------------------------------------------------

typedef struct File {
  char bytes[1 << 18];
  size_t size;
} File;

static void read_file(File *out, const char *path) {
  FILE *file = fopen(path, "rb");
  assert_non_null(file);
  out->size = fread(out->bytes, 1, sizeof out->bytes, file);
  (void)fclose(file);
}

static void write_file(const File *in, const char *path) {
  FILE *file = fopen(path, "wb");
  assert_non_null(file);
  assert_int_equal(fwrite(in->bytes, 1, in->size, file), in->size);
  assert_int_equal(fclose(file), 0);
}

// After damage to one of three files: two are found, the third is told of once, made again, and
// found the next time.
static void check_recovers(Fixture *f) {
  PlanOptions plans = {.cache = f->plans};
  Outcome damaged = run_with(f, plans), repaired = run_with(f, plans);
  assert_int_equal(damaged.from_cache, 2);
  assert_int_equal(damaged.warnings, 1);
  assert_int_equal(repaired.from_cache, 3);
  assert_int_equal(repaired.warnings, 0);
  check_engines(&damaged, FIRST_RANKED);
}

static void test_damage(void **state) {
  (void)state;
  static File whole, other, bad;
  Fixture f;
  make(&f);
  PlanOptions plans = {.cache = f.plans};
  (void)run_with(&f, plans);
  read_file(&whole, f.files[0]);
  read_file(&other, f.files[1]);
  const size_t places[] = {0, 20, 33, 60, whole.size / 2, whole.size - 2};
  for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
    bad = whole;
    bad.bytes[places[i]] ^= 1;
    write_file(&bad, f.files[0]);
    check_recovers(&f);
  }
  const size_t sizes[] = {0, 1, 32, 33, 34, whole.size - 1};
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
    bad = whole;
    bad.size = sizes[i];
    write_file(&bad, f.files[0]);
    check_recovers(&f);
  }
  write_file(&other, f.files[0]); // whole, of another problem
  check_recovers(&f);
  clear(&f);
}

// A kept plan whose checksum is right and which the library refuses all the same.
static void test_refused(void **state) {
  (void)state;
  static File file;
  Fixture f;
  make(&f);
  PlanOptions plans = {.cache = f.plans};
  (void)run_with(&f, plans);
  read_file(&file, f.files[0]);
  char *words = strstr(file.bytes, "stand-in plan"), sum[CHECKSUM_TEXT_CAPACITY];
  assert_non_null(words);
  memcpy(words, "nobody's plan", strlen("nobody's plan"));
  (void)checksum_bytes(sum, file.bytes + sizeof sum, file.size - sizeof sum);
  memcpy(file.bytes, sum, sizeof sum - 1);
  write_file(&file, f.files[0]);
  Outcome refused = run_with(&f, plans), repaired = run_with(&f, plans);
  assert_int_equal(refused.from_cache, 2);
  assert_int_equal(refused.warnings, 1);
  assert_int_equal(repaired.from_cache, 3);
  check_engines(&repaired, FIRST_RANKED);
  clear(&f);
}

static void test_unwritable(void **state) {
  (void)state;
  Fixture f;
  make(&f);
  char file[80];
  (void)snprintf(file, sizeof file, "%s/file", f.folder);
  write_file(&(File){.bytes = "x", .size = 1}, file);
  (void)snprintf(f.plans, sizeof f.plans, "%s/file/plans", f.folder);
  Outcome outcome = run_with(&f, (PlanOptions){.cache = f.plans});
  check_engines(&outcome, FIRST_RANKED);
  assert_true(outcome.warnings >= 1);
  clear(&f);
}

// Many processes that start at once leave whole files, and no others.
static void test_many_at_once(void **state) {
  (void)state;
  enum { PROCESSES = 8 };
  Fixture f;
  make(&f);
  for (int i = 0; i < PROCESSES; i++)
    if (fork() == 0) {
      (void)snprintf(f.errors, sizeof f.errors, "%s/log%d", f.folder, i);
      Outcome outcome = run_with(&f, (PlanOptions){.cache = f.plans, .autotune = true});
      _exit(outcome.records != 3 || outcome.warnings != 0);
    }
  for (int i = 0; i < PROCESSES; i++) {
    int result;
    assert_true(wait(&result) > 0);
    assert_int_equal(result, 0);
  }
  list(&f);
  assert_int_equal(f.file_count, 3);
  Outcome after = run_with(&f, (PlanOptions){.cache = f.plans, .autotune = true});
  assert_int_equal(after.from_cache, 3);
  clear(&f);
}

// The user's cache folder, where nothing else is asked for.
static void test_default_folder(void **state) {
  (void)state;
  Fixture f;
  make(&f);
  assert_int_equal(setenv("XDG_CACHE_HOME", f.folder, 1), 0);
  (void)snprintf(f.plans, sizeof f.plans, "%s/imgcls/plans", f.folder);
  (void)run_with(&f, (PlanOptions){.cache = "auto"});
  assert_int_equal(f.file_count, 3);
  assert_int_equal(unsetenv("XDG_CACHE_HOME"), 0);
  assert_int_equal(setenv("HOME", f.folder, 1), 0);
  (void)snprintf(f.plans, sizeof f.plans, "%s/.cache/imgcls/plans", f.folder);
  Outcome outcome = run_with(&f, (PlanOptions){.cache = "auto"});
  assert_int_equal(outcome.from_cache, 0);
  assert_int_equal(f.file_count, 3);
  clear(&f);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_kept_and_found), cmocka_unit_test(test_deterministic),
      cmocka_unit_test(test_timed),          cmocka_unit_test(test_made_ahead),
      cmocka_unit_test(test_damage),         cmocka_unit_test(test_refused),
      cmocka_unit_test(test_unwritable),     cmocka_unit_test(test_many_at_once),
      cmocka_unit_test(test_default_folder),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
