// Writes docs/config.md or docs/imgcls-train.ini.5 from the table of keys to standard output.
// `cmake --build build/cpu --target config_docs` puts both in place; a test fails when they are
// stale.
#include <stdio.h>
#include <string.h>

#include "config/keys.h"

static const char *const INTRODUCTION[] = {
    "A run is described by an INI file: sections in brackets, below each its keys as `key = "
    "value`, "
    "one a line. Every key but `[data] dir` has a default. A line that begins with # or ; is a "
    "comment, and so is the rest of a line after a blank and # or ;. A value may stand in double "
    "quotes, in which \\\" is a quote and \\\\ a backslash; a value that begins or ends with a "
    "blank or contains \" #\" needs them. The file is UTF-8.",
    "A key can also be set by an environment variable, IMGCLS_SECTION_KEY in capitals, such as "
    "IMGCLS_TRAIN_BATCH=32, and on the command line, such as -s train.batch=32. The command line "
    "wins over the environment, the environment over the file, the file over the default; "
    "`imgcls-train --print-config FILE.ini` shows every value and where it came from, and each run "
    "keeps that text as config.resolved.ini. Under mpirun or srun the file and the environment of "
    "rank 0 count.",
    "Unknown sections, keys and variables, keys that stand twice and values out of range are "
    "errors. All of them are reported at once, with their lines, and the program ends with exit "
    "code 78.",
    "Relative paths are relative to the current directory, not to the INI file.",
    "Keys marked * determine the numbers that a run computes; the configuration's hash, printed "
    "at the start of a run, covers these.",
};
enum { INTRODUCTION_COUNT = sizeof INTRODUCTION / sizeof *INTRODUCTION };

// "1..1048576", "graph or 0..1", "yes or no", "one of ...".
static void print_allowed(const ConfigKey *key, const char *choice_separator) {
  static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  if (key->word) printf("%s or ", key->word);
  switch (key->type) {
  case KEY_BOOL:
    printf("yes or no");
    return;
  case KEY_STRING:
    printf("text");
    return;
  case KEY_STRINGS:
    printf("names, separated by commas");
    return;
  case KEY_CHOICE:
    for (int i = 0; key->choices[i]; i++)
      printf("%s%s", i > 0 ? choice_separator : "", key->choices[i]);
    return;
  case KEY_BYTES:
    for (int end = 0; end < 2; end++) {
      double size = end == 0 ? key->min : key->max;
      int unit = 0;
      for (; size >= 1024; unit++) size /= 1024;
      printf("%s%g %s", end > 0 ? " to " : "", size, units[unit]);
    }
    return;
  case KEY_RANGE:
    printf("f or low,high, ");
    break;
  case KEY_NUMBERS:
    printf("numbers separated by commas, ");
    break;
  case KEY_INT:
  case KEY_REAL:
    break;
  }
  printf("%.15g..%.15g", key->min, key->max);
}

static const char *default_text(const ConfigKey *key) {
  if (key->flags & KEY_REQUIRED) return "required";
  return key->fallback[0] ? key->fallback : "empty";
}

static void write_markdown(void) {
  size_t key_count, section_count;
  const ConfigKey *keys = config_keys(&key_count);
  const ConfigSection *sections = config_sections(&section_count);
  printf(
      "# Configuration\n\n"
      "<!-- Generated from src/config/keys.c: cmake --build build/cpu --target config_docs -->\n");
  for (int i = 0; i < INTRODUCTION_COUNT; i++) printf("\n%s\n", INTRODUCTION[i]);
  for (size_t s = 0; s < section_count; s++) {
    printf("\n## [%s]\n\n%s\n\n| key | default | allowed | meaning |\n|---|---|---|---|\n",
           sections[s].name, sections[s].help);
    for (size_t i = 0; i < key_count; i++) {
      if (strcmp(keys[i].section, sections[s].name) != 0) continue;
      printf("| `%s`%s | %s | ", keys[i].name, keys[i].flags & KEY_HASHED ? " *" : "",
             default_text(&keys[i]));
      print_allowed(&keys[i], ", ");
      printf(" | %s |\n", keys[i].help);
    }
  }
}

// Text for roff: a line never begins with a control character, hyphens stay hyphens.
static void print_roff(const char *text) {
  for (; *text; text++) {
    if (*text == '-')
      printf("\\-");
    else if (*text == '\\')
      printf("\\e");
    else if (*text == '\'')
      printf("\\(aq");
    else if (*text == '`')
      continue; // code is not marked here
    else
      putchar(*text);
  }
  putchar('\n');
}

static void write_man(void) {
  size_t key_count, section_count;
  const ConfigKey *keys = config_keys(&key_count);
  const ConfigSection *sections = config_sections(&section_count);
  printf(".\\\" Generated from src/config/keys.c: cmake --build build/cpu --target config_docs\n"
         ".TH IMGCLS\\-TRAIN.INI 5 \"\" \"imgcls\" \"File formats\"\n"
         ".SH NAME\nimgcls\\-train.ini \\- configuration of imgcls\\-train\n"
         ".SH DESCRIPTION\n");
  for (int i = 0; i < INTRODUCTION_COUNT; i++) {
    if (i > 0) printf(".PP\n");
    print_roff(INTRODUCTION[i]);
  }
  for (size_t s = 0; s < section_count; s++) {
    printf(".SH \"[%s]\"\n", sections[s].name);
    print_roff(sections[s].help);
    for (size_t i = 0; i < key_count; i++) {
      if (strcmp(keys[i].section, sections[s].name) != 0) continue;
      printf(".TP\n.B %s%s\n", keys[i].name, keys[i].flags & KEY_HASHED ? " *" : "");
      print_roff(keys[i].help);
      printf(".br\nDefault: ");
      print_roff(default_text(&keys[i]));
      printf(".br\nAllowed: ");
      print_allowed(&keys[i], ", ");
      printf("\n");
    }
  }
  printf(".SH SEE ALSO\n.BR imgcls\\-train (1),\n.BR imgcls (1)\n");
}

int main(int argc, char **argv) {
  if (argc == 2 && strcmp(argv[1], "markdown") == 0)
    write_markdown();
  else if (argc == 2 && strcmp(argv[1], "man") == 0)
    write_man();
  else {
    fprintf(stderr, "usage: write_config_docs markdown|man\n");
    return 64;
  }
  return fflush(stdout) == 0 ? 0 : 74;
}
