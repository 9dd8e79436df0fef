// Shared inside config/: problems, values as text, the reader of INI syntax.
#ifndef IMGCLS_CONFIG_INTERNAL_H
#define IMGCLS_CONFIG_INTERNAL_H

#include "config/config.h"
#include "config/keys.h"

// --- problems.c ----------------------------------------------------------------------------------

struct ConfigProblem {
  char *text;
  ConfigSource source;
  int line;     // of the file, 0 elsewhere
  size_t order; // of discovery, to keep a sort stable
};

// Adds "PLACE: text", PLACE being file:line, the command line or `file`. `origin` is borrowed.
MUST_CHECK Status config__problem_add(ConfigProblems *problems, const char *file,
                                      ConfigOrigin origin, const char *format, ...)
    PRINTF_LIKE(4, 5);

// Sorts by source and line and turns them into a Status: STATUS_OK where there are none.
MUST_CHECK Status config__problems_finish(ConfigProblems *problems, const char *file);

// `text` fit for a message: at most 60 bytes, control characters as '?'. Returns `out`.
enum { CLIP_CAPACITY = 64 };
const char *config__clip(char out[CLIP_CAPACITY], const char *text);

// --- value.c -------------------------------------------------------------------------------------

// Parses `text` into the key's field, freeing what it held. STATUS_CONFIG with
// "[section] name = text: must be ..." where the text is not allowed; the field is unchanged then.
MUST_CHECK Status config__value_parse(Config *config, const ConfigKey *key, const char *text);

// The value in its one canonical form: parses to the same value. Owned by the caller.
MUST_CHECK Status config__value_format(char **out, const Config *config, const ConfigKey *key);

void config__value_free(Config *config, const ConfigKey *key);

// The least text that "%.*g" reads back to the same double; 32 bytes are enough. Returns `out`.
enum { NUMBER_CAPACITY = 32 };
const char *config__format_number(char out[NUMBER_CAPACITY], double number);

// Copies `length` bytes of `text` and a NUL.
MUST_CHECK Status config__copy(char **out, const char *text, size_t length);

// --- ini.c ---------------------------------------------------------------------------------------

typedef struct IniEntry {
  char *section, *name, *value; // owned
  int line;
} IniEntry;

typedef struct IniSection {
  char *name; // owned
  int line;
} IniSection;

typedef struct Ini {
  IniEntry *entries;
  size_t entry_count, entry_capacity;
  IniSection *sections;
  size_t section_count, section_capacity;
} Ini;

enum { INI_MAX_BYTES = 1 << 20, INI_MAX_LINES = 10000 };

// Reads INI syntax. Everything wrong becomes a problem of `file` with its line, the rest is still
// read. `out` is owned by the caller, also after a failure.
MUST_CHECK Status config__ini_parse(Ini *out, ConfigProblems *problems, const char *file,
                                    const char *text, size_t size_bytes);
void config__ini_deinit(Ini *ini);

// --- check.c -------------------------------------------------------------------------------------

// Adds the problems of values that are right alone and wrong together.
MUST_CHECK Status config__check(const Config *config, ConfigProblems *problems);

#endif
