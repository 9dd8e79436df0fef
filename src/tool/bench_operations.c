// The operations of a training step one by one: how long each takes, and how long it would if the
// device only moved the bytes, or only did the multiplications, that it cannot do without. See
// bench.h.
//
// Steps run as in training, given plainly, and moments are marked between their calls: what is timed
// is the network's own work, with the caches as they are within a step.
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "tool/bench.h"

// --- watching ---

// A step of the executor in one pass.
typedef struct Call {
  int step;
  StepPass pass;
} Call;

// What one such call took in each training step, all virtual workers together.
typedef struct CallTimes {
  double seconds[BENCH_PART_STEPS];
  int64_t count; // in all training steps
} CallTimes;

typedef struct Stopwatch {
  const Backend *backend;
  Executor *executor;
  Timeline *timeline;
  Call *calls; // of the pass under way
  int call_count;
  double *between;               // moments of that pass
  CallTimes (*times)[PASS_COUNT]; // of each step of the executor
  int64_t training_step;
} Stopwatch;

static Status end_pass(Stopwatch *watch) {
  TRY(watch->backend->timeline_mark(watch->timeline));
  TRY(watch->backend->timeline_read(watch->timeline, watch->between));
  for (int i = 0; i < watch->call_count; i++) {
    CallTimes *times = &watch->times[watch->calls[i].step][watch->calls[i].pass];
    times->seconds[watch->training_step] += watch->between[i];
    times->count++;
  }
  watch->call_count = 0;
  return STATUS_OK;
}

static Status note_call(void *context, int step, StepPass pass) {
  Stopwatch *watch = context;
  if (step < 0) return end_pass(watch);
  watch->calls[watch->call_count++] = (Call){step, pass};
  return watch->backend->timeline_mark(watch->timeline);
}

static Status stopwatch_init(Stopwatch *watch, const Bench *bench) {
  const Job *job = &bench->job;
  *watch = (Stopwatch){.backend = job->backend, .executor = workers_executor(job->workers)};
  int steps = executor_step_count(watch->executor);
  int most_calls = 2 * steps; // backward and rebuilt, each step once
  TRY(memory_alloc(&watch->calls, (size_t)most_calls, sizeof *watch->calls));
  TRY(memory_alloc(&watch->between, (size_t)most_calls, sizeof *watch->between));
  TRY(memory_alloc(&watch->times, (size_t)steps, sizeof *watch->times));
  TRY(watch->backend->timeline_create(job->device, &watch->timeline, most_calls + 1));
  executor_watch(watch->executor, note_call, watch);
  return STATUS_OK;
}

static void stopwatch_deinit(Stopwatch *watch) {
  executor_watch(watch->executor, NULL, NULL);
  watch->backend->timeline_free(watch->timeline);
  memory_free(watch->calls);
  memory_free(watch->between);
  memory_free(watch->times);
}

static Status watch_steps(Stopwatch *watch, Bench *bench, Source *source) {
  int64_t steps = bench->operations.steps;
  for (; watch->training_step < steps; watch->training_step++, bench->job.step++) {
    double seconds[BENCH_PART_COUNT];
    TRY(bench__step(bench, source, true, seconds));
  }
  bench->job.step = 0;
  const TrainStepResult *results;
  int count;
  return train_step_read(bench->step, &results, &count);
}

// --- rows ---

static double floor_of(const DeviceSpeeds *speeds, StepCost cost) {
  double moving = cost.bytes / speeds->bytes_s;
  double multiplying = cost.multiplications / speeds->multiplications_s;
  return moving > multiplying ? moving : multiplying;
}

// The row of steps that do the same.
static BenchOperation *find_row(BenchOperations *operations, const BenchOperation *wanted) {
  for (int i = 0; i < operations->count; i++) {
    BenchOperation *row = &operations->rows[i];
    if (row->pass == wanted->pass && row->cost.bytes == wanted->cost.bytes &&
        row->cost.multiplications == wanted->cost.multiplications &&
        strcmp(row->text, wanted->text) == 0)
      return row;
  }
  operations->rows[operations->count] = *wanted;
  return &operations->rows[operations->count++];
}

static int compare_rows(const void *a, const void *b) {
  const BenchOperation *x = a, *y = b;
  return (x->seconds < y->seconds) - (x->seconds > y->seconds);
}

static Status make_rows(BenchOperations *operations, Stopwatch *watch) {
  int steps = executor_step_count(watch->executor);
  TRY(memory_alloc(&operations->rows, (size_t)steps * PASS_COUNT, sizeof *operations->rows));
  for (int step = 0; step < steps; step++)
    for (StepPass pass = 0; pass < PASS_COUNT; pass++) {
      CallTimes *times = &watch->times[step][pass];
      if (times->count == 0) continue;
      StepDesc desc = executor_step(watch->executor, step);
      BenchOperation wanted = {.pass = pass, .cost = step_cost(&desc, pass)};
      (void)step_describe(&desc, wanted.text);
      BenchOperation *row = find_row(operations, &wanted);
      double uses = (double)times->count / (double)operations->steps;
      row->uses += uses;
      row->seconds += bench__summarize(times->seconds, operations->steps).median;
      row->floor_s += uses * floor_of(&operations->speeds, wanted.cost);
    }
  qsort(operations->rows, (size_t)operations->count, sizeof *operations->rows, compare_rows);
  return STATUS_OK;
}

Status bench__time_operations(Bench *bench, Source *source) {
  BenchOperations *operations = &bench->operations;
  const Job *job = &bench->job;
  int64_t steps = bench->options->steps;
  operations->steps = steps < BENCH_PART_STEPS ? steps : BENCH_PART_STEPS;
  Stopwatch watch;
  Status status = stopwatch_init(&watch, bench);
  if (status == STATUS_OK) status = watch_steps(&watch, bench, source);
  if (status == STATUS_OK)
    status = device_speeds_measure(&operations->speeds, job->backend, job->device, job->dtype);
  if (status == STATUS_OK) status = make_rows(operations, &watch);
  stopwatch_deinit(&watch);
  return status;
}
