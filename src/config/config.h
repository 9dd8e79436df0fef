// The configuration of a run: what an INI file, the environment and the command line say.
//
// One const table (keys.c) has a row per key: section, name, default, range, help and the field it
// fills. Parsing, the environment, --print-config, the manual and the tests follow from it.
// A Config is complete and checked once config_load has returned STATUS_OK; nobody changes it
// after.
//
// Precedence: command line > environment (IMGCLS_SECTION_KEY) > INI file > default. Relative paths
// are relative to the current directory, wherever they were given.
#ifndef IMGCLS_CONFIG_CONFIG_H
#define IMGCLS_CONFIG_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "base/log.h"
#include "base/status.h"

typedef enum ConfigCompat { CONFIG_COMPAT_FIXED, CONFIG_COMPAT_KERAS } ConfigCompat;
typedef enum ConfigChoice { CONFIG_AUTO, CONFIG_YES, CONFIG_NO } ConfigChoice;
typedef enum ConfigFlip {
  CONFIG_FLIP_NONE,
  CONFIG_FLIP_HORIZONTAL,
  CONFIG_FLIP_VERTICAL,
  CONFIG_FLIP_BOTH,
} ConfigFlip;
typedef enum ConfigFill {
  CONFIG_FILL_CONSTANT,
  CONFIG_FILL_REFLECT,
  CONFIG_FILL_WRAP,
  CONFIG_FILL_NEAREST,
} ConfigFill;
typedef enum ConfigPrecision {
  CONFIG_PRECISION_AUTO,
  CONFIG_PRECISION_FP32,
  CONFIG_PRECISION_BF16,
  CONFIG_PRECISION_FP16,
} ConfigPrecision;
typedef enum ConfigOptimizer { CONFIG_OPTIMIZER_SGD } ConfigOptimizer;
typedef enum ConfigSchedule {
  CONFIG_SCHEDULE_CONSTANT,
  CONFIG_SCHEDULE_STEP,
  CONFIG_SCHEDULE_COSINE,
  CONFIG_SCHEDULE_POLYNOMIAL,
  CONFIG_SCHEDULE_EXPONENTIAL,
} ConfigSchedule;
typedef enum ConfigBatchScale {
  CONFIG_SCALE_NONE,
  CONFIG_SCALE_LINEAR,
  CONFIG_SCALE_SQRT,
} ConfigBatchScale;
typedef enum ConfigDevice {
  CONFIG_DEVICE_AUTO,
  CONFIG_DEVICE_CPU,
  CONFIG_DEVICE_CUDA
} ConfigDevice;
typedef enum ConfigLogFormat { CONFIG_LOG_TEXT, CONFIG_LOG_JSON } ConfigLogFormat;

#define CONFIG_FROM_GRAPH (-1.0)     // the word "graph": the layer keeps the graph's own value
#define CONFIG_AUTOMATIC (-1)        // the word "auto" in the place of a whole number or a size
#define CONFIG_SAME_AS_HEIGHT (-1.0) // the word "same", in both ends of augment.zoom_width

// A random factor is drawn from [low, high]. One number f in the file means [-f, f], as in Keras.
typedef struct ConfigRange {
  double low, high;
} ConfigRange;

typedef struct ConfigStrings {
  int64_t count;
  char **items;
} ConfigStrings;

typedef struct ConfigNumbers {
  int64_t count;
  double *items;
} ConfigNumbers;

typedef struct ModelConfig {
  char *backbone;
  int64_t image_size; // pixels; 0: the backbone's default
  char *weights;      // .h5 file; "": fresh weights
  bool fine_tune;
  double dropout;             // rate
  double l2;                  // factor of sum(W^2) of the head's kernel
  double batch_norm_momentum; // or CONFIG_FROM_GRAPH
  double batch_norm_epsilon;  // or CONFIG_FROM_GRAPH
  double stochastic_depth;    // rate of the last block, or CONFIG_FROM_GRAPH
} ModelConfig;

typedef struct DataConfig {
  char *dir;      // folder with a folder per class, or packed file
  char *test_dir; // the same for the final evaluation; "": none
  double validation_split;
  int64_t seed;
  ConfigStrings class_names; // count 0: the sorted folder names
  ConfigCompat compat;
  bool antialias;
  bool keep_aspect;
  double max_bad_fraction;
  int64_t max_pixels;
  int64_t max_side;
  int64_t max_file_size; // bytes
  int64_t jpeg_memory;   // bytes
  int64_t jpeg_scans;
  double decode_deadline_s;
  bool follow_symlinks;
  int64_t loader_threads; // a rank; 0: automatic
  int64_t prefetch;       // batches
  ConfigChoice cache_features;
  ConfigChoice resident;
} DataConfig;

typedef struct AugmentConfig {
  bool enabled;
  ConfigRange rotation; // fraction of a turn, positive is counter-clockwise
  ConfigRange translation_height;
  ConfigRange translation_width;
  ConfigRange zoom_height;
  ConfigRange zoom_width; // or CONFIG_SAME_AS_HEIGHT
  ConfigFlip flip;
  ConfigFill fill_mode;
  double fill_value; // 0..1
} AugmentConfig;

typedef struct TrainConfig {
  int64_t batch; // over all ranks
  int64_t epochs;
  double label_smoothing;
  int64_t seed;
  int64_t virtual_workers; // 0: one per rank
  bool reproducible;
  double loss_scale;               // at the beginning; or CONFIG_AUTOMATIC
  int64_t loss_scale_growth_steps; // good steps that double it; 0: never
  int64_t micro_batch; // images; 0: all of a worker's; or CONFIG_AUTOMATIC
  ConfigChoice recompute;
  ConfigPrecision precision;
  int64_t evaluate_every;  // epochs; 0: only at the end
  int64_t steps_per_epoch; // 0: one pass over the training images
} TrainConfig;

typedef struct OptimizerConfig {
  ConfigOptimizer name;
  double learning_rate;
  double momentum;
  bool nesterov;
  double weight_decay;
  double clip_norm; // of all gradients together; 0: off
  bool use_ema;     // average the weights over the steps
  double ema_momentum;
} OptimizerConfig;

typedef struct ScheduleConfig {
  ConfigSchedule name;
  double warmup_epochs;
  double warmup_start;       // factor of the learning rate at step 0
  ConfigNumbers step_epochs; // ascending; where `step` multiplies by step_factor
  double step_factor;
  double end_factor; // factor of the learning rate at the end of cosine and polynomial
  double power;      // of polynomial
  double decay_epochs, decay_rate; // of exponential: the factor in so many epochs
  bool staircase;                  // of exponential: all of it at the end of these epochs
  ConfigBatchScale scale_with_batch;
  int64_t base_batch;
} ScheduleConfig;

typedef struct CheckpointConfig {
  int64_t every_epochs; // 0: off
  double every_minutes; // 0: off
  int64_t every_steps;  // 0: off
  int64_t keep;
  int64_t keep_every; // epochs; 0: none
  char *resume;       // "auto", "none" or a file
} CheckpointConfig;

typedef struct RunConfig {
  char *output; // folder
  ConfigDevice device;
  bool share_gpu;
  bool cuda_graph;
  char *plan_cache; // folder, "auto" or "none"
  bool autotune;
  bool tf32;
  int64_t threads;      // a rank; 0: automatic
  int64_t memory_limit; // bytes a rank; or CONFIG_AUTOMATIC
  double comm_timeout_s;
  double stop_deadline_s;
} RunConfig;

typedef struct LogConfig {
  int64_t every_steps; // 0: a line every 30 s
  ConfigLogFormat format;
  bool tensorboard;
  bool mllog;
} LogConfig;

// Where a value came from.
typedef enum ConfigSource {
  CONFIG_DEFAULT,
  CONFIG_FILE,
  CONFIG_ENVIRONMENT,
  CONFIG_COMMAND_LINE,
} ConfigSource;

typedef struct ConfigOrigin {
  ConfigSource source;
  int line; // of the file
} ConfigOrigin;

typedef struct Config {
  ModelConfig model;
  DataConfig data;
  AugmentConfig augment;
  TrainConfig train;
  OptimizerConfig optimizer;
  ScheduleConfig schedule;
  CheckpointConfig checkpoint;
  RunConfig run;
  LogConfig log;
  char *file;            // the INI file's name as given; "": none. Owned
  ConfigOrigin *origins; // one per row of the key table. Owned
} Config;

// --- loading -------------------------------------------------------------------------------------

// What went wrong, every problem as one line of text in the order of the sources and their lines.
// Owned by the caller, who ends with config_problems_deinit.
typedef struct ConfigProblems {
  size_t count, capacity;
  struct ConfigProblem *items;
} ConfigProblems;

typedef struct ConfigInput {
  const char *path;            // INI file; NULL: none
  const char *const *settings; // "section.key=value" of the command line
  size_t setting_count;
  char *const *environment; // as `environ`; NULL: none
  bool incomplete;          // a missing required key is no problem (--print-config)
} ConfigInput;

// Fills `out` from all sources and checks it. On STATUS_CONFIG `problems` has every problem and the
// message is the only problem or their number. STATUS_NO_INPUT, STATUS_PERMISSION or STATUS_IO
// where the file cannot be read. `out` is owned by the caller, also after a failure; not
// collective.
MUST_CHECK Status config_load(Config *out, ConfigProblems *problems, const ConfigInput *input);

// Fills `out` from the text of config_format.
MUST_CHECK Status config_load_text(Config *out, ConfigProblems *problems, const char *text,
                                   size_t size_bytes);

// Fills `out` with the defaults; required keys are "".
MUST_CHECK Status config_init(Config *out);

void config_deinit(Config *config);

const char *config_problems_text(const ConfigProblems *problems, size_t i);
// A line of error for each of several; one alone is the message of config_load.
void config_problems_log(const ConfigProblems *problems, Log *log);
void config_problems_deinit(ConfigProblems *problems);

// --- writing -------------------------------------------------------------------------------------

// Stores the configuration as INI text, each value with its origin as a comment when `origins`.
// The text parses to the same values and is equal byte for byte for equal values and origins: it is
// what --print-config prints, config.resolved.ini holds and rank 0 sends to the others.
// `*out` is owned by the caller (memory_free).
MUST_CHECK Status config_format(char **out, const Config *config, bool origins);

// XXH3-128 of the keys that determine the numbers, as 32 hexadecimal digits and a NUL. Two runs
// with the same hash on the same data and version compute the same. Paths do not take part.
enum { CONFIG_HASH_CAPACITY = 33 };
MUST_CHECK Status config_hash(const Config *config, char hash[CONFIG_HASH_CAPACITY]);

// Names the keys among those of the hash whose values differ, as "[train] batch = 16 -> 32, ...";
// "" where none do. `*out` is owned by the caller.
MUST_CHECK Status config_describe_changes(char **out, const Config *before, const Config *after);

// The word of an enum key's value, such as ("optimizer", "name", 0) -> "sgd".
const char *config_choice_name(const char *section, const char *name, int value);

#endif
