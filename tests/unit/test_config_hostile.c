// The configuration against hostile text: whatever the bytes, the answer is a Config or problems
// with their lines, in bounded time.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/memory.h"
#include "base/rng.h"
#include "config/config.h"

// Loads bytes. What is accepted must print to a text that reads back equal. Returns the number of
// problems.
static size_t feed(const char *text, size_t size) {
  Config config;
  ConfigProblems problems;
  Status status = config_load_text(&config, &problems, text, size);
  size_t count = problems.count;
  assert_true(status == STATUS_OK || status == STATUS_CONFIG);
  assert_int_equal(status == STATUS_CONFIG, count > 0);
  for (size_t i = 0; i < count; i++) assert_true(strlen(config_problems_text(&problems, i)) > 10);
  config_problems_deinit(&problems);
  if (status == STATUS_OK) {
    char *printed, *again;
    Config second;
    assert_int_equal(config_format(&printed, &config, false), STATUS_OK);
    assert_int_equal(config_load_text(&second, &problems, printed, strlen(printed)), STATUS_OK);
    assert_int_equal(config_format(&again, &second, false), STATUS_OK);
    assert_string_equal(printed, again);
    memory_free(printed);
    memory_free(again);
    config_deinit(&second);
  }
  config_deinit(&config);
  return count;
}

static const char SEED_TEXT[] = "# comment\n[model]\nbackbone = resnet_v1_50\n\n[data]\n"
                                "dir = \"my data\" # here\nclass_names = a, b ,c\n"
                                "max_file_size = 12 MiB\n[augment]\nrotation = -0.1,0.2\n"
                                "zoom_width = same\nflip = none\n[train]\nbatch = 32\n"
                                "[schedule]\nname = step\nstep_epochs = 1,2,3.5\n";

static uint32_t draw(uint64_t a, uint64_t b) {
  return rng_draw(7, RNG_SYNTHETIC, a, b, 0).word[0];
}

static void every_prefix_is_answered(void **state) {
  (void)state;
  for (size_t size = 0; size < sizeof SEED_TEXT; size++) (void)feed(SEED_TEXT, size);
  assert_int_equal(feed(SEED_TEXT, sizeof SEED_TEXT - 1), 0);
}

static void mutations_are_answered(void **state) {
  (void)state;
  static const char *const pieces[] = {
      "[",    "]",         "=",  "\"", "\\",   "#",    ";",  "\n",   "\r", "\t",          " ",
      "[[",   "]]",        "/*", "*/", "\xff", "\xc3", "%s", "%n",   ".",  "!",           "-1",
      "1e99", "[train]\n", "\0", "",   "=",    ",",    "..", "[a]b", "==", "\xef\xbb\xbf"};
  enum { ROUNDS = 4000, PIECES = sizeof pieces / sizeof *pieces };
  int accepted = 0, refused = 0;
  for (uint64_t round = 0; round < ROUNDS; round++) {
    char text[2 * sizeof SEED_TEXT + 64];
    size_t size = sizeof SEED_TEXT - 1;
    memcpy(text, SEED_TEXT, size);
    uint32_t edits = 1 + draw(round, 0) % 4;
    for (uint32_t edit = 0; edit < edits; edit++) {
      size_t at = draw(round, 4 * edit + 1) % size;
      const char *piece = pieces[draw(round, 4 * edit + 2) % PIECES];
      size_t length = piece[0] ? strlen(piece) : 1; // the empty piece stands for a NUL
      switch (draw(round, 4 * edit + 3) % 3) {
      case 0: // insert
        memmove(text + at + length, text + at, size - at);
        memcpy(text + at, piece, length);
        size += length;
        break;
      case 1: // overwrite a byte
        text[at] = (char)draw(round, 4 * edit + 4);
        break;
      default: // remove up to eight bytes
        length = 1 + draw(round, 4 * edit + 4) % 8;
        if (length > size - at) length = size - at;
        memmove(text + at, text + at + length, size - at - length);
        size -= length;
      }
    }
    if (feed(text, size) == 0)
      accepted++;
    else
      refused++;
  }
  assert_true(accepted > ROUNDS / 100); // both ways are really taken
  assert_true(refused > ROUNDS / 10);
}

// Fills `text` with copies of `line`.
static size_t repeat(char *text, size_t capacity, const char *line) {
  size_t size = 0, length = strlen(line);
  for (; size + length <= capacity; size += length) memcpy(text + size, line, length);
  return size;
}

static void large_texts_end_soon(void **state) {
  (void)state;
  enum { CAPACITY = (1 << 20) + 64 };
  char *text;
  assert_int_equal(memory_alloc(&text, CAPACITY, 1), STATUS_OK);
  double start_s = clock_now_s();

  memset(text, 'x', CAPACITY);
  assert_int_equal(feed(text, CAPACITY), 1); // longer than a configuration
  memcpy(text, "[data]\ndir=", 11);
  assert_int_equal(feed(text, 1 << 20), 1); // one line of nearly 1 MiB: the value is too long
  memset(text, '[', CAPACITY);
  assert_true(feed(text, 1 << 20) > 0);
  memset(text, '\n', CAPACITY);
  assert_int_equal(feed(text, 1 << 20), 1); // too many lines
  memset(text, ' ', CAPACITY);
  (void)feed(text, 1 << 20);
  memset(text, '\0', CAPACITY);
  assert_int_equal(feed(text, 1 << 20), 1);

  size_t head = strlen("[train]\n");
  memcpy(text, "[train]\n", head);
  size_t size = head + repeat(text + head, 9000 * 4, "bad\n");
  assert_int_equal(feed(text, size), 9000); // a problem for each line
  size = head + repeat(text + head, 9000 * 4, "b=1\n");
  assert_true(feed(text, size) >= 8999); // duplicates of an unknown key
  size = repeat(text, 9000 * 4, "[a]\n");
  assert_true(feed(text, size) >= 8999);
  memcpy(text, "[train]\n", head);
  size = head;
  for (int i = 0; i < 9000; i++)
    size += (size_t)snprintf(text + size, CAPACITY - size, "k%d=1\n", i);
  assert_int_equal(feed(text, size), 9000); // unknown keys

  assert_true(clock_now_s() - start_s < 20); // with sanitizers; 1 s without
  memory_free(text);
}

static void special_bytes_are_named(void **state) {
  (void)state;
  static const struct {
    const char *text;
    size_t size;
    const char *problem;
  } cases[] = {
      {"[data]\ndir = a\0b\n", 17, "2: a NUL byte"},
      {"[data]\ndir = \xff\xfe\n", 16, "not UTF-8"},
      {"\xff\xfe[\0d\0]\0", 8, "NUL byte"},
      {"[data]\ndir = a\x01"
       "b\n",
       17, "must be UTF-8 without control characters"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    Config config;
    ConfigProblems problems;
    assert_int_equal(config_load_text(&config, &problems, cases[i].text, cases[i].size),
                     STATUS_CONFIG);
    if (!strstr(status_message(), cases[i].problem)) fail_msg("case %zu: %s", i, status_message());
    config_problems_deinit(&problems);
    config_deinit(&config);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(every_prefix_is_answered),
      cmocka_unit_test(mutations_are_answered),
      cmocka_unit_test(large_texts_end_soon),
      cmocka_unit_test(special_bytes_are_named),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
