// Reading and replacing of files: hostile paths, full disks, failing writes, kill -9.
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <dirent.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "io/file.h"

typedef struct Folder {
  char path[64];
} Folder;

static Folder folder_make(void) {
  Folder folder = {"/tmp/imgcls_test_file.XXXXXX"};
  assert_non_null(mkdtemp(folder.path));
  return folder;
}

typedef struct Path {
  char text[512];
} Path;

static Path in_folder(const Folder *folder, const char *name) {
  Path path;
  (void)snprintf(path.text, sizeof path.text, "%s/%s", folder->path, name);
  return path;
}

static int folder_count(const Folder *folder) {
  DIR *stream = opendir(folder->path);
  assert_non_null(stream);
  int count = -2; // "." and ".."
  while (readdir(stream)) count++;
  closedir(stream);
  return count;
}

static void folder_remove(const Folder *folder) {
  DIR *stream = opendir(folder->path);
  assert_non_null(stream);
  for (struct dirent *entry; (entry = readdir(stream));)
    if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
      (void)remove(in_folder(folder, entry->d_name).text);
  closedir(stream);
  assert_int_equal(rmdir(folder->path), 0);
}

static void check_content(const char *path, const char *expected) {
  Bytes bytes = {0};
  assert_int_equal(file_read(&bytes, path, 1 << 20), STATUS_OK);
  assert_int_equal(bytes.size, strlen(expected));
  assert_memory_equal(bytes.data, expected, bytes.size);
  bytes_deinit(&bytes);
}

static void test_read(void **state) {
  (void)state;
  Folder folder = folder_make();
  Path file = in_folder(&folder, "file"), empty = in_folder(&folder, "empty");
  Path pipe_path = in_folder(&folder, "pipe"), missing = in_folder(&folder, "missing");
  assert_int_equal(file_replace(file.text, "12345", 5), STATUS_OK);
  assert_int_equal(file_replace(empty.text, "", 0), STATUS_OK);
  assert_int_equal(mkfifo(pipe_path.text, 0600), 0);
  Bytes bytes = {0};
  assert_int_equal(file_read(&bytes, file.text, 5), STATUS_OK);
  assert_int_equal(bytes.size, 5);
  assert_memory_equal(bytes.data, "12345", 5);
  assert_int_equal(file_read(&bytes, empty.text, 5), STATUS_OK);
  assert_int_equal(bytes.size, 0);
  assert_int_equal(file_read(&bytes, file.text, 4), STATUS_DATA);
  assert_non_null(strstr(status_message(), "5 bytes, more than the limit of 4"));
  assert_int_equal(file_read(&bytes, missing.text, 5), STATUS_NO_INPUT);
  assert_non_null(strstr(status_message(), missing.text));
  assert_int_equal(file_read(&bytes, folder.path, 5), STATUS_DATA);
  assert_int_equal(file_read(&bytes, "/dev/zero", 5), STATUS_DATA);
  int64_t start_ns = clock_now_ns();
  assert_int_equal(file_read(&bytes, pipe_path.text, 5), STATUS_DATA);
  assert_true(clock_now_ns() - start_ns < 1000000000);
  bytes_deinit(&bytes);
  folder_remove(&folder);
}

static void test_replace(void **state) {
  (void)state;
  Folder folder = folder_make();
  Path file = in_folder(&folder, "file"), deep = in_folder(&folder, "no/such/folder");
  assert_int_equal(file_replace(file.text, "one", 3), STATUS_OK);
  check_content(file.text, "one");
  assert_int_equal(file_replace(file.text, "and two", 7), STATUS_OK);
  check_content(file.text, "and two");
  assert_int_equal(file_replace_unsynced(file.text, "3", 1), STATUS_OK);
  check_content(file.text, "3");
  assert_int_equal(file_replace(deep.text, "x", 1), STATUS_CANT_CREATE);
  assert_int_equal(file_replace(folder.path, "x", 1), STATUS_CANT_CREATE); // over a folder
  assert_int_equal(file_replace("/tmp/", "x", 1), STATUS_CANT_CREATE);
  assert_int_equal(folder_count(&folder), 1); // no temporary file is left
  // What a crashed process of the same number left is no obstacle.
  char stale[64];
  (void)snprintf(stale, sizeof stale, ".file.tmp.%ld", (long)getpid());
  assert_int_equal(symlink("/dev/full", in_folder(&folder, stale).text), 0);
  assert_int_equal(file_replace(file.text, "four", 4), STATUS_OK);
  check_content(file.text, "four");
  assert_int_equal(folder_count(&folder), 1);
  folder_remove(&folder);
}

// A link is followed; what is no file stays what it is.
static void test_replace_only_files(void **state) {
  (void)state;
  Folder folder = folder_make(), other = folder_make();
  Path file = in_folder(&other, "file"), link = in_folder(&folder, "link");
  Path pipe_path = in_folder(&folder, "pipe"), lost = in_folder(&folder, "lost");
  assert_int_equal(file_replace(file.text, "old", 3), STATUS_OK);
  assert_int_equal(symlink(file.text, link.text), 0);
  assert_int_equal(symlink("nowhere", lost.text), 0);
  assert_int_equal(mkfifo(pipe_path.text, 0600), 0);
  assert_int_equal(file_replace(link.text, "new", 3), STATUS_OK);
  check_content(file.text, "new");
  struct stat info;
  assert_int_equal(lstat(link.text, &info), 0);
  assert_true(S_ISLNK(info.st_mode));
  assert_int_equal(file_replace(pipe_path.text, "x", 1), STATUS_CANT_CREATE);
  assert_non_null(strstr(status_message(), pipe_path.text));
  assert_int_equal(lstat(pipe_path.text, &info), 0);
  assert_true(S_ISFIFO(info.st_mode));
  assert_int_equal(file_replace_unsynced(lost.text, "x", 1), STATUS_CANT_CREATE);
  assert_non_null(strstr(status_message(), "leads nowhere"));
  assert_int_equal(file_replace(other.path, "x", 1), STATUS_CANT_CREATE);
  assert_non_null(strstr(status_message(), "is a folder"));
  assert_int_equal(folder_count(&folder), 3);
  assert_int_equal(folder_count(&other), 1);
  folder_remove(&folder);
  folder_remove(&other);
}

static void test_leftovers(void **state) {
  (void)state;
  Folder folder = folder_make();
  pid_t gone = fork();
  if (gone == 0) _exit(0);
  assert_int_equal(waitpid(gone, NULL, 0), gone);
  const struct {
    const char *format;
    pid_t pid;
    bool stays;
  } cases[] = {
      {".model.h5.tmp.%d", gone, false}, {".model.h5.tmp.%d", getpid(), true},
      {"model.h5.tmp.%d", gone, true},   {".model.h5.tmp.%dx", gone, true},
      {".tmp.%d", gone, true},
  };
  char names[5][64];
  for (size_t i = 0; i < 5; i++) {
    (void)snprintf(names[i], sizeof names[i], cases[i].format, (int)cases[i].pid);
    assert_int_equal(file_replace_unsynced(in_folder(&folder, names[i]).text, "x", 1), STATUS_OK);
  }
  file_remove_leftovers(folder.path);
  for (size_t i = 0; i < 5; i++)
    assert_int_equal(access(in_folder(&folder, names[i]).text, F_OK), cases[i].stays ? 0 : -1);
  file_remove_leftovers(in_folder(&folder, "no such folder").text);
  folder_remove(&folder);
}

static void test_writer(void **state) {
  (void)state;
  Folder folder = folder_make();
  Path file = in_folder(&folder, "file");
  FileWriter writer;
  assert_int_equal(file_writer_open(&writer, file.text, 100000), STATUS_OK);
  assert_int_equal(file_writer_append(&writer, "head", 4), STATUS_OK);
  assert_int_equal(file_writer_append(&writer, "body", 4), STATUS_OK);
  assert_int_equal(file_writer_rewrite(&writer, 1, "EA", 2), STATUS_OK);
  assert_int_equal(file_writer_rewrite(&writer, 7, "xx", 2), STATUS_INTERNAL);
  assert_int_equal(access(file.text, F_OK), -1); // not before the commit
  assert_int_equal(file_writer_commit(&writer, true), STATUS_OK);
  check_content(file.text, "hEAdbody"); // the reserved rest is given back
  assert_int_equal(file_writer_open(&writer, file.text, 0), STATUS_OK);
  assert_int_equal(file_writer_append(&writer, "new", 3), STATUS_OK);
  file_writer_abort(&writer);
  file_writer_abort(&writer); // a closed one is fine
  check_content(file.text, "hEAdbody");
  assert_int_equal(folder_count(&folder), 1);
  folder_remove(&folder);
}

// Every write fails beyond 10,000 bytes, as on a disk with a quota.
static void test_failing_write(void **state) {
  (void)state;
  enum { LIMIT = 10000, SIZE = 3 * LIMIT };
  static const char data[SIZE] = {1};
  Folder folder = folder_make();
  Path file = in_folder(&folder, "file");
  assert_int_equal(file_replace(file.text, "old", 3), STATUS_OK);
  struct rlimit before, small;
  assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
  small = (struct rlimit){.rlim_cur = LIMIT, .rlim_max = before.rlim_max};
  (void)signal(SIGXFSZ, SIG_IGN);
  assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
  Status with_sync = file_replace(file.text, data, SIZE);
  Status without = file_replace_unsynced(file.text, data, SIZE);
  assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
  assert_int_equal(with_sync, STATUS_IO);
  assert_int_equal(without, STATUS_IO);
  assert_non_null(strstr(status_message(), file.text));
  check_content(file.text, "old");
  assert_int_equal(folder_count(&folder), 1);
  folder_remove(&folder);
}

// In a child, on a file system of its own with 64 KiB. Exits 77 where it may not mount one.
static int replace_on_full_disk(const Folder *folder) {
  static const char data[96 << 10] = {1};
  Path file = in_folder(folder, "file");
  if (unshare(CLONE_NEWNS | (geteuid() == 0 ? 0 : CLONE_NEWUSER)) != 0 ||
      mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
      mount("tmpfs", folder->path, "tmpfs", 0, "size=64k") != 0)
    return 77;
  if (file_replace(file.text, data, 40 << 10) != STATUS_OK) return 1;
  for (size_t size = 28 << 10; size <= sizeof data; size += 4 << 10)
    for (int sync = 0; sync < 2; sync++) {
      Status status =
          sync ? file_replace(file.text, data, size) : file_replace_unsynced(file.text, data, size);
      if (status != STATUS_IO) return 2;
      const char *message = status_message();
      if (!strstr(message, file.text) || !strstr(message, "bytes are needed") ||
          !strstr(message, "are free"))
        return 3;
      struct stat info;
      if (stat(file.text, &info) != 0 || info.st_size != 40 << 10) return 4;
      if (folder_count(folder) != 1) return 5;
    }
  return 0;
}

static void test_full_disk(void **state) {
  (void)state;
  Folder folder = folder_make();
  pid_t child = fork();
  if (child == 0) _exit(replace_on_full_disk(&folder));
  int result;
  assert_int_equal(waitpid(child, &result, 0), child);
  folder_remove(&folder);
  assert_true(WIFEXITED(result));
  if (WEXITSTATUS(result) == 77) {
    print_message("no right to mount a small file system here\n");
    skip();
  }
  assert_int_equal(WEXITSTATUS(result), 0);
}

static void replace_for_ever(const char *path) {
  enum { SIZE = 200000 };
  char *data = malloc(SIZE);
  for (unsigned char version = 1; data; version++) {
    memset(data, version, SIZE);
    if (file_replace(path, data, SIZE) != STATUS_OK) _exit(1);
  }
  _exit(1);
}

static void test_kill(void **state) {
  (void)state;
  enum { ROUNDS = 25 };
  Folder folder = folder_make();
  Path file = in_folder(&folder, "file");
  assert_int_equal(file_replace(file.text, "old", 3), STATUS_OK);
  Bytes bytes = {0};
  for (int round = 0; round < ROUNDS; round++) {
    pid_t child = fork();
    if (child == 0) replace_for_ever(file.text);
    clock_sleep_ms(3 + round % 7 * 2);
    assert_int_equal(kill(child, SIGKILL), 0);
    int result;
    assert_int_equal(waitpid(child, &result, 0), child);
    assert_true(WIFSIGNALED(result)); // it did not end by an error
    assert_int_equal(file_read(&bytes, file.text, 1 << 20), STATUS_OK);
    assert_true(bytes.size == 3 || bytes.size == 200000);
    for (size_t i = 1; bytes.size != 3 && i < bytes.size; i++)
      assert_int_equal(bytes.data[i], bytes.data[0]);
  }
  bytes_deinit(&bytes);
  folder_remove(&folder);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_read),      cmocka_unit_test(test_replace),
      cmocka_unit_test(test_leftovers), cmocka_unit_test(test_replace_only_files),
      cmocka_unit_test(test_writer),    cmocka_unit_test(test_failing_write),
      cmocka_unit_test(test_full_disk), cmocka_unit_test(test_kill),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
