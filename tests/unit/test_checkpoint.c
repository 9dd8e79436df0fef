// Checkpoints: what stays, what is read again, and what becomes of damaged and half written ones.
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <dirent.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/memory.h"
#include "train/checkpoint.h"

typedef struct Run {
  char folder[64];
  Log log;
  Checkpoints *checkpoints;
} Run;

// `resumed`: the file in the folder that the run goes on from; NULL: none.
static int run_open(Run *run, int64_t keep, int64_t keep_every, const char *resumed) {
  char path[512];
  log_init(&run->log, "test");
  run->log.level = LOG_QUIET;
  if (resumed) (void)snprintf(path, sizeof path, "%s/%s", run->folder, resumed);
  return checkpoints_open(&run->checkpoints, &(CheckpointsDesc){.folder = run->folder,
                                                                .resumed = resumed ? path : NULL,
                                                                .keep = keep,
                                                                .keep_every = keep_every,
                                                                .log = &run->log});
}

static void run_make(Run *run, int64_t keep, int64_t keep_every) {
  *run = (Run){.folder = "/tmp/imgcls_test_checkpoint.XXXXXX"};
  assert_non_null(mkdtemp(run->folder));
  assert_int_equal(run_open(run, keep, keep_every, NULL), STATUS_OK);
}

// Another start of the program.
static void run_again(Run *run, int64_t keep, const char *resumed) {
  checkpoints_close(run->checkpoints);
  assert_int_equal(run_open(run, keep, 0, resumed), STATUS_OK);
}

static void run_remove(Run *run) {
  checkpoints_close(run->checkpoints);
  DIR *stream = opendir(run->folder);
  assert_non_null(stream);
  for (struct dirent *entry; (entry = readdir(stream));)
    if (entry->d_name[0] != '.' || strstr(entry->d_name, ".tmp."))
      (void)unlinkat(dirfd(stream), entry->d_name, 0);
  closedir(stream);
  assert_int_equal(rmdir(run->folder), 0);
}

// The "file" of a step: its number, told again and again.
static void save(Run *run, int64_t step, int64_t epoch, bool is_best) {
  uint8_t *bytes;
  size_t size = 1000;
  assert_int_equal(memory_alloc(&bytes, size, 1), STATUS_OK);
  memset(bytes, (int)step, size);
  CheckpointInfo info = {.step = step, .epoch = epoch, .is_epoch_end = true, .is_best = is_best};
  assert_int_equal(checkpoints_save(run->checkpoints, bytes, size, &info), STATUS_OK);
  assert_int_equal(checkpoints_wait(run->checkpoints), STATUS_OK);
}

static char *path_in(const Run *run, const char *name) {
  static char path[512];
  (void)snprintf(path, sizeof path, "%s/%s", run->folder, name);
  return path;
}

static void cut(const Run *run, const char *name) {
  assert_int_equal(truncate(path_in(run, name), 999), 0);
}

static bool exists(const Run *run, const char *name) {
  struct stat info;
  return lstat(path_in(run, name), &info) == 0;
}

static void check_link(const Run *run, const char *link, const char *expected) {
  char target[256];
  ssize_t length = readlink(path_in(run, link), target, sizeof target - 1);
  assert_true(length > 0);
  target[length] = '\0';
  assert_string_equal(target, expected);
}

// The newest valid checkpoint's step; 0: there has never been one; -1: none is valid.
static int newest(Run *run) {
  uint8_t *bytes;
  size_t size;
  char *path;
  Status status = checkpoint_find_newest(&bytes, &size, &path, run->folder, &run->log);
  if (status != STATUS_OK) {
    assert_int_equal(status, STATUS_DATA);
    return -1;
  }
  int step = bytes ? bytes[0] : 0;
  assert_int_equal(size, bytes ? 1000 : 0);
  memory_free(bytes);
  memory_free(path);
  return step;
}

static void the_newest_stay(void **state) {
  (void)state;
  Run run;
  run_make(&run, 2, 3);
  assert_int_equal(newest(&run), 0);
  for (int64_t epoch = 1; epoch <= 7; epoch++) save(&run, 10 * epoch, epoch, epoch == 2);
  assert_int_equal(newest(&run), 70);
  check_link(&run, "last.h5", "model-000007-0000000070.h5");
  check_link(&run, "best.h5", "model-000002-0000000020.h5");
  static const int64_t stays[] = {0, 0, 1, 1, 0, 0, 1, 1}; // 6 is also a milestone
  for (int64_t epoch = 1; epoch <= 7; epoch++) {
    char name[64];
    (void)snprintf(name, sizeof name, "model-%06d-%010d.h5", (int)epoch, (int)(10 * epoch));
    assert_int_equal(exists(&run, name), stays[epoch] || epoch == 6);
    (void)snprintf(name, sizeof name, "model-%06d-%010d.json", (int)epoch, (int)(10 * epoch));
    assert_int_equal(exists(&run, name), stays[epoch] || epoch == 6);
  }
  run_remove(&run);
}

static void damaged_ones_are_passed_over(void **state) {
  (void)state;
  Run run;
  run_make(&run, 3, 0);
  for (int64_t step = 1; step <= 3; step++) save(&run, step, 0, false);
  cut(&run, "model-000000-0000000003.h5");
  assert_int_equal(newest(&run), 2);
  assert_int_equal(truncate(path_in(&run, "model-000000-0000000002.json"), 30), 0);
  assert_int_equal(newest(&run), 1);
  assert_int_equal(unlink(path_in(&run, "model-000000-0000000001.h5")), 0);
  assert_int_equal(newest(&run), -1);
  assert_non_null(strstr(status_message(), "none is valid"));
  run_remove(&run);
}

// A step may have two: one whose epoch waits for its evaluation, and the one behind that, whichever
// was written first.
static void an_evaluated_epoch_is_the_newer_one(void **state) {
  (void)state;
  for (int first = 0; first < 2; first++) {
    Run run;
    uint8_t *bytes;
    size_t size;
    char *path;
    run_make(&run, 9, 0);
    save(&run, 7, 6 + first, false);
    save(&run, 7, 7 - first, false);
    assert_int_equal(checkpoint_find_newest(&bytes, &size, &path, run.folder, &run.log), STATUS_OK);
    assert_string_equal(path, path_in(&run, "model-000007-0000000007.h5"));
    memory_free(bytes);
    memory_free(path);
    run_remove(&run);
  }
}

// Going on from an older checkpoint, the later one being damaged: it neither counts nor goes, and
// the best one before it stays the best.
static void later_steps_are_no_newer_ones(void **state) {
  (void)state;
  Run run;
  run_make(&run, 9, 0);
  save(&run, 5, 1, true);
  save(&run, 9, 3, false);
  cut(&run, "model-000003-0000000009.h5");
  assert_int_equal(newest(&run), 5);
  run_again(&run, 1, "model-000001-0000000005.h5");
  assert_true(checkpoints_have_best(run.checkpoints));
  save(&run, 6, 2, false);
  save(&run, 7, 2, false);
  assert_false(exists(&run, "model-000002-0000000006-run2.h5"));
  assert_true(exists(&run, "model-000001-0000000005.h5"));
  assert_true(exists(&run, "model-000003-0000000009.h5"));
  assert_int_equal(newest(&run), 7);
  check_link(&run, "last.h5", "model-000002-0000000007-run2.h5");
  check_link(&run, "best.h5", "model-000001-0000000005.h5");
  run_remove(&run);
}

// A run that begins anew where another has been: until its first save all is as before, from then
// on it is the newest, whatever its steps; the same step of the other run is not overwritten.
static void a_run_that_begins_anew_is_the_newest(void **state) {
  (void)state;
  Run run;
  run_make(&run, 3, 0);
  save(&run, 4, 1, true);
  save(&run, 8, 2, true);
  run_again(&run, 1, NULL);
  assert_int_equal(newest(&run), 8);
  check_link(&run, "best.h5", "model-000002-0000000008.h5");
  assert_false(checkpoints_have_best(run.checkpoints));
  save(&run, 4, 1, false);
  assert_int_equal(newest(&run), 4);
  check_link(&run, "last.h5", "model-000001-0000000004-run2.h5");
  assert_false(exists(&run, "best.h5")); // it was the other run's
  assert_true(exists(&run, "model-000001-0000000004.h5"));
  assert_true(exists(&run, "model-000002-0000000008.json"));
  // Killed after that sidecar, before the links.
  assert_int_equal(unlink(path_in(&run, "last.h5")), 0);
  assert_int_equal(symlink("model-000002-0000000008.h5", path_in(&run, "last.h5")), 0);
  assert_int_equal(symlink("model-000002-0000000008.h5", path_in(&run, "best.h5")), 0);
  run_again(&run, 1, "model-000001-0000000004-run2.h5");
  check_link(&run, "last.h5", "model-000001-0000000004-run2.h5");
  assert_false(exists(&run, "best.h5"));
  // It went on from the newest, by whatever name: it is the same run.
  run_again(&run, 1, "last.h5");
  save(&run, 5, 1, true);
  check_link(&run, "best.h5", "model-000001-0000000005-run2.h5");
  assert_false(exists(&run, "model-000001-0000000004-run2.json"));
  // Going on from the first run's end, before which the second one's best is not.
  run_again(&run, 1, "model-000002-0000000008.h5");
  assert_false(checkpoints_have_best(run.checkpoints));
  save(&run, 9, 2, false);
  assert_int_equal(newest(&run), 9);
  check_link(&run, "last.h5", "model-000002-0000000009-run3.h5");
  // Where it is damaged, and the second run's too, the first is there.
  cut(&run, "model-000002-0000000009-run3.h5");
  cut(&run, "model-000001-0000000005-run2.h5");
  assert_int_equal(newest(&run), 8);
  run_remove(&run);
}

// Numbers beyond the width of the names, and names that are nearly those of checkpoints.
static void names_are_read_as_they_are_written(void **state) {
  (void)state;
  Run run;
  run_make(&run, 9, 0);
  static const char *const others[] = {"model-000009-0000000099-run1.json",
                                       "model-000009-0000000099-run02.json",
                                       "model-9-99.json",
                                       "model--00009-0000000099.json",
                                       "model-000009-0000000099.json.bak",
                                       "model-000009-0000000099-best.json"};
  for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
    FILE *file = fopen(path_in(&run, others[i]), "w");
    assert_non_null(file);
    fclose(file);
  }
  assert_int_equal(newest(&run), 0);
  save(&run, 7, 999999, false);
  save(&run, 10000000008, 1000000, false);
  assert_int_equal(newest(&run), (uint8_t)10000000008);
  check_link(&run, "last.h5", "model-1000000-10000000008.h5");
  run_again(&run, 1, "model-1000000-10000000008.h5");
  save(&run, 10000000009, 1000000, false);
  assert_false(exists(&run, "model-1000000-10000000008.h5"));
  run_remove(&run);
}

static void a_killed_run_is_mended(void **state) {
  (void)state;
  Run run;
  run_make(&run, 2, 0);
  save(&run, 1, 1, true);
  save(&run, 2, 2, true);
  // Killed after the sidecar of step 2 and before the links, in the middle of something else.
  for (int i = 0; i < 2; i++) {
    const char *link = i ? "last.h5" : "best.h5";
    assert_int_equal(unlink(path_in(&run, link)), 0);
    assert_int_equal(symlink("model-000001-0000000001.h5", path_in(&run, link)), 0);
  }
  FILE *file = fopen(path_in(&run, ".model-000003-0000000003.h5.tmp.99999999"), "w");
  assert_non_null(file);
  fclose(file);
  run_again(&run, 2, "model-000002-0000000002.h5");
  check_link(&run, "last.h5", "model-000002-0000000002.h5");
  check_link(&run, "best.h5", "model-000002-0000000002.h5");
  assert_false(exists(&run, ".model-000003-0000000003.h5.tmp.99999999"));
  run_remove(&run);
}

static void the_third_failure_ends_the_run(void **state) {
  (void)state;
  Run run;
  run_make(&run, 2, 0);
  save(&run, 1, 1, false);
  char elsewhere[80];
  (void)snprintf(elsewhere, sizeof elsewhere, "%s.away", run.folder);
  assert_int_equal(rename(run.folder, elsewhere), 0);
  run.log.level = LOG_QUIET;
  for (int i = 0; i < 4; i++) {
    uint8_t *bytes;
    assert_int_equal(memory_alloc(&bytes, 1000, 1), STATUS_OK);
    CheckpointInfo info = {.step = 2 + i};
    assert_int_equal(checkpoints_save(run.checkpoints, bytes, 1000, &info),
                     i < 3 ? STATUS_OK : STATUS_IO);
  }
  assert_non_null(strstr(status_message(), "3 times in a row: checkpoint not saved"));
  assert_int_equal(rename(elsewhere, run.folder), 0);
  assert_int_equal(newest(&run), 1);
  run_remove(&run);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(the_newest_stay),
      cmocka_unit_test(damaged_ones_are_passed_over),
      cmocka_unit_test(an_evaluated_epoch_is_the_newer_one),
      cmocka_unit_test(later_steps_are_no_newer_ones),
      cmocka_unit_test(a_run_that_begins_anew_is_the_newest),
      cmocka_unit_test(names_are_read_as_they_are_written),
      cmocka_unit_test(a_killed_run_is_mended),
      cmocka_unit_test(the_third_failure_ends_the_run),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
