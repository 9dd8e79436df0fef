// imgcls-train: arguments, configuration, training, exit code. --help and --version answer before
// anything else starts.
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/memory.h"
#include "base/output.h"
#include "base/signals.h"
#include "base/status.h"
#include "config/config.h"
#include "config/options.h"
#include "config/version.h"
#include "dist/world.h"
#include "tool/check.h"
#include "tool/check_data.h"
#include "train/placement.h"
#include "train/trainer.h"

static const char PROGRAM[] = "imgcls-train";

static Status print_config(const Config *config) {
  char *text;
  TRY(config_format(&text, config, true));
  (void)fputs(text, stdout);
  memory_free(text);
  return STATUS_OK;
}

// Loads the configuration; every problem becomes a line on standard error.
static Status load_config(Config *config, const Options *options, Log *log) {
  ConfigProblems problems;
  const ConfigInput input = {
      .path = options->config_path,
      .settings = (const char *const *)options->settings,
      .setting_count = options->setting_count,
      .environment = environ,
      .incomplete = options->mode == OPTIONS_PRINT_CONFIG ||
                    (options->mode == OPTIONS_CHECK && !options->config_path),
  };
  Status status = config_load(config, &problems, &input);
  config_problems_log(&problems, log);
  config_problems_deinit(&problems);
  return status;
}

// Gives every rank what rank 0 has loaded: files and environments may differ between hosts.
// Collective.
static Status share_config(Config *config, World *world) {
  char *text = NULL;
  size_t size = 0;
  Status status = STATUS_OK;
  if (world->rank == 0) status = config_format(&text, config, false);
  GUARD(world_agree_status(world, status));
  if (text) size = strlen(text);
  GUARD(world_broadcast(world, &size, sizeof size, 0));
  if (world->rank != 0) status = memory_alloc(&text, size + 1, 1);
  GUARD(world_agree_status(world, status));
  GUARD(world_broadcast(world, text, size, 0));
  if (world->rank != 0) {
    ConfigProblems problems;
    config_deinit(config);
    status = config_load_text(config, &problems, text, size);
    config_problems_deinit(&problems);
  }
  GUARD(world_agree_status(world, status));
out:
  memory_free(text);
  return status;
}

// The first line of a run: enough to find the program and the configuration again.
static Status say_hello(const Config *config, const World *world, Log *log) {
  char hash[CONFIG_HASH_CAPACITY];
  TRY(config_hash(config, hash));
  log_info(log, "%s %s (commit %s), %d rank%s, configuration %s %s", PROGRAM, version_number(),
           version_commit(), world->size, world->size == 1 ? "" : "s", config->file, hash);
  return STATUS_OK;
}

// Trains. Ranks that fail together say so once; one that fails alone cannot know that it is alone,
// so it waits for rank 0 to speak and end the job, and else does both itself.
static Status train(const Options *options, const Config *config, World *world, Log *log) {
  Placement placement;
  Binding binding;
  if (world->rank == 0 && options->mode == OPTIONS_TRAIN) log_keep(log);
  TRY(say_hello(config, world, log));
  TRY(signals_install());
  TRY(placement_find(&placement, &(PlacementDesc){.device = config->run.device,
                                                  .share_gpu = config->run.share_gpu,
                                                  .world = world}));
  TRY(binding_find(&binding, world, placement.identity.bus));
  TRY(binding_apply(&binding));
  Status status = trainer_run(&(TrainerDesc){.config = config,
                                             .world = world,
                                             .placement = &placement,
                                             .binding = &binding,
                                             .log = log,
                                             .dry_run = options->mode == OPTIONS_DRY_RUN});
  if (status == STATUS_OK || status == STATUS_STOPPED || world->size == 1) return status;
  world_fail(world, log, status);
}

static Status run(const Options *options, World *world, Log *log) {
  Config config = {0};
  Status status = STATUS_OK;
  if (world->rank == 0) status = load_config(&config, options, log);
  int32_t code = (int32_t)status; // rank 0 has said what is wrong: the code is enough
  GUARD(world_broadcast(world, &code, sizeof code, 0));
  GUARD((Status)code);
  if (options->mode == OPTIONS_PRINT_CONFIG) {
    if (world->rank == 0) GUARD(print_config(&config));
    goto out;
  }
  GUARD(share_config(&config, world));
  log->json = config.log.format == CONFIG_LOG_JSON;
  if (options->mode == OPTIONS_CHECK) GUARD(check_print(&config, world, PROGRAM));
  else if (options->mode == OPTIONS_CHECK_DATA) GUARD(check_data(&config, world, log));
  else GUARD(train(options, &config, world, log));
out:
  config_deinit(&config);
  return status;
}

// https://no-color.org: a variable NO_COLOR that is not empty.
static bool wants_color(OptionsColor color) {
  const char *no_color = getenv("NO_COLOR");
  if (color != OPTIONS_COLOR_AUTO) return color == OPTIONS_COLOR_ALWAYS;
  return isatty(STDERR_FILENO) == 1 && !(no_color && no_color[0]);
}

// The modes that answer before anything starts. `*answered` says whether this was one.
static void answer(bool *answered, const Options *options) {
  *answered = true;
  switch (options->mode) {
  case OPTIONS_HELP:
    options_print_help(stdout, PROGRAM);
    break;
  case OPTIONS_USAGE:
    options_print_usage(stdout, PROGRAM);
    break;
  case OPTIONS_VERSION:
    version_print(stdout, PROGRAM);
    break;
  default:
    *answered = false;
  }
}

int main(int argc, char **argv) {
  Log log;
  Options options;
  World *world = NULL;
  bool answered = false;
  memory_return_large_blocks();
  signals_survive_file_limit();
  log_init(&log, PROGRAM);
  Status status = options_parse(&options, argc, argv);
  if (status == STATUS_OK) answer(&answered, &options);
  log.level = options.level;
  log.color = wants_color(options.color);
  log.json = options.json;
  // A wrong command line opens the world too: only there is one rank known to speak for all.
  if (!answered) {
    KeptStatus parsed;
    status_keep(&parsed, status);
    status = world_open(&world, &argc, &argv);
    if (parsed.code != STATUS_OK) status = status_restore(&parsed);
  }
  if (world && world->size > 1) log.rank = world->rank;
  if (status == STATUS_OK && world) status = run(&options, world, &log);
  // A run whose log is lost has its files, train.log among them.
  if (status == STATUS_OK && (answered || options.mode != OPTIONS_TRAIN)) status = output_flush();
  if (status != STATUS_OK && log.rank <= 0) log_error(&log, "%s", status_message());
  log_close_copy(&log);
  options_deinit(&options);
  world_close(world);
  return (int)status;
}
