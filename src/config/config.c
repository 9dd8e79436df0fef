// From the sources to a checked Config: defaults, then the file, the environment and the command
// line, each over the one before. See config.h.
#include "config/config.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/memory.h"
#include "config/internal.h"
#include "config/nearest.h"

// Names that begin as our keys do and are read elsewhere.
static const char *const OTHER_VARIABLES[] = {
    "IMGCLS_CPU_ISA",   // backend/cpu: the most of the instruction set
    "IMGCLS_TEST_HOLD", // tests: where a save waits to be killed
};
static const char VARIABLE_PREFIX[] = "IMGCLS_";
enum { VARIABLE_CAPACITY = 64 };

// --- life ----------------------------------------------------------------------------------------

Status config_init(Config *out) {
  *out = (Config){0};
  size_t count;
  const ConfigKey *keys = config_keys(&count);
  Status status = STATUS_OK;
  GUARD(memory_copy_string(&out->file, ""));
  GUARD(memory_alloc(&out->origins, count, sizeof *out->origins));
  for (size_t i = 0; i < count; i++) GUARD(config__value_parse(out, &keys[i], keys[i].fallback));
  return STATUS_OK;
out:
  config_deinit(out);
  // A default that does not parse is a mistake in the table.
  return status == STATUS_CONFIG ? status_prepend(STATUS_INTERNAL, "default") : status;
}

void config_deinit(Config *config) {
  size_t count;
  const ConfigKey *keys = config_keys(&count);
  for (size_t i = 0; i < count; i++) config__value_free(config, &keys[i]);
  memory_free(config->origins);
  memory_free(config->file);
  *config = (Config){0};
}

// --- one value -----------------------------------------------------------------------------------

// Parses the text into the key's field; a text that is not allowed becomes a problem. `prefix` goes
// before it ("" or "NAME: ").
static Status assign(Config *config, ConfigProblems *problems, const ConfigKey *key,
                     const char *text, ConfigOrigin origin, const char *prefix) {
  size_t count;
  Status status = config__value_parse(config, key, text);
  if (status == STATUS_CONFIG)
    return config__problem_add(problems, config->file, origin, "%s%s", prefix, status_message());
  if (status == STATUS_OK) config->origins[key - config_keys(&count)] = origin;
  return status;
}

// What may have been meant instead of an unknown key: the same name in another section, or a
// similar name in this one. Puts "; did you mean ...?" in `out`.
enum { HINT_CAPACITY = 160 };
static const char *key_hint(char out[HINT_CAPACITY], const char *section, const char *name) {
  size_t count;
  const ConfigKey *keys = config_keys(&count);
  Nearest nearest = {.wanted = name};
  out[0] = '\0';
  for (size_t i = 0; i < count; i++)
    if (strcmp(keys[i].section, section) == 0) nearest_offer(&nearest, keys[i].name);
  for (size_t i = 0; i < count; i++) {
    if (strcmp(keys[i].name, name) != 0) continue;
    (void)snprintf(out, HINT_CAPACITY, "; it belongs to [%s]", keys[i].section);
    return out;
  }
  if (nearest.best) (void)snprintf(out, HINT_CAPACITY, "; did you mean %s?", nearest.best);
  return out;
}

static const char *section_hint(char out[HINT_CAPACITY], const char *section) {
  size_t count;
  const ConfigSection *sections = config_sections(&count);
  Nearest nearest = {.wanted = section};
  for (size_t i = 0; i < count; i++) nearest_offer(&nearest, sections[i].name);
  out[0] = '\0';
  if (nearest.best) {
    (void)snprintf(out, HINT_CAPACITY, "; did you mean [%s]?", nearest.best);
    return out;
  }
  (void)strcpy(out, "; there are");
  for (size_t i = 0; i < count; i++) {
    size_t used = strlen(out);
    (void)snprintf(out + used, HINT_CAPACITY - used, " [%s]", sections[i].name);
  }
  return out;
}

static bool is_section(const char *name) {
  size_t count;
  const ConfigSection *sections = config_sections(&count);
  for (size_t i = 0; i < count; i++)
    if (strcmp(sections[i].name, name) == 0) return true;
  return false;
}

// --- the file ------------------------------------------------------------------------------------

static Status apply_ini(Config *config, ConfigProblems *problems, const Ini *ini) {
  char hint[HINT_CAPACITY], section[CLIP_CAPACITY], name[CLIP_CAPACITY];
  for (size_t i = 0; i < ini->section_count; i++) {
    const IniSection *found = &ini->sections[i];
    if (is_section(found->name)) continue;
    TRY(config__problem_add(problems, config->file, (ConfigOrigin){CONFIG_FILE, found->line},
                            "unknown section [%s]%s", config__clip(section, found->name),
                            section_hint(hint, found->name)));
  }
  for (size_t i = 0; i < ini->entry_count; i++) {
    const IniEntry *entry = &ini->entries[i];
    ConfigOrigin origin = {CONFIG_FILE, entry->line};
    if (!is_section(entry->section)) continue;
    const ConfigKey *key = config_key_find(entry->section, entry->name);
    if (key)
      TRY(assign(config, problems, key, entry->value, origin, ""));
    else
      TRY(config__problem_add(problems, config->file, origin, "unknown key [%s] %s%s",
                              config__clip(section, entry->section),
                              config__clip(name, entry->name),
                              key_hint(hint, entry->section, entry->name)));
  }
  return STATUS_OK;
}

static Status apply_text(Config *config, ConfigProblems *problems, const char *text,
                         size_t size_bytes) {
  Ini ini;
  Status status = config__ini_parse(&ini, problems, config->file, text, size_bytes);
  if (status == STATUS_OK) status = apply_ini(config, problems, &ini);
  config__ini_deinit(&ini);
  return status;
}

// Reads at most one byte more than a configuration may have, so that the parser sees that it is too
// long. Never waits on a pipe or a device.
static Status read_file(char **out, size_t *size, const char *path) {
  Status status = STATUS_OK;
  struct stat info;
  *out = NULL;
  *size = 0;
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return status_set_errno(STATUS_IO, "cannot open the configuration %s", path);
  if (fstat(fd, &info) != 0)
    GUARD(status_set_errno(STATUS_IO, "cannot look at the configuration %s", path));
  if (!S_ISREG(info.st_mode))
    GUARD(status_set(STATUS_NO_INPUT, "%s is %s; name an INI file", path,
                     S_ISDIR(info.st_mode) ? "a folder" : "no regular file"));
  GUARD(memory_alloc(out, INI_MAX_BYTES + 1, 1));
  while (*size < INI_MAX_BYTES + 1) {
    ssize_t got = read(fd, *out + *size, INI_MAX_BYTES + 1 - *size);
    if (got == 0) break;
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) GUARD(status_set_errno(STATUS_IO, "cannot read the configuration %s", path));
    *size += (size_t)got;
  }
out:
  (void)close(fd);
  return status;
}

static Status apply_file(Config *config, ConfigProblems *problems, const char *path) {
  char *text = NULL;
  size_t size = 0;
  memory_free(config->file);
  config->file = NULL;
  Status status = memory_copy_string(&config->file, path);
  if (status == STATUS_OK) status = read_file(&text, &size, path);
  if (status == STATUS_OK) status = apply_text(config, problems, text, size);
  memory_free(text);
  return status;
}

// --- the environment -----------------------------------------------------------------------------

static void variable_name(char out[VARIABLE_CAPACITY], const ConfigKey *key) {
  (void)snprintf(out, VARIABLE_CAPACITY, "%s%s_%s", VARIABLE_PREFIX, key->section, key->name);
  for (char *c = out; *c; c++) *c = (char)toupper((unsigned char)*c);
}

static Status apply_variable(Config *config, ConfigProblems *problems, const char *variable) {
  char name[VARIABLE_CAPACITY], known[VARIABLE_CAPACITY], prefix[VARIABLE_CAPACITY + 4];
  const ConfigOrigin origin = {.source = CONFIG_ENVIRONMENT};
  const char *equals = strchr(variable, '=');
  if (!equals) return STATUS_OK;
  (void)snprintf(name, sizeof name, "%.*s", (int)(equals - variable), variable);
  for (size_t i = 0; i < sizeof OTHER_VARIABLES / sizeof *OTHER_VARIABLES; i++)
    if (strcmp(name, OTHER_VARIABLES[i]) == 0) return STATUS_OK;
  size_t count;
  const ConfigKey *keys = config_keys(&count), *best = NULL;
  Nearest nearest = {.wanted = name};
  for (size_t i = 0; i < count; i++) {
    variable_name(known, &keys[i]);
    if (strcmp(known, name) == 0) {
      (void)snprintf(prefix, sizeof prefix, "%s: ", name);
      return assign(config, problems, &keys[i], equals + 1, origin, prefix);
    }
    const char *before = nearest.best;
    int distance = nearest.distance;
    nearest_offer(&nearest, known);
    if (nearest.best != before || nearest.distance != distance) best = &keys[i];
  }
  if (!best)
    return config__problem_add(problems, config->file, origin,
                               "%s: unknown variable; unset it, or use IMGCLS_SECTION_KEY", name);
  variable_name(known, best);
  return config__problem_add(problems, config->file, origin,
                             "%s: unknown variable; did you mean %s?", name, known);
}

static Status apply_environment(Config *config, ConfigProblems *problems,
                                char *const *environment) {
  for (; environment && *environment; environment++)
    if (strncmp(*environment, VARIABLE_PREFIX, sizeof VARIABLE_PREFIX - 1) == 0)
      TRY(apply_variable(config, problems, *environment));
  return STATUS_OK;
}

// --- the command line ----------------------------------------------------------------------------

static Status apply_setting(Config *config, ConfigProblems *problems, const char *setting) {
  char section[CLIP_CAPACITY], name[CLIP_CAPACITY], hint[HINT_CAPACITY], clipped[CLIP_CAPACITY];
  const ConfigOrigin origin = {.source = CONFIG_COMMAND_LINE};
  const char *equals = strchr(setting, '=');
  const char *dot = equals ? memchr(setting, '.', (size_t)(equals - setting)) : NULL;
  if (!dot) {
    (void)snprintf(name, sizeof name, "%.*s", equals ? (int)(equals - setting) : 0, setting);
    return config__problem_add(problems, config->file, origin, "'%s': write section.key=value%s",
                               config__clip(clipped, setting), key_hint(hint, "", name));
  }
  (void)snprintf(section, sizeof section, "%.*s", (int)(dot - setting), setting);
  (void)snprintf(name, sizeof name, "%.*s", (int)(equals - dot - 1), dot + 1);
  const ConfigKey *key = config_key_find(section, name);
  if (key) return assign(config, problems, key, equals + 1, origin, "");
  if (!is_section(section))
    return config__problem_add(problems, config->file, origin, "'%s': unknown section [%s]%s",
                               config__clip(clipped, setting), section,
                               section_hint(hint, section));
  return config__problem_add(problems, config->file, origin, "'%s': unknown key [%s] %s%s",
                             config__clip(clipped, setting), section, name,
                             key_hint(hint, section, name));
}

// --- all together --------------------------------------------------------------------------------

static Status check_required(const Config *config, ConfigProblems *problems) {
  size_t count;
  const ConfigKey *keys = config_keys(&count);
  for (size_t i = 0; i < count; i++) {
    if (!(keys[i].flags & KEY_REQUIRED)) continue;
    const char *text = *(char *const *)((const char *)config + keys[i].offset);
    if (text[0]) continue;
    TRY(config__problem_add(problems, config->file, config->origins[i], "[%s] %s is missing. %s",
                            keys[i].section, keys[i].name, keys[i].help));
  }
  return STATUS_OK;
}

// The folder of a run that names none: runs/NAME for NAME.ini.
static Status name_output(Config *config, const char *path) {
  if (config->run.output[0]) return STATUS_OK;
  const char *slash = strrchr(path, '/'), *stem = slash ? slash + 1 : path;
  size_t length = strlen(stem);
  if (length > 4 && strcmp(stem + length - 4, ".ini") == 0) length -= 4;
  memory_free(config->run.output);
  config->run.output = NULL;
  return memory_print_string(&config->run.output, "runs/%.*s", (int)length, stem);
}

Status config_load(Config *out, ConfigProblems *problems, const ConfigInput *input) {
  *problems = (ConfigProblems){0};
  TRY(config_init(out));
  if (input->path) TRY(apply_file(out, problems, input->path));
  TRY(apply_environment(out, problems, input->environment));
  for (size_t i = 0; i < input->setting_count; i++)
    TRY(apply_setting(out, problems, input->settings[i]));
  if (!input->incomplete) TRY(check_required(out, problems));
  TRY(config__check(out, problems));
  if (input->path) TRY(name_output(out, input->path));
  return config__problems_finish(problems, out->file);
}

Status config_load_text(Config *out, ConfigProblems *problems, const char *text,
                        size_t size_bytes) {
  *problems = (ConfigProblems){0};
  TRY(config_init(out));
  TRY(apply_text(out, problems, text, size_bytes));
  TRY(config__check(out, problems));
  return config__problems_finish(problems, out->file);
}
