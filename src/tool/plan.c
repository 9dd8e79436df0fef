// `imgcls plan`: has cuDNN choose its engines for every convolution of a model, for the GPU that is
// here or for one that is not, and keeps the plans for training to find. Run by main_tool.c; under
// mpirun with the ranks of the training, a configuration's share of the batch is that of a rank.
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/memory.h"
#include "tool/arguments.h"
#include "tool/tool.h"
#include "train/job.h"

enum { MAX_BATCH = 1 << 20, MAX_IMAGE_SIZE = 4096, MAX_CLASSES = 1000000 };

typedef struct PlanToolOptions {
  CommonOptions common;
  const char *model;       // a backbone; NULL: the configuration
  const char *config_path; // NULL: the model
  const char *gpu;         // NULL: the one that is here
  const char **settings;   // "section.key=value"
  size_t setting_count, setting_capacity;
  int64_t batch, image_size; // of a model
  DType dtype;               // of a model
  bool names_model_option;
} PlanToolOptions;

typedef struct PlanTool {
  const PlanToolOptions *options;
  World *world;
  Log *log;
  Config config;
  Placement placement;
  Binding binding;
  Job job; // of a model only device, graph and layout are set
} PlanTool;

// --- command line ---------------------------------------------------------------------------------

static const struct argp_option argp_options[] = {
    {"device", 'd', "GPU", 0, "Plan for h200, h100, a100 or l40s instead of the GPU that is here",
     0},
    {"set", 'S', "SECTION.KEY=VALUE", 0,
     "Instead of what CONFIG.ini says, or the defaults: run.plan_cache, run.autotune, run.tf32 and "
     "train.reproducible count for a MODEL too",
     0},
    {NULL, 0, NULL, 0, "Of a MODEL:", 2},
    {"batch", 'b', "N", 0, "Images of a step on one GPU (64)", 0},
    {"image-size", 'i', "N", 0, "Pixels a side instead of the backbone's own", 0},
    {"precision", 'p', "fp32|bf16|fp16", 0, "Type of activations (bf16)", 0},
    {0},
};

static Status parse_subject(PlanToolOptions *options, const char *text) {
  if (options->model || options->config_path)
    return status_set(STATUS_USAGE, "plan: '%s': one MODEL or CONFIG.ini at a time", text);
  size_t length = strlen(text);
  bool is_config = length > 4 && strcmp(text + length - 4, ".ini") == 0;
  *(is_config ? &options->config_path : &options->model) = text;
  return STATUS_OK;
}

static Status parse_setting(PlanToolOptions *options, const char *text) {
  TRY(memory_reserve(&options->settings, &options->setting_capacity, options->setting_count + 1,
                     sizeof *options->settings));
  options->settings[options->setting_count++] = text;
  return STATUS_OK;
}

static Status parse_precision(DType *out, const char *text) {
  for (*out = DTYPE_F32; *out <= DTYPE_F16; (*out)++)
    if (strcmp(text, dtype_name(*out)) == 0) return STATUS_OK;
  return status_set(STATUS_USAGE, "--precision '%s': use fp32, bf16 or fp16", text);
}

static Status parse_model_option(PlanToolOptions *o, int key, const char *text) {
  o->names_model_option = true;
  if (key == 'p') return parse_precision(&o->dtype, text);
  return key == 'b'
             ? arguments_parse_count(&o->batch, "--batch", text, 1, MAX_BATCH)
             : arguments_parse_count(&o->image_size, "--image-size", text, 1, MAX_IMAGE_SIZE);
}

static error_t parse_option(int key, char *text, struct argp_state *state) {
  ArgumentsParse *parse = state->input;
  PlanToolOptions *o = parse->options;
  switch (key) {
  case 'b':
  case 'i':
  case 'p':
    parse->status = parse_model_option(o, key, text);
    break;
  case 'd':
    o->gpu = text;
    break;
  case 'S':
    parse->status = parse_setting(o, text);
    break;
  case ARGP_KEY_ARG:
    parse->status = parse_subject(o, text);
    break;
  default:
    return ARGP_ERR_UNKNOWN;
  }
  return arguments_result(parse);
}

static Status check_options(const PlanToolOptions *options) {
  if (!options->model && !options->config_path)
    return status_set(STATUS_USAGE,
                      "plan: which MODEL or CONFIG.ini? `imgcls models` lists the backbones");
  if (options->config_path && options->names_model_option)
    return status_set(STATUS_USAGE,
                      "plan: %s says what --batch, --image-size and --precision would; change it "
                      "by --set train.batch=N and the like",
                      options->config_path);
  if (!backend_find("cuda"))
    return status_set(STATUS_CONFIG, "plan: this program was built without CUDA, which plans are "
                                     "for; build with `cmake --preset cuda`");
  return STATUS_OK;
}

static const ArgumentsDesc arguments = {
    .name = "plan",
    .takes_json = true,
    .argp.options = argp_options,
    .argp.parser = parse_option,
    .argp.args_doc = "MODEL|CONFIG.ini",
    .argp.doc =
        "Has cuDNN plan every convolution of a model, forward and backward, and keeps the plans in "
        "run.plan_cache, where training finds them. With --device no GPU is needed.\v"
        "Ranks share a configuration's batch: start this with as many as training will have, as in "
        "`mpirun -np 8 imgcls plan --device h200 CONFIG.ini`. Engines are timed on a GPU that is "
        "here alone; plans made ahead are timed, without compiling again, by the first run that "
        "finds them.",
};

// --- planning -------------------------------------------------------------------------------------

static Status load_config(PlanTool *tool) {
  const PlanToolOptions *options = tool->options;
  return arguments_load_config(&tool->config,
                               &(ConfigInput){.path = options->config_path,
                                              .settings = options->settings,
                                              .setting_count = options->setting_count,
                                              .environment = environ,
                                              .incomplete = !options->config_path},
                               tool->world, tool->log);
}

static Status place(PlanTool *tool) {
  if (!tool->options->gpu)
    return placement_find(&tool->placement,
                          &(PlacementDesc){.device = CONFIG_DEVICE_CUDA, .world = tool->world});
  tool->placement = (Placement){
      .backend = backend_find("cuda"), .model = tool->options->gpu, .sharers = 1};
  return STATUS_OK;
}

static Status plan_mode(const Job *job, LowerMode mode, int64_t batch) {
  Executor *executor;
  TRY(executor_create(&executor, &(ExecutorDesc){.backend = job->backend,
                                                 .device = job->device,
                                                 .graph = job->graph,
                                                 .layout = &job->layout,
                                                 .mode = mode,
                                                 .folds_norms = true,
                                                 .dtype = job->dtype,
                                                 .batches = &batch,
                                                 .batch_count = 1}));
  executor_free(executor);
  return STATUS_OK;
}

// Training steps of a backbone, and evaluation with the same batch.
static Status plan_model(PlanTool *tool) {
  const PlanToolOptions *options = tool->options;
  Job *job = &tool->job;
  *job = (Job){.config = &tool->config, .world = tool->world, .log = tool->log};
  job->backend = tool->placement.backend;
  job->dtype = options->dtype;
  TRY(job->backend->device_open(&job->device, &(DeviceDesc){.index = tool->placement.index,
                                                            .model = tool->placement.model,
                                                            .plans = job_plan_options(job)}));
  TRY(model_build(&job->graph, &(ModelSpec){.backbone = options->model,
                                            .image_h = (int)options->image_size,
                                            .image_w = (int)options->image_size,
                                            .class_count = 1000,
                                            .fine_tune = true,
                                            .batch_norm_momentum = CONFIG_FROM_GRAPH,
                                            .batch_norm_epsilon = CONFIG_FROM_GRAPH,
                                            .stochastic_depth = CONFIG_FROM_GRAPH}));
  TRY(parameters_layout(&job->layout, job->graph));
  TRY(plan_mode(job, LOWER_TRAINING, options->batch));
  return plan_mode(job, LOWER_INFERENCE, options->batch);
}

static Status plan(PlanTool *tool) {
  TRY(load_config(tool));
  TRY(place(tool));
  if (tool->options->model) return world_agree_status(tool->world, plan_model(tool));
  TRY(binding_find(&tool->binding, tool->world, NULL));
  return job_open(&tool->job, &(JobDesc){.config = &tool->config,
                                         .world = tool->world,
                                         .placement = &tool->placement,
                                         .binding = &tool->binding,
                                         .log = tool->log});
}

// --- what was planned -----------------------------------------------------------------------------

typedef struct Totals {
  int plans, from_cache, left;
  double planned_s;
} Totals;

static void print_record(const PlanRecord *r) {
  char time[24] = "";
  if (r->time_us > 0.0) (void)snprintf(time, sizeof time, "%.1f us", r->time_us);
  (void)printf("%-44s %-16s %6d%-10s %9.2f MiB %8.2f s%-6s %10s %6d  %s\n", r->problem, r->pass,
               r->engine,
               r->is_left       ? " left"
               : r->is_compiled ? " compiled"
                                : "",
               (double)r->workspace_size * 0x1p-20, r->planned_s, r->is_from_cache ? " kept" : "",
               time, r->uses, r->layer);
}

static Totals print_table(const Job *job) {
  Totals totals = {0};
  (void)printf("%-44s %-16s %-16s %13s %-15s %10s %6s  %s\n", "problem", "pass", "engine",
               "workspace", "planned in", "runs in", "layers", "first of them");
  const PlanRecord *r;
  for (; (r = job->backend->plan_record(job->device, totals.plans)); totals.plans++) {
    print_record(r);
    totals.from_cache += r->is_from_cache;
    totals.left += r->is_left;
    totals.planned_s += r->planned_s;
  }
  return totals;
}

static void print_text(const PlanTool *tool) {
  char device[160];
  const Job *job = &tool->job;
  Totals totals = print_table(job);
  job->backend->device_describe(job->device, device, sizeof device);
  (void)printf("\n%d plans for %s in %s, %d of them kept before, %.1f s\n", totals.plans, device,
               dtype_name(job->dtype), totals.from_cache, totals.planned_s);
  if (totals.left > 0)
    (void)printf("%d plans are left to the first run on a GPU: cuDNN compiles the engine that it "
                 "ranks first, and needs the driver's libcuda.so.1 for that.\n",
                 totals.left);
}

static json_t *record_json(const PlanRecord *r) {
  return json_pack("{s:s, s:s, s:s, s:i, s:i, s:b, s:b, s:b, s:I, s:f, s:f}", "problem", r->problem,
                   "pass", r->pass, "first_layer", r->layer, "layers", r->uses, "engine", r->engine,
                   "compiled", (int)r->is_compiled, "kept_before", (int)r->is_from_cache, "left",
                   (int)r->is_left, "workspace_bytes", (json_int_t)r->workspace_size, "planned_s",
                   r->planned_s, "time_us", r->time_us);
}

static Status print_json(const PlanTool *tool) {
  const Job *job = &tool->job;
  json_t *list = json_array();
  const PlanRecord *r;
  for (int i = 0; (r = job->backend->plan_record(job->device, i)); i++)
    (void)json_array_append_new(list, record_json(r));
  char device[160];
  job->backend->device_describe(job->device, device, sizeof device);
  json_t *root = json_pack("{s:s, s:s, s:o}", "device", device, "precision", dtype_name(job->dtype),
                           "plans", list);
  int failed = root ? json_dumpf(root, stdout, JSON_INDENT(1)) : -1;
  json_decref(root);
  if (failed) return status_set(STATUS_IO, "cannot write to standard output");
  (void)putchar('\n');
  return STATUS_OK;
}

static Status print(const PlanTool *tool) {
  if (tool->options->common.json) return print_json(tool);
  print_text(tool);
  return STATUS_OK;
}

static Status run(const PlanToolOptions *options, Log *log) {
  PlanTool *tool;
  World *world;
  TRY(memory_alloc(&tool, 1, sizeof *tool));
  Status status = STATUS_OK;
  GUARD(world_open(&world, NULL, NULL));
  tool->options = options;
  tool->world = world;
  tool->log = log;
  if (options->common.json) log->level = LOG_QUIET;
  if (world->size > 1) log->rank = world->rank;
  status = plan(tool);
  if (status == STATUS_OK && world->rank == 0) status = print(tool);
  if (status != STATUS_OK && world->size > 1) world_fail(world, log, status);
  job_close(&tool->job);
  config_deinit(&tool->config);
  world_close(world);
out:
  memory_free(tool);
  return status;
}

Status tool_plan(int argc, char **argv, Log *log) {
  PlanToolOptions options = {.batch = 64, .dtype = DTYPE_BF16};
  Status status = arguments_parse(&options.common, &options, &arguments, argc, argv);
  if (status == STATUS_OK && !options.common.help) {
    status = check_options(&options);
    if (status == STATUS_OK) status = run(&options, log);
  }
  memory_free(options.settings);
  return status;
}
