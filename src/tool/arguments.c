// What the subcommands' command lines have in common. See arguments.h.
#include "tool/arguments.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/nearest.h"
#include "dist/binding.h"
#include "train/placement.h"

enum { MAX_THREADS = 4096 };

Status arguments_parse_count(int64_t *out, const char *option, const char *text, int64_t least,
                             int64_t most) {
  char *end;
  errno = 0;
  long long value = strtoll(text, &end, 10);
  if (!text[0] || *end || errno != 0 || value < least || value > most)
    return status_set(STATUS_USAGE, "%s %s: must be a whole number, %" PRId64 "..%" PRId64, option,
                      text, least, most);
  *out = value;
  return STATUS_OK;
}

error_t arguments_result(const ArgumentsParse *parse) {
  return parse->status == STATUS_OK ? 0 : EINVAL;
}

// --- the common options --------------------------------------------------------------------------

static const struct argp_option help_row[] = {{"help", 'h', NULL, 0, "Print this", -1}, {0}};
static const struct argp_option json_row[] = {
    {"json", 'j', NULL, 0, "Print JSON instead of text", 0}, {0}};
static const struct argp_option threads_row[] = {
    {"threads", 't', "N", 0, "Threads (all that the process may use)", 0}, {0}};

static const struct argp_option device_row[] = {
    {"device", 'd', "auto|cpu|cuda", 0, "What computes (auto: a GPU where there is one)", 0}, {0}};

static error_t parse_common(int key, char *text, struct argp_state *state) {
  ArgumentsParse *parse = state->input;
  switch (key) {
  case 't':
    parse->status =
        arguments_parse_count(&parse->common->threads, "--threads", text, 1, MAX_THREADS);
    break;
  case 'd':
    parse->status = placement_parse_device(&parse->common->device, text);
    break;
  case 'j':
    parse->common->json = true;
    break;
  case 'h':
    parse->common->help = true;
    break;
  default:
    return ARGP_ERR_UNKNOWN;
  }
  return arguments_result(parse);
}

static const struct argp help_argp = {.options = help_row, .parser = parse_common};
static const struct argp json_argp = {.options = json_row, .parser = parse_common};
static const struct argp threads_argp = {.options = threads_row, .parser = parse_common};
static const struct argp device_argp = {.options = device_row, .parser = parse_common};

enum { MAX_CHILDREN = 5 }; // with the end

// The subcommand's own parser; argp's children get their input from their parent.
static error_t parse_own(int key, char *text, struct argp_state *state) {
  ArgumentsParse *parse = state->input;
  if (key == ARGP_KEY_ERROR) parse->next = state->next;
  if (key != ARGP_KEY_INIT) return parse->desc->argp.parser(key, text, state);
  for (int i = 0; state->root_argp->children[i].argp; i++) state->child_inputs[i] = parse;
  return 0;
}

static struct argp whole_argp(const ArgumentsDesc *desc, struct argp_child *children) {
  struct argp whole = desc->argp;
  int count = 0;
  if (desc->takes_threads) children[count++].argp = &threads_argp;
  if (desc->takes_device) children[count++].argp = &device_argp;
  if (desc->takes_json) children[count++].argp = &json_argp;
  children[count].argp = &help_argp;
  whole.parser = parse_own;
  whole.children = children;
  return whole;
}

static void offer_names(Nearest *nearest, const struct argp *argp) {
  for (const struct argp_option *o = argp->options; o->name || o->doc; o++)
    if (o->name) nearest_offer(nearest, o->name);
}

static Status wrong_option(const struct argp *argp, const char *subcommand, const char *argument) {
  char name[64];
  (void)snprintf(name, sizeof name, "%.*s", (int)strcspn(argument, "="), argument);
  Nearest nearest = {.wanted = name + (strncmp(name, "--", 2) == 0 ? 2 : 0)};
  if (nearest.wanted != name) {
    offer_names(&nearest, argp);
    for (const struct argp_child *child = argp->children; child->argp; child++)
      offer_names(&nearest, child->argp);
  }
  // Known to the letter: its value is missing, or it takes none.
  if (!nearest.best || nearest.distance == 0)
    return status_set(STATUS_USAGE, "%s: wrong option %s: `imgcls %s --help` lists them",
                      subcommand, argument, subcommand);
  return status_set(STATUS_USAGE, "%s: unknown option %s; did you mean --%s?", subcommand, name,
                    nearest.best);
}

Status arguments_parse(CommonOptions *common, void *options, const ArgumentsDesc *desc, int argc,
                       char **argv) {
  ArgumentsParse parse = {.desc = desc, .common = common, .options = options};
  struct argp_child children[MAX_CHILDREN] = {0};
  const struct argp argp = whole_argp(desc, children);
  unsigned flags = ARGP_NO_ERRS | ARGP_NO_EXIT | ARGP_NO_HELP;
  error_t error = argp_parse(&argp, argc, argv, flags, NULL, &parse);
  if (parse.status != STATUS_OK) return parse.status;
  if (error != 0) {
    // A short option among others, as in -jx, is not passed before all of them are.
    int at = parse.next - 1;
    if (argv[at][0] != '-' && at + 1 < argc) at++;
    return wrong_option(&argp, desc->name, argv[at]);
  }
  if (common->help) {
    char program[64];
    (void)snprintf(program, sizeof program, "imgcls %s", desc->name);
    argp_help(&argp, stdout, ARGP_HELP_LONG | ARGP_HELP_USAGE | ARGP_HELP_DOC, program);
  }
  return STATUS_OK;
}

Status arguments_load_config(Config *out, const ConfigInput *input, World *world, Log *log) {
  ConfigProblems problems;
  Status status = config_load(out, &problems, input);
  if (world->rank == 0) config_problems_log(&problems, log);
  config_problems_deinit(&problems);
  return world_agree_status(world, status);
}

Status arguments_threads(int *out, const CommonOptions *common, Log *log) {
  Binding binding;
  TRY(binding_find(&binding, NULL, NULL));
  *out = common->threads > 0 ? (int)common->threads : binding.cores;
  if (log) binding_check_threads(&binding, *out, "--threads", log);
  return STATUS_OK;
}
