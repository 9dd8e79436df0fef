// INI syntax, read with libini_config. See internal.h.
//
// The library forgets everything it read when a line is wrong. So that all problems of a file come
// out at once, wrong lines are noted, blanked and the rest is read again. Keys and sections that
// stand twice are found here: with the library's own detection (1.3.1), ini_config_get_errors
// writes behind the end of its list.
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <ini_configobj.h>

#include "base/memory.h"
#include "config/internal.h"

// What we say for the library's numbers.
static const char *const SYNTAX[ERR_MAXPARSE + 1] = {
    [ERR_NOCLOSESEC] = "a section's line ends with ']': write [name], comments on their own line",
    [ERR_NOSECTION] = "the section has no name: write [name]",
    [ERR_NOEQUAL] = "no '=': write key = value, or # before a comment",
    [ERR_NOKEY] = "no key before '=': write key = value",
};

// The text with a NUL behind it, and where its lines begin.
typedef struct Lines {
  char *text;    // owned
  size_t size;   // without the NUL
  size_t *start; // owned; line i is start[i - 1]; start[count] is the end
  size_t start_capacity;
  int count;
} Lines;

static void lines_deinit(Lines *lines) {
  memory_free(lines->text);
  memory_free(lines->start);
  *lines = (Lines){0};
}

static Status lines_init(Lines *lines, const char *text, size_t size) {
  TRY(config__copy(&lines->text, text, size));
  lines->size = size;
  for (size_t at = 0; at < size;) {
    TRY(memory_reserve(&lines->start, &lines->start_capacity, (size_t)lines->count + 2,
                       sizeof *lines->start));
    lines->start[lines->count++] = at;
    const char *end = memchr(text + at, '\n', size - at);
    at = end ? (size_t)(end - text) + 1 : size;
    lines->start[lines->count] = at;
  }
  return STATUS_OK;
}

// The first byte of line `number` that is no blank.
static const char *line_text(const Lines *lines, int number) {
  const char *text = lines->text + lines->start[number - 1];
  return text + strspn(text, " \t\r");
}

static bool line_is_section(const Lines *lines, int number) {
  return line_text(lines, number)[0] == '[';
}

static bool line_is_empty(const Lines *lines, int number) {
  char first = line_text(lines, number)[0];
  return first == '\n' || first == '\0';
}

static void line_blank(Lines *lines, int number) {
  for (size_t i = lines->start[number - 1]; i < lines->start[number]; i++)
    if (lines->text[i] != '\n') lines->text[i] = ' ';
}

// Blanks a wrong line. The keys below a wrong section line belong to nothing we know.
static void line_drop(Lines *lines, int number) {
  bool section = line_is_section(lines, number);
  line_blank(lines, number);
  if (!section) return;
  for (int i = number + 1; i <= lines->count && !line_is_section(lines, i); i++)
    line_blank(lines, i);
}

static ConfigOrigin at_line(int line) {
  return (ConfigOrigin){CONFIG_FILE, line};
}

// What the library would take wrongly or slowly: refused beforehand. `*fit` says to go on.
static Status check_text(bool *fit, ConfigProblems *problems, const char *file, const char *text,
                         size_t size) {
  *fit = false;
  if (size > INI_MAX_BYTES)
    return config__problem_add(problems, file, at_line(0),
                               "longer than %d KiB: this is no configuration file",
                               INI_MAX_BYTES / 1024);
  int line = 1;
  for (size_t i = 0; i < size; i++) {
    if (text[i] == '\0')
      return config__problem_add(problems, file, at_line(line),
                                 "a NUL byte: save the file as plain UTF-8 text");
    line += text[i] == '\n';
  }
  if (line > INI_MAX_LINES)
    return config__problem_add(problems, file, at_line(0),
                               "more than %d lines: this is no configuration file", INI_MAX_LINES);
  *fit = size > 0; // the library takes no empty text
  return STATUS_OK;
}

// The library takes no section behind the byte order mark that editors on Windows write.
static size_t byte_order_mark(const char *text, size_t size) {
  return size >= 3 && memcmp(text, "\xEF\xBB\xBF", 3) == 0 ? 3 : 0;
}

// Blanks all comments: the library takes none behind blanks.
static void drop_comments(Lines *lines) {
  for (int i = 1; i <= lines->count; i++)
    if (line_text(lines, i)[0] == '#' || line_text(lines, i)[0] == ';') line_blank(lines, i);
}

// Brings sections to the start of their lines: the library takes none behind blanks.
static void align_sections(Lines *lines) {
  for (int i = 1; i <= lines->count; i++) {
    if (!line_is_section(lines, i)) continue;
    const char *section = line_text(lines, i);
    char *start = lines->text + lines->start[i - 1];
    size_t blanks = (size_t)(section - start), length = strcspn(section, "\r\n");
    memmove(start, section, length);
    memset(start + length, ' ', blanks);
  }
}

// Keys above the first section would be dropped in silence.
static Status drop_keys_before_sections(Lines *lines, ConfigProblems *problems, const char *file) {
  for (int i = 1; i <= lines->count && !line_is_section(lines, i); i++) {
    if (line_is_empty(lines, i)) continue;
    TRY(config__problem_add(problems, file, at_line(i),
                            "before the first section: write [section] above it"));
    line_blank(lines, i);
  }
  return STATUS_OK;
}

// Notes the library's errors and blanks their lines. `*dropped` counts lines after which the text
// has to be read again.
static Status take_errors(int *dropped, Lines *lines, ConfigProblems *problems, const char *file,
                          struct ini_cfgobj *parsed) {
  char **errors = NULL;
  *dropped = 0;
  if (ini_config_error_count(parsed) == 0) return STATUS_OK;
  if (ini_config_get_errors(parsed, &errors) != 0 || !errors)
    return status_set(STATUS_OS, "out of memory for the errors of %s", file);
  Status status = STATUS_OK;
  for (char **error = errors; *error; error++) {
    int code = 0, line = 0;
    int found = sscanf(*error, "%*[^(](%d) on line %d", &code, &line);
    if (found != 2 || line < 1 || line > lines->count) {
      GUARD(config__problem_add(problems, file, at_line(0), "%s", *error));
      continue;
    }
    const char *text = code > 0 && code <= ERR_MAXPARSE ? SYNTAX[code] : NULL;
    char clipped[CLIP_CAPACITY], own[CLIP_CAPACITY];
    (void)snprintf(own, sizeof own, "%.*s", (int)strcspn(line_text(lines, line), "\r\n"),
                   line_text(lines, line));
    GUARD(config__problem_add(problems, file, at_line(line), "'%s': %s", config__clip(clipped, own),
                              text ? text : *error));
    line_drop(lines, line);
    ++*dropped;
  }
out:
  ini_config_free_errors(errors);
  return status;
}

// Stores a fresh object in `*out` with what the library makes of the text.
static Status parse_once(struct ini_cfgobj **out, const Lines *lines, const char *file,
                         bool *is_utf8) {
  struct ini_cfgfile *source = NULL;
  *is_utf8 = true;
  if (ini_config_create(out) != 0)
    return status_set(STATUS_OS, "out of memory while reading %s", file);
  int error = ini_config_file_from_mem(lines->text, (uint32_t)lines->size, &source);
  if (error == EILSEQ || error == EINVAL) {
    *is_utf8 = false;
    return STATUS_OK;
  }
  if (error != 0) return status_set(STATUS_OS, "cannot read %s: %s", file, strerror(error));
  // The result only repeats that there are errors, which are asked for one by one.
  (void)ini_config_parse(source, INI_STOP_ON_NONE, INI_MV1S_ALLOW | INI_MV2S_ALLOW | INI_MS_MERGE,
                         INI_PARSE_NOWRAP | INI_PARSE_NO_C_COMMENTS, *out);
  ini_config_file_destroy(source);
  return STATUS_OK;
}

// The value without quotes and without a comment behind it. A comment begins with # or ; after a
// blank. In "quotes" everything stands for itself but \" and \\. Changes `text`; NULL where a quote
// is not closed or something follows it.
static char *plain_value(char *text) {
  if (text[0] != '"') {
    size_t length = 0;
    for (char before = ' '; text[length]; before = text[length++])
      if ((text[length] == '#' || text[length] == ';') && isspace((unsigned char)before)) break;
    text[length] = '\0';
    while (length > 0 && isspace((unsigned char)text[length - 1])) text[--length] = '\0';
    return text;
  }
  char *to = text, *from = text + 1;
  for (; *from && *from != '"'; from++) {
    if (*from == '\\' && (from[1] == '"' || from[1] == '\\')) from++;
    *to++ = *from;
  }
  if (*from != '"') return NULL;
  const char *rest = from + 1;
  rest += strspn(rest, " \t\r");
  if (*rest && *rest != '#' && *rest != ';') return NULL;
  *to = '\0';
  return text;
}

// Reads the library's value into an entry of `section` and `name`; `*good` says whether its quotes
// are right, otherwise a problem is added. The entry is owned by the caller.
static Status read_entry(IniEntry *entry, bool *good, ConfigProblems *problems, const char *file,
                         struct value_obj *value) {
  int error = 0;
  uint32_t line = 0;
  const char *text = ini_get_const_string_config_value(value, &error);
  if (error != 0 || !text || value_get_line(value, &line) != 0)
    return status_set(STATUS_OS, "cannot read [%s] %s of %s", entry->section, entry->name, file);
  entry->line = (int)line;
  TRY(memory_copy_string(&entry->value, text));
  *good = plain_value(entry->value) != NULL;
  if (*good) return STATUS_OK;
  char clipped[CLIP_CAPACITY];
  return config__problem_add(problems, file, at_line(entry->line),
                             "[%s] %s = %s: write \"...\" with a quote at the end, \\\" for a "
                             "quote inside",
                             entry->section, entry->name, config__clip(clipped, text));
}

static void entry_deinit(IniEntry *entry) {
  memory_free(entry->section);
  memory_free(entry->name);
  memory_free(entry->value);
  *entry = (IniEntry){0};
}

static Status take_entry(Ini *out, ConfigProblems *problems, const char *file, const char *section,
                         const char *name, struct value_obj *value) {
  TRY(memory_reserve(&out->entries, &out->entry_capacity, out->entry_count + 1,
                     sizeof *out->entries));
  IniEntry *entry = &out->entries[out->entry_count];
  bool good = false;
  Status status = memory_copy_string(&entry->section, section);
  if (status == STATUS_OK) status = memory_copy_string(&entry->name, name);
  if (status == STATUS_OK) status = read_entry(entry, &good, problems, file, value);
  if (status == STATUS_OK && good)
    out->entry_count++;
  else
    entry_deinit(entry);
  return status;
}

// Takes the first value of a key; a second one is a problem.
static Status take_key(Ini *out, ConfigProblems *problems, const char *file, const char *section,
                       const char *name, struct ini_cfgobj *parsed) {
  struct value_obj *value = NULL;
  for (int mode = INI_GET_FIRST_VALUE;; mode = INI_GET_NEXT_VALUE) {
    if (ini_get_config_valueobj(section, name, parsed, mode, &value) != 0)
      return status_set(STATUS_OS, "cannot read [%s] %s of %s", section, name, file);
    if (!value) return STATUS_OK;
    if (mode == INI_GET_FIRST_VALUE) {
      TRY(take_entry(out, problems, file, section, name, value));
      continue;
    }
    uint32_t line = 0;
    char clipped_section[CLIP_CAPACITY], clipped[CLIP_CAPACITY];
    (void)value_get_line(value, &line);
    TRY(config__problem_add(problems, file, at_line((int)line), "[%s] %s stands twice: keep one",
                            config__clip(clipped_section, section), config__clip(clipped, name)));
  }
}

static int compare_names(const void *a, const void *b) {
  return strcasecmp(*(char *const *)a, *(char *const *)b);
}

static Status take_section(Ini *out, ConfigProblems *problems, const char *file,
                           const char *section, struct ini_cfgobj *parsed) {
  int count = 0, error = 0;
  char **names = ini_get_attribute_list(parsed, section, &count, &error);
  if (!names) return status_set(STATUS_OS, "cannot list [%s] of %s", section, file);
  Status status = STATUS_OK;
  // The list names a key as often as it stands, in any case of letters.
  qsort(names, (size_t)count, sizeof *names, compare_names);
  for (int i = 0; i < count; i++)
    if (i == 0 || strcasecmp(names[i], names[i - 1]) != 0)
      GUARD(take_key(out, problems, file, section, names[i], parsed));
out:
  ini_free_attribute_list(names);
  return status;
}

static Status take_all(Ini *out, ConfigProblems *problems, const char *file,
                       struct ini_cfgobj *parsed) {
  int count = 0, error = 0;
  char **names = ini_get_section_list(parsed, &count, &error);
  if (!names) return status_set(STATUS_OS, "cannot list the sections of %s", file);
  Status status = STATUS_OK;
  for (int i = 0; i < count; i++) GUARD(take_section(out, problems, file, names[i], parsed));
out:
  ini_free_section_list(names);
  return status;
}

// The library does not say on which lines sections are, and joins those that stand twice.
static Status take_section_lines(Ini *out, ConfigProblems *problems, const char *file,
                                 const Lines *lines) {
  for (int i = 1; i <= lines->count; i++) {
    if (!line_is_section(lines, i)) continue;
    const char *name = line_text(lines, i) + 1;
    name += strspn(name, " \t");
    size_t length = strcspn(name, "]\n");
    while (length > 0 && isspace((unsigned char)name[length - 1])) length--;
    TRY(memory_reserve(&out->sections, &out->section_capacity, out->section_count + 1,
                       sizeof *out->sections));
    IniSection *section = &out->sections[out->section_count];
    section->line = i;
    TRY(config__copy(&section->name, name, length));
    out->section_count++;
    for (size_t j = 0; j + 1 < out->section_count; j++) {
      if (strcasecmp(out->sections[j].name, section->name) != 0) continue;
      char clipped[CLIP_CAPACITY];
      TRY(config__problem_add(problems, file, at_line(i),
                              "[%s] stands twice, first on line %d: join the two",
                              config__clip(clipped, section->name), out->sections[j].line));
      break;
    }
  }
  return STATUS_OK;
}

Status config__ini_parse(Ini *out, ConfigProblems *problems, const char *file, const char *text,
                         size_t size_bytes) {
  *out = (Ini){0};
  bool fit;
  size_t mark = byte_order_mark(text, size_bytes);
  text += mark;
  size_bytes -= mark;
  TRY(check_text(&fit, problems, file, text, size_bytes));
  if (!fit) return STATUS_OK;
  Status status = STATUS_OK;
  Lines lines = {0};
  struct ini_cfgobj *parsed = NULL;
  GUARD(lines_init(&lines, text, size_bytes));
  drop_comments(&lines);
  align_sections(&lines);
  GUARD(drop_keys_before_sections(&lines, problems, file));
  for (int dropped = 1, round = 0; dropped > 0 && round < 2; round++) {
    bool is_utf8;
    if (parsed) ini_config_destroy(parsed);
    parsed = NULL;
    GUARD(parse_once(&parsed, &lines, file, &is_utf8));
    if (!is_utf8) {
      GUARD(config__problem_add(problems, file, at_line(0),
                                "not UTF-8 text: save the file as plain UTF-8"));
      goto out;
    }
    GUARD(take_errors(&dropped, &lines, problems, file, parsed));
  }
  GUARD(take_section_lines(out, problems, file, &lines));
  GUARD(take_all(out, problems, file, parsed));
out:
  if (parsed) ini_config_destroy(parsed);
  lines_deinit(&lines);
  return status;
}

void config__ini_deinit(Ini *ini) {
  for (size_t i = 0; i < ini->entry_count; i++) entry_deinit(&ini->entries[i]);
  for (size_t i = 0; i < ini->section_count; i++) memory_free(ini->sections[i].name);
  memory_free(ini->entries);
  memory_free(ini->sections);
  *ini = (Ini){0};
}
