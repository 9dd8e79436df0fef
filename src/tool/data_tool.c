// `imgcls data scan|pack|import-idx`: looks at a dataset, packs it, makes one. Run by main_tool.c.
// This file reads the command lines; each subcommand has its own for the rest.
#include "tool/data_tool.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "tool/tool.h"

enum { MAX_SIZE = 4096 };

// --- options, of all subcommands -----------------------------------------------------------------

enum { KEY_CLASS_NAMES = 'n', KEY_SIZE = 's', KEY_QUICK = 'q', KEY_ENCODED = 256 };
enum { KEY_FOLLOW_SYMLINKS = KEY_ENCODED + 1, KEY_MAX_BAD };

#define ROW_CLASSES                                                                                \
  {                                                                                                \
    "class-names", KEY_CLASS_NAMES, "A,B,...", 0,                                                  \
        "The classes to take, in the order of their labels", 0                                     \
  }
#define ROW_SYMLINKS                                                                               \
  { "follow-symlinks", KEY_FOLLOW_SYMLINKS, NULL, 0, "Read links to files and folders", 0 }

static const struct argp_option scan_options[] = {
    ROW_CLASSES,
    ROW_SYMLINKS,
    {"quick", KEY_QUICK, NULL, 0, "List files only, open none", 0},
    {0},
};

static const struct argp_option pack_options[] = {
    ROW_CLASSES,
    ROW_SYMLINKS,
    {"encoded", KEY_ENCODED, NULL, 0, "Keep the bytes of the image files", 0},
    {"max-bad", KEY_MAX_BAD, "F", 0, "Fraction of bad images that may be left out (0.01)", 0},
    {"size", KEY_SIZE, "N", 0, "Bring all images to N x N pixels", 0},
    {0},
};

static const struct argp_option import_options[] = {
    {"class-names", KEY_CLASS_NAMES, "A,B,...", 0,
     "The names of label 0, 1, ... (the label itself)", 0},
    {0},
};

static Status parse_fraction(double *out, const char *option, const char *text) {
  char *end;
  *out = strtod(text, &end);
  if (!*text || *end || !(*out >= 0 && *out <= 1))
    return status_set(STATUS_USAGE, "%s %s: must be a number, 0..1", option, text);
  return STATUS_OK;
}

static error_t parse_option(int key, char *text, struct argp_state *state) {
  ArgumentsParse *parse = state->input;
  DataOptions *options = parse->options;
  switch (key) {
  case KEY_CLASS_NAMES:
    options->class_names = text;
    break;
  case KEY_FOLLOW_SYMLINKS:
    options->follow_symlinks = true;
    break;
  case KEY_QUICK:
    options->quick = true;
    break;
  case KEY_ENCODED:
    options->encoded = true;
    break;
  case KEY_MAX_BAD:
    parse->status = parse_fraction(&options->max_bad, "--max-bad", text);
    break;
  case KEY_SIZE:
    parse->status = arguments_parse_count(&options->size, "--size", text, 1, MAX_SIZE);
    break;
  case ARGP_KEY_ARG:
    if (options->operand_count < DATA_MAX_OPERANDS)
      options->operands[options->operand_count] = text;
    options->operand_count++;
    break;
  default:
    return ARGP_ERR_UNKNOWN;
  }
  return arguments_result(parse);
}

// --- subcommands ---------------------------------------------------------------------------------

static const struct {
  const char *name, *summary;
  int operand_count;
  ArgumentsDesc arguments;
  Status (*run)(const DataOptions *options, Log *log);
} SUBCOMMANDS[] = {
    {.name = "scan",
     .summary = "classes, images, sizes and broken files",
     .operand_count = 1,
     .arguments =
         {.name = "data scan",
          .takes_threads = true,
          .takes_json = true,
          .argp = {.options = scan_options,
                   .parser = parse_option,
                   .args_doc = "DIR",
                   .doc = "Tells classes, images, sizes and broken files of DIR, a folder with one "
                          "folder per class or a packed file. Decodes every image.\v"
                          "Broken images are what it is there to name: the exit status is 65 only "
                          "where no image can be read."}},
     .run = data_scan},
    {.name = "pack",
     .summary = "all images in one file",
     .operand_count = 2,
     .arguments =
         {.name = "data pack",
          .takes_threads = true,
          .argp = {.options = pack_options,
                   .parser = parse_option,
                   .args_doc = "DIR FILE",
                   .doc = "Writes all images of DIR into FILE, which [data] dir takes in place of "
                          "the folder: as pixels of their own size, of N x N (--size, decoded by "
                          "many threads), or as they are (--encoded)."}},
     .run = data_pack},
    {.name = "import-idx",
     .summary = "a folder of images from the files of MNIST and its kin",
     .operand_count = 3,
     .arguments = {.name = "data import-idx",
                   .argp = {.options = import_options,
                            .parser = parse_option,
                            .args_doc = "IMAGES LABELS DIR",
                            .doc =
                                "Turns the IDX files of MNIST and its kin, also .gz, into DIR, a "
                                "folder of PNG files per class."}},
     .run = data_import_idx},
};

enum { SUBCOMMAND_COUNT = sizeof SUBCOMMANDS / sizeof *SUBCOMMANDS };

Status data_split_names(char ***out, int64_t *count, const char *text) {
  *count = 1;
  for (const char *c = text; *c; c++) *count += *c == ',';
  size_t table = (size_t)*count * sizeof **out, size = strlen(text) + 1;
  TRY(memory_alloc(out, table + size, 1));
  char *names = (char *)*out + table;
  memcpy(names, text, size);
  for (int64_t i = 0; i < *count; i++) (*out)[i] = strsep(&names, ",");
  return STATUS_OK;
}

static Status print_help(void) {
  (void)puts("Usage: imgcls data SUBCOMMAND ...\n"
             "Looks at a folder with one folder of images per class, packs it into one file, or "
             "makes one.\n");
  for (int i = 0; i < SUBCOMMAND_COUNT; i++)
    (void)printf("  %-11s %-18s %s\n", SUBCOMMANDS[i].name, SUBCOMMANDS[i].arguments.argp.args_doc,
                 SUBCOMMANDS[i].summary);
  (void)puts("\n`imgcls data SUBCOMMAND --help` lists its options.");
  return STATUS_OK;
}

Status tool_data(int argc, char **argv, Log *log) {
  if (argc > 1 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0))
    return print_help();
  int row = 0;
  while (row < SUBCOMMAND_COUNT && (argc < 2 || strcmp(SUBCOMMANDS[row].name, argv[1]) != 0)) row++;
  if (row == SUBCOMMAND_COUNT)
    return status_set(STATUS_USAGE, "data: say what to do: scan, pack or import-idx; "
                                    "`imgcls data --help` explains them");
  const ArgumentsDesc *arguments = &SUBCOMMANDS[row].arguments;
  DataOptions options = {.max_bad = 0.01};
  TRY(arguments_parse(&options.common, &options, arguments, argc - 1, argv + 1));
  if (options.common.help) return STATUS_OK;
  if (options.operand_count != SUBCOMMANDS[row].operand_count)
    return status_set(STATUS_USAGE, "%s: write `imgcls %s %s`, not %d operand%s", arguments->name,
                      arguments->name, arguments->argp.args_doc, options.operand_count,
                      options.operand_count == 1 ? "" : "s");
  return SUBCOMMANDS[row].run(&options, log);
}
