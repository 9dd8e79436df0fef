// imgcls: looks at data and models, predicts, evaluates, measures. Finds the subcommand in one
// table, runs it and turns its Status into the exit code.
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/output.h"
#include "base/signals.h"
#include "base/status.h"
#include "config/config.h"
#include "config/nearest.h"
#include "config/version.h"
#include "dist/world.h"
#include "tool/tool.h"

static const Tool TOOLS[] = {
    {"models", "[NAME] [--image-size=N] [--json]", "list backbones, or the layers of one", false,
     tool_models},
    {"data", "scan|pack|import-idx ...", "look at a dataset, pack it, or make one", false,
     tool_data},
    {"h5", "show|diff|verify FILE...", "show, compare or verify .h5 files", false, tool_h5},
    {"predict", "MODEL.h5 IMAGE|FOLDER... [--top K] [--json] [--threads N]",
     "class and probability for images", false, tool_predict},
    {"eval", "MODEL.h5 DIR [--output DIR] [--batch N] [--threads N] [--json]",
     "accuracy, loss, confusion matrix, worst mistakes", false, tool_eval},
    {"bench", "MODEL|CONFIG.ini [--batch N] [--precision fp32|bf16|fp16] [--json] ...",
     "time training steps on random and on real images", true, tool_bench},
    {"all-reduce", "[--min-bytes N] [--max-bytes N] [--reproducible] [--json]",
     "time sums over the ranks: the bandwidth between them", true, tool_all_reduce},
    {"plan", "MODEL|CONFIG.ini [--device h200|h100|a100|l40s] [--precision fp32|bf16|fp16] ...",
     "have cuDNN plan a model's convolutions ahead, also without a GPU", true, tool_plan},
    {0}, // the end
};

static const Tool *tool_find(const char *name) {
  for (const Tool *tool = TOOLS; tool->name; tool++)
    if (strcmp(tool->name, name) == 0) return tool;
  return NULL;
}

static Status unknown_tool(const char *name) {
  Nearest nearest = {.wanted = name};
  nearest_offer(&nearest, "help");
  for (const Tool *tool = TOOLS; tool->name; tool++) nearest_offer(&nearest, tool->name);
  if (nearest.best)
    return status_set(STATUS_USAGE, "unknown subcommand '%s'; did you mean '%s'?", name,
                      nearest.best);
  return status_set(STATUS_USAGE, "unknown subcommand '%s'; `imgcls help` lists them", name);
}

static void print_help(FILE *stream) {
  (void)fputs("Usage: imgcls SUBCOMMAND [ARGUMENT...]\n"
              "Looks at image data and models, predicts, evaluates and measures.\n\n",
              stream);
  for (const Tool *tool = TOOLS; tool->name; tool++)
    (void)fprintf(stream, "  %-10s %s\n", tool->name, tool->summary);
  (void)fputs("  help       say what the subcommands do: imgcls help SUBCOMMAND\n\n"
              "`imgcls SUBCOMMAND --help` explains one. Training is the program imgcls-train.\n"
              "Manual: man imgcls\n",
              stream);
}

static Status run_help(int argc, char **argv, Log *log) {
  if (argc < 2) {
    print_help(stdout);
    return STATUS_OK;
  }
  const Tool *tool = tool_find(argv[1]);
  if (!tool) return unknown_tool(argv[1]);
  char *arguments[] = {argv[1], "--help", NULL};
  return tool->run(2, arguments, log);
}

// Variables that no program of ours knows are refused as imgcls-train refuses them.
static Status check_environment(Log *log) {
  Config config;
  ConfigProblems problems;
  Status status =
      config_load(&config, &problems, &(ConfigInput){.environment = environ, .incomplete = true});
  config_problems_log(&problems, log);
  config_problems_deinit(&problems);
  config_deinit(&config);
  return status;
}

// A job that runs a subcommand of one process has it done once, by its rank 0.
static Status run_tool(const Tool *tool, int argc, char **argv, Log *log) {
  int rank, size;
  world_find_launch(&rank, &size);
  if (tool->parallel || size <= 1) return tool->run(argc, argv, log);
  if (rank > 0) return STATUS_OK;
  log_warning(log, "%s is the work of one process: rank 0 does it, the other%s of %d ranks nothing",
              tool->name, size > 2 ? "s" : "", size);
  return tool->run(argc, argv, log);
}

static bool asks_for_help(int argc, char **argv) {
  for (int i = 0; i < argc; i++)
    if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) return true;
  return false;
}

static Status run(int argc, char **argv, Log *log) {
  if (argc < 2) return status_set(STATUS_USAGE, "which subcommand? `imgcls help` lists them");
  const char *name = argv[1];
  if (strcmp(name, "help") == 0) return run_help(argc - 1, argv + 1, log);
  if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0) return run_help(1, argv, log);
  if (strcmp(name, "--version") == 0 || strcmp(name, "-V") == 0) {
    version_print(stdout, "imgcls");
    return STATUS_OK;
  }
  const Tool *tool = tool_find(name);
  if (!tool) return unknown_tool(name);
  if (!asks_for_help(argc - 2, argv + 2)) TRY(check_environment(log));
  return run_tool(tool, argc - 1, argv + 1, log);
}

int main(int argc, char **argv) {
  Log log;
  signals_survive_file_limit();
  log_init(&log, "imgcls");
  Status status = run(argc, argv, &log);
  if (status == STATUS_OK) status = output_flush();
  if (status != STATUS_OK) log_error(&log, "%s", status_message());
  return (int)status;
}
