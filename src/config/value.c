// One value as text and back: strict in, canonical out. Each KeyType has a parser and a writer.
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/text.h"
#include "config/internal.h"
#include "config/nearest.h"

enum { MAX_ITEMS = 4096, MAX_STRING = 65536 };

static void *field(Config *config, const ConfigKey *key) {
  return (char *)config + key->offset;
}

static const void *const_field(const Config *config, const ConfigKey *key) {
  return (const char *)config + key->offset;
}

// "[train] batch = 0: must be ..."; always STATUS_CONFIG.
static Status refuse(const ConfigKey *key, const char *text, const char *format, ...)
    PRINTF_LIKE(3, 4);

static Status refuse(const ConfigKey *key, const char *text, const char *format, ...) {
  char clipped[CLIP_CAPACITY], reason[512];
  va_list args;
  va_start(args, format);
  (void)vsnprintf(reason, sizeof reason, format, args);
  va_end(args);
  return status_set(STATUS_CONFIG, "[%s] %s = %s: must be %s", key->section, key->name,
                    config__clip(clipped, text), reason);
}

Status config__copy(char **out, const char *text, size_t length) {
  TRY(memory_alloc(out, length + 1, 1));
  memcpy(*out, text, length);
  return STATUS_OK;
}

const char *config__format_number(char out[NUMBER_CAPACITY], double number) {
  for (int digits = 15; digits <= 17; digits++) {
    (void)snprintf(out, NUMBER_CAPACITY, "%.*g", digits, number);
    if (strtod(out, NULL) == number) break;
  }
  return out;
}

// "1..1048576", or "graph or 0..1" where a word is allowed.
static const char *range_text(char out[96], const ConfigKey *key) {
  char low[NUMBER_CAPACITY], high[NUMBER_CAPACITY];
  (void)snprintf(out, 96, "%s%s%s..%s", key->word ? key->word : "", key->word ? " or " : "",
                 config__format_number(low, key->min), config__format_number(high, key->max));
  return out;
}

// --- numbers -------------------------------------------------------------------------------------

// A decimal number without anything around it: no "inf", "nan", hexadecimal or blanks.
static bool read_number(const char *text, size_t length, double *out) {
  if (length == 0 || length >= 64 || strspn(text, "0123456789+-.eE") < length) return false;
  char copy[64], *end;
  memcpy(copy, text, length);
  copy[length] = '\0';
  *out = strtod(copy, &end);
  if (*end || !isfinite(*out)) return false;
  if (*out == 0) *out = 0; // no negative zero: it would print as "-0"
  return true;
}

static bool in_range(const ConfigKey *key, double number) {
  return number >= key->min && number <= key->max;
}

static bool is_word(const ConfigKey *key, const char *text) {
  return key->word && strcmp(text, key->word) == 0;
}

static Status parse_int(int64_t *out, const ConfigKey *key, const char *text) {
  char range[96], *end;
  if (is_word(key, text)) {
    *out = (int64_t)key->word_value;
    return STATUS_OK;
  }
  errno = 0;
  long long number = strtoll(text, &end, 10);
  bool is_number = text[0] && !isspace((unsigned char)text[0]) && !*end && errno == 0;
  if (!is_number || !in_range(key, (double)number)) {
    bool looks_like_number = text[0] && strspn(text, "+-0123456789") == strlen(text);
    return refuse(key, text, "%s%s", looks_like_number ? "" : "a whole number, ",
                  range_text(range, key));
  }
  *out = number;
  return STATUS_OK;
}

static const struct Unit {
  const char *name;
  int64_t bytes;
} UNITS[] = {{"TiB", (int64_t)1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"B", 1}};
enum { UNIT_COUNT = sizeof UNITS / sizeof *UNITS };

static const char *format_bytes(char out[NUMBER_CAPACITY], int64_t bytes) {
  int unit = 0;
  while (bytes % UNITS[unit].bytes != 0) unit++;
  (void)snprintf(out, NUMBER_CAPACITY, "%" PRId64 " %s", bytes / UNITS[unit].bytes,
                 UNITS[unit].name);
  return out;
}

static Status parse_bytes(int64_t *out, const ConfigKey *key, const char *text) {
  if (is_word(key, text)) {
    *out = (int64_t)key->word_value;
    return STATUS_OK;
  }
  size_t digits = strspn(text, "0123456789");
  const char *name = text + digits + strspn(text + digits, " ");
  int64_t unit = *name ? 0 : 1;
  for (int i = 0; i < UNIT_COUNT; i++)
    if (strcasecmp(name, UNITS[i].name) == 0) unit = UNITS[i].bytes;
  int64_t number = digits > 0 && digits < 16 ? strtoll(text, NULL, 10) : -1;
  double bytes = (double)number * (double)unit;
  if (unit == 0 || !in_range(key, bytes)) {
    char low[NUMBER_CAPACITY], high[NUMBER_CAPACITY];
    return refuse(key, text, "%s%sa size such as 256 MiB, %s to %s", key->word ? key->word : "",
                  key->word ? " or " : "", format_bytes(low, (int64_t)key->min), format_bytes(high, (int64_t)key->max));
  }
  *out = number * unit;
  return STATUS_OK;
}

static Status parse_real(double *out, const ConfigKey *key, const char *text) {
  char range[96];
  double number;
  if (is_word(key, text))
    number = key->word_value;
  else if (!read_number(text, strlen(text), &number))
    return refuse(key, text, "a number, %s", range_text(range, key));
  else if (!in_range(key, number))
    return refuse(key, text, "%s", range_text(range, key));
  *out = number;
  return STATUS_OK;
}

// The next item of a comma list without the blanks around it; `*text` moves behind it, to NULL at
// the end.
static const char *next_item(const char **text, size_t *length) {
  const char *item = *text + strspn(*text, " \t");
  size_t size = strcspn(item, ",");
  *text = item[size] ? item + size + 1 : NULL;
  while (size > 0 && isspace((unsigned char)item[size - 1])) size--;
  *length = size;
  return item;
}

static Status parse_range(ConfigRange *out, const ConfigKey *key, const char *text) {
  char range[96];
  if (is_word(key, text)) {
    *out = (ConfigRange){key->word_value, key->word_value};
    return STATUS_OK;
  }
  double ends[2] = {0};
  int count = 0;
  bool good = true;
  for (const char *rest = text; rest && good; count++) {
    size_t length;
    const char *item = next_item(&rest, &length);
    good = count < 2 && read_number(item, length, &ends[count]);
  }
  if (!good)
    return refuse(key, text, "one number f for [-f, f], or low,high; each of %s",
                  range_text(range, key));
  if (count == 1) {
    if (ends[0] < 0)
      return refuse(key, text, "positive: one number f stands for [-f, f]; or write low,high");
    ends[1] = ends[0];
    ends[0] = ends[0] == 0 ? 0 : -ends[0];
  }
  if (!in_range(key, ends[0]) || !in_range(key, ends[1]))
    return refuse(key, text, "within %s, at both ends", range_text(range, key));
  if (ends[0] > ends[1]) return refuse(key, text, "low,high with low <= high");
  *out = (ConfigRange){ends[0], ends[1]};
  return STATUS_OK;
}

static Status parse_numbers(ConfigNumbers *out, const ConfigKey *key, const char *text) {
  char range[96];
  ConfigNumbers numbers = {0};
  size_t capacity = 0;
  Status status = STATUS_OK;
  for (const char *rest = text[0] ? text : NULL; rest; numbers.count++) {
    size_t length;
    const char *item = next_item(&rest, &length);
    double number = 0;
    bool good = numbers.count < MAX_ITEMS && read_number(item, length, &number);
    if (!good || !in_range(key, number))
      GUARD(refuse(key, text, "numbers of %s, separated by commas", range_text(range, key)));
    GUARD(memory_reserve(&numbers.items, &capacity, (size_t)numbers.count + 1,
                         sizeof *numbers.items));
    numbers.items[numbers.count] = number;
  }
  memory_free(out->items);
  *out = numbers;
  return STATUS_OK;
out:
  memory_free(numbers.items);
  return status;
}

// --- words and strings ---------------------------------------------------------------------------

static Status parse_bool(bool *out, const ConfigKey *key, const char *text) {
  static const char *const words[] = {"no", "yes", "false", "true", "off", "on", "0", "1"};
  for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
    if (strcasecmp(text, words[i]) != 0) continue;
    *out = i % 2 == 1;
    return STATUS_OK;
  }
  return refuse(key, text, "yes or no");
}

static Status parse_choice(int *out, const ConfigKey *key, const char *text) {
  Nearest nearest = {.wanted = text};
  char list[256] = "";
  for (int i = 0; key->choices[i]; i++) {
    if (strcmp(text, key->choices[i]) == 0) {
      *out = i;
      return STATUS_OK;
    }
    nearest_offer(&nearest, key->choices[i]);
    size_t used = strlen(list);
    (void)snprintf(list + used, sizeof list - used, "%s%s", i > 0 ? ", " : "", key->choices[i]);
  }
  if (nearest.best) return refuse(key, text, "one of %s; did you mean %s?", list, nearest.best);
  return refuse(key, text, "one of %s", list);
}

static Status check_string(const ConfigKey *key, const char *text) {
  if (strlen(text) > MAX_STRING) return refuse(key, text, "at most %d bytes", MAX_STRING);
  // Checkpoints keep the configuration as JSON.
  if (!text_is_printable(text)) return refuse(key, text, "UTF-8 without control characters");
  return STATUS_OK;
}

static Status parse_string(char **out, const ConfigKey *key, const char *text) {
  TRY(check_string(key, text));
  char *copy;
  TRY(memory_copy_string(&copy, text));
  memory_free(*out);
  *out = copy;
  return STATUS_OK;
}

static void strings_free(ConfigStrings *strings) {
  for (int64_t i = 0; i < strings->count; i++) memory_free(strings->items[i]);
  memory_free(strings->items);
  *strings = (ConfigStrings){0};
}

static Status parse_strings(ConfigStrings *out, const ConfigKey *key, const char *text) {
  TRY(check_string(key, text));
  ConfigStrings strings = {0};
  size_t capacity = 0;
  Status status = STATUS_OK;
  for (const char *rest = text[0] ? text : NULL; rest; strings.count++) {
    size_t length;
    const char *item = next_item(&rest, &length);
    if (length == 0 || strings.count >= MAX_ITEMS)
      GUARD(refuse(key, text, "names separated by commas, none of them empty"));
    GUARD(memory_reserve(&strings.items, &capacity, (size_t)strings.count + 1,
                         sizeof *strings.items));
    GUARD(config__copy(&strings.items[strings.count], item, length));
  }
  strings_free(out);
  *out = strings;
  return STATUS_OK;
out:
  strings_free(&strings);
  return status;
}

// --- by type -------------------------------------------------------------------------------------

Status config__value_parse(Config *config, const ConfigKey *key, const char *text) {
  void *out = field(config, key);
  switch (key->type) {
  case KEY_BOOL:
    return parse_bool(out, key, text);
  case KEY_INT:
    return parse_int(out, key, text);
  case KEY_BYTES:
    return parse_bytes(out, key, text);
  case KEY_REAL:
    return parse_real(out, key, text);
  case KEY_RANGE:
    return parse_range(out, key, text);
  case KEY_CHOICE:
    return parse_choice(out, key, text);
  case KEY_STRING:
    return parse_string(out, key, text);
  case KEY_STRINGS:
    return parse_strings(out, key, text);
  case KEY_NUMBERS:
    return parse_numbers(out, key, text);
  }
  return status_set(STATUS_INTERNAL, "[%s] %s: unknown type of key", key->section, key->name);
}

static Status format_range(char **out, const ConfigKey *key, const ConfigRange *range) {
  char low[NUMBER_CAPACITY], high[NUMBER_CAPACITY];
  if (key->word && range->low == key->word_value && range->high == key->word_value)
    return memory_copy_string(out, key->word);
  if (range->low == -range->high)
    return memory_copy_string(out, config__format_number(high, range->high));
  return memory_print_string(out, "%s,%s", config__format_number(low, range->low),
                             config__format_number(high, range->high));
}

// Joins item after item; `*out` is replaced.
static Status join(char **out, const char *item) {
  char *longer;
  TRY(memory_print_string(&longer, "%s%s%s", *out, (*out)[0] ? "," : "", item));
  memory_free(*out);
  *out = longer;
  return STATUS_OK;
}

static Status format_list(char **out, const ConfigNumbers *numbers, const ConfigStrings *strings) {
  TRY(memory_copy_string(out, ""));
  Status status = STATUS_OK;
  for (int64_t i = 0; strings && i < strings->count; i++) GUARD(join(out, strings->items[i]));
  for (int64_t i = 0; numbers && i < numbers->count; i++) {
    char number[NUMBER_CAPACITY];
    GUARD(join(out, config__format_number(number, numbers->items[i])));
  }
  return STATUS_OK;
out:
  memory_free(*out);
  *out = NULL;
  return status;
}

Status config__value_format(char **out, const Config *config, const ConfigKey *key) {
  const void *value = const_field(config, key);
  char number[NUMBER_CAPACITY];
  *out = NULL;
  switch (key->type) {
  case KEY_BOOL:
    return memory_copy_string(out, *(const bool *)value ? "yes" : "no");
  case KEY_INT:
    if (key->word && (double)*(const int64_t *)value == key->word_value)
      return memory_copy_string(out, key->word);
    return memory_print_string(out, "%" PRId64, *(const int64_t *)value);
  case KEY_BYTES:
    if (key->word && (double)*(const int64_t *)value == key->word_value)
      return memory_copy_string(out, key->word);
    return memory_copy_string(out, format_bytes(number, *(const int64_t *)value));
  case KEY_REAL:
    if (key->word && *(const double *)value == key->word_value)
      return memory_copy_string(out, key->word);
    return memory_copy_string(out, config__format_number(number, *(const double *)value));
  case KEY_RANGE:
    return format_range(out, key, value);
  case KEY_CHOICE:
    return memory_copy_string(out, key->choices[*(const int *)value]);
  case KEY_STRING:
    return memory_copy_string(out, *(char *const *)value);
  case KEY_STRINGS:
    return format_list(out, NULL, value);
  case KEY_NUMBERS:
    return format_list(out, value, NULL);
  }
  return status_set(STATUS_INTERNAL, "[%s] %s: unknown type of key", key->section, key->name);
}

void config__value_free(Config *config, const ConfigKey *key) {
  void *value = field(config, key);
  if (key->type == KEY_STRING) {
    memory_free(*(char **)value);
    *(char **)value = NULL;
  } else if (key->type == KEY_STRINGS) {
    strings_free(value);
  } else if (key->type == KEY_NUMBERS) {
    memory_free(((ConfigNumbers *)value)->items);
    *(ConfigNumbers *)value = (ConfigNumbers){0};
  }
}
