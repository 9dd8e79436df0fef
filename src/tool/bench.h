// What `imgcls bench` times, shared by its four files: bench.c (command line, steps),
// bench_setup.c (what to step), bench_operations.c (parts of a step, one by one) and bench_print.c
// (what it says).
#ifndef IMGCLS_TOOL_BENCH_H
#define IMGCLS_TOOL_BENCH_H

#include "exec/step_cost.h"
#include "tool/arguments.h"
#include "tool/device_speeds.h"
#include "train/job.h"
#include "train/train_step.h"

typedef struct BenchOptions {
  CommonOptions common;    // threads are for a model
  const char *model;       // a backbone; NULL: the configuration
  const char *config_path; // NULL: the model
  const char **settings;   // "section.key=value", for the configuration
  size_t setting_count, setting_capacity;
  int64_t batch, image_size, classes; // of a model
  DType dtype;                        // of a model
  bool recompute;                     // of a model
  bool names_model_option;            // one of the five was given
  int64_t steps, warmup;
  int64_t least_rate; // images a second; 0: any will do
  bool operations;    // are timed one by one
} BenchOptions;

typedef enum BenchPart {
  BENCH_STEP, // all of those below
  BENCH_DATA, // waiting for the loader
  BENCH_FORWARD,
  BENCH_BACKWARD,
  BENCH_ALL_REDUCE, // what the backward pass did not hide
  BENCH_UPDATE,
  BENCH_PROCESSOR, // time of all threads of all ranks: what other programs disturb least
  BENCH_PART_COUNT
} BenchPart;

// Steps on one kind of data.
typedef struct BenchRun {
  const char *data;                  // "synthetic", "real"
  double *seconds[BENCH_PART_COUNT]; // of bench__part_steps each: a step's mean over the ranks
  double first_loss, last_loss;      // of rank 0's samples
} BenchRun;

enum { BENCH_RUN_COUNT_MAX = 2, BENCH_PART_STEPS = 10 };

// What steps of one description do in one pass, rank 0's.
typedef struct BenchOperation {
  char text[STEP_TEXT_CAPACITY];
  StepPass pass;
  double uses;    // a step of training
  double seconds; // of all uses in one step, the median
  double floor_s; // the same, at the device's speeds
  StepCost cost;  // of one use
} BenchOperation;

typedef struct BenchOperations {
  DeviceSpeeds speeds;
  int64_t steps;        // that were timed
  BenchOperation *rows; // the one that takes longest first; owned
  int count;
} BenchOperations;

typedef struct Bench {
  const BenchOptions *options;
  World *world; // borrowed
  Log *log;     // borrowed
  Placement placement;
  Binding binding;
  Config config;
  Job job; // of a configuration it is what trains; of a model only some is set
  TrainStep *step;
  double learning_rate;
  int64_t largest_batch; // over all ranks
  size_t sample_size;    // values of one image, or its features
  Batch synthetic;       // one batch in memory; absent where steps run on cached features
  size_t peak_bytes, planned_bytes; // of the host's memory, of the rank that takes the most
  size_t device_taken_bytes, device_planned_bytes; // of a GPU's
  BenchRun runs[BENCH_RUN_COUNT_MAX];
  int run_count;
  BenchOperations operations; // count 0: nobody asked
} Bench;

// Whether the device computes on while the host does something else.
bool bench__goes_on_by_itself(const Bench *bench);

// How many steps tell how long a part takes. A device that goes on by itself shows the parts within
// a step only where each is waited for: in steps of their own, which BENCH_STEP does not count.
int64_t bench__part_steps(const Bench *bench, int part);

// One step from asking for its batch to giving it back. `source` is NULL for the synthetic one.
MUST_CHECK Status bench__step(Bench *bench, Source *source, bool in_parts,
                              double seconds[BENCH_PART_COUNT]);

// Fills bench->operations, in steps of their own. Collective.
MUST_CHECK Status bench__time_operations(Bench *bench, Source *source);

// Makes ready what options ask for. Collective; bench__close after a failure too.
MUST_CHECK Status bench__open(Bench *bench);
void bench__close(Bench *bench);

typedef struct Summary {
  double median, p5, p95, mean, deviation; // seconds; the sample's standard deviation
} Summary;

// Sorts them.
Summary bench__summarize(double *seconds, int64_t count);

// Prints the runs, as text or JSON. Sorts their seconds.
MUST_CHECK Status bench__print(Bench *bench);

// STATUS_ERROR where a run is slower than options->least_rate. The same on every rank.
MUST_CHECK Status bench__check_rate(const Bench *bench);

#endif
