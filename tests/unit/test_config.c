// The configuration: every row of the table, precedence, problems, writing, the command line.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/memory.h"
#include "config/config.h"
#include "config/keys.h"
#include "config/nearest.h"
#include "config/options.h"

enum { TEXT_CAPACITY = 256, MAX_SETTINGS = 8 };

// Loads `text` as a file (NULL: none) with settings of the command line and variables.
static Status load(Config *config, ConfigProblems *problems, const char *text,
                   const char *const *settings, char *const *environment) {
  char path[] = "/tmp/imgcls-test-XXXXXX.ini";
  ConfigInput input = {.settings = settings, .environment = environment};
  while (settings && settings[input.setting_count]) input.setting_count++;
  if (text) {
    int fd = mkstemps(path, 4);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    assert_int_equal(close(fd), 0);
    input.path = path;
  }
  Status status = config_load(config, problems, &input);
  if (text) (void)unlink(path);
  return status;
}

// Sets one key beside `data.dir`; returns whether it was taken. A refusal names the key.
static bool takes(const ConfigKey *key, const char *value) {
  char setting[TEXT_CAPACITY], place[TEXT_CAPACITY];
  (void)snprintf(setting, sizeof setting, "%s.%s=%s", key->section, key->name, value);
  (void)snprintf(place, sizeof place, "command line: [%s] %s = ", key->section, key->name);
  const char *settings[] = {"data.dir=x", setting, NULL};
  Config config;
  ConfigProblems problems;
  (void)load(&config, &problems, NULL, settings, NULL);
  bool refused = false;
  for (size_t i = 0; i < problems.count; i++)
    refused = refused || strncmp(config_problems_text(&problems, i), place, strlen(place)) == 0;
  config_problems_deinit(&problems);
  config_deinit(&config);
  return !refused;
}

static void every_row_takes_its_range_and_no_more(void **state) {
  (void)state;
  size_t count;
  const ConfigKey *keys = config_keys(&count);
  for (size_t i = 0; i < count; i++) {
    const ConfigKey *key = &keys[i];
    char text[64];
    bool number = key->type == KEY_INT || key->type == KEY_REAL || key->type == KEY_BYTES ||
                  key->type == KEY_RANGE || key->type == KEY_NUMBERS;
    assert_true(takes(key, key->fallback));
    if (number) {
      const char *form = key->type == KEY_RANGE ? "%.17g,%.17g" : "%.17g";
      assert_true(key->min < key->max);
      (void)snprintf(text, sizeof text, form, key->min, key->max);
      assert_true(takes(key, text));
      (void)snprintf(text, sizeof text, form, key->max, key->max);
      assert_true(takes(key, text));
      double step = key->type == KEY_INT || key->type == KEY_BYTES ? 1 : 1e-6;
      (void)snprintf(text, sizeof text, form, key->min - step, key->max);
      assert_false(takes(key, text));
      (void)snprintf(text, sizeof text, "%.17g", key->max * (1 + 1e-9) + step);
      assert_false(takes(key, text));
      static const char *const wrong[] = {"nan", "inf", "0x1", "1 2", "x", "1e999", "--1", "1,"};
      for (size_t j = 0; j < sizeof wrong / sizeof *wrong; j++) assert_false(takes(key, wrong[j]));
    }
    if (number || key->type == KEY_BOOL || key->type == KEY_CHOICE)
      assert_false(takes(key, "surely-no-value"));
    if (key->word) assert_true(takes(key, key->word));
    for (int j = 0; key->choices && key->choices[j]; j++) assert_true(takes(key, key->choices[j]));
    if (key->type == KEY_STRING || key->type == KEY_STRINGS) {
      assert_false(takes(key, "a\nb"));
      assert_false(takes(key, "\xe9t\xe9")); // Latin-1
    }
    assert_true(strlen(key->help) > 10 && key->help[strlen(key->help) - 1] == '.');
  }
}

static void rows_are_distinct_and_their_sections_known(void **state) {
  (void)state;
  size_t count, section_count;
  const ConfigKey *keys = config_keys(&count);
  const ConfigSection *sections = config_sections(&section_count);
  size_t changes = 0;
  for (size_t i = 0; i < count; i++) {
    assert_ptr_equal(config_key_find(keys[i].section, keys[i].name), &keys[i]);
    bool known = false;
    for (size_t j = 0; j < section_count; j++)
      known = known || strcmp(sections[j].name, keys[i].section) == 0;
    assert_true(known);
    changes += i == 0 || strcmp(keys[i].section, keys[i - 1].section) != 0;
    for (size_t j = 0; j < i; j++) assert_true(keys[i].offset != keys[j].offset);
  }
  assert_int_equal(changes, section_count); // a section's rows stand together
}

static void defaults_are_those_of_the_tutorial(void **state) {
  (void)state;
  Config config;
  assert_int_equal(config_init(&config), STATUS_OK);
  assert_string_equal(config.model.backbone, "mobilenet_v2_100_224");
  assert_true(config.model.fine_tune);
  assert_true(config.model.dropout == 0.2 && config.model.l2 == 1e-4);
  assert_true(config.model.batch_norm_momentum == CONFIG_FROM_GRAPH);
  assert_int_equal(config.data.seed, 123);
  assert_int_equal(config.data.max_file_size, 256 << 20);
  assert_int_equal(config.train.batch, 16);
  assert_true(config.train.label_smoothing == 0.1);
  assert_true(config.optimizer.learning_rate == 0.005 && config.optimizer.momentum == 0.9);
  assert_false(config.augment.enabled);
  assert_true(config.augment.zoom_height.low == -0.2 && config.augment.zoom_height.high == 0.2);
  assert_int_equal(config.data.class_names.count, 0);
  config_deinit(&config);
}

static void later_sources_win(void **state) {
  (void)state;
  const char *text = "[data]\ndir = d\n[train]\nbatch = 2\nepochs = 2\nseed = 2\n";
  char *environment[] = {"HOME=/", "IMGCLS_CPU_ISA=avx2", "IMGCLS_TRAIN_EPOCHS=3",
                         "IMGCLS_TRAIN_SEED=3", NULL};
  const char *settings[] = {"train.seed=4", "train.seed=5", NULL};
  Config config;
  ConfigProblems problems;
  assert_int_equal(load(&config, &problems, text, settings, environment), STATUS_OK);
  assert_int_equal(config.train.batch, 2);
  assert_int_equal(config.train.epochs, 3);
  assert_int_equal(config.train.seed, 5);
  assert_true(config.train.label_smoothing == 0.1);
  assert_true(strncmp(config.run.output, "runs/imgcls-test-", 17) == 0);
  assert_null(strstr(config.run.output, ".ini"));
  char *printed;
  assert_int_equal(config_format(&printed, &config, true), STATUS_OK);
  assert_non_null(strstr(printed, "\nepochs = 3 # environment\n"));
  assert_non_null(strstr(printed, "\nseed = 5 # command line\n"));
  assert_non_null(strstr(printed, "\nlabel_smoothing = 0.1 # default\n"));
  assert_non_null(strstr(printed, ".ini:4\nepochs"));
  memory_free(printed);
  config_deinit(&config);
}

static void printed_text_reads_back(void **state) {
  (void)state;
  const char *settings[] = {"data.dir= a # b; \"c\" \\ ",
                            "data.class_names=cat, big dog ,#1",
                            "schedule.step_epochs=1, 2.5,1e1",
                            "optimizer.learning_rate=0.1234567890123456789",
                            "augment.rotation=-0.25,0.5",
                            "augment.zoom_width=same",
                            "data.jpeg_memory=3145729",
                            "model.batch_norm_epsilon=1.001e-5",
                            NULL};
  Config first, second;
  ConfigProblems problems;
  char *a, *b;
  assert_int_equal(load(&first, &problems, NULL, settings, NULL), STATUS_OK);
  assert_int_equal(config_format(&a, &first, true), STATUS_OK);
  assert_int_equal(config_load_text(&second, &problems, a, strlen(a)), STATUS_OK);
  memory_free(a);
  assert_string_equal(second.data.dir, " a # b; \"c\" \\ ");
  assert_int_equal(second.data.class_names.count, 3);
  assert_string_equal(second.data.class_names.items[1], "big dog");
  assert_string_equal(second.data.class_names.items[2], "#1");
  assert_int_equal(second.schedule.step_epochs.count, 3);
  assert_true(second.schedule.step_epochs.items[1] == 2.5);
  assert_true(second.optimizer.learning_rate == 0.1234567890123456789);
  assert_true(second.augment.rotation.low == -0.25 && second.augment.rotation.high == 0.5);
  assert_true(second.augment.zoom_width.low == CONFIG_SAME_AS_HEIGHT);
  assert_int_equal(second.data.jpeg_memory, 3145729);
  assert_true(second.model.batch_norm_epsilon == 1.001e-5);
  assert_int_equal(config_format(&a, &first, false), STATUS_OK);
  assert_int_equal(config_format(&b, &second, false), STATUS_OK);
  assert_string_equal(a, b);
  memory_free(a);
  memory_free(b);
  config_deinit(&first);
  config_deinit(&second);
}

static void hash_covers_the_numbers_only(void **state) {
  (void)state;
  static const struct {
    const char *setting;
    bool changes;
  } cases[] = {
      {"data.dir=elsewhere", false},  {"run.output=o", false},      {"data.prefetch=9", false},
      {"log.format=json", false},     {"train.batch=16", false},    {"model.l2=1e-4", false},
      {"train.batch=17", true},       {"model.l2=1.1e-4", true},    {"augment.flip=none", true},
      {"data.class_names=a,b", true}, {"train.seed=1", true},       {"data.compat=keras", true},
      {"schedule.name=cosine", true}, {"model.fine_tune=no", true},
  };
  Config plain, other;
  ConfigProblems problems;
  char before[CONFIG_HASH_CAPACITY], after[CONFIG_HASH_CAPACITY], *changes;
  assert_int_equal(load(&plain, &problems, NULL, (const char *[]){"data.dir=x", NULL}, NULL),
                   STATUS_OK);
  assert_int_equal(config_hash(&plain, before), STATUS_OK);
  assert_int_equal(strspn(before, "0123456789abcdef"), 32);
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    const char *settings[] = {"data.dir=x", cases[i].setting, NULL};
    assert_int_equal(load(&other, &problems, NULL, settings, NULL), STATUS_OK);
    assert_int_equal(config_hash(&other, after), STATUS_OK);
    assert_int_equal(strcmp(before, after) != 0, cases[i].changes);
    assert_int_equal(config_describe_changes(&changes, &plain, &other), STATUS_OK);
    assert_int_equal(changes[0] != '\0', cases[i].changes);
    if (strcmp(cases[i].setting, "train.batch=17") == 0)
      assert_string_equal(changes, "[train] batch = 16 -> 17");
    memory_free(changes);
    config_deinit(&other);
  }
  config_deinit(&plain);
}

// --- problems ------------------------------------------------------------------------------------

static void all_problems_come_at_once_in_order(void **state) {
  (void)state;
  const char *text = "top = 1\n"             // 1
                     "[train]\n"             // 2
                     "batch = 0 # comment\n" // 3
                     "bad line\n"            // 4
                     "=x\n"                  // 5
                     "epoch = 4\n"           // 6
                     "seed = 1\n"            // 7
                     "seed = 2\n"            // 8
                     "[data\n"               // 9
                     "dir = lost\n"          // 10
                     "[dtaa]\n"              // 11
                     "seed = 1\n"            // 12
                     "[train]\n"             // 13
                     "precision = fp23\n"    // 14
                     "[optimizer]\n"         // 15
                     "momentum = \"0.9\n"    // 16
                     "[]\n"                  // 17
                     "  [model]\n"           // 18
                     "batch = 3\n"           // 19
                     "fine_tune = maybe\n";  // 20
  static const char *const expected[] = {
      ".ini:1: before the first section",
      ".ini:3: [train] batch = 0: must be 1..1048576",
      ".ini:4: 'bad line': no '='",
      ".ini:5: '=x': no key before '='",
      ".ini:6: unknown key [train] epoch; did you mean epochs?",
      ".ini:8: [train] seed stands twice",
      ".ini:9: '[data': a section's line ends with ']'",
      ".ini:11: unknown section [dtaa]; did you mean [data]?",
      ".ini:13: [train] stands twice, first on line 2",
      ".ini:14: [train] precision = fp23: must be one of auto, fp32, bf16, fp16; did you mean "
      "fp32?",
      ".ini:16: [optimizer] momentum = \"0.9: write \"...\"",
      ".ini:17: '[]': the section has no name",
      ".ini:19: unknown key [model] batch; it belongs to [train]",
      ".ini:20: [model] fine_tune = maybe: must be yes or no",
      "environment: IMGCLS_TRAIN_BACH: unknown variable; did you mean IMGCLS_TRAIN_BATCH?",
      "environment: IMGCLS_TRAIN_EPOCHS: [train] epochs = q: must be a whole number",
      "command line: 'batch=3': write section.key=value; it belongs to [train]",
      "command line: 'trian.batch=4': unknown section [trian]; did you mean [train]?",
      "command line: 'train.bacth=4': unknown key [train] bacth; did you mean batch?",
      "command line: [data] jpeg_memory = 1 GB: must be a size such as 256 MiB",
      "[data] dir is missing.",
  };
  enum { COUNT = sizeof expected / sizeof *expected };
  char *environment[] = {"IMGCLS_TRAIN_BACH=1", "IMGCLS_TRAIN_EPOCHS=q", NULL};
  const char *settings[] = {"batch=3", "trian.batch=4", "train.bacth=4", "data.jpeg_memory=1 GB",
                            NULL};
  Config config;
  ConfigProblems problems;
  assert_int_equal(load(&config, &problems, text, settings, environment), STATUS_CONFIG);
  assert_non_null(strstr(status_message(), "21 problems"));
  for (size_t i = 0; i < problems.count; i++) {
    const char *problem = config_problems_text(&problems, i);
    if (i >= COUNT || !strstr(problem, expected[i]))
      fail_msg("problem %zu: '%s', expected '%s'", i, problem, i < COUNT ? expected[i] : "none");
  }
  assert_int_equal(problems.count, COUNT);
  config_problems_deinit(&problems);
  config_deinit(&config);
}

static void values_that_clash_are_named(void **state) {
  (void)state;
  static const struct {
    const char *settings[MAX_SETTINGS];
    const char *text; // NULL: no problem
  } cases[] = {
      {{"train.virtual_workers=5"}, "[train] batch: 16 is no multiple of [train] virtual_workers"},
      {{"train.virtual_workers=32"}, "the next that fits is 32"},
      {{"train.virtual_workers=8"}, NULL},
      {{"train.reproducible=yes"}, "[train] reproducible: yes needs [train] virtual_workers"},
      {{"train.reproducible=yes", "train.virtual_workers=8"}, NULL},
      {{"optimizer.nesterov=yes", "optimizer.momentum=0"}, "needs a momentum above 0"},
      {{"schedule.name=step"}, "needs [schedule] step_epochs"},
      {{"schedule.name=step", "schedule.step_epochs=2,2"}, "write the epochs ascending"},
      {{"schedule.name=step", "schedule.step_epochs=2,3"}, NULL},
      {{"schedule.warmup_epochs=6"}, "longer than [train] epochs"},
      {{"data.cache_features=yes"}, "needs [model] fine_tune = no"},
      {{"data.cache_features=yes", "model.fine_tune=no", "augment.enabled=yes"},
       "needs [augment] enabled = no"},
      {{"data.cache_features=yes", "model.fine_tune=no"}, NULL},
      {{"data.class_names=a"}, "at least two classes"},
      {{"data.class_names=a,b,a"}, "the class 'a' stands twice"},
      {{"data.class_names=a,,b"}, "none of them empty"},
      {{"checkpoint.resume="}, "write auto, none or a file"},
      {{"augment.rotation=0.2,0.1"}, "low,high with low <= high"},
      {{"augment.rotation=-0.2"}, "one number f stands for [-f, f]"},
      {{"augment.rotation=1,2,3"}, "one number f for [-f, f], or low,high"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    const char *settings[MAX_SETTINGS + 2] = {"data.dir=x"};
    for (int j = 0; cases[i].settings[j]; j++) settings[j + 1] = cases[i].settings[j];
    Config config;
    ConfigProblems problems;
    Status status = load(&config, &problems, NULL, settings, NULL);
    if (!cases[i].text)
      assert_int_equal(status, STATUS_OK);
    else if (status != STATUS_CONFIG || problems.count != 1 ||
             !strstr(status_message(), cases[i].text))
      fail_msg("%s: %zu problems, '%s'", cases[i].settings[0], problems.count, status_message());
    config_problems_deinit(&problems);
    config_deinit(&config);
  }
}

static void files_that_cannot_be_read_are_named(void **state) {
  (void)state;
  static const struct {
    const char *path;
    Status status;
    const char *text;
  } cases[] = {
      {"/nonexistent/a.ini", STATUS_NO_INPUT, "/nonexistent/a.ini: No such file"},
      {"/tmp", STATUS_NO_INPUT, "/tmp is a folder; name an INI file"},
      {"/dev/null", STATUS_NO_INPUT, "no regular file"},
      {"", STATUS_NO_INPUT, "No such file"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    Config config;
    ConfigProblems problems;
    ConfigInput input = {.path = cases[i].path};
    assert_int_equal(config_load(&config, &problems, &input), cases[i].status);
    assert_non_null(strstr(status_message(), cases[i].text));
    config_problems_deinit(&problems);
    config_deinit(&config);
  }
}

static void syntax_is_forgiving_where_that_is_safe(void **state) {
  (void)state;
  const char *text = "\xEF\xBB\xBF; a comment\r\n"
                     "[ data ]\r\n"
                     "  dir=\"a b\" ; why\r\n"
                     "\tclass_names = caf\xC3\xA9 , b#c # d\r\n"
                     "\n"
                     "[train]\n"
                     "batch=8";
  Config config;
  ConfigProblems problems;
  Status status = load(&config, &problems, text, NULL, NULL);
  if (status != STATUS_OK) fail_msg("%s", status_message());
  assert_string_equal(config.data.dir, "a b");
  assert_string_equal(config.data.class_names.items[0], "caf\xC3\xA9");
  assert_string_equal(config.data.class_names.items[1], "b#c");
  assert_int_equal(config.train.batch, 8);
  config_deinit(&config);
}

// --- names and the command line ------------------------------------------------------------------

static void distance_counts_edits(void **state) {
  (void)state;
  assert_int_equal(nearest_distance("kitten", "sitting"), 3);
  assert_int_equal(nearest_distance("batch", "bacth"), 1);
  assert_int_equal(nearest_distance("ca", "abc"), 3); // the restricted form
  assert_int_equal(nearest_distance("", "abc"), 3);
  assert_int_equal(nearest_distance("EPOCHS", "epochs"), 0);
  Nearest nearest = {.wanted = "zzzzzz"};
  nearest_offer(&nearest, "batch");
  assert_null(nearest.best);
}

static void command_lines_are_understood(void **state) {
  (void)state;
  static const struct {
    const char *arguments[6];
    Status status;
    OptionsMode mode;
    const char *text; // of the message, or the last setting
  } cases[] = {
      {{"a.ini"}, STATUS_OK, OPTIONS_TRAIN, NULL},
      {{"-s", "train.batch=2", "a.ini"}, STATUS_OK, OPTIONS_TRAIN, "train.batch=2"},
      {{"a.ini", "-oX"}, STATUS_OK, OPTIONS_TRAIN, "run.output=X"},
      {{"a.ini", "--resume=none"}, STATUS_OK, OPTIONS_TRAIN, "checkpoint.resume=none"},
      {{"a.ini", "--log-format", "json"}, STATUS_OK, OPTIONS_TRAIN, "log.format=json"},
      {{"--print-config"}, STATUS_OK, OPTIONS_PRINT_CONFIG, NULL},
      {{"--check"}, STATUS_OK, OPTIONS_CHECK, NULL},
      {{"--dry-run", "a.ini"}, STATUS_OK, OPTIONS_DRY_RUN, NULL},
      {{"--foo", "--help"}, STATUS_USAGE, OPTIONS_TRAIN, "unknown option '--foo'"},
      {{"-h", "--foo"}, STATUS_OK, OPTIONS_HELP, NULL},
      {{"--version"}, STATUS_OK, OPTIONS_VERSION, NULL},
      {{NULL}, STATUS_USAGE, OPTIONS_TRAIN, "no configuration"},
      {{"--dry-run"}, STATUS_USAGE, OPTIONS_DRY_RUN, "no configuration"},
      {{"a.ini", "b.ini"}, STATUS_USAGE, OPTIONS_TRAIN, "two configurations, a.ini and b.ini"},
      {{"--ouput", "x", "a.ini"}, STATUS_USAGE, OPTIONS_TRAIN, "did you mean '--output'?"},
      {{"a.ini", "--output"}, STATUS_USAGE, OPTIONS_TRAIN, "'--output' needs a value"},
      {{"a.ini", "--check=2"}, STATUS_USAGE, OPTIONS_TRAIN, "'--check' takes no value"},
      {{"--dry-run", "--check"}, STATUS_USAGE, OPTIONS_DRY_RUN, "give one of"},
      {{"-Z", "a.ini"}, STATUS_USAGE, OPTIONS_TRAIN, "option '-Z'"},
      {{"-qZ", "a.ini"}, STATUS_USAGE, OPTIONS_TRAIN, "option '-qZ'"},
      {{"--color=red", "a.ini"}, STATUS_USAGE, OPTIONS_TRAIN, "--color=red: must be"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    char *argv[8] = {(char *)"imgcls-train"};
    int argc = 1;
    for (; cases[i].arguments[argc - 1]; argc++) argv[argc] = (char *)cases[i].arguments[argc - 1];
    Options options;
    Status status = options_parse(&options, argc, argv);
    if (status != cases[i].status || options.mode != cases[i].mode)
      fail_msg("case %zu: status %d, mode %d, '%s'", i, (int)status, (int)options.mode,
               status_message());
    if (cases[i].text) {
      const char *text =
          status == STATUS_OK ? options.settings[options.setting_count - 1] : status_message();
      if (!strstr(text, cases[i].text)) fail_msg("case %zu: '%s'", i, text);
    }
    options_deinit(&options);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(every_row_takes_its_range_and_no_more),
      cmocka_unit_test(rows_are_distinct_and_their_sections_known),
      cmocka_unit_test(defaults_are_those_of_the_tutorial),
      cmocka_unit_test(later_sources_win),
      cmocka_unit_test(printed_text_reads_back),
      cmocka_unit_test(hash_covers_the_numbers_only),
      cmocka_unit_test(all_problems_come_at_once_in_order),
      cmocka_unit_test(values_that_clash_are_named),
      cmocka_unit_test(files_that_cannot_be_read_are_named),
      cmocka_unit_test(syntax_is_forgiving_where_that_is_safe),
      cmocka_unit_test(distance_counts_edits),
      cmocka_unit_test(command_lines_are_understood),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
