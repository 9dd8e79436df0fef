// argp, kept from printing and exiting by itself. See options.h.
#include "config/options.h"

#include <argp.h>
#include <errno.h>
#include <string.h>

#include "base/memory.h"
#include "config/nearest.h"

// Keys of options without a letter; above every character.
enum {
  KEY_CHECK = 0x100,
  KEY_CHECK_DATA,
  KEY_PRINT_CONFIG,
  KEY_DRY_RUN,
  KEY_LOG_FORMAT,
  KEY_COLOR,
  KEY_USAGE,
};

static const struct argp_option OPTIONS[] = {
    {NULL, 0, NULL, 0, "Instead of training:", 1},
    {"check", KEY_CHECK, NULL, 0, "Say which ranks, cores, devices and libraries there are", 1},
    {"check-data", KEY_CHECK_DATA, NULL, 0, "Read every image and name the broken ones", 1},
    {"print-config", KEY_PRINT_CONFIG, NULL, 0,
     "Print every key with its value and where that came from", 1},
    {"dry-run", KEY_DRY_RUN, NULL, 0, "Do all but train: data, model, memory", 1},
    {NULL, 0, NULL, 0, "Configuration:", 2},
    {"set", 's', "SECTION.KEY=VALUE", 0, "Set a key, over file and environment; repeatable", 2},
    {"output", 'o', "DIR", 0, "Folder of the run: run.output", 2},
    {"resume", 'r', "auto|none|FILE", 0, "Where to continue: checkpoint.resume", 2},
    {NULL, 0, NULL, 0, "Messages:", 3},
    {"quiet", 'q', NULL, 0, "Print warnings and errors only", 3},
    {"verbose", 'v', NULL, 0, "Also print how GPUs plan and sum", 3},
    {"log-format", KEY_LOG_FORMAT, "text|json", 0, "Form of the lines: log.format", 3},
    {"color", KEY_COLOR, "WHEN", 0, "auto, always or never", 3},
    {NULL, 0, NULL, 0, "Help:", 4},
    {"help", 'h', NULL, 0, "Print this", 4},
    {"usage", KEY_USAGE, NULL, 0, "Print a short form of this", 4},
    {"version", 'V', NULL, 0, "Print version, compiler and libraries", 4},
    {0},
};

static Status add_setting(Options *options, const char *name, const char *value) {
  TRY(memory_reserve(&options->settings, &options->setting_capacity, options->setting_count + 1,
                     sizeof *options->settings));
  TRY(memory_print_string(&options->settings[options->setting_count], "%s%s", name, value));
  options->setting_count++;
  return STATUS_OK;
}

static Status set_mode(Options *options, OptionsMode mode) {
  if (options->mode != OPTIONS_TRAIN && options->mode != mode)
    return status_set(STATUS_USAGE,
                      "give one of --check, --check-data, --print-config and --dry-run");
  options->mode = mode;
  return STATUS_OK;
}

static Status set_color(Options *options, const char *text) {
  static const char *const words[] = {"auto", "always", "never"};
  for (int i = 0; i < 3; i++) {
    if (strcmp(text, words[i]) != 0) continue;
    options->color = (OptionsColor)i;
    return STATUS_OK;
  }
  return status_set(STATUS_USAGE, "--color=%s: must be auto, always or never", text);
}

static Status set_config_path(Options *options, const char *path) {
  if (options->config_path)
    return status_set(STATUS_USAGE,
                      "two configurations, %s and %s: give one INI file, and -s section.key=value "
                      "for changes",
                      options->config_path, path);
  options->config_path = path;
  return STATUS_OK;
}

// argp calls this for each argument. The Status travels beside argp's error number.
typedef struct Parse {
  Options *options;
  Status status;
  const char *stumbled; // the argument that argp itself refused; borrowed from argv
} Parse;

static Status take(Options *options, int key, const char *value) {
  switch (key) {
  case KEY_CHECK:
    return set_mode(options, OPTIONS_CHECK);
  case KEY_CHECK_DATA:
    return set_mode(options, OPTIONS_CHECK_DATA);
  case KEY_PRINT_CONFIG:
    return set_mode(options, OPTIONS_PRINT_CONFIG);
  case KEY_DRY_RUN:
    return set_mode(options, OPTIONS_DRY_RUN);
  case 's':
    return add_setting(options, "", value);
  case 'o':
    return add_setting(options, "run.output=", value);
  case 'r':
    return add_setting(options, "checkpoint.resume=", value);
  case KEY_LOG_FORMAT:
    options->json = strcmp(value, "json") == 0;
    return add_setting(options, "log.format=", value);
  case KEY_COLOR:
    return set_color(options, value);
  case 'q':
    options->level = LOG_QUIET;
    return STATUS_OK;
  case 'v':
    options->level = LOG_VERBOSE;
    return STATUS_OK;
  default:
    return set_config_path(options, value);
  }
}

// getopt does not say which argument it stumbled over. It is the one before the next, or the next
// where that is a cluster such as -qZ, which is not done with yet.
static const char *stumbled_over(const struct argp_state *state) {
  const char *before = state->next > 1 ? state->argv[state->next - 1] : "";
  if (before[0] == '-' || state->next >= state->argc) return before;
  return state->argv[state->next];
}

static error_t parse_one(int key, char *value, struct argp_state *state) {
  Parse *parse = state->input;
  switch (key) {
  // These answer at once, whatever else is wrong.
  case 'h':
    parse->options->mode = OPTIONS_HELP;
    return ECANCELED;
  case KEY_USAGE:
    parse->options->mode = OPTIONS_USAGE;
    return ECANCELED;
  case 'V':
    parse->options->mode = OPTIONS_VERSION;
    return ECANCELED;
  case ARGP_KEY_ERROR:
    parse->stumbled = stumbled_over(state);
    return 0;
  case ARGP_KEY_ARG:
    break;
  default:
    if (key > 0xFFFFFF) return ARGP_ERR_UNKNOWN; // argp's other events
  }
  parse->status = take(parse->options, key, value);
  return parse->status == STATUS_OK ? 0 : EINVAL;
}

static const struct argp PARSER = {
    .options = OPTIONS,
    .parser = parse_one,
    .args_doc = "CONFIG.ini",
    .doc = "Trains an image classifier as CONFIG.ini says; under mpirun or srun on many ranks.\v"
           "Every key can also be set by a variable IMGCLS_SECTION_KEY. The order is: command "
           "line, environment, file, default.\n\n"
           "Examples:\n"
           "  imgcls-train configs/quickstart.ini\n"
           "  mpirun -np 8 imgcls-train -s train.epochs=20 -o runs/long configs/effnet.ini\n\n"
           "Exit codes: 0 done, 64 usage, 65 bad data, 66 missing input, 75 stopped early and "
           "saved (start again to continue), 78 configuration; all in the manual.\n"
           "Manual: man imgcls-train, man imgcls-train.ini",
};

// What is wrong with an argument that argp refused.
static Status explain(const char *argument) {
  char name[64];
  size_t length = strcspn(argument, "=");
  if (strncmp(argument, "--", 2) != 0 || length >= sizeof name)
    return status_set(STATUS_USAGE,
                      "option '%s': unknown, or its value is missing; see imgcls-train --help",
                      argument);
  (void)snprintf(name, sizeof name, "%.*s", (int)length - 2, argument + 2);
  Nearest nearest = {.wanted = name};
  for (const struct argp_option *option = OPTIONS; option->name || option->doc; option++) {
    if (!option->name) continue;
    nearest_offer(&nearest, option->name);
    if (strcmp(option->name, name) != 0) continue;
    if (option->arg && !(option->flags & OPTION_ARG_OPTIONAL))
      return status_set(STATUS_USAGE, "option '--%s' needs a value: --%s=%s", name, name,
                        option->arg);
    return status_set(STATUS_USAGE, "option '--%s' takes no value", name);
  }
  static const char *const subcommands[] = {"eval", "predict", "bench", "models"};
  for (size_t i = 0; i < sizeof subcommands / sizeof *subcommands; i++)
    if (strcmp(name, subcommands[i]) == 0)
      return status_set(STATUS_USAGE, "unknown option '--%s'; it is a program of its own: imgcls %s",
                        name, name);
  if (nearest.best)
    return status_set(STATUS_USAGE, "unknown option '--%s'; did you mean '--%s'?", name,
                      nearest.best);
  return status_set(STATUS_USAGE, "unknown option '--%s'; see imgcls-train --help", name);
}

Status options_parse(Options *out, int argc, char **argv) {
  *out = (Options){.level = LOG_NORMAL};
  Parse parse = {.options = out};
  error_t error =
      argp_parse(&PARSER, argc, argv, ARGP_NO_EXIT | ARGP_NO_ERRS | ARGP_NO_HELP, NULL, &parse);
  if (error == ECANCELED) return STATUS_OK;
  if (parse.status != STATUS_OK) return parse.status;
  if (error == ENOMEM) return status_set(STATUS_OS, "out of memory for the command line");
  if (error != 0) return explain(parse.stumbled ? parse.stumbled : "");
  bool needs_config = out->mode != OPTIONS_CHECK && out->mode != OPTIONS_PRINT_CONFIG;
  if (needs_config && !out->config_path)
    return status_set(STATUS_USAGE, "no configuration: name an INI file, such as "
                                    "configs/quickstart.ini");
  return STATUS_OK;
}

void options_deinit(Options *options) {
  for (size_t i = 0; i < options->setting_count; i++) memory_free(options->settings[i]);
  memory_free(options->settings);
  *options = (Options){0};
}

static void print(FILE *stream, const char *program, unsigned flags) {
  char name[64]; // argp_help wants to be able to write to it
  (void)snprintf(name, sizeof name, "%s", program);
  argp_help(&PARSER, stream, flags, name);
}

void options_print_help(FILE *stream, const char *program) {
  print(stream, program, ARGP_HELP_LONG | ARGP_HELP_USAGE | ARGP_HELP_DOC);
}

void options_print_usage(FILE *stream, const char *program) {
  print(stream, program, ARGP_HELP_USAGE);
}
